"""Which signs of the first layer can differ together, anywhere in a region: the patterns that are worth a try.

Each undecided sign has a base value, the one at the region's centre, and linear forms over the image that hold wherever it
has another: `form . x + offset <= 0`. A set of signs that differ from their base together needs all of its forms to be
at most 0 at one image; if a sum of them with weights >= 0 is positive on the whole region, there is none. So sets are
grown sign by sign, the nearest first, and one that is excluded takes all larger ones with it. In L1 and L2, where the
signs share a budget, that leaves few of the 2^m patterns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from robustest.bounds.forms import Whole
from robustest.bounds.graph import Activation, BoundGraph
from robustest.bounds.region import Region
from robustest.bounds.substitute import Intervals, back_substitute

Array = NDArray[np.float64]
_SLACK = 2.0**-30
"""Relative, of all the numbers that go into an exclusion: far above what their float64 sums can have rounded."""
_BLOCK = 64
"""Forms that are carried back to the image at once."""


@dataclass(frozen=True, slots=True)
class Patterns:
    """Values of the undecided signs of one layer that together cover a region.

    entries: (m,) of the layer, rising. values: (m, P).
    """

    entries: NDArray[np.int64]
    values: Array


def choices(activation: Activation, low: float, high: float) -> list[float]:
    """The values that a sign can have on [low, high]."""
    ends = (math.copysign(1.0, v) if v else activation.zero for v in (low, high))
    return sorted({*ends, *([activation.zero] if low <= 0 <= high else [])})


def possible_patterns(graph: BoundGraph, region: Region, intervals: Intervals, at: int, most: int) -> Patterns | None:
    """The patterns of the signs of one node that the region may hold; None for more than `most` of them.

    Args:
        graph: the network. region: one set of images.
        intervals: of every node up to the signs, with the lines of activations before them.
        at: the node with the signs.
    """
    activation, before = graph.nodes[at].activation, graph.nodes[at].parents[0]
    assert activation is not None
    low, high = intervals.lower[before][0].numpy(), intervals.upper[before][0].numpy()
    entries = np.flatnonzero((intervals.lower[at] != intervals.upper[at])[0].numpy())
    options = [choices(activation, float(low[e]), float(high[e])) for e in entries]
    if len(entries) > most:
        return None
    if not len(entries):
        return Patterns(entries, np.zeros((0, 1)))
    forms, least, size = _forms(graph, region, intervals, before, entries)
    away = _Exclusion(region, forms, least, size)
    order = np.argsort(away.distance, kind="stable")
    base = np.array([o[-1] if up else o[0] for o, up in zip(options, away.positive, strict=True)])
    values = base[:, None]
    for place in order:
        others = [v for v in options[place] if v != base[place]]
        grown = np.tile(values, (1, len(others)))
        grown[place] = np.repeat(others, values.shape[1])
        kept = away.allowed(grown != base[:, None])
        values = np.concatenate([values, grown[:, kept]], axis=1)
        if values.shape[1] > most:
            return None
    return Patterns(entries, values)


def _forms(
    graph: BoundGraph, region: Region, intervals: Intervals, node: int, entries: NDArray[np.int64]
) -> tuple[Array, Array, Array]:
    """Forms below and above single entries of a node on the image: (2, m, n); their values at the centre, (2, m), as
    `entry >= value[0] + form[0] . d` and `-entry >= value[1] + form[1] . d`; and the sizes that those are rounded relative to.
    """
    size = graph.nodes[node].size
    centre = region.centre[0].numpy()
    parts: list[tuple[Array, Array, Array]] = []
    for begin in range(0, len(entries), _BLOCK):
        mine = torch.from_numpy(entries[begin : begin + _BLOCK])
        rows = torch.zeros(1, 2 * len(mine), size, dtype=torch.float64)
        rows[0, torch.arange(len(mine)), mine] = 1.0
        rows[0, len(mine) + torch.arange(len(mine)), mine] = -1.0
        zero = torch.zeros(1, 2 * len(mine), dtype=torch.float64)
        _, form, offset = back_substitute(graph, region, intervals, node, Whole(rows, None), zero)
        assert form is not None
        found = form[0].numpy().reshape(2, len(mine), -1)
        shift = offset[0].numpy().reshape(2, len(mine))
        parts.append((found, found @ centre + shift, np.abs(found) @ np.abs(centre) + np.abs(shift)))
    return (
        np.concatenate([p[0] for p in parts], axis=1),
        np.concatenate([p[1] for p in parts], axis=1),
        np.concatenate([p[2] for p in parts], axis=1),
    )


class _Exclusion:
    """Sums of forms with fixed weights, one a sign, whose least value over the region is compared with 0.

    A sign whose lower form is positive at the centre is +1 there; it is something else only where that form is at
    most 0. The same with its upper form the other way round; a sign of which neither says anything has weight 0.
    """

    def __init__(self, region: Region, forms: Array, least: Array, size: Array) -> None:
        self.region = region
        self.positive = least[0] >= least[1]
        side = np.where(self.positive, 0, 1)
        each = np.arange(len(side))
        form, value = forms[side, each], np.maximum(least[side, each], 0.0)
        rate = {
            "linf": np.abs(form).sum(axis=1),
            "l2": np.square(form).sum(axis=1),
            "l1": np.abs(form).max(axis=1),
        }.get(region.norm, np.ones(len(form)))
        weight = np.where((value > 0) & (rate > 0), 1.0, 0.0) / np.where(rate > 0, rate, 1.0)
        if region.norm == "l2":
            weight = weight * value
        self.value, self.size = weight * value, weight * size[side, each]
        self.forms = sparse.csr_matrix(form * weight[:, None])
        self.distance = value / np.where(rate > 0, np.sqrt(rate) if region.norm == "l2" else rate, 1.0)

    def allowed(self, sets: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(P,) whether a set of signs, a column of (m, P), is not excluded."""
        if self.region.norm not in ("linf", "l2", "l1"):
            return np.ones(sets.shape[1], dtype=bool)
        chosen = sparse.csr_matrix(sets.T.astype(np.float64))
        form = chosen @ self.forms
        won = chosen @ self.value
        slack = _SLACK * (chosen @ self.size)
        return np.asarray(won <= self._lost(form) * (1 + _SLACK) + slack)

    def _lost(self, form: Any) -> Array:
        """(P,) most that each form can fall from its value at the centre within the region."""
        region, radius = self.region, float(self.region.eps[0])
        if region.norm == "l1":
            return np.asarray(abs(form).max(axis=1).toarray().ravel() * radius)
        if region.norm == "l2":
            return np.asarray(np.sqrt(np.asarray(form.multiply(form).sum(axis=1)).ravel()) * radius)
        down = (region.centre - region.lower)[0].numpy()
        up = (region.upper - region.centre)[0].numpy()
        return np.asarray(form.maximum(0) @ down - form.minimum(0) @ up)
