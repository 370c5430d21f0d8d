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
from robustest.attack import search_swap_desks as swap_desks
from robustest.attack.search_asked import NOTHING
from robustest.attack.search_beliefs import COLOUR_PRIOR, FEW, REGION_PRIOR, growth_of
from robustest.attack.search_moves import LIMITS, SHARES, Ahead, Found, fresh_swaps
from robustest.attack.search_palette import SEEN
from robustest.attack.search_player import Player
from robustest.attack.search_states import State
from robustest.attack.task import Notes, Question
from robustest.compiled import fast
from robustest.results import Edits, Margins

Ints = NDArray[np.int64]

FORGOTTEN = 0.7  # share of what is known that lasts when effects are measured anew

Playing = Generator[Question, Margins, None]


class Swapper(Player, Protocol):
    """What the turns need of the search that makes them."""

    aim: int
    attempts: int
    alone: NDArray[np.bool_]
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


def turns(player: Swapper, current: State, margin: float, need: Margins | None) -> Playing:
    """Swap edits of a state until it flips, or nothing has come of it for long.

    Args:
        need: how much each edit of the state holds the margin down; None to measure that first.
    """
    if need is None and len(current) > 2 * player.tuning.batch:
        need = yield from player.needs(current, margin)
    if need is not None and (player.left <= player.stop or margin < 0):
        return
    swapping = SwapTurns(player, current)
    swapping.begin(margin, need)
    yield from _take(swapping)


def droppable(player: Swapper, state: State) -> bool:
    """True where `dropping` can be used: for a state of several edits, and no more than there is room for."""
    return together(player) and 2 < len(state) <= 2 * player.tuning.batch


def dropping(player: Swapper, state: State, among: int) -> Playing:
    """Leave out an edit of a state, drawn from so many that are needed least, and swap the others as `turns` does."""
    swapping = SwapTurns(player, state)
    swapping.drop(among)
    yield from _take(swapping)


def _take(swapping: SwapTurns) -> Playing:
    """Take turns until they are over."""
    player = swapping.player
    while True:
        yield swapping
        swapping.hand_back()
        if swapping.over:
            return
        if swapping.measuring:
            swapping.need[:] = yield from player.needs(*swapping.reached)
            player.beliefs.forget(FORGOTTEN)
            player.beliefs.borrow()
        if not swapping.go_on():
            return


class Desk:
    """A game's desk, as long as its turns are taken by compiled code: see `search_desks`.

    It holds every array whose address stands on it; where they lie is looked up anew whenever turns of other kinds were
    taken in between, which may have put other arrays in their place.

    Args:
        player: whose it is. size: edits of a state, at most.
    """

    def __init__(self, player: Swapper, size: int) -> None:
        self.player, self.beliefs = player, player.beliefs
        asked, batch = player.asked, player.tuning.batch
        self.desk = desk = np.empty(desks.room_of(size, batch), np.int64)
        desks.lay_out(desk, self.beliefs.sizes(), size, batch, asked.classes, player.aim, asked.label, player.alone)
        self.seat = int(desk[desks.STATE]) - 8 * desks.FIELDS

    def __len__(self) -> int:
        return int(self.desk[desks.FOUND])

    @property
    def state(self) -> Ints:
        """(2, k) cells and colours of the state."""
        size = int(self.desk[desks.EDITS])
        return self.part(desks.STATE, 2 * size).reshape(2, size)

    @property
    def need(self) -> Margins:
        """(k,) how much each edit of the state holds the margin down."""
        return self.part(desks.NEED, int(self.desk[desks.EDITS])).view(np.float64)

    @property
    def numbers(self) -> Margins:
        """(2,) margin of the state, and the lowest so far."""
        return self.part(desks.NUMBERS, 2).view(np.float64)

    @property
    def found(self) -> Found:
        """What was found, in at most twice as many rows as a question has states."""
        rows, size = 2 * self.player.tuning.batch, int(self.desk[desks.EDITS])
        return Found.on(
            self.part(desks.SWAPS, rows * size).reshape(rows, size),
            self.part(desks.SHADES, rows * size).reshape(rows, size),
            self.part(desks.ADDED, 2 * rows).reshape(2, rows),
            self.part(desks.PLACES, rows),
            self.part(desks.SINGLE, -(-rows // 8)).view(np.bool_)[:rows],
            self.part(desks.KEYS, rows),
        )

    def part(self, field: int, count: int) -> Ints:
        """So many numbers where a field says."""
        first = (int(self.desk[field]) - self.seat) // 8
        return self.desk[first : first + count]

    def take_up(self, stop: int) -> None:
        """Write down where everything lies, and how many queries are left, the last so many of which are not spent."""
        player = self.player
        self._believed, places = self.beliefs.places()
        self._table = player.asked.table(2 * player.tuning.batch)
        desks.take_up(self.desk, places, *self._table, len(player.asked), player.left, stop)

    def make_room(self) -> None:
        """Have room for one more question in the table of what was asked, and write down where it lies."""
        asked = self.player.asked
        self._table = asked.table(2 * self.player.tuning.batch)
        desks.write_down_table(self.desk, *self._table, len(asked))

    def hand_back(self) -> None:
        """Tell the player what was asked and what came of it."""
        player = self.player
        count, player.left = self.desk[desks.COUNT : desks.STOP].tolist()
        player.asked.grew(count - len(player.asked))
        flip = int(self.desk[desks.FLIP])
        if flip >= 0:
            found = self.found_at(flip)
            if player.best is None or len(found) < len(player.best):
                player.best = found

    def found_at(self, place: int) -> State:
        """One of the states that were asked about."""
        size = int(self.desk[desks.EACH])
        own = slice(place * size, (place + 1) * size)
        end = (place + 1) * size
        return State(self.part(desks.SWAPS, end)[own].copy(), self.part(desks.SHADES, end)[own].copy())

    def count_asked(self) -> None:
        """Tell the table how many states were added to it."""
        self.player.asked.grew(int(self.desk[desks.COUNT]) - len(self.player.asked))

    @staticmethod
    def edits(turns: Sequence[Desk], seats: Ints) -> Edits:
        """What they ask, one after the other."""
        return Edits(*desks.gather(seats, turns[0].beliefs.palette.base.shape[1]))


class SwapTurns(Desk):
    """One game's swaps of a state's edits, in compiled code with those of other games.

    Args:
        player: whose they are. current: the state.
    """

    def __init__(self, player: Swapper, current: State) -> None:
        super().__init__(player, len(current))
        self.state[:] = current.cells, current.colours
        self.jump = player.rng.standard_exponential  # sooner than `exponential`, of whose draws it makes the same
        self.take_up(player.stop)

    def begin(self, margin: float, need: Margins | None) -> None:
        """Begin with the state, its margin, and how much each of its edits holds that down, None to measure it."""
        self.numbers[:] = margin
        if need is None:
            self.desk[desks.MODE] = desks.STARTING
        else:
            self.need[:] = need

    def drop(self, among: int) -> None:
        """Begin with the state less one of its edits, drawn from so many that are needed least."""
        self.numbers[:] = 0  # so that what is measured are margins
        self.desk[desks.MODE], self.desk[desks.AMONG] = desks.DROPPING, among

    @property
    def reached(self) -> tuple[State, float]:
        """The state that the turns have come to, and its margin."""
        return State(*self.state.copy()), float(self.numbers[0])

    @property
    def over(self) -> bool:
        """True where nothing came of it for long, or enough."""
        return bool(self.desk[desks.NEXT] == desks.OVER)

    @property
    def measuring(self) -> bool:
        """True where effects must be measured, of more edits than compiled code has room for."""
        return bool(self.desk[desks.NEXT] == desks.MEASURE)

    def go_on(self) -> bool:
        """Go on with what was measured; False where that is the end."""
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
        found = self.found
        swaps = fresh_swaps(
            Ahead(State(*self.state), self.need, softness),
            self.beliefs,
            player.asked,
            optimism=player.tuning.optimism,
            count=found.count,
            most=min(player.tuning.batch, int(desk[desks.LEFT] - desk[desks.STOP])),
            attempts=player.attempts,
            rng=player.rng,
            start=int(desk[desks.START]),
        )
        desk[desks.FOUND] = found.fill(swaps, player.asked)
        desk[desks.STALLED] += 1

    @staticmethod
    def propose(turns: Sequence[SwapTurns], seats: Ints) -> Ints:
        """Find what each asks next; (G,) how many states, 0 where it is over."""
        tuning = turns[0].player.tuning
        likely = swap_desks.reluctances(seats)
        np.exp(likely, out=likely)
        found, following = swap_desks.propose(
            seats, likely, tuning.optimism, tuning.despair, SHARES, LIMITS, turns[0].player.attempts
        )
        if np.logical_and.reduce(found):
            return np.asarray(found, np.int64)
        again = []
        for place in np.flatnonzero((found == 0) & (following != desks.OVER)).tolist():
            one, then = turns[place], following[place]
            if then != desks.SWAP:
                one._settle(then)
                found[place] = len(one)
            if not found[place] and (then == desks.CROWDED or one.desk[desks.STALLED] < tuning.despair):
                again.append(place)
        if again:
            found[again] = SwapTurns.propose([turns[place] for place in again], seats[again])
        return np.asarray(found, np.int64)

    @staticmethod
    def heed(
        turns: Sequence[SwapTurns], seats: Ints, margins: Margins, starts: Ints, scores: NDArray[np.float64] | None
    ) -> NDArray[np.bool_]:
        """Take in the answers; (G,) which of them go on.

        Args:
            margins: (N,) of which each game's begin at `starts` (G,). scores: (N, K), see `Notes.scores`.
        """
        tuning = turns[0].player.tuning
        swaps = swap_desks.swapping(seats).tolist()
        following = swap_desks.heed(
            seats,
            margins,
            starts,
            NOTHING if scores is None else scores,
            np.array([one.jump() if swapping else 0.0 for one, swapping in zip(turns, swaps, strict=True)]),
            tuning.warmth,
            np.float32(tuning.context),
            SEEN,
            turns[0].beliefs.floor,
            tuning.despair,
            tuning.patience,
            growth_of(FORGOTTEN),
            REGION_PRIOR,
            COLOUR_PRIOR,
        )
        return np.equal(following, desks.SWAP)
