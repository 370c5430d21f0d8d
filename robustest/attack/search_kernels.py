"""The few-pixel search's inner loops, compiled; each gives the bits of the numpy code in `Beliefs` and `search_moves`.

Sums are taken in numpy's order, and floats keep numpy's widths: float32 where both sides are, float64 where one is.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from robustest.attack import kernels
from robustest.attack.record import GOLDEN
from robustest.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Masks = NDArray[np.bool_]
Signs = NDArray[np.int8]

_ONE, _NONE, _TINY, _LEAST = np.float32(1), np.float32(0), np.float32(1e-9), np.float32(0.02)


@compiled
def measure_changes(
    table: Floats,
    base: Floats,
    seen: np.float32,
    cell_of_pixel: Ints,
    regions: Ints,
    size: Floats,
    norm: Floats,
    directions: Signs,
    allowed: Masks,
    mean: Floats,
    region: NDArray[np.int32],
) -> int:
    """`Beliefs._measure_changes`, and what follows of it; returns how many regions there are.

    Args:
        table, base, seen: see `Palette`. regions: (H*W,) region of each pixel.
        size, norm, allowed, mean: (V, cells). directions: the same of a gray image, else (0, 0). region: (cells,). All are written to.
    """
    channels, own_colours = base.shape[1], table.shape[1] > 1
    for colour in range(len(table)):
        for pixel in range(len(base)):
            cell, row = cell_of_pixel[pixel], pixel if own_colours else 0
            if len(directions):
                change = table[colour, row, 0] - base[pixel, 0]
                if abs(change) < seen:
                    change = _NONE
                size[colour, cell], norm[colour, cell] = abs(change), max(abs(change), _TINY)
                directions[colour, cell] = (change > _NONE) - (change < _NONE)
            else:
                squares = _NONE
                for channel in range(channels):
                    change = table[colour, row, channel] - base[pixel, channel]
                    if abs(change) >= seen:
                        squares += change * change
                size[colour, cell] = np.sqrt(squares / np.float32(channels))
                norm[colour, cell] = max(np.sqrt(squares), _TINY)
            if size[colour, cell] > _NONE:
                allowed[colour, cell], mean[colour, cell] = True, _NONE
    last = 0
    for pixel in range(len(base)):
        region[cell_of_pixel[pixel]] = regions[pixel]
        last = max(last, regions[pixel])
    return last + 1


@compiled
def learn(
    cells: Ints,
    colours: Ints,
    drops: Doubles,
    noise: np.float32,
    mean: Floats,
    deviation: Floats,
    size: Floats,
    norm: Floats,
    directions: Signs,
    table: Floats,
    base: Floats,
    seen: np.float32,
    pixel_of_cell: Ints,
    offsets: Ints,
    near: Floats,
    floor: np.float32,
    middle: int,
    told: Doubles,
    heard: Doubles,
    region: NDArray[np.int32],
) -> Doubles:
    """`Beliefs.learn` on (V, cells) arrays, all but the surprise's sum: (N,) its relative squares are returned.

    norm: (V, cells) of each edit's colour change. directions: (V, cells) -1, 0 or 1, these changes over their norm, of a gray image;
    (0, 0) of others. table, base, seen: see `Palette`.
    """
    count, width, kinds = len(cells), len(offsets), mean.shape[0]
    squares = np.empty(count, np.float64)
    weight = np.empty(count, np.float32)
    explained = np.empty(count, np.float32)
    factor = np.empty(count, np.float32)
    rest = _ONE - floor
    channels, own_colours, gray = base.shape[1], table.shape[1] > 1, len(directions) > 0
    along = np.empty((count, channels), np.float32)
    for row in range(count):
        cell, colour = cells[row], colours[row]
        if gray:
            along[row, 0] = np.float32(directions[colour, cell])
        else:
            pixel = pixel_of_cell[cell]
            for channel in range(channels):
                change = table[colour, pixel if own_colours else 0, channel] - base[pixel, channel]
                along[row, channel] = _NONE if abs(change) < seen else change / norm[colour, cell]
        own, long = np.float64(deviation[colour, cell]), size[colour, cell]
        total = own * own + np.float64(noise * (long * long)) + 1e-9
        surprise = drops[row] - np.float64(mean[colour, cell])
        squares[row] = surprise * surprise / total
        weight[row] = np.float32(own / total * surprise)
        explained[row] = np.float32(own * own / total)
        factor[row] = np.float32(own / np.float64(max(long, _TINY)))
        told[colour, region[cell]] += surprise * np.float64(long)
        heard[colour, region[cell]] += np.float64(long * long)
    gain, share = np.empty(mean.shape[1], np.float32), np.empty(mean.shape[1], np.float32)
    for kind in range(kinds):
        # Rows by themselves, and places that are no negative numbers: half of the time went into finding the memory.
        means, deviations, sizes, norms = mean[kind], deviation[kind], size[kind], norm[kind]
        gain[:], share[:] = _NONE, _NONE
        for row in range(count):
            cell, like = cells[row], colours[row] == kind
            for step in range(width):
                place = np.uint64(cell + offsets[step])
                spread = deviations[place]
                cosine = _NONE
                if gray:
                    cosine = np.float32(directions[kind, place]) * along[row, 0]
                else:
                    pixel = pixel_of_cell[place]
                    if pixel >= 0:
                        for channel in range(channels):
                            change = table[kind, pixel if own_colours else 0, channel] - base[pixel, channel]
                            if not abs(change) < seen:
                                cosine += change / norms[place] * along[row, channel]
                correlation = near[step] * (floor + rest * max(cosine, _NONE))
                correlation = correlation * (spread / max(sizes[place], _TINY) * factor[row])
                if like and step == middle:
                    correlation = _ONE
                gain[place] += (correlation * weight[row]) * spread
                share[place] += (correlation * correlation) * explained[row]
        # A place that several edits tell of is changed once, by all of them.
        for row in range(count):
            for step in range(width):
                place = np.uint64(cells[row] + offsets[step])
                part = share[place]
                if part >= _NONE:
                    means[place] = means[place] + gain[place] / max(part, _ONE)
                    deviations[place] = deviations[place] * np.sqrt(max(_ONE - part, _LEAST))
                    share[place] = -_ONE
    return squares


@compiled
def scale_of(tally: Doubles) -> np.float64:
    """`Beliefs.scale`."""
    return np.float64(math.sqrt(tally[0] / tally[1])) if tally[0] > 0 else np.float64(1.0)


@compiled
def drawn(mean: Floats, deviation: Floats, noise: Floats, factor: np.float32) -> Floats:
    """`Beliefs.drawn`: (V, cells) mean plus so many times deviation times noise (V * cells,)."""
    kinds, count = mean.shape
    scores = np.empty((kinds, count), np.float32)
    for kind in range(kinds):
        means, deviations, draws = mean[kind], deviation[kind], noise[kind * count : (kind + 1) * count]
        row = scores[kind]
        for cell in range(count):
            row[cell] = means[cell] + factor * deviations[cell] * draws[cell]
    return scores


@compiled
def spread(mean: Floats, deviation: Floats, size: Floats, common: Doubles, region: NDArray[np.int32]) -> None:
    """`Beliefs.borrow`: add to each mean what its region (V, R) has in common, as far as the edit itself is unknown."""
    for kind in range(mean.shape[0]):
        for cell in range(mean.shape[1]):
            ratio = deviation[kind, cell] / max(size[kind, cell], _TINY)
            unknown = ratio * ratio * size[kind, cell]
            mean[kind, cell] += np.float32(np.float64(unknown) * common[kind, region[cell]])


@compiled
def edit_key(width: int, cell: int, colour: int) -> np.int64:
    """`search_states.state_keys` of a state of one edit."""
    return np.int64(kernels.scrambled(np.uint64(colour * width + cell + 1) * GOLDEN))


@compiled
def state_keys(width: int, cells: Ints, colours: Ints, offsets: Ints) -> Ints:
    """`search_states.state_keys`."""
    keys = np.empty(len(offsets) - 1, np.int64)
    for state in range(len(keys)):
        keys[state] = 0
        for edit in range(offsets[state], offsets[state + 1]):
            keys[state] += edit_key(width, cells[edit], colours[edit])
    return keys


@compiled
def pixels_and_values(pixel_of_cell: Ints, table: Floats, cells: Ints, colours: Ints) -> tuple[Ints, Floats]:
    """`search_states.pixels_and_values`."""
    channels = table.shape[2]
    pixels, values = np.empty(len(cells), np.int64), np.empty((len(cells), channels), np.float32)
    for edit in range(len(cells)):
        pixels[edit] = pixel_of_cell[cells[edit]]
        row = pixels[edit] if table.shape[1] > 1 else 0
        for channel in range(channels):
            values[edit, channel] = table[colours[edit], row, channel]
    return pixels, values


@compiled
def _place_of(table: Ints, key: np.int64) -> np.int64:
    """Where a key, not 0, lies in a table of 2^n places, or would: the first free place, which holds 0, from its own on."""
    last = len(table) - 1
    place = key & last
    while table[place] != 0 and table[place] != key:
        place = (place + 1) & last
    return place


@compiled
def missing(table: Ints, key: np.int64) -> bool:
    """True where such a table does not hold a key."""
    return bool(table[_place_of(table, key if key != 0 else np.int64(1))] == 0)


@compiled
def note(
    table: Ints,
    numbers: Ints,
    rows: Doubles,
    count: int,
    keys: Ints,
    margins: Doubles,
    scores: Doubles,
    label: int,
    classes: Ints,
    out: Doubles,
) -> int:
    """What `Asked.heed` keeps of states with these keys, in a table with room for them; returns how many are new.

    Args:
        table, numbers, rows: see `Asked.table`. count: of states there. scores: (0, 0) where none was scored.
        out: (N, R) margins to the rivals; (0, 0) if they are not wanted.
    """
    before = count
    for state in range(len(keys)):
        key = keys[state] if keys[state] != 0 else np.int64(1)
        place = _place_of(table, key)
        new = table[place] == 0
        if new:
            table[place], numbers[place] = key, count
            count += 1
        number = numbers[place]
        scored = len(scores) > 0 and not np.isnan(scores[state, label])
        for rival in range(len(classes)):
            if scored:
                rows[number, rival] = scores[state, label] - scores[state, classes[rival]]
            elif new:
                rows[number, rival] = margins[state]
            if len(out):
                out[state, rival] = rows[number, rival]
    return count - before


@compiled
def heed(
    table: Ints,
    numbers: Ints,
    rows: Doubles,
    count: int,
    width: int,
    cells: Ints,
    colours: Ints,
    offsets: Ints,
    marks: Masks,
    margins: Doubles,
    scores: Doubles,
    label: int,
    classes: Ints,
    out: Doubles,
) -> tuple[int, int]:
    """`Asked.heed` in such a table: how many states are new; the first of the smallest that flip, -1 where none does."""
    best = -1
    for state in range(len(offsets) - 1):
        size = offsets[state + 1] - offsets[state]
        if size == 1:
            marks[colours[offsets[state]], cells[offsets[state]]] = True
        if margins[state] < 0 and (best < 0 or size < offsets[best + 1] - offsets[best]):
            best = state
    keys = state_keys(width, cells, colours, offsets)
    return note(table, numbers, rows, count, keys, margins, scores, label, classes, out), best


@compiled
def unasked(table: Ints, keys: Ints) -> Ints:
    """`Asked.fresh` in such a table."""
    places = np.empty(len(keys), np.int64)
    found = 0
    for row in range(len(keys)):
        new = missing(table, keys[row])
        for earlier in range(found):
            new = new and keys[places[earlier]] != keys[row]
        if new:
            places[found] = row
            found += 1
    return places[:found]


@compiled
def add_rows(table: Ints, numbers: Ints, rows: Doubles, count: int, keys: Ints, told: Doubles) -> int:
    """Keep what is told of keys, in the rows from `count` on where they are new; returns how many rows there are now."""
    for row in range(len(keys)):
        key = keys[row] if keys[row] != 0 else np.int64(1)
        place = _place_of(table, key)
        if table[place] == 0:
            table[place], numbers[place] = key, count
            count += 1
        for entry in range(rows.shape[1]):
            rows[numbers[place], entry] = told[row, entry]
    return count


@compiled
def move_rows(table: Ints, numbers: Ints, larger: Ints, theirs: Ints) -> None:
    """Put what a table holds into a larger one."""
    for place in range(len(table)):
        if table[place] != 0:
            new = _place_of(larger, table[place])
            larger[new], theirs[new] = table[place], numbers[place]
