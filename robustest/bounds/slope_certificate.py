"""Slopes that prove a Linf ball, written down: what a second program needs to follow a proof by optimised slopes.

Any slopes in [leak, 1] give a sound bound, so a certificate holds slopes and no bounds: 8 bits each, and proved with
those 8 bits before they are given out. They stand under the number of their ReLU, counted from the image on.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robustest.bounds.crown import MarginBounds, margin_bounds, propagate
from robustest.bounds.graph import BoundGraph
from robustest.bounds.ops import Conv
from robustest.bounds.region import Region
from robustest.bounds.substitute import Intervals, MiddleSlopes, Slopes

_LARGEST = 2_000_000
"""Slopes that a certificate may hold; a proof that needs more is not written down."""
_RISES = (1.01, 1.02, 1.04)
"""By how much more than plain CROWN's radius written slopes are asked to prove, in turn."""
_RATE, _STEPS = 0.2, 25


def largest_written(
    graph: BoundGraph, point: Tensor, label: int, plain: float, raised: float, deadline: float, executed: bool
) -> tuple[float, dict[str, Any]] | None:
    """The largest Linf radius of a few for which slopes are found, and those; None where there was no time for any.

    None, too, where a network takes maxima: those are made of ReLUs here alone, and slopes of these mean nothing to others.

    Args:
        graph: the network. point: (1, n) the image. label: its class.
        plain: radius that needs no slopes. raised: the largest radius of interest.
        deadline: of this thread's CPU time. executed: for the network as executed.
    """
    best = None
    if any(_is_part_of_maximum(graph, at) for at in range(len(graph.nodes))):
        return None
    for radius in sorted({min(raised, plain * rise) for rise in _RISES}):
        left = deadline - time.thread_time()
        if left <= 0:
            break
        region = Region.ball(point, "linf", radius, channels=graph.input_shape[2])
        slopes = slopes_that_prove(graph, region, label, seconds=left, executed=executed)
        if slopes is None:
            break
        best = radius, slopes
    return best


def _is_part_of_maximum(graph: BoundGraph, at: int) -> bool:
    """Whether a node is the ReLU of a difference that no runtime computes: `max(a, b) = b + relu(a - b)`."""
    node = graph.nodes[at]
    before = graph.nodes[node.parents[0]] if node.activation is not None else None
    return before is not None and before.exact and isinstance(before.op, Conv | None)


def slopes_that_prove(
    graph: BoundGraph, region: Region, label: int, *, seconds: float, executed: bool = True
) -> dict[str, Any] | None:
    """Slopes as plain values with which CROWN proves one region; None where none were found in time.

    Args:
        graph: the network. region: one set of images. label: the class to be proved.
        seconds: CPU time of this thread after which no further step is taken. executed: for the network as executed.
    """
    graph.need_continuous("an ascent on slopes")
    begin = time.thread_time()
    with torch.no_grad():
        plain = margin_bounds(graph, region, label, executed=executed)
    hard = plain.rivals[~(plain.lower > 0)]
    between, final = _start(graph, plain.intervals, max(1, len(hard)))
    held = [*final.values(), *(s for pair in between.values() for side in pair for s in side.values())]
    if not final or sum(s.numel() for s in held) > _LARGEST:
        return None
    if len(hard) == 0:
        return _written(graph, hard, {}, {})
    for values in held:
        values.requires_grad_()
    ascent = torch.optim.Adam(held, _RATE)
    for _ in range(_STEPS):
        found = _bound(graph, region, label, hard, plain.intervals, between, final, executed).lower
        if bool((found > 0).all()):
            short = {k: _short(v) for k, v in final.items()}
            inner = {k: ({n: _short(s) for n, s in a.items()}, {n: _short(s) for n, s in b.items()})
                     for k, (a, b) in between.items()}  # fmt: skip
            with torch.no_grad():
                again = _bound(graph, region, label, hard, plain.intervals, inner, short, executed).lower
            if bool((again > 0).all()):
                return _written(graph, hard, inner, short)
        if time.thread_time() - begin > seconds:
            break
        ascent.zero_grad()
        torch.autograd.backward(-torch.where(found > 0.02 * found.detach().abs().max(), 0.0, found).sum())
        ascent.step()
        with torch.no_grad():
            for values in held:
                values.clamp_(0.0, 1.0)
    return None


def _bound(
    graph: BoundGraph,
    region: Region,
    label: int,
    rivals: Tensor,
    known: Intervals,
    between: MiddleSlopes,
    final: Slopes,
    executed: bool,
) -> MarginBounds:
    current = propagate(graph, region, executed=executed, known=known, middle=between)
    return margin_bounds(
        graph, region, label, rivals=rivals[None], executed=executed, known=current, fixed=True, slopes=final
    )


def _start(graph: BoundGraph, intervals: Intervals, rows: int) -> tuple[MiddleSlopes, Slopes]:
    """The plain slopes: for each node that CROWN tightens, shared by its entries, and for the margins."""
    plain = {at: lines.lower_slope[:, None] for at, lines in intervals.lines.items() if bool(lines.free.any())}
    between: MiddleSlopes = {}
    for at in intervals.lines:
        read = graph.nodes[at].parents[0]
        before = {k: v for k, v in plain.items() if k < read}
        if before and bool(((intervals.lower[read] < 0) & (intervals.upper[read] > 0)).any()):
            between[read] = ({k: v.clone() for k, v in before.items()}, {k: v.clone() for k, v in before.items()})
    return between, {k: v.expand(-1, rows, -1).clone() for k, v in plain.items()}


def _short(slopes: Tensor) -> Tensor:
    """Rounded to what 8 bits hold."""
    return (slopes.detach().clamp(0, 1) * 255).round() / 255


def _written(graph: BoundGraph, rivals: Tensor, between: MiddleSlopes, final: Slopes) -> dict[str, Any]:
    bends = [at for at, node in enumerate(graph.nodes) if node.activation is not None]
    number = {at: place for place, at in enumerate(bends)}

    def plain(slopes: Mapping[int, Tensor]) -> dict[str, str]:
        return {
            str(number[at]): base64.b64encode((v * 255).round().to(torch.uint8).numpy().tobytes()).decode()
            for at, v in slopes.items()
        }

    reading = {graph.nodes[at].parents[0]: number[at] for at in bends}
    middle = {str(reading[at]): {"lower": plain(low), "upper": plain(high)} for at, (low, high) in between.items()}
    return {"rivals": rivals.tolist(), "margins": plain(final), "between": middle}
