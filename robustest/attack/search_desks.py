"""A game's desk: where all lies that compiled code needs of it, so that one call takes the turns of many games.

A desk is one array of whole numbers: first the addresses of arrays, then their sizes, then what changes from turn to turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.attack import addresses, search_swap_kernels, search_turn_kernels
from robustest.attack.draws import Words
from robustest.attack.search_kernels import Doubles, Floats, Ints, Masks
from robustest.compiled import compiled

# Addresses: of draws; of beliefs; of the image's grid; of the states asked; of the turns.
WORDS, REST, POOL = range(3)
MEAN, DEVIATION, SIZE, NORM, GRAY, TALLY, TOLD, HEARD, REGION, ALLOWED, COLOURS, BASE = range(3, 15)
PIXELS, OFFSETS, NEAR, AROUND, STEPS = range(15, 20)
TABLE, NUMBERED, ROWS, CLASSES = range(20, 24)
STATE, NEED, NUMBERS, SWAPS, SHADES, ADDED, PLACES, SINGLE, KEYS = range(24, 33)
# Sizes: of the pool; colours, cells, channels, pixels that have colours of their own, regions; of the grid; of the table; of the turns.
POOLED, KINDS, WIDTH, CHANNELS, OWN, IMAGE, GRAYS, REGIONS, ACROSS, LEARNED, MIDDLE, NEARBY, STRIDES = range(33, 46)
ROOM, ENTRIES, RIVALS, EDITS, BATCH = range(46, 51)
# What changes: states asked about, and room for their rows; queries left, and at which it is over; the rival aimed at and the
# label; turns without progress; states found and where the noise began; the first that flips; what comes next.
COUNT, LEFT, STOP, AIM, LABEL, STALLED, FOUND, START, FLIP, NEXT = range(51, 61)
# Of single edits: addresses and a size; how many changed nothing, turns in a row of such, whether a flip is the end, and
# how many of these turns are, 0 for any.
MARKS, ENERGY, EXPECTED, PHASE, FACTOR, MARGINS, PHASES, FLATS, FLAT, SEEKING, TIRING = range(61, 72)
# Of states that grow: the offsets' address, 0 where all states have as many edits; the state's size, and what it stays
# below; how many states add one edit.
BOUNDS, HEIGHT, LIMIT, ONES = range(72, 76)
FIELDS = 76

SWAP, CROWDED, TIED, MEASURE, OVER = range(5)  # `NEXT`: to swap on; room in the table or an order is needed first; ...


@compiled
def write_down(
    desk: Ints,
    classes: Ints,
    state: Ints,
    need: Doubles,
    numbers: Doubles,
    swaps: Ints,
    shades: Ints,
    added: Ints,
    places: Ints,
    single: Masks,
    keys: Ints,
) -> None:
    """Write where these arrays lie."""
    desk[CLASSES], desk[STATE], desk[NEED], desk[NUMBERS] = (
        classes.ctypes.data,
        state.ctypes.data,
        need.ctypes.data,
        numbers.ctypes.data,
    )
    desk[SWAPS], desk[SHADES], desk[ADDED] = swaps.ctypes.data, shades.ctypes.data, added.ctypes.data
    desk[PLACES], desk[SINGLE], desk[KEYS] = places.ctypes.data, single.ctypes.data, keys.ctypes.data


@compiled
def write_down_table(desk: Ints, table: Ints, numbered: Ints, rows: Doubles, count: int) -> None:
    """Write where the table of the states asked lies, which holds so many."""
    desk[TABLE], desk[NUMBERED], desk[ROWS] = table.ctypes.data, numbered.ctypes.data, rows.ctypes.data
    desk[ROOM], desk[COUNT] = len(table), count


@compiled
def beliefs_at(
    words: Words,
    rest: Words,
    pool: Floats,
    mean: Floats,
    deviation: Floats,
    size: Floats,
    norm: Floats,
    gray: Floats,
    tally: Doubles,
    told: Doubles,
    heard: Doubles,
    region: NDArray[np.int32],
    allowed: Masks,
    colours: Floats,
    base: Floats,
    pixels: Ints,
    offsets: Ints,
    near: Floats,
    around: Ints,
    steps: Ints,
) -> Ints:
    """Where these arrays lie, as it stands on a desk from `WORDS` to `STEPS`."""
    where = np.empty(TABLE, np.int64)
    where[WORDS], where[REST], where[POOL] = words.ctypes.data, rest.ctypes.data, pool.ctypes.data
    where[MEAN], where[DEVIATION], where[SIZE] = mean.ctypes.data, deviation.ctypes.data, size.ctypes.data
    where[NORM], where[GRAY], where[TALLY] = norm.ctypes.data, gray.ctypes.data, tally.ctypes.data
    where[TOLD], where[HEARD], where[REGION] = told.ctypes.data, heard.ctypes.data, region.ctypes.data
    where[ALLOWED], where[COLOURS], where[BASE] = allowed.ctypes.data, colours.ctypes.data, base.ctypes.data
    where[PIXELS], where[OFFSETS], where[NEAR] = pixels.ctypes.data, offsets.ctypes.data, near.ctypes.data
    where[AROUND], where[STEPS] = around.ctypes.data, steps.ctypes.data
    return where


@compiled
def reluctances(desks: Ints, out: Doubles) -> None:
    """The logarithms of how likely each edit of each game's state is to leave it, one game after the other."""
    first = 0
    for game in range(len(desks)):
        desk = addresses.ints_at(desks[game], FIELDS)
        last = first + desk[EDITS]
        tally, need = addresses.doubles_at(desk[TALLY], 2), addresses.doubles_at(desk[NEED], desk[EDITS])
        search_turn_kernels.reluctance(need, tally, desk[STALLED], out[first:last])
        first = last


@compiled
def propose(desks: Ints, likely: Doubles, optimism: float, despair: int, shares: Doubles, limits: Floats) -> Ints:
    """Find what each game asks next.

    Args:
        likely: how likely each edit of each state is to leave it, one game after the other.
        despair: turns without progress at most. optimism, shares, limits: see `propose_swaps`.

    Returns:
        (2, G) how many states were found, and `NEXT`.
    """
    told = np.empty((2, len(desks)), np.int64)
    first = 0
    for game in range(len(desks)):
        desk = addresses.ints_at(desks[game], FIELDS)
        size, kinds, width = desk[EDITS], desk[KINDS], desk[WIDTH]
        weight = likely[first : first + size]
        first += size
        wanted = min(desk[BATCH], desk[LEFT] - desk[STOP])
        found, following = 0, SWAP
        if 2 * (desk[COUNT] + wanted) > desk[ROOM]:
            following = CROWDED
        else:
            found, desk[START] = search_swap_kernels.propose_swaps(
                *drawing_on(desk, optimism),
                2 * desk[BATCH],
                addresses.int_rows_at(desk[STATE], 2, size),
                weight,
                addresses.ints_at(desk[AROUND], desk[NEARBY]),
                addresses.ints_at(desk[STEPS], desk[STRIDES]),
                desk[ACROSS],
                addresses.mask_rows_at(desk[ALLOWED], kinds, width),
                shares,
                limits,
                addresses.ints_at(desk[TABLE], desk[ROOM]),
                wanted,
                *_found_on(desk),
            )
            if found < 0:
                found, following = 0, TIED
            else:
                desk[STALLED] += 1
                if found == 0 and desk[STALLED] >= despair:
                    following = OVER
        desk[FOUND], desk[NEXT] = found, following
        told[0, game], told[1, game] = found, following
    return told


@compiled
def _found_on(desk: Ints) -> tuple[Ints, Ints, Ints, Ints, Masks, Ints]:
    """What `propose_swaps` writes to."""
    most, size = 2 * desk[BATCH], desk[EDITS]
    return (
        addresses.int_rows_at(desk[SWAPS], most, size),
        addresses.int_rows_at(desk[SHADES], most, size),
        addresses.int_rows_at(desk[ADDED], 2, most),
        addresses.ints_at(desk[PLACES], most),
        addresses.mask_rows_at(desk[SINGLE], 1, most)[0],
        addresses.ints_at(desk[KEYS], most),
    )


@compiled
def drawing_on(desk: Ints, optimism: float) -> tuple[Words, Words, Floats, float, Floats, Floats, Doubles]:
    """What the best edits by drawn upper bounds are found with, as `propose_swaps` takes it first; optimism: deviations added to a mean."""
    kinds, width = desk[KINDS], desk[WIDTH]
    return (
        addresses.words_at(desk[WORDS], 4),
        addresses.words_at(desk[REST], 2),
        addresses.float_rows_at(desk[POOL], 1, desk[POOLED])[0],
        optimism,
        addresses.float_rows_at(desk[MEAN], kinds, width),
        addresses.float_rows_at(desk[DEVIATION], kinds, width),
        addresses.doubles_at(desk[TALLY], 2),
    )


@compiled
def learning_on(desk: Ints, seen: np.float32, floor: np.float32) -> Any:
    """What `search_kernels.learn` takes from `mean` on; seen, floor: see there."""
    kinds, width = desk[KINDS], desk[WIDTH]
    return (
        addresses.float_rows_at(desk[MEAN], kinds, width),
        addresses.float_rows_at(desk[DEVIATION], kinds, width),
        addresses.float_rows_at(desk[SIZE], kinds, width),
        addresses.float_rows_at(desk[NORM], kinds, width),
        addresses.float_rows_at(desk[GRAY], desk[GRAYS], width),
        addresses.float_blocks_at(desk[COLOURS], kinds, desk[OWN], desk[CHANNELS]),
        addresses.float_rows_at(desk[BASE], desk[IMAGE], desk[CHANNELS]),
        seen,
        addresses.ints_at(desk[PIXELS], width),
        addresses.ints_at(desk[OFFSETS], desk[LEARNED]),
        addresses.float_rows_at(desk[NEAR], 1, desk[LEARNED])[0],
        floor,
        desk[MIDDLE],
        addresses.double_rows_at(desk[TOLD], kinds, desk[REGIONS]),
        addresses.double_rows_at(desk[HEARD], kinds, desk[REGIONS]),
        addresses.small_ints_at(desk[REGION], width),
    )


@compiled
def _edits_on(desk: Ints, count: int) -> int:
    """Edits of the first so many states that were found."""
    if desk[BOUNDS] == 0:
        return int(count * desk[EDITS])
    return int(addresses.ints_at(desk[BOUNDS], count + 1)[count])


@compiled
def gather(desks: Ints, channels: int) -> tuple[Ints, Floats, Ints]:
    """The states that were found, of one game after the other, as `Edits`: pixels, values and offsets."""
    states, edits = 0, 0
    for game in range(len(desks)):
        desk = addresses.ints_at(desks[game], FIELDS)
        states += desk[FOUND]
        edits += _edits_on(desk, desk[FOUND])
    pixels, values = np.empty(edits, np.int64), np.empty((edits, channels), np.float32)
    offsets = np.zeros(states + 1, np.int64)
    state, edit = 0, 0
    for game in range(len(desks)):
        desk = addresses.ints_at(desks[game], FIELDS)
        count = _edits_on(desk, desk[FOUND])
        cells, shades = addresses.ints_at(desk[SWAPS], count), addresses.ints_at(desk[SHADES], count)
        pixel_of_cell, own_colours = addresses.ints_at(desk[PIXELS], desk[WIDTH]), desk[OWN]
        table = addresses.float_rows_at(desk[COLOURS], desk[KINDS] * own_colours, channels)
        for place in range(count):
            pixel = pixel_of_cell[cells[place]]
            pixels[edit] = pixel
            row = shades[place] * own_colours + (pixel if own_colours > 1 else 0)
            for channel in range(channels):
                values[edit, channel] = table[row, channel]
            edit += 1
        before = offsets[state]
        for own in range(desk[FOUND]):
            offsets[state + 1] = before + _edits_on(desk, own + 1)
            state += 1
    return pixels, values, offsets


@compiled
def heed(
    desks: Ints,
    margins: Doubles,
    starts: Ints,
    scores: Doubles,
    jumps: Doubles,
    warmth: float,
    noise: np.float32,
    seen: np.float32,
    floor: np.float32,
    despair: int,
    patience: int,
) -> Ints:
    """Take in the answers to what each game asked, and go on from the best of them where it is good enough.

    Args:
        margins: (N,) answers, of each game those from `starts` (G,) on. scores: (N, K) or (0, 0), see `search_kernels.note`.
        jumps: (G,) draws. warmth, noise: see `heed_swaps`. seen, floor: see `search_kernels.learn`.
        despair: turns without progress at most. patience: after how many of them effects are measured anew.

    Returns:
        (G,) `NEXT`.
    """
    told = np.empty(len(desks), np.int64)
    for game in range(len(desks)):
        desk = addresses.ints_at(desks[game], FIELDS)
        size, found = desk[EDITS], desk[FOUND]
        first, last = starts[game], starts[game] + found
        numbers = addresses.doubles_at(desk[NUMBERS], 2)
        tally = addresses.doubles_at(desk[TALLY], 2)
        new, desk[FLIP], desk[STALLED] = search_turn_kernels.heed_swaps(
            margins[first:last],
            scores[first:last],
            desk[LABEL],
            addresses.ints_at(desk[CLASSES], desk[RIVALS]),
            desk[AIM],
            warmth,
            jumps[game],
            desk[STALLED],
            found,
            *_found_on(desk),
            addresses.int_rows_at(desk[STATE], 2, size),
            addresses.doubles_at(desk[NEED], size),
            numbers,
            addresses.ints_at(desk[TABLE], desk[ROOM]),
            addresses.ints_at(desk[NUMBERED], desk[ROOM]),
            addresses.double_rows_at(desk[ROWS], desk[ROOM] // 2, desk[RIVALS]),
            desk[COUNT],
            tally,
            noise,
            learning_on(desk, seen, floor),
        )
        desk[COUNT] += new
        desk[LEFT] -= max(new, (found + 3) // 4)
        going = desk[LEFT] > desk[STOP] and numbers[0] >= 0 and desk[STALLED] < despair
        desk[NEXT] = SWAP if going else OVER
        if desk[STALLED] % patience == patience - 1:
            desk[NEXT] = MEASURE
        told[game] = desk[NEXT]
    return told
