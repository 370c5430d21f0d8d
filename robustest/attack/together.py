"""Games whose questions are found together, in one call for all: see `task.Turns`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.attack.games import Game
from robustest.attack.task import Turns
from robustest.results import Edits, Margins

_NONE: Margins = np.zeros(0)


def joined(games: list[Game]) -> tuple[list[Game], Edits]:
    """What all ask, one after the other, and the games in that order."""
    parts, order = [], list[Game]()
    for kind, own in _by_kind([game for game in games if not isinstance(game.question, Edits)]):
        parts.append(kind.edits([game.question for game in own]))
        order += own
    for game in games:
        if isinstance(game.question, Edits):
            parts.append(game.question)
            order.append(game)
    return order, Edits.joined(parts)


def heed(
    turning: list[tuple[Game, int]],
    margins: Margins,
    scores: NDArray[np.float64] | None,
    going: list[Game],
    finished: list[Game],
) -> None:
    """Hand on the answers to turns, and have found what these and all that go on ask next.

    Args:
        turning: games, and where their answers begin. margins, scores: (N,) and (N, K) of all games.
        going, finished: games that go on, and that are over; both are changed.
    """
    first = dict((game.slot, row) for game, row in turning)
    for kind, own in _by_kind([game for game, _ in turning]):
        starts = np.array([first[game.slot] for game in own])
        told = _timed(own, kind.heed, [game.question for game in own], margins, starts, scores)
        for game, goes_on in zip(own, told, strict=True):
            (going if goes_on or game.advance(_NONE) else finished).append(game)
    waiting = [game for game in going if not isinstance(game.question, Edits)]
    while waiting:
        over: list[Game] = []
        for kind, own in _by_kind(waiting):
            counts = _timed(own, kind.propose, [game.question for game in own])
            for game, count in zip(own, counts, strict=True):
                if count and game.goes_on():
                    continue
                if not count and game.advance(_NONE):
                    over.append(game)
                    continue
                going.remove(game)
                finished.append(game)
        waiting = [game for game in over if not isinstance(game.question, Edits)]


def _by_kind(games: list[Game]) -> list[tuple[type[Turns], list[Game]]]:
    kinds: dict[type[Any], list[Game]] = {}
    for game in games:
        kinds.setdefault(type(game.question), []).append(game)
    return list(kinds.items())


def _timed(games: Sequence[Game], call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call for several games, which each took its share of the time."""
    started = time.perf_counter()
    result = call(*arguments)
    each = (time.perf_counter() - started) / len(games)
    for game in games:
        game.seconds += each
    return result
