"""Results in the terminal; besides the command line the only place that prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robustest.audit.requirements import Answer
from robustest.audit.summary import AuditSummary
from robustest.report.html import tiles
from robustest.report.several import Proven, figures, paired_sentences
from robustest.report.words import headline

_STYLES = {"flipped": "red", "survived": "blue", "unknown": "yellow", "": ""}
_ANSWERS = {Answer.SHOWN: "green", Answer.REFUTED: "bold red", Answer.INCONCLUSIVE: "yellow"}
_WIDEST_DRAWING = 64  # pixels; two a line of text


def _console() -> Console:
    """Of standard output; what goes to a file or a pipe is broken into lines only where it is very long."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def print_summary(summary: AuditSummary, *, console: Console | None = None) -> None:
    """Print what a finished audit came to: doubts first, then the key figures with their intervals."""
    out = console or _console()
    for doubt in summary.doubts:
        out.print(Text(f"Reason to doubt: {doubt}", "yellow"))
    out.print(Text(headline(summary), "bold"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for tile in tiles(summary):
        figure = Text(" ".join(filter(None, (tile.figure, tile.of))), _STYLES[tile.style])
        table.add_row(Text(tile.name), figure, Text(tile.more.replace("\n", ", ")))
    out.print(table)
    for judgement in summary.judgements:
        out.print(Text(judgement.sentence, _ANSWERS[judgement.answer]))


def draw(images: Sequence[NDArray[np.uint8]], *, console: Console) -> None:
    """Draw small pictures (H, W, C) side by side, two pixels a character; larger ones or plain output are left out."""
    if not console.is_terminal or sum(image.shape[1] + 2 for image in images) > console.width:
        return
    if any(max(image.shape[:2]) > _WIDEST_DRAWING for image in images):
        return
    height = images[0].shape[0]
    for row in range(0, height, 2):
        line = Text()
        for image in images:
            lower = image[min(row + 1, height - 1)]
            for above, below in zip(image[row].tolist(), lower.tolist(), strict=True):
                line.append("▀", f"{_colour(above)} on {_colour(below)}")
            line.append("  ")
        console.print(line)


def _colour(values: list[int]) -> str:
    red, green, blue = values * 3 if len(values) == 1 else values
    return f"#{red:02x}{green:02x}{blue:02x}"


def print_figures(
    summaries: Mapping[str, AuditSummary], proven: Mapping[str, Proven], *, console: Console | None = None
) -> None:
    """Print the key figures of several audits side by side, and whether their difference can be chance."""
    out = console or _console()
    for name, summary in summaries.items():
        for doubt in summary.doubts:
            out.print(Text(f"Reason to doubt {name}: {doubt}", "yellow"))
    content = figures(summaries, proven)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, head in enumerate(content.heads):
        table.add_column(Text(head, "bold"), style="dim" if place == 0 else "")
    for row in content.rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)
    for sentence in paired_sentences(summaries):
        out.print(Text(sentence))
