"""Margin bounds computed a second time, in numpy: what a certificate's leaves are rechecked with.

The mathematics is that of `centred` (changes relative to a base image, tangents below, secants above) with CROWN's two
lines as the other choice, written anew over sparse matrices: it shares no code with the modules that made the proof.
Rounding of the executed float32 network is charged at every layer; that of this program by the same charge with
float64's unit, taken generously.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from robustest.bounds.recheck_layers import Array, Layer, Model, picked

_U32, _U64 = 2.0**-24, 2.0**-53
_FLUSH = 2.0**-126
_OVERFLOW = 2.0**127
_WHOLE = 2.0**24
_TINY = 2.0**-45
"""Absolute error of a slope, far above what a few float64 operations can do."""
_UP = 1.0 + 2.0**-28
_CHUNK = 200


@dataclass(frozen=True, slots=True)
class Leaf:
    """A set of images.

    centre, lower, upper: (n,) the base image and the box. norm: linf (the box), l0, l0_dims, l1 or l2. eps: for the last two.
    unit: dimensions that count as one. groups: L0 alone: (units, budget), disjoint; other units do not move.
    """

    centre: Array
    lower: Array
    upper: Array
    norm: str
    eps: float = 0.0
    unit: int = 1
    groups: tuple[tuple[NDArray[np.int64], int], ...] = ()

    def each_lost(self, centre: Array, radius: Array) -> Array:
        """(R, n) most that each dimension alone can take from `centre . d - radius . |d|`."""
        down, up = np.maximum(centre + radius, 0), np.maximum(radius - centre, 0)
        return np.asarray(np.maximum(down * (self.centre - self.lower), up * (self.upper - self.centre)))

    def most_lost(self, centre: Array, radius: Array) -> Array:
        """(R,) most that `-(centre . d - radius . |d|)` can be over the set; forms are (R, n)."""
        lost = self.each_lost(centre, radius)
        if self.norm == "linf":
            return np.asarray(lost.sum(axis=1))
        if self.norm in ("l0", "l0_dims"):
            lost = lost.reshape(len(lost), -1, self.unit).sum(axis=2)
            total = np.zeros(len(lost))
            for units, budget in self.groups:
                mine = lost[:, units]
                if budget == 0:
                    continue
                if budget < mine.shape[1]:
                    mine = np.partition(mine, mine.shape[1] - budget, axis=1)[:, mine.shape[1] - budget :]
                total += mine.sum(axis=1)
            return total
        fall, rise = np.maximum(radius + centre, 0), np.maximum(radius - centre, 0)
        ways = (fall, self.centre - self.lower), (rise, self.upper - self.centre)
        return _l1_most(ways, self.eps) if self.norm == "l1" else _l2_most(ways, self.eps)


@dataclass(frozen=True, slots=True)
class Slopes:
    """Lower slopes of ReLUs that a certificate proposes; any are sound, and those of no use are not taken.

    margins: ReLU layer to (R, size), NaN where none is proposed. between: layer that a ReLU reads to slopes for its lower
    and for its upper ends, each ReLU layer to (size,).
    """

    margins: dict[int, Array]
    between: dict[int, tuple[dict[int, Array], dict[int, Array]]]


Tell = Callable[[int, int, int], None]
"""Is told, while a layer is bounded: which layer, and how many of its undecided entries are done, of how many."""

Ways = tuple[tuple[Array, Array], tuple[Array, Array]]
"""Of a move downwards and of one upwards: what a unit of it takes, (R, n) >= 0, and how far the box lets it go, (n,)."""


def _l1_most(ways: Ways, eps: float) -> Array:
    """Fractional knapsack by its dual: any price gives an upper bound, each dimension going its better way at it.

    The price is halved towards the one at which what is worth more than it just uses up the budget.
    """
    low = np.zeros(len(ways[0][0]))
    high = np.maximum(ways[0][0].max(axis=1), ways[1][0].max(axis=1))
    ends = []
    for _ in range(40):
        middle = (low + high) / 2
        worth = [room * np.maximum(rate - middle[:, None], 0) for rate, room in ways]
        room = np.where(worth[0] >= worth[1], ways[0][1] * (worth[0] > 0), ways[1][1])
        long = room.sum(axis=1, where=np.maximum(worth[0], worth[1]) > 0) > eps
        low, high = np.where(long, middle, low), np.where(long, high, middle)
    for price in (low, high):
        worth = [room * np.maximum(rate - price[:, None], 0) for rate, room in ways]
        ends.append(price * eps + np.maximum(*worth).sum(axis=1))
    return np.asarray(np.minimum(*ends))


def _l2_most(ways: Ways, eps: float) -> Array:
    """Lagrange dual at the price where the move is as long as the radius: any positive price gives an upper bound.

    Each dimension moves by `min(rate / (2 price), room)` its better way; that shortens as the price grows, so the price
    is found by halving its logarithm.
    """
    size = np.sqrt(np.square(np.maximum(*(rate * (room > 0) for rate, room in ways))).sum(axis=1))
    best = np.minimum(size * eps, np.maximum(*(rate * room for rate, room in ways)).sum(axis=1))
    if not eps > 0:
        return np.asarray(best)

    def moved(price: Array) -> tuple[Array, Array]:
        moves = [np.minimum(rate / (2 * price[:, None]), room) for rate, room in ways]
        gains = [rate * m - price[:, None] * m**2 for (rate, _), m in zip(ways, moves, strict=True)]
        down = gains[0] >= gains[1]
        length = np.square(np.where(down, moves[0], moves[1])).sum(axis=1)
        return length, np.where(down, gains[0], gains[1]).sum(axis=1)

    high = np.log(np.maximum(size / (2 * eps), 1e-200))
    low = high - 20.0
    for _ in range(30):
        middle = (low + high) / 2
        long = moved(np.exp(middle))[0] > eps**2
        low, high = np.where(long, middle, low), np.where(long, high, middle)
    return np.asarray(np.minimum(best, moved(np.exp(high))[1] + np.exp(high) * eps**2))


@dataclass(slots=True)
class _State:
    """Per layer: value at the base, lowest and highest executed value, and what rounding may add."""

    base: list[Array]
    low: list[Array]
    high: list[Array]
    noise: list[Array]


def least_margins(
    model: Model, leaf: Leaf, rows: Array, slopes: Slopes | None = None, *, tell: Tell = lambda *_: None
) -> tuple[Array, Array]:
    """Lower bounds of linear forms of the executed scores over a leaf.

    Args:
        model: the network. leaf: a set of images. rows: (R, K) forms. slopes: to try as well. tell: see `Tell`.

    Returns:
        (R,) bounds; (n,) how much each dimension's move can take from the form with the least bound.
    """
    base = model.values(leaf.centre)
    state = _State(base, [leaf.lower], [leaf.upper], [np.zeros_like(leaf.centre)])
    readers = {layer.inputs[0] for layer in model.layers if layer.leak is not None}
    for at, layer in enumerate(model.layers[1:], 1):
        noise = rounding(layer, [np.maximum(np.abs(state.low[i]), np.abs(state.high[i])) for i in layer.inputs])
        state.noise.append(noise)
        low, high = _interval(layer, state)
        low, high = low - noise, high + noise
        if at in readers:
            _tighten(
                model,
                at,
                leaf,
                state,
                low,
                high,
                ({}, {}) if slopes is None else slopes.between.get(at, ({}, {})),
                tell,
            )
        state.low.append(np.minimum(low, base[at]))
        state.high.append(np.maximum(high, base[at]))
    last = len(model.layers) - 1
    value = rows @ base[last]
    slack = 8 * len(base[last]) * _U64 * (np.abs(rows) @ np.abs(base[last]))
    lost, forms = _lost(model, last, rows, leaf, state, {} if slopes is None else slopes.margins)
    margins = value - slack - lost
    worst = forms[int(margins.argmin())][None]
    return np.asarray(margins), leaf.each_lost(worst, np.zeros_like(worst))[0]


def rounding(layer: Layer, reach: Sequence[Array]) -> Array:
    """What executing a layer in float32, and working with it here, can add to or take from each output."""
    if layer.matrix is not None:
        mass = layer.mass if len(layer.mass) else np.abs(layer.bias)
        size = abs(layer.matrix) @ reach[0] + mass
        terms = layer.terms + 4
        # A product with an exact 0 takes no part in any rounding; nine are for the bias, the products and folded weights.
        adds = (layer.matrix != 0) @ (reach[0] != 0).astype(np.float64) + 9 if layer.sums else terms
    else:
        size, terms = np.sum(reach, axis=0), layer.terms
        adds = terms
        if layer.leak == 0.0 or layer.zero is not None or layer.taps is not None:
            return np.zeros(layer.size)
    executed = adds * _U32 / (1 - adds * _U32)
    own = 16 * (terms + layer.size + 100) * _U64
    if layer.whole and (size <= _WHOLE).all():
        return np.asarray(size * own)
    noise = size * (executed + own) * _UP + terms * _FLUSH
    return np.asarray(np.where(size < _OVERFLOW, noise, np.inf))


def _interval(layer: Layer, state: _State) -> tuple[Array, Array]:
    """Interval bounds of one layer from those of its inputs, rounding not yet charged."""
    lows, highs = [state.low[i] for i in layer.inputs], [state.high[i] for i in layer.inputs]
    if layer.matrix is not None:
        middle, half = (lows[0] + highs[0]) / 2, (highs[0] - lows[0]) / 2
        middle, half = layer.matrix @ middle + layer.bias, abs(layer.matrix) @ half * _UP
        return middle - half, middle + half
    if layer.leak is not None:
        return (np.where(t > 0, t, layer.leak * t) for t in (lows[0], highs[0]))  # type: ignore[return-value]
    if layer.taps is not None:
        return picked(lows[0], layer.taps).max(axis=1), picked(highs[0], layer.taps).max(axis=1)
    return np.sum(lows, axis=0), np.sum(highs, axis=0)


def _tighten(
    model: Model,
    at: int,
    leaf: Leaf,
    state: _State,
    low: Array,
    high: Array,
    slopes: tuple[dict[int, Array], dict[int, Array]],
    tell: Tell,
) -> None:
    """Narrow the interval of a layer that a ReLU reads, entry by entry, in place; slopes for lower and upper ends."""
    open_rows = np.flatnonzero((low < 0) & (high > 0))
    for start in range(0, len(open_rows), _CHUNK):
        tell(at, start, len(open_rows))
        part = open_rows[start : start + _CHUNK]
        forms = np.zeros((len(part), model.layers[at].size))
        forms[np.arange(len(part)), part] = 1.0
        low[part] = np.maximum(low[part], state.base[at][part] - _lost(model, at, forms, leaf, state, slopes[0])[0])
        high[part] = np.minimum(high[part], state.base[at][part] + _lost(model, at, -forms, leaf, state, slopes[1])[0])


def _lost(
    model: Model, start: int, forms: Array, leaf: Leaf, state: _State, slopes: dict[int, Array]
) -> tuple[Array, Array]:
    """The most that forms on a layer can fall from their base value, (R,), and their linear parts on the image, (R, n).

    The best of secants, CROWN's lines, CROWN's lines on the last ReLU alone, and there its upper line with the tangent;
    of CROWN's lines with the slopes that were proposed; and of these with lines above maxima, where there are any.
    """
    last = max((i for i in range(1, start) if model.layers[i].leak is not None), default=0)
    ways: list[tuple[set[int], bool]] = [(set(), False), ({last}, True), (set(range(start)), True)]
    if start == len(model.layers) - 1:
        ways.append(({last}, False))
    tried = [_push(model, start, forms, leaf, state, lines, both) for lines, both in ways]
    if slopes:
        tried.append(_push(model, start, forms, leaf, state, set(range(start)), True, slopes))
    if any(layer.taps is not None and layer.taps.shape[1] > 1 for layer in model.layers[:start]):
        tried += [_push(model, start, forms, leaf, state, lines, both, chords=True) for lines, both in ways]
    lost = np.stack([t[0] for t in tried])
    best = lost.argmin(axis=0)
    rows = np.arange(len(forms))
    return lost[best, rows], np.stack([t[1] for t in tried])[best, rows]


def _push(
    model: Model,
    start: int,
    forms: Array,
    leaf: Leaf,
    state: _State,
    lines: set[int],
    both: bool,
    slopes: Mapping[int, Array] = MappingProxyType({}),
    chords: bool = False,
) -> tuple[Array, Array]:
    """As `_lost`, with CROWN's upper line (its lower one too if `both`) on the ReLUs in `lines`, secants on the others."""
    held: dict[int, tuple[Array, Array]] = {start: (forms, np.zeros_like(forms))}
    lost = np.zeros(len(forms))
    for at in range(start, 0, -1):
        if at not in held:
            continue
        layer, (centre, radius) = model.layers[at], held.pop(at)
        lost += (np.abs(centre) + radius) @ state.noise[at]
        if layer.matrix is not None:
            centre, radius = centre @ layer.matrix, radius @ abs(layer.matrix) * _UP
        elif layer.leak is not None:
            before = layer.inputs[0]
            z0, low, high = state.base[before], state.low[before], state.high[before]
            centre, radius, more = _relu(centre, radius, layer.leak, z0, low, high, at in lines, both, slopes.get(at))
            lost += more
        elif layer.taps is not None:
            before = layer.inputs[0]
            centre, radius, more = _largest(
                centre, radius, layer.taps, state.base[before], state.low[before], state.high[before], chords
            )
            lost += more
        for i in layer.inputs:
            if i in held:
                held[i] = (held[i][0] + centre, held[i][1] + radius)
            else:
                held[i] = (centre, radius)
    centre, radius = held[0]
    return np.asarray((lost + leaf.most_lost(centre, radius)) * _UP), centre


def _largest(
    centre: Array, radius: Array, taps: NDArray[np.int64], z0: Array, low: Array, high: Array, chords: bool
) -> tuple[Array, Array, Array]:
    """Forms on the change of maxima to forms on the change of what they are of, and what that loses.

    With j the largest at the base, the change is at least that of j, at most the sum of the rises of all, and in size at
    most the sum of their changes; if j is never below any other, it is that of j. With `chords` its upper end is the
    line through both ends of `max(z_j, highest of the others)`, which is convex in z_j.
    """
    outputs, first = np.arange(len(taps)), picked(z0, taps).argmax(axis=1)
    winner = taps[outputs, first]
    other = (taps >= 0) & (np.arange(taps.shape[1]) != first[:, None])
    rivals = other & (picked(high, taps) > low[winner][:, None])
    alone = ~rivals.any(axis=1)
    rivals[outputs, first] = True
    shape = (len(taps), len(z0))
    of_winner = sparse.csr_matrix((np.ones(len(taps)), (outputs, winner)), shape=shape)
    of_all = sparse.csr_matrix((np.ones(int(rivals.sum())), (np.nonzero(rivals)[0], taps[rivals])), shape=shape)
    minus = np.minimum(centre, 0)
    open_ = np.where(alone, 0.0, minus)
    if chords:
        least, most = low[winner], high[winner]
        rest = np.where(other, picked(high, taps), -np.inf).max(axis=1)
        bottom, top = np.maximum(least, rest), np.maximum(most, rest)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(alone, 1.0, np.where(most > least, np.clip((top - bottom) / (most - least), 0, 1), 0.0))
        # Whatever the slope was rounded to, the line must reach both ends.
        above = np.maximum(bottom - slope * (least - z0[winner]), top - slope * (most - z0[winner])) - z0[winner]
        gap = np.where(alone, 0.0, np.maximum(above, 0) + _TINY * (np.abs(least) + np.abs(most) + np.abs(top)))
        return (
            (centre - open_ + open_ * slope) @ of_winner,
            (np.where(alone, radius, 0.0) @ of_winner + np.where(alone, 0.0, radius) @ of_all) * _UP,
            -(open_ @ gap),
        )
    return (
        (centre - open_) @ of_winner + (open_ / 2) @ of_all,
        (np.where(alone, radius, 0.0) @ of_winner + (np.where(alone, 0.0, radius) - open_ / 2) @ of_all) * _UP,
        np.zeros(len(centre)),
    )


def _relu(
    centre: Array,
    radius: Array,
    leak: float,
    z0: Array,
    low: Array,
    high: Array,
    line: bool,
    both: bool,
    slope: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Forms on the change of a ReLU to forms on the change of its input, and what that loses."""

    def relu(z: Array) -> Array:
        return np.where(z > 0, z, leak * z)

    plus, minus = np.maximum(centre, 0), np.minimum(centre, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(z0 > low, (relu(z0) - relu(low)) / (z0 - low), np.where(z0 > 0, 1.0, leak))
        right = np.where(high > z0, (relu(high) - relu(z0)) / (high - z0), np.where(z0 > 0, 1.0, leak))
        chord = np.where(high > low, (relu(high) - relu(low)) / (high - low), np.where(z0 > 0, 1.0, leak))
    # Where a side does not bend, its secant is the slope itself, free of cancellation.
    bends_left, bends_right = (z0 > 0) & (low < 0), (z0 <= 0) & (high > 0)
    left = np.clip(np.where(bends_left, left, np.where(z0 > 0, 1.0, leak)), leak, 1.0)
    right = np.clip(np.where(bends_right, right, np.where(z0 > 0, 1.0, leak)), leak, 1.0)
    steepest = np.minimum(right + _TINY, 1.0)
    if not line:
        tangent = np.where(z0 > 0, 1.0, leak)
        middle, half = (left + right) / 2, (right - left) / 2 + _TINY * (left != right)
        extra = _TINY * np.abs(centre) if leak else 0.0
        return plus * tangent + minus * middle, radius * steepest - minus * half + extra, np.zeros(len(centre))
    crossing = (low < 0) & (high > 0)
    above = np.where(crossing, np.clip(chord, leak, 1.0), np.where(low >= 0, 1.0, leak))
    gap = np.where(crossing, relu(low) + above * (z0 - low) - relu(z0), 0.0)
    chosen = np.where(high > -low, 1.0, leak) if both else np.where(z0 > 0, 1.0, leak)
    if slope is not None:
        chosen = np.where(np.isnan(slope), chosen, np.clip(slope, leak, 1.0))
    below = np.where(crossing, chosen, above)
    dip = np.where(crossing, relu(z0) - below * z0, 0.0)
    slack = _TINY * (np.abs(low) + np.abs(high))
    loss = -(minus @ (np.maximum(gap, 0) + slack)) + (plus * (np.maximum(dip, 0) + slack)).sum(axis=1)
    return plus * below + minus * above, radius * steepest, loss
