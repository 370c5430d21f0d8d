"""Local Lipschitz bounds: an interval that holds the gradient of each margin on the whole region, for every norm at once.

Pre-activation intervals fix each ReLU's derivative to {0}, {1} or [0, 1]; the interval row of derivatives is carried
back through the network in centre and radius. With it `margin(x') >= margin(x) - max over the region of sum_i
max(-Lo_i d_i, Hi_i d_i)`, whose maximum over the region is exact per norm. A move touches few pixels in L0 and L1, and
then this beats CROWN, which pays for the relaxation of every neuron.

The same derivatives, taken at each layer's output, say what the rounding injected there can do to the margin: so the
bound holds for the network as executed.

Source: Fast-Lip (Weng et al. 2018, arXiv:1804.09699), in interval form. Valid wherever the segment from x to x' stays
in the region: balls cut by a box, and sets of few changed pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustest.bounds.crown import margin_rows
from robustest.bounds.graph import Activation, BoundGraph
from robustest.bounds.region import Region
from robustest.bounds.rounding import OUTWARD, U64, gamma
from robustest.bounds.substitute import Intervals


def gradient_intervals(graph: BoundGraph, intervals: Intervals, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intervals that hold the derivative of each row of scores, anywhere that the intervals hold.

    Args:
        graph: the network.
        intervals: of every node over the region.
        rows: (B, Q, K) what to differentiate.

    Returns:
        (B, Q, n) lower and upper ends; (B, Q) what the execution's rounding can change of the value.

    Raises:
        UnsupportedLayer: a layer jumps.
    """
    graph.need_continuous("a bound by derivatives")
    slack = gamma(graph_terms(graph), U64) * 4
    pending: dict[int, tuple[Tensor, Tensor]] = {len(graph.nodes) - 1: (rows, torch.zeros_like(rows))}
    moved = rows.new_zeros(rows.shape[:2])
    for index in range(len(graph.nodes) - 1, 0, -1):
        if index not in pending:
            continue
        node, (centre, radius) = graph.nodes[index], pending.pop(index)
        error = intervals.error[index]
        if error is not None:
            moved = moved + ((centre.abs() + radius) @ error[:, :, None])[..., 0] * OUTWARD
        if node.activation is not None:
            before = node.parents[0]
            low, high = _derivative(node.activation, intervals.lower[before], intervals.upper[before])
            # The interval [centre - radius, centre + radius] times [low, high], both of one sign for the factor.
            left, right = centre - radius, centre + radius
            left = torch.where(left < 0, left * high[:, None], left * low[:, None])
            right = torch.where(right > 0, right * high[:, None], right * low[:, None])
            centre, radius = (left + right) / 2, (right - left) / 2
            radius = radius + slack * (centre.abs() + radius)
        elif node.op is not None:
            shape = centre.shape[:2]
            radius = radius + slack * (centre.abs() + radius)
            centre = node.op.backward(centre.flatten(0, 1)).reshape(*shape, -1)
            radius = node.op.backward(radius.flatten(0, 1), absolute=True).reshape(*shape, -1) * OUTWARD
        for parent in node.parents:
            if parent in pending:
                other, spread = pending[parent]
                joined = spread + radius + slack * (other.abs() + centre.abs())
                pending[parent] = (other + centre, joined)
            else:
                pending[parent] = (centre, radius)
    if 0 not in pending:
        zero = rows.new_zeros(*rows.shape[:2], graph.n_inputs)
        return zero, zero, moved
    centre, radius = pending[0]
    radius = radius * OUTWARD + slack * centre.abs()
    return centre - radius, centre + radius, moved


def graph_terms(graph: BoundGraph) -> int:
    """Most terms of a sum in either direction through any one node, with room for the steps around it."""
    return max((max(node.size, node.op.n_in if node.op is not None else 0) for node in graph.nodes), default=1) + 64


def _derivative(activation: Activation, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    if activation.kind == "relu":
        return torch.where(low >= 0, 1.0, activation.slope), torch.where(high <= 0, activation.slope, 1.0)
    peak = 0.25 if activation.kind == "sigmoid" else 1.0

    def slope_at(z: Tensor) -> Tensor:
        value = activation(z)
        return value * (1 - value) if activation.kind == "sigmoid" else 1 - value * value

    ends = torch.stack([slope_at(low), slope_at(high)])
    top = torch.where((low <= 0) & (high >= 0), peak, ends.amax(0))
    return (ends.amin(0) - 2.0**-48).clamp_min(0), top + 2.0**-48


def lipschitz_margins(
    graph: BoundGraph,
    region: Region,
    label: Tensor,
    intervals: Intervals,
    *,
    rivals: Tensor | None = None,
) -> Tensor:
    """(B, Q) lower bounds of the margins over the region from the margins at its centre.

    Args:
        graph: the network.
        region: B sets, each holding the segment from its centre to any of its points.
        label: (B,) class to be proved.
        intervals: of every node over the region, for the network as executed or in exact arithmetic.
        rivals: (B, Q) classes; all others by default.
    """
    rows, against = margin_rows(graph.n_classes, label, rivals)
    low, high, moved = gradient_intervals(graph, intervals, rows)
    at_centre, rounding = exact_scores(graph, region.centre)
    own = at_centre.gather(1, label[:, None]) - rounding.gather(1, label[:, None])
    margin = (own - at_centre.gather(1, against) - rounding.gather(1, against)) - 4 * U64 * at_centre.abs().amax(
        1, keepdim=True
    )
    return (margin - largest_drop(region, low, high) - moved * OUTWARD) - U64 * 8 * (margin.abs() + moved)


def exact_scores(graph: BoundGraph, images: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) float64 scores of single images, and how far the real ones may be from them."""
    values: list[Tensor] = []
    errors: list[Tensor] = []
    for index, node in enumerate(graph.nodes):
        value = graph.evaluate(node, [values[p] for p in node.parents], images)
        if node.kind == "input":
            error = torch.zeros_like(value)
        else:
            reach = [values[p].abs() + errors[p] for p in node.parents]
            error = graph.carried(index, values, errors) * OUTWARD + graph.node_error(index, reach, unit=0.0)
        values.append(value)
        errors.append(error)
    return values[-1], errors[-1]


def largest_drop(region: Region, low: Tensor, high: Tensor) -> Tensor:
    """(B, Q) most that a function with gradients in [low, high] can fall from the region's centre within it."""
    down = (region.centre - region.lower)[:, None]
    up = (region.upper - region.centre)[:, None]
    drop = torch.maximum((-low).clamp_min(0) * up, high.clamp_min(0) * down)
    slack = 1 + gamma(2 * region.n_inputs + 64, U64) * 4
    if region.norm == "linf":
        return drop.sum(-1) * slack
    if region.norm in ("l0", "l0_dims"):
        return -region.best_units(-drop) * slack
    rate = torch.maximum(-low, high).clamp_min(0)
    room = torch.maximum(down, up).expand_as(rate)
    gain = region.knapsack(rate, room) if region.norm == "l1" else region.ball_and_box(rate, room)
    return torch.minimum(gain, drop.sum(-1)) * slack
