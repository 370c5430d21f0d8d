"""The best of many single edits, compiled: a few times in each turn of the search all of them are looked through."""

from __future__ import annotations

import numpy as np

from robustest.attack.search_kernels import Floats, Ints
from robustest.compiled import compiled

_NONE = np.float32(0)
_LOW, _REST = np.int64(0xFFFFFFFF), np.int32(0x7FFFFFFF)  # of 64 bits, and of 32 but the sign


@compiled
def top(scores: Floats, count: int, avoid: Ints, never: np.float32) -> tuple[int, Ints, Ints]:
    """`Beliefs.top`: how many were found, their cells and colours; -1 found where some are equal.

    Args:
        scores: (V, cells), `never` written at the cells to avoid. count: wanted, at least 1, and few.
        never: a cell whose best score is no more than half of it is not chosen.
    """
    found, cells, colours, _ = ranked(scores, count, avoid, never)
    return found, cells, colours


@compiled
def ranked(scores: Floats, count: int, avoid: Ints, never: np.float32) -> tuple[int, Ints, Ints, Floats]:
    """As `top`, and (cells,) the best score of each."""
    kinds, width = scores.shape
    for kind in range(kinds):
        for cell in avoid:
            scores[kind, cell] = never
    highest = np.empty(width, np.float32)
    # One number for a score and its cell, ordered like the scores: a float's bits are, but for the sign. + 0 makes -0 to 0.
    for cell in range(width):
        highest[cell] = scores[0, cell] + _NONE
    for kind in range(1, kinds):
        row = scores[kind]
        for cell in range(width):
            highest[cell] = max(highest[cell], row[cell] + _NONE)
    bits = highest.view(np.int32)
    least = np.empty(1, np.float32)
    least[0] = never / 2
    floor = (np.int64(least.view(np.int32)[0] ^ _REST) << 32) | _LOW
    best = np.full(count + 1, floor)
    enough = _enough(highest, count + 1, never)
    for cell in range(width):
        if highest[cell] < enough:
            continue
        order = np.int64(bits[cell]) if bits[cell] >= 0 else np.int64(bits[cell] ^ _REST)
        packed = (order << 32) | cell
        if packed <= best[count]:
            continue
        place = count
        while place > 0 and best[place - 1] < packed:
            best[place] = best[place - 1]
            place -= 1
        best[place] = packed
    found = 0
    while found <= count and best[found] > floor:
        found += 1
    cells = best[:count] & _LOW
    colours = np.empty(count, np.int64)
    for place in range(found - 1):
        if best[place] >> 32 == best[place + 1] >> 32:
            return -1, cells, colours, highest
    found = min(found, count)
    for place in range(found):
        colour = 0
        for kind in range(1, kinds):
            if scores[kind, cells[place]] > scores[colour, cells[place]]:
                colour = kind
        colours[place] = colour
    return found, cells, colours, highest


@compiled
def _enough(values: Floats, wanted: int, never: np.float32) -> np.float32:
    """A number that at least so many of the values reach: the least of as many maxima, each of a part of the values."""
    parts = wanted + 47  # neighbours, which are high together, are in different parts
    if len(values) < 2 * parts:
        return never
    highest = values[:parts].copy()
    for first in range(parts, len(values), parts):
        row = values[first : first + parts]
        for place in range(len(row)):
            highest[place] = max(highest[place], row[place])
    higher = np.zeros(parts, np.int32)  # how many are higher than each; of one against all, in a row
    for place in range(parts):
        for other in range(parts):
            higher[other] += np.int32(highest[place] > highest[other])
    least: np.float32 = highest[0]
    found = False
    for place in range(parts):
        if higher[place] < wanted and (not found or highest[place] < least):
            least, found = highest[place], True
    return least


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
