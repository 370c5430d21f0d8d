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
        self._known: dict[int, NDArray[np.float64]] = {}
        self._heard: list[tuple[Ints, NDArray[np.float64]]] = []  # not yet in `_known`, where it is seldom needed
        self.singles: list[tuple[Ints, Ints, NDArray[np.float64]]] = []

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
            for earlier, known in self._heard:
                self._known.update(zip(earlier.tolist(), known, strict=True))
            self._heard.clear()
            for place in np.flatnonzero(np.isnan(rows[:, 0])).tolist():
                rows[place] = self._known.get(int(keys[place]), margins[place])
        self._heard.append((keys, rows))
        return rows

    def hear(self, cells: Ints, colours: Ints, rows: NDArray[np.float64]) -> None:
        """Keep what single edits of the clean image did to the margin (N, R) to each rival."""
        self.singles.append((cells, colours, self.clean - rows))

    def ranked(self) -> list[int]:
        """Rivals by how many edits each would take, were all as good as the best ones tried."""
        if not self.singles:
            return list(range(len(self.classes)))
        drops = np.concatenate([drops for _, _, drops in self.singles])
        strongest = np.sort(drops, axis=0)[-_STRONGEST:].mean(axis=0)
        cost = np.where(strongest > 0, self.clean / np.maximum(strongest, 1e-12), np.inf)
        return [int(place) for place in np.argsort(cost, kind="stable")]
