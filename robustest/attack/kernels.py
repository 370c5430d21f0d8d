"""The attack's inner loops, compiled; each gives the bits of the numpy function that it stands in for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.compiled import compiled
from robustest.results import Margins

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

BUDGET, QUERIES, REMEMBERED, STALE, RESERVE, LABEL, TARGET = range(7)  # rows of `Books.counts`
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
def bounds_of(sizes: Ints) -> Ints:
    """(G + 1,) where each of several parts begins, and the last one's end."""
    bounds = np.zeros(len(sizes) + 1, np.int64)
    for place in range(len(sizes)):
        bounds[place + 1] = bounds[place] + sizes[place]
    return bounds


@compiled
def offsets_of(joined: Ints, counts: Ints) -> Ints:
    """The offsets of several batches of edits as one; joined: theirs, one after the other, of each so many."""
    offsets = np.zeros(len(joined) - len(counts) + 1, np.int64)
    first, state = 0, 0
    for part in range(len(counts)):
        before = offsets[state]
        for place in range(1, counts[part]):
            state += 1
            offsets[state] = before + joined[first + place]
        first += counts[part]
    return offsets


@compiled
def unknown_of(
    pixels: Ints, values: Floats, offsets: Ints, fresh: NDArray[np.bool_], counts: Ints, slots: Ints
) -> tuple[Ints, Ints, Ints, Floats, Ints]:
    """What is sent of several images' questions: which states, the slot of each, and their edits.

    fresh: (N,) they are. counts: (G,) how many of each image's. slots: (G,) of the images.
    """
    total, edits = 0, 0
    for number in range(len(counts)):
        total += counts[number]
    places, own, bounds = np.empty(total, np.int64), np.empty(total, np.int64), np.zeros(total + 1, np.int64)
    row = 0
    for number in range(len(counts)):
        own[row : row + counts[number]] = slots[number]
        row += counts[number]
    row = 0
    for state in range(len(fresh)):
        if fresh[state]:
            edits += offsets[state + 1] - offsets[state]
            places[row], bounds[row + 1] = state, edits
            row += 1
    if total == len(fresh):
        return places, own, pixels, values, offsets
    channels = values.shape[1]
    new_pixels, new_values = np.empty(edits, np.int64), np.empty((edits, channels), np.float32)
    edit = 0
    for row in range(total):
        for place in range(offsets[places[row]], offsets[places[row] + 1]):
            new_pixels[edit] = pixels[place]
            for channel in range(channels):
                new_values[edit, channel] = values[place, channel]
            edit += 1
    return places, own, new_pixels, new_values, bounds


@compiled
def keeping(pixels: Ints, values: Floats, kept: NDArray[np.bool_]) -> tuple[Ints, Floats, Ints]:
    """`shrink.keeping`: pixels, values and offsets."""
    states, channels = len(kept), values.shape[1]
    offsets = np.zeros(states + 1, np.int64)
    for state in range(states):
        offsets[state + 1] = offsets[state] + np.sum(kept[state])
    some, colours = np.empty(offsets[-1], np.int64), np.empty((offsets[-1], channels), np.float32)
    edit = 0
    for state in range(states):
        for place in range(len(pixels)):
            if kept[state, place]:
                some[edit] = pixels[place]
                for channel in range(channels):
                    colours[edit, channel] = values[place, channel]
                edit += 1
    return some, colours, offsets


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
def most(entries: Ints, slots: Ints, more: Ints) -> int:
    """The most states of any of these images, with so many more of each; entries: of all images."""
    highest = 0
    for number in range(len(slots)):
        highest = max(highest, entries[slots[number]] + more[number])
    return highest


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
def margins_of(values: Doubles, sent: Ints, slots: Ints, counts: Ints) -> Margins:
    """`classifier.margins_of` of comparable scores (N, K), so many of each of G images in these slots; counts: `Books.counts`."""
    margins = np.empty(len(values))
    row = 0
    for image in range(len(sent)):
        label, target = counts[LABEL, slots[image]], counts[TARGET, slots[image]]
        aim = target if target >= 0 else label
        for _ in range(sent[image]):
            best = -np.inf
            for place in range(values.shape[1]):
                if place != aim and values[row, place] > best:
                    best = values[row, place]
            margins[row] = (-1.0 if target >= 0 else 1.0) * (values[row, aim] - best)
            row += 1
    return margins


@compiled
def scattered(
    known: Margins, keys: NDArray[np.uint64], places: Ints, margins: Margins, heard: Doubles
) -> tuple[NDArray[np.uint64], Doubles]:
    """Write margins to these places among all that are known; their keys, and scores (N, K) in the same places, NaN elsewhere."""
    classes = heard.shape[1]
    sent_keys, scores = np.empty(len(places), np.uint64), np.full((len(known), classes), np.nan)
    for row in range(len(places)):
        place = places[row]
        known[place], sent_keys[row] = margins[row], keys[place]
        for entry in range(classes):
            scores[place, entry] = heard[row, entry]
    return sent_keys, scores


@compiled
def flipping(margins: Margins, bounds: Ints, offsets: Ints, slots: Ints, nearest: Doubles) -> Ints:
    """Which of several images (G,) flip with fewer edits than ever; bounds: where their margins and edits are."""
    numbers, found = np.empty(len(slots), np.int64), 0
    for number in range(len(slots)):
        for row in range(bounds[number], bounds[number + 1]):
            if margins[row] < 0 and offsets[row + 1] - offsets[row] < nearest[slots[number]]:
                numbers[found] = number
                found += 1
                break
    return numbers[:found]


@compiled
def recall(counts: Ints, slots: Ints, asked: Ints, unknown: Ints) -> None:
    """`Books.recall`."""
    for number in range(len(slots)):
        slot = slots[number]
        counts[REMEMBERED, slot] += asked[number] - unknown[number]
        counts[STALE, slot] = 0 if unknown[number] > 0 else counts[STALE, slot] + 1


@compiled
def hear(counts: Ints, lowest: Doubles, slots: Ints, sent: Ints, margins: Margins) -> None:
    """`Books.hear`; margins: (G,) the lowest of each image."""
    for number in range(len(slots)):
        slot = slots[number]
        counts[QUERIES, slot] += sent[number]
        lowest[slot] = min(lowest[slot], margins[number])


@compiled
def go_on(counts: Ints, asking: Ints, slots: Ints, stale: int) -> NDArray[np.bool_]:
    """`Books.go_on`; counts, asking: of all images. stale: questions in a row that may be answered from memory."""
    going = np.empty(len(slots), np.bool_)
    for number in range(len(slots)):
        slot = slots[number]
        left, reserve = counts[BUDGET, slot] - counts[QUERIES, slot], counts[RESERVE, slot]
        unhurried = reserve == 0 or left - asking[slot] >= reserve
        going[number] = asking[slot] > 0 and unhurried and left > 0 and counts[STALE, slot] < stale
    return going


@compiled
def looked_up(
    pixels: Ints,
    values: Floats,
    offsets: Ints,
    eight_bit: bool,
    table_keys: NDArray[np.uint64],
    table_margins: Margins,
    counts: Ints,
    slots: Ints,
    sizes: Ints,
) -> Any:
    """What `questions.ask` finds out of a merged question, in one call.

    Args:
        eight_bit: colours are rounded. counts: `Books.counts`. slots, sizes: (G,) of the images, and how many states each asks about.

    Returns:
        Keys, bounds and what is known of all states; how many of each image's are sent, and if these are not all that are
        new; what `unknown_of` gives.
    """
    if eight_bit:
        values = rounded_to_eight_bit(values)
    keys, bounds = state_keys(pixels, values, offsets), bounds_of(sizes)
    left = np.empty(len(slots), np.int64)
    for number in range(len(slots)):
        left[number] = counts[BUDGET, slots[number]] - counts[QUERIES, slots[number]]
    known, fresh, unknown = find_margins(table_keys, table_margins, slots, bounds, keys, left)
    recall(counts, slots, sizes, unknown)
    sent = np.minimum(unknown, left)
    return keys, bounds, known, sent, unknown > left, *unknown_of(pixels, values, offsets, fresh, sent, slots)


@compiled
def taken_in(
    heard: Doubles,
    keys: NDArray[np.uint64],
    known: Margins,
    places: Ints,
    offsets: Ints,
    table_keys: NDArray[np.uint64],
    table_margins: Margins,
    entries: Ints,
    slots: Ints,
    sent: Ints,
    counts: Ints,
    lowest: Doubles,
    nearest: Doubles,
) -> tuple[Margins, Ints, Margins, Doubles, Ints]:
    """What `questions.answer` does with the scores of a merged question, in one call.

    Args:
        heard: (N, K) of the states sent. keys, known: of all states. places: of those sent, where these are all, among them.
        offsets: of the edits sent. table_keys, table_margins, entries: see `add_margins`. slots, sent: (G,) of the images, and how
        many of each one's states were sent. counts, lowest, nearest: see `Books`.

    Returns:
        Margins of the states sent, and the bounds of each image's; margins and scores of all; which images flip nearer.
    """
    margins, bounds = margins_of(heard, sent, slots, counts), bounds_of(sent)
    if len(places) == len(known):
        known = margins
    else:
        keys, heard = scattered(known, keys, places, margins, heard)
    hear(counts, lowest, slots, sent, add_margins(table_keys, table_margins, entries, slots, bounds, keys, margins))
    return margins, bounds, known, heard, flipping(margins, bounds, offsets, slots, nearest)
