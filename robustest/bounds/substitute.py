"""Carrying linear forms on a node's output back to the image, through the lines around each activation.

Each affine step adds its constant and charges its rounding; each activation takes the line that bounds the form from
below: the upper one where a coefficient is negative, the lower one where it is positive. Forms of convolutional neurons
stay on their receptive fields while those are smaller than the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from robustest.bounds.forms import Forms, Whole, Windows, add_forms
from robustest.bounds.graph import BoundGraph, Node
from robustest.bounds.ops import Conv, Gather, Scale
from robustest.bounds.region import Region
from robustest.bounds.relax import Relaxation
from robustest.bounds.rounding import OUTWARD, U64, gamma, or_nothing


@dataclass(frozen=True, slots=True)
class Intervals:
    """What each node's executed output lies in.

    lower, upper: per node (B, size). error: per node (B, size) rounding charged to it.
    lines: per activation node its relaxation.
    """

    lower: list[Tensor] = field(default_factory=list)
    upper: list[Tensor] = field(default_factory=list)
    error: list[Tensor | None] = field(default_factory=list)
    lines: dict[int, Relaxation] = field(default_factory=dict)

    def reach(self, node: int) -> Tensor:
        """(B, size) bound on the absolute value of a node's output."""
        return torch.maximum(self.lower[node].abs(), self.upper[node].abs())

    def select(self, owner: Tensor) -> Intervals:
        """Those of the sets named by `owner`, in that order."""
        return Intervals(
            [t[owner] for t in self.lower],
            [t[owner] for t in self.upper],
            [None if t is None else t[owner] for t in self.error],
            {k: v.take(owner) for k, v in self.lines.items()},
        )


Slopes = dict[int, Tensor]
"""Chosen lower slopes per activation node, (B, Q, size) or (B, 1, size), in [slope, 1]."""

MiddleSlopes = dict[int, tuple[Slopes, Slopes]]
"""Per node whose interval CROWN tightens: slopes for its lower and for its upper ends, (B, 1, size) shared by its
entries or (B, entries, size)."""

Multipliers = dict[int, Tensor]
"""Per node before an activation, (B, Q, size) to add to the forms: signed multipliers of split constraints."""


def back_substitute(
    graph: BoundGraph,
    region: Region,
    intervals: Intervals,
    start: int,
    forms: Forms,
    offset: Tensor,
    *,
    slopes: Slopes | None = None,
    per_row: bool = False,
    multipliers: Multipliers | None = None,
    trace: dict[int, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Carry forms on one node's output back to the image.

    Args:
        graph: the network.
        region: where the bound must hold.
        intervals: relaxations and rounding of every node before `start`, and rounding of `start`.
        start: the node that the forms are on.
        forms: what to bound from below.
        offset: (N, Q) constants to start with.
        slopes: lower slopes of ReLUs, chosen freely; the relaxation's own where not given.
        per_row: slopes are (N, Q, size), laid out like the forms, not like the batch of sets.
        multipliers: added to forms before activations, for branch and bound.
        trace: filled with the (N, Q, size) forms on each activation's output, where they are whole.

    Returns:
        (N, Q) lower bounds; (N, Q, n) forms on the image, None where windows were used; (N, Q) offsets.
    """
    pending: dict[int, Forms] = {start: forms}
    for index in range(start, 0, -1):
        current = pending.pop(index, None)
        if current is None:
            continue
        node = graph.nodes[index]
        if isinstance(current, Windows):
            current = _fit(graph, node, current)
        if isinstance(current, Windows) and _is_image_order(graph, node):
            # Only the order of the image's entries is left: the windows are read off as pixels.
            pending[0] = current
            continue
        if multipliers is not None and index in multipliers:
            assert isinstance(current, Whole)
            current = Whole(current.rows + multipliers[index], current.owner)
        slope = None if slopes is None else slopes.get(index)
        step: Forms
        if isinstance(current, Windows):
            step, change = _window_step(index, node, current, intervals, slope)
        else:
            if trace is not None and node.activation is not None:
                trace[index] = current.rows
            if slope is not None and current.owner is not None and not per_row:
                slope = slope[current.owner]
            step, change = _whole_step(index, node, current, intervals, slope)
        offset = offset + change
        for parent in node.parents:
            before = pending.get(parent)
            if before is not None and graph.nodes[parent].kind == "activation":
                offset = offset - _merge_rounding(before, step, graph.nodes[parent], intervals.reach(parent))
            pending[parent] = add_forms(before, step, graph.nodes[parent].shape)
    last = pending.get(0)
    if last is None:
        zero = torch.zeros(*offset.shape, graph.n_inputs, dtype=torch.float64)
        return or_nothing(offset), zero, offset
    if isinstance(last, Windows):
        pixels, rows = last.pixels(graph.input_shape)
        # Domains of a branch and bound are many sets of intervals on one region.
        owner = last.owner if region.batch > 1 else torch.zeros_like(last.owner)
        return or_nothing(region.restrict(owner, pixels).min_linear(rows) + offset), None, offset
    if region.batch == 1:
        least = region.min_linear(last.rows.flatten(0, 1)[None]).reshape(offset.shape)
    else:
        least = (region if last.owner is None else region.select(last.owner)).min_linear(last.rows)
    return or_nothing(least + offset), last.rows, offset


def _is_image_order(graph: BoundGraph, node: Node) -> bool:
    height, width, depth = graph.input_shape
    return (
        node.parents == (0,)
        and isinstance(node.op, Gather)
        and node.op.is_permutation
        and node.shape == (depth, height, width)
        and bool(
            torch.equal(
                node.op.index,
                torch.arange(graph.n_inputs).reshape(height, width, depth).permute(2, 0, 1).flatten(),
            )
        )
    )


def _fit(graph: BoundGraph, node: Node, forms: Windows) -> Forms:
    """Windows stay windows while they are smaller than the map and the next step can work on them."""
    shape = node.shape
    if len(shape) != 3:
        raise AssertionError("windows stand on maps")
    small = forms.rows.shape[3] * forms.rows.shape[4] < shape[1] * shape[2]
    usable = node.op is None or isinstance(node.op, Conv | Scale) or _is_image_order(graph, node)
    usable = usable and all(_same_map(graph, parent, node) for parent in node.parents)
    return forms if small and usable else forms.whole(shape)


def _same_map(graph: BoundGraph, parent: int, node: Node) -> bool:
    wanted = node.op.in_shape if node.op is not None else node.shape
    given = graph.nodes[parent].shape
    if parent == 0:
        height, width, depth = graph.input_shape
        return _is_image_order(graph, node) or (depth == 1 and wanted == (1, height, width))
    return given == wanted


def _whole_step(
    index: int, node: Node, forms: Whole, intervals: Intervals, slope: Tensor | None
) -> tuple[Whole, Tensor]:
    rows, owner = forms.rows, forms.owner
    if node.activation is not None:
        lines = intervals.lines[index].take(owner)
        negative, positive = rows.clamp_max(0), rows.clamp_min(0)
        change = _dot(negative, lines.upper_shift)
        if lines.lower_shift is not None:
            change = change + _dot(positive, lines.lower_shift)
        change = change - _charge(rows, intervals.error[index], owner)
        low = lines.lower_slope[:, None]
        if slope is not None:
            low = torch.where(lines.free[:, None], slope, low)
        return Whole(torch.addcmul(negative * lines.upper_slope[:, None], positive, low), owner), change
    change = -_charge(rows, intervals.error[index], owner)
    if node.op is None:
        return forms, change
    change = change + rows @ node.op.constant
    flat = node.op.backward(rows.flatten(0, 1))
    return Whole(flat.reshape(*rows.shape[:2], -1), owner), change


def _window_step(
    index: int, node: Node, forms: Windows, intervals: Intervals, slope: Tensor | None
) -> tuple[Windows, Tensor]:
    error = intervals.error[index]
    if node.activation is not None:
        lines, rows = intervals.lines[index], forms.rows
        negative, positive = rows.clamp_max(0), rows.clamp_min(0)
        change = forms.total(lines.upper_shift, node.shape, negative)
        if lines.lower_shift is not None:
            change = change + forms.total(lines.lower_shift, node.shape, positive)
        if error is not None:
            change = change - forms.total(error, node.shape, rows.abs())
        own = lines.lower_slope if slope is None else torch.where(lines.free, slope[:, 0], lines.lower_slope)
        low, high = forms.look(own, node.shape), forms.look(lines.upper_slope, node.shape)
        return replace(forms, rows=torch.addcmul(negative * high, positive, low), inside=True), change
    if isinstance(node.op, Scale):
        # Nothing outside the map is seen of its factor: that cuts the windows too.
        change = forms.total(node.op.constant[None], node.shape)
        if error is not None:
            change = change - forms.total(error, node.shape, forms.rows.abs())
        return replace(forms, rows=forms.rows * forms.look(node.op.factor[None], node.shape), inside=True), change
    forms = forms.cut(node.shape)
    change = torch.zeros(forms.rows.shape[:2], dtype=torch.float64)
    if error is not None:
        change = change - forms.total(error, node.shape, forms.rows.abs())
    if isinstance(node.op, Conv):
        return forms.through(node.op), change + forms.rows.sum((3, 4)) @ node.op.bias
    return forms, change


def _merge_rounding(first: Forms, second: Forms, node: Node, reach: Tensor) -> Tensor:
    """(N, Q) what adding forms of two readers of an activation can round away."""
    total = torch.zeros(())
    for forms in (first, second):
        if isinstance(forms, Windows):
            charge = forms.total(reach, node.shape, forms.rows.abs())
        else:
            charge = _charge(forms.rows, reach, forms.owner)
        total = total + charge
    return total * (gamma(4, U64) * OUTWARD)


def _dot(rows: Tensor, values: Tensor) -> Tensor:
    return (rows @ values[:, :, None])[..., 0]


def _charge(rows: Tensor, error: Tensor | None, owner: Tensor | None) -> Tensor:
    if error is None:
        return rows.new_zeros(rows.shape[:2])
    return _dot(rows.abs(), error if owner is None or error.shape[0] == 1 else error[owner])


def entry_forms(graph: BoundGraph, index: int, owner: Tensor, entry: Tensor, signs: Sequence[float]) -> Forms:
    """Forms that pick single entries of a node, times signs.

    Args:
        owner, entry: (U,) of an array without places, or of a map.
        signs: (S,) each entry's form is there with each of them; (U, S) forms.
    """
    node = graph.nodes[index]
    count, times = len(owner), torch.tensor(signs, dtype=torch.float64)
    if is_map(node):
        channels, height, width = node.shape
        rows = torch.zeros(count, len(signs), channels, 1, 1, dtype=torch.float64)
        rows[torch.arange(count), :, entry // (height * width), 0, 0] = times
        return _windows_at(node, rows, owner, entry % (height * width))
    rows = torch.zeros(count, len(signs), node.size, dtype=torch.float64)
    rows[torch.arange(count), :, entry] = times
    return Whole(rows, owner)


def place_forms(graph: BoundGraph, index: int, owner: Tensor, place: Tensor, signs: Sequence[float]) -> Windows:
    """Forms that pick every channel at (U,) places of a map, times each of (S,) signs: (U, S * channels)."""
    node = graph.nodes[index]
    times = torch.tensor(signs, dtype=torch.float64)
    every = (times[:, None, None] * torch.eye(node.shape[0], dtype=torch.float64)).flatten(0, 1)
    rows = every[:, :, None, None].expand(len(owner), -1, -1, -1, -1)
    return _windows_at(node, rows, owner, place)


def is_map(node: Node) -> bool:
    """Whether a node's entries stand at several places, channels at each."""
    return len(node.shape) == 3 and node.shape[1] * node.shape[2] > 1


def _windows_at(node: Node, rows: Tensor, owner: Tensor, place: Tensor) -> Windows:
    return Windows(rows, place // node.shape[2], place % node.shape[2], owner, True)
