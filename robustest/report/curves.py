"""The curves of a report: survival over distance, and convergence over queries, each with its table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustest.audit.records import ImageRecord
from robustest.audit.statistics import SurvivalPoint, clopper_pearson
from robustest.audit.summary import AuditSummary
from robustest.report.charts import Chart, Line, line_chart
from robustest.report.words import Table, axis_of, bare_distance, interval, is_whole, percent, plural, unit_of

_MOST_ROWS = 60
_MOST_CURVES = 150
_SHORT_TABLE = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class Survival:
    """The survival curve, a short table of it, and the table of every step where that says more."""

    note: str
    chart: Chart
    table: Table
    more: Table | None


@dataclass(frozen=True, slots=True)
class Convergence:
    """Share flipped and best distance over queries, each with its table."""

    note: str
    found: Chart
    found_table: Table
    best: Chart
    best_table: Table


def survival_of(summary: AuditSummary) -> Survival | None:
    """The survival curve of an audit; None where nothing was attacked."""
    points, norm = summary.survival, summary.settings.norm
    if not points:
        return None
    axis = axis_of(norm)
    top = survival_top([summary])
    unknown = summary.counts.unknown
    within = f"by changing so many {unit_of(norm)} or fewer" if is_whole(norm) else f"within the {axis}"
    note = (
        f"The share of the {plural(summary.counts.tested, 'attacked image')} for which this attack found no flip {within}, "
        "with the 95 % interval of the share in the population the images were drawn from."
    )
    if unknown:
        note += (
            f" {plural(unknown, 'unknown image')} counted as flipped at the lower end and as survived at the upper end."
        )
    chart = line_chart(
        "survival-chart",
        [survival_line(summary, "", "survived", top)],
        title="Survival curve",
        summary=f"From {percent(points[0].share)} at 0 down to {percent(points[-1].share)} at {points[-1].distance:g}.",
        x_label=axis,
        y_label="share surviving",
        x_top=top,
    )
    every = _survival_table("Every step of the survival curve", _thinned(points), norm)
    if not is_whole(norm):
        return Survival(note, chart, _survival_table("Survival", _thinned(points, 8), norm), every)
    return Survival(
        note, chart, _survival_table("Survival", [p for p in points if p.distance in _SHORT_TABLE], norm), every
    )


def survival_top(summaries: Sequence[AuditSummary]) -> float:
    """Where the distance axis ends: a little after the last flip of any of them."""
    last = max((float(s.distances[-1]) for s in summaries if len(s.distances)), default=0.0)
    if is_whole(summaries[0].settings.norm):
        return max(last * 1.05, 5.0)
    return last * 1.05 or 1.0


def survival_line(summary: AuditSummary, name: str, style: str, top: float) -> Line:
    """A survival curve up to `top`, with its band."""
    points = [point for point in summary.survival if point.distance <= top]
    last = points[-1]
    ends = [*points, SurvivalPoint(top, last.flipped, last.unknown, last.of, last.low, last.high)]
    return Line(
        name,
        style,
        tuple((point.distance, point.share) for point in ends),
        tuple(point.low for point in ends),
        tuple(point.high for point in ends),
    )


def _thinned(points: Sequence[SurvivalPoint], most: int = _MOST_ROWS) -> list[SurvivalPoint]:
    if len(points) <= most:
        return list(points)
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))]


def _survival_table(caption: str, points: Sequence[SurvivalPoint], norm: str) -> Table:
    rows = tuple(
        (
            bare_distance(p.distance, norm),
            f"{p.survived:,} of {p.of:,}",
            percent(p.share),
            interval(p.low, p.high),
        )
        for p in points
    )
    return Table(caption, (axis_of(norm), "survive", "share", "95 % interval"), rows, (0, 1, 2, 3))


def convergence_of(summary: AuditSummary) -> Convergence | None:
    """How the audit got to its result; None where nothing was flipped."""
    flipped = [record for record in summary.records if record.flipped and record.curve]
    tested, norm, budget = summary.counts.tested, summary.settings.norm, summary.settings.queries
    if not flipped:
        return None
    first = np.sort([record.curve[0][0] for record in flipped])
    grid = _grid(budget)
    counts = np.searchsorted(first, grid, side="right").tolist()
    bounds = [clopper_pearson(count, tested) for count in counts]
    found = line_chart(
        "found-chart",
        [
            Line(
                "",
                "flipped",
                tuple((float(q), count / tested) for q, count in zip(grid, counts, strict=True)),
                tuple(low for low, _ in bounds),
                tuple(high for _, high in bounds),
            )
        ],
        title="Share of images flipped, by queries spent on each",
        summary=f"{percent(counts[-1] / tested)} at {budget} queries.",
        x_label="queries",
        y_label="share flipped",
        x_top=budget,
        x_low=_least_queries(budget),
    )
    medians = list(zip(grid, _medians(flipped, tested, grid), strict=True))
    reached = tuple((float(q), m) for q, m in medians if m is not None)
    most = max(distance for record in flipped for _, distance in record.curve)
    shown = flipped[:: -(-len(flipped) // _MOST_CURVES)]
    lines = [Line("", "thin excluded", curve_within(record.curve, budget)) for record in shown]
    if reached:
        lines.append(Line("", "survived", reached))
    best = line_chart(
        "best-chart",
        lines,
        title="Best distance so far: each flipped image, and the median of all",
        summary=f"{len(shown)} curves." + (f" Median at the end: {reached[-1][1]:g}." if reached else ""),
        x_label="queries",
        y_label=axis_of(norm),
        x_top=budget,
        x_low=_least_queries(budget),
        y_top=most,
        percent=False,
    )
    rare = [q for q in grid if q in _table_grid(budget)]
    by_query = dict(zip(grid, zip(counts, bounds, strict=True), strict=True))
    found_rows = tuple(
        (f"{q:,}", f"{by_query[q][0]:,} of {tested:,}", percent(by_query[q][0] / tested), interval(*by_query[q][1]))
        for q in rare
    )
    median_at = dict(medians)
    best_rows = tuple((f"{q:,}", bare_distance(median_at[q], norm) or "fewer than half flipped") for q in rare)
    late = int((first > budget / 2).sum())
    note = (
        f"{late:,} of {len(flipped):,} flips were first found in the second half of the budget of {budget:,} queries. "
        "A curve that still rises, or a median that still falls, at the right edge says that more queries would find more."
    )
    if summary.settings.minimal:
        note += " What was put back beyond the budget is not shown here."
    return Convergence(
        note,
        found,
        Table(found.title, ("queries", "flipped", "share", "95 % interval"), found_rows, (0, 1, 2, 3)),
        best,
        Table("Median best distance of all attacked images", ("queries", axis_of(norm)), best_rows, (0, 1)),
    )


def curve_within(curve: Sequence[tuple[int, float]], budget: int) -> tuple[tuple[float, float], ...]:
    """A curve of (queries, distance) as far as the budget goes, and on to its end; its first point is within it."""
    within = [(float(queries), distance) for queries, distance in curve if queries <= budget]
    return (*within, (float(budget), within[-1][1]))


def _medians(flipped: Sequence[ImageRecord], tested: int, grid: Sequence[int]) -> list[float | None]:
    """Median over all attacked images of the best distance after so many queries, not flipped yet counted as farthest."""
    best = np.full((len(flipped), len(grid)), np.inf)
    for row, record in enumerate(flipped):
        asked = np.array([0, *(queries for queries, _ in record.curve)])
        distances = np.array([np.inf, *(distance for _, distance in record.curve)])
        best[row] = distances[np.searchsorted(asked, grid, side="right") - 1]
    rank = (tested + 1) // 2 - 1
    if rank >= len(flipped):
        return [None] * len(grid)
    middle = np.partition(best, rank, axis=0)[rank]
    return [float(value) if np.isfinite(value) else None for value in middle]


def _least_queries(budget: int) -> float:
    """Where the axis of queries begins: its last decade and a half is where things happen."""
    return max(1.0, 10.0 ** math.floor(math.log10(budget / 30))) if budget > 30 else 1.0


def _grid(budget: int) -> list[int]:
    """Numbers of queries from 1 to the budget, evenly spread on a logarithmic axis and with every round one."""
    spread = np.unique(np.geomspace(1, max(budget, 2), 60).round().astype(int)).tolist()
    return sorted({q for q in spread if q <= budget} | _table_grid(budget))


def _table_grid(budget: int) -> set[int]:
    rounds = {factor * 10**power for power in range(8) for factor in (1, 2, 5)}
    return {q for q in rounds if 10 <= q < budget} | {budget}
