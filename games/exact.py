"""Exact values of small games: expectimax, which looks at everything, and alpha-beta, which does not.

Both play all four kinds of game and return the same value; expectimax is the referee, the simpler
of the two. Both are searches: they ask about one state at a time.

Sources: Knuth & Moore, Artificial Intelligence 6 (1975), for alpha-beta; Ballard, Artificial
Intelligence 21 (1983), Star1, for its cuts below chance.
"""

from __future__ import annotations

from typing import Generic

import numpy as np

from games.game import Aim, Evaluation, Game, GameError, Kind, M, S
from games.search import Asking, Search, SearchResult, Stop, Watch, learn


def expectimax(game: Game[S, M], kind: Kind, watch: Watch[S] | None = None) -> Search[S, M]:
    """The exact value, by looking at every state once."""
    return (yield from _Exact(game, kind, watch or Watch(), prune=False).search())


def alpha_beta(game: Game[S, M], kind: Kind, watch: Watch[S] | None = None) -> Search[S, M]:
    """The exact value, leaving out whatever cannot change it."""
    return (yield from _Exact(game, kind, watch or Watch(), prune=True).search())


class _OutOfBudgetError(Exception):
    """The stopping rules ended an exact search."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop)
        self.stop = stop


class _Exact(Generic[S, M]):
    """One exact search. `bounds` holds the proven payoffs of each state looked at, `best` its best move."""

    def __init__(self, game: Game[S, M], kind: Kind, watch: Watch[S], *, prune: bool) -> None:
        self.game, self.kind, self.watch, self.prune = game, kind, watch, prune
        self.answers: dict[S, Evaluation] = {}
        self.bounds: dict[S, tuple[float, float]] = {}
        self.best: dict[S, M] = {}

    def search(self) -> Search[S, M]:
        start = self.game.start()
        try:
            value = yield from self._value(start, -np.inf, np.inf)
            stop, lower, upper = Stop.SOLVED, value, value
        except _OutOfBudgetError as end:
            stop, (lower, upper) = end.stop, self._bounds(start)
            value = (lower + upper) / 2
        self.watch.note(value, lower, upper)
        line = self._line(start)
        return SearchResult(
            kind=self.kind, value=value, lower=lower, upper=upper, stop=stop, best=self.watch.best, line=line,
            branch=line, queries=self.watch.queries, iterations=self.watch.iterations,
            nodes=len(self.answers), curve=tuple(self.watch.curve),
        )  # fmt: skip

    def _bounds(self, state: S) -> tuple[float, float]:
        return self.bounds[state] if state in self.bounds else self.game.bounds(state)

    def _answer(self, state: S) -> Asking[S, Evaluation]:
        """What is known of a state, asking if need be; each state is asked about once."""
        if state not in self.answers:
            reason = self.watch.reason()
            if reason is not None:
                raise _OutOfBudgetError(reason)
            self.watch.iterations += 1
            self.answers[state] = yield from learn(self.game, state, self.watch)
        return self.answers[state]

    def _value(self, state: S, alpha: float, beta: float) -> Asking[S, float]:
        """The payoff of `state` if it lies in (alpha, beta); else a bound on the side it lies on."""
        lower, upper = self._bounds(state)
        if lower == upper and state in self.bounds:
            return lower
        if self.prune:
            if lower >= beta or lower == upper:
                return lower
            if upper <= alpha:
                return upper
            alpha, beta = max(alpha, lower), min(beta, upper)
        answer = yield from self._answer(state)
        if answer.ending is not None:
            self.bounds[state] = (answer.payoff, answer.payoff)
            return answer.payoff
        if self.prune:
            upper = max(min(upper, answer.upper), lower)
            self.bounds[state] = (lower, upper)
            if upper <= alpha or lower == upper:
                return upper
            beta = min(beta, upper)
        aim = self.kind.aim(self.game.player(state))
        if aim is Aim.CHANCE:
            low, high = yield from self._expect(state, alpha, beta)
        else:
            low, high = yield from self._choose(state, aim, alpha, beta)
        if self.prune:
            low, high = max(low, lower), min(high, upper)
        self.bounds[state] = (min(low, high), max(low, high))
        return low if low >= beta else high

    def _choose(self, state: S, aim: Aim, alpha: float, beta: float) -> Asking[S, tuple[float, float]]:
        """Bounds on the payoff where one of the players moves; equal unless a cut was made."""
        maximise = aim is Aim.MAXIMISE
        best = -np.inf if maximise else np.inf
        window = (alpha, beta) if self.prune else (-np.inf, np.inf)
        moves = self.game.moves(state)
        if not moves:
            raise GameError(f"a play that goes on needs a move; {state!r} has none")
        for move in moves:
            low, high = (max(window[0], best), window[1]) if maximise else (window[0], min(window[1], best))
            value = yield from self._value(self.game.play(state, move), low, high)
            if value > best if maximise else value < best:
                best, self.best[state] = value, move
            if self.prune and (best >= window[1] if maximise else best <= window[0]):
                break
        if best >= window[1]:
            return best, np.inf
        if best <= window[0]:
            return -np.inf, best
        return best, best

    def _expect(self, state: S, alpha: float, beta: float) -> Asking[S, tuple[float, float]]:
        """Bounds on the mean payoff where chance moves; equal unless a cut was made."""
        chances = self.game.chances(state)
        children = [
            (float(p), self.game.play(state, move))
            for p, move in zip(chances, self.game.moves(state), strict=True)
            if p > 0
        ]
        if not children:
            raise GameError(f"a play that goes on needs a move with a chance; {state!r} has none")
        self.best[state] = self.game.moves(state)[int(np.argmax(chances))]
        bounds = [self._bounds(child) for _, child in children]
        rest_low = sum(p * low for (p, _), (low, _) in zip(children, bounds, strict=True))
        rest_high = sum(p * high for (p, _), (_, high) in zip(children, bounds, strict=True))
        total = 0.0
        for (p, child), (low, high) in zip(children, bounds, strict=True):
            rest_low, rest_high = rest_low - p * low, rest_high - p * high
            window = (-np.inf, np.inf)
            if self.prune:
                window = ((alpha - total - rest_high) / p, (beta - total - rest_low) / p)
            value = yield from self._value(child, *window)
            total += p * value
            if value <= window[0]:
                return -np.inf, total + rest_high
            if value >= window[1]:
                return total + rest_low, np.inf
        return total, total

    def _line(self, start: S) -> tuple[M, ...]:
        """The best moves from the start, as far as they were looked at."""
        line, state = [], start
        while state in self.best:
            line.append(self.best[state])
            state = self.game.play(state, self.best[state])
        return tuple(line)
