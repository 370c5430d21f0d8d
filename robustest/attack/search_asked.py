"""Which states a few-pixel search has asked about, and what it heard of each rival then; by the states' keys.

In a plain dict, or, compiled, in a table with open addressing, which takes a third of the room. Both give the same answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack import search_kernels
from robustest.attack.search_rivals import Rivals
from robustest.attack.search_states import Batch, Ints, smallest_flip, state_keys
from robustest.compiled import fast
from robustest.results import Margins

Rows = NDArray[np.float64]
Table = tuple[Ints, Ints, Rows]  # see `Asked.table`

NOTHING: Rows = np.zeros((0, 0))  # heard of no rival
_NO_CLASSES: Ints = np.zeros(0, np.int64)
_SMALLEST = 512  # places of a new table; always a power of two, and at most half of them taken


class Asked:
    """States asked about.

    Args:
        width: cells of the image, rim included, as `state_keys` takes it.
        rivals: R classes whose margins are kept of each state; None for none.
    """

    def __init__(self, width: int, rivals: Rivals | None) -> None:
        self.width, self._rivals = width, rivals
        self.label, self.classes = (0, _NO_CLASSES) if rivals is None else (rivals.label, rivals.classes)
        self._known: dict[int, NDArray[np.float64] | None] = {}
        self._table: Table | None = None
        self._count = 0

    def __len__(self) -> int:
        return len(self._known) if self._table is None else self._count

    def heed(
        self, batch: Batch, marks: NDArray[np.bool_], margins: Margins, scores: NDArray[np.float64] | None
    ) -> tuple[Rows, int, int]:
        """Add states that were answered, and mark (V, cells) the edits that are a state by themselves.

        Args:
            margins: (N,) answers, taken for the margin to each rival where none was ever heard of.
            scores: (N, K), NaN where remembered; None where all were.

        Returns:
            (N, R) margin to each rival; of a state remembered, what was heard when it was first scored. How many states
            are new. The first of the smallest that flip, -1 where none does.
        """
        if fast() or self._table is not None:
            rows = np.empty((len(batch), len(self.classes)))
            new, flip = search_kernels.heed(
                *self.table(len(batch)),
                self._count,
                self.width,
                batch.cells,
                batch.colours,
                batch.offsets,
                marks,
                margins,
                NOTHING if scores is None else scores,
                self.label,
                self.classes,
                rows,
            )
            self._count += new
            return rows, new, flip
        before = len(self._known)
        keys = state_keys(self.width, batch.cells, batch.colours, batch.offsets).tolist()
        rows = NOTHING
        if self._rivals is not None:
            rows = np.full((len(keys), len(self.classes)), np.nan) if scores is None else self._rivals.margins(scores)
            for place in np.flatnonzero(np.isnan(rows[:, 0])).tolist():
                heard = self._known.get(keys[place])
                rows[place] = margins[place] if heard is None else heard
            self._known.update(zip(keys, rows, strict=True))
        else:
            self._known.update(dict.fromkeys(keys))
        single = batch.offsets[:-1][np.diff(batch.offsets) == 1]
        marks[batch.colours[single], batch.cells[single]] = True
        return rows, len(self._known) - before, smallest_flip(margins, batch.offsets)

    def grew(self, new: int) -> None:
        """So many states were added to `table` by its user."""
        self._count += new

    def fresh(self, batch: Batch) -> Ints:
        """Which states of a batch were not asked about, each once, in their order."""
        keys = state_keys(self.width, batch.cells, batch.colours, batch.offsets)
        if self._table is not None:
            return np.array(search_kernels.unasked(self._table[0], keys), np.int64)
        first = {key: place for place, key in reversed(list(enumerate(keys.tolist()))) if key not in self._known}
        return np.array(sorted(first.values()), np.int64)

    def table(self, more: int = 0) -> Table:
        """With room for so many more: keys, 0 where free, of 2^n places; of each place the row; rows (M, R)."""
        if self._table is None:
            self._table = (np.zeros(_SMALLEST, np.int64), np.zeros(_SMALLEST, np.int64), self._room(_SMALLEST // 2))
            if self._known:
                self._move()
        if 2 * (self._count + more) > len(self._table[0]):
            self._grow(self._count + more)
        return self._table

    def _move(self) -> None:
        """Put into the table what plain code came to know."""
        assert self._table is not None
        before, self._known = self._known, {}
        keys = np.array(list(before), np.int64)
        rows = np.array(list(before.values())) if self._rivals is not None else np.zeros((len(keys), 0))
        if 2 * len(keys) > _SMALLEST:
            self._grow(len(keys))
        self._count = int(search_kernels.add_rows(*self._table, 0, keys, rows))

    def _room(self, count: int) -> Rows:
        return np.empty((count, len(self.classes)))

    def _grow(self, entries: int) -> None:
        assert self._table is not None
        keys, numbers, rows = self._table
        places = len(keys)
        while 2 * entries > places:
            places *= 2
        grown = self._room(places // 2)
        grown[: len(rows)] = rows
        self._table = (np.zeros(places, np.int64), np.zeros(places, np.int64), grown)
        search_kernels.move_rows(keys, numbers, *self._table[:2])
