"""Interval and CROWN bounds of a network over a region, for the network as executed.

`margin_bounds` bounds every margin `score[label] - score[rival]` from below by a linear form of the image and the
form's exact minimum over the region. Each affine step charges its float32 rounding in any order of summation, and
this program's own float64 rounding, as an interval of its output: so the bound holds for the executed network.
Intermediate neurons that an interval pass leaves undecided get CROWN bounds too, convolutional ones on their
receptive fields.

Source: Zhang et al. 2018, arXiv:1811.00866, with the minimum taken over (ball AND box) instead of the ball.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from robustest.bounds.forms import Forms, Whole, Windows, add_forms
from robustest.bounds.graph import BoundGraph, Node
from robustest.bounds.ops import Conv, Dense, Gather, Scale
from robustest.bounds.region import Region
from robustest.bounds.relax import Relaxation, relax
from robustest.bounds.rounding import OUTWARD, U64, gamma

_CHUNK = 4_000_000
"""Numbers in one block of forms: blocks that fit the cache are the fastest."""


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


@dataclass(frozen=True, slots=True)
class MarginBounds:
    """Lower bounds of the margins over a batch of regions.

    lower: (B, Q) of `score[label] - score[rival]`. rivals: (B, Q) int64 classes.
    form: (B, Q, n) and offset: (B, Q): on the region, margin >= form . image + offset.
    intervals: of every node.
    """

    lower: Tensor
    rivals: Tensor
    form: Tensor
    offset: Tensor
    intervals: Intervals

    @property
    def proved(self) -> Tensor:
        """(B,) bool: every margin is positive on the whole region."""
        return (self.lower > 0).all(1)


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
        return offset, zero, offset
    if isinstance(last, Windows):
        pixels, rows = last.pixels(graph.input_shape)
        seen = region.restrict(last.owner, pixels).select(last.spot)
        return seen.min_linear(rows) + offset, None, offset
    if region.batch == 1:
        least = region.min_linear(last.rows.flatten(0, 1)[None]).reshape(offset.shape)
    else:
        least = (region if last.owner is None else region.select(last.owner)).min_linear(last.rows)
    return least + offset, last.rows, offset


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
    small = forms.rows.shape[2] * forms.rows.shape[3] < shape[1] * shape[2]
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
        negative = rows.clamp_max(0)
        change = _dot(negative, lines.upper_shift)
        if lines.lower_shift is not None:
            change = change + _dot(rows.clamp_min(0), lines.lower_shift)
        change = change - _charge(rows, intervals.error[index], owner)
        low = lines.lower_slope[:, None]
        if slope is not None:
            low = torch.where(lines.free[:, None], slope, low)
        return Whole(torch.where(rows > 0, low, lines.upper_slope[:, None]) * rows, owner), change
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
        change = _total(rows.clamp_max(0) * forms.look(lines.upper_shift, node.shape))
        if lines.lower_shift is not None:
            change = change + _total(rows.clamp_min(0) * forms.look(lines.lower_shift, node.shape))
        if error is not None:
            change = change - _total(rows.abs() * forms.look(error, node.shape))
        own = lines.lower_slope if slope is None else torch.where(lines.free, slope[:, 0], lines.lower_slope)
        low, high = forms.look(own, node.shape), forms.look(lines.upper_slope, node.shape)
        return replace(forms, rows=torch.where(rows > 0, low, high) * rows, inside=True), change
    forms = forms.cut(node.shape)
    change = torch.zeros(forms.rows.shape[0], 1, dtype=torch.float64)
    if error is not None:
        change = change - _total(forms.rows.abs() * forms.look(error, node.shape))
    if isinstance(node.op, Conv):
        change = change + forms.rows.sum((2, 3)) @ node.op.bias[:, None]
        return forms.through(node.op), change
    if isinstance(node.op, Scale):
        change = change + _total(forms.rows * forms.look(node.op.constant[None], node.shape))
        return replace(forms, rows=forms.rows * forms.look(node.op.factor[None], node.shape)), change
    return forms, change


def _merge_rounding(first: Forms, second: Forms, node: Node, reach: Tensor) -> Tensor:
    """(N, Q) what adding forms of two readers of an activation can round away."""
    total = torch.zeros(())
    for forms in (first, second):
        if isinstance(forms, Windows):
            charge = _total(forms.rows.abs() * forms.look(reach, node.shape))
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


def _total(products: Tensor) -> Tensor:
    return products.flatten(1).sum(1, keepdim=True)


def node_forms(graph: BoundGraph, index: int, owner: Tensor, entry: Tensor, sign: float) -> Forms:
    """Forms that pick single entries of a node, or their negatives."""
    node = graph.nodes[index]
    count = len(owner)
    if len(node.shape) == 3 and node.shape[1] * node.shape[2] > 1:
        channels, height, width = node.shape
        rows = torch.zeros(count, channels, 1, 1, dtype=torch.float64)
        rows[torch.arange(count), entry // (height * width), 0, 0] = sign
        places, spot = torch.unique(owner * (height * width) + entry % (height * width), return_inverse=True)
        place = places % (height * width)
        return Windows(rows, spot, place // width, place % width, places // (height * width), True)
    rows = torch.zeros(count, 1, node.size, dtype=torch.float64)
    rows[torch.arange(count), 0, entry] = sign
    return Whole(rows, owner)


def refine(
    graph: BoundGraph,
    region: Region,
    intervals: Intervals,
    index: int,
    lower: Tensor,
    upper: Tensor,
    *,
    slopes: tuple[Slopes, Slopes] | None = None,
    keep: bool = True,
) -> tuple[Tensor, Tensor]:
    """Tighten the (B, size) interval of a node by CROWN wherever it holds 0; slopes for lower and for upper ends.

    With `keep` off the ends that CROWN finds replace the given ones even where they are wider (for gradients).
    """
    owner, entry = ((lower < 0) & (upper > 0)).nonzero(as_tuple=True)
    if len(owner) == 0:
        return lower, upper
    largest = max(node.size for node in graph.nodes[: index + 1])
    block = max(32, _CHUNK // (2 * largest))
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for begin in range(0, len(owner), block):
        who, which = owner[begin : begin + block], entry[begin : begin + block]
        for side, sign in enumerate((1.0, -1.0)):
            zero = torch.zeros(len(who), 1, dtype=torch.float64)
            forms = node_forms(graph, index, who, which, sign)
            if isinstance(forms, Whole) and lower.shape[0] == 1:
                forms, zero = Whole(forms.rows.transpose(0, 1), None), zero.T
            mine, per_row = (
                (None, False) if slopes is None else _slopes_of_rows(slopes[side], who, which, lower.shape[0])
            )
            bound = back_substitute(graph, region, intervals, index, forms, zero, slopes=mine, per_row=per_row)[0]
            found[side].append(sign * bound.flatten())
    new_lower, new_upper = torch.cat(found[0]), torch.cat(found[1])
    if keep:
        new_lower = torch.maximum(lower[owner, entry], new_lower)
        new_upper = torch.minimum(upper[owner, entry], new_upper)
    return lower.index_put((owner, entry), new_lower), upper.index_put((owner, entry), new_upper)


def _slopes_of_rows(slopes: Slopes, owner: Tensor, entry: Tensor, batch: int) -> tuple[Slopes, bool]:
    """The slopes that rows for single entries take, and whether they are laid out like the rows."""
    if all(s.shape[1] == 1 for s in slopes.values()):
        return slopes, False
    if batch == 1:
        return {k: s[:, entry] for k, s in slopes.items()}, True
    return {k: (s[0, entry] if s.shape[0] == 1 else s[owner, entry])[:, None] for k, s in slopes.items()}, True


def _is_shallow(graph: BoundGraph, index: int) -> bool:
    """Whether an interval pass from a box is already exact here: one matrix after entrywise steps."""
    matrices = 0
    while index != 0:
        node = graph.nodes[index]
        if node.op is None:
            return False
        matrices += isinstance(node.op, Conv | Dense)
        index = node.parents[0]
    return matrices <= 1


def propagate(
    graph: BoundGraph,
    region: Region,
    *,
    executed: bool = True,
    crown: bool = True,
    known: Intervals | None = None,
    middle: MiddleSlopes | None = None,
) -> Intervals:
    """Intervals of every node over the region.

    Args:
        graph: the network.
        region: where they must hold.
        executed: charge the network's own rounding; else its exact real values are bounded.
        crown: tighten what enters activations; else intervals alone.
        known: intervals that hold already, such as a larger region's; the result is never wider.
        middle: lower slopes of ReLUs for the CROWN part.
    """
    found = Intervals()
    unit = graph.unit if executed else 0.0
    for index, node in enumerate(graph.nodes):
        if node.kind == "input":
            lower, upper = region.box()
            error = None
        else:
            lower, upper, error = _interval_step(graph, index, found, unit)
        if known is not None:
            lower = torch.maximum(lower, known.lower[index])
            upper = torch.minimum(upper, known.upper[index])
        found.error.append(error)
        if (
            crown
            and any(graph.nodes[c].kind == "activation" for c in graph.children[index])
            and not (region.norm == "linf" and _is_shallow(graph, index))
        ):
            chosen = None if middle is None else middle.get(index)
            lower, upper = refine(graph, region, found, index, lower, upper, slopes=chosen)
        found.lower.append(lower)
        found.upper.append(upper)
        if node.activation is not None:
            before = node.parents[0]
            found.lines[index] = relax(node.activation, found.lower[before], found.upper[before])
    return found


def _interval_step(
    graph: BoundGraph, index: int, found: Intervals, unit: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    node = graph.nodes[index]
    reach = [found.reach(p).detach() for p in node.parents]
    error: Tensor | None = graph.node_error(index, reach, unit=unit)
    assert error is not None
    parent = node.parents[0]
    if node.activation is not None:
        lower, upper = node.activation(found.lower[parent]), node.activation(found.upper[parent])
        if node.activation.kind == "relu" and not node.activation.slope:
            return lower, upper, None  # a comparison with 0 rounds nothing, here or there
    elif node.op is not None:
        middle = (found.lower[parent] + found.upper[parent]) / 2
        half = (found.upper[parent] - found.lower[parent]) / 2 * OUTWARD
        centre = node.op.forward(middle) + node.op.constant
        spread = node.op.forward(half, absolute=True)
        lower, upper = centre - spread, centre + spread
    else:
        lower = torch.stack([found.lower[p] for p in node.parents]).sum(0)
        upper = torch.stack([found.upper[p] for p in node.parents]).sum(0)
    return lower - error * OUTWARD, upper + error * OUTWARD, error


def margin_rows(n_classes: int, label: Tensor, rivals: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(B, Q, K) rows `e_label - e_rival` and (B, Q) rivals: all other classes unless given."""
    if rivals is None:
        every = torch.arange(n_classes).expand(len(label), -1)
        rivals = every[every != label[:, None]].reshape(len(label), -1)
    eye = torch.eye(n_classes, dtype=torch.float64)
    return eye[label][:, None] - eye[rivals], rivals


def margin_bounds(
    graph: BoundGraph,
    region: Region,
    label: int | Sequence[int] | Tensor,
    *,
    rivals: Tensor | None = None,
    executed: bool = True,
    known: Intervals | None = None,
    crown: bool = True,
    slopes: Slopes | None = None,
    fixed: bool = False,
) -> MarginBounds:
    """Lower bounds of every margin over each region of the batch, by CROWN.

    Args:
        graph: the network.
        region: B sets of images.
        label: the class to be proved, one or (B,).
        rivals: (B, Q) classes to compare with; all others by default.
        executed: for the network as executed (else in exact real arithmetic).
        known: intervals that hold on the regions already.
        crown: CROWN bounds for intermediate neurons (else intervals).
        slopes: lower slopes of ReLUs.
        fixed: take `known` as it is instead of computing intervals.
    """
    labels = torch.as_tensor(label, dtype=torch.int64).expand(region.batch)
    if fixed:
        assert known is not None
        intervals = known
    else:
        intervals = propagate(graph, region, executed=executed, known=known, crown=crown)
    rows, against = margin_rows(graph.n_classes, labels, rivals)
    zero = torch.zeros(rows.shape[:2], dtype=torch.float64)
    last = len(graph.nodes) - 1
    lower, form, offset = back_substitute(graph, region, intervals, last, Whole(rows, None), zero, slopes=slopes)
    assert form is not None
    return MarginBounds(lower, against, form, offset, intervals)
