"""Stages of a budget, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from robustest.attack.search_pace import stages, tells_nothing


@pytest.mark.parametrize(
    ("queries", "ends"),
    [(1, [1]), (199, [199]), (200, [200]), (201, [200, 201]), (1000, [200, 1000]), (6000, [200, 1000, 5000, 6000])],
)
def test_stages_end_at_200_times_powers_of_five_and_with_the_budget(queries: int, ends: list[int]) -> None:
    assert stages(queries) == ends


def test_only_margins_that_are_all_the_same_tell_nothing() -> None:
    assert tells_nothing(np.full(4, 87.5), 87.5)
    assert not tells_nothing(np.array([87.5, 87.5, 87.4]), 87.5)
    assert not tells_nothing(np.full(4, 87.4), 87.5)
