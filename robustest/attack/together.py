"""Games whose questions are found together, in one call for all: see `task.Turns`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustest.attack import kernels
from robustest.attack.books import Books
from robustest.attack.games import Game
from robustest.attack.task import Turns
from robustest.compiled import fast
from robustest.results import Edits, Margins

Ints = NDArray[np.int64]

_NONE: Margins = np.zeros(0)


class Circle(NamedTuple):
    """Games whose turns are of one class.

    turns, seats, slots: (G,) of the games: their turns, where these are, and the games' places.
    """

    kind: type[Turns]
    games: list[Game]
    turns: list[Any]
    seats: Ints
    slots: Ints

    @staticmethod
    def of(kind: type[Turns], games: list[Game]) -> Circle:
        """Games in turns of this class."""
        turns: list[Any] = [game.question for game in games]
        seats = np.fromiter([one.seat for one in turns], np.int64, len(turns))
        return Circle(kind, games, turns, seats, slots_of(games))

    def and_others(self, games: list[Game]) -> Circle:
        """With more games in such turns."""
        more = Circle.of(self.kind, games)
        seats, slots = np.concatenate([self.seats, more.seats]), np.concatenate([self.slots, more.slots])
        return Circle(self.kind, self.games + games, self.turns + more.turns, seats, slots)

    def keep(self, places: list[int]) -> Circle:
        """These games alone."""
        games, turns = [self.games[place] for place in places], [self.turns[place] for place in places]
        return Circle(self.kind, games, turns, self.seats[places], self.slots[places])


def joined(games: list[Game]) -> tuple[list[Circle], list[Game], Ints, Edits]:
    """Games in turns; the others; the places of all; and what they ask, one after the other, in this order."""
    kinds = _by_kind(games)
    others = kinds.pop(Edits, [])
    circles = [Circle.of(kind, own) for kind, own in kinds.items()]
    slots = np.concatenate([circle.slots for circle in circles] + [slots_of(others)])
    parts = [game.question for game in others if isinstance(game.question, Edits)]
    return circles, others, slots, _joined(_found(circles), parts)


def _by_kind(games: list[Game]) -> dict[type[Any], list[Game]]:
    """Games by the class of their questions."""
    kinds: dict[type[Any], list[Game]] = {}
    for game in games:
        kinds.setdefault(type(game.question), []).append(game)
    return kinds


def _found(circles: list[Circle]) -> list[Edits]:
    """What games in turns ask: found in one call for all classes that have it found alike."""
    parts = list[Edits]()
    for find, own in groupby(circles, key=lambda circle: circle.kind.edits):
        alike = list(own)
        seats = alike[0].seats if len(alike) == 1 else np.concatenate([circle.seats for circle in alike])
        parts.append(find([turns for circle in alike for turns in circle.turns], seats))
    return parts


def _joined(found: list[Edits], asked: list[Edits]) -> Edits:
    """`Edits.joined`; asked: by searches, which may go on to use these arrays."""
    if len(found) == 1 and not asked:
        return found[0]
    parts = [*found, *asked]
    if not fast():
        return Edits.joined(parts)
    counts = np.array([len(part.offsets) for part in parts])
    return Edits(
        np.concatenate([part.pixels for part in parts]),
        np.concatenate([part.values for part in parts]),
        kernels.offsets_of(np.concatenate([part.offsets for part in parts]), counts),
    )


def heed(
    turning: Sequence[tuple[Circle, Ints]],
    others: list[Game],
    margins: Margins,
    scores: NDArray[np.float64] | None,
    slots: Ints,
    books: Books,
) -> tuple[list[Game], list[Game]]:
    """Hand on the answers to turns, and have found what these and all that go on ask next.

    Args:
        turning: games, and where their answers begin. others: that go on already.
        margins, scores: (N,) and (N, K) of all games. slots: (G,) of the games, which share the time of calls for many.

    Returns:
        Games that go on, and that are over.
    """
    going, waiting, finished = list[Game](), list[Game](), list[Game]()
    for game in others:
        (going if isinstance(game.question, Edits) else waiting).append(game)
    started, alone = time.perf_counter(), books.spent

    def hear_on(games: list[Game]) -> None:
        """Have them go on where their turns are over."""
        for game in games:
            if not game.advance(_NONE):
                finished.append(game)
            else:
                (going if isinstance(game.question, Edits) else waiting).append(game)

    asking = list[Circle]()
    for circle, starts in turning:
        goes_on = circle.kind.heed(circle.turns, circle.seats, margins, starts, scores)
        circle, over = _sorted_out(circle, goes_on)
        asking.append(circle)
        hear_on(over)
    while waiting or asking:
        kinds, waiting = _by_kind(waiting), []
        circles = [circle.and_others(kinds.pop(circle.kind)) if circle.kind in kinds else circle for circle in asking]
        circles += [Circle.of(kind, own) for kind, own in kinds.items()]
        asking = []
        for circle in circles:
            if not circle.games:
                continue
            books.asking[circle.slots] = circle.kind.propose(circle.turns, circle.seats)
            circle, others = _sorted_out(circle, books.go_on(circle.slots))
            going += circle.games
            for game in others:
                if not game.asking:
                    hear_on([game])
                else:
                    (going if game.goes_on() else finished).append(game)
    if len(slots):
        books.spend(slots, time.perf_counter() - started - (books.spent - alone))
    return going, finished


def _sorted_out(circle: Circle, goes_on: NDArray[np.bool_]) -> tuple[Circle, list[Game]]:
    """Those that go on; the others."""
    if np.logical_and.reduce(goes_on):
        return circle, []
    over = [game for game, on in zip(circle.games, goes_on.tolist(), strict=True) if not on]
    return circle.keep(goes_on.nonzero()[0].tolist()), over


def slots_of(games: list[Game]) -> Ints:
    """(G,) their places."""
    return np.fromiter([game.slot for game in games], np.int64, len(games))
