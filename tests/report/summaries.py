"""Audits made by hand, for tests of reports: every number in them is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustest.audit.facts import DataFacts, ModelFacts
from robustest.audit.records import ImageRecord
from robustest.audit.summary import AuditSummary, columns_of, summarise
from robustest.classifiers.spec import InputSpec
from robustest.randomness import image_digest
from robustest.results import Verdict, distances_between
from robustest.settings import AttackSettings


@dataclass(frozen=True)
class Fate:
    """What becomes of one image: its class, its verdict, and for a flip the answer, the pixels and the curve."""

    label: int
    verdict: Verdict
    predicted: int | None = None
    pixels: tuple[int, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    queries: int = 100
    minimal: bool | None = None
    name: str | None = None
    reason: str = ""


def flip(label: int, predicted: int, pixels: Sequence[int], *, at: int = 10, **more: object) -> Fate:
    """A flip of so many pixels, found after `at` queries."""
    fate = Fate(label, Verdict.FLIPPED, predicted, tuple(pixels), ((at, float(len(pixels))),), minimal=True)
    return replace(fate, **more)  # type: ignore[arg-type]


SURVIVOR = Fate(0, Verdict.SURVIVED)


def audit_of(
    fates: Sequence[Fate],
    *,
    images: NDArray[np.uint8] | None = None,
    class_names: tuple[str, ...] = (),
    settings: AttackSettings | None = None,
    source: str = "model.onnx",
    doubts: tuple[str, ...] = (),
    command: str = "robustest audit model.onnx images.npz -o DIR",
) -> tuple[AuditSummary, NDArray[np.uint8]]:
    """An audit with these fates; a changed pixel becomes white, or black where it was white."""
    chosen = settings or AttackSettings(queries=100)
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (len(fates), 8, 8, 1), dtype=np.uint8)
    records = []
    for index, fate in enumerate(fates):
        image = images[index]
        values = gap = None
        pixels = np.array(sorted(fate.pixels), np.int64) if fate.verdict is Verdict.FLIPPED else None
        if pixels is not None:
            old = image.reshape(-1, image.shape[2])[pixels]
            values = np.where(old == 255, 0, 255).astype(np.uint8)
            changed = image.copy().reshape(-1, image.shape[2])
            changed[pixels] = values
            unit = np.float32(255)
            gap = distances_between(image / unit, changed.reshape(image.shape) / unit)
        records.append(
            ImageRecord(
                index=index,
                name=fate.name or f"image-{index}",
                sha256=image_digest(image),
                label=fate.label,
                verdict=fate.verdict,
                reason=fate.reason,
                predicted=fate.predicted if fate.predicted is not None else fate.label,
                pixels=pixels,
                values=values,
                distances=gap,
                queries=fate.queries,
                minimal=fate.minimal,
                curve=fate.curve,
            )
        )
    height, width, channels = images.shape[1:]
    summary = summarise(
        columns_of(records, chosen.norm),
        model=ModelFacts(source, "ab" * 32, InputSpec(channels="gray" if channels == 1 else "RGB")),
        data=DataFacts("images.npz", len(images), "cd" * 32, (height, width, channels), True, class_names),
        settings=chosen,
        versions={"robustest": "0.1.0"},
        command=command,
        doubts=doubts,
        records=tuple(records),
    )
    return summary, images
