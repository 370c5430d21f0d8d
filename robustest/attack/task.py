"""The contract between a search and what drives it.

A search never calls the classifier: it is a generator that yields batches of edits and is sent their margins (< 0: the
image is adversarial). The driver owns the budget, remembers every answer, keeps the best image and the curve, and may
close the generator at any yield. A search draws only from the `rng` it is given, so it repeats bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from robustest.results import Edits, Margins, SaliencyChange
from robustest.settings import AttackSettings

Check = Literal["groups", "pixels", "cheap"]


@dataclass(slots=True)
class Notes:
    """What a search and its driver tell each other besides questions and margins.

    saliency: gives the distribution before and after the search, asked at the end.
    scores: (N, K) float64 of the N images just answered, logits or logarithms of probabilities, NaN where an image was
        remembered and not scored again; None where the classifier gives the label alone. Before the search begins: (1, K)
        of the unchanged image.
    together: the driver takes `Turns` for an answer.
    check: how the best image is checked in the end for pixels that can be put back. "groups": groups of pixels first.
        "pixels": one by one, where the queries held back allow that, and more are held back the more there are. "cheap": so,
        too, but where they do not allow it few are held back for groups, or nothing where there are many queries.
    """

    saliency: Callable[[], SaliencyChange] | None = None
    scores: NDArray[np.float64] | None = None
    together: bool = False
    check: Check = "groups"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a search is told of one image.

    image: (H, W, C) float32 in [0, 1]. eight_bit: colours must be multiples of 1/255.
    label: class to be left. target: class to be reached, None for any other.
    decision_only: margins are only +1 and -1, because the classifier gives the label alone.
    clean_margin: margin of the unchanged image, > 0; it was the first query and is remembered.
    settings: budget, norm, values, guide and the rest.
    notes: where the search may leave more than its questions.
    """

    image: NDArray[np.float32]
    eight_bit: bool
    label: int
    target: int | None
    decision_only: bool
    clean_margin: float
    settings: AttackSettings
    notes: Notes = field(default_factory=Notes)

    @property
    def queries(self) -> int:
        """Queries left to the search in all: the budget less the clean image."""
        return self.settings.queries - 1


class Turns(Protocol):
    """Several questions in a row that compiled code finds, for many games in one call.

    A search may yield it in place of `Edits`, where its driver knows of them (`Notes.together`), and is sent on when they
    are over, with margins that mean nothing. The static methods take turns of one class, each of a game of its own, and
    their seats (G,).

    seat: a number by which compiled code finds it.
    """

    seat: int

    @staticmethod
    def propose(turns: Sequence[Any], seats: NDArray[np.int64], /) -> NDArray[np.int64]:
        """Find what each asks next; (G,) how many states, 0 where it is over."""

    @staticmethod
    def edits(turns: Sequence[Any], seats: NDArray[np.int64], /) -> Edits:
        """What they ask, one after the other."""

    @staticmethod
    def heed(
        turns: Sequence[Any],
        seats: NDArray[np.int64],
        margins: Margins,
        starts: NDArray[np.int64],
        scores: NDArray[np.float64] | None,
        /,
    ) -> NDArray[np.bool_]:
        """Take in the answers, of each game from `starts` (G,) on; (G,) which of them go on. scores: see `Notes.scores`."""


Question = Edits | Turns
Search = Generator[Question, Margins, None]
Strategy = Callable[[Task, np.random.Generator], Search]
