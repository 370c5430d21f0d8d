"""A game's desk: where all lies that compiled code needs of it, so that one call takes the turns of many games.

A desk is one array of whole numbers: first the addresses of arrays, then their sizes, then what changes from turn to turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.attack import addresses
from robustest.attack.draws import Words
from robustest.attack.search_kernels import Doubles, Floats, Ints, Masks, Signs
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
# Edits of each state asked about, where all have as many; what is asked; of how many edits the one to be left out is drawn;
# edits of the best state, more than any has where there is none.
EACH, MODE, AMONG, BEST = range(76, 80)
# Of single edits, all that were tried: addresses of cells and colours, and of how many there were after each turn; how many
# edits and turns. What they did to the margin to each rival is at `MARGINS`.
LOG, ENDS, TRIED, TURNS = range(80, 84)
FIELDS = 84

# `NEXT`: to go on; room in the table or an order is needed first; effects are to be measured; it is over; a smaller state flips.
SWAP, CROWDED, TIED, MEASURE, OVER, FLIPPED = range(6)
# `MODE`: swaps of the state; what each edit does, after turns without progress, before the first, or to leave one out first.
SWAPPING, MEASURING, STARTING, DROPPING = range(4)


def room_of(size: int, batch: int) -> int:
    """Whole numbers on the desk of a game that asks about states of at most so many edits; see `lay_out`."""
    rows = 2 * batch
    return FIELDS + 3 * size + 2 + 2 * rows * size + 4 * rows + rows // 8 + 1


@compiled
def lay_out(desk: Ints, sizes: Ints, size: int, batch: int, classes: Ints, aim: int, label: int, marks: Masks) -> None:
    """Put what the turns write to behind the fields, and write down where that is.

    Args:
        desk: (`room_of`,). sizes: from `POOLED` to `STRIDES`. size, batch: `EDITS` and `BATCH`. classes, aim, label: of the rivals.
        marks: (V, cells) single edits that were tried.
    """
    desk[:FIELDS] = 0
    desk[MARKS] = marks.ctypes.data
    desk[POOLED:ROOM] = sizes
    desk[RIVALS], desk[EDITS], desk[BATCH], desk[EACH] = len(classes), size, batch, size
    desk[AIM], desk[LABEL], desk[CLASSES] = aim, label, classes.ctypes.data
    rows, place = 2 * batch, desk.ctypes.data + 8 * FIELDS
    desk[STATE], desk[NEED], desk[NUMBERS] = place, place + 16 * size, place + 24 * size
    place += 8 * (3 * size + 2)
    desk[SWAPS], desk[SHADES] = place, place + 8 * rows * size
    place += 16 * rows * size
    desk[ADDED], desk[PLACES], desk[KEYS], desk[SINGLE] = place, place + 16 * rows, place + 24 * rows, place + 32 * rows


@compiled
def take_up(
    desk: Ints, believed: Ints, table: Ints, numbered: Ints, rows: Doubles, count: int, left: int, stop: int
) -> None:
    """Write down where beliefs and the table of the states asked lie, and how many queries are left.

    Args:
        believed: from `WORDS` to `STEPS`. table, numbered, rows, count: see `write_down_table`. stop: of the queries left, not spent.
    """
    desk[:TABLE] = believed
    desk[LEFT], desk[STOP], desk[FLIP] = left, stop, -1
    write_down_table(desk, table, numbered, rows, count)


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
    gray: Signs,
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
        addresses.sign_rows_at(desk[GRAY], desk[GRAYS], width),
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
def borrowing_on(desk: Ints) -> tuple[Floats, Floats, Floats, Doubles, Doubles, Any]:
    """What `search_turn_kernels.borrow` takes, up to the priors."""
    kinds, width = desk[KINDS], desk[WIDTH]
    return (
        addresses.float_rows_at(desk[MEAN], kinds, width),
        addresses.float_rows_at(desk[DEVIATION], kinds, width),
        addresses.float_rows_at(desk[SIZE], kinds, width),
        addresses.double_rows_at(desk[TOLD], kinds, desk[REGIONS]),
        addresses.double_rows_at(desk[HEARD], kinds, desk[REGIONS]),
        addresses.small_ints_at(desk[REGION], width),
    )


@compiled
def known_on(desk: Ints) -> tuple[Ints, Ints, Doubles, int]:
    """The states asked about: `Asked.table`, and how many they are."""
    return (
        addresses.ints_at(desk[TABLE], desk[ROOM]),
        addresses.ints_at(desk[NUMBERED], desk[ROOM]),
        addresses.double_rows_at(desk[ROWS], desk[ROOM] // 2, desk[RIVALS]),
        desk[COUNT],
    )


@compiled
def _edits_on(desk: Ints, count: int) -> int:
    """Edits of the first so many states that were found."""
    if desk[BOUNDS] == 0:
        return int(count * desk[EACH])
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
