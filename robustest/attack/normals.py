"""numpy's normal draws in float32 in compiled code, from the same stream: see `draws`.

Filling a pool with tens of thousands of them is most of what the search of a small image does before its first question.
The tables are computed from their definition. Whether these draws are numpy's is tried once; if not, numpy draws.

Source: Marsaglia & Tsang (2000), The ziggurat method, with 256 layers; numpy's own use of the bits of a draw.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from robustest.attack import draws
from robustest.attack.draws import Words
from robustest.compiled import compiled, fast

Floats = NDArray[np.float32]
Tables = tuple[NDArray[np.int64], Floats, Floats]

_LAYERS = 256
_EDGE = 3.6541528853610088  # of the lowest layer; beyond it is the tail
_TRIED = 4096  # draws compared with numpy's


def sizes_of_normals(rng: np.random.Generator, words: tuple[Words, Words] | None, count: int) -> Floats:
    """(count,) absolute values of `rng.standard_normal(count, dtype=np.float32)`; words: see `draws.words`."""
    if fast() and words is not None and _as_known():
        sizes = np.empty(count, np.float32)
        fill(*words, tables(), sizes)
    else:
        sizes = rng.standard_normal(count, dtype=np.float32)
        np.abs(sizes, out=sizes)
    return sizes


@lru_cache(maxsize=1)
def tables() -> Tables:
    """Of each layer: the places, of 2^23 across it, below which a draw is within; the width of a place; the density at its edge."""
    area = _EDGE * _density(_EDGE) + math.sqrt(math.pi / 2) * math.erfc(_EDGE / math.sqrt(2))
    edges = [_EDGE]
    while len(edges) < _LAYERS - 1:
        edges.append(math.sqrt(-2 * math.log(area / edges[-1] + _density(edges[-1]))))
    edges = [0.0, *reversed(edges)]
    widths = np.array([area / _density(_EDGE), *edges[1:]])
    inner = np.array([_EDGE, *edges[:-1]])
    places = np.rint(inner / widths * 2**23).astype(np.int64)
    return places, (widths / 2**23).astype(np.float32), np.array([_density(edge) for edge in edges], np.float32)


def _density(at: float) -> float:
    return math.exp(-0.5 * at * at)


@lru_cache(maxsize=1)
def _as_known() -> bool:
    """True if some draws have numpy's bits and leave its state behind."""
    ours, theirs = (np.random.Generator(np.random.PCG64(1733)) for _ in range(2))
    words = draws.words(ours)
    if words is None:
        return False
    drawn = np.empty(_TRIED, np.float32)
    fill(*words, tables(), drawn)
    same = bool((drawn == np.abs(theirs.standard_normal(_TRIED, dtype=np.float32))).all())
    return same and ours.bit_generator.state == theirs.bit_generator.state


@compiled
def fill(state: Words, rest: Words, layers: Tables, out: Floats) -> None:
    """The absolute values of `rng.standard_normal(dtype=np.float32)`; state, rest: see `draws.words`. layers: `tables`.

    The sign is one of the draw's bits, which nothing else depends on.
    """
    places, widths, densities = layers
    for number in range(len(out)):
        while True:
            word = np.int64(draws.next_half(state, rest))
            layer, place = word & 0xFF, (word >> 9) & 0x7FFFFF
            drawn = np.float32(place) * widths[layer]
            if place < places[layer]:
                break
            if layer == 0:
                drawn = _tail(state, rest)
                break
            height = (densities[layer - 1] - densities[layer]) * draws.small_unit(state, rest) + densities[layer]
            if height < math.exp(-0.5 * np.float64(drawn) * np.float64(drawn)):
                break
        out[number] = drawn


@compiled
def _tail(state: Words, rest: Words) -> np.float32:
    """A draw beyond the lowest layer."""
    while True:
        beyond = -np.float32(1 / _EDGE) * np.float32(math.log1p(-draws.small_unit(state, rest)))
        height = -np.float32(math.log1p(-draws.small_unit(state, rest)))
        if height + height > beyond * beyond:
            return np.float32(_EDGE) + beyond
