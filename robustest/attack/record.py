"""What is remembered of one image's attack: every margin by its set of edits, the best image, the curve, the counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack import kernels
from robustest.attack.memory import Memory
from robustest.compiled import fast
from robustest.results import Edits, Margins
from robustest.settings import Norm

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def edit_keys(edits: Edits) -> NDArray[np.uint64]:
    """(M,) a 64-bit key for each (pixel, colour): splitmix64 (Steele, Lea & Flood 2014) over its parts."""
    # Scrambled before the colour comes in: pixel 0 made black would else have the key 0, as if nothing had changed.
    keys = scrambled((edits.pixels.astype(np.uint64) + np.uint64(1)) * GOLDEN)
    bits = np.ascontiguousarray(edits.values, np.float32).view(np.uint32)
    for channel in range(bits.shape[1]):
        keys = scrambled(keys ^ (bits[:, channel].astype(np.uint64) + GOLDEN))
    return keys


def scrambled(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The last step of splitmix64: (M,) numbers, each turned into another that looks random."""
    keys = (keys ^ (keys >> np.uint64(30))) * _MIX[0]
    keys = (keys ^ (keys >> np.uint64(27))) * _MIX[1]
    return keys ^ (keys >> np.uint64(31))


def state_keys(edits: Edits) -> NDArray[np.uint64]:
    """(N,) a key for each *set* of edits: the sum of its edits' keys, so that their order does not matter."""
    if fast() and edits.values.flags.c_contiguous:
        return kernels.state_keys(edits.pixels, edits.values, edits.offsets)
    keys = edit_keys(edits)
    sums = np.zeros(len(keys) + 1, np.uint64)
    np.cumsum(keys, out=sums[1:])
    return sums[edits.offsets[1:]] - sums[edits.offsets[:-1]]


def rounded_to_eight_bit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours (M, C) in [0, 1], rounded to multiples of 1/255."""
    if fast() and values.flags.c_contiguous:
        return kernels.rounded_to_eight_bit(values)
    return np.rint(values * 255).astype(np.float32) / np.float32(255)


def distances_of(edits: Edits, base: NDArray[np.float32], norm: Norm) -> NDArray[np.float64]:
    """(N,) distance of each image from `base` (P, C) in the norm; images in [0, 1]."""
    if norm == "l0":
        return edits.sizes.astype(np.float64)
    gaps = np.abs(edits.values.astype(np.float64) - base[edits.pixels])
    if norm == "l0_dims":
        each = (gaps > 0).sum(axis=1).astype(np.float64)
    elif norm == "l1":
        each = gaps.sum(axis=1)
    elif norm == "l2":
        each = (gaps**2).sum(axis=1)
    else:
        largest = np.zeros(len(edits))
        np.maximum.at(largest, edits.rows, gaps.max(axis=1, initial=0.0))
        return largest
    total: NDArray[np.float64] = np.bincount(edits.rows, weights=each, minlength=len(edits)).astype(np.float64)
    return np.sqrt(total) if norm == "l2" else total


class Record:
    """Memory and best result of one image's attack.

    Args:
        base: (P, C) colours of the clean image in [0, 1].
        norm: the distance to be made small. budget: queries allowed, the clean image's included.
        memory: of what this image's states were answered; who asks about several images fills it, and keeps the books.
    """

    def __init__(self, base: NDArray[np.float32], norm: Norm, budget: int, memory: Memory) -> None:
        self.base, self.norm, self.memory = base, norm, memory
        self.allow(budget)
        self.best: Edits | None = None
        self.best_distance = np.inf
        self._pixels = 0  # of the best, in Linf alone
        self.curve: list[tuple[int, float]] = []
        self._checked: Edits | None = None  # the best, once all its neighbours were scored

    def allow(self, budget: int) -> None:
        """Set how many queries may be spent in all."""
        self.budget = self.memory.books.budget[self.memory.slot] = budget

    @property
    def queries(self) -> int:
        """Queries spent."""
        return int(self.memory.books.queries[self.memory.slot])

    @property
    def left(self) -> int:
        """Queries not yet spent."""
        return self.budget - self.queries

    def improve(self, edits: Edits, start: int, margins: Margins) -> None:
        """Keep the nearest of the states that flip, of those sent to the classifier, in the order they were asked.

        Of those equally near in Linf it is the one of fewest pixels: putting a pixel back often leaves that distance as it is.

        Args:
            edits: a batch, of which this image's states are those from `start` on.
            margins: of these states, one each, which were the last queries counted.
        """
        before, nearest = self.queries - len(margins), -1
        flips = [index for index, margin in enumerate(margins.tolist()) if margin < 0]
        pixels = [0] * len(flips)
        if self.norm == "l0":
            bounds = edits.offsets[start : start + len(margins) + 1].tolist()
            reached = [float(bounds[index + 1] - bounds[index]) for index in flips]
        else:
            states = edits.take(np.array(flips, np.int64) + start)
            reached = distances_of(states, self.base, self.norm).tolist()
            if self.norm == "linf":
                pixels = states.sizes.tolist()
        for index, distance, size in zip(flips, reached, pixels, strict=True):
            if (distance, size) >= (self.best_distance, self._pixels):
                continue
            if distance < self.best_distance:
                self.curve.append((before + index + 1, distance))
            self.best_distance, self._pixels, nearest = distance, size, index
        if nearest >= 0:
            self.best = edits.one(start + nearest)
        if self.norm == "l0":
            self.memory.books.nearest[self.memory.slot] = self.best_distance

    def unchecked(self) -> int:
        """How many of the best image's neighbours with one pixel put back were never scored."""
        if self.best is None or self._checked is self.best:
            return 0
        if fast() and self.best.values.flags.c_contiguous:
            each = kernels.state_keys(self.best.pixels, self.best.values, np.arange(len(self.best.pixels) + 1))
        else:
            each = edit_keys(self.best)
        unknown = self.memory.find(each.sum(dtype=np.uint64) - each, np.empty(len(each)))
        if not unknown:
            self._checked = self.best
        return unknown
