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
def find_margins(
    table_keys: NDArray[np.uint64],
    table_margins: Margins,
    slots: Ints,
    bounds: Ints,
    keys: NDArray[np.uint64],
    left: Ints,
) -> tuple[Margins, NDArray[np.bool_], Ints]:
    """`Memories.find` in such tables, a row each image."""
    known, sent = np.empty(len(keys)), np.empty(len(keys), np.bool_)
    unknown = np.zeros(len(slots), np.int64)
    for number in range(len(slots)):
        own_keys, own_margins = table_keys[slots[number]], table_margins[slots[number]]
        for row in range(bounds[number], bounds[number + 1]):
            known[row] = own_margins[_place_of(own_keys, own_margins, keys[row])]
            new = np.isnan(known[row])
            unknown[number] += new
            sent[row] = new and unknown[number] <= left[number]
    return known, sent, unknown


@compiled
def add_margins(
    table_keys: NDArray[np.uint64],
    table_margins: Margins,
    counts: Ints,
    slots: Ints,
    bounds: Ints,
    keys: NDArray[np.uint64],
    margins: Margins,
) -> Margins:
    """`Memories.add` in such tables, which must keep a free place each; adds to the counts (slots,) what is new."""
    lowest = np.full(len(slots), np.inf)
    for number in range(len(slots)):
        slot = slots[number]
        own_keys, own_margins = table_keys[slot], table_margins[slot]
        for row in range(bounds[number], bounds[number + 1]):
            place = _place_of(own_keys, own_margins, keys[row])
            counts[slot] += np.isnan(own_margins[place])
            own_keys[place] = keys[row]
            own_margins[place] = margins[row]
            lowest[number] = min(lowest[number], margins[row])
    return lowest


@compiled
def move_margins(
    table_keys: NDArray[np.uint64], table_margins: Margins, larger_keys: NDArray[np.uint64], larger: Margins
) -> None:
    """Put what such tables hold into larger ones."""
    for slot in range(len(table_keys)):
        for place in range(table_keys.shape[1]):
            if not np.isnan(table_margins[slot, place]):
                new = _place_of(larger_keys[slot], larger[slot], table_keys[slot, place])
                larger_keys[slot, new], larger[slot, new] = table_keys[slot, place], table_margins[slot, place]


@compiled
def margins_of(values: Margins, counts: Ints, labels: Ints, targets: Ints) -> Margins:
    """`classifier.margins_of` of comparable scores (N, K), so many of each of G images with its label and target, or -1."""
    margins = np.empty(len(values))
    row = 0
    for image in range(len(counts)):
        aim = targets[image] if targets[image] >= 0 else labels[image]
        for _ in range(counts[image]):
            best = -np.inf
            for place in range(values.shape[1]):
                if place != aim and values[row, place] > best:
                    best = values[row, place]
            margins[row] = (-1.0 if targets[image] >= 0 else 1.0) * (values[row, aim] - best)
            row += 1
    return margins
