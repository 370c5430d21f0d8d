"""Networks of signs, bounded pattern by pattern: every choice of the signs that a region leaves undecided is tried.

CROWN's intervals over the region leave some of the first signs undecided: those whose input, rounding of its execution
included, may lie on either side of 0. For each pattern of them (a cell) what follows is constants: it is worked out
exactly, but for the rounding of each layer, and where that leaves a later sign undecided the cell is split on it too.
The cells together cover the region, whichever of them holds an image at all; so the least margin over the cells is a
bound. Only entries that depend on an undecided sign are worked out per cell; what no pattern can change is worked out once.

Complete for networks that read the image through signs alone, as far as the number of patterns can be paid; elsewhere
sound, with intervals for what does not go through a sign. Lines around signs say nothing after two layers: one sign of
the first layer can turn a dozen of the second, and then every one of the third.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from robustest.bounds.crown import interval_step, margin_rows, propagate
from robustest.bounds.graph import Activation, BoundGraph
from robustest.bounds.region import Region
from robustest.bounds.rounding import OUTWARD
from robustest.bounds.sign_sets import Array, Patterns, choices, possible_patterns
from robustest.bounds.sparse_rows import sparse_rows
from robustest.bounds.substitute import Intervals

_ENTRIES = 2_000_000
"""Numbers of one layer that are worked out at once: cells times entries."""
_SPLITS = 16
"""Cells to try at most for each pattern of the first signs: rounding may leave later ones undecided."""


class TooManyPatternsError(Exception):
    """More patterns than were allowed, or no time for the rest; nothing is said of the region."""


@dataclass(frozen=True, slots=True)
class CellMargins:
    """What the patterns of one region came to.

    lower: (Q,) least margin over the patterns seen, towards each rival; all of them unless one failed.
    patterns: seen. proved: every pattern was seen and every margin is positive.
    """

    lower: Array
    patterns: int

    @property
    def proved(self) -> bool:
        """Whether no image of the region is misclassified."""
        return bool((self.lower > 0).all())


def cell_margins(
    graph: BoundGraph,
    region: Region,
    label: int,
    *,
    most: int = 1 << 12,
    executed: bool = True,
    deadline: float = math.inf,
) -> CellMargins | None:
    """Least margins over every pattern of undecided signs of one region; None where there are too many of them.

    Args:
        graph: a network with signs. region: one set of images. label: the class to be proved.
        most: patterns to try at most. executed: for the network as executed.
        deadline: of this thread's CPU time.
    """
    rows, _ = margin_rows(graph.n_classes, torch.tensor([label]))
    with torch.no_grad():
        intervals = first_intervals(graph, region, executed=executed)
        patterns = _patterns(graph, region, intervals, most)
        if patterns is None:
            return None
        cells = _Cells(graph, intervals, rows[0], patterns, executed)
        try:
            return cells.least(_SPLITS * most, deadline)
        except TooManyPatternsError:
            return None


def score_cells(graph: BoundGraph, image: Tensor, *, most: int = 1 << 10) -> tuple[Array, Array] | None:
    """Every scores that rounding can make the executed network give one image: (K, P) middles, and half-widths.

    None where there are more than `most` patterns.
    """
    with torch.no_grad():
        region = Region.box_of(image, image, channels=graph.input_shape[2])
        intervals = first_intervals(graph, region)
        patterns = _patterns(graph, region, intervals, most)
        if patterns is None:
            return None
        cells = _Cells(graph, intervals, torch.eye(graph.n_classes, dtype=torch.float64), patterns, True)
        try:
            parts = list(cells.forms(_SPLITS * most, math.inf))
        except TooManyPatternsError:
            return None
    return np.concatenate([p[0] for p in parts], 1), np.concatenate([p[1] for p in parts], 1)


def first_intervals(graph: BoundGraph, region: Region, *, executed: bool = True) -> Intervals:
    """Intervals of every node: CROWN's up to the first sign, plain ones behind it."""
    first = first_sign(graph)
    before = BoundGraph(graph.nodes[: first + 1], graph.input_shape, graph.unit)
    found = propagate(before, region, executed=executed)
    for index in range(first + 1, len(graph.nodes)):
        lower, upper, error = interval_step(graph, index, found, graph.unit if executed else 0.0)
        found.lower.append(lower)
        found.upper.append(upper)
        found.error.append(error)
    return found


def _patterns(graph: BoundGraph, region: Region, intervals: Intervals, most: int) -> Patterns | None:
    """The patterns of the first signs; None for more than `most`, or where a number may overflow: its sign may be NaN."""
    if not all(bool(torch.isfinite(t).all()) for t in (*intervals.lower, *intervals.upper)):
        return None
    return possible_patterns(graph, region, intervals, first_sign(graph), most)


def first_sign(graph: BoundGraph) -> int:
    """The first node with signs."""
    return next(i for i, n in enumerate(graph.nodes) if n.activation is not None and n.activation.kind == "sign")


@dataclass(slots=True)
class _Step:
    """One node, for the entries of it that patterns change and that the scores need.

    rows: those entries, in rising order. matrix: CSR from the parent's such entries, of an affine node.
    size: its absolute values. middle, half: (R, 1) what all else adds, rounding included.
    """

    rows: NDArray[np.int64]
    matrix: Any = None
    size: Any = None
    middle: Array = field(default_factory=lambda: np.zeros((0, 1)))
    half: Array = field(default_factory=lambda: np.zeros((0, 1)))


Held = Mapping[int, tuple[Array, Array]]
"""Of a node the (R, B) middles and half-widths of its entries in B cells."""


class _Cells:
    """One region of one network, for some forms on its scores."""

    def __init__(
        self, graph: BoundGraph, intervals: Intervals, forms: Tensor, patterns: Patterns, executed: bool
    ) -> None:
        self.graph, self.intervals, self.patterns, self.first = graph, intervals, patterns, first_sign(graph)
        self.unit = graph.unit if executed else 0.0
        self.varying = self._depends()
        needed = self._needed()
        self.steps = {at: self._step(at, rows, needed) for at, rows in needed.items()}
        self._ending(forms)
        widest = max((len(step.rows) for step in self.steps.values()), default=1)
        self.batch = int(min(max(_ENTRIES // max(widest, 1), 16), 4096))
        self.seen = 0

    def least(self, most: int, deadline: float) -> CellMargins:
        """The least value of each form over all cells, or over those up to the first where one is not positive."""
        lower = np.full(len(self.last[2]), math.inf)
        for middle, half in self.forms(most, deadline):
            lower = np.minimum(lower, (middle - half).min(axis=1))
            if not (lower > 0).all():
                break
        return CellMargins(lower, self.seen)

    def forms(self, most: int, deadline: float) -> Iterator[tuple[Array, Array]]:
        """(Q, B) middles and half-widths of the forms on the scores, a batch of cells at a time."""
        self.seen = 0
        yield from self._walk(1, {}, 1, most, deadline)

    def _walk(self, start: int, held: Held, cells: int, most: int, deadline: float) -> Iterator[tuple[Array, Array]]:
        held = dict(held)
        last = len(self.graph.nodes) - 1
        for at in range(start, last):
            step = self.steps.get(at)
            if step is None or not len(step.rows):
                continue
            activation = self.graph.nodes[at].activation
            if activation is None or activation.kind != "sign":
                held[at] = self._value(at, step, held, cells)
                continue
            for owner, values in self._decided(at, step.rows, held, cells):
                mine = {k: (m[:, owner], h[:, owner] if h.shape[1] > 1 else h) for k, (m, h) in held.items()}
                mine[at] = values, np.zeros((len(values), 1))
                yield from self._walk(at + 1, mine, len(owner), most, deadline)
            return
        self.seen += cells
        if self.seen > most or time.thread_time() > deadline:
            raise TooManyPatternsError
        form, fixed, width = self.last
        read = self.steps.get(self.graph.nodes[last].parents[0])
        if read is None or not len(read.rows):
            yield np.repeat(fixed, cells, 1), np.repeat(width, cells, 1)
            return
        values, widths = held[self.graph.nodes[last].parents[0]]
        own = form[:, read.rows]
        yield own @ values + fixed, np.abs(own) @ widths * OUTWARD + width + np.zeros((1, cells))

    def _decided(
        self, at: int, rows: NDArray[np.int64], held: Held, cells: int
    ) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """The signs of some entries, a batch of cells at a time: which cells those are parts of, and (R, B) signs."""
        if at == self.first:
            values = self.patterns.values[np.searchsorted(self.patterns.entries, rows)]
            for begin in range(0, values.shape[1], self.batch):
                mine = values[:, begin : begin + self.batch]
                yield np.zeros(mine.shape[1], np.int64), mine
            return
        node = self.graph.nodes[at]
        assert node.activation is not None
        middle, half = self._of_parent(node.parents[0], rows, held, cells)
        yield from self._split(node.activation, middle - half, middle + half)

    def _split(self, activation: Activation, low: Array, high: Array) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """Batches of cells in which every sign is decided: whose parts they are, (B,), and the signs, (R, B)."""
        decided = np.where(low > 0, 1.0, np.where(high < 0, -1.0, activation.zero))
        open_ = (low <= 0) & (high >= 0) & ~((low == 0) & (high == 0))
        if activation.zero == 1:
            open_ &= low < 0
        if activation.zero == -1:
            open_ &= high > 0
        waiting: list[tuple[NDArray[np.int64], Array]] = []
        held = 0
        plain = np.flatnonzero(~open_.any(axis=0))
        if len(plain):
            waiting.append((plain, decided[:, plain]))
            held = len(plain)
        for cell in np.flatnonzero(open_.any(axis=0)):
            entries = np.flatnonzero(open_[:, cell])
            options = [choices(activation, float(low[e, cell]), float(high[e, cell])) for e in entries]
            total = math.prod(len(c) for c in options)
            for begin in range(0, total, self.batch):
                code = np.arange(begin, min(begin + self.batch, total))
                values = np.repeat(decided[:, [cell]], len(code), axis=1)
                for entry, possible in zip(entries, options, strict=True):
                    values[entry] = np.asarray(possible)[code % len(possible)]
                    code = code // len(possible)
                waiting.append((np.full(values.shape[1], cell, np.int64), values))
                held += values.shape[1]
                if held >= self.batch:
                    yield np.concatenate([w[0] for w in waiting]), np.concatenate([w[1] for w in waiting], axis=1)
                    waiting, held = [], 0
        if waiting:
            yield np.concatenate([w[0] for w in waiting]), np.concatenate([w[1] for w in waiting], axis=1)

    def _value(self, at: int, step: _Step, held: Held, cells: int) -> tuple[Array, Array]:
        """Middles and half-widths of a node that is no sign, in each cell."""
        node = self.graph.nodes[at]
        if node.op is not None:
            middle, half = held[node.parents[0]]
            width = step.size @ half * OUTWARD if half.any() else 0.0
            return step.matrix @ middle + step.middle, width + step.half
        parts = [self._of_parent(p, step.rows, held, cells) for p in node.parents]
        if node.activation is None:
            total = np.sum([m for m, _ in parts], axis=0), np.sum([h for _, h in parts], axis=0)
            return total[0], total[1] * OUTWARD + step.half
        low, high = (node.activation(torch.from_numpy(parts[0][0] + s * parts[0][1])).numpy() for s in (-1.0, 1.0))
        middle = (low + high) / 2
        return middle, np.maximum(high - middle, middle - low) * OUTWARD + step.half

    def _of_parent(self, parent: int, rows: NDArray[np.int64], held: Held, cells: int) -> tuple[Array, Array]:
        """What some entries of a parent are in each cell: its own values there, else what holds in the whole region."""
        low, high = self.intervals.lower[parent][0].numpy()[rows], self.intervals.upper[parent][0].numpy()[rows]
        middle = np.repeat(((low + high) / 2)[:, None], cells, 1)
        half = (np.maximum(high - middle[:, 0], middle[:, 0] - low) * OUTWARD)[:, None]
        if parent not in held:
            return middle, half
        half = np.repeat(half, cells, 1)
        mine = self.steps[parent].rows
        place = np.minimum(np.searchsorted(mine, rows), len(mine) - 1)
        own = mine[place] == rows
        middle[own], half[own] = held[parent][0][place[own]], held[parent][1][place[own]]
        return middle, half

    def _depends(self) -> list[Tensor]:
        """Of each node (1, n) bool, whether an entry differs between patterns."""
        found: list[Tensor] = []
        for at, node in enumerate(self.graph.nodes):
            if node.activation is not None and node.activation.kind == "sign":
                # An entry of an undecided sign; one that is the same in all patterns is a constant.
                found.append(self.intervals.lower[at] != self.intervals.upper[at])
            elif node.op is not None:
                read = found[node.parents[0]]
                found.append(
                    node.op.forward(read.double(), absolute=True) != 0 if bool(read.any()) else _none(node.size)
                )
            elif node.parents:
                found.append(torch.stack([found[p] for p in node.parents]).any(0))
            else:
                found.append(_none(node.size))
        return found

    def _needed(self) -> dict[int, NDArray[np.int64]]:
        """Of each node before the last the varying entries that the scores read, by way of others."""
        nodes = self.graph.nodes
        need = [_none(node.size) for node in nodes]
        need[-1] = torch.ones_like(need[-1])
        for at in range(len(nodes) - 1, 0, -1):
            mine = need[at] if at == len(nodes) - 1 else need[at] & self.varying[at]
            node = nodes[at]
            for parent in node.parents:
                read = mine if node.op is None else node.op.backward(mine.double(), absolute=True) != 0
                need[parent] |= read
        return {at: (need[at] & self.varying[at])[0].nonzero()[:, 0].numpy() for at in range(1, len(nodes) - 1)}

    def _rounding(self, at: int) -> Tensor:
        """(1, n) what executing a node and working with it here can add to or take from it, in any cell."""
        reach = [self.intervals.reach(p) for p in self.graph.nodes[at].parents]
        return self.graph.node_error(at, reach, unit=self.unit) + 3 * self.graph.node_error(at, reach, unit=0.0)

    def _fixed(self, parent: int) -> tuple[Tensor, Tensor]:
        """(1, n) middles and half-widths of the entries of a node that no pattern changes, 0 for the others."""
        low, high = self.intervals.lower[parent], self.intervals.upper[parent]
        middle = (low + high) / 2
        half = torch.maximum(high - middle, middle - low) * OUTWARD
        return middle.masked_fill(self.varying[parent], 0.0), half.masked_fill(self.varying[parent], 0.0)

    def _step(self, at: int, rows: NDArray[np.int64], needed: Mapping[int, NDArray[np.int64]]) -> _Step:
        node = self.graph.nodes[at]
        if not len(rows) or (node.activation is not None and node.activation.kind == "sign"):
            return _Step(rows)
        error = self._rounding(at)[0].numpy()[rows][:, None] * OUTWARD
        if node.op is None:
            return _Step(rows, half=error)
        parent = node.parents[0]
        middle, half = self._fixed(parent)
        base = (node.op.forward(middle) + node.op.constant)[0].numpy()[rows][:, None]
        width = node.op.forward(half, absolute=True)[0].numpy()[rows][:, None] * OUTWARD
        mine = sparse.csr_matrix(sparse_rows(node.op, rows)[:, needed[parent]])
        return _Step(rows, mine, abs(mine), base, width + error)

    def _ending(self, forms: Tensor) -> None:
        """(Q, n) forms on what the last node reads, and (Q, 1) what they are without what patterns change."""
        nodes = self.graph.nodes
        at, parent = len(nodes) - 1, nodes[-1].parents[0]
        op = nodes[-1].op
        assert op is not None
        form = op.backward(forms)
        middle, half = self._fixed(parent)
        error = self._rounding(at) * OUTWARD
        base = form @ middle[0] + forms @ op.constant
        width = form.abs() @ half[0] * OUTWARD + forms.abs() @ error[0] * OUTWARD
        self.last = form.numpy(), base.numpy()[:, None], width.numpy()[:, None]


def _none(size: int) -> Tensor:
    return torch.zeros(1, size, dtype=torch.bool)
