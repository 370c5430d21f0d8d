"""Branch and bound over ReLUs: proves a region safe that one relaxation cannot.

A domain fixes the signs of some neurons' inputs; its bound is CROWN's with the slopes optimised and a multiplier for
each fixed sign (a Lagrange dual, so any multiplier >= 0 is sound). A domain that is not proved is cut at the neuron
whose two halves, bounded with the parent's slopes and multipliers, promise most. The domains left always cover the
region, so when none is left the region is proved. Executed rounding is inside, as everywhere.

Sources: Wang et al. 2021 (beta-CROWN), arXiv:2103.06624; choice of neurons by trial as in De Palma et al. 2021
(arXiv:2104.06718). Departure: domains of all rival classes share one queue, worst bound first.
"""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustest.bounds.alpha import Optimised, optimise
from robustest.bounds.crown import Intervals, Slopes, back_substitute, margin_rows
from robustest.bounds.forms import Whole
from robustest.bounds.graph import BoundGraph
from robustest.bounds.region import Region
from robustest.bounds.relax import relax

_CANDIDATES = 8
_STEPS = 12
_BATCH = 48


@dataclass(frozen=True, slots=True)
class BranchAnswer:
    """What branch and bound came to.

    proved: every margin is positive on the region. lower: the worst margin proved so far.
    domains: bounded. open: still waiting. seconds: CPU seconds of this thread.
    """

    proved: bool
    lower: float
    domains: int
    open: int
    seconds: float


@dataclass(slots=True)
class _Domain:
    """Fixed signs and what its bound was reached with; `rival` is the class compared with."""

    rival: int
    lower: float
    signs: dict[int, dict[int, float]]
    slopes: dict[int, Tensor]
    multipliers: dict[int, Tensor] = field(default_factory=dict)


class ReluBranch:
    """One region and one label; `root` is the bound of the whole region, as `optimise` gives it.

    Args:
        graph: the network. region: one set of images. label: the class to be proved.
        root: of the region, with its intervals.
    """

    def __init__(self, graph: BoundGraph, region: Region, label: int, root: Optimised) -> None:
        self.graph = graph
        self.region = region
        self.label = label
        self.root = root
        self.before = {
            index: node.parents[0]
            for index, node in enumerate(graph.nodes)
            if node.activation is not None and node.activation.kind == "relu"
        }

    def run(self, *, seconds: float, most: int = 1_000_000) -> BranchAnswer:
        """Branch until proved, or out of time or domains."""
        begin = time.thread_time()
        order = itertools.count()
        queue: list[tuple[float, int, _Domain]] = []
        for place, rival in enumerate(self.root.rivals[0].tolist()):
            lower = float(self.root.lower[0, place])
            if lower <= 0:
                slopes = {k: v[0, place] for k, v in self.root.slopes.items()}
                heapq.heappush(queue, (lower, next(order), _Domain(rival, lower, {}, slopes)))
        done = len(queue)
        while queue and done < most and time.thread_time() - begin < seconds:
            taken = [heapq.heappop(queue)[2] for _ in range(min(_BATCH, len(queue)))]
            cuts = self._choose(taken)
            children: list[_Domain] = []
            for domain, cut in zip(taken, cuts, strict=True):
                if cut is None:
                    # Every neuron is decided and the bound is not positive: nothing here can prove it.
                    return BranchAnswer(False, domain.lower, done, len(queue) + 1, time.thread_time() - begin)
                node, entry = cut
                for sign in (1.0, -1.0):
                    signs = {k: dict(v) for k, v in domain.signs.items()}
                    signs.setdefault(node, {})[entry] = sign
                    children.append(_Domain(domain.rival, domain.lower, signs, domain.slopes, domain.multipliers))
            self._bound(children)
            done += len(children)
            for child in children:
                if child.lower <= 0:
                    heapq.heappush(queue, (child.lower, next(order), child))
        lower = queue[0][0] if queue else max(0.0, float(self.root.lower.min()))
        return BranchAnswer(not queue, lower, done, len(queue), time.thread_time() - begin)

    def _stack(self, domains: list[_Domain]) -> tuple[Intervals, dict[int, Tensor]]:
        """Intervals of the domains, and their (N, size) signs before each ReLU node."""
        root, count = self.root.intervals, len(domains)
        lower, upper = list(root.lower), list(root.upper)
        signs: dict[int, Tensor] = {}
        lines = dict(root.lines)
        for activation, pre in self.before.items():
            sign = torch.zeros(count, self.graph.nodes[pre].size, dtype=torch.float64)
            for place, domain in enumerate(domains):
                for entry, value in domain.signs.get(activation, {}).items():
                    sign[place, entry] = value
            signs[activation] = sign
            low = torch.where(sign > 0, root.lower[pre].clamp_min(0), root.lower[pre])
            high = torch.where(sign < 0, root.upper[pre].clamp_max(0), root.upper[pre])
            lower[pre], upper[pre] = low, high
            function = self.graph.nodes[activation].activation
            assert function is not None
            lines[activation] = relax(function, low, high)
        return Intervals(lower, upper, root.error, lines), signs

    def _margins(
        self,
        intervals: Intervals,
        rivals: Tensor,
        slopes: Slopes,
        multipliers: dict[int, Tensor],
        trace: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """(N,) lower bounds of the margin against one rival each."""
        rows, _ = margin_rows(self.graph.n_classes, torch.full((len(rivals),), self.label), rivals[:, None])
        zero = torch.zeros(len(rivals), 1, dtype=torch.float64)
        last = len(self.graph.nodes) - 1
        return back_substitute(
            self.graph,
            self.region,
            intervals,
            last,
            Whole(rows, None),
            zero,
            slopes=slopes,
            multipliers={self.before[k]: m[:, None] for k, m in multipliers.items()},
            trace=trace,
        )[0][:, 0]

    def _bound(self, domains: list[_Domain]) -> None:
        """Optimise slopes and multipliers of every domain; the best bound and what reached it are kept in it."""
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
            [{"params": list(slopes.values()), "lr": 0.1}, {"params": list(weights.values()), "lr": 0.1}]
        )
        for step in range(_STEPS):
            found = self._margins(intervals, rivals, slopes, {k: -signs[k] * w for k, w in weights.items()})
            with torch.no_grad():
                better = found > best
                best = torch.maximum(best, found)
                for store, current in ((best_slopes, slopes), (best_weights, weights)):
                    for k, v in current.items():
                        shape = (-1,) + (1,) * (v.dim() - 1)
                        store[k] = torch.where(better.reshape(shape), v, store[k])
            if step == _STEPS - 1 or bool((best > 0).all()):
                break
            ascent.zero_grad()
            (-torch.where(best > 0, 0.0, found).sum()).backward()
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
            if domain.lower <= 0:
                domain.slopes = {k: v[place, 0].detach() for k, v in best_slopes.items()}
                domain.multipliers = {k: v[place].detach() for k, v in best_weights.items()}

    def _choose(self, domains: list[_Domain]) -> list[tuple[int, int] | None]:
        """For each domain the activation node and entry to cut at, None where every neuron is decided."""
        with torch.no_grad():
            intervals, signs = self._stack(domains)
            rivals = torch.tensor([d.rival for d in domains])
            slopes = {k: torch.stack([d.slopes[k] for d in domains])[:, None] for k in domains[0].slopes}
            weights = {
                k: -s * torch.stack([d.multipliers.get(k, torch.zeros(s.shape[1]).double()) for d in domains])
                for k, s in signs.items()
            }
            trace: dict[int, Tensor] = {}
            self._margins(intervals, rivals, slopes, weights, trace)
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
            trial: list[_Domain] = []
            for d, domain in enumerate(domains):
                for c in range(count):
                    node, entry = places[int(index[d, c])]
                    for sign in (1.0, -1.0):
                        signs_of = {k: dict(v) for k, v in domain.signs.items()}
                        signs_of.setdefault(node, {})[entry] = sign
                        trial.append(_Domain(domain.rival, domain.lower, signs_of, domain.slopes, domain.multipliers))
            promise = self._try(trial).reshape(len(domains), count, 2)
            gain = promise.amin(2) + 0.05 * promise.amax(2).clamp_max(1.0)
            gain = torch.where(value > 0, gain, -torch.inf)
            chosen = gain.argmax(1)
            return [
                places[int(index[d, chosen[d]])] if float(value[d].max()) > 0 else None for d in range(len(domains))
            ]

    def _try(self, domains: list[_Domain]) -> Tensor:
        """(N,) bounds with the slopes and multipliers that the domains come with."""
        intervals, signs = self._stack(domains)
        rivals = torch.tensor([d.rival for d in domains])
        slopes = {k: torch.stack([d.slopes[k] for d in domains])[:, None] for k in domains[0].slopes}
        weights = {
            k: -s * torch.stack([d.multipliers.get(k, torch.zeros(s.shape[1]).double()) for d in domains])
            for k, s in signs.items()
        }
        return self._margins(intervals, rivals, slopes, weights)


def prove_region(
    graph: BoundGraph,
    region: Region,
    label: int,
    *,
    seconds: float,
    root_steps: int = 60,
    executed: bool = True,
) -> BranchAnswer:
    """Prove that every image of one region has class `label`, or report how far the proof got."""
    begin = time.thread_time()
    root = optimise(graph, region, torch.tensor([label]), steps=root_steps, executed=executed, seconds=seconds / 3)
    if bool(root.proved[0]):
        return BranchAnswer(True, float(root.lower.min()), 1, 0, time.thread_time() - begin)
    answer = ReluBranch(graph, region, label, root).run(seconds=seconds - (time.thread_time() - begin))
    return BranchAnswer(answer.proved, answer.lower, answer.domains, answer.open, time.thread_time() - begin)
