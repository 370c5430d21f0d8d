"""A required survival and its answer as a sentence."""

from __future__ import annotations

import pytest

from robustest.audit.requirements import Answer, Judgement, Requirement
from robustest.audit.statistics import SurvivalPoint
from robustest.settings import Norm


@pytest.mark.parametrize(
    ("distance", "norm", "within"),
    [(3, "l0", "3 pixels"), (1, "l0", "1 pixel"), (1, "l0_dims", "1 channel"), (0.25, "l2", "l2 0.25")],
)
def test_the_count_is_of_those_that_survive_the_distance_asked_about(distance: float, norm: Norm, within: str) -> None:
    point = SurvivalPoint(distance, flipped=2, unknown=0, of=10, low=0.44, high=0.97)
    assert Judgement(Requirement(distance, 0.6), Answer.INCONCLUSIVE, point, norm).sentence == (
        f"required: at least 60.0% survive {within}; inconclusive: 8 of 10 survive {within} of this attack "
        "(95 % interval 44.0% to 97.0%)"
    )
