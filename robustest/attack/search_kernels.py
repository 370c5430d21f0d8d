"""The few-pixel search's inner loops, compiled; each gives the bits of the numpy code in `Beliefs` and `search_moves`.

Sums are taken in numpy's order, and floats keep numpy's widths: float32 where both sides are, float64 where one is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack import kernels
from robustest.attack.record import GOLDEN
from robustest.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Masks = NDArray[np.bool_]

_ONE, _NONE, _TINY, _LEAST = np.float32(1), np.float32(0), np.float32(1e-9), np.float32(0.02)


@compiled
def learn(
    cells: Ints,
    colours: Ints,
    drops: Doubles,
    noise: np.float32,
    mean: Floats,
    deviation: Floats,
    size: Floats,
    angle: Floats,
    offsets: Ints,
    near: Floats,
    floor: np.float32,
    middle: int,
    gain: Floats,
    share: Floats,
    told: Doubles,
    heard: Doubles,
    region: NDArray[np.int32],
) -> Doubles:
    """`Beliefs.learn` on (V, cells) arrays, all but the surprise's sum: (N,) its relative squares are returned.

    gain, share: (V, cells) of zeros, overwritten.
    """
    count, width, kinds = len(cells), len(offsets), mean.shape[0]
    squares = np.empty(count, np.float64)
    weight = np.empty(count, np.float32)
    explained = np.empty(count, np.float32)
    factor = np.empty(count, np.float32)
    rest = _ONE - floor
    for row in range(count):
        cell, colour = cells[row], colours[row]
        own, long = np.float64(deviation[colour, cell]), size[colour, cell]
        total = own * own + np.float64(noise * (long * long)) + 1e-9
        surprise = drops[row] - np.float64(mean[colour, cell])
        squares[row] = surprise * surprise / total
        weight[row] = np.float32(own / total * surprise)
        explained[row] = np.float32(own * own / total)
        factor[row] = np.float32(own / np.float64(max(long, _TINY)))
        told[colour, region[cell]] += surprise * np.float64(long)
        heard[colour, region[cell]] += np.float64(long * long)
    for kind in range(kinds):
        for row in range(count):
            cell, colour = cells[row], colours[row]
            for step in range(width):
                place = cell + offsets[step]
                if colour == kind and step == middle:
                    correlation = _ONE
                else:
                    cosine = _NONE
                    for channel in range(angle.shape[2]):
                        cosine += angle[kind, place, channel] * angle[colour, cell, channel]
                    correlation = near[step] * (floor + rest * max(cosine, _NONE))
                    known = deviation[kind, place] / max(size[kind, place], _TINY)
                    correlation = correlation * (known * factor[row])
                gain[kind, place] += (correlation * weight[row]) * deviation[kind, place]
                share[kind, place] += (correlation * correlation) * explained[row]
    # A place that several edits tell of is changed once, by all of them.
    for kind in range(kinds):
        for row in range(count):
            for step in range(width):
                place = cells[row] + offsets[step]
                part = share[kind, place]
                if part >= _NONE:
                    mean[kind, place] = mean[kind, place] + gain[kind, place] / max(part, _ONE)
                    deviation[kind, place] = deviation[kind, place] * np.sqrt(max(_ONE - part, _LEAST))
                    share[kind, place] = -_ONE
    return squares


@compiled
def drawn(mean: Floats, deviation: Floats, noise: Floats, factor: np.float32) -> Floats:
    """`Beliefs.drawn`: (V, cells) mean plus so many times deviation times noise (V * cells,)."""
    kinds, count = mean.shape
    scores = np.empty((kinds, count), np.float32)
    for kind in range(kinds):
        start = kind * count
        for cell in range(count):
            scores[kind, cell] = mean[kind, cell] + factor * deviation[kind, cell] * noise[start + cell]
    return scores


@compiled
def top(scores: Floats, count: int, avoid: Ints, never: np.float32) -> tuple[int, Ints, Ints]:
    """`Beliefs.top`: how many were found, their cells and colours; -1 found where some are equal.

    Args:
        scores: (V, cells), `never` written at the cells to avoid. count: wanted, at least 1, and few.
        never: a cell whose best score is no more than half of it is not chosen.
    """
    kinds, width = scores.shape
    for kind in range(kinds):
        for cell in avoid:
            scores[kind, cell] = never
    best = np.empty(count + 1, np.float32)
    cells = np.empty(count + 1, np.int64)
    highest = scores[0].copy()
    for kind in range(1, kinds):
        for cell in range(width):
            highest[cell] = max(highest[cell], scores[kind, cell])
    found = 0
    for cell in range(width):
        score = highest[cell]
        if score <= never / 2 or (found > count and score <= best[count]):
            continue
        place = min(found, count)
        while place > 0 and best[place - 1] < score:
            best[place], cells[place] = best[place - 1], cells[place - 1]
            place -= 1
        best[place], cells[place] = score, cell
        found = min(found + 1, count + 1)
    colours = np.empty(count, np.int64)
    for place in range(found - 1):
        if best[place] == best[place + 1]:
            return -1, cells[:count], colours
    found = min(found, count)
    for place in range(found):
        colour = 0
        for kind in range(1, kinds):
            if scores[kind, cells[place]] > scores[colour, cells[place]]:
                colour = kind
        colours[place] = colour
    return found, cells[:count], colours


@compiled
def near(
    scores: Floats, anchors: Ints, around: Ints, draws: Floats, share: np.float32, worst: np.float32
) -> tuple[int, Ints, Ints, Ints]:
    """`search_moves._near`: how many were found; their rows, cells and colours.

    Args:
        around: (K,) offsets of the cells looked at. draws: (N, K) a cell is looked at where its draw is below `share`.
        worst: scores that are no larger are not chosen.
    """
    rows = np.empty(len(anchors), np.int64)
    cells = np.empty(len(anchors), np.int64)
    colours = np.empty(len(anchors), np.int64)
    found = 0
    for row in range(len(anchors)):
        best = worst
        for step in range(len(around)):
            if not draws[row, step] < share:
                continue
            cell = anchors[row] + around[step]
            for kind in range(scores.shape[0]):
                if scores[kind, cell] > best:
                    best = scores[kind, cell]
                    rows[found], cells[found], colours[found] = row, cell, kind
        if best > worst:
            found += 1
    return found, rows, cells, colours


@compiled
def spread(mean: Floats, deviation: Floats, size: Floats, common: Doubles, region: NDArray[np.int32]) -> None:
    """`Beliefs.borrow`: add to each mean what its region (V, R) has in common, as far as the edit itself is unknown."""
    for kind in range(mean.shape[0]):
        for cell in range(mean.shape[1]):
            ratio = deviation[kind, cell] / max(size[kind, cell], _TINY)
            unknown = ratio * ratio * size[kind, cell]
            mean[kind, cell] += np.float32(np.float64(unknown) * common[kind, region[cell]])


@compiled
def swaps(
    rng: np.random.Generator,
    scores: Floats,
    own: Floats,
    added_cells: Ints,
    added_colours: Ints,
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
) -> tuple[int, Ints, Ints, Ints, Ints, Ints, Masks]:
    """`search_moves.swapping_moves` from the best edits on, where any may come in, with the same draws in the same order.

    Args:
        scores, own: (V, cells), (V, k) drawn scores, of the state's own cells with their own colour ruled out.
        added_cells, added_colours: (N,) the best edits anywhere; overwritten. state_cells, state_colours: (k,) the state.
        weight: (k,) cumulated, of each place to be left. around, steps: offsets of cells near by, and next to a cell.
        shares: moving, moving or joining, those or shifting, recolouring. thinning, shades, worst: see `search_moves`.

    Returns:
        How many states of N are possible, and of the first so many rows: cells and colours (N, k), the edit that each
        brings in, whose place it takes, and whether nothing else differs.
    """
    count, size, kinds = len(added_cells), len(state_cells), scores.shape[0]
    moving, joining, shifting, recolouring = shares
    places, anchors = np.empty(count, np.int64), np.empty(count, np.int64)
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
    found = 0
    for row in range(count):
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
        if good:
            added_cells[found], added_colours[found] = added_cells[row], added_colours[row]
            places[found], single[found] = places[row], not shifted[row]
            found += 1
    return found, cells, colours, added_cells, added_colours, places, single


@compiled
def state_keys(width: int, cells: Ints, colours: Ints, offsets: Ints) -> Ints:
    """`search_states.state_keys`."""
    sums = np.zeros(len(offsets) - 1, np.uint64)
    for state in range(len(sums)):
        for edit in range(offsets[state], offsets[state + 1]):
            sums[state] += kernels.scrambled(np.uint64(colours[edit] * width + cells[edit] + 1) * GOLDEN)
    return sums.view(np.int64)


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
def mark_single(marks: Masks, cells: Ints, colours: Ints, offsets: Ints) -> None:
    """`search_states.mark_single`."""
    for state in range(len(offsets) - 1):
        if offsets[state + 1] - offsets[state] == 1:
            marks[colours[offsets[state]], cells[offsets[state]]] = True
