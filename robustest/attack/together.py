"""Games whose questions are found together, in one call for all: see `task.Turns`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import compress, groupby
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
    def of(games: list[Game]) -> list[Circle]:
        """Games in turns, by class."""
        kinds: dict[type[Any], list[Game]] = {}
        for game in games:
            kinds.setdefault(type(game.question), []).append(game)
        return [Circle._of(kind, own) for kind, own in kinds.items()]

    @staticmethod
    def _of(kind: type[Turns], games: list[Game]) -> Circle:
        turns: list[Any] = [game.question for game in games]
        seats = np.fromiter([one.seat for one in turns], np.int64, len(turns))
        return Circle(kind, games, turns, seats, slots_of(games))

    def keep(self, places: list[int]) -> Circle:
        """These games alone."""
        games, turns = [self.games[place] for place in places], [self.turns[place] for place in places]
        return Circle(self.kind, games, turns, self.seats[places], self.slots[places])


def joined(games: list[Game]) -> tuple[list[Circle], list[Game], Ints, Edits]:
    """Games in turns; the others; the places of all; and what they ask, one after the other, in this order."""
    circles = Circle.of([game for game in games if not isinstance(game.question, Edits)])
    others = [game for game in games if isinstance(game.question, Edits)]
    slots = np.concatenate([circle.slots for circle in circles] + [slots_of(others)])
    parts = [game.question for game in others if isinstance(game.question, Edits)]
    return circles, others, slots, _joined(_found(circles), parts)


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
    books: Books,
) -> tuple[list[Game], list[Game]]:
    """Hand on the answers to turns, and have found what these and all that go on ask next.

    Args:
        turning: games, and where their answers begin. others: that go on already.
        margins, scores: (N,) and (N, K) of all games.

    Returns:
        Games that go on, and that are over.
    """
    going, waiting, finished = list[Game](), list[Game](), list[Game]()
    for game in others:
        (going if isinstance(game.question, Edits) else waiting).append(game)

    def hear_on(game: Game) -> None:
        """Have it go on where its turns are over."""
        if not game.advance(_NONE):
            finished.append(game)
        else:
            (going if isinstance(game.question, Edits) else waiting).append(game)

    for circle, starts in turning:
        goes_on = _timed(books, circle, circle.kind.heed, margins, starts, scores)
        for game in _sorted_out(circle.games, goes_on, waiting):
            hear_on(game)
    while waiting:
        asking, waiting = waiting, []
        for circle in Circle.of(asking):
            books.asking[circle.slots] = _timed(books, circle, circle.kind.propose)
            for game in _sorted_out(circle.games, books.go_on(circle.slots), going):
                if not game.asking:
                    hear_on(game)
                else:
                    (going if game.goes_on() else finished).append(game)
    return going, finished


def _sorted_out(games: list[Game], goes_on: NDArray[np.bool_], going: list[Game]) -> list[Game]:
    """Add the games that go on to `going`; the others."""
    if np.logical_and.reduce(goes_on):
        going += games
        return []
    on = goes_on.tolist()
    going += compress(games, on)
    return [game for game, one in zip(games, on, strict=True) if not one]


def slots_of(games: list[Game]) -> Ints:
    """(G,) their places."""
    return np.fromiter([game.slot for game in games], np.int64, len(games))


def _timed(books: Books, circle: Circle, call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call for the games of a circle, which each took its share of the time."""
    started = time.perf_counter()
    result = call(circle.turns, circle.seats, *arguments)
    books.spend(circle.slots, time.perf_counter() - started)
    return result
