"""The words of a two-player game: who moves, who wants what, how a play ends and what it pays.

A play is a row of moves from the start. Its *payoff* is a number that the cooperative players
want large; what each player wants is the kind of game. A state says all that matters of the moves
made so far, and nothing of their order: equal states are one state, however they were reached.
Whether a play has ended, and what it pays, may have to be asked of somebody else (a classifier):
the rules here never ask, they say what they know.

Source: Wu et al., TCS 2020, arXiv:1807.03571, section 4, for the four kinds of game.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S", bound=Hashable)
M = TypeVar("M", bound=Hashable)


class GameError(ValueError):
    """A game, or a question about a game, that cannot be played as given."""


class Player(Enum):
    """The two who move."""

    FIRST = "player I"
    SECOND = "player II"


class Aim(IntEnum):
    """What the one who moves does with the payoff."""

    MINIMISE = -1
    CHANCE = 0
    MAXIMISE = 1


MINIMISE, CHANCE, MAXIMISE = Aim  # names of their own: an enumeration looks its members up slowly


class Kind(Enum):
    """The four kinds of game: what the players want.

    COOPERATOR, ADVERSARY and NATURE are one game with three kinds of player II; there player I
    wants a large payoff. COMPETITIVE turns it round: player I is hostile and player II is not.
    """

    COOPERATOR = "cooperator"
    ADVERSARY = "adversary"
    NATURE = "nature"
    COMPETITIVE = "competitive"

    @property
    def meaning(self) -> str:
        """One sentence for whoever chooses."""
        return _MEANING[self]

    def aim(self, player: Player) -> Aim:
        """What `player` does in this kind of game."""
        first, second = _AIMS[self]
        return first if player is Player.FIRST else second


_AIMS = {
    Kind.COOPERATOR: (Aim.MAXIMISE, Aim.MAXIMISE),
    Kind.ADVERSARY: (Aim.MAXIMISE, Aim.MINIMISE),
    Kind.NATURE: (Aim.MAXIMISE, Aim.CHANCE),
    Kind.COMPETITIVE: (Aim.MINIMISE, Aim.MAXIMISE),
}
_MEANING = {
    Kind.COOPERATOR: "Both players want the payoff: the value is the best that any play pays.",
    Kind.ADVERSARY: "Player II is hostile: the value is what player I can force against any reply.",
    Kind.NATURE: "Player II draws its moves by chance: the value is player I's best expected payoff.",
    Kind.COMPETITIVE: "Player I is hostile: the value is what player II can force whatever I picks.",
}


class Ending(Enum):
    """Why a play is over."""

    GOAL = "the goal was reached"
    LEFT = "the play left the region it is allowed in"
    EXHAUSTED = "no move was left"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is known of a state once it was asked about.

    ending: None while the play goes on.
    payoff: of the ended play; without meaning while it goes on.
    estimate: a guess of the payoff to come while the play goes on; None where there is no guess.
    upper: a payoff that no play through the state beats, now that it is known to go on; inf for none known.
    score: what the one who was asked said, in its own units (a margin, say); nan if it said nothing.
        Admissible bounds are computed from it.
    """

    ending: Ending | None = None
    payoff: float = 0.0
    estimate: float | None = None
    upper: float = float("inf")
    score: float = float("nan")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[S]):
    """An ended play: where it ended, why, and what it pays."""

    state: S
    ending: Ending
    payoff: float


class Game(Protocol[S, M]):
    """The rules. Pure: no method changes anything, and none asks for a score."""

    def start(self) -> S:
        """The state before the first move."""

    def player(self, state: S) -> Player:
        """Who moves in `state`."""

    def moves(self, state: S) -> Sequence[M]:
        """The legal moves where the play goes on, each once, the most promising first."""

    def chances(self, state: S) -> NDArray[np.float64]:
        """Probability of each of `moves(state)` were it drawn, summing to 1; elsewhere a prior."""

    def play(self, state: S, move: M) -> S:
        """The state after `move`."""

    def bounds(self, state: S) -> tuple[float, float]:
        """Payoffs that no play through `state` falls below or rises above, from the rules alone."""

    def known(self, state: S) -> Evaluation | None:
        """What the rules alone say of a state; None where it must be asked about."""


class ScoredGame(Game[S, M], Protocol[S, M]):
    """A game that can also answer for itself: toys, and small games held in memory."""

    def evaluate(self, state: S) -> Evaluation:
        """The answer to the question about `state`."""


def mover_sign(aim: int) -> float:
    """1.0 where a large payoff is wanted, -1.0 where a small one is."""
    return -1.0 if aim == MINIMISE else 1.0
