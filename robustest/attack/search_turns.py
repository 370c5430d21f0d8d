"""The few-pixel search's most frequent turns with compiled code: `search` says what they do, this does the same sooner.

A turn is two calls, one that learns of the answers and one that finds what to ask next, in arrays that last from turn to
turn. Questions, draws and beliefs are those of the plain code, bit for bit.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robustest.attack import search_swap_kernels, search_turn_kernels
from robustest.attack.search_asked import NOTHING, Asked
from robustest.attack.search_beliefs import FEW, Beliefs
from robustest.attack.search_moves import LIMITS, SHARES, Ahead, Found, fresh_swaps
from robustest.attack.search_states import State
from robustest.attack.search_tuning import Tuning
from robustest.attack.task import Notes
from robustest.compiled import fast
from robustest.results import Edits, Margins

Playing = Generator[Edits, Margins, None]


class Player(Protocol):
    """What the turns need of the search that makes them."""

    beliefs: Beliefs
    rng: np.random.Generator
    tuning: Tuning
    asked: Asked
    best: State | None
    left: int
    aim: int
    notes: Notes

    @property
    def stop(self) -> int:
        """Queries left at which no smaller state is looked for."""

    def needs(self, state: State, margin: float) -> Generator[Edits, Margins, Margins]:
        """How much each edit of a state holds the margin down."""


def ready(player: Player, state: State) -> bool:
    """True where `turns` can be used: with compiled code, for a state of several edits, that draws from PCG64."""
    return fast() and len(state) > 1 and player.beliefs.words is not None and 2 * player.tuning.batch <= FEW


def turns(player: Player, current: State, margin: float, need: Margins) -> Playing:
    """Swap edits of a state until it flips, or nothing has come of it for long."""
    beliefs, tuning, rng, asked = player.beliefs, player.tuning, player.rng, player.asked
    size, channels = len(current), beliefs.palette.base.shape[1]
    found = Found(2 * tuning.batch, size)
    state, need = np.stack([current.cells, current.colours]), need.copy()
    numbers, likely = np.array([margin, margin]), np.empty(size)
    learning, places = beliefs.learning(), (beliefs.pixel_of_cell, beliefs.palette.colours)
    drawing = (*_words(beliefs), beliefs.pool, tuning.optimism, beliefs.mean, beliefs.deviation, beliefs.tally)
    around = (beliefs.grid.around, beliefs.grid.steps, beliefs.across, beliefs.allowed, SHARES, LIMITS)
    noise, stalled, stop = np.float32(tuning.context), 0, player.stop
    search_turn_kernels.reluctance(need, beliefs.tally, stalled, likely)
    while player.left > stop and numbers[0] >= 0 and stalled < tuning.despair:
        np.exp(likely, out=likely)
        most = min(tuning.batch, player.left - stop)
        table = asked.table(most)
        count, start = search_swap_kernels.propose_swaps(
            *drawing, found.count, state, likely, *around, table[0], most, *found.arrays
        )
        if count < 0:
            softness = beliefs.scale / 2 * max(1, stalled / 4) + 1e-9
            ahead = Ahead(State(*state), need, softness)
            count = found.fill(
                fresh_swaps(
                    ahead, beliefs, asked, optimism=tuning.optimism, count=found.count, most=most, rng=rng, start=start
                ),
                asked,
            )
        stalled += 1
        if not count:
            search_turn_kernels.reluctance(need, beliefs.tally, stalled, likely)
            continue
        pixels, values = np.empty((count, size), np.int64), np.empty((count, size, channels), np.float32)
        search_turn_kernels.gathered(*places, count, found.cells, found.colours, pixels, values)
        margins = yield Edits(pixels.reshape(-1), values.reshape(-1, channels), found.offsets[: count + 1])
        scores = player.notes.scores
        new, flip, stalled = search_turn_kernels.heed_swaps(
            margins,
            NOTHING if scores is None else scores,
            asked.label,
            asked.classes,
            player.aim,
            tuning.warmth,
            rng.exponential(),
            stalled,
            count,
            *found.arrays,
            state,
            need,
            numbers,
            likely,
            *table,
            len(asked),
            beliefs.tally,
            noise,
            learning,
        )
        asked.grew(new)
        player.left -= max(new, -(-count // 4))
        if flip >= 0 and (player.best is None or size < len(player.best)):
            player.best = State(found.cells[flip].copy(), found.colours[flip].copy())
        if stalled % tuning.patience == tuning.patience - 1:
            need = yield from player.needs(State(*state.copy()), float(numbers[0]))
            beliefs.forget(0.7)
            beliefs.borrow()
            search_turn_kernels.reluctance(need, beliefs.tally, stalled, likely)
            stop = player.stop


def _words(beliefs: Beliefs) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    assert beliefs.words is not None
    return beliefs.words
