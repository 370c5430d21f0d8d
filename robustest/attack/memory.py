"""What the attacks on images were answered: a margin for every state asked, by the state's key.

The memories of all images in play lie side by side, so that a group's questions are looked up together. In plain dicts,
or, where compiled code is used, in tables with open addressing, rows of two arrays, which take a fifth of the room. Both
give the same answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack import kernels
from robustest.attack.books import Books
from robustest.compiled import fast
from robustest.results import Margins

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]

_NO_SLOTS: Ints = np.zeros(0, np.int64)
_SMALLEST = 512  # places of a new table; always a power of two, and at most half of them taken


class Memories:
    """Margins by key, of several images, and what is counted of them.

    Args:
        slots: how many images.

    Attributes:
        entries: (S,) states in the tables of each.
    """

    def __init__(self, slots: int) -> None:
        self._margins: list[dict[int, float]] = [{} for _ in range(slots)]
        self._table: tuple[Keys, Margins] | None = None  # (slots, places) each
        self.entries = np.zeros(slots, np.int64)
        self.books = Books(slots)

    def clear(self, slot: int) -> None:
        """Forget all of one image."""
        self._margins[slot] = {}
        self.entries[slot] = 0
        self.books.clear(slot)
        if self._table is not None:
            self._table[1][slot] = np.nan

    def count(self, slot: int) -> int:
        """How many states of one image are known."""
        return len(self._margins[slot]) if self._table is None else int(self.entries[slot])

    def find(self, slots: Ints, bounds: Ints, keys: Keys, left: Ints) -> tuple[Margins, NDArray[np.bool_], Ints]:
        """What is known of states.

        Args:
            slots: (G,) images. bounds: (G + 1,) the rows of each among the N keys. left: (G,) queries each may spend.

        Returns:
            (N,) margins, NaN where not known; (N,) those not known that the queries left allow, the first of each image;
            (G,) how many of each image are not known, allowed or not.
        """
        if self._table is not None:
            return kernels.find_margins(*self._table, slots, bounds, keys, left)
        known, sent, unknown = np.empty(len(keys)), np.zeros(len(keys), bool), np.zeros(len(slots), np.int64)
        for number, slot in enumerate(slots.tolist()):
            rows = slice(bounds[number], bounds[number + 1])
            get = self._margins[slot].get
            known[rows] = [get(key, np.nan) for key in keys[rows].tolist()]
            new = np.isnan(known[rows])
            unknown[number] = np.add.reduce(new, dtype=np.int64)
            sent[rows] = new & (np.cumsum(new) <= left[number])
        return known, sent, unknown

    def add(self, slots: Ints, bounds: Ints, keys: Keys, margins: Margins) -> Margins:
        """Remember finite margins of states; known keys keep theirs, which is the same.

        Args:
            slots: (G,) images. bounds: (G + 1,) the rows of each among the N keys and margins.

        Returns:
            (G,) the lowest of each image's margins, inf where there are none.
        """
        if fast() or self._table is not None:
            table = self.tables(slots, np.diff(bounds))
            return kernels.add_margins(*table, self.entries, slots, bounds, keys, margins)
        lowest = np.full(len(slots), np.inf)
        for number, slot in enumerate(slots.tolist()):
            own = margins[bounds[number] : bounds[number + 1]].tolist()
            self._margins[slot].update(zip(keys[bounds[number] : bounds[number + 1]].tolist(), own, strict=True))
            lowest[number] = min(own, default=np.inf)
        return lowest

    def tables(self, slots: Ints = _NO_SLOTS, more: Ints = _NO_SLOTS) -> tuple[Keys, Margins]:
        """Keys and margins in tables, (S, places) each, with room for so many more states (G,) of each of these images."""
        count = len(self.entries)
        if self._table is None:
            self._table = (np.zeros((count, _SMALLEST), np.uint64), np.full((count, _SMALLEST), np.nan))
            before, self._margins = self._margins, [{} for _ in range(count)]
            for slot, margins in enumerate(before):
                keys = np.array(list(margins), np.uint64)
                self.add(np.array([slot]), np.array([0, len(keys)]), keys, np.array(list(margins.values()), np.float64))
        if not len(slots):
            return self._table
        places = self._table[0].shape[1]
        entries = int(kernels.most(self.entries, slots, more))
        if 2 * entries > places:
            larger = 1 << (2 * entries - 1).bit_length()
            grown = (np.zeros((count, larger), np.uint64), np.full((count, larger), np.nan))
            kernels.move_margins(*self._table, *grown)
            self._table = grown
        return self._table


class Memory:
    """One image's part of several images' memories.

    Args:
        memories: of the images in play. slot: the place of this one, which must be free.
    """

    def __init__(self, memories: Memories | None = None, slot: int = 0) -> None:
        self._memories = memories or Memories(1)
        self._slot = np.array([slot])
        self._memories.clear(slot)
        self.slot, self.books = slot, self._memories.books

    def __len__(self) -> int:
        return self._memories.count(self.slot)

    def find(self, keys: Keys, out: Margins) -> int:
        """Write the margin of each key to `out`, NaN for one not known; returns how many are not."""
        bounds = np.array([0, len(keys)])
        out[:], _, unknown = self._memories.find(self._slot, bounds, keys, bounds[1:])
        return int(unknown[0])

    def add(self, keys: Keys, margins: Margins) -> None:
        """Remember finite margins of states; known keys keep theirs, which is the same."""
        self._memories.add(self._slot, np.array([0, len(keys)]), keys, margins)
