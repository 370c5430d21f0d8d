"""A short summary in Markdown, for a pull request, a README or a terminal."""

from __future__ import annotations

import re
from pathlib import Path

from robustest.audit.summary import AuditSummary
from robustest.report.files import write_text
from robustest.report.html import facts, lede, tiles
from robustest.report.words import axis_of, bare_distance, headline, interval, is_whole, percent

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~])")
_ROWS = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
_MOST_ROWS = 12


def write_markdown(summary: AuditSummary, path: str | Path) -> Path:
    """Write the summary of a finished audit as Markdown."""
    return write_text(path, markdown_page(summary))


def markdown_page(summary: AuditSummary) -> str:
    """The summary as text: headline, doubts, key figures, survival, and what it takes to get it again."""
    lines = [f"# {escaped(headline(summary))}", "", escaped(lede(summary)), ""]
    if summary.doubts:
        lines += ["**Read this first: reasons to doubt**", "", *(f"- {escaped(doubt)}" for doubt in summary.doubts), ""]
    lines += ["| | | |", "| --- | --- | --- |"]
    for tile in tiles(summary):
        lines.append(f"| {tile.name} | {' '.join(filter(None, (tile.figure, tile.of)))} | {_row(tile.more)} |")
    lines += ["", *_survival(summary)]
    if summary.judgements:
        lines += [*(f"- {escaped(judgement.sentence)}" for judgement in summary.judgements), ""]
    lines += ["To get it again:", "", _fenced(summary.command), ""]
    lines += ["| | |", "| --- | --- |", *(f"| {_row(name)} | {_row(value)} |" for name, value in facts(summary)), ""]
    return "\n".join(lines)


def _survival(summary: AuditSummary) -> list[str]:
    points, norm = summary.survival, summary.settings.norm
    chosen = [p for p in points if p.distance in _ROWS] if is_whole(norm) else points[:: 1 + len(points) // _MOST_ROWS]
    if not chosen:
        return []
    rows = [
        f"| {bare_distance(p.distance, norm)} | {p.survived:,} of {p.of:,} | {percent(p.share)} | {interval(p.low, p.high)} |"
        for p in chosen
    ]
    return [f"| {axis_of(norm)} | survive | share | 95 % interval |", "| ---: | ---: | ---: | ---: |", *rows, ""]


def escaped(text: str) -> str:
    """Text in which nothing is taken for Markdown or HTML; on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _row(text: str) -> str:
    return escaped(text.replace("\n", ", "))


def _fenced(command: str) -> str:
    """A code block whose fence is longer than any run of backquotes inside."""
    longest = max((len(run) for run in re.findall(r"`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{command}\n{fence}"
