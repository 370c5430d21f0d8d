"""Proves a box safe layer by layer: inner neurons are branched for until they are decided, then the margins.

What makes a deep network's bounds loose is that the intervals of inner neurons are; and most neurons that one relaxation
leaves undecided never change sign in the box. So each layer's undecided neurons are decided first, or at least
their intervals tightened, by branching on the undecided ReLUs before them; later layers are then nearly linear and
their bounds tight. Passes with growing time go over all layers, and what one pass proves the next starts from.

Sources: refinement of inner neurons by exact solving as in Singh et al. 2019 (RefineZono, ICLR 2019) and in the
`bab-refine` mode of alpha-beta-CROWN. Departure: no solver; all neurons of a layer branch side by side in one batch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.bounds.branch_compact import Affine, CompactForm
from robustest.bounds.branch_rows import Look, RowBranch
from robustest.bounds.crown import margin_rows, propagate
from robustest.bounds.graph import BoundGraph
from robustest.bounds.region import Region
from robustest.bounds.substitute import Intervals

_PASSES = (0.05, 0.25, 1.0)
"""Shares of the time and of the nodes by whose end each pass is done."""
_DECIDE, _RAISE = 0.25, 0.06
"""Shares of what a pass has left that one layer takes at most to decide neurons, and to tighten those that are not."""


@dataclass(frozen=True, slots=True)
class LayersAnswer:
    """What the passes came to.

    lower: (Q,) proved bounds of the margins. proved: all are positive. nodes: leaves bounded, of all trees.
    open: leaves of the margins left open. found: what `look` found. intervals: of every node, tightened.
    """

    lower: Tensor
    proved: bool
    nodes: int
    open: int
    found: NDArray[np.float32] | None
    intervals: Intervals


def prove_layers(
    graph: BoundGraph,
    region: Region,
    label: int,
    intervals: Intervals,
    *,
    seconds: float,
    most: int = 1_000_000_000,
    executed: bool = True,
    look: Look | None = None,
) -> LayersAnswer:
    """Prove that every image of one box has class `label`, or report how far the proof got.

    Args:
        graph, region: such that `CompactForm.suits` them. label: the class to be proved.
        intervals: that hold on the region, with their rounding.
        seconds: CPU time to spend. most: leaves to bound.
        executed: for the network as executed.
        look: asked now and then at promising images; what it finds ends the search.
    """
    begin = time.thread_time()
    sweep = _Sweep(graph, region, label, intervals, executed)
    answer = None
    for share in _PASSES:
        answer = sweep.run(begin + share * seconds, int(share * most), look)
        late = sweep.nodes >= most or time.thread_time() - begin > seconds
        if answer.proved or answer.found is not None or late:
            break
    assert answer is not None
    return answer


class _Sweep:
    def __init__(self, graph: BoundGraph, region: Region, label: int, intervals: Intervals, executed: bool) -> None:
        self.graph, self.region, self.label, self.intervals = graph, region, label, intervals
        self.executed, self.nodes = executed, 0
        self.lower = torch.full((graph.n_classes - 1,), -torch.inf, dtype=torch.float64)

    def run(self, deadline: float, most: int, look: Look | None) -> LayersAnswer:
        """One pass over the layers and the margins, until a time of this thread and a count of nodes in all."""
        compact = CompactForm(self.graph, self.region)
        for index in range(len(self.graph.nodes)):
            forms = compact.step(index, self.intervals)
            if compact.layers and any(self.graph.nodes[c].activation is not None for c in self.graph.children[index]):
                self._refine(compact, index, forms, deadline, most)
        rows, _ = margin_rows(self.graph.n_classes, torch.tensor([self.label]))
        margins = forms.times(rows[0])
        if not compact.layers:
            self.lower = torch.maximum(self.lower, compact.least(margins))
            return self._answer(int((~(self.lower > 0)).sum()), None)
        tree = RowBranch(compact, margins, deadline=deadline)
        open_ = (~tree.proved).nonzero()[:, 0]
        run = tree.run(open_, decide=True, deadline=deadline, most=most - self.nodes, look=look)
        self.nodes += tree.nodes
        self.lower = torch.maximum(self.lower, tree.lower)
        return self._answer(run.open, run.found, bool(tree.proved.all()))

    def _answer(self, open_: int, found: NDArray[np.float32] | None, proved: bool = False) -> LayersAnswer:
        done = proved or bool((self.lower > 0).all())
        return LayersAnswer(self.lower, done, self.nodes, 0 if done else open_, found, self.intervals)

    def _refine(self, compact: CompactForm, index: int, forms: Affine, deadline: float, most: int) -> None:
        """Decide the entries of a node that no interval decides yet, and tighten those that have both signs."""
        lower, upper = self.intervals.lower[index][0], self.intervals.upper[index][0]
        entries = ((lower < 0) & (upper > 0)).nonzero()[:, 0]
        if not len(entries):
            return
        count, mine = len(entries), forms.take(entries)
        both = Affine(
            torch.cat([mine.rows, -mine.rows]),
            torch.cat([mine.constant, -mine.constant]),
            mine.noise.repeat(2),
            mine.magnitude.repeat(2),
        )
        tree = RowBranch(compact, both, deadline=deadline)
        seen = self.graph.forward_all(tree.points())[index][:, entries]
        # The sign that an entry has at most of the points is the one to be proved; where both occur there is none.
        sign = seen.gt(0).double().mean(0) > 0.5
        constant = (seen.amin(0) > 0) | (seen.amax(0) < 0)
        place = torch.where(sign, 0, count) + torch.arange(count)
        open_ = ~(tree.proved[:count] | tree.proved[count:])
        wanted = place[constant & open_]
        time_left, nodes_left = deadline - time.thread_time(), most - self.nodes - tree.nodes
        if len(wanted):
            until = time.thread_time() + _DECIDE * time_left
            tree.run(wanted, decide=True, deadline=until, most=int(_DECIDE * nodes_left))
        rest = (~(tree.proved[:count] | tree.proved[count:])).nonzero()[:, 0]
        if len(rest):
            until = time.thread_time() + _RAISE * time_left
            both_ends = torch.cat([rest, rest + count])
            tree.run(both_ends, decide=False, deadline=until, most=int(_RAISE * nodes_left))
        self.nodes += tree.nodes
        self._keep(index, entries, tree.lower[:count], -tree.lower[count:])

    def _keep(self, index: int, entries: Tensor, low: Tensor, high: Tensor) -> None:
        """Note tighter ends of some entries, and what follows for later nodes."""
        mine = replace(self.intervals, lower=list(self.intervals.lower), upper=list(self.intervals.upper))
        lower, upper = (ends[index].clone() for ends in (mine.lower, mine.upper))
        lower[0, entries] = torch.maximum(lower[0, entries], low)
        upper[0, entries] = torch.minimum(upper[0, entries], high)
        mine.lower[index], mine.upper[index] = lower, upper
        with torch.no_grad():
            self.intervals = propagate(self.graph, self.region, executed=self.executed, known=mine)
