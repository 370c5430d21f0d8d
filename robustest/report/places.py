"""Where in the image flips happen: a map over positions, beside the mean saliency of the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.audit.summary import AuditSummary
from robustest.images import Pixels
from robustest.report.pictures import coarse, heat_uri, ramp_uri
from robustest.report.words import Table, percent, plural
from robustest.saliency.mixture import saliency_of

_MOST_IMAGES = 200  # whose saliency is computed for the mean
_MOST_ROWS = 12
_TOP_PART = 0.1  # share of an image's pixels that counts as its most salient part
_SPARSE = 0.25  # changes of more than this share of all pixels have no place to speak of


@dataclass(frozen=True, slots=True)
class Map:
    """A heat map: its name, its picture, its description, and what its brightest colour means."""

    name: str
    uri: str
    alt: str
    top: str


@dataclass(frozen=True, slots=True)
class Places:
    """Where flips happen: maps, the colour ramp, and the most frequent places as a table."""

    note: str
    maps: tuple[Map, ...]
    ramp: str
    table: Table


def places_of(summary: AuditSummary, images: Pixels | None) -> Places | None:
    """Count over all flipped images how often each position was changed.

    Args:
        images: (N, H, W, C) the clean images, for their saliency; None where they are not at hand.

    Returns:
        None where nothing was flipped, or where so many pixels changed that there is no place to speak of.
    """
    height, width, _ = summary.data.shape
    flipped = [r for r in summary.records if r.pixels is not None and len(r.pixels)]
    if not flipped:
        return None
    changed = sum(len(r.pixels) for r in flipped if r.pixels is not None)
    if changed > _SPARSE * height * width * len(flipped):
        return None
    counts = np.zeros(height * width)
    for record in flipped:
        assert record.pixels is not None
        counts[record.pixels] += 1
    cells = coarse(counts.reshape(height, width))
    step = -(-height // cells.shape[0])
    maps = [Map("changed pixels", heat_uri(cells), "heat map of changed pixels", f"{cells.max():,.0f}")]
    note = f"{plural(changed, 'pixel')} {'was' if changed == 1 else 'were'} changed in {plural(len(flipped), 'flipped image')}."
    if images is not None:
        mean, hits, looked = _saliency(summary, images)
        maps.append(
            Map("their mean saliency", heat_uri(mean), "heat map of the mean saliency", f"{coarse(mean).max():.2g}")
        )
        note += (
            f" Of {looked:,} changed pixels, {hits:,} ({percent(hits / looked)}) lie on the tenth of their image's pixels with the "
            "highest saliency; by chance 10 % would. Pixels of one image are not independent, so no interval is given."
        )
    return Places(note, tuple(maps), ramp_uri(), _table(cells, step, len(flipped)))


def _saliency(summary: AuditSummary, images: Pixels) -> tuple[NDArray[np.float64], int, int]:
    """The mean distribution of up to 200 flipped images; changed pixels on each one's most salient tenth; and of how many."""
    height, width, _ = summary.data.shape
    chosen = [r for r in summary.records if r.pixels is not None and len(r.pixels)]
    chosen = chosen[:: -(-len(chosen) // _MOST_IMAGES)]
    total = np.zeros((height, width))
    hits = looked = 0
    for record in chosen:
        assert record.pixels is not None
        distribution = saliency_of(np.asarray(images[record.index])).distribution
        total += distribution
        ranks = np.argsort(np.argsort(-distribution, axis=None, kind="stable"))
        hits += int((ranks[record.pixels] < _TOP_PART * height * width).sum())
        looked += len(record.pixels)
    return total / len(chosen), hits, looked


def _table(cells: NDArray[np.float64], step: int, images: int) -> Table:
    order = np.argsort(-cells, axis=None, kind="stable")[:_MOST_ROWS]
    rows = tuple(
        (_span(place // cells.shape[1], step), _span(place % cells.shape[1], step), f"{cells.flat[place]:,.0f}")
        for place in order.tolist()
        if cells.flat[place]
    )
    what = "positions" if step == 1 else f"cells of {step} x {step} pixels"
    return Table(
        f"Most frequent {what} in {plural(images, 'flipped image')}", ("row", "column", "changed"), rows, (0, 1, 2)
    )


def _span(cell: int, step: int) -> str:
    return f"{cell}" if step == 1 else f"{cell * step}-{(cell + 1) * step - 1}"
