"""The classes that an image may be pushed to, and how far each scored image is from each of them.

The margin alone is the distance to the nearest of them: it hides what an edit does for all others, and breaks wherever
the nearest changes. Knows nothing of classifiers or budgets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack import search_kernels
from robustest.attack.search_states import Ints
from robustest.compiled import fast
from robustest.results import Margins

_MOST = 9  # classes kept: all others of ten
_SMALLEST = 256  # places of a new table; always a power of two, and at most half of them taken
_STRONGEST = 6  # single edits whose mean effect tells how many a class would take


class Rivals:
    """The classes nearest to the clean image, and what the images scored so far tell of them.

    Args:
        scores: (K,) of the clean image, logits or logarithms of probabilities. label: its class.
    """

    def __init__(self, scores: NDArray[np.float64], label: int) -> None:
        order = np.argsort(-scores, kind="stable")
        self.label = label
        self.classes: Ints = order[order != label][:_MOST]
        self.clean: NDArray[np.float64] = scores[label] - scores[self.classes]
        self._rows = _Rows(len(self.classes))
        self.singles: list[tuple[Ints, Ints, NDArray[np.float64]]] = []
        self._ranked: tuple[int, list[int]] = (0, [])  # after so many of `singles`

    def margins(self, scores: NDArray[np.float64] | None, keys: Ints, margins: Margins) -> NDArray[np.float64]:
        """(N, R) margin to each rival of N states; of one remembered, what was heard when it was first scored.

        Args:
            scores: (N, K), NaN where remembered; None where all were. keys: (N,) of the states.
            margins: (N,) for states never heard of.
        """
        if scores is None:
            rows, unknown = np.full((len(keys), len(self.classes)), np.nan), True
        elif fast():
            rows, unknown = search_kernels.gaps(scores, self.label, self.classes)
        else:
            rows = scores[:, self.label, None] - scores[:, self.classes]
            unknown = bool(np.isnan(rows[:, 0]).any())
        if unknown:
            places = np.flatnonzero(np.isnan(rows[:, 0]))
            rows[places] = margins[places, None]
            self._rows.find(keys, places, rows)
        self._rows.add(keys, rows)
        return rows

    def hear(self, cells: Ints, colours: Ints, rows: NDArray[np.float64]) -> None:
        """Keep what single edits of the clean image did to the margin (N, R) to each rival."""
        self.singles.append((cells, colours, self.clean - rows))

    def ranked(self) -> list[int]:
        """Rivals by how many edits each would take, were all as good as the best ones tried."""
        if not self.singles:
            return list(range(len(self.classes)))
        if self._ranked[0] == len(self.singles):
            return self._ranked[1]
        drops = np.concatenate([drops for _, _, drops in self.singles])
        strongest = np.sort(drops, axis=0)[-_STRONGEST:].mean(axis=0)
        cost = np.where(strongest > 0, self.clean / np.maximum(strongest, 1e-12), np.inf)
        self._ranked = len(self.singles), np.argsort(cost, kind="stable").tolist()
        return self._ranked[1]


class _Rows:
    """Rows of numbers by key, the last one told of each: in a dict, or, compiled, in arrays, which take a third of the room.

    Args:
        width: numbers a row.
    """

    def __init__(self, width: int) -> None:
        self._known: dict[int, NDArray[np.float64]] = {}
        self._told: list[tuple[Ints, NDArray[np.float64]]] = []  # not yet in either, where it is seldom needed
        self._table: tuple[Ints, Ints, NDArray[np.float64]] | None = None
        self._width, self._count = width, 0

    def add(self, keys: Ints, rows: NDArray[np.float64]) -> None:
        """Remember rows (N, width)."""
        self._told.append((keys, rows))

    def find(self, keys: Ints, places: Ints, out: NDArray[np.float64]) -> None:
        """Write what is known of the keys at some places to the rows of `out` there, and leave the others."""
        if fast() or self._table is not None:
            table = self._merged()
            search_kernels.find_rows(*table, keys, places, out)
            return
        for earlier, rows in self._told:
            self._known.update(zip(earlier.tolist(), rows, strict=True))
        self._told.clear()
        for place in places.tolist():
            out[place] = self._known.get(int(keys[place]), out[place])

    def _merged(self) -> tuple[Ints, Ints, NDArray[np.float64]]:
        """Keys, 0 where a place is free, of 2^n places, the row of each place, and the rows, with all that was told."""
        if self._table is None:
            self._table = (np.zeros(_SMALLEST, np.int64), np.zeros(_SMALLEST, np.int64), np.empty((0, self._width)))
            if self._known:
                self._told.insert(0, (np.array(list(self._known), np.int64), np.array(list(self._known.values()))))
                self._known = {}
        more = self._count + sum(len(keys) for keys, _ in self._told)
        keys, numbers, rows = self._table
        if 2 * more > len(keys):
            places = 1 << (2 * more - 1).bit_length()
            grown = np.empty((places // 2, self._width))
            grown[: self._count] = rows[: self._count]
            index = np.zeros(places, np.int64), np.zeros(places, np.int64)
            search_kernels.move_rows(keys, numbers, *index)
            self._table = (*index, grown)
        elif not len(rows):
            self._table = (keys, numbers, np.empty((len(keys) // 2, self._width)))
        for some, told in self._told:
            self._count = int(search_kernels.add_rows(*self._table, self._count, some, told))
        self._told.clear()
        return self._table
