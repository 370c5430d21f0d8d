"""The page of a comparison: several attacks on the same images at the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustest.baselines.comparison import Comparison, CurvePoint, Row
from robustest.report.charts import Chart, Line, line_chart
from robustest.report.files import write_text
from robustest.report.rendering import render
from robustest.report.words import Table, interval, percent, plural

_MOST_ROWS = 1000
_MOST_NAMED = 3  # attacks that a sentence names


@dataclass(frozen=True, slots=True)
class Curves:
    """Two charts of all attacks, each with its table."""

    pixels: Chart
    pixels_table: Table
    queries: Chart
    queries_table: Table


def write_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Write one self-contained HTML page about a comparison.

    Args:
        comparison: what `compare` found. path: the file to write; it appears whole or not at all.
    """
    page = render(
        "comparison.html.j2",
        title=f"{comparison.classifier}: {plural(len(comparison.rows), 'attack')} compared",
        comparison=comparison,
        headline=compared_headline(comparison),
        success=success_table(comparison),
        notes=_notes(comparison),
        curves=_curves(comparison),
        duels=_duels(comparison),
        images=_images(comparison),
        doubts=[f"{doubt[:1].upper()}{doubt[1:]}." for doubt in comparison.doubts()],
        facts=[
            ("model", comparison.classifier),
            ("model sha256", comparison.digest or "not a file"),
            (
                "images",
                f"{comparison.source}: {len(comparison):,} attacked, {comparison.skipped:,} passed over as wrong from the start",
            ),
            ("size", f"{comparison.shape[1]} x {comparison.shape[0]} x {comparison.shape[2]}"),
            ("norm", comparison.norm),
            ("queries", f"{comparison.queries:,} an image"),
            ("seed", str(comparison.seed)),
            ("robustest version", comparison.version),
        ],
    )
    return write_text(path, page)


def compared_headline(comparison: Comparison) -> str:
    """Who flips most at the largest number of pixels reported, in one sentence."""
    most = comparison.pixels[-1]
    scored = [(sum(comparison.flipped(row, most)), row.name) for row in comparison.rows if row.run_for(most)]
    if not scored:
        return "None of the attacks could be run."
    best = max(count for count, _ in scored)
    if not best:
        return f"No attack flips any of {plural(len(comparison), 'image')} within {plural(most, 'pixel')}."
    names = [name for count, name in scored if count == best]
    flips = f"within {plural(most, 'pixel')}: {best:,} of {plural(len(comparison), 'image')}"
    if len(names) == len(scored) > 1:
        return f"{'Both' if len(names) == 2 else f'All {len(names)}'} attacks flip as many {flips}."
    if len(names) > _MOST_NAMED:
        return f"{len(names)} of {len(scored)} attacks share the most flips {flips}."
    who = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{who} {'flips' if len(names) == 1 else 'flip'} most {flips}."


def success_table(comparison: Comparison) -> Table:
    """Share flipped at each number of pixels, the median, the queries and the time, a row for each attack."""
    rows = []
    for row in comparison.rows:
        cells = [row.name, row.access]
        for k in comparison.pixels:
            share = comparison.success(row, k)
            cells.append(f"{percent(share.share)}\n{interval(share.low, share.high)}" if share else "-")
        medians = [comparison.median_pixels(row)]
        if comparison.norm != "l0":
            medians.append(comparison.median_distance(row))
        cells += ["-" if m is None else "not reached" if m.value is None else f"{m.value:g}" for m in medians]
        cells.append(f"{_mean_queries(row):,.0f}" if row.runs else "-")
        cells.append(f"{sum(run.seconds for run in row.runs):,.1f}" if row.runs else "-")
        rows.append(tuple(cells))
    heads = ("attack", "needs", *(f"within {k}" for k in comparison.pixels))
    medians_of = ["pixels"] if comparison.norm == "l0" else ["pixels", comparison.norm]
    numeric = tuple(range(2, 4 + len(medians_of) + len(comparison.pixels)))
    return Table(
        f"Share of {len(comparison):,} images flipped within so many pixels, with its 95 % interval",
        (*heads, *(f"median {name}" for name in medians_of), "mean queries", "CPU s"),
        tuple(rows),
        numeric,
    )


def _notes(comparison: Comparison) -> list[str]:
    """What must be known to read the rows."""
    notes = [f"{row.name}: {row.note}" for row in comparison.rows if row.note]
    fixed = [row.name for row in comparison.rows if row.fixed and len(row.runs) > 1 and not row.note]
    if fixed:
        notes.append(
            f"{', '.join(fixed)}: each number of pixels was a run with the whole budget; the queries are those of all runs."
        )
    return notes


def _mean_queries(row: Row) -> float:
    """Queries spent on an image, over all runs of the attack."""
    results = [result for run in row.runs for result in run.results]
    return sum(result.queries for result in results) * len(row.runs) / max(len(results), 1)


def _curves(comparison: Comparison) -> Curves | None:
    played = [row for row in comparison.rows if row.runs]
    if not played or not len(comparison):
        return None
    by_pixels, by_queries, medians, grid = [], [], [], []
    most_pixels = most_queries = 1.0
    # What a search keeps of its way is the distance in its own norm: only in l0 is that the number of pixels.
    limit = comparison.pixels[-1] if comparison.norm == "l0" else None
    within = "" if limit is None else f" within {limit} pixels"
    for place, row in enumerate(played):
        style = f"tone-{place % 8}" + (" dash" if place >= 8 else "")
        points = [(float(k), share.share or 0.0) for k, share in comparison.success_curve(row)]
        most_pixels = max(most_pixels, *(k for k, _ in points), 1.0)
        by_pixels.append((row.name, style, [(0.0, 0.0), *points]))
        curve = comparison.query_curve(row, pixels=limit)
        if not curve:
            continue
        most_queries = max(most_queries, float(curve[-1].queries))
        by_queries.append(Line(row.name, style, tuple((float(p.queries), p.flipped.share or 0.0) for p in curve)))
        last = curve[-1]
        medians.append((row.name, *(_at(curve, q) for q in _stops(comparison.queries)), f"{last.queries:,}"))
    ends = [Line(n, s, (*points, (most_pixels, points[-1][1]))) for n, s, points in by_pixels]
    for k in sorted({1, *comparison.pixels, int(most_pixels)}):
        shares = [comparison.success(row, k) for row in played]
        grid.append((f"{k:,}", *(percent(share.share) if share else "-" for share in shares)))
    ends_text = ", ".join(f"{line.name} {percent(line.points[-1][1])}" for line in ends)
    return Curves(
        line_chart(
            "pixels-chart",
            ends,
            title="Share flipped, by pixels changed",
            summary=f"At the end: {ends_text}.",
            x_label="changed pixels",
            y_label="share flipped",
            x_top=most_pixels,
        ),
        Table("Share flipped within so many pixels", ("pixels", *(row.name for row in played)), tuple(grid), (0,)),
        line_chart(
            "queries-chart",
            by_queries,
            title=f"Share flipped{within}, by queries spent on each image",
            summary="A fixed-pixel attack is shown by its run of the most pixels.",
            x_label="queries",
            y_label="share flipped",
            x_top=most_queries,
            x_low=10.0 if most_queries > 300 else 1.0,
        ),
        Table(
            f"Share flipped{within} after so many queries",
            ("attack", *(f"{q:,}" for q in _stops(comparison.queries)), "last query"),
            tuple(medians),
            tuple(range(1, 2 + len(_stops(comparison.queries)))),
        ),
    )


def _at(curve: Sequence[CurvePoint], queries: int) -> str:
    reached = [point for point in curve if point.queries <= queries]
    return percent(reached[-1].flipped.share) if reached else percent(0.0)


def _stops(budget: int) -> list[int]:
    return sorted({stop for stop in (10, 30, 100, 300, 1000, 3000, 10000) if stop < budget} | {budget})


def _duels(comparison: Comparison) -> Table | None:
    duels = comparison.duels()
    if not duels:
        return None
    rows = tuple(
        (
            d.second,
            f"{d.pixels:,}",
            f"{d.paired.only_first:,}",
            f"{d.paired.only_second:,}",
            f"{d.paired.both:,}",
            f"{d.paired.neither:,}",
            f"{d.paired.p_value:.2g}",
        )
        for d in duels
    )
    first = duels[0].first
    caption = f"{first} against each other attack on the same images: exact McNemar test"
    return Table(
        caption,
        ("against", "pixels", f"{first} alone", "the other alone", "both", "neither", "p"),
        rows,
        (1, 2, 3, 4, 5, 6),
    )


def _images(comparison: Comparison) -> Table:
    played = [row for row in comparison.rows if row.runs]
    rows = []
    for place, name in enumerate(comparison.names[:_MOST_ROWS]):
        cells = []
        for row in played:
            found = [run.results[place].l0_pixels for run in row.runs]
            reached = [pixels for pixels in found if pixels is not None]
            cells.append(f"{min(reached):,}" if reached else "-")
        rows.append((name, *cells))
    cut = "" if len(comparison) <= _MOST_ROWS else f" (the first {_MOST_ROWS:,} of {len(comparison):,})"
    caption = f"Fewest pixels that flip each image{cut}; a dash where none was found"
    return Table(caption, ("image", *(row.name for row in played)), tuple(rows), tuple(range(1, len(played) + 1)))
