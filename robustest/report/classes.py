"""Results by class, and what flipped images are taken for."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from robustest.audit.records import ImageRecord
from robustest.audit.statistics import clopper_pearson, median_of
from robustest.audit.summary import AuditSummary
from robustest.report.words import Table, bare_distance, interval, percent, plural, shortened
from robustest.results import Verdict

_LARGEST_MATRIX = 16  # classes; of more, the most frequent pairs are listed
_MOST_PAIRS = 25


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: counts by verdict, the median distance, and the share that survives with its interval, as shown."""

    name: str
    attacked: int
    flipped: int
    survived: int
    unknown: int
    excluded: int
    median: str
    share: str
    low: float | None
    at: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the confusion of flips: how many, and its share of the largest."""

    count: int
    share: float
    self: bool


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One true class of the confusion of flips."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Confusion:
    """What flipped images are taken for: a matrix of the classes that occur, or the most frequent pairs of very many."""

    note: str
    columns: tuple[str, ...]
    rows: tuple[MatrixRow, ...]
    pairs: Table | None


def class_rows(summary: AuditSummary) -> tuple[ClassRow, ...]:
    """One row a class that occurs, in the order of the class numbers."""
    groups: dict[int, list[ImageRecord]] = defaultdict(list)
    for record in summary.records:
        groups[record.label].append(record)
    return tuple(_class_row(summary, label, groups[label]) for label in sorted(groups))


def _class_row(summary: AuditSummary, label: int, records: list[ImageRecord]) -> ClassRow:
    kinds = Counter(record.verdict for record in records)
    attacked = len(records) - kinds[Verdict.EXCLUDED]
    survived, unknown = kinds[Verdict.SURVIVED], kinds[Verdict.UNKNOWN]
    norm = summary.settings.norm
    distances = np.array([record.distance(norm) for record in records if record.flipped], dtype=np.float64)
    median = median_of(distances, attacked, unknown).value
    low = clopper_pearson(survived, attacked)[0] if attacked else None
    high = clopper_pearson(survived + unknown, attacked)[1] if attacked else None
    share = f"{percent(survived / attacked)} ({interval(low, high)})" if low is not None and high is not None else "-"
    return ClassRow(
        name=shortened(summary.data.class_name(label), 48),
        attacked=attacked,
        flipped=kinds[Verdict.FLIPPED],
        survived=survived,
        unknown=unknown,
        excluded=kinds[Verdict.EXCLUDED],
        median=bare_distance(median, norm) or "-",
        share=share,
        low=low,
        at=survived / attacked if attacked else None,
        high=high,
    )


def confusion_of(summary: AuditSummary) -> Confusion | None:
    """Counts of (true class, answer after the flip); None where nothing was flipped."""
    pairs = Counter((r.label, r.predicted) for r in summary.records if r.flipped and r.predicted is not None)
    if not pairs:
        return None

    def name(label: int | None) -> str:
        return shortened(summary.data.class_name(label))

    (label, answer), count = pairs.most_common(1)[0]
    note = f"Most often: {name(label)} taken for {name(answer)}, {count:,} of {pairs.total():,} flips."
    if count == 1:
        note = f"No pair of classes occurs more than once in {plural(pairs.total(), 'flip')}."
    involved = sorted({label for pair in pairs for label in pair})
    if len(involved) > _LARGEST_MATRIX:
        ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_MOST_PAIRS]
        rows = tuple((name(a), name(b), f"{n:,}") for (a, b), n in ordered)
        caption = f"The {len(rows)} most frequent of {len(pairs):,} pairs"
        return Confusion(note, (), (), Table(caption, ("true class", "taken for", "images"), rows, (2,)))
    matrix = tuple(
        MatrixRow(name(a), tuple(Cell(pairs[a, b], round(pairs[a, b] / count, 3), a == b) for b in involved))
        for a in involved
    )
    return Confusion(note, tuple(name(b) for b in involved), matrix, None)
