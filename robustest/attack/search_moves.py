"""Player II's moves in the few-pixel search: which states to ask about next, given one and what is believed.

Knows nothing of classifiers or budgets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.attack.search_beliefs import Beliefs, Floats
from robustest.attack.search_states import Batch, Ints, State

_LEAPS = (2, 4, 8, 16, 32)  # edits added at once, to see how near the end is
_NEXT_TO_STATE = 0.25  # share of added edits that are put next to one of the state's
_MOVING, _JOINING = (
    0.6,
    0.4,
)  # share of swaps that move a pixel to its own neighbour, or next to another pixel of the state
_DOUBLE = 0.15  # share of swaps that exchange two pixels
_THINNING = 0.3  # share of neighbours that are looked at, so that the same one is not always found
_WORST = np.float32(-1e20)


@dataclass(frozen=True, slots=True)
class Ahead:
    """A state to be changed by swaps.

    state: of k edits. need: (k,) how much each of them holds the margin down.
    softness: difference in need that makes an edit e times less likely to leave, > 0.
    useless: (V, cells) edits not to bring in; None for any. Then they come from anywhere, not from near by.
    """

    state: State
    need: NDArray[np.float64]
    softness: float
    useless: NDArray[np.bool_] | None = None


def climbing_moves(
    state: State, beliefs: Beliefs, *, optimism: float, count: int, rng: np.random.Generator
) -> tuple[Batch, State, Ints] | None:
    """States with more edits than `state`: one more each, and then leaps of several.

    Returns:
        batch: at most `count` states. added: the single edits of the first of them.
        sizes: how many edits each state adds. None where no edit is left.
    """
    scores = beliefs.drawn(optimism)
    ranked = State(*beliefs.top(scores, _LEAPS[-1], avoid=state.cells))
    if not len(ranked):
        return None
    leaps = [size for size in _LEAPS if size <= len(ranked)]
    single = ranked.keep(np.arange(min(count - len(leaps), len(ranked))))
    if len(state):
        anchors = state.cells[rng.integers(len(state), size=int(len(single) * _NEXT_TO_STATE))]
        rows, cells, colours = _near(scores, anchors, beliefs, rng)
        places = len(single) - len(anchors) + rows
        single.cells[places], single.colours[places] = cells, colours
    added = np.arange(len(single))
    states = [state.plus(single.keep(added[row : row + 1])) for row in added]
    states += [state.plus(ranked.keep(np.arange(size))) for size in leaps]
    return Batch.of(states), single, np.array([1] * len(single) + leaps)


def swapping_moves(
    ahead: Ahead, beliefs: Beliefs, *, optimism: float, count: int, rng: np.random.Generator
) -> tuple[Batch, State, Ints]:
    """States that differ from a state in one edit, some in two.

    Returns:
        batch: at most `count` states. added: the edit that each brings in first. places: whose place it takes.
    """
    state, size = ahead.state, len(ahead.state)
    scores = beliefs.drawn(optimism, but=ahead.useless)
    ranked = State(*beliefs.top(scores, count + count // 2, avoid=state.cells))
    count = min(count, len(ranked))
    added, spare = ranked.keep(np.arange(count)), ranked.keep(np.arange(count, len(ranked)))
    weight = np.cumsum(np.exp((ahead.need.min() - ahead.need) / ahead.softness))
    places = np.minimum(np.searchsorted(weight, rng.random(count) * weight[-1], side="right"), size - 1)
    kind = rng.random(count)
    anchors = rng.integers(size, size=count)
    moving = kind < _MOVING
    places[moving] = anchors[moving]
    local = np.flatnonzero(kind < (_MOVING + _JOINING if ahead.useless is None else 0))
    rows, cells, colours = _near(scores, state.cells[anchors[local]], beliefs, rng)
    added.cells[local[rows]], added.colours[local[rows]] = cells, colours
    new_cells, new_colours = state.cells[None].repeat(count, 0), state.colours[None].repeat(count, 0)
    new_cells[np.arange(count), places] = added.cells
    new_colours[np.arange(count), places] = added.colours
    if size > 2 and len(spare):
        twice = np.flatnonzero(rng.random(count) < _DOUBLE)[: len(spare)]
        seconds = spare.keep(np.arange(len(twice)))
        fresh = seconds.cells != added.cells[twice]
        twice, seconds = twice[fresh], seconds.keep(fresh)
        second_places = (places[twice] + 1 + rng.integers(size - 1, size=len(twice))) % size
        new_cells[twice, second_places] = seconds.cells
        new_colours[twice, second_places] = seconds.colours
    return Batch.square(new_cells, new_colours), added, places


def _near(scores: Floats, anchors: Ints, beliefs: Beliefs, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """A good edit next to each of the cells where there is one: (rows, cells, colours)."""
    around = beliefs.neighbours(anchors)
    seen = rng.random(around.shape, dtype=np.float32) < _THINNING
    drawn = np.where(seen, scores[:, around], -np.inf)
    best = drawn.max(axis=0)
    pick = best.argmax(axis=1)
    rows = np.flatnonzero(best[np.arange(len(anchors)), pick] > _WORST)
    return rows, around[rows, pick[rows]], drawn[:, rows, pick[rows]].argmax(axis=0)
