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

from robustest.bounds.forms import Whole
from robustest.bounds.graph import BoundGraph
from robustest.bounds.ops import Conv, Dense
from robustest.bounds.region import Region
from robustest.bounds.relax import relax
from robustest.bounds.rounding import OUTWARD
from robustest.bounds.substitute import Intervals, MiddleSlopes, Slopes, back_substitute, node_forms

_CHUNK = 1_000_000
"""Numbers in one block of forms: blocks that fit the cache are the fastest."""


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
    owner, entry = ((lower < 0) & (upper > 0)).nonzero(as_tuple=True)
    if len(owner) == 0:
        return lower, upper
    largest = max(node.size for node in graph.nodes[: index + 1])
    block = max(32, _CHUNK // (2 * largest))
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for begin in range(0, len(owner), block):
        if time.thread_time() > deadline:
            owner, entry = owner[:begin], entry[:begin]
            break
        who, which = owner[begin : begin + block], entry[begin : begin + block]
        if slopes is None:
            ends = _ends(graph, region, intervals, index, who, which, (1.0, -1.0), lower.shape[0])
            found[0].append(ends[: len(who)])
            found[1].append(-ends[len(who) :])
            continue
        for side, sign in enumerate((1.0, -1.0)):
            mine = _slopes_of_rows(slopes[side], who, which, lower.shape[0])
            found[side].append(
                sign * _ends(graph, region, intervals, index, who, which, (sign,), lower.shape[0], *mine)
            )
    if len(owner) == 0:
        return lower, upper
    new_lower, new_upper = torch.cat(found[0]), torch.cat(found[1])
    if keep:
        new_lower = torch.maximum(lower[owner, entry], new_lower)
        new_upper = torch.minimum(upper[owner, entry], new_upper)
    return lower.index_put((owner, entry), new_lower), upper.index_put((owner, entry), new_upper)


def _ends(
    graph: BoundGraph,
    region: Region,
    intervals: Intervals,
    index: int,
    owner: Tensor,
    entry: Tensor,
    signs: tuple[float, ...],
    batch: int,
    slopes: Slopes | None = None,
    per_row: bool = False,
) -> Tensor:
    """Lower ends of single entries of a node times each sign in turn, one after the other."""
    sign = torch.tensor(signs, dtype=torch.float64).repeat_interleave(len(owner))
    zero = torch.zeros(len(sign), 1, dtype=torch.float64)
    forms = node_forms(graph, index, owner.repeat(len(signs)), entry.repeat(len(signs)), sign)
    if isinstance(forms, Whole) and batch == 1:
        forms, zero = Whole(forms.rows.transpose(0, 1), None), zero.T
    return back_substitute(graph, region, intervals, index, forms, zero, slopes=slopes, per_row=per_row)[0].flatten()


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
            lower, upper = refine(graph, region, found, index, lower, upper, slopes=chosen, deadline=deadline)
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
