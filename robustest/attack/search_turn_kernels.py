"""Whole turns of the few-pixel search, compiled: what is learned of the answers, and what is asked next.

Each gives the bits of the numpy code in `search`, `search_moves` and `Beliefs`, and makes the same draws in the same order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.attack import draws, search_kernels, search_ranking, search_swap_kernels
from robustest.attack.draws import Words
from robustest.attack.search_kernels import Doubles, Floats, Ints, Masks
from robustest.compiled import compiled

TIES = -1  # equal scores must be put in order by numpy


@compiled
def summed(values: Any) -> Any:
    """`np.add.reduce` of at most 128 numbers, added up in numpy's order."""
    count = len(values)
    parts = np.zeros(8, values.dtype)
    if count < 8:
        for place in range(count):
            parts[0] += values[place]
        return parts[0]
    whole = count - count % 8
    for place in range(whole):
        parts[place % 8] += values[place]
    parts[0] = ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]))
    for place in range(whole, count):
        parts[0] += values[place]
    return parts[0]


@compiled
def reluctance(need: Doubles, tally: Doubles, stalled: int, out: Doubles) -> None:
    """Write the logarithms of how likely each edit of a state is to leave it; see `search_moves.Ahead`."""
    softness = search_kernels.scale_of(tally) / 2 * max(1.0, stalled / 4) + 1e-9
    least = need[0]
    for place in range(1, len(need)):
        least = min(least, need[place])
    for place in range(len(need)):
        out[place] = (least - need[place]) / softness


@compiled
def learn(
    cells: Ints,
    colours: Ints,
    drops: Doubles,
    noise: np.float32,
    tally: Doubles,
    learning: Any,
) -> None:
    """`Beliefs.learn`. learning: `Beliefs.learning()`, what `search_kernels.learn` takes from `mean` on."""
    squares = search_kernels.learn(cells, colours, drops, noise, *learning)
    tally[0] += summed(squares)
    tally[1] += len(drops)


@compiled
def heed_swaps(
    margins: Doubles,
    scores: Doubles,
    label: int,
    classes: Ints,
    aim: int,
    warmth: float,
    jump: float,
    stalled: int,
    found: int,
    cells: Ints,
    colours: Ints,
    added: Ints,
    places: Ints,
    single: Masks,
    keys: Ints,
    state: Ints,
    need: Doubles,
    numbers: Doubles,
    table: Ints,
    numbered: Ints,
    rows: Doubles,
    count: int,
    tally: Doubles,
    noise: np.float32,
    learning: Any,
) -> tuple[int, int, int]:
    """Take in the answers to swaps, and go on from the best of them where it is good enough.

    Args:
        margins: (N,) answers. scores, label, classes: see `note`. aim: which of the rivals counts; -1 for `margins`.
        warmth, jump: how much worse a swap may be, in units of the beliefs' scale, and a draw to multiply it. stalled: turns without progress.
        found, cells, colours, added (2, ...), places, single, keys: what `propose_swaps` wrote.
        state: (2, k) cells and colours of the state, changed in place. need: (k,) and so is this.
        numbers: margin of the state, and the lowest so far; changed in place.
        table, numbered, rows, count: see `note`. tally: see `Beliefs`. noise, learning: see `learn`.

    Returns:
        How many states were new, the first that flips or -1, and the turns without progress.
    """
    told = np.empty((found if aim >= 0 else 0, len(classes)))
    new = search_kernels.note(table, numbered, rows, count, keys[:found], margins, scores, label, classes, told)
    weighed, flip, place = np.empty(found), -1, 0
    for row in range(found):
        weighed[row] = margins[row]
        if margins[row] < 0:
            flip = row if flip < 0 else flip
        elif aim >= 0:
            weighed[row] = told[row, aim]
        if weighed[row] < weighed[place]:
            place = row
    some = 0
    new_cells, new_colours, drops = np.empty(found, np.int64), np.empty(found, np.int64), np.empty(found)
    for row in range(found):
        if single[row]:
            new_cells[some], new_colours[some] = added[0, row], added[1, row]
            drops[some] = numbers[0] - weighed[row] + need[places[row]]
            some += 1
    learn(new_cells[:some], new_colours[:some], drops[:some], noise, tally, learning)
    if weighed[place] <= numbers[0] + warmth * search_kernels.scale_of(tally) * jump:
        left = need[places[place]] + numbers[0] - weighed[place]
        need[places[place]] = 0.0 if left < 0 else left
        state[0], state[1] = cells[place], colours[place]
        numbers[0] = weighed[place]
    if numbers[0] < numbers[1]:
        stalled, numbers[1] = 0, numbers[0]
    return new, flip, stalled


@compiled
def best_singles(
    words: Words,
    rest: Words,
    pool: Floats,
    optimism: float,
    mean: Floats,
    deviation: Floats,
    tally: Doubles,
    but: Masks,
    count: int,
    never: np.float32,
) -> tuple[int, int, Ints, Ints]:
    """`Beliefs.drawn` and `Beliefs.top`: how many were found or `TIES`, where the noise begins, cells and colours."""
    start, scores = search_swap_kernels.fresh_scores(words, rest, pool, optimism, mean, deviation, tally)
    for kind in range(scores.shape[0]):
        row, masked = scores[kind], but[kind]
        for cell in range(scores.shape[1]):
            row[cell] = never if masked[cell] else row[cell]
    found, cells, colours = search_ranking.top(scores, count, np.empty(0, np.int64), never)
    return found, start, cells, colours


@compiled
def tune(
    cells: Ints,
    colours: Ints,
    drops: Doubles,
    energy: Doubles,
    expected: Doubles,
    phase: Any,
    before: Floats,
    after: Floats,
    deviation: Floats,
    size: Floats,
    tuned: Floats,
) -> None:
    """`Beliefs.tune`: changes energy, expected and deviation, writes the factors to `after` and the sizes to `tuned`."""
    count, kinds = len(cells), len(energy)
    squares, told, foreseen = np.empty(count, np.float32), np.zeros(kinds), np.zeros(kinds)
    for row in range(count):
        own = phase[cells[row]]
        part = size[colours[row], cells[row]] / before[own]
        squares[row] = part * part
        told[own] += drops[row] * drops[row]
        foreseen[own] += np.float64(squares[row])
    for place in range(kinds):
        energy[place] += told[place]
        expected[place] += foreseen[place]
    mean = summed(energy) / summed(expected)
    some = np.float64(np.float32(4) * (summed(squares) / np.float32(count)))
    change = np.empty(kinds, np.float32)
    for place in range(kinds):
        share = (energy[place] + some * mean) / ((expected[place] + some) * mean + 1e-30)
        after[place] = np.float32(math.sqrt(min(max(share, 0.01), 4.0)))
        change[place] = after[place] / before[place]
    for kind in range(size.shape[0]):
        deviations, sizes, news = deviation[kind], size[kind], tuned[kind]
        for cell in range(size.shape[1]):
            by = change[phase[cell]]
            deviations[cell] = deviations[cell] * by
            news[cell] = sizes[cell] * by


@compiled
def borrow_of_one(
    mean: Floats,
    deviation: Floats,
    size: Floats,
    told: Doubles,
    heard: Doubles,
    region_prior: float,
    colour_prior: float,
) -> None:
    """`Beliefs.borrow` where the whole image is one region; told and heard (V, 1)."""
    whole = summed(told[:, 0].copy()) / (summed(heard[:, 0].copy()) + region_prior)
    for kind in range(mean.shape[0]):
        by_colour = told[kind, 0] / (heard[kind, 0] + colour_prior)
        common = (told[kind, 0] + region_prior * (whole + by_colour)) / (heard[kind, 0] + region_prior)
        means, deviations, sizes = mean[kind], deviation[kind], size[kind]
        for cell in range(mean.shape[1]):
            ratio = deviations[cell] / max(sizes[cell], np.float32(1e-9))
            means[cell] += np.float32(np.float64(ratio * ratio * sizes[cell]) * common)
    told[:] = 0


@compiled
def summed_in_halves(values: Doubles) -> np.float64:
    """`np.add.reduce` of any number of them."""
    if len(values) <= 128:
        return np.float64(summed(values))
    half = len(values) // 2
    half -= half % 8
    return np.float64(summed_in_halves(values[:half]) + summed_in_halves(values[half:]))


@compiled
def borrow(
    mean: Floats,
    deviation: Floats,
    size: Floats,
    told: Doubles,
    heard: Doubles,
    region: NDArray[np.int32],
    region_prior: float,
    colour_prior: float,
) -> None:
    """`Beliefs.borrow`; told and heard (V, R)."""
    kinds, regions = told.shape
    if regions == 1:
        borrow_of_one(mean, deviation, size, told, heard, region_prior, colour_prior)
        return
    whole, weight = told[0].copy(), heard[0].copy()
    for kind in range(1, kinds):
        for place in range(regions):
            whole[place] += told[kind, place]
            weight[place] += heard[kind, place]
    common = np.empty((kinds, regions))
    for kind in range(kinds):
        by_colour = summed_in_halves(told[kind]) / (summed_in_halves(heard[kind]) + colour_prior)
        for place in range(regions):
            overall = whole[place] / (weight[place] + region_prior) + by_colour
            common[kind, place] = (told[kind, place] + region_prior * overall) / (heard[kind, place] + region_prior)
    search_kernels.spread(mean, deviation, size, common, region)
    told[:] = 0


@compiled
def learn_in_turn(
    bounds: Ints,
    cells: Ints,
    colours: Ints,
    drops: Doubles,
    noise: np.float32,
    tally: Doubles,
    learning: Any,
    region_prior: float,
    colour_prior: float,
) -> None:
    """`Beliefs.learn_in_turn`; the batches' edits are those from one of the bounds to the next."""
    mean, deviation, size = learning[0], learning[1], learning[2]
    told, heard, region = learning[13], learning[14], learning[15]
    for part in range(len(bounds) - 1):
        own = slice(bounds[part], bounds[part + 1])
        learn(cells[own], colours[own], drops[own], noise, tally, learning)
        borrow(mean, deviation, size, told, heard, region, region_prior, colour_prior)


@compiled
def climbs(
    words: Words,
    rest: Words,
    pool: Floats,
    optimism: float,
    mean: Floats,
    deviation: Floats,
    tally: Doubles,
    count: int,
    leaps: Ints,
    next_to: float,
    around: Ints,
    limits: Floats,
    state_cells: Ints,
    state_colours: Ints,
) -> tuple[int, int, int, int, Ints, Ints, Ints, Ints, Ints]:
    """`search_moves.climbing_moves` with the same draws in the same order.

    Args:
        words to tally: see `propose_swaps`. count: states at most. leaps: how many edits are added at once, in rising order.
        next_to: share of edits put next to one of the state's. around, limits: see `propose_swaps`.

    Returns:
        How many edits were found, 0 or `TIES`; where the noise begins, all that was drawn in these cases; how many states
        add one of them, and how many several; cells, colours, offsets of these states; cells and colours of the single edits.
    """
    size = len(state_cells)
    start, scores = search_swap_kernels.fresh_scores(words, rest, pool, optimism, mean, deviation, tally)
    found, best_cells, best_colours, highest = search_ranking.ranked(scores, leaps[-1], state_cells, limits[3])
    if found <= 0:
        return found, start, 0, 0, best_cells, best_cells, best_cells, best_cells, best_cells
    several = 0
    while several < len(leaps) and leaps[several] <= found:
        several += 1
    ones = min(count - several, found)
    cells, colours = best_cells[:ones].copy(), best_colours[:ones].copy()
    beside = int(ones * next_to) if size else 0
    anchors = np.empty(beside, np.int64)
    for row in range(beside):
        anchors[row] = state_cells[draws.below(words, rest, size)]
    for row in range(beside):
        search_swap_kernels.put_near(
            words, rest, scores, highest, anchors[row], around, limits, ones - beside + row, cells, colours
        )
    offsets = np.empty(ones + several + 1, np.int64)
    offsets[0] = 0
    for row in range(ones + several):
        offsets[row + 1] = offsets[row] + size + (1 if row < ones else leaps[row - ones])
    all_cells, all_colours = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int64)
    for row in range(ones + several):
        first = offsets[row]
        for place in range(size):
            all_cells[first + place], all_colours[first + place] = state_cells[place], state_colours[place]
        first += size
        if row < ones:
            all_cells[first], all_colours[first] = cells[row], colours[row]
        else:
            for place in range(leaps[row - ones]):
                all_cells[first + place], all_colours[first + place] = best_cells[place], best_colours[place]
    return found, start, ones, several, all_cells, all_colours, offsets, cells, colours


@compiled
def without_each(cells: Ints, colours: Ints) -> tuple[Ints, Ints]:
    """`search_states.without_each`: (k, k - 1) cells and colours."""
    size = len(cells)
    less_cells, less_colours = np.empty((size, size - 1), np.int64), np.empty((size, size - 1), np.int64)
    for row in range(size):
        for place in range(size - 1):
            other = place if place < row else place + 1
            less_cells[row, place], less_colours[row, place] = cells[other], colours[other]
    return less_cells, less_colours


@compiled
def prefixes(cells: Ints, colours: Ints, sizes: Ints) -> tuple[Ints, Ints, Ints]:
    """`search_states.prefixes`: cells, colours and offsets; sizes: in rising order."""
    whole = len(cells)
    count = np.searchsorted(sizes, whole)
    offsets = np.zeros(count + 2, np.int64)
    for row in range(count + 1):
        offsets[row + 1] = offsets[row] + (sizes[row] if row < count else whole)
    all_cells, all_colours = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int64)
    for row in range(count + 1):
        for place in range(offsets[row + 1] - offsets[row]):
            all_cells[offsets[row] + place], all_colours[offsets[row] + place] = cells[place], colours[place]
    return all_cells, all_colours, offsets


@compiled
def without_parts(cells: Ints, colours: Ints, order: Ints, group: int) -> tuple[Ints, Ints, Ints]:
    """`search_states.without_parts`: cells, colours and offsets."""
    size = len(cells)
    part_of = np.empty(size, np.int64)
    for rank in range(size):
        part_of[order[rank]] = rank // group
    parts = (size + group - 1) // group
    offsets = np.zeros(parts + 1, np.int64)
    left_cells, left_colours = np.empty(parts * size, np.int64), np.empty(parts * size, np.int64)
    edit = 0
    for part in range(parts):
        for place in range(size):
            if part_of[place] != part:
                left_cells[edit], left_colours[edit] = cells[place], colours[place]
                edit += 1
        offsets[part + 1] = edit
    return left_cells[:edit], left_colours[:edit], offsets
