"""CROWN with optimised slopes: the free lower slope of every unstable ReLU, for the margins and for what leads to them.

Every choice of slopes in [0, 1] gives a sound bound, so the slopes are simply ascended by their gradient, those of
intermediate bounds together with the final ones; the best interval of each neuron over all steps is kept.

Source: Xu et al. 2021 (alpha-CROWN), arXiv:2011.13824.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from robustest.bounds.crown import margin_bounds, propagate, refine
from robustest.bounds.graph import BoundGraph
from robustest.bounds.region import Region
from robustest.bounds.relax import relax
from robustest.bounds.substitute import Intervals, MiddleSlopes, Slopes

_PER_ENTRY = 600_000
"""Most slopes of one node for all entries of a later one; beyond, the entries share them."""


@dataclass(frozen=True, slots=True)
class Optimised:
    """What the ascent found.

    lower: (B, Q) best margins. rivals: (B, Q). intervals: the best of every step. slopes: final ones, (B, Q, size).
    """

    lower: Tensor
    rivals: Tensor
    intervals: Intervals
    slopes: Slopes

    @property
    def proved(self) -> Tensor:
        """(B,) bool: every margin is positive on the whole region."""
        return (self.lower > 0).all(1)


def optimise(
    graph: BoundGraph,
    region: Region,
    label: Tensor,
    *,
    rivals: Tensor | None = None,
    steps: int = 20,
    executed: bool = True,
    known: Intervals | None = None,
    fixed: bool = False,
    rate: float = 0.2,
    seconds: float = float("inf"),
) -> Optimised:
    """Bound margins with optimised slopes; stops early when all are positive.

    Args:
        graph: the network.
        region: B sets of images.
        label: (B,) classes to be proved.
        rivals: (B, Q) classes to compare with.
        steps: of gradient ascent.
        executed: for the network as executed.
        known: intervals that hold already. fixed: use them as they are; else the slopes of intermediate bounds climb too.
        rate: of Adam.
        seconds: CPU time after which no further step is taken.
    """
    graph.need_continuous("an ascent on slopes")
    begin = time.thread_time()
    with torch.no_grad():
        first = margin_bounds(graph, region, label, rivals=rivals, executed=executed, known=known, fixed=fixed)
    best, intervals, against = first.lower, first.intervals, first.rivals
    final = _start(intervals, best.shape[1])
    best_slopes = {k: v.clone() for k, v in final.items()}
    if bool((best > 0).all()) or steps == 0 or not final:
        return Optimised(best, against, intervals, best_slopes)
    between = _middle_start(graph, region, intervals) if not fixed else {}
    leaves = [*final.values(), *(s for pair in between.values() for side in pair for s in side.values())]
    for leaf in leaves:
        leaf.requires_grad_()
    ascent = torch.optim.Adam(leaves, rate)
    for _ in range(steps):
        current = intervals
        if between:
            current = propagate(graph, region, executed=executed, known=intervals, middle=between)
        found = margin_bounds(
            graph, region, label, rivals=against, executed=executed, known=current, fixed=True, slopes=final
        ).lower
        with torch.no_grad():
            better = (found > best)[:, :, None]
            best = torch.maximum(best, found.detach())
            for k, v in final.items():
                best_slopes[k] = torch.where(better, v.detach(), best_slopes[k])
            if between:
                intervals = _tighter(graph, intervals, current)
        if bool((best > 0).all()) or time.thread_time() - begin > seconds:
            break
        ascent.zero_grad()
        torch.autograd.backward(-torch.where(best > 0, 0.0, found).sum())
        ascent.step()
        with torch.no_grad():
            for node, values in _all_slopes(final, between):
                activation = graph.nodes[node].activation
                assert activation is not None
                values.clamp_(activation.slope, 1.0)
        for group in ascent.param_groups:
            group["lr"] *= 0.97
    if between:
        # The best intervals of all steps together may prove more than those of any one step.
        with torch.no_grad():
            last = margin_bounds(
                graph, region, label, rivals=against, executed=executed, known=intervals, fixed=True, slopes=best_slopes
            ).lower
            best = torch.maximum(best, last)
    return Optimised(best, against, intervals, best_slopes)


def tighten(
    graph: BoundGraph,
    region: Region,
    known: Intervals,
    *,
    steps: int = 15,
    executed: bool = True,
    rate: float = 0.25,
    seconds: float = float("inf"),
) -> tuple[Intervals, MiddleSlopes]:
    """Intervals of each layer in turn with slopes optimised for that layer's own neurons.

    Where an ascent on the margins shares its effort over all neurons before them, this gives every unstable neuron of
    a flat layer its own slopes and its own objective. Never wider than `known`; the slopes are given back too.
    """
    graph.need_continuous("an ascent on slopes")
    begin = time.thread_time()
    current, reached = known, dict[int, tuple[Slopes, Slopes]]()
    for index in _middle_start(graph, region, known):
        before = {k: v for k, v in _middle_start(graph, region, current, only=index).items() if k == index}
        if not before or time.thread_time() - begin > seconds:
            continue
        leaves = [s for side in before[index] for s in side.values()]
        for leaf in leaves:
            leaf.requires_grad_()
        ascent = torch.optim.Adam(leaves, rate)
        lower, upper = current.lower[index], current.upper[index]
        for step in range(steps):
            low, high = refine(graph, region, current, index, lower, upper, slopes=before[index], keep=False)
            with torch.no_grad():
                lower, upper = torch.maximum(lower, low), torch.minimum(upper, high)
            if step == steps - 1 or not low.requires_grad:
                break
            ascent.zero_grad()
            torch.autograd.backward((high - low).sum())
            ascent.step()
            with torch.no_grad():
                for pair in before[index]:
                    for node, values in pair.items():
                        activation = graph.nodes[node].activation
                        assert activation is not None
                        values.clamp_(activation.slope, 1.0)
            for group in ascent.param_groups:
                group["lr"] *= 0.95
        reached[index] = (
            {k: v.detach() for k, v in before[index][0].items()},
            {k: v.detach() for k, v in before[index][1].items()},
        )
        mine = Intervals(list(current.lower), list(current.upper), current.error, current.lines)
        mine.lower[index], mine.upper[index] = lower.detach(), upper.detach()
        # What lies behind the layer follows from its tighter interval.
        with torch.no_grad():
            current = propagate(graph, region, executed=executed, known=mine)
    return current, reached


def _all_slopes(final: Slopes, between: MiddleSlopes) -> list[tuple[int, Tensor]]:
    return [*final.items(), *(item for pair in between.values() for side in pair for item in side.items())]


def _start(intervals: Intervals, rows: int) -> Slopes:
    """(B, Q, size) slopes that the plain relaxation would take, where there is a choice."""
    return {
        node: lines.lower_slope[:, None].expand(-1, rows, -1).clone()
        for node, lines in intervals.lines.items()
        if bool(lines.free.any())
    }


def _middle_start(graph: BoundGraph, region: Region, intervals: Intervals, only: int | None = None) -> MiddleSlopes:
    found: MiddleSlopes = {}
    plain = _start(intervals, 1)
    for index, node in enumerate(graph.nodes):
        if only not in (None, index) or not any(graph.nodes[c].activation is not None for c in graph.children[index]):
            continue
        unstable = (intervals.lower[index] < 0) & (intervals.upper[index] > 0)
        before = {k: v for k, v in plain.items() if k < index}
        if not before or not bool(unstable.any()):
            continue
        flat = len(node.shape) != 3 or node.shape[1] * node.shape[2] == 1
        small = all(region.batch * node.size * v.shape[2] <= _PER_ENTRY for v in before.values())
        rows = node.size if flat and small else 1
        sides = [{k: v.expand(-1, rows, -1).clone() for k, v in before.items()} for _ in range(2)]
        found[index] = (sides[0], sides[1])
    return found


def _tighter(graph: BoundGraph, old: Intervals, new: Intervals) -> Intervals:
    """Entry by entry the better of two families of intervals that both hold, with the lines that they allow."""
    lower = [torch.maximum(a, b.detach()) for a, b in zip(old.lower, new.lower, strict=True)]
    upper = [torch.minimum(a, b.detach()) for a, b in zip(old.upper, new.upper, strict=True)]
    error = [None if a is None or b is None else torch.minimum(a, b) for a, b in zip(old.error, new.error, strict=True)]
    lines = {}
    for index in old.lines:
        activation, before = graph.nodes[index].activation, graph.nodes[index].parents[0]
        assert activation is not None
        lines[index] = relax(activation, lower[before], upper[before])
    return Intervals(lower, upper, error, lines)
