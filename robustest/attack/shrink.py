"""Shrinking: from an adversarial image to one from which no single pixel can be put back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack import kernels
from robustest.attack.task import Search
from robustest.compiled import fast
from robustest.results import Edits

MANY = 24  # pixels above which groups are tried first, or some after each find and not all again
_AGAIN = 8  # pixels that are tried again together once some were put back
_COUNTS = 16  # numbers of dispensable pixels that are put back together


def shrink(state: Edits) -> Search:
    """Put pixels back, in groups while there are many, then most dispensable first, until none can be.

    Args:
        state: an adversarial image, N = 1.
    """
    group = len(state.pixels) // 4 if len(state.pixels) > MANY else 1
    while len(state.pixels) > 1 and group >= 1:
        part_of = np.arange(len(state.pixels)) // group
        parts = int(part_of[-1]) + 1
        margins = yield keeping(state, part_of != np.arange(parts)[:, None])
        free = np.argsort(margins, kind="stable")[: int(np.count_nonzero(margins < 0))]
        if not len(free):
            group //= 2
            continue
        counts = sorted({min(len(free), 1 << power) for power in range(len(free).bit_length() + 1)} - {parts})
        rank = np.full(parts, len(free))  # of each part among those that can be put back
        rank[free] = np.arange(len(free))
        fewer = keeping(state, rank[part_of] >= np.array(counts)[:, None])
        together = yield fewer
        state = fewer.one(max(np.flatnonzero(together < 0).tolist(), default=0))
        group = min(group, max(len(state.pixels) // 4, 1))


def shrink_singly(state: Edits) -> Search:
    """Put pixels back one by one, the most dispensable first, until none can be; all of them are tried before any is.

    Where many pixels are dispensable, but few of them together, this takes fewer queries than to try all again.

    Args:
        state: an adversarial image, N = 1.
    """
    margins = np.zeros(len(state.pixels))  # with each pixel put back,
    tried = np.zeros(len(state.pixels), bool)  # and whether that is of this very state
    some = len(margins)
    while len(margins) > 1 and not tried.all():
        places = np.flatnonzero(~tried)
        places = places[np.argsort(margins[places], kind="stable")[:some]]
        margins[places] = yield keeping(state, np.arange(len(margins)) != places[:, None])
        tried[places] = True
        some = _AGAIN
        free = places[margins[places] < 0]
        if not len(free):
            continue
        # The first of them is the best image by now; if it is to be left alone, it must be the one that goes by itself.
        free[1:] = free[1:][np.argsort(margins[free[1:]], kind="stable")]
        counts = sorted({1} | {-(-len(free) * share // _COUNTS) for share in range(1, _COUNTS + 1)} - {len(margins)})
        rank = np.full(len(margins), len(free))
        rank[free] = np.arange(len(free))
        fewer = keeping(state, rank >= np.array(counts)[:, None])
        together = yield fewer
        largest = max(np.flatnonzero(together < 0).tolist(), default=0)
        left = rank >= counts[largest]
        state, margins, tried = fewer.one(largest), margins[left], np.zeros(int(left.sum()), bool)


def keeping(state: Edits, kept: NDArray[np.bool_]) -> Edits:
    """N images, each with those of the k changes of `state` (N = 1) that its row of `kept` (N, k) has."""
    if fast() and state.values.flags.c_contiguous:
        return Edits(*kernels.keeping(state.pixels, state.values, kept))
    places = np.nonzero(kept)[1]
    offsets = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(np.add.reduce(kept, axis=1), out=offsets[1:])
    return Edits(state.pixels[places], state.values[places], offsets)
