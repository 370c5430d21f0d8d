"""A comparison in the terminal: one table, then what is significant and what to doubt."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import IO

import numpy as np
from rich.console import Console
from rich.table import Table

from robustest.baselines.compare import Progress
from robustest.baselines.comparison import Comparison, Row
from robustest.baselines.objects import ObjectShare
from robustest.images import ImageSet

_SIGNIFICANT = 0.05
_ACCESS = {"scores": "scores", "label": "label", "gradients": "gradients"}


def reporter(stream: IO[str], *, every: float = 0.5) -> Progress | None:
    """Writes one rewritten line of progress to a terminal; None where the stream is none."""
    if not stream.isatty():
        return None
    last = 0.0

    def told(attack: str, done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == of or now - last > every:
            last = now
            stream.write(f"\r\x1b[2K{attack}: {done} of {of} images" + ("\r\x1b[2K" if done == of else ""))
            stream.flush()

    return told


def print_comparison(comparison: Comparison, *, file: IO[str] | None = None) -> None:
    """Print the table, the paired differences and the doubts."""
    out = file or sys.stdout
    console = Console(file=out, width=None if out.isatty() else 160, highlight=False)
    console.print(table_of(comparison))
    for row in comparison.rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", markup=False)
    lines = paired_sentences(comparison)
    if lines:
        console.print("Paired, same images, exact McNemar tests:", markup=False)
        for line in lines:
            console.print(f"  {line}", markup=False)
    for doubt in comparison.doubts():
        console.print(f"Doubt: {doubt}.", markup=False)


def print_objects(shares: Sequence[ObjectShare], images: ImageSet, *, file: IO[str] | None = None) -> None:
    """Print where flips happen, by attack and class, against the share of the image that the object covers."""
    table = Table(
        title="Changed pixels on the object (share, beside the object's share of the image)", title_justify="left"
    )
    for name in ("attack", "class", "images flipped", "on", "off", "share on", "object's share"):
        table.add_column(name, justify="left" if name in ("attack", "class") else "right")
    for share in shares:
        table.add_row(
            share.attack,
            images.class_name(share.label),
            str(share.images),
            str(share.on),
            str(share.off),
            f"{share.share:.0%}",
            f"{share.area:.0%}",
        )
    Console(file=file or sys.stdout, highlight=False).print(table)


def table_of(comparison: Comparison) -> Table:
    """One line an attack: share flipped within each number of pixels, with its 95 % interval."""
    table = Table(
        title=(
            f"{comparison.classifier}: {len(comparison)} images of {comparison.source}, {comparison.queries} queries an "
            f"image, seed {comparison.seed}; % flipped within k pixels (95 % interval)"
        ),
        title_justify="left",
    )
    table.add_column("attack")
    table.add_column("needs")
    for k in comparison.pixels:
        table.add_column(f"k={k}", justify="right")
    for name in _last_heads(comparison):
        table.add_column(name, justify="right")
    for row in comparison.rows:
        table.add_row(*_cells(comparison, row))
    return table


def _last_heads(comparison: Comparison) -> list[str]:
    """The columns after those of k pixels; another norm than l0 has a median of its own."""
    medians = ["median px"] if comparison.norm == "l0" else ["median px", f"median {comparison.norm}"]
    return [*medians, "queries", "backward", "CPU s"]


def _cells(comparison: Comparison, row: Row) -> list[str]:
    cells = [row.name + (" (a run for each k)" if row.fixed and len(row.runs) > 1 else ""), _ACCESS[row.access]]
    for k in comparison.pixels:
        share = comparison.success(row, k)
        if share is None or not share.of:
            cells.append("-")
        else:
            cells.append(f"{100 * share.count / share.of:.0f} ({100 * share.low:.0f}-{100 * share.high:.0f})")
    medians = [comparison.median_pixels(row)]
    if comparison.norm != "l0":
        medians.append(comparison.median_distance(row))
    if not row.runs:
        return [*cells, *("-" for _ in _last_heads(comparison))]
    queries = sum(float(np.mean([result.queries for result in run.results])) for run in row.runs)
    backward = sum(float(np.mean([result.gradients for result in run.results])) for run in row.runs)
    return [
        *cells,
        *("-" if median is None or median.value is None else f"{median.value:g}" for median in medians),
        f"{queries:.0f}",
        f"{backward:.0f}" if backward else "-",
        f"{sum(run.seconds for run in row.runs):.1f}",
    ]


def paired_sentences(comparison: Comparison) -> list[str]:
    """The first attack against each other: one sentence where images that only one of them flips differ beyond chance."""
    duels = comparison.duels()
    clear: dict[str, list[str]] = {}
    for duel in duels:
        paired = duel.paired
        if paired.p_value < _SIGNIFICANT:
            counts = f"k={duel.pixels} {paired.only_first}:{paired.only_second} (p={paired.p_value:.2g})"
            clear.setdefault(duel.second, []).append(counts)
    if not duels:
        return []
    sentences = [
        f"{duels[0].first} against {name}, images that only one flips: {', '.join(c)}" for name, c in clear.items()
    ]
    tests = f"{len(duels)} tests, each at {_SIGNIFICANT:g}, not corrected for their number"
    return [*sentences, f"of {tests}"] if sentences else [f"none of {tests}, shows a difference"]


def markdown_of(comparison: Comparison) -> str:
    """The same table and sentences as Markdown."""
    header = ["attack", "needs", *(f"k={k}" for k in comparison.pixels), *_last_heads(comparison)]
    lines = [_line(header), _line(["---"] * 2 + ["---:"] * (len(header) - 2))]
    lines += [_line(_cells(comparison, row)) for row in comparison.rows]
    notes = [f"* {row.name}: {row.note}" for row in comparison.rows if row.note]
    notes += [f"* {sentence}" for sentence in paired_sentences(comparison)]
    notes += [f"* Doubt: {doubt}." for doubt in comparison.doubts()]
    return "\n".join([*lines, "", *notes]) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
