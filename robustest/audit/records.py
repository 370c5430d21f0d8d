"""One image's result as it is kept: the entry of `result.json`, free of times, places and anything else that may differ
between two runs of the same audit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.images import as_unit
from robustest.results import AttackResult, Distances, Edits, Verdict

Values = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """What became of one image of an audit.

    index: its place in the image set, from 0. name: file name or position. sha256: digest of type, shape and bytes.
    label: its class. verdict, reason, predicted: as in `AttackResult`.
    pixels: (M,) int64, row * width + column, rising; None where nothing was found.
    values: (M, C) the new colours: uint8 for 8-bit images, else float32 in [0, 1].
    distances: all norms, or None where nothing was found.
    queries, remembered, checks, minimal, margin, curve: as in `AttackResult`.
    """

    index: int
    name: str
    sha256: str
    label: int
    verdict: Verdict
    reason: str = ""
    predicted: int | None = None
    pixels: NDArray[np.int64] | None = None
    values: Values | None = None
    distances: Distances | None = None
    queries: int = 0
    remembered: int = 0
    checks: int = 0
    minimal: bool | None = None
    margin: float | None = None
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def flipped(self) -> bool:
        """True where an adversarial image was found and scored again."""
        return self.verdict is Verdict.FLIPPED

    def distance(self, norm: str) -> float | None:
        """Its distance in the norm `l0` (pixels), `l0_dims`, `l1`, `l2` or `linf`; None where nothing was found."""
        if self.distances is None:
            return None
        return float(getattr(self.distances, "l0_pixels" if norm == "l0" else norm))

    def edits(self) -> Edits | None:
        """The changes against the clean image (N = 1), values in [0, 1]; None where nothing was found."""
        if self.pixels is None or self.values is None:
            return None
        return Edits(self.pixels, as_unit(self.values), np.array([0, len(self.pixels)], dtype=np.int64))

    def adversarial(self, image: Values) -> Values:
        """The adversarial image, made from the clean one (H, W, C) of the same type.

        Raises:
            ValueError: none was found.
        """
        if self.pixels is None or self.values is None:
            raise ValueError(f"no adversarial image was found for image {self.index}")
        changed = image.copy().reshape(-1, image.shape[2])
        changed[self.pixels] = self.values
        return changed.reshape(image.shape)


def record_of(result: AttackResult, *, index: int, name: str, sha256: str, eight_bit: bool) -> ImageRecord:
    """The record of an attack's result."""
    pixels: NDArray[np.int64] | None = None
    values: Values | None = None
    distances: Distances | None = None
    if result.edits is not None and result.l0_pixels is not None:
        order = np.argsort(result.edits.pixels, kind="stable")
        pixels = result.edits.pixels[order]
        colours = result.edits.values[order]
        values = np.rint(colours * 255).astype(np.uint8) if eight_bit else colours
        distances = Distances(
            result.l0_pixels,
            result.l0_dims or 0,
            result.l1 or 0.0,
            result.l2 or 0.0,
            result.linf or 0.0,
        )
    margin = result.margin if result.margin is not None and np.isfinite(result.margin) else None
    return ImageRecord(
        index=index,
        name=name,
        sha256=sha256,
        label=result.label,
        verdict=result.verdict,
        reason=result.reason,
        predicted=result.predicted,
        pixels=pixels,
        values=values,
        distances=distances,
        queries=result.queries,
        remembered=result.remembered,
        checks=result.checks,
        minimal=result.minimal,
        margin=margin,
        curve=tuple((int(q), float(d)) for q, d in result.curve),
    )


def to_json(record: ImageRecord, width: int) -> dict[str, Any]:
    """The record as an entry of `images` in `result.json`; `width` of the images, in pixels."""
    edits = None
    if record.pixels is not None and record.values is not None:
        edits = [
            {"row": pixel // width, "column": pixel % width, "value": value}
            for pixel, value in zip(record.pixels.tolist(), record.values.tolist(), strict=True)
        ]
    gap = record.distances
    return {
        "index": record.index,
        "name": record.name,
        "sha256": record.sha256,
        "label": record.label,
        "verdict": record.verdict.value,
        "reason": record.reason,
        "predicted": record.predicted,
        "edits": edits,
        "l0_pixels": gap.l0_pixels if gap else None,
        "l0_dims": gap.l0_dims if gap else None,
        "l1": gap.l1 if gap else None,
        "l2": gap.l2 if gap else None,
        "linf": gap.linf if gap else None,
        "queries": record.queries,
        "remembered": record.remembered,
        "checks": record.checks,
        "minimal": record.minimal,
        "margin": record.margin,
        "curve": [list(point) for point in record.curve],
    }


def from_json(entry: dict[str, Any], width: int, *, eight_bit: bool) -> ImageRecord:
    """The record of an entry that fits the schema."""
    edits = entry["edits"]
    pixels: NDArray[np.int64] | None = None
    values: Values | None = None
    distances: Distances | None = None
    if edits is not None:
        pixels = np.array([edit["row"] * width + edit["column"] for edit in edits], dtype=np.int64)
        colours = [edit["value"] for edit in edits]
        values = np.array(colours, dtype=np.uint8) if eight_bit else np.array(colours, dtype=np.float32)
        distances = Distances(
            entry["l0_pixels"], entry["l0_dims"], float(entry["l1"]), float(entry["l2"]), float(entry["linf"])
        )
    return ImageRecord(
        index=entry["index"],
        name=entry["name"],
        sha256=entry["sha256"],
        label=entry["label"],
        verdict=Verdict(entry["verdict"]),
        reason=entry["reason"],
        predicted=entry["predicted"],
        pixels=pixels,
        values=values,
        distances=distances,
        queries=entry["queries"],
        remembered=entry["remembered"],
        checks=entry["checks"],
        minimal=entry["minimal"],
        margin=entry["margin"],
        curve=tuple((int(q), float(d)) for q, d in entry["curve"]),
    )
