"""Games whose questions are found together, in one call for all: see `task.Turns`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.attack.books import Books
from robustest.attack.games import Game
from robustest.attack.task import Turns
from robustest.results import Edits, Margins

Ints = NDArray[np.int64]
Kind = tuple[type[Turns], list[Game]]  # games whose turns are of one class

_NONE: Margins = np.zeros(0)


def joined(games: list[Game]) -> tuple[list[Kind], list[Game], Edits]:
    """Games in turns; the others; and what all ask, one after the other, in this order."""
    kinds = _by_kind([game for game in games if not isinstance(game.question, Edits)])
    others = [game for game in games if isinstance(game.question, Edits)]
    parts = [kind.edits(_turns(own)) for kind, own in kinds]
    return (
        kinds,
        others,
        Edits.joined([*parts, *(game.question for game in others if isinstance(game.question, Edits))]),
    )


def heed(
    turning: Sequence[tuple[Kind, Ints]],
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

    for (kind, own), starts in turning:
        for game, goes_on in zip(own, _timed(books, own, kind.heed, _turns(own), margins, starts, scores), strict=True):
            if goes_on:
                waiting.append(game)
            else:
                hear_on(game)
    while waiting:
        asking, waiting = waiting, []
        for kind, own in _by_kind(asking):
            counts = _timed(books, own, kind.propose, _turns(own))
            unhurried = books.go_on(slots_of(own), np.array(counts)).tolist()
            for game, count, at_ease in zip(own, counts, unhurried, strict=True):
                game.asking = count
                if not count:
                    hear_on(game)
                elif at_ease or game.goes_on():
                    going.append(game)
                else:
                    finished.append(game)
    return going, finished


def slots_of(games: list[Game]) -> Ints:
    """(G,) their places."""
    return np.array([game.slot for game in games], np.int64)


def _turns(games: list[Game]) -> list[Any]:
    return [game.question for game in games]


def _by_kind(games: list[Game]) -> list[Kind]:
    kinds: dict[type[Any], list[Game]] = {}
    for game in games:
        kinds.setdefault(type(game.question), []).append(game)
    return list(kinds.items())


def _timed(books: Books, games: list[Game], call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call for several games, which each took its share of the time."""
    started = time.perf_counter()
    result = call(*arguments)
    books.spend(slots_of(games), time.perf_counter() - started)
    return result
