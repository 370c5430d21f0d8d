"""Best-first search: the exact value of a cooperative game, in the order of an admissible bound.

Where both players want the payoff, the state with the largest bound on it is looked at first; once
no bound is above the best play seen, that play is optimal (A*, with payoffs in place of costs).

Source: Wu et al., TCS 2020, arXiv:1807.03571, section 6.1. Departure: the bound is an argument and has
to be admissible; the paper's own (proportional to the gap of two scores) is not, and is not offered.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import TypeAlias

from games.game import Evaluation, Game, GameError, Kind, M, S
from games.search import Search, SearchResult, Stop, Watch, ask

Bound: TypeAlias = Callable[[S, Evaluation], float]
"""A state where the play goes on, and the answer about it -> a payoff no play through it beats."""


def rules_bound(game: Game[S, M]) -> Bound[S]:
    """The bound that the rules alone give: always admissible, never the tightest."""
    return lambda state, _evaluation: game.bounds(state)[1]


def best_first(
    game: Game[S, M], *, bound: Bound[S] | None = None, batch: int = 1, watch: Watch[S] | None = None
) -> Search[S, M]:
    """The value of the cooperative game, exact unless the stopping rules cut it short.

    Args:
        bound: admissible, see `Bound`; it is used besides `rules_bound`. A bound that is not admissible
            makes a wrong value: pass only a proven one.
        batch: states asked about together, >= 1; more than one asks ahead and may ask in vain.
    """
    if batch < 1:
        raise GameError(f"batch must be >= 1; got {batch}")
    watch = Watch() if watch is None else watch
    tick = count(0, -1)  # the latest first among equal bounds, which goes deep; states are never compared
    start = game.start()
    floor, ceiling = game.bounds(start)
    queue: list[tuple[float, int, S]] = [(-ceiling, next(tick), start)]
    came: dict[S, tuple[S, M]] = {}
    seen = {start}
    best, goal = floor, start
    stop = Stop.SOLVED
    while queue and -queue[0][0] > best:
        reason = watch.reason()
        if reason is not None:
            stop = reason
            break
        size = batch if watch.room is None else min(batch, watch.room)
        asked: list[tuple[float, S]] = []
        while queue and -queue[0][0] > best and len(asked) < size:
            priority, _, state = heapq.heappop(queue)
            watch.iterations += 1
            answer = watch.answers.get(state) or game.known(state)
            if answer is None:
                asked.append((-priority, state))
                continue
            if answer.ending is not None:
                watch.see(state, answer)
                if answer.payoff > best:
                    best, goal = answer.payoff, state
                continue
            for move in game.moves(state):
                child = game.play(state, move)
                if child not in seen:
                    seen.add(child)
                    came[child] = (state, move)
                    heapq.heappush(queue, (-min(-priority, game.bounds(child)[1]), next(tick), child))
        if asked:
            replies = yield from ask([state for _, state in asked], watch)
            for (limit, state), answer in zip(asked, replies, strict=True):
                if answer.ending is not None:
                    if answer.payoff > best:
                        best, goal = answer.payoff, state
                    continue
                limit = min(limit, answer.upper)
                if bound is not None:
                    limit = min(limit, bound(state, answer))
                heapq.heappush(queue, (-limit, next(tick), state))
        upper = max(best, -queue[0][0]) if queue else best
        watch.note(best, best, upper)
    upper = max(best, -queue[0][0]) if queue else best
    watch.note(best, best, upper)
    line = _way(came, goal)
    return SearchResult(
        kind=Kind.COOPERATOR, value=best, lower=best, upper=upper, stop=stop, best=watch.best, line=line,
        branch=line, queries=watch.queries, iterations=watch.iterations, nodes=len(seen),
        curve=tuple(watch.curve),
    )  # fmt: skip


def _way(came: dict[S, tuple[S, M]], state: S) -> tuple[M, ...]:
    """The moves that first led to `state`."""
    moves: list[M] = []
    while state in came:
        state, move = came[state]
        moves.append(move)
    return tuple(reversed(moves))
