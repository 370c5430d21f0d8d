"""Several audits side by side, on the same images: what differs between models, and whether that can be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustest.audit.records import ImageRecord
from robustest.audit.statistics import compare_paired, share_of
from robustest.audit.summary import AuditSummary
from robustest.errors import InvalidSetting
from robustest.images import Pixels
from robustest.report.charts import Chart, line_chart
from robustest.report.curves import survival_line, survival_top
from robustest.report.files import write_text
from robustest.report.gallery import Sprite, sprite_of
from robustest.report.html import facts
from robustest.report.pictures import Pictures, pictures_of
from robustest.report.rendering import render
from robustest.report.words import (
    Table,
    axis_of,
    bare_distance,
    distance_words,
    interval,
    is_whole,
    median_interval,
    outcome,
    percent,
    plural,
)

_MOST_CARDS = 40
_KS = (1.0, 3.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class Proven:
    """For how many images of one model it was proven that no misclassified image is near.

    where: the neighbourhood, such as `Linf 0.05`. count: images proven. of: images tried.
    claim: what kind of proof it is, as a sentence.
    """

    where: str
    count: int
    of: int
    claim: str


@dataclass(frozen=True, slots=True)
class SharedCard:
    """One image in several audits: its clean picture's name, and for each model what became of it and its pictures."""

    ident: str
    name: str
    entries: tuple[tuple[str, str, str, Pictures], ...]


def write_several(
    summaries: Mapping[str, AuditSummary],
    path: str | Path,
    *,
    title: str,
    images: Pixels | None = None,
    proven: Mapping[str, Proven] | None = None,
    links: Mapping[str, str] | None = None,
) -> Path:
    """Write one page about several audits of the same images.

    Args:
        summaries: an audit for each name; all of the same images and norm. path: the file to write.
        images: (N, H, W, C) the clean images; None to take them from a run folder.
        proven: for each name what was proven, where anything was. links: addresses of the single reports.

    Raises:
        InvalidSetting: fewer than two audits, or of different images or norms.
    """
    check_same_images(summaries)
    first = next(iter(summaries.values()))
    clean = images if images is not None else first.clean_images()
    cards = _cards(summaries, clean) if clean is not None else ()
    sprite: list[Sprite] = []
    if clean is not None:
        sprite = [
            sprite_of(record, clean) for record in first.records if f"i{record.index}" in {c.ident for c in cards}
        ]
    page = render(
        "several.html.j2",
        title=title,
        data=first.data,
        settings=first.settings,
        figures=figures(summaries, proven),
        chart=_chart(summaries),
        curve=_curve_table(summaries),
        paired=paired_sentences(summaries),
        doubts=[f"{name}: {doubt}" for name, summary in summaries.items() for doubt in summary.doubts],
        links=dict(links or {}),
        commands=list(dict.fromkeys(summary.command for summary in summaries.values())),
        facts={name: facts(summary) for name, summary in summaries.items()},
        proofs=sorted({f"Within {bound.where}: {bound.claim}" for bound in (proven or {}).values()}),
        cards=cards,
        sprite=sprite,
    )
    return write_text(path, page)


def check_same_images(summaries: Mapping[str, AuditSummary]) -> None:
    """Refuse to compare what cannot be compared."""
    if len(summaries) < 2:
        raise InvalidSetting(f"at least two audits are needed side by side; got {len(summaries)}.")
    if len({summary.data.sha256 for summary in summaries.values()}) > 1:
        raise InvalidSetting("the audits must be of the same images; these differ in the digests of their images.")
    if len({summary.settings.norm for summary in summaries.values()}) > 1:
        raise InvalidSetting("the audits must be in the same norm.")


def figures(summaries: Mapping[str, AuditSummary], proven: Mapping[str, Proven] | None = None) -> Table:
    """The key figures, a row for each and a column for each audit."""
    norm = next(iter(summaries.values())).settings.norm
    rows: list[tuple[str, ...]] = []

    def row(name: str, cells: Sequence[str]) -> None:
        rows.append((name, *cells))

    audits = list(summaries.values())
    row("right on the unchanged image", [_counted(s.clean_accuracy.count, s.clean_accuracy.of) for s in audits])
    row("flipped", [_counted(s.counts.flipped, s.counts.tested) for s in audits])
    if any(s.counts.unknown for s in audits):
        row("not decided", [f"{s.counts.unknown:,} of {s.counts.tested:,}" for s in audits])
    for k in _KS if is_whole(norm) else ():
        points = [s.survival_at(k) for s in audits]
        cells = [f"{percent(p.share)} ({interval(p.low, p.high)})" if p else "-" for p in points]
        row(f"survive {distance_words(k, norm)}", cells)
    row("median distance to a flip", [_median(s) for s in audits])
    for where in sorted({bound.where for bound in (proven or {}).values()}):
        bounds = [(proven or {}).get(name) for name in summaries]
        row(f"proven: none misclassified within {where}", [_counted(b.count, b.of) if b else "-" for b in bounds])
    row("queries", [f"{s.queries:,}" for s in audits])
    return Table("All shares with their 95 % interval", ("", *summaries), tuple(rows))


def _median(summary: AuditSummary) -> str:
    if summary.median.value is None:
        return "not reached"
    return f"{distance_words(summary.median.value, summary.settings.norm)} ({median_interval(summary)})"


def _counted(count: int, of: int) -> str:
    share = share_of(count, of)
    return f"{count:,} of {of:,}: {percent(share.share)} ({interval(share.low, share.high)})"


def paired_sentences(summaries: Mapping[str, AuditSummary]) -> list[str]:
    """For each pair of audits: which needs less to be flipped on the images that both get right, by the exact sign test."""
    names = list(summaries)
    norm = summaries[names[0]].settings.norm
    sentences = []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            pairs = [
                (a, b)
                for a, b in zip(summaries[first].records, summaries[second].records, strict=True)
                if a.verdict.value != "excluded" and b.verdict.value != "excluded"
            ]
            nearer = [_distance(a, norm) < _distance(b, norm) for a, b in pairs]
            farther = [_distance(a, norm) > _distance(b, norm) for a, b in pairs]
            test = compare_paired(nearer, farther)
            sentences.append(
                f"Of {plural(len(pairs), 'image')} that both get right, {first} is flipped by less on {test.only_first:,}, {second} on {test.only_second:,}, "
                f"and {test.neither:,} are equal; if both were equally easy to flip, a split at least so uneven would have probability "
                f"{test.p_value:.2g} (exact sign test)."
            )
    return sentences


def _distance(record: ImageRecord, norm: str) -> float:
    distance = record.distance(norm)
    return np.inf if distance is None else distance


def _chart(summaries: Mapping[str, AuditSummary]) -> Chart | None:
    audits = {name: s for name, s in summaries.items() if s.counts.tested}
    if not audits:
        return None
    top = survival_top(list(audits.values()))
    norm = next(iter(audits.values())).settings.norm
    lines = [survival_line(s, name, f"tone-{place % 8}", top) for place, (name, s) in enumerate(audits.items())]
    return line_chart(
        "several-chart",
        lines,
        title="Survival curves",
        summary="; ".join(f"{name}: {percent(s.survival[-1].share)} at the end" for name, s in audits.items()),
        x_label=axis_of(norm),
        y_label="share surviving",
        x_top=top,
    )


def _curve_table(summaries: Mapping[str, AuditSummary]) -> Table:
    """The survival of each audit at the distances where any of them changes."""
    norm = next(iter(summaries.values())).settings.norm
    places = sorted({p.distance for s in summaries.values() for p in s.survival})
    if len(places) > 60:
        places = [places[i] for i in np.unique(np.linspace(0, len(places) - 1, 60).round().astype(int))]
    rows = []
    for place in places:
        points = [s.survival_at(place) for s in summaries.values()]
        cells = [f"{percent(p.share)} ({interval(p.low, p.high)})" if p else "-" for p in points]
        rows.append((bare_distance(place, norm), *cells))
    return Table("Share surviving, with its 95 % interval", (axis_of(norm), *summaries), tuple(rows), (0,))


def _cards(summaries: Mapping[str, AuditSummary], images: Pixels) -> tuple[SharedCard, ...]:
    """The first images that every model gets right and at least one is flipped on."""
    cards = []
    rows = zip(*(summary.records for summary in summaries.values()), strict=True)
    for records in rows:
        if any(record.verdict.value == "excluded" for record in records) or not any(r.flipped for r in records):
            continue
        clean = np.asarray(images[records[0].index])
        entries = []
        for (name, summary), record in zip(summaries.items(), records, strict=True):
            changed = record.adversarial(clean) if record.flipped else None
            entries.append((name, record.verdict.value, outcome(record, summary), pictures_of(clean, changed)))
        cards.append(SharedCard(f"i{records[0].index}", records[0].name, tuple(entries)))
        if len(cards) == _MOST_CARDS:
            break
    return tuple(cards)
