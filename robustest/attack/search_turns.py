"""The few-pixel search's most frequent turns with compiled code: `search` says what they do, this does the same sooner.

The turns of many games are taken in two calls, one that learns of the answers and one that finds what to ask next, in
arrays that last from turn to turn. Questions, draws and beliefs are those of the plain code, bit for bit.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robustest.attack import search_desks as desks
from robustest.attack.addresses import address_of
from robustest.attack.search_asked import NOTHING
from robustest.attack.search_beliefs import FEW
from robustest.attack.search_moves import LIMITS, SHARES, Ahead, Found, fresh_swaps
from robustest.attack.search_palette import SEEN
from robustest.attack.search_player import Player
from robustest.attack.search_states import State
from robustest.attack.task import Notes, Question
from robustest.compiled import fast
from robustest.results import Edits, Margins

Ints = NDArray[np.int64]
Playing = Generator[Question, Margins, None]


class Swapper(Player, Protocol):
    """What the turns need of the search that makes them."""

    aim: int
    notes: Notes

    def needs(self, state: State, margin: float) -> Generator[Edits, Margins, Margins]:
        """How much each edit of a state holds the margin down."""


def ready(player: Swapper, state: State) -> bool:
    """True where `turns` can be used: for a state of several edits."""
    return together(player) and len(state) > 1


def together(player: Swapper) -> bool:
    """True where turns can be taken with other games: with compiled code, and draws from PCG64."""
    told = fast() and player.notes.together
    return told and player.beliefs.words is not None and 2 * player.tuning.batch <= FEW


def turns(player: Swapper, current: State, margin: float, need: Margins) -> Playing:
    """Swap edits of a state until it flips, or nothing has come of it for long."""
    if player.left <= player.stop or margin < 0:
        return
    swapping = SwapTurns(player, current, margin, need)
    while True:
        yield swapping
        swapping.hand_back()
        if not swapping.measuring:
            return
        need = yield from player.needs(*swapping.reached)
        player.beliefs.forget(0.7)
        player.beliefs.borrow()
        if not swapping.go_on(need):
            return


class Desk:
    """A game's desk, as long as its turns are taken by compiled code: see `search_desks`.

    It holds every array whose address stands on it; where they lie is looked up anew whenever turns of other kinds were
    taken in between, which may have put other arrays in their place.

    Args:
        player: whose it is. state: (2, k) cells and colours that the turns begin with. need, numbers: (k,) and any number.
    """

    def __init__(self, player: Swapper, state: Ints, need: Margins, numbers: Margins) -> None:
        self.player, self.beliefs = player, player.beliefs
        self.found = found = Found(2 * player.tuning.batch, state.shape[1])
        self.state, self.need, self.numbers = state, need, numbers
        self.desk = desk = np.zeros(desks.FIELDS, np.int64)
        self.address = address_of(desk)
        desks.write_down(desk, player.asked.classes, state, need, numbers, *found.arrays)
        desk[desks.POOLED : desks.ROOM] = self.beliefs.sizes()
        desk[desks.RIVALS : desks.COUNT] = len(player.asked.classes), state.shape[1], player.tuning.batch
        desk[desks.AIM], desk[desks.LABEL] = player.aim, player.asked.label

    def __len__(self) -> int:
        return int(self.desk[desks.FOUND])

    def take_up(self, stop: int) -> None:
        """Write down where everything lies, and how many queries are left, the last so many of which are not spent."""
        self._believed, self.desk[: desks.TABLE] = self.beliefs.places()
        self.desk[desks.LEFT], self.desk[desks.STOP], self.desk[desks.FLIP] = self.player.left, stop, -1
        self.make_room()

    def make_room(self) -> None:
        """Have room for one more question in the table of what was asked, and write down where it lies."""
        asked = self.player.asked
        self._table = asked.table(self.player.tuning.batch)
        desks.write_down_table(self.desk, *self._table, len(asked))

    def hand_back(self) -> None:
        """Tell the player what was asked and what came of it."""
        player, desk = self.player, self.desk
        self.count_asked()
        player.left = int(desk[desks.LEFT])
        flip = int(desk[desks.FLIP])
        if flip >= 0:
            found = self.found_at(flip)
            if player.best is None or len(found) < len(player.best):
                player.best = found

    def found_at(self, place: int) -> State:
        """One of the states that were asked about."""
        return State(self.found.cells[place].copy(), self.found.colours[place].copy())

    def count_asked(self) -> None:
        """Tell the table how many states were added to it."""
        self.player.asked.grew(int(self.desk[desks.COUNT]) - len(self.player.asked))

    @staticmethod
    def edits(turns: Sequence[Desk]) -> Edits:
        """What they ask, one after the other."""
        return Edits(*desks.gather(addresses_of(turns), turns[0].beliefs.palette.base.shape[1]))


def addresses_of(turns: Sequence[Desk]) -> Ints:
    """(G,) where the desks lie."""
    return np.array([one.address for one in turns])


class SwapTurns(Desk):
    """One game's swaps of a state's edits, in compiled code with those of other games.

    Args:
        player: whose they are. current: the state, its margin, and how much each of its edits holds that down.
    """

    def __init__(self, player: Swapper, current: State, margin: float, need: Margins) -> None:
        super().__init__(player, np.stack([current.cells, current.colours]), need.copy(), np.array([margin, margin]))
        self.take_up(player.stop)

    @property
    def reached(self) -> tuple[State, float]:
        """The state that the turns have come to, and its margin."""
        return State(*self.state.copy()), float(self.numbers[0])

    @property
    def measuring(self) -> bool:
        """True where the turns are not over, but effects must be measured anew."""
        return bool(self.desk[desks.NEXT] == desks.MEASURE)

    def go_on(self, need: Margins) -> bool:
        """Go on with what was measured; False where that is the end."""
        self.need[:] = need
        self.take_up(self.player.stop)
        desk, despair = self.desk, self.player.tuning.despair
        return bool(desk[desks.LEFT] > desk[desks.STOP] and self.numbers[0] >= 0 and desk[desks.STALLED] < despair)

    def _settle(self, following: int) -> None:
        """What compiled code cannot do: make room in a table, or put equal scores in order, which is a turn."""
        player, desk = self.player, self.desk
        self.count_asked()
        if following == desks.CROWDED:
            self.make_room()
            return
        softness = self.beliefs.scale / 2 * max(1, int(desk[desks.STALLED]) / 4) + 1e-9
        swaps = fresh_swaps(
            Ahead(State(*self.state), self.need, softness),
            self.beliefs,
            player.asked,
            optimism=player.tuning.optimism,
            count=self.found.count,
            most=min(player.tuning.batch, int(desk[desks.LEFT] - desk[desks.STOP])),
            rng=player.rng,
            start=int(desk[desks.START]),
        )
        desk[desks.FOUND] = self.found.fill(swaps, player.asked)
        desk[desks.STALLED] += 1

    @staticmethod
    def propose(turns: Sequence[SwapTurns]) -> list[int]:
        """Find what each asks next; how many states, 0 where it is over."""
        found = [0] * len(turns)
        waiting = list(range(len(turns)))
        tuning = turns[0].player.tuning
        while waiting:
            own = [turns[place] for place in waiting]
            addresses = addresses_of(own)
            likely = np.empty(sum([one.state.shape[1] for one in own]))
            desks.reluctances(addresses, likely)
            np.exp(likely, out=likely)
            counts, following = desks.propose(
                addresses, likely, tuning.optimism, tuning.despair, SHARES, LIMITS
            ).tolist()
            again = []
            for place, one, count, then in zip(waiting, own, counts, following, strict=True):
                found[place] = count
                if count or then == desks.OVER:
                    continue
                if then != desks.SWAP:
                    one._settle(then)
                    found[place] = len(one)
                if not found[place] and one.desk[desks.STALLED] < tuning.despair:
                    again.append(place)
            waiting = again
        return found

    @staticmethod
    def heed(
        turns: Sequence[SwapTurns], margins: Margins, starts: Ints, scores: NDArray[np.float64] | None
    ) -> list[bool]:
        """Take in the answers; which of them go on.

        Args:
            margins: (N,) of which each game's begin at `starts` (G,). scores: (N, K), see `Notes.scores`.
        """
        tuning = turns[0].player.tuning
        following = desks.heed(
            addresses_of(turns),
            margins,
            starts,
            NOTHING if scores is None else scores,
            np.array([one.player.rng.exponential() for one in turns]),
            tuning.warmth,
            np.float32(tuning.context),
            SEEN,
            turns[0].beliefs.floor,
            tuning.despair,
            tuning.patience,
        )
        going: list[bool] = (following == desks.SWAP).tolist()
        return going
