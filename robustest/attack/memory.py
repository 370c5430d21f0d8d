"""What an image's attack was answered: a margin for every state asked, by the state's key.

In a plain dict, or, where compiled code is used, in a table of two arrays with open addressing, which takes a fifth of
the room. Both give the same answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack import kernels
from robustest.compiled import fast
from robustest.results import Margins

Keys = NDArray[np.uint64]

_SMALLEST = 64  # places of a new table; always a power of two, and at most half of them taken


class Memory:
    """Margins by key."""

    def __init__(self) -> None:
        self._margins: dict[int, float] = {}
        self._table: tuple[Keys, Margins] | None = None
        self._count = 0

    def __len__(self) -> int:
        return len(self._margins) if self._table is None else self._count

    def find(self, keys: Keys, out: Margins) -> int:
        """Write the margin of each key to `out`, NaN for one not known; returns how many are not."""
        if self._table is not None:
            return int(kernels.find_margins(*self._table, keys, out))
        get = self._margins.get
        found = [get(key, np.nan) for key in keys.tolist()]
        out[:] = found
        return sum(margin != margin for margin in found)

    def add(self, keys: Keys, margins: Margins) -> None:
        """Remember finite margins of states; known keys keep theirs, which is the same."""
        if self._table is None and not fast():
            self._margins.update(zip(keys.tolist(), margins.tolist(), strict=True))
            return
        if self._table is None:
            self._table = (np.zeros(_SMALLEST, np.uint64), np.full(_SMALLEST, np.nan))
            before, self._margins = self._margins, {}
            self.add(np.array(list(before), np.uint64), np.array(list(before.values()), np.float64))
        self._grow(self._count + len(keys))
        self._count += int(kernels.add_margins(*self._table, keys, margins))

    def _grow(self, entries: int) -> None:
        assert self._table is not None
        places = len(self._table[0])
        if 2 * entries <= places:
            return
        while 2 * entries > places:
            places *= 2
        keys, margins = self._table
        taken = ~np.isnan(margins)
        self._table = (np.zeros(places, np.uint64), np.full(places, np.nan))
        kernels.add_margins(*self._table, keys[taken], margins[taken])
