"""What an audit came to: counts, intervals, curves and every image's record, from a finished run or its `result.json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.audit.facts import Columns, Counts, DataFacts, ModelFacts
from robustest.audit.reading import WAY_OUT, read_result
from robustest.audit.records import ImageRecord, Values
from robustest.audit.requirements import Answer, Judgement, Requirement
from robustest.audit.statistics import (
    CONFIDENCE,
    Median,
    Share,
    SurvivalPoint,
    median_of,
    share_of,
    survival_at,
    survival_curve,
)
from robustest.classifiers.spec import InputSpec
from robustest.errors import RunConflict
from robustest.results import Verdict
from robustest.settings import AttackSettings

FORMAT = "robustest/result"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class AuditSummary:
    """A finished audit.

    model, data, settings: what was attacked, on what, how. versions: of the software that scores depend on.
    command: what to type to get it again. doubts: sentences to be read before any number.
    counts: images by verdict. distances: (F,) of the flipped images in the norm attacked, rising.
    mean_l0_pixels: of the flipped images, None without any. queries, remembered, checks: totals.
    path: the `result.json`, None if not saved. requirements: what the exit code judges.
    records: every image in order; those of a saved run are read from `path` on first use.
    """

    model: ModelFacts
    data: DataFacts
    settings: AttackSettings
    counts: Counts
    distances: NDArray[np.float64]
    mean_l0_pixels: float | None
    queries: int
    remembered: int
    checks: int
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    doubts: tuple[str, ...] = ()
    path: Path | None = None
    requirements: tuple[Requirement, ...] = ()
    _records: tuple[ImageRecord, ...] | None = None

    @property
    def records(self) -> tuple[ImageRecord, ...]:
        """Every image's record, in order."""
        if self._records is None:
            if self.path is None:
                return ()
            object.__setattr__(self, "_records", load_summary(self.path)._records)
        assert self._records is not None
        return self._records

    @property
    def folder(self) -> Path | None:
        """The run folder."""
        return self.path.parent if self.path is not None else None

    @property
    def clean_accuracy(self) -> Share:
        """Share of all images that the classifier gets right unchanged; unknown ones are left out of both counts."""
        counts = self.counts
        return share_of(counts.flipped + counts.survived + counts.of_target, counts.images - counts.unknown)

    @property
    def flipped_share(self) -> Share:
        """Share of the tested images that were flipped: a lower bound on how many can be."""
        return share_of(self.counts.flipped, self.counts.tested)

    @property
    def survival(self) -> tuple[SurvivalPoint, ...]:
        """The survival curve in the norm attacked, with intervals."""
        return survival_curve(
            self.distances, self.counts.tested, self.counts.unknown, whole=self.settings.norm in ("l0", "l0_dims")
        )

    @property
    def median(self) -> Median:
        """The median distance at which an image is flipped, survivors farther than all."""
        return median_of(self.distances, self.counts.tested, self.counts.unknown)

    def survival_at(self, distance: float, *, confidence: float = CONFIDENCE) -> SurvivalPoint | None:
        """The survival curve at any distance; None where nothing was tested."""
        if self.counts.tested == 0:
            return None
        return survival_at(self.distances, distance, self.counts.tested, self.counts.unknown, confidence=confidence)

    @property
    def judgements(self) -> tuple[Judgement, ...]:
        """The requirements, each with its answer; none where nothing was tested."""
        judged = []
        for requirement in self.requirements:
            point = self.survival_at(requirement.distance)
            if point is None:
                continue
            answer = Answer.INCONCLUSIVE
            if point.low >= requirement.share:
                answer = Answer.SHOWN
            elif point.high < requirement.share:
                answer = Answer.REFUTED
            judged.append(Judgement(requirement, answer, point, self.settings.norm))
        return tuple(judged)

    @property
    def exit_code(self) -> int:
        """0 fine, 1 a requirement was refuted, 3 one is inconclusive, 5 nothing was tested."""
        if self.counts.tested == 0:
            return 5
        answers = {judgement.answer for judgement in self.judgements}
        return 1 if Answer.REFUTED in answers else 3 if Answer.INCONCLUSIVE in answers else 0

    def requiring(self, requirements: Sequence[Requirement]) -> AuditSummary:
        """The same audit, judged by other requirements."""
        return replace(self, requirements=tuple(requirements))

    def clean_images(self) -> Values | None:
        """(N, H, W, C) the images as they were audited, from the run folder, not read until used; None if not there."""
        from robustest.audit.images import stored_images

        return None if self.folder is None else stored_images(self.folder, self.data.sha256)


def summarise(
    columns: Columns,
    *,
    model: ModelFacts,
    data: DataFacts,
    settings: AttackSettings,
    versions: dict[str, str],
    command: str,
    doubts: tuple[str, ...],
    path: Path | None = None,
    records: tuple[ImageRecord, ...] | None = None,
) -> AuditSummary:
    """Count what the columns hold."""
    kinds = list(Verdict)
    numbers = {kind: int((columns.verdict == place).sum()) for place, kind in enumerate(kinds)}
    flipped = columns.verdict == kinds.index(Verdict.FLIPPED)
    return AuditSummary(
        model=model,
        data=data,
        settings=settings,
        counts=Counts(
            flipped=numbers[Verdict.FLIPPED],
            survived=numbers[Verdict.SURVIVED],
            unknown=numbers[Verdict.UNKNOWN],
            excluded=numbers[Verdict.EXCLUDED],
            of_target=int(columns.of_target.sum()),
        ),
        distances=np.sort(columns.distance[flipped]),
        mean_l0_pixels=float(columns.l0_pixels[flipped].mean()) if flipped.any() else None,
        queries=int(columns.queries.sum()),
        remembered=int(columns.remembered.sum()),
        checks=int(columns.checks.sum()),
        versions=versions,
        command=command,
        doubts=doubts,
        path=path,
        _records=records,
    )


def header_json(summary: AuditSummary) -> dict[str, Any]:
    """All of `result.json` but its `images`."""
    accuracy, share, median = summary.clean_accuracy, summary.flipped_share, summary.median
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "command": summary.command,
        "settings": asdict(summary.settings),
        "model": {
            "source": summary.model.source,
            "sha256": summary.model.sha256,
            "spec": spec_json(summary.model.spec),
            "guessed": list(summary.model.guessed),
            "classes": summary.model.classes,
            "batch": summary.model.batch,
            "largest_change": summary.model.largest_change,
        },
        "data": {
            "source": summary.data.source,
            "count": summary.data.count,
            "sha256": summary.data.sha256,
            "shape": list(summary.data.shape),
            "eight_bit": summary.data.eight_bit,
            "class_names": list(summary.data.class_names),
        },
        "versions": dict(sorted(summary.versions.items())),
        "doubts": list(summary.doubts),
        "totals": {
            **{name: count for name, count in asdict(summary.counts).items() if count or name != "of_target"},
            "images": summary.counts.images,
            "tested": summary.counts.tested,
            "clean_accuracy": _share_json(accuracy),
            "flipped_share": _share_json(share),
            "median": asdict(median),
            "mean_l0_pixels": summary.mean_l0_pixels,
            "queries": summary.queries,
            "remembered": summary.remembered,
            "checks": summary.checks,
            "survival": [
                {
                    "distance": p.distance,
                    "survived": p.survived,
                    "flipped": p.flipped,
                    "unknown": p.unknown,
                    "of": p.of,
                    "share": p.share,
                    "low": p.low,
                    "high": p.high,
                }
                for p in summary.survival
            ],
        },
    }


def _share_json(share: Share) -> dict[str, Any]:
    return {"count": share.count, "of": share.of, "share": share.share, "low": share.low, "high": share.high}


def spec_json(spec: InputSpec) -> dict[str, Any]:
    """An input spec as a table of JSON."""
    table = asdict(spec)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in table.items()}


def load_summary(path: str | Path) -> AuditSummary:
    """Read a `result.json`, or the one in a run folder, and check it against the schema and against itself.

    Raises:
        RunConflict: missing, not JSON, not of this format, or its totals are not those of its images.
    """
    where = Path(path)
    if where.is_dir():
        where = where / "result.json"
    content, records = read_result(where)
    model, data = content["model"], content["data"]
    settings = AttackSettings(**content["settings"])
    try:
        columns = columns_of(records, settings.norm)
    except OverflowError as error:
        raise RunConflict(f"result {str(path)!r} has a number that is none of an audit: {error}.") from error
    summary = summarise(
        columns,
        model=ModelFacts(
            source=model["source"],
            sha256=model["sha256"],
            spec=InputSpec(**model["spec"]),
            guessed=tuple(model["guessed"]),
            classes=model["classes"],
            batch=model["batch"],
            largest_change=model["largest_change"],
        ),
        data=DataFacts(
            source=data["source"],
            count=data["count"],
            sha256=data["sha256"],
            shape=tuple(data["shape"]),
            eight_bit=data["eight_bit"],
            class_names=tuple(data["class_names"]),
        ),
        settings=settings,
        versions=content["versions"],
        command=content["command"],
        doubts=tuple(content["doubts"]),
        path=where,
        records=records,
    )
    if not _alike(header_json(summary)["totals"], content["totals"]) or data["count"] != len(records):
        raise RunConflict(
            f"result {str(path)!r} contradicts itself: its totals are not those of its images. It was changed after it was written. "
            f"{WAY_OUT}"
        )
    return summary


def _alike(first: Any, second: Any) -> bool:
    """Equal, but for the last bits of floats, which another version of the special functions may round otherwise."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_alike(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_alike, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)
    return bool(first == second)


def columns_of(records: Sequence[ImageRecord], norm: str) -> Columns:
    """The columns of records."""
    kinds = {kind: place for place, kind in enumerate(Verdict)}
    distances = [record.distance(norm) for record in records]
    return Columns(
        verdict=np.array([kinds[record.verdict] for record in records], dtype=np.int8),
        distance=np.array([np.nan if d is None else d for d in distances], dtype=np.float64),
        l0_pixels=np.array([-1 if r.distances is None else r.distances.l0_pixels for r in records], dtype=np.int64),
        queries=np.array([record.queries for record in records], dtype=np.int64),
        remembered=np.array([record.remembered for record in records], dtype=np.int64),
        checks=np.array([record.checks for record in records], dtype=np.int64),
        unchecked=np.array([record.minimal is False for record in records], dtype=np.int64),
        of_target=np.array(
            [record.verdict is Verdict.EXCLUDED and record.predicted == record.label for record in records],
            dtype=np.int64,
        ),
    )
