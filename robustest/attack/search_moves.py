"""Player II's moves in the few-pixel search: which states to ask about next, given one and what is believed.

Knows nothing of classifiers or budgets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.attack import search_kernels, search_ranking, search_swap_kernels, search_turn_kernels
from robustest.attack.search_asked import Asked
from robustest.attack.search_beliefs import FEW, NEVER, Beliefs, Floats
from robustest.attack.search_states import Batch, Ints, State, with_each
from robustest.compiled import fast

LEAPS = np.array([2, 4, 8, 16, 32])  # edits added at once, to see how near the end is
_ONES = np.ones(64, np.int64)
NEXT_TO_STATE = 0.25  # share of added edits that are put next to one of the state's
# Shares of swaps that move an edit to a neighbour of its own, put one next to another edit of the state, move a group of
# neighbouring edits together, or give an edit another colour; the others bring in what is believed best anywhere.
_MOVING, _JOINING, _SHIFTING, _RECOLOURING = 0.45, 0.3, 0.15, 0.1
_SHADES = np.float32(0.5)  # share of the other colours that are looked at
_THINNING = np.float32(0.3)  # share of neighbours that are looked at, so that the same one is not always found
_WORST = np.float32(-1e20)
SHARES = np.array([_MOVING, _MOVING + _JOINING, _MOVING + _JOINING + _SHIFTING, _RECOLOURING])
LIMITS = np.array([_THINNING, _SHADES, _WORST, NEVER], np.float32)


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
    state: State,
    beliefs: Beliefs,
    *,
    optimism: float,
    count: int,
    rng: np.random.Generator,
    start: int | None = None,
) -> tuple[Batch, State, Ints] | None:
    """States with more edits than `state`: one more each, and then leaps of several.

    Args:
        start: see `Beliefs.noise`.

    Returns:
        batch: at most `count` states. added: the single edits of the first of them.
        sizes: how many edits each state adds. None where no edit is left.
    """
    if start is None and fast() and beliefs.words is not None and rng is beliefs.rng:
        found, start, ones, several, *arrays = search_turn_kernels.climbs(
            *beliefs.words,
            beliefs.pool,
            optimism,
            beliefs.mean,
            beliefs.deviation,
            beliefs.tally,
            count,
            LEAPS,
            NEXT_TO_STATE,
            beliefs.grid.around,
            LIMITS,
            state.cells,
            state.colours,
        )
        if found == 0:
            return None
        if found != search_turn_kernels.TIES:
            cells, colours, offsets, *added = arrays
            return Batch(cells, colours, offsets), State(*added), np.concatenate([_ONES[:ones], LEAPS[:several]])
    scores = beliefs.bounds(*beliefs.noise(optimism, start=start))
    ranked = State(*beliefs.top(scores, int(LEAPS[-1]), avoid=state.cells))
    if not len(ranked):
        return None
    leaps = [size for size in LEAPS.tolist() if size <= len(ranked)]
    single = ranked.keep(np.arange(min(count - len(leaps), len(ranked))))
    if len(state):
        anchors = state.cells[rng.integers(len(state), size=int(len(single) * NEXT_TO_STATE))]
        rows, near_cells, near_colours = _near(scores, anchors, beliefs, rng)
        places = len(single) - len(anchors) + rows
        single.cells[places], single.colours[places] = near_cells, near_colours
    batch = with_each(state, single, [ranked.keep(np.arange(size)) for size in leaps])
    return batch, single, np.array([1] * len(single) + leaps)


def growing_edits(state: State, beliefs: Beliefs, *, optimism: float, count: int, rng: np.random.Generator) -> State:
    """At most `count` edits that the state does not hold: the best anywhere by a drawn upper bound, some next to its own."""
    scores = beliefs.bounds(*beliefs.noise(optimism))
    ranked = State(*beliefs.top(scores, count, avoid=state.cells))
    near = int(len(ranked) * NEXT_TO_STATE) if len(state) else 0
    if near:
        anchors = state.cells[rng.integers(len(state), size=near)]
        rows, cells, colours = _near(scores, anchors, beliefs, rng)
        taken = np.concatenate([ranked.cells, state.cells])
        fresh = ~(cells[:, None] == taken).any(axis=1)  # sooner than `isin` of so few
        rows, cells, colours = rows[fresh], cells[fresh], colours[fresh]
        _, first = np.unique(cells, return_index=True)
        places = len(ranked) - near + rows[first]
        ranked.cells[places], ranked.colours[places] = cells[first], colours[first]
    return ranked


@dataclass(frozen=True, slots=True)
class Swaps:
    """N states that differ from a state of k edits in one edit, or in a group of edits that moved together.

    cells, colours: (N, k) of the states. added: (N,) the edit that each brings in. places: (N,) whose place it takes.
    single: (N,) True where nothing else differs.
    """

    cells: Ints
    colours: Ints
    added: State
    places: Ints
    single: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def batch(self) -> Batch:
        """The states."""
        return Batch.square(self.cells, self.colours)

    def keep(self, rows: Ints) -> Swaps:
        """These alone."""
        return Swaps(self.cells[rows], self.colours[rows], self.added.keep(rows), self.places[rows], self.single[rows])

    def plus(self, more: Swaps) -> Swaps:
        """With more swaps of the same state behind them."""
        return Swaps(
            np.concatenate([self.cells, more.cells]),
            np.concatenate([self.colours, more.colours]),
            self.added.plus(more.added),
            np.concatenate([self.places, more.places]),
            np.concatenate([self.single, more.single]),
        )


class Found:
    """The states that compiled code found, in arrays for at most so many of so many edits; see `propose_swaps`."""

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.cells: Ints = np.empty((count, size), np.int64)
        self.colours: Ints = np.empty((count, size), np.int64)
        self.added: Ints = np.empty((2, count), np.int64)
        self.places: Ints = np.empty(count, np.int64)
        self.single: NDArray[np.bool_] = np.empty(count, np.bool_)
        self.keys: Ints = np.empty(count, np.int64)
        self.offsets: Ints = np.arange(count + 1) * size
        self.arrays = (self.cells, self.colours, self.added, self.places, self.single, self.keys)

    @staticmethod
    def on(cells: Ints, colours: Ints, added: Ints, places: Ints, single: NDArray[np.bool_], keys: Ints) -> Found:
        """In given arrays."""
        found = Found(0, 0)
        found.count, found.arrays = len(cells), (cells, colours, added, places, single, keys)
        found.cells, found.colours, found.added, found.places, found.single, found.keys = found.arrays
        return found

    def swaps(self, count: int) -> Swaps:
        """The first so many, in arrays of their own."""
        added = State(self.added[0, :count].copy(), self.added[1, :count].copy())
        cells, colours = self.cells[:count].copy(), self.colours[:count].copy()
        return Swaps(cells, colours, added, self.places[:count].copy(), self.single[:count].copy())

    def fill(self, swaps: Swaps | None, asked: Asked) -> int:
        """Take over what numpy found; returns how many states."""
        if swaps is None:
            return 0
        batch, count = swaps.batch, len(swaps)
        self.cells[:count], self.colours[:count] = swaps.cells, swaps.colours
        self.added[:, :count] = swaps.added.cells, swaps.added.colours
        self.places[:count], self.single[:count] = swaps.places, swaps.single
        self.keys[:count] = search_kernels.state_keys(asked.width, batch.cells, batch.colours, batch.offsets)
        return count


def fresh_swaps(
    ahead: Ahead,
    beliefs: Beliefs,
    asked: Asked,
    *,
    optimism: float,
    count: int,
    most: int,
    attempts: int = 1,
    rng: np.random.Generator,
    start: int | None = None,
) -> Swaps | None:
    """Of at most `count` swaps of a state's edits the first `most` that were not asked about; None where there is none.

    Args:
        attempts: how often swaps are drawn, at most, until `most` are new. start: see `Beliefs.noise`.
    """
    weight = np.exp((np.minimum.reduce(ahead.need) - ahead.need) / ahead.softness)
    state = ahead.state
    if (
        start is None
        and fast()
        and beliefs.words is not None
        and rng is beliefs.rng
        and ahead.useless is None
        and count <= FEW
    ):
        found = Found(count, len(state))
        drawing = (*beliefs.words, beliefs.pool, optimism, beliefs.mean, beliefs.deviation, beliefs.tally, count)
        around = (beliefs.grid.around, beliefs.grid.steps, beliefs.across, beliefs.allowed, SHARES, LIMITS)
        new, start = search_swap_kernels.propose_swaps(
            *drawing,
            np.stack([state.cells, state.colours]),
            weight,
            *around,
            asked.table()[0],
            most,
            attempts,
            *found.arrays,
        )
        if new != search_turn_kernels.TIES:
            return found.swaps(new) if new else None
    weight = weight.cumsum()
    noise, factor = beliefs.noise(optimism, start=start)
    scores = beliefs.bounds(noise, factor, but=ahead.useless)
    own = scores[:, state.cells]
    own[state.colours, np.arange(len(state))] = _WORST
    best = State(*beliefs.top(scores, count, avoid=state.cells))
    if not len(best):
        return None
    fresh, tries = _swaps(ahead, weight, scores, own, best, beliefs, rng=rng), 1
    fresh = fresh.keep(asked.fresh(fresh.batch)[:most])
    while len(fresh) < most and tries < attempts:
        fresh, tries = fresh.plus(_swaps(ahead, weight, scores, own, best, beliefs, rng=rng)), tries + 1
        fresh = fresh.keep(asked.fresh(fresh.batch)[:most])
    return fresh if len(fresh) else None


def _swaps(
    ahead: Ahead,
    weight: NDArray[np.float64],
    scores: Floats,
    own: Floats,
    best: State,
    beliefs: Beliefs,
    *,
    rng: np.random.Generator,
) -> Swaps:
    """One swap of a state's edits for each of the best edits, less those that cannot be made.

    Args:
        weight: (k,) cumulated, of each place to be left. scores: (V, cells) drawn bounds. own: (V, k) those at the state's
        cells, `_WORST` where it has that colour. best: the best N edits elsewhere, >= 1.
    """
    state, size, count = ahead.state, len(ahead.state), len(best)
    added = State(best.cells.copy(), best.colours.copy())
    everyone = np.arange(count)
    places = np.minimum(np.searchsorted(weight, rng.random(count) * weight[-1], side="right"), size - 1)
    cells, colours = state.cells[None].repeat(count, 0), state.colours[None].repeat(count, 0)
    if ahead.useless is not None:
        cells[everyone, places], colours[everyone, places] = added.cells, added.colours
        return Swaps(cells, colours, added, places, np.ones(count, bool))
    single = np.ones(count, bool)
    kind = rng.random(count)
    anchors = rng.integers(size, size=count)
    moving = kind < _MOVING
    places[moving] = anchors[moving]
    local = np.flatnonzero(kind < _MOVING + _JOINING)
    _bring_near(added, local, state.cells[anchors[local]], scores, beliefs, rng)
    if len(own) > 2:
        again = np.flatnonzero(rng.random(count) < _RECOLOURING)
        seen = rng.random((len(own), len(again)), dtype=np.float32) < _SHADES
        shades = np.where(seen, own[:, anchors[again]], -np.inf)
        again, shades = again[shades.max(axis=0) > _WORST], shades[:, shades.max(axis=0) > _WORST]
        places[again] = anchors[again]
        added.cells[again], added.colours[again] = state.cells[anchors[again]], shades.argmax(axis=0)
    cells[everyone, places], colours[everyone, places] = added.cells, added.colours
    if size > 1:
        shifted = np.flatnonzero((kind >= _MOVING + _JOINING) & (kind < _MOVING + _JOINING + _SHIFTING))
        steps = beliefs.grid.steps[rng.integers(len(beliefs.grid.steps), size=len(shifted))]
        group = beliefs.close(state.cells[anchors[shifted]], state.cells)
        cells[shifted], colours[shifted] = state.cells + np.where(group, steps[:, None], 0), state.colours
        single[shifted] = False
    swaps = Swaps(cells, colours, added, places, single)
    inside = beliefs.allowed[colours, cells].all(axis=1)
    ordered = np.sort(cells, axis=1)
    return swaps.keep(np.flatnonzero(inside & (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)))


def _bring_near(
    added: State, rows: Ints, anchors: Ints, scores: Floats, beliefs: Beliefs, rng: np.random.Generator
) -> None:
    """Put good edits next to the anchors in place of the edits in these rows of `added`, where there are such."""
    found, cells, colours = _near(scores, anchors, beliefs, rng)
    added.cells[rows[found]], added.colours[rows[found]] = cells, colours


def _near(scores: Floats, anchors: Ints, beliefs: Beliefs, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """A good edit next to each of the cells where there is one: (rows, cells, colours)."""
    draws = rng.random((len(anchors), len(beliefs.grid.around)), dtype=np.float32)
    if fast():
        found, near, cells, colours = search_ranking.near(
            scores, anchors, beliefs.grid.around, draws, _THINNING, _WORST
        )
        return near[:found], cells[:found], colours[:found]
    around = beliefs.neighbours(anchors)
    seen = draws < _THINNING
    drawn = np.where(seen, scores[:, around], -np.inf)
    best = drawn.max(axis=0)
    pick = best.argmax(axis=1)
    rows = np.flatnonzero(best[np.arange(len(anchors)), pick] > _WORST)
    return rows, around[rows, pick[rows]], drawn[:, rows, pick[rows]].argmax(axis=0)
