"""What every search has in common: it asks in batches, can stop at any time, and says why it did.

A search is a generator. It yields a list of states and is sent one `Evaluation` for each, in the
same order; it returns a `SearchResult`. It knows nothing of who answers, of threads or of devices,
so one driver can run many searches side by side and merge their questions into one batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeAlias, TypeVar

from games.game import Ending, Evaluation, Game, GameError, Kind, M, Outcome, Player, S

R = TypeVar("R")

Asking: TypeAlias = Generator[list[S], Sequence[Evaluation], R]
"""A generator that asks about lists of states and in the end returns an R."""


class Stop(Enum):
    """Why a search stopped."""

    SOLVED = "The value of the start was proven."
    ITERATIONS = "The iterations ran out. Allow more, or ask about a smaller game."
    QUERIES = "The queries ran out. Allow more, or ask about a smaller game."
    SECONDS = "The time ran out. Allow more, or ask about a smaller game."
    CONVERGED = "Nothing improved for ceil(1/epsilon) iterations. A smaller epsilon waits for longer."


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """When to stop, besides when the start is solved. None is no limit.

    queries: states asked about, >= 1.
    iterations: of the search, >= 1.
    seconds: of wall time, > 0. The only setting that makes a result depend on the machine.
    epsilon: in (0, 1]: stop after ceil(1/epsilon) iterations in which no better play was found, and neither the
        estimate nor a proven bound moved by more than epsilon of the payoffs' range.
    """

    queries: int | None = None
    iterations: int | None = None
    seconds: float | None = None
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.queries is not None and self.queries < 1:
            raise GameError(f"queries must be >= 1; got {self.queries}. Leave it out for no limit.")
        if self.iterations is not None and self.iterations < 1:
            raise GameError(f"iterations must be >= 1; got {self.iterations}. Leave it out for no limit.")
        if self.seconds is not None and not self.seconds > 0:
            raise GameError(f"seconds must be > 0; got {self.seconds}. Leave it out for no limit.")
        if self.epsilon is not None and not 0 < self.epsilon <= 1:
            raise GameError(f"epsilon must be in (0, 1]; got {self.epsilon}. 0.01 waits 100 iterations.")


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a search's curve, written when something changed.

    queries, iterations: spent so far.
    value: estimated payoff of the start; lower, upper: its proven bounds.
    best: payoff of the best play that reached the goal, None while there is none.
    """

    queries: int
    iterations: int
    value: float
    lower: float
    upper: float
    best: float | None


@dataclass(frozen=True, slots=True)
class MoveStatistics(Generic[M]):
    """How plays went that held one move, anywhere in them (all-moves-as-first).

    tries: plays that held it; mean: their mean payoff.
    """

    player: Player
    move: M
    tries: int
    mean: float


@dataclass(frozen=True, slots=True)
class SearchResult(Generic[S, M]):
    """What a search found.

    value: payoff of the start under `kind`; exact where `lower == upper`, else an estimate.
    lower, upper: proven bounds on it.
    best: the best play seen that reached the goal, whoever would have allowed it; None if none did.
    line: the principal line, best moves on both sides; branch: the most tried moves.
    queries: states asked about; iterations: of the search; nodes: states it holds.
    curve: what was known when.
    moves: statistics of every move tried; empty for the exact solvers.
    """

    kind: Kind
    value: float
    lower: float
    upper: float
    stop: Stop
    best: Outcome[S] | None
    line: tuple[M, ...]
    branch: tuple[M, ...]
    queries: int
    iterations: int
    nodes: int
    curve: tuple[Point, ...]
    moves: tuple[MoveStatistics[M], ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the value is proven."""
        return self.lower == self.upper


Search: TypeAlias = Asking[S, SearchResult[S, M]]
"""A search over a game with states S and moves M."""


@dataclass(slots=True)
class Watch(Generic[S]):
    """The state of a running search that is always at hand: hand one in to look at it meanwhile.

    stopping: when to stop. clock: seconds; injected so that tests need not wait.
    queries, iterations: spent so far. answers: to every state asked about; none is asked about twice, and
        several searches of one game may share them.
    """

    stopping: Stopping = field(default_factory=Stopping)
    clock: Callable[[], float] = time.monotonic
    queries: int = 0
    iterations: int = 0
    best: Outcome[S] | None = None
    curve: list[Point] = field(default_factory=list)
    answers: dict[S, Evaluation] = field(default_factory=dict)
    _started: float = 0.0
    _reference: tuple[float, float, float] = (0.0, 0.0, 0.0)
    _improved: int = 0

    def __post_init__(self) -> None:
        self._started = self.clock() if self.stopping.seconds is not None else 0.0

    @property
    def room(self) -> int | None:
        """Queries that may still be asked; None where there is no limit."""
        return None if self.stopping.queries is None else max(self.stopping.queries - self.queries, 0)

    def affordable(self, states: Sequence[S]) -> int:
        """How many of `states`, from the first on, can be answered with the queries that are left."""
        if self.room is None:
            return len(states)
        new: set[S] = set()
        for count, state in enumerate(states):
            if state not in self.answers:
                new.add(state)
            if len(new) > self.room:
                return count
        return len(states)

    def see(self, state: S, evaluation: Evaluation) -> None:
        """Look at an answer: remember the best play that reached the goal."""
        if evaluation.ending is Ending.GOAL and (self.best is None or evaluation.payoff > self.best.payoff):
            self.best = Outcome(state, evaluation.ending, evaluation.payoff)

    def note(self, value: float, lower: float, upper: float, *, span: float = 1.0) -> None:
        """Write a point of the curve if anything changed; `span` is the range of payoffs."""
        best = None if self.best is None else self.best.payoff
        last = self.curve[-1] if self.curve else None
        if last is not None and (last.value, last.lower, last.upper, last.best) == (
            value,
            lower,
            upper,
            best,
        ):
            return
        now = (value, lower, upper)
        moved = max(abs(new - old) for new, old in zip(now, self._reference, strict=True))
        if last is None or last.best != best or moved > (self.stopping.epsilon or 0.0) * span:
            self._improved, self._reference = self.iterations, now
        self.curve.append(Point(self.queries, self.iterations, value, lower, upper, best))

    def reason(self) -> Stop | None:
        """Why the search must stop now; None while it may go on."""
        rule = self.stopping
        if self.room == 0:
            return Stop.QUERIES
        if rule.iterations is not None and self.iterations >= rule.iterations:
            return Stop.ITERATIONS
        if rule.seconds is not None and self.clock() - self._started >= rule.seconds:
            return Stop.SECONDS
        if rule.epsilon is not None and self.iterations - self._improved >= math.ceil(1 / rule.epsilon):
            return Stop.CONVERGED
        return None


def ask(states: Sequence[S], watch: Watch[S]) -> Asking[S, list[Evaluation]]:
    """Ask about those of `states` that were never asked about, as one batch; return the answers to all."""
    new = [state for state in dict.fromkeys(states) if state not in watch.answers]
    if new:
        watch.queries += len(new)
        for state, answer in zip(new, (yield new), strict=True):
            watch.answers[state] = answer
    answers = [watch.answers[state] for state in states]
    for state, answer in zip(states, answers, strict=True):
        watch.see(state, answer)
    return answers


def learn(game: Game[S, M], state: S, watch: Watch[S]) -> Asking[S, Evaluation]:
    """What is known of one state: from the rules, or else by asking."""
    known = game.known(state)
    if known is None:
        return (yield from ask([state], watch))[0]
    watch.see(state, known)
    return known


def run(search: Asking[S, R], evaluate: Callable[[S], Evaluation]) -> R:
    """Run one search to its end, answering each state on its own: for games held in memory."""
    try:
        question = next(search)
        while True:
            question = search.send([evaluate(state) for state in question])
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # StopIteration.value is Any in typeshed
