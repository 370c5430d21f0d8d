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
from robustest.attack.search_asked import NOTHING, Asked
from robustest.attack.search_beliefs import FEW, Beliefs
from robustest.attack.search_moves import LIMITS, SHARES, Ahead, Found, fresh_swaps
from robustest.attack.search_palette import SEEN
from robustest.attack.search_states import State
from robustest.attack.search_tuning import Tuning
from robustest.attack.task import Notes, Question
from robustest.compiled import fast
from robustest.results import Edits, Margins

Ints = NDArray[np.int64]
Playing = Generator[Question, Margins, None]


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
    together = fast() and player.notes.together
    return together and len(state) > 1 and player.beliefs.words is not None and 2 * player.tuning.batch <= FEW


def turns(player: Player, current: State, margin: float, need: Margins) -> Playing:
    """Swap edits of a state until it flips, or nothing has come of it for long."""
    if player.left <= player.stop or margin < 0:
        return
    swapping = SwapTurns(player, current, margin, need)
    while True:
        yield swapping
        if not swapping.hand_back():
            return
        need = yield from player.needs(*swapping.reached)
        player.beliefs.forget(0.7)
        player.beliefs.borrow()
        if not swapping.go_on(need):
            return


class SwapTurns:
    """One game's swaps of a state's edits, in compiled code with those of other games.

    Args:
        player: whose they are. current: the state, its margin, and how much each of its edits holds that down.
    """

    def __init__(self, player: Player, current: State, margin: float, need: Margins) -> None:
        self._player, self._beliefs = player, player.beliefs
        beliefs, tuning, size = player.beliefs, player.tuning, len(current)
        self._found = found = Found(2 * tuning.batch, size)
        self._state, self._need = np.stack([current.cells, current.colours]), need.copy()
        self._numbers = np.array([margin, margin])
        self.desk = np.empty(desks.FIELDS, np.int64)
        self.address = address_of(self.desk)
        self.desk[: desks.TABLE] = beliefs.places()
        self.desk[desks.CLASSES : desks.POOLED] = [
            address_of(array) for array in (player.asked.classes, self._state, self._need, self._numbers, *found.arrays)
        ]
        self.desk[desks.POOLED : desks.ROOM] = beliefs.sizes()
        self.desk[desks.RIVALS : desks.COUNT] = len(player.asked.classes), size, tuning.batch
        self.desk[desks.AIM :] = player.aim, player.asked.label, 0, 0, 0, -1, desks.SWAP
        self._take_up()

    def __len__(self) -> int:
        return int(self.desk[desks.FOUND])

    @property
    def reached(self) -> tuple[State, float]:
        """The state that the turns have come to, and its margin."""
        return State(*self._state.copy()), float(self._numbers[0])

    def _take_up(self) -> None:
        """Write down how many queries are left, and where the states asked about are kept."""
        self.desk[desks.LEFT : desks.AIM] = self._player.left, self._player.stop
        self._make_room()

    def _make_room(self) -> None:
        asked = self._player.asked
        table = asked.table(self._player.tuning.batch)
        self.desk[desks.TABLE : desks.CLASSES] = [address_of(array) for array in table]
        self.desk[desks.ROOM], self.desk[desks.COUNT] = len(table[0]), len(asked)

    def hand_back(self) -> bool:
        """Tell the player what came of the turns; True where effects must be measured anew, and then it goes on."""
        player, desk = self._player, self.desk
        player.asked.grew(int(desk[desks.COUNT]) - len(player.asked))
        player.left = int(desk[desks.LEFT])
        flip, size = int(desk[desks.FLIP]), self._state.shape[1]
        if flip >= 0 and (player.best is None or size < len(player.best)):
            player.best = State(self._found.cells[flip].copy(), self._found.colours[flip].copy())
        return bool(desk[desks.NEXT] == desks.MEASURE)

    def go_on(self, need: Margins) -> bool:
        """Go on with what was measured; False where that is the end."""
        self._need[:] = need
        self._take_up()
        desk = self.desk
        despair = self._player.tuning.despair
        return bool(desk[desks.LEFT] > desk[desks.STOP] and self._numbers[0] >= 0 and desk[desks.STALLED] < despair)

    def _settle(self, following: int) -> None:
        """What compiled code cannot do: make room in a table, or put equal scores in order, which is a turn."""
        player, desk = self._player, self.desk
        player.asked.grew(int(desk[desks.COUNT]) - len(player.asked))
        if following == desks.CROWDED:
            self._make_room()
            return
        softness = player.beliefs.scale / 2 * max(1, int(desk[desks.STALLED]) / 4) + 1e-9
        swaps = fresh_swaps(
            Ahead(State(*self._state), self._need, softness),
            player.beliefs,
            player.asked,
            optimism=player.tuning.optimism,
            count=self._found.count,
            most=min(player.tuning.batch, int(desk[desks.LEFT] - desk[desks.STOP])),
            rng=player.rng,
            start=int(desk[desks.START]),
        )
        desk[desks.FOUND] = self._found.fill(swaps, player.asked)
        desk[desks.STALLED] += 1

    @staticmethod
    def propose(turns: Sequence[SwapTurns]) -> list[int]:
        """Find what each asks next; how many states, 0 where it is over."""
        found = [0] * len(turns)
        waiting = list(range(len(turns)))
        tuning = turns[0]._player.tuning
        while waiting:
            own = [turns[place] for place in waiting]
            addresses = np.array([one.address for one in own])
            likely = np.empty(sum([one._state.shape[1] for one in own]))
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
    def edits(turns: Sequence[SwapTurns]) -> Edits:
        """What they ask, one after the other."""
        channels = turns[0]._player.beliefs.palette.base.shape[1]
        return Edits(*desks.gather(np.array([one.address for one in turns]), channels))

    @staticmethod
    def heed(
        turns: Sequence[SwapTurns], margins: Margins, starts: Ints, scores: NDArray[np.float64] | None
    ) -> list[bool]:
        """Take in the answers; which of them go on.

        Args:
            margins: (N,) of which each game's begin at `starts` (G,). scores: (N, K), see `Notes.scores`.
        """
        tuning = turns[0]._player.tuning
        following = desks.heed(
            np.array([one.address for one in turns]),
            margins,
            starts,
            NOTHING if scores is None else scores,
            np.array([one._player.rng.exponential() for one in turns]),
            tuning.warmth,
            np.float32(tuning.context),
            SEEN,
            turns[0]._player.beliefs.floor,
            tuning.despair,
            tuning.patience,
        )
        going: list[bool] = (following == desks.SWAP).tolist()
        return going
