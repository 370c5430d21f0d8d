"""Three-valued answers to a threshold: proven, refuted, inconclusive. Only proven is true in an `assert`.

A quantity is known as an interval; `quantity >= 0.6` is proven where the whole interval is on the right side, refuted
where none of it is. There is no `==` and no float(): a point estimate cannot slip into an assertion.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from typing import NoReturn

from robustest.errors import InvalidSetting

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}


def check_number(name: str, value: object) -> None:
    """Check that a value of a test is a number, and none that every comparison is false with.

    Raises:
        InvalidSetting: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or value != value:
        raise InvalidSetting(f"{name} must be a number, such as 3 or 0.6; got {value!r}.")


class Answer(Enum):
    """What was shown of a claim."""

    PROVEN = "proven"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a quantity lies, ends included, with the words of how that is known.

    low, high: the ends; +inf for a distance above all that were found. evidence: lines for a message.
    """

    low: float
    high: float
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim with its answer; true only if proven. So `not` makes no claim: write `< 0.9` in place of `not ... >= 0.9`.

    claim: in words, such as `survives 3 pixels >= 0.6`. lines: the evidence, for a message.
    on_inconclusive: called where an inconclusive claim is used as a truth value; says whether it may pass.
    """

    answer: Answer
    claim: str
    lines: tuple[str, ...]
    on_inconclusive: Callable[[Judged], bool]

    def __bool__(self) -> bool:
        if self.answer is Answer.INCONCLUSIVE:
            return self.on_inconclusive(self)
        return self.answer is Answer.PROVEN

    @property
    def proven(self) -> bool:
        """The whole interval supports the claim."""
        return self.answer is Answer.PROVEN

    @property
    def refuted(self) -> bool:
        """The whole interval contradicts the claim."""
        return self.answer is Answer.REFUTED

    @property
    def inconclusive(self) -> bool:
        """The threshold lies inside the interval."""
        return self.answer is Answer.INCONCLUSIVE

    def message(self) -> list[str]:
        """Lines for people: the answer, then the evidence."""
        return [f"{self.answer.value}: {self.claim}", *self.lines]


@dataclass(frozen=True, eq=False)
class Quantity:
    """A number that is known as an interval only, measured when it is first compared.

    name: what it is, in words. measure: gives the interval, after `plan`.
    plan: given the comparison (`>=`, ...) and the threshold, raises an error where these make no claim or one that no
    outcome could show, before anything is measured.
    told: is given every judgement, for the summary.
    """

    name: str
    measure: Callable[[], Interval]
    plan: Callable[[str, float], None]
    told: Callable[[Judged, Interval], None]
    on_inconclusive: Callable[[Judged], bool]

    def __ge__(self, threshold: float) -> Judged:
        return self._judge(">=", threshold)

    def __gt__(self, threshold: float) -> Judged:
        return self._judge(">", threshold)

    def __le__(self, threshold: float) -> Judged:
        return self._judge("<=", threshold)

    def __lt__(self, threshold: float) -> Judged:
        return self._judge("<", threshold)

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError(f"{self.name} is known as an interval, not a number; compare it with >= or <=.")

    def __hash__(self) -> int:
        return id(self)

    def __float__(self) -> NoReturn:
        raise TypeError(f"{self.name} is known as an interval, not a number; compare it with >= or <=.")

    def __bool__(self) -> NoReturn:
        raise TypeError(f"{self.name} alone is neither true nor false; compare it with a threshold, such as >= 0.6.")

    @property
    def interval(self) -> Interval:
        """Where the quantity lies."""
        return self.measure()

    def _judge(self, sign: str, threshold: float) -> Judged:
        check_number(f"what {self.name} is compared with", threshold)
        self.plan(sign, threshold)
        found = self.measure()
        ends = [_COMPARISONS[sign](end, threshold) for end in (found.low, found.high)]
        answer = Answer.PROVEN if all(ends) else Answer.REFUTED if not any(ends) else Answer.INCONCLUSIVE
        judged = Judged(answer, f"{self.name} {sign} {threshold:g}", found.evidence, self.on_inconclusive)
        self.told(judged, found)
        return judged
