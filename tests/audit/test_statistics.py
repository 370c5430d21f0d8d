"""Statistics against closed forms, tables, and sums over all outcomes."""

from __future__ import annotations

from itertools import pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustest.audit.statistics import (
    clopper_pearson,
    compare_paired,
    images_needed,
    median_of,
    planning_problem,
    share_of,
    survival_at,
    survival_curve,
)
from robustest.errors import InvalidSetting


@pytest.mark.parametrize("of", [1, 10, 149, 100_000])
def test_clopper_pearson_ends_have_their_closed_form(of: int) -> None:
    assert clopper_pearson(0, of) == pytest.approx((0.0, 1 - 0.025 ** (1 / of)))
    assert clopper_pearson(of, of) == pytest.approx((0.025 ** (1 / of), 1.0))


def test_clopper_pearson_of_five_in_ten_is_that_of_the_tables() -> None:
    assert clopper_pearson(5, 10) == pytest.approx((0.187086, 0.812914), abs=1e-6)


def test_nothing_is_known_of_no_trials() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert share_of(0, 0).share is None


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_clopper_pearson_covers_at_least_as_often_as_it_says(confidence: float) -> None:
    of = 17
    bounds = [clopper_pearson(count, of, confidence=confidence) for count in range(of + 1)]
    for p in np.linspace(0.001, 0.999, 301):
        outcomes = [comb(of, k) * p**k * (1 - p) ** (of - k) for k in range(of + 1)]
        covered = sum(w for w, (low, high) in zip(outcomes, bounds, strict=True) if low <= p <= high)
        assert covered >= confidence - 1e-12


@pytest.mark.parametrize(("count", "of"), [(-1, 3), (4, 3)])
def test_a_count_outside_its_trials_is_refused(count: int, of: int) -> None:
    with pytest.raises(InvalidSetting, match="count must be between 0 and 3"):
        clopper_pearson(count, of)


def test_unknown_counts_against_the_claim_on_both_sides() -> None:
    point = survival_at(np.array([1.0, 2.0, 5.0]), 2, tested=10, unknown=3)
    assert (point.flipped, point.unknown, point.survived) == (2, 3, 5)
    assert point.low == clopper_pearson(5, 10)[0]
    assert point.high == clopper_pearson(8, 10)[1]
    assert point.share == 0.5


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(0, 10), st.integers(0, 10))
def test_the_survival_curve_counts_what_is_flipped_at_every_distance(flips: list[int], more: int, unknown: int) -> None:
    tested = len(flips) + more + unknown
    curve = survival_curve(np.array(flips, float), tested, unknown, whole=True)
    if not tested:
        assert curve == ()
        return
    assert [p.distance for p in curve] == sorted({*flips, 0, 1, 2, 3, 5, 10, 20})
    for point in curve:
        assert point.flipped == sum(flip <= point.distance for flip in flips)
        assert 0 <= point.low <= point.share <= point.high <= 1
    assert all(a.low >= b.low and a.high >= b.high for a, b in pairwise(curve))


def test_a_curve_over_many_distances_keeps_its_ends_and_stays_small() -> None:
    distances = np.random.default_rng(0).random(10_000)
    curve = survival_curve(distances, 10_000, 0, whole=False)
    assert len(curve) <= 401
    assert curve[-1].distance == distances.max()
    assert curve[-1].flipped == 10_000


def test_the_median_counts_survivors_as_farther_than_all() -> None:
    assert median_of(np.array([1.0, 2.0, 3.0]), tested=6, unknown=0).value == 3.0
    assert median_of(np.array([1.0, 2.0]), tested=6, unknown=0).value is None
    assert median_of(np.array([]), tested=0, unknown=0) == median_of(np.array([]), tested=0, unknown=5)


def test_the_interval_of_the_median_is_the_sign_tests() -> None:
    # For n = 20 the 95 % interval of a median runs from the 6th to the 15th value (Conover's table).
    median = median_of(np.arange(1.0, 21.0), tested=20, unknown=0)
    assert (median.value, median.low, median.high) == (10.0, 6.0, 15.0)


def test_unknown_images_lower_only_the_lower_end_of_the_median() -> None:
    median = median_of(np.arange(1.0, 16.0), tested=20, unknown=5)
    assert (median.low, median.high) == (1.0, 15.0)


def test_mcnemar_is_the_binomial_test_of_the_images_that_changed() -> None:
    first = [True] * 5 + [True] * 10 + [False] * 2 + [False] * 3
    second = [True] * 5 + [False] * 10 + [True] * 2 + [False] * 3
    pair = compare_paired(first, second)
    assert (pair.both, pair.only_first, pair.only_second, pair.neither) == (5, 10, 2, 3)
    assert pair.p_value == pytest.approx(2 * (1 + 12 + 66) / 4096)


def test_runs_that_agree_differ_in_nothing() -> None:
    assert compare_paired([True, False], [True, False]).p_value == 1.0


def test_runs_of_different_length_are_not_paired() -> None:
    with pytest.raises(InvalidSetting, match="2 and 1"):
        compare_paired([True, False], [True])


def test_images_needed_are_149_one_sided_and_183_two_sided_for_98_percent() -> None:
    assert images_needed(0.98, two_sided=False) == 149
    assert images_needed(0.98) == 183


@given(st.floats(0.05, 0.995))
def test_images_needed_are_just_enough(share: float) -> None:
    needed = images_needed(share)
    assert clopper_pearson(needed, needed)[0] >= share - 1e-9
    if needed > 1:
        assert clopper_pearson(needed - 1, needed - 1)[0] < share + 1e-9


def test_a_claim_that_no_outcome_can_show_is_named_before_the_run() -> None:
    assert "183 images with none flipped could (149 for a one-sided bound)" in str(planning_problem(0.98, 100))
    assert planning_problem(0.98, 183) is None
