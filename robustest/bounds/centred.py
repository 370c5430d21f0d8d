"""Bounds relative to a base image: tight where few pixels move, because what does not move costs nothing.

With z0 the network's values at the base image, a bound on a linear form of an activation's change `f(z) - f(z0)` is
carried back as `sum c * change - sum r * |change|`. Where z lies in [l, u], a ReLU's change is at least the tangent at
z0 times the change of z, and at most the larger of two secants from z0, to l and to u: slopes `middle +- half`. So every
bound is exact at the base, and a pixel pays only for the neurons that it reaches; CROWN's lines pay for every
unstable neuron, moved or not. On the network's last activations CROWN's upper line is tried too.

Holds for any region that lies in the box of the bounds, for the network as executed where `unit` is that of its
arithmetic (each node's rounding is subtracted), and accounts for the float64 rounding of its own. Measured on
networks of CoVerD (two convolutions, 3,604 neurons): the margin at 2 of 784 pixels is bounded by +5.6 where CROWN
with the same exact minimum over the pixels gives -36.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from robustest.bounds.centred_slopes import Jumps, Slopes, slopes_of
from robustest.bounds.cones import Cone, build_cone
from robustest.bounds.graph import Activation, BoundGraph
from robustest.bounds.region import Region
from robustest.bounds.rounding import OUTWARD, U64, gamma, or_nothing

_ENTRIES = 1_500_000
"""Numbers in a block of forms that are pushed through the whole network at once: larger ones are slower."""
_DEAREST = 4_000_000_000
"""Products that pushing the undecided entries of one map through the whole network may take, where intervals are known."""
_EARLY = 2
"""Activations from the image on that keep their secants in every pass; radii grow with each, so later ones get lines."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is known of the network on a batch of B regions.

    base: per node (B, n), its value at the region's centre.
    lower, upper: per node (B, n), bounds on its executed values (every node that an activation reads, and those between).
    noise: per node (B, n), what its execution and this program can round away; None for nothing.
    slopes: per activation.
    """

    region: Region
    base: Sequence[Tensor]
    lower: list[Tensor]
    upper: list[Tensor]
    noise: list[Tensor | None]
    slopes: dict[int, Slopes | Jumps]


@dataclass(frozen=True, slots=True)
class FormBounds:
    """Lower bounds of R linear forms of the scores on B regions.

    value: (B, R). gains: (B, R, n) at most how much (<= 0) each dimension's move can change the form.
    form: (B, R, n) coefficients of the linear part: its least point is a candidate for an attack.
    """

    value: Tensor
    gains: Tensor
    form: Tensor


class CentredBounds:
    """The bounds for one network; holds the cones of its early layers."""

    def __init__(self, graph: BoundGraph, *, unit: float | None = None) -> None:
        """Prepare a network.

        Args:
            graph: the network.
            unit: roundoff of the arithmetic that the proof is about; 0 for exact real arithmetic, the graph's own
                where None.
        """
        self.graph = graph
        self.unit = graph.unit if unit is None else unit
        # Radii and losses are sums of products >= 0, rounded at every node on the way: made up for once, at the end.
        self._outward = OUTWARD ** (2 * len(graph.nodes))
        read = [n.parents[0] for n in graph.nodes if n.activation is not None]
        self._read_by_activation = sorted(set(read))
        self._cones: dict[int, Cone | None] = {}
        self.activations = [i for i, n in enumerate(graph.nodes) if n.activation is not None]
        self._signs = frozenset(
            i for i, n in enumerate(graph.nodes) if n.activation is not None and n.activation.kind == "sign"
        )

    def _cone(self, node: int) -> Cone | None:
        if node not in self._cones:
            self._cones[node] = build_cone(self.graph, node)
        return self._cones[node]

    def analyse(
        self,
        region: Region,
        known: Mapping[int, tuple[Tensor, Tensor]] | None = None,
        *,
        deadline: float = math.inf,
    ) -> Analysis:
        """Bounds of every node that an activation reads.

        Args:
            region: B regions; their centres are the base images.
            known: node to (B, n) bounds that are already proved of it on these regions.
            deadline: of this thread's CPU time; what is not tightened by then keeps its intervals.
        """
        graph, nodes = self.graph, self.graph.nodes
        base = graph.forward_all(region.centre)
        low, high = region.box()
        state = Analysis(region, base, [low], [high], [None], {})
        changes = [(low - region.centre, high - region.centre)]
        for at in range(1, len(nodes)):
            node = nodes[at]
            reach = [torch.maximum(state.lower[p].abs(), state.upper[p].abs()) for p in node.parents]
            noise = self._noise(at, reach)
            state.noise.append(noise)
            if node.activation is not None:
                below, above = state.lower[node.parents[0]], state.upper[node.parents[0]]
                state.slopes[at] = slopes_of(node.activation, base[node.parents[0]], below, above)
                lower, upper = node.activation.interval(below, above)
                if noise is not None:
                    lower, upper = lower - noise, upper + noise
            else:
                assert noise is not None
                lower, upper = self._step(at, changes, base[at], noise)
                if known is not None and at in known:
                    lower, upper = torch.maximum(lower, known[at][0]), torch.minimum(upper, known[at][1])
                if at in self._read_by_activation and at > 1 and time.thread_time() < deadline:
                    lower, upper = self._tighten(at, state, lower, upper, deadline, at in (known or {}))
            state.lower.append(torch.minimum(lower, base[at]))
            state.upper.append(torch.maximum(upper, base[at]))
            changes.append((state.lower[at] - base[at], state.upper[at] - base[at]))
        return state

    def _noise(self, at: int, reach: Sequence[Tensor]) -> Tensor | None:
        """(B, n) what a node's execution and this program's use of it can round away; None for nothing.

        This program's share is counted once for the base values, once for interval bounds and twice for forms, which
        multiply changes (at most twice the reach) and not values.
        """
        activation = self.graph.nodes[at].activation
        if activation is not None and _is_exact(activation):
            return None
        return self.graph.node_error(at, reach, unit=self.unit) + 3 * self.graph.node_error(at, reach, unit=0.0)

    def _step(
        self, at: int, changes: Sequence[tuple[Tensor, Tensor]], base: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Interval bounds of an affine node or a sum from the changes of its parents."""
        node = self.graph.nodes[at]
        low = torch.stack([changes[p][0] for p in node.parents]).sum(0)
        high = torch.stack([changes[p][1] for p in node.parents]).sum(0)
        middle, half = (low + high) / 2, (high - low) / 2
        if node.op is not None:
            middle, half = node.op.forward(middle), node.op.forward(half, absolute=True)
        return or_nothing(base + middle - half * OUTWARD - noise), -or_nothing(-base - middle - half * OUTWARD - noise)

    def _tighten(
        self, at: int, state: Analysis, lower: Tensor, upper: Tensor, deadline: float, is_known: bool
    ) -> tuple[Tensor, Tensor]:
        """Bounds of a node that an activation reads, by pushing its entries back to the image.

        A map of a large network is left as it is where that would take too long and other bounds of it are known.
        """
        cone = self._cone(at)
        if cone is not None:
            ones = torch.eye(cone.index[at].shape[1], dtype=torch.float64)[None, None]
            least, most = (
                cone.scatter(self._push_cone(cone, sign * ones, state), self.graph.nodes[at].size) for sign in (1, -1)
            )
            return torch.maximum(lower, state.base[at] + least), torch.minimum(upper, state.base[at] - most)
        wanted = (lower < 0) & (upper > 0) if self._kinks_at_zero(at) else lower < upper
        wanted_rows = wanted.any(0).nonzero()[:, 0]
        if is_known and len(self.graph.nodes[at].shape) == 3 and len(wanted_rows) * self._products(at) > _DEAREST:
            return lower, upper
        lower, upper = lower.clone(), upper.clone()
        block = max(16, min(256, _ENTRIES // max(node.size for node in self.graph.nodes[: at + 1])))
        for start in range(0, len(wanted_rows), block):
            if time.thread_time() > deadline:
                break
            rows = wanted_rows[start : start + block]
            forms = torch.zeros(1, len(rows), self.graph.nodes[at].size, dtype=torch.float64)
            forms[0, torch.arange(len(rows)), rows] = 1.0
            forms = forms.expand(state.region.batch, -1, -1)
            least = self._push(at, forms, state, self._late(at)).value
            most = self._push(at, -forms, state, self._late(at)).value
            base = state.base[at][:, rows]
            lower[:, rows] = torch.maximum(lower[:, rows], base + least)
            upper[:, rows] = torch.minimum(upper[:, rows], base - most)
        return lower, upper

    def _products(self, at: int) -> int:
        """Products of one pass from a node to the image, at most."""
        return sum(node.op.terms * node.op.n_out for node in self.graph.nodes[: at + 1] if node.op is not None)

    def _late(self, at: int) -> frozenset[int]:
        """The activations before a node that passes from it meet with CROWN's line."""
        return frozenset([a for a in self.activations if a < at][_EARLY:])

    def _kinks_at_zero(self, at: int) -> bool:
        """Whether every activation that reads a node is a ReLU or a sign: then only its sign need be decided."""
        kinds = [self.graph.nodes[child].activation for child in self.graph.children[at]]
        return all(a is None or a.kind in ("relu", "sign") for a in kinds)

    def hard_won(self, state: Analysis) -> dict[int, tuple[Tensor, Tensor]]:
        """The bounds that cost most and take least room: worth handing to parts of the same regions as `known`."""
        return {
            at: (state.lower[at], state.upper[at])
            for at in self._read_by_activation
            if at > 1 and self._cone(at) is None
        }

    def bound(self, state: Analysis, rows: Tensor) -> FormBounds:
        """Lower bounds of linear forms of the scores, (R, K) rows, on each region: the best of several relaxations."""
        last = len(self.graph.nodes) - 1
        forms = rows.expand(state.region.batch, -1, -1)
        best = self._push(last, forms, state)
        for lines in {frozenset(self.activations[-1:]), self._late(last), self._signs} - {frozenset()}:
            other = self._push(last, forms, state, lines)
            better = other.value > best.value
            best = FormBounds(
                torch.where(better, other.value, best.value),
                torch.where(better[..., None], other.gains, best.gains),
                torch.where(better[..., None], other.form, best.form),
            )
        at_base = (forms * state.base[last][:, None]).sum(-1)
        slack = gamma(rows.shape[1] + 4, U64) * (forms.abs() * state.base[last].abs()[:, None]).sum(-1)
        return FormBounds(
            or_nothing(at_base - slack + best.value - (at_base.abs() + best.value.abs()) * 4 * U64),
            best.gains,
            best.form,
        )

    def _push(self, start: int, forms: Tensor, state: Analysis, lines: frozenset[int] = frozenset()) -> FormBounds:
        """Lower bounds of forms (B, R, n) of the change of a node, through the whole network."""
        waiting: dict[int, tuple[Tensor, Tensor | None]] = {start: (forms, None)}
        batch, count = forms.shape[:2]
        loss = torch.zeros(batch, count, dtype=torch.float64)
        for at in range(start, 0, -1):
            if at not in waiting:
                continue
            node, (centre, radius) = self.graph.nodes[at], waiting.pop(at)
            noise = state.noise[at]
            if noise is not None:
                loss = loss + _charge(centre, radius, noise[:, :, None])
            if node.activation is not None:
                use = state.slopes[at].seen(lambda values: values[:, None])
                centre, radius, extra = _through(
                    centre, radius, use, at in lines and node.activation.kind in ("relu", "sign")
                )
                loss = loss + extra
            elif node.op is not None:
                centre = node.op.backward(centre.flatten(0, 1)).reshape(batch, count, -1)
                if radius is not None:
                    radius = node.op.backward(radius.flatten(0, 1), absolute=True).reshape(batch, count, -1)
            for parent in node.parents:
                waiting[parent] = _plus(waiting.get(parent), centre, radius)
        centre, radius = waiting[0]
        region = state.region
        radius = None if radius is None else radius * self._outward
        gains = _gains(centre, radius, region.lower - region.centre, region.upper - region.centre)
        least = or_nothing((least_change(region, gains, centre, radius) - loss) * self._outward)
        return FormBounds(least, gains, centre)

    def _push_cone(self, cone: Cone, forms: Tensor, state: Analysis) -> Tensor:
        """(P, B, R) lower bounds of forms on the cone's target, (1, 1, R, F)."""
        batch, count = state.region.batch, forms.shape[2]
        forms = forms.expand(cone.patches, batch, -1, -1)
        waiting: dict[int, tuple[Tensor, Tensor | None]] = {cone.target: (forms, None)}
        loss = torch.zeros(cone.patches, batch, count, dtype=torch.float64)
        for at in cone.order[:-1]:
            node, (centre, radius) = self.graph.nodes[at], waiting.pop(at)
            noise = state.noise[at]
            if noise is not None:
                loss = loss + _charge(centre, radius, cone.window(noise, at)[:, :, 0, :, None])
            if node.activation is not None:
                use = state.slopes[at].seen(partial(cone.window, node=at))
                centre, radius, extra = _through(centre, radius, use, False)
                loss = loss + extra
            for parent in node.parents:
                link = cone.links[at, parent]
                waiting[parent] = _plus(
                    waiting.get(parent),
                    link.backward(centre),
                    None if radius is None else link.backward(radius, absolute=True),
                )
        centre, radius = waiting[0]
        owner = torch.arange(batch).repeat(cone.patches)
        seen = state.region.restrict(owner, cone.pixels.repeat_interleave(batch, 0))
        centre = centre.flatten(0, 1)
        radius = None if radius is None else radius.flatten(0, 1) * self._outward
        gains = _gains(centre, radius, seen.lower - seen.centre, seen.upper - seen.centre)
        value = least_change(seen, gains, centre, radius).reshape(cone.patches, batch, -1)
        return or_nothing((value - loss) * self._outward)


def _is_exact(activation: Activation) -> bool:
    """Whether an activation rounds nothing, here or there."""
    return activation.kind == "sign" or (activation.kind == "relu" and activation.slope in (0.0, 1.0))


def _through(
    centre: Tensor, radius: Tensor | None, use: Slopes | Jumps, line: bool
) -> tuple[Tensor, Tensor | None, Tensor | float]:
    """Forms on the change of an activation's output to forms on the change of its input, and what that loses."""
    if isinstance(use, Jumps):
        return use.through(centre, radius, constant=line)
    up, down = centre.clamp_min(0), centre.clamp_max(0)
    new = torch.addcmul(up * use.below, down, use.line if line else use.middle)
    lost = -(down * use.gap).sum(-1) if line else 0.0
    spread = None if line else down.mul_(use.half).neg_()
    if use.below_half is not None:
        leaked = up * use.below_half
        spread = leaked if spread is None else spread.add_(leaked)
    if radius is not None:
        spread = radius * use.steepest if spread is None else spread.addcmul_(radius, use.steepest)
    return new, spread, lost


def _charge(centre: Tensor, radius: Tensor | None, noise: Tensor) -> Tensor:
    """What forms (..., R, n) lose to a node's noise (..., n, 1)."""
    size = centre.abs() if radius is None else centre.abs() + radius
    return (size @ noise)[..., 0]


def _plus(
    held: tuple[Tensor, Tensor | None] | None, centre: Tensor, radius: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Forms that reach a node over two ways add up."""
    if held is None:
        return centre, radius
    if radius is None or held[1] is None:
        return held[0] + centre, held[1] if radius is None else radius
    return held[0] + centre, held[1] + radius


def _gains(centre: Tensor, radius: Tensor | None, down: Tensor, up: Tensor) -> Tensor:
    """(B, R, n) least that `c d - r |d|` can be over each dimension's own interval [down, up], which holds 0."""
    if radius is None:
        return torch.minimum(centre * up[:, None], centre * down[:, None])
    return torch.minimum((centre - radius) * up[:, None], (centre + radius) * down[:, None]).clamp_max(0)


def least_change(region: Region, gains: Tensor, centre: Tensor, radius: Tensor | None) -> Tensor:
    """(B, R) least of `sum c d - sum r |d|` over the region's changes d; gains as from `_gains`, (B, R, n)."""
    if region.norm == "linf":
        return gains.sum(-1)
    if region.norm in ("l0", "l0_dims"):
        return region.best_units(gains)
    rise = (-centre if radius is None else radius - centre).clamp_min(0)
    fall = (centre if radius is None else radius + centre).clamp_min(0)
    return -region.most_gained(rise, fall)
