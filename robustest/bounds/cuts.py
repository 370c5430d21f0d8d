"""Proofs by contradiction: where the class could be lost, the input obeys one more inequality, and bounds are tighter.

CROWN bounds a rival's margin by a form of the image: `margin >= form . image + offset` on a box. An image of the box that
the rival wins or ties therefore has `form . image + offset <= 0`, which near a proof leaves a small corner of the box.
On that corner every neuron is bounded again, and the margin with it: positive there, it contradicts itself, and no image
of the box is lost to the rival. Otherwise the new form cuts the box anew. The corner is a weighted L1 ball around the
box's point at which the form is least, over which forms have an exact minimum.

Source: that assumptions on the output tighten what lies before is of Kotha et al. 2023 (INVPROP), arXiv:2302.01404.
Departure: the assumption is turned into a set of inputs, and bounds over it are CROWN's own.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch
from torch import Tensor

from robustest.bounds.alpha import optimise
from robustest.bounds.crown import MarginBounds, margin_bounds
from robustest.bounds.graph import BoundGraph
from robustest.bounds.region import Region

_ROUNDS = 8
_WORTH = 0.85
"""Most that a round may leave of the shortfall of the worst margin for another round to follow."""
_TOUCH = 1e-12
"""A form that is positive on the box leaves no corner at all: so much of one is left."""


def prove_by_cuts(
    graph: BoundGraph,
    region: Region,
    label: int,
    first: MarginBounds,
    *,
    steps: int = 0,
    executed: bool = True,
    seconds: float = math.inf,
) -> bool:
    """Whether no image of one box is lost to any rival.

    Args:
        graph: the network.
        region: a box (`linf`, a batch of one).
        label: the class to be proved.
        first: margins bounded on the box; rivals whose margin is positive are done with.
        steps: of slope optimisation on each corner; 0 for none.
        executed: for the network as executed.
        seconds: CPU time by which all rounds should be done; none begins that would end later.
    """
    begin = time.thread_time()
    assert region.norm == "linf"
    assert region.batch == 1
    open_ = (~(first.lower[0] > 0)).nonzero()[:, 0]
    rivals, forms, least = first.rivals[0, open_], first.form[0, open_], first.lower[0, open_]
    known = first.intervals.select(torch.zeros(len(open_), dtype=torch.int64))
    worst, began = float(first.lower.min()), begin
    for turn in range(_ROUNDS):
        if not len(rivals):
            return True
        now = time.thread_time()
        # A round takes about as long as the one before it.
        if now - begin + (now - began if turn else 0.0) > seconds or not bool(least.isfinite().all()):
            break
        began = now
        corner = region.below(forms, least.clamp_max(-_TOUCH))
        left = seconds - (time.thread_time() - begin)
        found = _bounds(graph, corner, label, rivals, replace(first, intervals=known), steps, executed, left)
        short = found.lower[:, 0]
        with torch.no_grad():
            box = region.min_linear(found.form[:, 0][None])[0] + found.offset[:, 0]
        open_ = (~((short > 0) | (box > 0))).nonzero()[:, 0]
        if len(open_) and float(short.min()) < _WORTH * worst:
            break
        worst = float(short.min())
        rivals, forms, least = rivals[open_], found.form[open_, 0], box[open_]
        known = found.intervals.select(open_)
    return not len(rivals)


def _bounds(
    graph: BoundGraph,
    corner: Region,
    label: int,
    rivals: Tensor,
    before: MarginBounds,
    steps: int,
    executed: bool,
    seconds: float,
) -> MarginBounds:
    """Margins against one rival on each corner, from intervals that hold there."""
    labels = torch.full((len(rivals),), label)
    known, slopes, best = before.intervals, None, None
    if steps:
        found = optimise(
            graph,
            corner,
            labels,
            rivals=rivals[:, None],
            steps=steps,
            executed=executed,
            known=known,
            seconds=seconds,
        )
        known, slopes, best = found.intervals, found.slopes, found.lower
    with torch.no_grad():
        bounds = margin_bounds(
            graph,
            corner,
            labels,
            rivals=rivals[:, None],
            executed=executed,
            known=known,
            slopes=slopes,
            fixed=best is not None,
            deadline=time.thread_time() + seconds,
        )
    return bounds if best is None else replace(bounds, lower=torch.maximum(bounds.lower, best))
