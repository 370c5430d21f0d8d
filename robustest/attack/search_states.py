"""States of the pixel game as arrays: sets of (cell, colour) edits, and batches of them in compressed rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_SIZES = tuple(size << power for power in range(15) for size in (2, 3))  # 2, 3, 4, 6, 8, 12, ...


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

    def plus(self, other: State) -> State:
        """Both sets of edits, which have no cell in common."""
        return State(np.concatenate([self.cells, other.cells]), np.concatenate([self.colours, other.colours]))

    def without_each(self) -> list[State]:
        """The k states with one edit fewer."""
        return [self.keep(np.arange(len(self)) != place) for place in range(len(self))]


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


def prefixes(order: State) -> list[State]:
    """The first 2, 3, 4, 6, 8, 12, ... edits of an order, and all of it."""
    sizes = [size for size in _SIZES if size < len(order)]
    return [order.keep(np.arange(size)) for size in [*sizes, len(order)]]


def state_sums(keys: Ints, cells: Ints, colours: Ints, offsets: Ints) -> Ints:
    """(N,) the sum of the keys (V, cells) of each state's edits, as it overflows; no state may be empty."""
    return np.add.reduceat(keys[colours, cells], offsets[:-1])
