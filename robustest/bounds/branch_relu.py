"""Branch and bound over ReLUs: proves a region safe that one relaxation cannot.

A domain fixes the signs of some neurons' inputs; its bound is CROWN's with the slopes optimised and a multiplier for
each fixed sign (a Lagrange dual, so any multiplier >= 0 is sound). A domain that is not proved is cut at the neuron
whose two halves, bounded with the parent's slopes and multipliers, promise most. The domains left always cover the
region, so when none is left the region is proved. Executed rounding is inside, as everywhere.

Sources: Wang et al. 2021 (beta-CROWN), arXiv:2103.06624; choice of neurons by trial as in De Palma et al. 2021
(arXiv:2104.06718). Departure: domains of all rival classes share one queue, worst bound first. Works in every
norm; for boxes and plain ReLUs see `branch_layers`.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.bounds.alpha import Optimised
from robustest.bounds.crown import margin_rows, propagate
from robustest.bounds.forms import Whole
from robustest.bounds.graph import BoundGraph
from robustest.bounds.region import Region
from robustest.bounds.relax import Relaxation, relax
from robustest.bounds.substitute import Intervals, MiddleSlopes, Slopes, back_substitute

_CANDIDATES = 8
_STEPS = 10
_LAST_STEPS = 200
_BATCH = 48
_ATTACK_EVERY = 15


@dataclass(frozen=True, slots=True)
class BranchAnswer:
    """What branch and bound came to.

    proved: every margin is positive on the region. lower: the worst margin proved so far.
    domains: bounded. open: still waiting. seconds: CPU seconds of this thread.
    witness: a misclassified image of the region that the attack found from the relaxations' own minimisers.
    """

    proved: bool
    lower: float
    domains: int
    open: int
    seconds: float
    witness: NDArray[np.float32] | None = None


Attack = Callable[[Tensor], NDArray[np.float32] | None]
"""(S, n) promising points of a region to a misclassified image in it, or None."""


@dataclass(slots=True)
class _Domain:
    """Fixed signs and what its bound was reached with.

    rival: the class compared with. signs: per activation node (size,) int8, 0 where not fixed. ends: per node before an activation,
    (size,) intervals that hold in the domain. newest: the activation node whose sign was fixed last.
    """

    rival: int
    lower: float
    signs: dict[int, Tensor]
    slopes: dict[int, Tensor]
    ends: dict[int, tuple[Tensor, Tensor]]
    newest: int = -1
    multipliers: dict[int, Tensor] = field(default_factory=dict)


class ReluBranch:
    """One region and one label; `root` is the bound of the whole region, as `optimise` gives it.

    Args:
        graph: the network. region: one set of images. label: the class to be proved.
        root: of the region, with its intervals.
        middle: slopes with which the intervals of domains are tightened again; left as the root's where None.
        executed: for the network as executed.
    """

    def __init__(
        self,
        graph: BoundGraph,
        region: Region,
        label: int,
        root: Optimised,
        *,
        middle: MiddleSlopes | None = None,
        executed: bool = True,
    ) -> None:
        self.middle = middle
        self.executed = executed
        self.graph = graph
        self.region = region
        self.label = label
        self.root = root
        self.before = {
            index: node.parents[0]
            for index, node in enumerate(graph.nodes)
            if node.activation is not None and node.activation.kind == "relu"
        }
        self.last = max(self.before)

    def run(self, *, seconds: float, most: int = 1_000_000, attack: Attack | None = None) -> BranchAnswer:
        """Branch until proved, refuted by the attack, or out of time or domains."""
        begin = time.thread_time()
        order = itertools.count()
        queue: list[tuple[float, int, _Domain]] = []
        for place, rival in enumerate(self.root.rivals[0].tolist()):
            lower = float(self.root.lower[0, place])
            if not lower > 0:
                slopes = {k: v[0, place] for k, v in self.root.slopes.items()}
                ends = {
                    pre: (self.root.intervals.lower[pre][0], self.root.intervals.upper[pre][0])
                    for pre in self.before.values()
                }
                none = {k: torch.zeros(self.graph.nodes[k].size, dtype=torch.int8) for k in self.before}
                heapq.heappush(queue, (lower, next(order), _Domain(rival, lower, none, slopes, ends)))
        done, turn, stuck = len(queue), 0, 0
        while queue and done < most and time.thread_time() - begin < seconds:
            taken = [heapq.heappop(queue)[2] for _ in range(min(_BATCH, len(queue)))]
            cuts, points = self._choose(taken)
            if attack is not None and (turn in (0, 1, 3) or turn % _ATTACK_EVERY == 0):
                found = attack(points[:8])
                if found is not None:
                    spent = time.thread_time() - begin
                    return BranchAnswer(False, taken[0].lower, done, len(queue) + len(taken), spent, found)
            turn += 1
            children: list[_Domain] = []
            for domain, cut in zip(taken, cuts, strict=True):
                if cut is None:
                    # Every neuron is decided: what is left is a linear program, and its multipliers need more steps.
                    self._bound([domain], steps=_LAST_STEPS, rate=0.5)
                    stuck += not domain.lower > 0
                    continue
                node, entry = cut
                for sign in (1, -1):
                    fixed = domain.signs[node].clone()
                    fixed[entry] = sign
                    children.append(replace(domain, signs=domain.signs | {node: fixed}, newest=node))
            if children:
                self._bound(children)
            done += len(children)
            for child in children:
                if not child.lower > 0:
                    heapq.heappush(queue, (child.lower, next(order), child))
        lower = queue[0][0] if queue else max(0.0, float(self.root.lower.min()))
        proved = not queue and not stuck
        return BranchAnswer(proved, lower, done, len(queue) + stuck, time.thread_time() - begin)

    def _stack(self, domains: list[_Domain]) -> tuple[Intervals, dict[int, Tensor]]:
        """Intervals of the domains, and their (N, size) signs before each ReLU node."""
        root = self.root.intervals
        lower, upper = list(root.lower), list(root.upper)
        signs: dict[int, Tensor] = {}
        lines = dict(root.lines)
        for activation, pre in self.before.items():
            sign = torch.stack([d.signs[activation] for d in domains])
            signs[activation] = sign
            low = torch.stack([d.ends[pre][0] for d in domains])
            high = torch.stack([d.ends[pre][1] for d in domains])
            low = torch.where(sign > 0, low.clamp_min(0), low)
            high = torch.where(sign < 0, high.clamp_max(0), high)
            lower[pre], upper[pre] = low, high
            function = self.graph.nodes[activation].activation
            assert function is not None
            lines[activation] = relax(function, low, high)
        return Intervals(lower, upper, root.error, lines), signs

    def _bounds(
        self,
        intervals: Intervals,
        rivals: Tensor,
        slopes: Slopes,
        multipliers: dict[int, Tensor],
        trace: dict[int, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(N,) lower bounds of the margin against one rival each, and (N, 1, n) the forms behind them."""
        rows, _ = margin_rows(self.graph.n_classes, torch.full((len(rivals),), self.label), rivals[:, None])
        zero = torch.zeros(len(rivals), 1, dtype=torch.float64)
        last = len(self.graph.nodes) - 1
        lower, forms, _ = back_substitute(
            self.graph,
            self.region,
            intervals,
            last,
            Whole(rows, None),
            zero,
            slopes=slopes,
            multipliers={self.before[k]: m[:, None] for k, m in multipliers.items()},
            trace=trace,
        )
        assert forms is not None
        return lower[:, 0], forms

    def _tighten(self, domains: list[_Domain]) -> None:
        """Bound the domains' intervals (of every node: sums need both parents') again with their signs, and keep them."""
        known, _ = self._stack(domains)
        known.lower[:], known.upper[:] = ([t.expand(len(domains), -1) for t in e] for e in (known.lower, known.upper))
        with torch.no_grad():
            found = propagate(self.graph, self.region, executed=self.executed, known=known, middle=self.middle)
        for place, domain in enumerate(domains):
            domain.ends = {pre: (found.lower[pre][place], found.upper[pre][place]) for pre in self.before.values()}
            if any(bool((low > high).any()) for low, high in domain.ends.values()):
                domain.lower = float("inf")  # no image has these signs

    def _bound(self, domains: list[_Domain], *, steps: int = _STEPS, rate: float = 0.1) -> None:
        """Optimise slopes and multipliers of every domain; the best bound and what reached it are kept in it."""
        # A sign at the last ReLUs narrows nothing behind it.
        early = [d for d in domains if d.newest != self.last]
        if self.middle is not None and early:
            self._tighten(early)
        intervals, signs = self._stack(domains)
        rivals = torch.tensor([d.rival for d in domains])
        slopes = {k: torch.stack([d.slopes[k] for d in domains])[:, None] for k in domains[0].slopes}
        weights = {
            k: torch.stack([d.multipliers.get(k, torch.zeros(s.shape[1]).double()) for d in domains]) * (s != 0)
            for k, s in signs.items()
            if bool((s != 0).any())
        }
        best = torch.tensor([d.lower for d in domains], dtype=torch.float64)
        best_slopes = {k: v.clone() for k, v in slopes.items()}
        best_weights = {k: v.clone() for k, v in weights.items()}
        leaves = [*slopes.values(), *weights.values()]
        for leaf in leaves:
            leaf.requires_grad_()
        ascent = torch.optim.Adam(
            [{"params": list(slopes.values()), "lr": 0.1}, {"params": list(weights.values()), "lr": rate}]
        )
        for step in range(steps):
            found, _ = self._bounds(intervals, rivals, slopes, {k: -signs[k] * w for k, w in weights.items()})
            with torch.no_grad():
                better = found > best
                best = torch.maximum(best, found)
                for store, current in ((best_slopes, slopes), (best_weights, weights)):
                    for k, v in current.items():
                        shape = (-1,) + (1,) * (v.dim() - 1)
                        store[k] = torch.where(better.reshape(shape), v, store[k])
            if step == steps - 1 or bool((best > 0).all()):
                break
            ascent.zero_grad()
            torch.autograd.backward(-torch.where(best > 0, 0.0, found).sum())
            ascent.step()
            with torch.no_grad():
                for k, v in slopes.items():
                    function = self.graph.nodes[k].activation
                    assert function is not None
                    v.clamp_(function.slope, 1.0)
                for k, w in weights.items():
                    w.clamp_(min=0.0)
                    w.mul_(signs[k] != 0)
            for group in ascent.param_groups:
                group["lr"] *= 0.95
        for place, domain in enumerate(domains):
            domain.lower = float(best[place])
            if not domain.lower > 0:
                domain.slopes = {k: v[place, 0].detach() for k, v in best_slopes.items()}
                domain.multipliers = {k: v[place].detach() for k, v in best_weights.items()}

    def _choose(self, domains: list[_Domain]) -> tuple[list[tuple[int, int] | None], Tensor]:
        """For each domain the activation node and entry to cut at, None where every neuron is decided; and (N, n)
        images at which the domains' relaxations are least."""
        with torch.no_grad():
            intervals, signs = self._stack(domains)
            rivals = torch.tensor([d.rival for d in domains])
            slopes = {k: torch.stack([d.slopes[k] for d in domains])[:, None] for k in domains[0].slopes}
            weights = {
                k: -s * torch.stack([d.multipliers.get(k, torch.zeros(s.shape[1]).double()) for d in domains])
                for k, s in signs.items()
            }
            trace: dict[int, Tensor] = {}
            forms = self._bounds(intervals, rivals, slopes, weights, trace)[1]
            points = self.region.argmin_linear(forms.transpose(0, 1))[0]
            scores, places = [], []
            for node, pre in self.before.items():
                lines = intervals.lines[node]
                rows = trace[node][:, 0]
                gap = torch.minimum(-intervals.lower[pre], intervals.upper[pre]).clamp_min(0)
                loss = -rows.clamp_max(0) * lines.upper_shift + 0.5 * rows.clamp_min(0) * gap
                scores.append(torch.where(lines.free, loss + 1e-12, -1.0).expand(len(domains), -1))
                places += [(node, entry) for entry in range(self.graph.nodes[pre].size)]
            score = torch.cat(scores, 1)
            count = min(_CANDIDATES, score.shape[1])
            value, index = score.topk(count, 1)
            promise = self._try(
                intervals, rivals, slopes, weights, [[places[e] for e in row] for row in index.tolist()]
            )
            gain = promise.amin(2) + 0.05 * promise.amax(2).clamp_max(1.0)
            gain = torch.where(value > 0, gain, -torch.inf)
            chosen = gain.argmax(1)
            cuts = [
                places[int(index[d, chosen[d]])] if float(value[d].max()) > 0 else None for d in range(len(domains))
            ]
            return cuts, points

    def _try(
        self,
        intervals: Intervals,
        rivals: Tensor,
        slopes: Slopes,
        weights: dict[int, Tensor],
        cuts: list[list[tuple[int, int]]],
    ) -> Tensor:
        """(N, candidates, 2) bounds of the two halves of each cut, with the parents' slopes and multipliers."""
        count = 2 * len(cuts[0])
        lines = {}
        for node in intervals.lines:
            mine = intervals.lines[node]
            if node not in self.before or mine.upper_slope.shape[0] == 1:
                lines[node] = mine
                continue
            parts = [
                t.repeat_interleave(count, 0) for t in (mine.upper_slope, mine.upper_shift, mine.lower_slope, mine.free)
            ]
            rows = [
                (d * count + 2 * c, entry)
                for d, row in enumerate(cuts)
                for c, (at, entry) in enumerate(row)
                if at == node
            ]
            if rows:
                function = self.graph.nodes[node].activation
                assert function is not None
                first, entry = torch.tensor(rows).T
                for half, slope in ((first, 1.0), (first + 1, function.slope)):
                    parts[0][half, entry] = slope
                    parts[1][half, entry] = 0.0
                    parts[2][half, entry] = slope
                    parts[3][half, entry] = False
            lines[node] = Relaxation(parts[0], parts[1], parts[2], None, parts[3])
        halves = Intervals(intervals.lower, intervals.upper, intervals.error, lines)
        lower, _ = self._bounds(
            halves,
            rivals.repeat_interleave(count),
            {k: v.repeat_interleave(count, 0) for k, v in slopes.items()},
            {k: v.repeat_interleave(count, 0) for k, v in weights.items() if bool((v != 0).any())},
        )
        return lower.reshape(len(cuts), -1, 2)
