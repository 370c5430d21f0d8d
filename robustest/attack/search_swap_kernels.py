"""Swaps of a state's edits, compiled: one call from what is believed to the states to ask about."""

from __future__ import annotations

import numpy as np

from robustest.attack import draws, search_kernels, search_ranking
from robustest.attack.draws import Words
from robustest.attack.search_kernels import Doubles, Floats, Ints, Masks
from robustest.compiled import compiled


@compiled
def fresh_scores(
    words: Words, rest: Words, pool: Floats, optimism: float, mean: Floats, deviation: Floats, tally: Doubles
) -> tuple[int, Floats]:
    """`Beliefs.noise` and `Beliefs.bounds`: where the noise begins in the pool, and (V, cells) scores."""
    start = draws.below(words, rest, len(pool) - mean.size)
    factor = np.float32(optimism * search_kernels.scale_of(tally))
    return start, search_kernels.drawn(mean, deviation, pool[start : start + mean.size], factor)


@compiled
def put_near(
    words: Words,
    rest: Words,
    scores: Floats,
    highest: Floats,
    anchor: int,
    around: Ints,
    limits: Floats,
    row: int,
    cells: Ints,
    colours: Ints,
) -> None:
    """Write the best edit near a cell, of a draw of its neighbours, to `cells[row]` and `colours[row]`; nothing if none was drawn.

    highest: (cells,) the best of `scores` (V, cells).
    """
    best, found = limits[2], -1
    for step in range(len(around)):
        # No branch: which way it goes is drawn, and a wrong guess takes longer than all else here.
        cell = anchor + around[step]
        score = highest[np.uint64(cell)]
        better = (draws.small_unit(words, rest) < limits[0]) & (score > best)
        best, found = score if better else best, cell if better else found
    if found >= 0:
        colour = 0
        for kind in range(1, scores.shape[0]):
            if scores[kind, found] > scores[colour, found]:
                colour = kind
        cells[row], colours[row] = found, colour


@compiled
def draw_swaps(
    words: Words,
    rest: Words,
    scores: Floats,
    highest: Floats,
    own: Floats,
    best_cells: Ints,
    best_colours: Ints,
    state: Ints,
    cumulated: Doubles,
    around: Ints,
    steps: Ints,
    shares: Doubles,
    limits: Floats,
    added: Ints,
    places: Ints,
) -> tuple[Ints, Ints]:
    """Draw one swap for each of the best edits: what comes in and what leaves, written to `added` (2, N) and `places` (N,).

    Args:
        highest: (cells,) the best of `scores` (V, cells). own: (V, k) scores at the state's cells, `worst` where it has that colour.
        best_cells, best_colours: (N,) the best edits. cumulated: (k,) weights of the state's places.
        words, rest, state, around, steps, shares, limits: see `propose_swaps`.

    Returns:
        (N,) places that a move begins at; and how far the group there is shifted, 0 where it is not.
    """
    state_cells, size, count = state[0], state.shape[1], len(best_cells)
    shades, worst = limits[1], limits[2]
    moving, joining, shifting, recolouring = shares[0], shares[1], shares[2], shares[3]
    total = cumulated[size - 1]
    added_cells, added_colours = added[0], added[1]
    added_cells[:], added_colours[:] = best_cells, best_colours
    for row in range(count):
        limit = draws.unit(words) * total
        place = 0
        while place < size - 1 and cumulated[place] <= limit:
            place += 1
        places[row] = place
    kind = np.empty(count, np.float64)
    for row in range(count):
        kind[row] = draws.unit(words)
    anchors = np.empty(count, np.int64)
    for row in range(count):
        anchors[row] = draws.below(words, rest, size)
        if kind[row] < moving:
            places[row] = anchors[row]
    for row in range(count):
        if kind[row] < joining:
            anchor = state_cells[anchors[row]]
            put_near(words, rest, scores, highest, anchor, around, limits, row, added_cells, added_colours)
    if len(own) > 2:
        again = np.empty(count, np.int64)
        some = 0
        for row in range(count):
            if draws.unit(words) < recolouring:
                again[some] = row
                some += 1
        best = np.full(some, worst, np.float32)
        for colour in range(len(own)):
            for index in range(some):
                row = again[index]
                if draws.small_unit(words, rest) < shades and own[colour, anchors[row]] > best[index]:
                    best[index] = own[colour, anchors[row]]
                    places[row] = anchors[row]
                    added_cells[row], added_colours[row] = state_cells[anchors[row]], colour
    moves = np.zeros(count, np.int64)
    if size > 1:
        for row in range(count):
            if kind[row] >= joining and kind[row] < shifting:
                moves[row] = steps[draws.below(words, rest, len(steps))]
    return anchors, moves


@compiled
def propose_swaps(
    words: Words,
    rest: Words,
    pool: Floats,
    optimism: float,
    mean: Floats,
    deviation: Floats,
    tally: Doubles,
    count: int,
    state: Ints,
    weight: Doubles,
    around: Ints,
    steps: Ints,
    across: int,
    allowed: Masks,
    shares: Doubles,
    limits: Floats,
    table: Ints,
    wanted: int,
    attempts: int,
    cells: Ints,
    colours: Ints,
    added: Ints,
    places: Ints,
    single: Masks,
    keys: Ints,
) -> tuple[int, int]:
    """`search_moves.fresh_swaps` where any edit may come in, with the same draws in the same order.

    Args:
        words, rest: where random draws come from, see `draws.words`.
        pool, optimism, mean, deviation, tally: see `Beliefs.noise` and `Beliefs.bounds`.
        count: the best edits anywhere that are looked for.
        state: (2, k) cells and colours of the state, of edits that are allowed.
        weight: (k,) how likely each place is to be left, up to a factor.
        around, steps: offsets of cells near by, and next to a cell. shares: moving, moving or joining, those or shifting,
        recolouring. limits: thinning, shades, worst, never: see `search_moves` and `top`.
        table: of the states asked about. wanted: states at most. attempts: draws at most, until there are so many.
        cells, colours: (count, k) of the states found, in the first so many rows; and of these: added (2, count), the edit
        that each brings in, places, whose place it takes, single, whether nothing else differs, keys. All are written to.

    Returns:
        How many states are new, or -1 where equal scores must be put in order by numpy; and where the noise begins, all
        that was drawn then.
    """
    state_cells, state_colours = state[0], state[1]
    size, kinds, width = len(state_cells), mean.shape[0], mean.shape[1]
    worst, never = limits[2], limits[3]
    start, scores = fresh_scores(words, rest, pool, optimism, mean, deviation, tally)
    own = np.empty((kinds, size), np.float32)
    for place in range(size):
        for colour in range(kinds):
            own[colour, place] = scores[colour, state_cells[place]]
        own[state_colours[place], place] = worst
    count, best_cells, best_colours, highest = search_ranking.ranked(scores, count, state_cells, never)
    if count <= 0:
        return count, start
    cumulated = np.empty(size)
    parts, total, whole = np.empty(size, np.int64), 0.0, np.int64(0)  # parts: of the state's key
    for place in range(size):
        total += weight[place]
        cumulated[place] = total
        parts[place] = search_kernels.edit_key(width, state_cells[place], state_colours[place])
        whole += parts[place]
    drawn, left = np.empty((2, count), np.int64), np.empty(count, np.int64)
    found = 0
    for _ in range(attempts):
        anchors, moves = draw_swaps(
            words, rest, scores, highest, own, best_cells[:count], best_colours[:count], state, cumulated, around, steps, shares, limits, drawn, left
        )  # fmt: skip
        for row in range(count):
            if found == wanted:
                break
            good, key = True, whole
            new_cells, new_colours = cells[found], colours[found]
            for place in range(size):
                new_cells[place], new_colours[place] = state_cells[place], state_colours[place]
            if moves[row] != 0:
                anchor = state_cells[anchors[row]]
                down, right = anchor // across, anchor % across
                for place in range(size):
                    cell = state_cells[place]
                    if abs(cell // across - down) <= 1 and abs(cell % across - right) <= 1:
                        cell += moves[row]
                        new_cells[place] = cell
                        good = good and allowed[state_colours[place], cell]
                        key += search_kernels.edit_key(width, cell, state_colours[place]) - parts[place]
                for place in range(size):
                    for other in range(place):
                        good = good and new_cells[place] != new_cells[other]
            else:
                place, cell, colour = left[row], drawn[0, row], drawn[1, row]
                new_cells[place], new_colours[place] = cell, colour
                good = allowed[colour, cell]
                for other in range(size):
                    good = good and (other == place or state_cells[other] != cell)
                key += search_kernels.edit_key(width, cell, colour) - parts[place]
            good = good and search_kernels.missing(table, key)
            for earlier in range(found):
                good = good and keys[earlier] != key
            if good:
                keys[found] = key
                added[0, found], added[1, found] = drawn[0, row], drawn[1, row]
                places[found], single[found] = left[row], moves[row] == 0
                found += 1
        if found == wanted:
            break
    return found, start
