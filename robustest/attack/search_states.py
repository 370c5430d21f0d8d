"""States of the pixel game as arrays: sets of (cell, colour) edits, and batches of them in compressed rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.attack import search_turn_kernels
from robustest.attack.record import GOLDEN, scrambled
from robustest.compiled import fast
from robustest.results import Margins

Ints = NDArray[np.int64]

_SIZES = tuple(size << power for power in range(15) for size in (2, 3))  # 2, 3, 4, 6, 8, 12, ...
_SORTED = np.array(_SIZES)


@dataclass(frozen=True, slots=True)
class State:
    """One set of edits; a cell occurs once.

    cells: (k,) where. colours: (k,) which of the palette's colours.
    """

    cells: Ints
    colours: Ints

    @staticmethod
    def empty() -> State:
        """No edit: the image as it is."""
        return State(np.zeros(0, np.int64), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.cells)

    def keep(self, places: Ints | NDArray[np.bool_]) -> State:
        """The edits at these places alone."""
        return State(self.cells[places], self.colours[places])

    def without(self, places: Ints) -> State:
        """The state without the edits at these places."""
        keep = np.ones(len(self), bool)
        keep[places] = False
        return self.keep(keep)

    def plus(self, other: State) -> State:
        """Both sets of edits, which have no cell in common."""
        return State(np.concatenate([self.cells, other.cells]), np.concatenate([self.colours, other.colours]))


@dataclass(frozen=True, slots=True)
class Batch:
    """N states in compressed rows: state i is rows `offsets[i]:offsets[i + 1]`."""

    cells: Ints
    colours: Ints
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> State:
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return State(self.cells[rows], self.colours[rows])

    @staticmethod
    def of(states: Sequence[State]) -> Batch:
        """A batch of at least one state."""
        offsets = np.cumsum([0, *(len(state) for state in states)])
        return Batch(
            np.concatenate([state.cells for state in states]),
            np.concatenate([state.colours for state in states]),
            offsets,
        )

    @staticmethod
    def square(cells: Ints, colours: Ints) -> Batch:
        """N states of k edits each, from (N, k) arrays."""
        count, size = cells.shape
        return Batch(cells.reshape(-1), colours.reshape(-1), np.arange(count + 1) * size)


def stretches(order: State, bounds: Sequence[tuple[int, int]]) -> Batch:
    """States of the edits from one place up to another of an order, at least one such state."""
    return Batch(
        np.concatenate([order.cells[start:stop] for start, stop in bounds]),
        np.concatenate([order.colours[start:stop] for start, stop in bounds]),
        np.cumsum([0, *(stop - start for start, stop in bounds)]),
    )


def prefixes(order: State) -> Batch:
    """The first 2, 3, 4, 6, 8, 12, ... edits of an order, and all of it."""
    if fast():
        return Batch(*search_turn_kernels.prefixes(order.cells, order.colours, _SORTED))
    return stretches(order, [*((0, size) for size in _SIZES if size < len(order)), (0, len(order))])


def without_parts(state: State, order: Ints, group: int) -> Batch:
    """States with so many edits fewer, those next in an order of their k places, until each was left out once; k >= 1."""
    size = len(state)
    if fast():
        return Batch(*search_turn_kernels.without_parts(state.cells, state.colours, order, group))
    part_of = np.empty(size, np.int64)
    part_of[order] = np.arange(size) // group
    kept = part_of != np.arange(-(-size // group))[:, None]
    places = np.nonzero(kept)[1]
    offsets = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(np.add.reduce(kept, axis=1), out=offsets[1:])
    return Batch(state.cells[places], state.colours[places], offsets)


def without_each(state: State) -> Batch:
    """The k states with one edit fewer; k >= 1."""
    size = len(state)
    if fast():
        return Batch.square(*search_turn_kernels.without_each(state.cells, state.colours))
    others = ~np.eye(size, dtype=bool)
    cells = np.broadcast_to(state.cells, (size, size))[others].reshape(size, size - 1)
    return Batch.square(cells, np.broadcast_to(state.colours, (size, size))[others].reshape(size, size - 1))


def with_each(state: State, single: State, leaps: Sequence[State]) -> Batch:
    """The states with one more edit, each of `single`, and then those with all edits of each of `leaps`."""
    size, count = len(state), len(single)
    sizes = np.array([size + 1] * count + [size + len(leap) for leap in leaps], np.int64)

    def joined(own: Ints, added: Ints, more: list[Ints]) -> Ints:
        ones = np.empty((count, size + 1), np.int64)
        ones[:, :size], ones[:, size] = own, added
        return np.concatenate([ones.reshape(-1), *(part for leap in more for part in (own, leap))])

    return Batch(
        joined(state.cells, single.cells, [leap.cells for leap in leaps]),
        joined(state.colours, single.colours, [leap.colours for leap in leaps]),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
    )


def state_keys(width: int, cells: Ints, colours: Ints, offsets: Ints) -> Ints:
    """(N,) a key for each set of edits, the sum of its edits' keys as it overflows; no state may be empty.

    Args:
        width: cells of the image, rim included.
    """
    keys = scrambled((colours * width + cells + 1).astype(np.uint64) * GOLDEN).view(np.int64)
    return np.add.reduceat(keys, offsets[:-1])


def pixels_and_values(
    pixel_of_cell: Ints, table: NDArray[np.float32], cells: Ints, colours: Ints
) -> tuple[Ints, NDArray[np.float32]]:
    """(M,) pixels and (M, C) values of edits; `table` is the palette, (V, P, C) or (V, 1, C)."""
    pixels = pixel_of_cell[cells]
    return pixels, table[colours, pixels if table.shape[1] > 1 else 0]


def smallest_flip(margins: Margins, offsets: Ints) -> int:
    """The first of the smallest states whose margin is < 0; -1 where there is none."""
    flips = np.flatnonzero(margins < 0)
    return int(flips[np.diff(offsets)[flips].argmin()]) if len(flips) else -1
