"""The adaptive cover of the tau-grid (S4): cells that are split only where the scores ask for it.

A cell is certified if at one of its points every margin exceeds what it can lose on the way to the cell's farthest
corner. Points that a game has scored before serve as such points first. An unfinished cover is progress, not proof.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.bounds.decision import Decision
from robustest.bounds.taugrid import Cover, TauGrid


def adaptive_cover(grid: TauGrid, *, queries: int = 100_000, visited: NDArray[np.float32] | None = None) -> Cover:
    """Cover the region of a grid by cells.

    Args:
        grid: region, constants and classifier.
        queries: new images to score at most; those visited are scored once more, to have their scores.
        visited: (N, m) points of the region that were met before, by a game say; used before any new point is.
    """
    return _Adaptive(grid, visited).run(queries)


@dataclass(frozen=True, slots=True)
class _Cell:
    """A box of the free dimensions, and which visited points lie in it."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    inside: NDArray[np.int64]


class _Adaptive:
    """One adaptive cover; cells wait in a heap, the one with the least certified margin first."""

    def __init__(self, grid: TauGrid, visited: NDArray[np.float32] | None) -> None:
        self.grid = grid
        region = grid.region
        points = np.zeros((0, len(region.dims)), np.float32) if visited is None else np.asarray(visited, np.float32)
        held = ((points >= region.lower) & (points <= region.upper)).all(axis=1)
        self.visited = np.unique(points[held], axis=0)
        parts = [self.visited[i : i + grid.batch] for i in range(0, len(self.visited), grid.batch)]
        self.known = (
            np.concatenate([grid.margins(p) for p in parts]) if parts else np.zeros((0, len(grid.constants.rivals)))
        )
        self.queries = self.cells = self.stuck = 0
        self.reused: set[int] = set()
        self.volume = 0.0

    def run(self, queries: int) -> Cover:
        """Split until every cell is certified, one is refuted, or the queries are spent."""
        region = self.grid.region
        wrong = np.flatnonzero((self.known < 0).any(axis=1))
        if len(wrong):
            return self._done(Decision.FALSIFIED, 0, self.visited[wrong[0]])
        root = _Cell(region.lower.astype(np.float64), region.upper.astype(np.float64), np.arange(len(self.visited)))
        heap: list[tuple[float, int, _Cell]] = [(0.0, 0, root)]
        count = itertools.count(1)
        while heap:
            taken = [heapq.heappop(heap)[2] for _ in range(min(self.grid.batch, len(heap)))]
            rest = [cell for cell in taken if not self._by_visited(cell)]
            if self.queries + len(rest) > queries:
                return self._done(Decision.OPEN, len(heap) + len(rest), None)
            if not rest:
                continue
            points = np.stack([((c.lower + c.upper) / 2) for c in rest]).astype(np.float32)
            margins = self.grid.margins(points)
            self.queries += len(rest)
            wrong = np.flatnonzero((margins < 0).any(axis=1))
            if len(wrong):
                return self._done(Decision.FALSIFIED, len(heap), points[wrong[0]])
            for cell, point, margin in zip(rest, points, margins, strict=True):
                short = (margin - self._loss(cell, point)).min()
                if short > 0:
                    self._certified(cell)
                    continue
                children = self._split(cell, margin)
                self.stuck += not children
                for child in children:
                    heapq.heappush(heap, (float(short), next(count), child))
        return self._done(Decision.PROVED if self.stuck == 0 else Decision.OPEN, self.stuck, None)

    def _loss(self, cell: _Cell, point: NDArray[np.float32]) -> NDArray[np.float64]:
        at = point.astype(np.float64)
        half = np.maximum(np.maximum(at - cell.lower, cell.upper - at), 0.0)
        return np.asarray(self.grid.constants.loss(half[None])[0])

    def _by_visited(self, cell: _Cell) -> bool:
        """Whether the visited point nearest to the cell's middle certifies it."""
        if not len(cell.inside):
            return False
        middle = (cell.lower + cell.upper) / 2
        best = cell.inside[np.abs(self.visited[cell.inside] - middle).max(axis=1).argmin()]
        if not (self.known[best] > self._loss(cell, self.visited[best])).all():
            return False
        self.reused.add(int(best))
        self._certified(cell)
        return True

    def _certified(self, cell: _Cell) -> None:
        region = self.grid.region
        self.cells += 1
        width = region.upper.astype(np.float64) - region.lower
        self.volume += float(np.prod((cell.upper - cell.lower)[width > 0] / width[width > 0]))

    def _split(self, cell: _Cell, margin: NDArray[np.float64]) -> list[_Cell]:
        """Two halves along the side over which the tightest margin can fall most; none if too thin to halve."""
        constants = self.grid.constants
        width = cell.upper - cell.lower
        worst = int((margin - constants.loss(width[None] / 2)[0]).argmin())
        weight = width * constants.rate[worst] if constants.norm is None else width
        side = int(weight.argmax())
        middle = (cell.lower[side] + cell.upper[side]) / 2
        # Points are float32: a cell thinner than their steps has no point of its own left.
        if width[side] <= 2.0**-22:
            return []
        low, high = cell.upper.copy(), cell.lower.copy()
        low[side] = high[side] = middle
        at = self.visited[cell.inside, side]
        return [_Cell(cell.lower, low, cell.inside[at <= middle]), _Cell(high, cell.upper, cell.inside[at >= middle])]

    def _done(self, decision: Decision, left: int, point: NDArray[np.float32] | None) -> Cover:
        witness = None if point is None else self.grid.region.render(point[None])[0]
        return self.grid.result(
            decision, witness, None, None, self.queries, len(self.reused), self.cells, left, self.volume
        )
