"""Shrinking: from an adversarial image to one from which no single pixel can be put back."""

from __future__ import annotations

import numpy as np

from robustest.attack.task import Search
from robustest.results import Edits

_MANY = 24  # pixels above which groups are tried first


def without(state: Edits, drops: list[np.ndarray[tuple[int], np.dtype[np.int64]]]) -> Edits:
    """One image for each entry of `drops`: `state` (N = 1) with the changes at those places put back."""
    sizes = np.array([len(places) for places in drops])
    keep = np.ones((len(drops), len(state.pixels)), bool)
    keep[np.repeat(np.arange(len(drops)), sizes), np.concatenate(drops)] = False
    offsets = np.zeros(len(drops) + 1, np.int64)
    np.cumsum(len(state.pixels) - sizes, out=offsets[1:])
    places = np.nonzero(keep)[1]
    return Edits(state.pixels[places], state.values[places], offsets)


def shrink(state: Edits) -> Search:
    """Put pixels back, in groups while there are many, then most dispensable first, until none can be.

    Args:
        state: an adversarial image, N = 1.
    """
    group = len(state.pixels) // 4 if len(state.pixels) > _MANY else 1
    while len(state.pixels) > 1 and group >= 1:
        places = np.arange(len(state.pixels))
        parts = [places[start : start + group] for start in range(0, len(places), group)]
        margins = yield without(state, parts)
        free = np.argsort(margins, kind="stable")[: int((margins < 0).sum())]
        if not len(free):
            group //= 2
            continue
        counts = sorted({min(len(free), 1 << power) for power in range(len(free).bit_length() + 1)} - {len(parts)})
        joined = [np.concatenate([parts[part] for part in free[:count]]) for count in counts]
        together = yield without(state, joined)
        best = max((place for place, margin in enumerate(together) if margin < 0), default=0)
        state = without(state, [joined[best]])
        group = min(group, max(len(state.pixels) // 4, 1))
