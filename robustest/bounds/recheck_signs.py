"""Networks of signs rechecked: every pattern of the signs that a region leaves open is worked out, in numpy and scipy.

The second program's own way: what the image reaches before the first signs is bounded by the exact spread of the linear
map up to there, open signs by what they need to turn, and patterns are worked out whole, as differences from the first of
their batch. Shares no code with `sign_cells` and `sign_sets`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from robustest.bounds.recheck_bounds import Leaf, rounding
from robustest.bounds.recheck_layers import Array, Layer, Model, picked

_UP = 1.0 + 2.0**-28
_MOST = 1 << 20
"""Patterns that are worked out at most."""
_BATCH = 256
"""Patterns that are worked out together."""

Ends = dict[int, tuple[Array, Array]]
"""Of a layer the lowest and highest executed values, (n, B) or (n, 1); the same array twice where they are known."""


class _TooManyError(Exception):
    """The patterns are too many, or a number may overflow."""


@dataclass(frozen=True, slots=True)
class _Linear:
    """A layer as a linear map of the image: (n, N) CSR, (n,) base values, and by how much execution differs at most."""

    matrix: Any
    base: Array
    drift: Array


@dataclass(frozen=True, slots=True)
class _Turn:
    """A way in which an open sign takes another value: `row . d >= needs` for the move d of the image, (1, N) CSR.

    Where nothing is known of it the row is None.
    """

    row: Any = None
    needs: float = 0.0


def least_margin(model: Model, leaf: Leaf, rows: Array) -> tuple[float, Array]:
    """Least of (R, K) forms of the executed scores over a set of images; -inf where it cannot be worked out.

    Also (n,) how much each dimension can move what open signs read.
    """
    network = _Network(model, leaf)
    least = np.inf
    try:
        for part in network.margins(rows):
            least = min(least, float(part.min()))
            if not least > 0:
                break
    except _TooManyError:
        least = -np.inf
    return least, network.influence


class _Network:
    """One network over one set of images."""

    def __init__(self, model: Model, leaf: Leaf) -> None:
        self.layers, self.leaf = model.layers, leaf
        self.first = next(i for i, layer in enumerate(self.layers) if layer.zero is not None)
        self.values = model.values(leaf.centre)
        self.influence = np.zeros(len(leaf.centre))
        self.noises: dict[int, tuple[list[Array], Array]] = {}
        self.columns: dict[int, Any] = {}
        self.read_until = [
            max((r for r, x in enumerate(self.layers) if at in x.inputs), default=at) for at in range(len(self.layers))
        ]
        self.seen = 0

    def margins(self, rows: Array) -> Iterator[Array]:
        """(R, B) least values of forms on the scores, a batch of patterns at a time."""
        held, linear = self._before()
        base, entries, codes = self._patterns(held, linear)
        ends: Ends = {at: (low[:, None], high[:, None]) for at, (low, high) in held.items()}
        for begin in range(0, len(codes), _BATCH):
            mine = codes[begin : begin + _BATCH]
            signs = np.repeat(base[:, None], len(mine), axis=1)
            signs[entries] = mine.T
            yield from self._walk(self.first + 1, {**ends, self.first: (signs, signs)}, len(mine), rows)

    def _rounding(self, at: int, reach: list[Array]) -> Array:
        """(n,) what executing a layer can add or take, from (n,) bounds on what it reads; kept while those suffice."""
        known = self.noises.get(at)
        if known is None or not all((a <= b).all() for a, b in zip(reach, known[0], strict=True)):
            reach = reach if known is None else [np.maximum(a, b) for a, b in zip(reach, known[0], strict=True)]
            known = self.noises[at] = reach, rounding(self.layers[at], reach)
        return known[1]

    def _before(self) -> tuple[dict[int, tuple[Array, Array]], dict[int, _Linear]]:
        """Ends of the layers before the first sign, and those of them that are linear maps of the image."""
        size = self.layers[0].size
        held = {0: (self.leaf.lower, self.leaf.upper)}
        linear = {0: _Linear(sparse.identity(size, format="csr"), self.leaf.centre, np.zeros(size))}
        for at in range(1, self.first):
            layer = self.layers[at]
            low, high = (
                t[:, 0] for t in self._interval(at, {i: (a[:, None], b[:, None]) for i, (a, b) in held.items()})
            )
            source = linear.get(layer.inputs[0])
            if source is not None and layer.matrix is not None:
                reach = np.maximum(np.abs(held[layer.inputs[0]][0]), np.abs(held[layer.inputs[0]][1]))
                drift = abs(layer.matrix) @ source.drift * _UP + self._rounding(at, [reach])
                mine = _Linear(sparse.csr_matrix(layer.matrix @ source.matrix), self.values[at], drift)
                linear[at] = mine
                low = np.maximum(low, mine.base - self._spread(-mine.matrix) - drift)
                high = np.minimum(high, mine.base + self._spread(mine.matrix) + drift)
            held[at] = low, high
        if not all(np.isfinite(t).all() for pair in held.values() for t in pair):
            raise _TooManyError
        return held, linear

    def _spread(self, matrix: Any) -> Array:
        """(R,) most that linear maps of the image, CSR, can gain on their value at the centre."""
        leaf = self.leaf
        most = np.asarray(
            matrix.maximum(0) @ (leaf.upper - leaf.centre) - matrix.minimum(0) @ (leaf.centre - leaf.lower)
        )
        if leaf.norm == "l2":
            most = np.minimum(most, np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()) * leaf.eps)
        elif leaf.norm == "l1":
            most = np.minimum(most, abs(matrix).max(axis=1).toarray().ravel() * leaf.eps)
        elif leaf.norm != "linf":
            for begin in range(0, matrix.shape[0], 64):
                dense = -matrix[begin : begin + 64].toarray()
                most[begin : begin + 64] = leaf.most_lost(dense, np.zeros_like(dense))
        return np.asarray(most * _UP + 2.0**-40 * (abs(matrix) @ np.abs(leaf.centre)))

    def _patterns(
        self, held: dict[int, tuple[Array, Array]], linear: dict[int, _Linear]
    ) -> tuple[Array, NDArray[np.int64], Array]:
        """Signs of the first such layer: (n,) for no open one, the m entries that are open, and (P, m) values of those.

        Every set of entries that may turn together is there: grown one by one, and dropped with all larger ones where the
        sum of what they need is more than the sum of their rows can gain.
        """
        layer = self.layers[self.first]
        assert layer.zero is not None
        low, high = held[layer.inputs[0]]
        middle = self.values[layer.inputs[0]]
        signs = np.where(low > 0, 1.0, np.where(high < 0, -1.0, layer.zero))
        entries = np.flatnonzero((low <= 0) & (high >= 0))
        possible = [_possible(layer.zero, float(low[e]), float(high[e])) for e in entries]
        signs[entries] = [p[-1] if middle[e] > 0 else p[0] for e, p in zip(entries, possible, strict=True)]
        turns = [self._turns(layer.inputs[0], int(e), bool(middle[e] > 0), held, linear) for e in entries]
        codes, rows = signs[entries][None], sparse.csr_matrix((1, self.layers[0].size))
        needs = np.zeros(1)
        for place in sorted(range(len(entries)), key=lambda p: min((t.needs for t in turns[p]), default=0.0)):
            fresh = []
            for turn, value in itertools.product(turns[place], possible[place]):
                if value == codes[0, place]:
                    continue
                more = rows if turn.row is None else rows + sparse.csr_matrix(np.ones((len(codes), 1))) @ turn.row
                wanted = needs + turn.needs
                kept = np.flatnonzero(self._spread(sparse.csr_matrix(more)) >= wanted - 1e-9 * np.abs(wanted))
                changed = codes[kept].copy()
                changed[:, place] = value
                fresh.append((changed, more[kept], wanted[kept]))
            codes = np.concatenate([codes, *(f[0] for f in fresh)])
            rows = sparse.vstack([rows, *(f[1] for f in fresh)], format="csr")
            needs = np.concatenate([needs, *(f[2] for f in fresh)])
            if len(codes) > _MOST:
                raise _TooManyError
        return signs, entries, np.unique(codes, axis=0)

    def _turns(
        self, read: int, entry: int, positive: bool, held: dict[int, tuple[Array, Array]], linear: dict[int, _Linear]
    ) -> list[_Turn]:
        """The ways in which the sign of an entry of a layer can turn from its base value."""
        factor, shift, slack = 1.0, 0.0, 0.0
        layer = self.layers[read]
        if read not in linear and layer.matrix is not None:
            row = layer.matrix[[entry]]
            if row.nnz != 1:
                return [_Turn()]
            # `factor * y + shift`, up to slack, of one entry y of the layer before.
            source = layer.inputs[0]
            reach = np.maximum(np.abs(held[source][0]), np.abs(held[source][1]))
            factor, shift, slack = (
                float(row.data[0]),
                float(layer.bias[entry]),
                float(self._rounding(read, [reach])[entry]),
            )
            read, entry = source, int(row.indices[0])
            if factor == 0:
                return [_Turn()]
        rises = positive == (factor < 0)
        limit = ((slack if positive else -slack) - shift) / factor
        taps = self.layers[read].taps
        if read in linear:
            source, places = read, np.array([entry])
        elif taps is not None and self.layers[read].inputs[0] in linear:
            source, places = self.layers[read].inputs[0], taps[entry][taps[entry] >= 0]
        else:
            return [_Turn()]
        return self._reaching(linear[source], places, limit, rises)

    def _reaching(self, source: _Linear, places: NDArray[np.int64], limit: float, rises: bool) -> list[_Turn]:
        """The ways in which the largest of some entries rises to a limit (any of them may), or falls to it (all must)."""
        sign = 1.0 if rises else -1.0
        rows = sign * source.matrix[places]
        needs = sign * (limit - source.base[places]) - source.drift[places]
        needs -= 1e-9 * (np.abs(limit) + np.abs(source.base[places]))
        gains = self._spread(rows)
        self.influence += np.asarray(abs(rows).sum(axis=0)).ravel()
        if not rises:
            worst = int((needs - gains).argmax())
            places_kept = [worst]
        else:
            places_kept = np.flatnonzero(gains >= needs).tolist()
        found = []
        for k in places_kept:
            row = rows[[k]]
            size = {"l1": abs(row).max(), "l2": row.multiply(row).sum() / max(float(needs[k]), 1e-300)}
            rate = float(size.get(self.leaf.norm, abs(row).sum()))
            useful = needs[k] > 0 and rate > 0
            found.append(_Turn(row / rate, float(needs[k]) / rate) if useful else _Turn())
        return found

    def _interval(self, at: int, ends: Ends) -> tuple[Array, Array]:
        """Ends of one layer that is no sign from those of what it reads, its rounding charged."""
        layer = self.layers[at]
        lows, highs = [ends[i][0] for i in layer.inputs], [ends[i][1] for i in layer.inputs]
        reach = [np.maximum(np.abs(a), np.abs(b)).max(axis=1) for a, b in zip(lows, highs, strict=True)]
        noise = self._rounding(at, reach)[:, None]
        if layer.matrix is not None and lows[0] is highs[0]:
            middle = self._product(at, lows[0]) + layer.bias[:, None]
            return middle - noise, middle + noise
        if layer.matrix is not None:
            middle, half = (lows[0] + highs[0]) / 2, (highs[0] - lows[0]) / 2 * _UP
            middle, half = layer.matrix @ middle + layer.bias[:, None], abs(layer.matrix) @ half * _UP + noise
            return middle - half, middle + half
        if layer.leak is not None:
            low, high = (np.where(t > 0, t, layer.leak * t) for t in (lows[0], highs[0]))
        elif layer.taps is not None:
            low, high = (picked(t, layer.taps).max(axis=1) for t in (lows[0], highs[0]))
        else:
            low, high = np.sum(lows, axis=0), np.sum(highs, axis=0)
        return low - noise, high + noise

    def _product(self, at: int, points: Array) -> Array:
        """A layer's matrix times (n, B) points that differ in few entries."""
        matrix = self.layers[at].matrix
        change = points - points[:, :1]
        moved = np.flatnonzero(change.any(axis=1))
        if at not in self.columns:
            self.columns[at] = matrix.tocsc()
        return np.asarray((matrix @ points[:, 0])[:, None] + self.columns[at][:, moved] @ change[moved])

    def _walk(self, start: int, ends: Ends, cells: int, rows: Array) -> Iterator[Array]:
        """Carry a batch of patterns from a layer to the scores; parts that rounding leaves open are split."""
        ends = dict(ends)
        for at in range(start, len(self.layers)):
            layer = self.layers[at]
            if layer.zero is None:
                ends[at] = self._interval(at, ends)
                continue
            low, high = (np.broadcast_to(t, (layer.size, cells)) for t in ends[layer.inputs[0]])
            for owner, signs in _decided(layer, low, high):
                mine = {i: _taken(pair, owner) for i, pair in ends.items() if self.read_until[i] > at}
                yield from self._walk(at + 1, {**mine, at: (signs, signs)}, len(owner), rows)
            return
        self.seen += cells
        if self.seen > _MOST:
            raise _TooManyError
        low, high = ends[len(self.layers) - 1]
        least = np.maximum(rows, 0) @ low + np.minimum(rows, 0) @ high
        size = np.abs(rows) @ np.maximum(np.abs(low), np.abs(high))
        yield least - size * len(low) * 2.0**-50


def _taken(pair: tuple[Array, Array], owner: NDArray[np.int64]) -> tuple[Array, Array]:
    """Columns of a pair of ends; one pair of the same array stays one."""
    low, high = pair
    if low.shape[1] == 1:
        return pair
    mine = low[:, owner]
    return mine, mine if low is high else high[:, owner]


def _possible(zero: float, low: float, high: float) -> list[float]:
    """The signs that a number in [low, high] can have, rising."""
    found = {zero} if low <= 0 <= high else set()
    return sorted(found | ({-1.0} if low < 0 else set()) | ({1.0} if high > 0 else set()))


def _decided(layer: Layer, low: Array, high: Array) -> Iterator[tuple[NDArray[np.int64], Array]]:
    """Batches of cells with every sign decided: which cells they are parts of, and (n, B) signs."""
    assert layer.zero is not None
    if not (np.isfinite(low) & np.isfinite(high)).all():
        raise _TooManyError
    signs = np.where(low > 0, 1.0, np.where(high < 0, -1.0, layer.zero))
    open_ = (low <= 0) & (high >= 0)
    for cell in np.flatnonzero(open_.any(axis=0)):
        entries = np.flatnonzero(open_[:, cell])
        options = [_possible(layer.zero, float(low[e, cell]), float(high[e, cell])) for e in entries]
        combinations = itertools.product(*options)
        while part := list(itertools.islice(combinations, _BATCH)):
            mine = np.repeat(signs[:, [cell]], len(part), axis=1)
            mine[entries] = np.array(part).T
            yield np.full(len(part), cell), mine
    whole = np.flatnonzero(~open_.any(axis=0))
    if len(whole):
        yield whole, signs[:, whole]
