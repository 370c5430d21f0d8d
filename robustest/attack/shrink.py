"""Shrinking: from an adversarial image to one from which no single pixel can be put back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack.task import Search
from robustest.results import Edits

_MANY = 24  # pixels above which groups are tried first


def shrink(state: Edits) -> Search:
    """Put pixels back, in groups while there are many, then most dispensable first, until none can be.

    Args:
        state: an adversarial image, N = 1.
    """
    group = len(state.pixels) // 4 if len(state.pixels) > _MANY else 1
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


def keeping(state: Edits, kept: NDArray[np.bool_]) -> Edits:
    """N images, each with those of the k changes of `state` (N = 1) that its row of `kept` (N, k) has."""
    places = np.nonzero(kept)[1]
    offsets = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(np.add.reduce(kept, axis=1), out=offsets[1:])
    return Edits(state.pixels[places], state.values[places], offsets)
