"""Swaps of a state's edits, compiled: one call from what is believed to the states to ask about."""

from __future__ import annotations

import numpy as np

from robustest.attack import search_kernels
from robustest.attack.search_kernels import Doubles, Floats, Ints, Masks
from robustest.compiled import compiled


@compiled
def fresh_swaps(
    rng: np.random.Generator,
    mean: Floats,
    deviation: Floats,
    noise: Floats,
    factor: np.float32,
    most: int,
    state_cells: Ints,
    state_colours: Ints,
    weight: Doubles,
    around: Ints,
    steps: Ints,
    across: int,
    allowed: Masks,
    shares: tuple[float, float, float, float],
    thinning: np.float32,
    shades: np.float32,
    worst: np.float32,
    never: np.float32,
    table: Ints,
    wanted: int,
) -> tuple[int, Ints, Ints, Ints, Ints, Ints, Masks]:
    """`search_moves.fresh_swaps` where any edit may come in, with the same draws in the same order.

    Args:
        mean, deviation, noise, factor: as `drawn` takes them. most: the best edits anywhere that are looked for.
        state_cells, state_colours: (k,) the state. weight: (k,) cumulated, of each place to be left.
        around, steps: offsets of cells near by, and next to a cell. shares: moving, moving or joining, those or shifting,
        recolouring. thinning, shades, worst, never: see `search_moves` and `top`.
        table: of the states asked about. wanted: states at most.

    Returns:
        How many states are new, -1 where equal scores must be put in order by numpy (then nothing was drawn), and of the
        first so many rows: cells and colours (N, k), the edit that each brings in, whose place it takes, and whether
        nothing else differs.
    """
    size, kinds = len(state_cells), mean.shape[0]
    scores = search_kernels.drawn(mean, deviation, noise, factor)
    own = np.empty((kinds, size), np.float32)
    for place in range(size):
        for colour in range(kinds):
            own[colour, place] = scores[colour, state_cells[place]]
        own[state_colours[place], place] = worst
    count, added_cells, added_colours = search_kernels.top(scores, most, state_cells, never)
    if count <= 0:
        nothing = np.empty((0, size), np.int64)
        return count, nothing, nothing, added_cells, added_colours, added_cells, np.empty(0, np.bool_)
    places, anchors = np.empty(count, np.int64), np.empty(count, np.int64)
    moving, joining, shifting, recolouring = shares
    for row in range(count):
        limit = rng.random() * weight[size - 1]
        place = 0
        while place < size - 1 and weight[place] <= limit:
            place += 1
        places[row] = place
    kind = np.empty(count, np.float64)
    for row in range(count):
        kind[row] = rng.random()
    drawn_anchors = rng.integers(0, size, count)
    for row in range(count):
        anchors[row] = drawn_anchors[row]
        if kind[row] < moving:
            places[row] = anchors[row]
    for row in range(count):
        if not kind[row] < joining:
            continue
        best = worst
        for step in range(len(around)):
            if not rng.random(dtype=np.float32) < thinning:
                continue
            cell = state_cells[anchors[row]] + around[step]
            for colour in range(kinds):
                if scores[colour, cell] > best:
                    best = scores[colour, cell]
                    added_cells[row], added_colours[row] = cell, colour
    if kinds > 2:
        again = np.empty(count, np.int64)
        some = 0
        for row in range(count):
            if rng.random() < recolouring:
                again[some] = row
                some += 1
        highest = np.full(some, worst, np.float32)
        for colour in range(kinds):
            for index in range(some):
                row = again[index]
                if rng.random(dtype=np.float32) < shades and own[colour, anchors[row]] > highest[index]:
                    highest[index] = own[colour, anchors[row]]
                    places[row] = anchors[row]
                    added_cells[row], added_colours[row] = state_cells[anchors[row]], colour
    shifted = np.zeros(count, np.bool_)
    moves = np.zeros(count, np.int64)
    if size > 1:
        some = 0
        for row in range(count):
            if kind[row] >= joining and kind[row] < shifting:
                shifted[row] = True
                some += 1
        drawn_steps = rng.integers(0, len(steps), some)
        some = 0
        for row in range(count):
            if shifted[row]:
                moves[row] = steps[drawn_steps[some]]
                some += 1
    cells, colours = np.empty((count, size), np.int64), np.empty((count, size), np.int64)
    single = np.empty(count, np.bool_)
    keys = np.empty(count, np.int64)
    found = 0
    for row in range(count):
        if found == wanted:
            break
        cells[found], colours[found] = state_cells, state_colours
        if shifted[row]:
            down, right = state_cells[anchors[row]] // across, state_cells[anchors[row]] % across
            for place in range(size):
                cell = state_cells[place]
                if abs(cell // across - down) <= 1 and abs(cell % across - right) <= 1:
                    cells[found, place] = cell + moves[row]
        else:
            cells[found, places[row]] = added_cells[row]
            colours[found, places[row]] = added_colours[row]
        good = True
        for place in range(size):
            good = good and allowed[colours[found, place], cells[found, place]]
        ordered = np.sort(cells[found])
        for place in range(size - 1):
            good = good and ordered[place] != ordered[place + 1]
        key = search_kernels.key_of(mean.shape[1], cells[found], colours[found]) if good else np.int64(0)
        good = good and search_kernels.missing(table, key)
        for earlier in range(found):
            good = good and keys[earlier] != key
        if good:
            keys[found] = key
            added_cells[found], added_colours[found] = added_cells[row], added_colours[row]
            places[found], single[found] = places[row], not shifted[row]
            found += 1
    return found, cells, colours, added_cells, added_colours, places, single
