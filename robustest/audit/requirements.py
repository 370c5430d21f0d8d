"""A required survival and whether an audit shows it: three answers, because not shown is not refuted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from robustest.audit.statistics import SurvivalPoint
from robustest.errors import InvalidSetting
from robustest.settings import Norm

_UNITS = {"l0": "pixels", "l0_dims": "channels"}


class Answer(Enum):
    """Whether a required survival was shown."""

    SHOWN = "shown"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Requirement:
    """At least `share` of the images must survive `distance` in the norm attacked, at the confidence of the intervals."""

    distance: float
    share: float

    @staticmethod
    def parse(text: str) -> Requirement:
        """From `distance:share`, such as `3:0.6`.

        Raises:
            InvalidSetting: not of that form, or out of range.
        """
        left, colon, right = text.partition(":")
        try:
            distance, share = float(left), float(right)
        except ValueError:
            colon = ""
            distance = share = 0.0
        if not colon or not 0 <= distance < float("inf") or not 0 < share <= 1:
            raise InvalidSetting(
                f"a requirement must be distance:share with distance >= 0 and share in (0, 1]; got {text!r}. "
                "'3:0.6' asks that at least 60 % survive 3 pixels."
            )
        return Requirement(distance, share)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A requirement with the answer, the point of the curve it rests on, and the norm attacked."""

    requirement: Requirement
    answer: Answer
    point: SurvivalPoint
    norm: Norm

    @property
    def sentence(self) -> str:
        """The judgement with its count and interval, for people."""
        p, need = self.point, self.requirement
        unit = _UNITS.get(self.norm, "")
        distance = (
            f"{need.distance:g} {unit[:-1] if need.distance == 1 else unit}"
            if unit
            else f"{self.norm} {need.distance:g}"
        )
        return (
            f"required: at least {need.share:.1%} survive {distance}; {self.answer.value}: {p.survived} of {p.of} survive "
            f"{distance} of this attack (95 % interval {p.low:.1%} to {p.high:.1%}"
            + (f", {p.unknown} unknown counted on both sides)" if p.unknown else ")")
        )
