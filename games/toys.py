"""Small games with known answers: to test searches with, and to learn the engine from.

Payoffs are player I's: 1 for a win, 0 for a loss, 0.5 for a draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from games.game import Ending, Evaluation, GameError, Player

WIN = Evaluation(Ending.GOAL, 1.0)
LOSS = Evaluation(Ending.LEFT, 0.0)
DRAW = Evaluation(Ending.EXHAUSTED, 0.5)
GOES_ON = Evaluation()

NimState: TypeAlias = tuple[tuple[int, ...], bool]
Cells: TypeAlias = frozenset[tuple[int, bool]]

_LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


def _even(count: int) -> NDArray[np.float64]:
    return np.full(count, 1.0 / count) if count else np.zeros(0)


@dataclass(frozen=True, slots=True)
class Nim:
    """Take any number of objects from one heap; whoever takes the last one wins.

    With hostile players the one to move wins if and only if the heaps' exclusive or is not 0 (Bouton 1901).
    A state is the heaps and whether player II moves; a move is (heap, objects taken).
    """

    heaps: tuple[int, ...]

    def start(self) -> NimState:
        return self.heaps, False

    def player(self, state: NimState) -> Player:
        return Player.SECOND if state[1] else Player.FIRST

    def moves(self, state: NimState) -> Sequence[tuple[int, int]]:
        return [(i, n) for i, heap in enumerate(state[0]) for n in range(1, heap + 1)]

    def chances(self, state: NimState) -> NDArray[np.float64]:
        return _even(sum(state[0]))

    def play(self, state: NimState, move: tuple[int, int]) -> NimState:
        heaps = list(state[0])
        heaps[move[0]] -= move[1]
        return tuple(heaps), not state[1]

    def bounds(self, state: NimState) -> tuple[float, float]:
        return 0.0, 1.0

    def known(self, state: NimState) -> Evaluation | None:
        return None

    def evaluate(self, state: NimState) -> Evaluation:
        """A loss for the one who finds nothing left to take."""
        if any(state[0]):
            return GOES_ON
        return WIN if state[1] else LOSS


@dataclass(frozen=True, slots=True)
class TicTacToe:
    """Noughts and crosses; a draw if both play well.

    A state is the set of marks made, (cell, whether it is player II's); a move is a cell, 0 to 8.
    """

    def start(self) -> Cells:
        return frozenset()

    def player(self, state: Cells) -> Player:
        return Player.SECOND if len(state) % 2 else Player.FIRST

    def moves(self, state: Cells) -> Sequence[int]:
        taken = {cell for cell, _ in state}
        return [cell for cell in range(9) if cell not in taken]

    def chances(self, state: Cells) -> NDArray[np.float64]:
        return _even(9 - len(state))

    def play(self, state: Cells, move: int) -> Cells:
        return state | {(move, len(state) % 2 == 1)}

    def bounds(self, state: Cells) -> tuple[float, float]:
        return 0.0, 1.0

    def known(self, state: Cells) -> Evaluation | None:
        return None

    def evaluate(self, state: Cells) -> Evaluation:
        """Three marks in a line win; nine marks without one are a draw."""
        for second, ending in ((False, WIN), (True, LOSS)):
            if any(all((cell, second) in state for cell in line) for line in _LINES):
                return ending
        return DRAW if len(state) == 9 else GOES_ON


@dataclass(frozen=True, slots=True, eq=False)
class RandomTree:
    """A tree in which every play has `depth` moves out of `branching`, and pays what `payoffs` says.

    payoffs: (branching,) * depth, in [0, 1]. A state is the row of moves made, so no two orders meet.
    chances: (branching,) of each move wherever one is drawn.
    """

    payoffs: NDArray[np.float64]
    odds: NDArray[np.float64]

    @classmethod
    def draw(cls, branching: int, depth: int, *, rng: np.random.Generator) -> RandomTree:
        """A tree with uniform payoffs and random odds."""
        return cls(rng.random((branching,) * depth), rng.dirichlet(np.ones(branching)))

    def start(self) -> tuple[int, ...]:
        return ()

    def player(self, state: tuple[int, ...]) -> Player:
        return Player.SECOND if len(state) % 2 else Player.FIRST

    def moves(self, state: tuple[int, ...]) -> Sequence[int]:
        return range(self.payoffs.shape[0])

    def chances(self, state: tuple[int, ...]) -> NDArray[np.float64]:
        return self.odds

    def play(self, state: tuple[int, ...], move: int) -> tuple[int, ...]:
        return (*state, move)

    def bounds(self, state: tuple[int, ...]) -> tuple[float, float]:
        return 0.0, 1.0

    def known(self, state: tuple[int, ...]) -> Evaluation | None:
        return None

    def evaluate(self, state: tuple[int, ...]) -> Evaluation:
        """The payoff of a play of full length."""
        if len(state) < self.payoffs.ndim:
            return GOES_ON
        return Evaluation(Ending.GOAL, float(self.payoffs[state]))


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """The players take items in turn until `size` are taken; the set of items taken says what it pays.

    The pixel game in small: order does not matter, a play reaches its goal or leaves its region, and the
    longer it is the less it pays. weights: (items,) added up; from `goal` on the play pays 1 / items taken.
    A state is the set of items taken; there are at most 2**items of them, against items! orders.
    """

    weights: tuple[float, ...]
    goal: float
    size: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= len(self.weights):
            raise GameError(f"size must be in 1..{len(self.weights)}, the number of items; got {self.size}")

    def start(self) -> frozenset[int]:
        return frozenset()

    def player(self, state: frozenset[int]) -> Player:
        return Player.SECOND if len(state) % 2 else Player.FIRST

    def moves(self, state: frozenset[int]) -> Sequence[int]:
        return [item for item in range(len(self.weights)) if item not in state]

    def chances(self, state: frozenset[int]) -> NDArray[np.float64]:
        return _even(len(self.weights) - len(state))

    def play(self, state: frozenset[int], move: int) -> frozenset[int]:
        return state | {move}

    def bounds(self, state: frozenset[int]) -> tuple[float, float]:
        return 0.0, 1.0 / max(len(state), 1)

    def known(self, state: frozenset[int]) -> Evaluation | None:
        return Evaluation(Ending.LEFT) if len(state) > self.size else None

    def evaluate(self, state: frozenset[int]) -> Evaluation:
        """Whether the items taken are heavy enough, and if not how far on the way they are."""
        total = sum(self.weights[item] for item in sorted(state))
        if total >= self.goal:
            return Evaluation(Ending.GOAL, 1.0 / max(len(state), 1), score=self.goal - total)
        if len(state) == len(self.weights):
            return Evaluation(Ending.EXHAUSTED)
        ceiling = 1.0 / (len(state) + 1)
        estimate = max(ceiling * total / self.goal, 0.0)
        return Evaluation(estimate=estimate, upper=ceiling, score=self.goal - total)
