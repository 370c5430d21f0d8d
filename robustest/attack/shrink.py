"""Shrinking: from an adversarial image to one from which no single pixel can be put back."""

from __future__ import annotations

import numpy as np

from robustest.attack.task import Search
from robustest.results import Edits


def without(state: Edits, drops: list[np.ndarray[tuple[int], np.dtype[np.int64]]]) -> Edits:
    """One image for each entry of `drops`: `state` (N = 1) with the changes at those places put back."""
    keep = np.ones((len(drops), len(state.pixels)), bool)
    for row, places in enumerate(drops):
        keep[row, places] = False
    offsets = np.concatenate([[0], np.cumsum(keep.sum(axis=1))]).astype(np.int64)
    places = np.nonzero(keep)[1]
    return Edits(state.pixels[places], state.values[places], offsets)


def shrink(state: Edits) -> Search:
    """Put pixels back, most dispensable first and several at once while that holds, until none can be.

    Args:
        state: an adversarial image, N = 1.
    """
    while len(state.pixels) > 1:
        count = len(state.pixels)
        margins = yield without(state, [np.array([place]) for place in range(count)])
        free = np.argsort(margins, kind="stable")[: int((margins < 0).sum())]
        if not len(free):
            return
        sizes = sorted({min(len(free), 1 << power) for power in range(len(free).bit_length() + 1)} - {0})
        sizes = [size for size in sizes if size < count]
        together = yield without(state, [free[:size] for size in sizes])
        flipped = [size for size, margin in zip(sizes, together, strict=True) if margin < 0]
        state = without(state, [free[: max(flipped, default=1)]])
