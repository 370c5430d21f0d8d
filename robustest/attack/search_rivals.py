"""The classes that an image may be pushed to, and how far each scored image is from each of them.

The margin alone is the distance to the nearest of them: it hides what an edit does for all others, and breaks wherever
the nearest changes. Knows nothing of classifiers or budgets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack.search_states import Ints

_MOST = 9  # classes kept: all others of ten
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
        self.singles: list[tuple[Ints, Ints, NDArray[np.float64]]] = []
        self._ranked: tuple[int, list[int]] = (0, [])  # after so many of `singles`

    def margins(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, R) margin to each rival, of scores (N, K)."""
        gaps: NDArray[np.float64] = scores[:, self.label, None] - scores[:, self.classes]
        return gaps

    def hear(self, cells: Ints, colours: Ints, rows: NDArray[np.float64]) -> None:
        """Keep what single edits of the clean image did to the margin (N, R) to each rival."""
        self.singles.append((cells, colours, self.clean - rows))

    def hear_in_turn(self, cells: Ints, colours: Ints, rows: NDArray[np.float64], ends: list[int]) -> None:
        """As `hear` of several batches, one after the other, up to each of these ends."""
        drops, start = self.clean - rows, 0
        for end in ends:
            self.singles.append((cells[start:end], colours[start:end], drops[start:end]))
            start = end

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
