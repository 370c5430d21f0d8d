"""States built edit by edit with compiled code, for many games at once.

`search` says what such a turn does, this does the same sooner: questions, draws and beliefs are those of the plain code.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robustest.attack import search_climb_desks
from robustest.attack import search_desks as desks
from robustest.attack.addresses import address_of
from robustest.attack.search_asked import NOTHING
from robustest.attack.search_moves import LEAPS, LIMITS, NEXT_TO_STATE, climbing_moves
from robustest.attack.search_palette import SEEN
from robustest.attack.search_states import State
from robustest.attack.search_turns import Desk, Ints, Swapper
from robustest.attack.task import Question
from robustest.results import Margins

_POWERS = np.concatenate([np.ones(1, np.int64), LEAPS]) ** 0.7
_HIGHEST = int(LEAPS[-1])


class Climber(Swapper, Protocol):
    """What the turns need of the search that makes them."""

    alone: NDArray[np.bool_]


def turns(
    player: Climber, margin: float, *, tallest: int, half: int, tiring: int
) -> Generator[Question, Margins, tuple[State, float] | None]:
    """Build a state edit by edit, until it is as large as the best.

    Args:
        margin: of the unchanged image. tallest: no larger. half: queries left at which to stop.
        tiring: questions in a row that change nothing, after which it is given up.

    Returns:
        What it built and its margin; None where it was given up, or a leap ahead of it flips.
    """
    climbing: ClimbTurns | None = None
    size = 0
    while True:
        stop = max(player.stop, half)
        limit = tallest if player.best is None else min(tallest, len(player.best))
        if player.left <= stop or size + 1 >= limit:
            return (State.empty(), margin) if climbing is None else climbing.reached
        if climbing is None:
            climbing = ClimbTurns(player, margin, limit, tiring)
        climbing.desk[desks.LIMIT] = limit
        climbing.desk[desks.BEST] = sys.maxsize if player.best is None else len(player.best)
        climbing.take_up(stop)
        yield climbing
        climbing.hand_back()
        if climbing.desk[desks.NEXT] == desks.OVER:
            return None
        size = int(climbing.desk[desks.HEIGHT])


class ClimbTurns(Desk):
    """One game's state that grows, in compiled code with those of other games.

    Args:
        player: whose it is. margin: of the unchanged image. limit: edits that it stays below. tiring: see `turns`.
    """

    def __init__(self, player: Climber, margin: float, limit: int, tiring: int) -> None:
        super().__init__(player, limit + _HIGHEST)
        self.numbers[0] = margin
        self.climber, self.tiring = player, tiring
        self.bounds = np.zeros(player.tuning.batch + 1, np.int64)
        self.desk[desks.BOUNDS] = address_of(self.bounds)

    @property
    def reached(self) -> tuple[State, float]:
        """The state that was built, and its margin."""
        return State(*self.state[:, : self.desk[desks.HEIGHT]].copy()), float(self.numbers[0])

    def found_at(self, place: int) -> State:
        """One of the states that were asked about."""
        own = slice(self.bounds[place], self.bounds[place + 1])
        end = int(own.stop)
        return State(self.part(desks.SWAPS, end)[own].copy(), self.part(desks.SHADES, end)[own].copy())

    def _settle(self, following: int) -> int:
        """What compiled code cannot do: make room in a table, or put equal scores in order. How many states were found."""
        if following == desks.CROWDED:
            self.count_asked()
            self.make_room()
            return int(ClimbTurns.propose([self], np.array([self.seat]))[0])
        player, start = self.player, int(self.desk[desks.START])
        state, optimism = self.reached[0], player.tuning.optimism
        moves = climbing_moves(
            state, self.beliefs, optimism=optimism, count=player.tuning.batch, rng=player.rng, start=start
        )
        if moves is None:
            self.desk[desks.NEXT] = desks.OVER
            return 0
        batch, added, _ = moves
        count, edits, ones = len(batch), len(batch.cells), len(added)
        self.bounds[: count + 1] = batch.offsets
        self.part(desks.SWAPS, edits)[:], self.part(desks.SHADES, edits)[:] = batch.cells, batch.colours
        self.found.added[:, :ones] = added.cells, added.colours
        self.desk[desks.FOUND], self.desk[desks.ONES] = count, ones
        return count

    @staticmethod
    def propose(turns: Sequence[ClimbTurns], seats: Ints) -> Ints:
        """Find what each asks next; (G,) how many states, 0 where no edit is left."""
        optimism = turns[0].player.tuning.optimism
        found, following = search_climb_desks.propose(seats, optimism, LEAPS, NEXT_TO_STATE, LIMITS)
        if np.logical_and.reduce(found):
            return np.asarray(found, np.int64)
        for place in np.flatnonzero((found == 0) & (following != desks.OVER)).tolist():
            found[place] = turns[place]._settle(following[place])
        return np.asarray(found, np.int64)

    @staticmethod
    def heed(
        turns: Sequence[ClimbTurns], seats: Ints, margins: Margins, starts: Ints, scores: NDArray[np.float64] | None
    ) -> NDArray[np.bool_]:
        """Take in the answers; (G,) which of them go on.

        Args:
            margins: (N,) of which each game's begin at `starts` (G,). scores: (N, K), see `Notes.scores`.
        """
        following = search_climb_desks.heed(
            seats,
            margins,
            starts,
            NOTHING if scores is None else scores,
            LEAPS,
            _POWERS,
            np.float32(turns[0].player.tuning.context),
            SEEN,
            turns[0].beliefs.floor,
            turns[0].tiring,
        )
        return np.equal(following, desks.SWAP)
