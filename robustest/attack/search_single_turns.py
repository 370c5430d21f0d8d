"""Single edits of the unchanged image, tried with compiled code for many games at once.

`search` says what such a turn does, this does the same sooner: questions, draws and beliefs are those of the plain code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robustest.attack import search_desks as desks
from robustest.attack import search_single_desks
from robustest.attack.search_asked import NOTHING
from robustest.attack.search_beliefs import COLOUR_PRIOR, NEVER, REGION_PRIOR
from robustest.attack.search_palette import SEEN
from robustest.attack.search_rivals import Rivals
from robustest.attack.search_turns import Desk, Ints, Playing, Swapper
from robustest.results import Margins


class Screener(Swapper, Protocol):
    """What the turns need of the search that makes them."""

    alone: NDArray[np.bool_]
    flats: int
    singles_left: bool
    boldness: float
    clean: float
    rivals: Rivals | None


def turns(player: Screener, stop: float, *, tiring: int | None) -> Playing:
    """Go on with single edits until no more than `stop` queries are left, or the best is another.

    Args:
        tiring: questions in a row that change nothing, after which that is the end; None for any.
    """
    if player.left > stop:
        trying = SingleTurns(player, math.floor(stop), tiring)
        yield trying
        trying.hand_back()


class SingleTurns(Desk):
    """One game's single edits, in compiled code with those of other games.

    Args:
        player: whose they are. stop, tiring: see `turns`.
    """

    def __init__(self, player: Screener, stop: int, tiring: int | None) -> None:
        super().__init__(player, 1)
        self.numbers[0] = player.clean
        self.screener, desk = player, self.desk
        turns = max(player.left - stop, 0) + 1  # at most: each takes one query, and one of four that it asks
        tried = 4 * turns + player.tuning.batch
        self.margins = np.empty((tried, len(player.asked.classes)))
        self._log, self._ends = np.empty((tried, 2), np.int64), np.empty(turns, np.int64)
        self._tuned = player.beliefs.tuning()
        search_single_desks.lay_out(desk, *self._tuned, self.margins, self._log, self._ends)
        desk[desks.SEEKING] = player.best is None or len(player.best) > 1
        desk[desks.TIRING] = tiring or 0
        self.take_up(stop)

    def hand_back(self) -> None:
        """Tell the player what was asked and what came of it."""
        super().hand_back()
        self.screener.flats += int(self.desk[desks.FLATS])
        tried, turns = self.desk[desks.TRIED : desks.TURNS + 1].tolist()
        if self.screener.rivals is not None:
            cells, colours = self._log[:tried].T.copy()
            self.screener.rivals.hear_in_turn(cells, colours, self.margins[:tried], self._ends[:turns].tolist())

    def _settle(self, following: int) -> None:
        """What compiled code cannot do: make room in a table, or put equal scores in order."""
        if following == desks.CROWDED:
            self.count_asked()
            self.make_room()
            return
        player, beliefs = self.screener, self.beliefs
        noise = beliefs.noise(player.boldness, start=int(self.desk[desks.START]))
        cells, colours = beliefs.top(beliefs.bounds(*noise, but=player.alone), player.tuning.batch)
        count = self.desk[desks.FOUND] = len(cells)
        self.part(desks.SWAPS, count)[:], self.part(desks.SHADES, count)[:] = cells, colours
        if not count:
            self.desk[desks.NEXT] = desks.OVER

    @staticmethod
    def propose(turns: Sequence[SingleTurns], seats: Ints) -> Ints:
        """Find what each tries next; (G,) how many edits, 0 where none is left."""
        found, following = search_single_desks.propose(seats, turns[0].screener.boldness, NEVER)
        for place in np.flatnonzero(found == 0).tolist():
            one, then = turns[place], following[place]
            if then in (desks.CROWDED, desks.TIED):
                one._settle(then)
                found[place] = len(one) if then == desks.TIED else SingleTurns.propose([one], seats[place, None])[0]
            if not found[place]:
                one.screener.singles_left = False
        return np.asarray(found, np.int64)

    @staticmethod
    def heed(
        turns: Sequence[SingleTurns], seats: Ints, margins: Margins, starts: Ints, scores: NDArray[np.float64] | None
    ) -> NDArray[np.bool_]:
        """Take in the answers; (G,) which of them go on.

        Args:
            margins: (N,) of which each game's begin at `starts` (G,). scores: (N, K), see `Notes.scores`.
        """
        following = search_single_desks.heed(
            seats,
            margins,
            starts,
            NOTHING if scores is None else scores,
            np.float32(turns[0].player.tuning.surprise),
            SEEN,
            turns[0].beliefs.floor,
            REGION_PRIOR,
            COLOUR_PRIOR,
        )
        return np.equal(following, desks.SWAP)
