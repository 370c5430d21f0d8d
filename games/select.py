"""Selection: which move to try next, as a score of each move seen by the player to move.

A rule takes what is known of the moves of one state (how often each was tried, the mean of the
mover's payoffs scaled to [0, 1], its prior) and returns a score each; the largest is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Select: TypeAlias = Callable[[Counts, Floats, Floats], Floats]
"""(A,) tries, (A,) means in [0, 1], (A,) priors -> (A,) scores, +inf for "try this first"."""


def uct(*, c: float = 2**0.5) -> Select:
    """Upper confidence bound of each move.

    Kocsis & Szepesvári (2006): `mean + c * sqrt(ln(sum(tries)) / tries)`; +inf for a move never tried.

    Args:
        c: weight of exploration, >= 0; sqrt(2) suits payoffs in [0, 1].
    """

    def scores(tries: Counts, means: Floats, _priors: Floats) -> Floats:
        bonus = c * np.sqrt(np.log(max(int(tries.sum()), 1)) / np.maximum(tries, 1))
        return np.where(tries > 0, means + bonus, np.inf)

    return scores


def puct(*, c: float = 1.0) -> Select:
    """Upper confidence bound with priors.

    Silver et al. (2017): `mean + c * prior * sqrt(1 + sum(tries)) / (1 + tries)`; priors are scaled to have
    mean 1 over sqrt(A), so that `c` means the same for few moves and for many.

    Args:
        c: weight of exploration, >= 0.
    """

    def scores(tries: Counts, means: Floats, priors: Floats) -> Floats:
        weight = priors / max(float(priors.sum()), 1e-300) * np.sqrt(len(priors))
        bonus: Floats = c * weight * np.sqrt(1 + tries.sum()) / (1 + tries)
        return means + bonus

    return scores


def uniform(rng: np.random.Generator) -> Select:
    """Any move, equally likely: the baseline that every other rule must beat."""

    def scores(tries: Counts, _means: Floats, _priors: Floats) -> Floats:
        return rng.random(len(tries))

    return scores


def blend(means: Floats, tries: Counts, first_means: Floats, first_tries: Counts, *, k: float) -> Floats:
    """Means mixed with all-moves-as-first means, which fade as a move is tried itself.

    Gelly & Silver (2011): weight `sqrt(k / (3 * tries + k))`, 0 for a move that no play ever held.

    Args:
        means, tries: (A,) of the move made here.
        first_means, first_tries: (A,) of the move made anywhere later in a play.
        k: tries at which both count the same, >= 0; 0 leaves `means` as they are.
    """
    if k == 0:
        return means
    weight = np.where(first_tries > 0, np.sqrt(k / (3.0 * tries + k)), 0.0)
    return (1 - weight) * means + weight * first_means


def opened(visits: int, exponent: float | None, moves: int) -> int:
    """How many of a state's moves are open: progressive widening, `1 + floor(visits**exponent)`.

    Coulom (2007). An exponent of None opens all of them at once.
    """
    return moves if exponent is None else min(moves, 1 + int(visits**exponent))
