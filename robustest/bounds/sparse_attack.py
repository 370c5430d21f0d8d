"""Upper ends in L0: misclassified images with few changed pixels, found with the network's gradient and its scores.

Pixels are changed one at a time to the corner of the colour cube that costs the margin most, chosen among those that
the gradient ranks first; then every pixel that is not needed is put back, and pairs are traded for one pixel as long
as that works. The classifier itself has the last word on every image. Deterministic.
"""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import torch
from numpy.typing import NDArray

from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import Scorer

_RANKED = 64
"""Units that are tried at each step."""


def few_pixel_witness(
    graph: BoundGraph,
    scorer: Scorer,
    image: NDArray[np.float32],
    label: int,
    *,
    unit: int,
    most: int = 60,
    rounds: int = 8,
    seconds: float = math.inf,
) -> NDArray[np.float32] | None:
    """A misclassified image with few changed units, or None where none was found.

    Args:
        graph: the network, for its gradients. scorer: the classifier, which has the last word.
        image: (H, W, C) in [0, 1]. label: its class.
        unit: dimensions that count as one: C for pixels, 1 for single channels.
        most: units to change at most.
        rounds: of trading two units for one.
        seconds: CPU time of this thread after which nothing more is tried.
    """
    search = _Greedy(graph, scorer, image, label, unit, time.thread_time() + seconds)
    found = search.grow(image.reshape(-1, unit).copy(), most)
    if found is None:
        return None
    best = search.shrink(found)
    for _ in range(rounds):
        better = None if search.late else search.trade(best)
        if better is None:
            break
        best = search.shrink(better)
    return best.reshape(image.shape)


class _Greedy:
    """One image; states are (U, unit) arrays of float32."""

    def __init__(
        self, graph: BoundGraph, scorer: Scorer, image: NDArray[np.float32], label: int, unit: int, deadline: float
    ) -> None:
        self.graph, self.scorer, self.label, self.deadline = graph, scorer, label, deadline
        self.shape = image.shape
        self.base = image.reshape(-1, unit)
        self.corners = np.array(list(itertools.product((0.0, 1.0), repeat=unit)), dtype=np.float32)

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.thread_time() > self.deadline

    def margins(self, states: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N,) score of the label less the best other; the class is wrong where it is the first largest no more."""
        scores = np.asarray(self.scorer(states.reshape(-1, *self.shape)), dtype=np.float64)
        wrong = scores.argmax(axis=1) != self.label
        own = scores[:, self.label].copy()
        scores[:, self.label] = -np.inf
        gap = own - scores.max(axis=1)
        return np.asarray(np.where(wrong, np.minimum(gap, -1e-12), np.maximum(gap, 1e-12)))

    def changed(self, state: NDArray[np.float32]) -> NDArray[np.int64]:
        """Units that differ from the image."""
        return np.flatnonzero((state != self.base).any(axis=1))

    def ranked(self, state: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Unchanged units by how much the margin's gradient says that they can take from it, the best first."""
        point = torch.from_numpy(state.reshape(1, -1).astype(np.float64)).requires_grad_()
        with torch.enable_grad():
            scores = self.graph.forward(point)[0]
            others = scores.detach().clone()
            others[self.label] = -torch.inf
            (slope,) = torch.autograd.grad(scores[self.label] - scores[int(others.argmax())], point)
        steep = slope.numpy().reshape(state.shape)
        gain = np.maximum(steep * state, -steep * (1 - state)).sum(axis=1)
        gain[self.changed(state)] = -np.inf
        return np.argsort(-gain, kind="stable")[:count]

    def best_change(self, state: NDArray[np.float32], count: int) -> tuple[NDArray[np.float32], float]:
        """The state after the best change of one more unit, and its margin."""
        units = self.ranked(state, count)
        tries = np.repeat(state[None], len(units) * len(self.corners), axis=0)
        tries[np.arange(len(tries)), np.repeat(units, len(self.corners))] = np.tile(self.corners, (len(units), 1))
        values = self.margins(tries)
        best = int(values.argmin())
        return tries[best], float(values[best])

    def grow(self, state: NDArray[np.float32], most: int) -> NDArray[np.float32] | None:
        """Change units one by one until the class is wrong."""
        for _ in range(min(most, len(state))):
            state, margin = self.best_change(state, _RANKED)
            if margin < 0:
                return state
            if self.late:
                break
        return None

    def shrink(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put back every unit that is not needed, the least needed first."""
        while len(units := self.changed(state)) > 1 and not self.late:
            tries = np.repeat(state[None], len(units), axis=0)
            tries[np.arange(len(units)), units] = self.base[units]
            values = self.margins(tries)
            best = int(values.argmin())
            if values[best] >= 0:
                break
            state = tries[best]
        return state

    def trade(self, state: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Two units put back and one other changed, if the class stays wrong: the first pair that allows it."""
        units = self.changed(state)
        pairs = list(itertools.combinations(units.tolist(), 2))
        if not pairs:
            return None
        tries = np.repeat(state[None], len(pairs), axis=0)
        for attempt, pair in zip(tries, pairs, strict=True):
            attempt[list(pair)] = self.base[list(pair)]
        order = self.margins(tries).argsort(kind="stable")
        for at in order[:10].tolist():
            found, margin = self.best_change(tries[at], _RANKED)
            if margin < 0 and len(self.changed(found)) < len(units):
                return found
        return None
