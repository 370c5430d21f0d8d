"""The attack's inner loops, compiled; each gives the bits of the numpy function that it stands in for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.compiled import compiled
from robustest.results import Margins

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

_FIRST, _SECOND, _GOLDEN = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15)


@compiled
def scrambled(key: np.uint64) -> np.uint64:
    """`record.scrambled` of one number."""
    key = (key ^ (key >> np.uint64(30))) * _FIRST
    key = (key ^ (key >> np.uint64(27))) * _SECOND
    return key ^ (key >> np.uint64(31))


@compiled
def state_keys(pixels: Ints, values: Floats, offsets: Ints) -> NDArray[np.uint64]:
    """`record.state_keys`: (N,) a key for each set of edits."""
    bits = values.view(np.uint32)
    keys = np.zeros(len(offsets) - 1, np.uint64)
    for state in range(len(keys)):
        total = np.uint64(0)
        for edit in range(offsets[state], offsets[state + 1]):
            key = scrambled((np.uint64(pixels[edit]) + np.uint64(1)) * _GOLDEN)
            for channel in range(bits.shape[1]):
                key = scrambled(key ^ (np.uint64(bits[edit, channel]) + _GOLDEN))
            total += key
        keys[state] = total
    return keys


@compiled
def rounded_to_eight_bit(values: Floats) -> Floats:
    """`record.rounded_to_eight_bit`: colours (M, C) in [0, 1], rounded to multiples of 1/255."""
    rounded = np.empty_like(values)
    for edit in range(values.shape[0]):
        for channel in range(values.shape[1]):
            rounded[edit, channel] = np.rint(values[edit, channel] * np.float32(255)) / np.float32(255)
    return rounded


@compiled
def _place_of(table_keys: NDArray[np.uint64], table_margins: Margins, key: np.uint64) -> np.uint64:
    """Where a key lies in a table of 2^n places, or would: the first free place from its own on; NaN marks a free place."""
    last = np.uint64(len(table_keys) - 1)
    place = key & last
    while not np.isnan(table_margins[place]) and table_keys[place] != key:
        place = (place + np.uint64(1)) & last
    return place


@compiled
def find_margins(table_keys: NDArray[np.uint64], table_margins: Margins, keys: NDArray[np.uint64], out: Margins) -> int:
    """`Memory.find` in such a table."""
    unknown = 0
    for row in range(len(keys)):
        place = _place_of(table_keys, table_margins, keys[row])
        out[row] = table_margins[place]
        unknown += np.isnan(table_margins[place])
    return unknown


@compiled
def add_margins(
    table_keys: NDArray[np.uint64], table_margins: Margins, keys: NDArray[np.uint64], margins: Margins
) -> int:
    """`Memory.add` in such a table, which must keep a free place; returns how many keys are new."""
    new = 0
    for row in range(len(keys)):
        place = _place_of(table_keys, table_margins, keys[row])
        new += np.isnan(table_margins[place])
        table_keys[place] = keys[row]
        table_margins[place] = margins[row]
    return new
