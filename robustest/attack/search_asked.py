"""Which states a few-pixel search has asked about, by their keys: in a plain set, or, compiled, in a table of one array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack import search_kernels
from robustest.attack.search_states import Batch, Ints, smallest_flip, state_keys
from robustest.compiled import fast
from robustest.results import Margins

Table = NDArray[np.int64]

_SMALLEST = 256  # places of a new table; always a power of two, and at most half of them taken


class Asked:
    """A set of states.

    Args:
        width: cells of the image, rim included, as `state_keys` takes it.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._keys: set[int] = set()
        self._table: Table | None = None
        self._count = 0

    def __len__(self) -> int:
        return len(self._keys) if self._table is None else self._count

    def heed(self, batch: Batch, marks: NDArray[np.bool_], margins: Margins) -> tuple[Ints, int, int]:
        """Add states that were answered, and mark (V, cells) the edits that are a state by themselves.

        Returns:
            (N,) keys; how many states are new; the first of the smallest that flip, -1 where none does.
        """
        if fast() or self._table is not None:
            found: tuple[Ints, int, int] = search_kernels.heed(
                self.table(len(batch)), self.width, batch.cells, batch.colours, batch.offsets, marks, margins
            )
            self._count += found[1]
            return found
        before = len(self._keys)
        keys = state_keys(self.width, batch.cells, batch.colours, batch.offsets)
        self._keys.update(keys.tolist())
        single = batch.offsets[:-1][np.diff(batch.offsets) == 1]
        marks[batch.colours[single], batch.cells[single]] = True
        return keys, len(self._keys) - before, smallest_flip(margins, batch.offsets)

    def grew(self, new: int) -> None:
        """So many states were added to `table` by its user."""
        self._count += new

    def fresh(self, batch: Batch) -> Ints:
        """Which states of a batch are not in the set, each once, in their order."""
        keys = state_keys(self.width, batch.cells, batch.colours, batch.offsets)
        if self._table is not None:
            return np.array(search_kernels.unasked(self._table, keys), np.int64)
        first = {key: place for place, key in reversed(list(enumerate(keys.tolist()))) if key not in self._keys}
        return np.array(sorted(first.values()), np.int64)

    def table(self, more: int = 0) -> Table:
        """The keys in an array of 2^n places, 0 where free, with room for so many more."""
        if self._table is None:
            self._table = np.zeros(_SMALLEST, np.int64)
            before, self._keys = self._keys, set()
            self._grow(len(before))
            self._count = int(search_kernels.add_keys(self._table, np.array(list(before), np.int64)))
        self._grow(self._count + more)
        return self._table

    def _grow(self, entries: int) -> None:
        assert self._table is not None
        places = len(self._table)
        if 2 * entries <= places:
            return
        while 2 * entries > places:
            places *= 2
        before = self._table
        self._table = np.zeros(places, np.int64)
        search_kernels.add_keys(self._table, before[before != 0])
