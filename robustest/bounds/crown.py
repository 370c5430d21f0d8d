"""Interval and CROWN bounds of a network over a region, for the network as executed.

`margin_bounds` bounds every margin `score[label] - score[rival]` from below by a linear form of the image and the
form's exact minimum over the region. Each affine step charges its float32 rounding in any order of summation, and
this program's own float64 rounding, as an interval of its output: so the bound holds for the executed network.
Intermediate neurons that an interval pass leaves undecided get CROWN bounds too, convolutional ones on their
receptive fields.

Source: Zhang et al. 2018, arXiv:1811.00866, with the minimum taken over (ball AND box) instead of the ball.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustest.bounds.forms import Forms, Whole
from robustest.bounds.graph import BoundGraph
from robustest.bounds.ops import Conv, Dense
from robustest.bounds.region import Region
from robustest.bounds.relax import relax
from robustest.bounds.rounding import OUTWARD, or_nothing
from robustest.bounds.substitute import (
    Intervals,
    MiddleSlopes,
    Slopes,
    back_substitute,
    entry_forms,
    is_map,
    place_forms,
)
from robustest.errors import InvalidSetting

_CHUNK = 1_000_000
"""Numbers in one block of forms: blocks that fit the cache are the fastest."""
_CROWDED = 0.4
"""Share of a map's entries beyond which forms for all channels of a place are carried back together."""


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
    deadline: float = math.inf,
) -> tuple[Tensor, Tensor]:
    """Tighten the (B, size) interval of a node by CROWN wherever it holds 0; slopes for lower and for upper ends.

    With `keep` off the ends that CROWN finds replace the given ones even where they are wider (for gradients). After
    the deadline (of this thread's CPU time) the entries that are left keep the ends that they have.
    """
    wanted = (lower < 0) & (upper > 0)
    if not bool(wanted.any()):
        return lower, upper
    rows = _PlaceRows(graph, index, wanted) if _is_crowded(graph, index, wanted) else _EntryRows(graph, index, wanted)
    block = max(1, _CHUNK // (2 * rows.each * _numbers(graph, index)))
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for begin in range(0, len(rows.owner), block):
        if time.thread_time() > deadline:
            break
        part = slice(begin, begin + block)
        if slopes is None:
            least = _least(graph, region, intervals, index, rows.forms(part, (1.0, -1.0)), lower.shape[0])
            ends = least[:, : rows.each], -least[:, rows.each :]
        else:
            mine = [_slopes_of_rows(s, rows.owner[part], rows.entry[part], lower.shape[0]) for s in slopes]
            low, high = (
                sign * _least(graph, region, intervals, index, rows.forms(part, (sign,)), lower.shape[0], *chosen)
                for sign, chosen in zip((1.0, -1.0), mine, strict=True)
            )
            ends = low, high
        found.append(rows.single(part, *ends))
    if not found:
        return lower, upper
    owner, entry, new_lower, new_upper = (torch.cat(part) for part in zip(*found, strict=True))
    if keep:
        new_lower = torch.maximum(lower[owner, entry], new_lower)
        new_upper = torch.minimum(upper[owner, entry], new_upper)
    return lower.index_put((owner, entry), new_lower), upper.index_put((owner, entry), new_upper)


class _EntryRows:
    """Forms for single entries of a node: (U,) owner and entry of each; `each` of them, 1, in a set of forms."""

    def __init__(self, graph: BoundGraph, index: int, wanted: Tensor) -> None:
        self.graph, self.index, self.each = graph, index, 1
        self.owner, self.entry = wanted.nonzero(as_tuple=True)

    def forms(self, part: slice, signs: tuple[float, ...]) -> Forms:
        """(u, S) forms of some entries times signs."""
        return entry_forms(self.graph, self.index, self.owner[part], self.entry[part], signs)

    def single(self, part: slice, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Owner, entry and both ends of each entry, from (u, 1) ends."""
        return self.owner[part], self.entry[part], low[:, 0], high[:, 0]


class _PlaceRows:
    """Forms for all channels at once of (U,) places of a map, wherever an entry is wanted; entry: (U,) the places."""

    def __init__(self, graph: BoundGraph, index: int, wanted: Tensor) -> None:
        self.graph, self.index, self.each = graph, index, graph.nodes[index].shape[0]
        maps = wanted.reshape(len(wanted), self.each, -1)
        self.owner, self.entry = maps.any(1).nonzero(as_tuple=True)
        self.wanted, self.places = maps[self.owner, :, self.entry], maps.shape[2]

    def forms(self, part: slice, signs: tuple[float, ...]) -> Forms:
        """(u, S * C) forms of the channels of some places times signs."""
        return place_forms(self.graph, self.index, self.owner[part], self.entry[part], signs)

    def single(self, part: slice, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Owner, entry and both ends of each wanted entry, from (u, C) ends."""
        wanted = self.wanted[part]
        place, channel = wanted.nonzero(as_tuple=True)
        entry = channel * self.places + self.entry[part][place]
        return self.owner[part][place], entry, low[wanted], high[wanted]


def _is_crowded(graph: BoundGraph, index: int, wanted: Tensor) -> bool:
    """Whether so many entries of a map are wanted that forms for all of its channels are the faster way."""
    return is_map(graph.nodes[index]) and int(wanted.sum()) > _CROWDED * wanted.numel()


def _numbers(graph: BoundGraph, index: int) -> int:
    """The most coefficients that one form on an entry of a node has on its way back to the image."""
    if not is_map(graph.nodes[index]):
        return max(node.size for node in graph.nodes[: index + 1])
    most, window = 1, {index: (1, 1)}
    for at in range(index, 0, -1):
        if at not in window:
            continue
        node, (high, wide) = graph.nodes[at], window[at]
        most = max(most, min(node.size, node.size // (node.shape[1] * node.shape[2]) * high * wide))
        if isinstance(node.op, Conv):
            high, wide = node.op.below(high, wide)
        for parent in node.parents:
            if not is_map(graph.nodes[parent]):
                return max(most, graph.n_inputs if parent == 0 else graph.nodes[parent].size)
            before = window.get(parent, (1, 1))
            window[parent] = max(high, before[0]), max(wide, before[1])
    return most


def _least(
    graph: BoundGraph,
    region: Region,
    intervals: Intervals,
    index: int,
    forms: Forms,
    batch: int,
    slopes: Slopes | None = None,
    per_row: bool = False,
) -> Tensor:
    """(U, K) lower bounds of forms on a node."""
    shape = forms.rows.shape[:2]
    zero = torch.zeros(shape, dtype=torch.float64)
    if isinstance(forms, Whole) and batch == 1:
        forms, zero = Whole(forms.rows.flatten(0, 1)[None], None), zero.flatten()[None]
    lower = back_substitute(graph, region, intervals, index, forms, zero, slopes=slopes, per_row=per_row)[0]
    return lower.reshape(shape)


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
    deadline: float = math.inf,
) -> Intervals:
    """Intervals of every node over the region.

    Args:
        graph: the network.
        region: where they must hold.
        executed: charge the network's own rounding; else its exact real values are bounded.
        crown: tighten what enters activations; else intervals alone.
        known: intervals that hold already, such as a larger region's; the result is never wider.
        middle: lower slopes of ReLUs for the CROWN part.
        deadline: of this thread's CPU time; neurons that are not tightened by then keep their intervals.
    """
    found = Intervals()
    unit = graph.unit if executed else 0.0
    for index, node in enumerate(graph.nodes):
        if node.kind == "input":
            lower, upper = region.box()
            error = None
        else:
            lower, upper, error = interval_step(graph, index, found, unit)
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
            lower, upper = refine(graph, region, found, index, lower, upper, slopes=chosen, deadline=deadline)
        found.lower.append(lower)
        found.upper.append(upper)
        if node.activation is not None:
            before = node.parents[0]
            found.lines[index] = relax(node.activation, found.lower[before], found.upper[before])
    return found


def interval_step(graph: BoundGraph, index: int, found: Intervals, unit: float) -> tuple[Tensor, Tensor, Tensor | None]:
    """(B, size) lower and upper ends of a node from those of its parents, and the rounding charged in them; None for none."""
    node = graph.nodes[index]
    reach = [found.reach(p).detach() for p in node.parents]
    error: Tensor | None = graph.node_error(index, reach, unit=unit)
    assert error is not None
    parent = node.parents[0]
    if node.activation is not None:
        lower, upper = node.activation.interval(found.lower[parent], found.upper[parent])
        if node.activation.kind == "sign" or (node.activation.kind == "relu" and not node.activation.slope):
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
    return or_nothing(lower - error * OUTWARD), -or_nothing(-upper - error * OUTWARD), error


def margin_rows(n_classes: int, label: Tensor, rivals: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(B, Q, K) rows `e_label - e_rival` and (B, Q) rivals: all other classes unless given."""
    if rivals is None:
        every = torch.arange(n_classes).expand(len(label), -1)
        rivals = every[every != label[:, None]].reshape(len(label), -1)
    eye = torch.eye(n_classes, dtype=torch.float64)
    return eye[label][:, None] - eye[rivals], rivals


def rows_against(n_classes: int, label: int, target: int | None) -> Tensor:
    """(Q, K) rows `e_label - e_rival` of one image: against all other classes, or against `target` alone.

    Raises:
        InvalidSetting: label and target are not two of the classes.
    """
    rivals = [c for c in range(n_classes) if c != label] if target is None else [target]
    if label in rivals or not all(0 <= c < n_classes for c in (*rivals, label)):
        raise InvalidSetting(
            f"label and target must be two of {n_classes} classes; got label {label}, target {target}."
        )
    return margin_rows(n_classes, torch.tensor([label]), torch.tensor([rivals], dtype=torch.int64))[0][0]


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
    deadline: float = math.inf,
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
        deadline: of this thread's CPU time, after which nothing is tightened further.
    """
    labels = torch.as_tensor(label, dtype=torch.int64).expand(region.batch)
    if fixed:
        assert known is not None
        intervals = known
    else:
        intervals = propagate(graph, region, executed=executed, known=known, crown=crown, deadline=deadline)
    rows, against = margin_rows(graph.n_classes, labels, rivals)
    zero = torch.zeros(rows.shape[:2], dtype=torch.float64)
    last = len(graph.nodes) - 1
    lower, form, offset = back_substitute(graph, region, intervals, last, Whole(rows, None), zero, slopes=slopes)
    assert form is not None
    return MarginBounds(lower, against, form, offset, intervals)
