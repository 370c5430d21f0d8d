"""Selection rules against their formulas, worked out by hand."""

import numpy as np
import pytest

from games.select import blend, opened, puct, uct, uniform

PRIORS = np.array([0.5, 0.25, 0.25])


def test_uct_is_the_mean_plus_the_square_root_of_log_total_over_tries():
    tries, means = np.array([4, 1, 0]), np.array([0.5, 0.25, 0.0])
    scores = uct(c=2.0)(tries, means, PRIORS)
    log5 = 1.6094379124341003
    assert scores[:2] == pytest.approx([0.5 + 2 * (log5 / 4) ** 0.5, 0.25 + 2 * log5**0.5])
    assert scores[2] == np.inf


def test_uct_without_exploration_is_the_mean():
    assert uct(c=0.0)(np.array([3, 1]), np.array([0.2, 0.9]), PRIORS[:2]) == pytest.approx([0.2, 0.9])


def test_uct_prefers_the_less_tried_of_two_equal_moves():
    scores = uct()(np.array([10, 2]), np.array([0.5, 0.5]), PRIORS[:2])
    assert scores[1] > scores[0]


def test_puct_is_the_mean_plus_prior_times_root_of_total_over_tries():
    scores = puct(c=2.0)(np.array([3, 0, 0]), np.array([0.5, 0.5, 0.5]), PRIORS)
    # root of 1 + 3 is 2; priors times sqrt(3 moves)
    expected = 0.5 + 2.0 * PRIORS * 3**0.5 * 2.0 / np.array([4, 1, 1])
    assert scores == pytest.approx(expected)


def test_uniform_draws_every_move_equally_often():
    select = uniform(np.random.default_rng(0))
    picks = [int(np.argmax(select(np.array([9, 0, 0, 0]), np.zeros(4), np.zeros(4)))) for _ in range(4000)]
    counts = np.bincount(picks, minlength=4)
    assert (np.abs(counts - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5).all()  # five standard deviations


def test_blend_counts_both_means_the_same_after_k_tries_and_forgets_the_borrowed_one():
    zeros, ones, tried = np.zeros(3), np.ones(3), np.array([5, 5, 0])
    weights = blend(zeros, np.array([0, 5, 1]), ones, tried, k=5.0)
    assert weights == pytest.approx([1.0, 0.5, 0.0])  # sqrt(5/5), sqrt(5/20), never held
    assert blend(zeros, np.array([10**8]), ones, np.array([9]), k=5.0)[0] < 1e-3
    assert (blend(zeros, tried, ones, tried, k=0.0) == 0).all()


@pytest.mark.parametrize(("visits", "exponent", "moves", "open_"), [
    (0, 0.5, 9, 1), (1, 0.5, 9, 2), (16, 0.5, 9, 5), (400, 0.5, 9, 9), (0, None, 9, 9),
])  # fmt: skip
def test_widening_opens_one_move_and_then_a_power_of_the_visits(visits, exponent, moves, open_):
    assert opened(visits, exponent, moves) == open_
