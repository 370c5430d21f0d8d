"""The gallery and the table of all images, within a bound on the size of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robustest.audit.maps import read_maps
from robustest.audit.records import ImageRecord
from robustest.audit.summary import AuditSummary
from robustest.images import Pixels
from robustest.report.pictures import Pictures, eight_bits, pictures_of
from robustest.report.png import picture_uri
from robustest.report.words import bare_distance, outcome, plural
from robustest.results import SaliencyChange, Verdict
from robustest.saliency.mixture import saliency_of

_MOST_CARDS = 150
_MOST_ROWS = 2000
_CARD_BYTES = 850_000  # of all cards; with a table of 500 rows and the charts the page stays below 2 MB
_SPRITE_BYTES = 450_000  # of the clean pictures that cards and rows share
_EXACT_SIDE = 64
_PATH_MARKUP = 30  # bytes around each colour's path


@dataclass(frozen=True, slots=True)
class Card:
    """One image of the gallery: who it is, what became of it, and its pictures. `ident` names its clean picture."""

    index: int
    ident: str
    name: str
    label: int
    verdict: str
    distance: str
    queries: int
    says: str
    pixels: int
    pictures: Pictures


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table of all images, as shown; `ident` names its thumbnail or is empty."""

    index: int
    ident: str
    carded: bool
    name: str
    label: int
    class_name: str
    verdict: str
    reason: str
    answer: str
    distance: str
    pixels: str
    dims: str
    l2: str
    linf: str
    queries: int


@dataclass(frozen=True, slots=True)
class Sprite:
    """A clean picture that cards and rows refer to by `ident`. exact: drawn with sharp pixels."""

    ident: str
    uri: str
    width: int
    height: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Gallery:
    """Cards, rows and the pictures they share; the notes say what was left out."""

    note: str
    rows_note: str
    cards: tuple[Card, ...]
    rows: tuple[Row, ...]
    sprite: tuple[Sprite, ...]


def gallery_of(
    summary: AuditSummary,
    images: Pixels | None,
    *,
    maps: Mapping[int, SaliencyChange] | None = None,
    most_cards: int = _MOST_CARDS,
) -> Gallery:
    """Choose what is shown and draw it.

    Args:
        images: (N, H, W, C) the clean images; None where they are not at hand: then there is a table only.
        maps: saliency before and after the search, by index of the image; before it is computed where not given.
    """
    records = summary.records
    cards: list[Card] = []
    sprite: dict[int, Sprite] = {}
    card_bytes = sprite_bytes = 0
    candidates = _ordered(records, summary.settings.norm)
    if images is not None:
        for record in candidates[:most_cards]:
            one = sprite_of(record, images)
            card = _card(record, summary, images, one.ident, (maps or {}).get(record.index))
            card_bytes += _size(card.pictures)
            sprite_bytes += len(one.uri)
            if cards and (card_bytes > _CARD_BYTES or sprite_bytes > _SPRITE_BYTES):
                break
            cards.append(card)
            sprite[record.index] = one
        for record in records[:_MOST_ROWS]:
            if sprite_bytes > _SPRITE_BYTES:
                break
            if record.index not in sprite:
                sprite[record.index] = sprite_of(record, images)
                sprite_bytes += len(sprite[record.index].uri)
    carded = {card.index for card in cards}
    rows = tuple(_row(r, summary, sprite.get(r.index), r.index in carded) for r in records[:_MOST_ROWS])
    return Gallery(
        note=_note(summary, cards, len(candidates), images),
        rows_note=f"{len(rows):,} images"
        if len(rows) == len(records)
        else f"The first {len(rows):,} of {len(records):,} images; result.json has them all",
        cards=tuple(sorted(cards, key=lambda card: card.index)),
        rows=rows,
        sprite=tuple(sprite[index] for index in sorted(sprite)),
    )


def saliency_maps(summary: AuditSummary) -> dict[int, SaliencyChange]:
    """Saliency before and after the search, by index, of the images that have a card and for which the run kept it.

    Raises:
        RunConflict: the run's file of them is damaged.
    """
    path = summary.folder / "saliency.npz" if summary.folder is not None else None
    if path is None or not path.is_file():
        return {}
    height, width, _ = summary.data.shape
    wanted = {record.index for record in _ordered(summary.records, summary.settings.norm)[:_MOST_CARDS]}
    return {
        index: SaliencyChange(before.astype(np.float64), after.astype(np.float64))
        for index, (before, after) in read_maps(path, wanted, (height, width)).items()
    }


def _note(summary: AuditSummary, cards: Sequence[Card], candidates: int, images: Pixels | None) -> str:
    if images is None:
        return "The clean images are not in the run folder, so there are no pictures."
    shown = f"{len(cards):,} of {candidates:,} attacked images are drawn"
    chosen = (
        "" if len(cards) == candidates else ", spread evenly from the fewest changes to the most, survivors among them"
    )
    wrong, already = summary.counts.wrong, summary.counts.of_target
    excluded = (
        f" {plural(wrong, 'image')} {'was' if wrong == 1 else 'were'} wrong from the start and not attacked."
        if wrong
        else ""
    )
    if already:
        excluded += f" {plural(already, 'image')} of the target class {'was' if already == 1 else 'were'} not attacked."
    return (
        f"{shown}{chosen}.{excluded} Saliency is where the search looks first, bright for much; changed pixels are ringed; the difference is "
        "mid-grey where nothing changed."
    )


def _ordered(records: Sequence[ImageRecord], norm: str) -> list[ImageRecord]:
    """Attacked images, the most telling first: flipped ones spread over their distances, one in six not flipped."""
    flipped = sorted((r for r in records if r.flipped), key=lambda r: (r.distance(norm) or 0.0, r.index))
    others = [r for r in records if r.verdict in (Verdict.SURVIVED, Verdict.UNKNOWN)]
    spread, rest = iter([flipped[place] for place in _spread(len(flipped))]), iter(others)
    ordered: list[ImageRecord] = []
    while len(ordered) < len(flipped) + len(others):
        ordered += [r for _, r in zip(range(5), spread, strict=False)]
        ordered += [r for _, r in zip(range(1), rest, strict=False)]
    return ordered


def _spread(count: int) -> Iterator[int]:
    """0 .. count - 1 such that every beginning of the sequence is spread evenly: first, last, middle, quarters, ..."""
    seen: set[int] = set()
    parts = 1
    while len(seen) < count:
        for step in range(parts + 1):
            place = round(step * (count - 1) / parts)
            if place not in seen:
                seen.add(place)
                yield place
        parts *= 2


def sprite_of(record: ImageRecord, images: Pixels) -> Sprite:
    """The clean picture of a record's image."""
    image = eight_bits(np.asarray(images[record.index]))
    height, width = image.shape[:2]
    return Sprite(f"i{record.index}", picture_uri(image), width, height, max(height, width) <= _EXACT_SIDE)


def _card(record: ImageRecord, summary: AuditSummary, images: Pixels, ident: str, maps: SaliencyChange | None) -> Card:
    clean = np.asarray(images[record.index])
    changed = record.adversarial(clean) if record.flipped else None
    before = maps.before if maps is not None else saliency_of(clean).distribution
    return Card(
        index=record.index,
        ident=ident,
        name=record.name,
        label=record.label,
        verdict=record.verdict.value,
        distance=bare_distance(record.distance(summary.settings.norm), summary.settings.norm),
        queries=record.queries,
        says=outcome(record, summary),
        pixels=record.distances.l0_pixels if record.distances else 0,
        pictures=pictures_of(clean, changed, before, maps.after if maps is not None else None),
    )


def _size(pictures: Pictures) -> int:
    paths = sum(len(path) + _PATH_MARKUP for group in (pictures.changed, pictures.difference) for _, path in group)
    texts = len(pictures.saliency) + len(pictures.saliency_after) + len(pictures.adversarial) + 2 * len(pictures.rings)
    return paths + texts + 1500  # and the card's own markup


def _row(record: ImageRecord, summary: AuditSummary, one: Sprite | None, carded: bool) -> Row:
    gap, name, norm = record.distances, summary.data.class_name, summary.settings.norm
    return Row(
        index=record.index,
        ident=one.ident if one else "",
        carded=carded,
        name=record.name,
        label=record.label,
        class_name=name(record.label),
        verdict=record.verdict.value,
        reason=record.reason if record.verdict is Verdict.UNKNOWN else "",
        answer=name(record.predicted),
        distance=bare_distance(record.distance(norm), norm),
        pixels=f"{gap.l0_pixels:,}" if gap else "",
        dims=f"{gap.l0_dims:,}" if gap else "",
        l2=f"{gap.l2:.3f}" if gap else "",
        linf=f"{gap.linf:.3f}" if gap else "",
        queries=record.queries,
    )
