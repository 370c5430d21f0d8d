"""What is said of classifiers that can only be asked, against closed forms and exact probabilities."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.bounds.blackbox import (
    ablate,
    ablation_radius,
    clever,
    discrete_gaussian,
    smooth,
    smoothing_radius,
    volume_test,
)
from robustest.bounds.guarantee import Bracket, Guarantee
from robustest.errors import InvalidSetting

Array = NDArray[np.float32]


def gaussian_pmf(sigma: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    z = np.arange(-int(12 * sigma) - 12, int(12 * sigma) + 13)
    weight = np.exp(-(z**2) / (2 * sigma**2))
    return z, weight / weight.sum()


@pytest.mark.parametrize("sigma", [0.4, 1.0, 7.3, 64.0])
def test_whole_numbers_follow_the_discrete_gaussian(sigma: float, rng: np.random.Generator) -> None:
    """Counts of 200,000 draws lie within six standard deviations of the exact chances, and so do mean and variance."""
    draws = discrete_gaussian((200_000,), sigma, rng=rng)
    z, chance = gaussian_pmf(sigma)
    counts = np.array([(draws == v).sum() for v in z[chance > 1e-4]])
    expected = 200_000 * chance[chance > 1e-4]
    assert (np.abs(counts - expected) < 6 * np.sqrt(expected) + 1).all()
    assert abs(draws.mean()) < 6 * sigma / math.sqrt(200_000)
    variance = float((z**2 * chance).sum())
    assert draws.var() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize(("sigma", "p"), [(1.0, 0.9), (2.0, 0.7), (3.5, 0.99), (8.0, 0.999)])
def test_the_smoothing_radius_is_safe_for_the_worst_base_classifier(sigma: float, p: float) -> None:
    """In one dimension the worst classifier is a threshold (Neyman-Pearson): at every shift within the radius it keeps
    more than half of the votes, by exact sums."""
    radius = smoothing_radius(p, sigma)
    assert radius is not None
    z, chance = gaussian_pmf(sigma)
    # Votes for z <= cut, a randomised threshold that has exactly p of the votes at shift 0.
    below = np.cumsum(chance)
    cut = int(np.searchsorted(below, p))
    part = (p - (below[cut - 1] if cut else 0.0)) / chance[cut]
    for shift in range(int(radius * 255) + 1):
        moved = np.interp(z - shift, z, chance, left=0, right=0)
        assert moved[:cut].sum() + part * moved[cut] > 0.5
    # Not far below what the normal distribution would allow.
    from scipy.special import ndtri

    assert 0.5 * ndtri(p) * sigma / 255 < radius < ndtri(p) * sigma / 255


def test_no_majority_is_no_radius() -> None:
    assert smoothing_radius(0.5, 3.0) is None
    assert smoothing_radius(0.3, 3.0) is None


def test_smoothing_a_half_space_certifies_less_than_the_exact_distance(rng: np.random.Generator) -> None:
    """The smoothed version of a half-space is the half-space: its exact distance is 40 steps of 1/255."""

    def classify(images: Array) -> NDArray[np.int64]:
        return (images.reshape(len(images), -1)[:, 0] * 255 < 60).astype(np.int64)

    image = np.full((2, 2, 1), 100, np.uint8)
    found = smooth(classify, image, sigma=20.0, samples=4000, rng=rng)
    assert found.label == 0
    assert found.bound is not None
    assert found.bound.guarantee is Guarantee.PROBABILISTIC
    assert found.bound.confidence == 0.999
    assert 20 / 255 < found.bound.value < 40 / 255
    assert "not the classifier itself" in found.bound.assumptions[0]


def test_smoothing_abstains_on_a_coin(rng: np.random.Generator) -> None:
    def classify(images: Array) -> NDArray[np.int64]:
        return (images.reshape(len(images), -1)[:, 0] * 255 > 100).astype(np.int64)

    found = smooth(classify, np.full((1, 1, 1), 100, np.uint8), sigma=50.0, samples=1000, rng=rng)
    assert found.label is None
    assert found.bound is None


def test_smoothing_repeats_with_its_seed() -> None:
    def classify(images: Array) -> NDArray[np.int64]:
        return (images.mean((1, 2, 3)) > 0.3).astype(np.int64)

    image = np.full((3, 3, 1), 90, np.uint8)
    one, two = (smooth(classify, image, sigma=9.0, samples=500, rng=np.random.default_rng(4)) for _ in range(2))
    assert (one.label, one.count) == (two.label, two.count)


@pytest.mark.parametrize(("places", "keep"), [(16, 3), (784, 45), (9, 9), (5, 1)])
def test_the_ablation_radius_is_the_formula(places: int, keep: int) -> None:
    for p in (0.51, 0.7, 0.9, 0.999, 1.0):
        fits = [r for r in range(places + 1) if p - (1 - math.comb(places - r, keep) / math.comb(places, keep)) > 0.5]
        assert ablation_radius(p, places, keep) == max(fits)
    assert ablation_radius(0.5, places, keep) is None


def test_ablation_is_never_above_brute_force(rng: np.random.Generator) -> None:
    """Bright pixels of a 3x3 image vote; how many must change for the ablated classifier to change is counted exactly."""

    def classify(images: Array) -> NDArray[np.int64]:
        return (images[..., 0].sum((1, 2)) < 0.5).astype(np.int64)  # class 0: some kept pixel is bright

    image = np.ones((3, 3, 1), np.float32)
    found = ablate(classify, image, keep=2, samples=5000, rng=rng)
    assert found.label == 0
    assert found.bound is not None
    # With m dark pixels the ablated classifier says 1 with chance C(m, 2) / C(9, 2): over half from m = 7 on.
    needed = next(m for m in range(10) if math.comb(m, 2) / 36 >= 0.5)
    assert needed == 7
    assert 1 < found.bound.value <= needed
    with pytest.raises(InvalidSetting, match="keep must be"):
        ablate(classify, image, keep=0, rng=rng)


def test_the_volume_test_gives_the_closed_form(rng: np.random.Generator) -> None:
    """None of n misclassified: at most 1 - alpha^(1/n)."""

    def draw(count: int) -> Array:
        return rng.random((count, 2, 2, 1)).astype(np.float32)

    bound = volume_test(lambda x: np.zeros(len(x), np.int64), draw, 0, samples=1000, confidence=0.99)
    assert bound.value == pytest.approx(1 - 0.01 ** (1 / 1000))
    assert bound.guarantee is Guarantee.STATISTICAL
    some = volume_test(lambda x: (x[:, 0, 0, 0] < 0.1).astype(np.int64), draw, 0, samples=2000)
    assert 0.1 < some.value < 0.15


def test_clever_is_an_estimate_and_cannot_be_the_end_of_a_bracket(rng: np.random.Generator) -> None:
    """On a linear function every gradient is the same, and the estimate is the gap over the slope."""
    weight = np.array([3.0, 4.0])

    def linear(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return points @ weight - 1, np.tile(weight, (len(points), 1))

    estimate = clever(linear, np.array([0.6, 0.8]), radius=1.0, rng=rng)
    assert estimate.value == pytest.approx(0.8)
    assert estimate.guarantee is Guarantee.ESTIMATE
    with pytest.raises(InvalidSetting, match="must be a proof"):
        Bracket("l2", estimate, None)


def test_clever_follows_the_largest_gradient(rng: np.random.Generator) -> None:
    """f = 1 - x^2 / 2 around 0.5, radius 0.2: gradients reach 0.7 at most."""

    def curved(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return 1 - points[:, 0] ** 2 / 2, -points

    estimate = clever(curved, np.array([0.5]), radius=10.0, norm="linf", batches=10, rng=rng)
    near = clever(curved, np.array([0.5]), radius=0.2, norm="linf", batches=10, rng=rng)
    assert near.value == 0.2  # cut at the radius that was looked at
    assert estimate.value == pytest.approx(0.875 / 1.0, rel=0.1)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_a_confidence_that_is_none_is_refused(confidence: float, rng: np.random.Generator) -> None:
    with pytest.raises(InvalidSetting, match="confidence must be"):
        volume_test(
            lambda x: np.zeros(len(x), np.int64),
            lambda n: np.zeros((n, 1, 1, 1), np.float32),
            0,
            samples=10,
            confidence=confidence,
        )


def test_sigma_must_be_a_number(rng: np.random.Generator) -> None:
    for sigma in (0.0, math.inf):
        with pytest.raises(InvalidSetting, match="sigma must be"):
            discrete_gaussian((1,), sigma, rng=rng)


def test_shifts_of_whole_vectors_diverge_as_claimed() -> None:
    """Renyi divergence of shifted discrete Gaussians is at most a v^2 / (2 sigma^2), by exact sums."""
    for sigma, shift, order in itertools.product((0.7, 2.0, 5.0), (1, 3), (1.1, 2.0, 7.5)):
        z = np.arange(-400, 401)
        log = -(z**2) / (2 * sigma**2)
        log = log - np.logaddexp.reduce(log)
        moved = -((z - shift) ** 2) / (2 * sigma**2)
        moved = moved - np.logaddexp.reduce(moved)
        divergence = np.logaddexp.reduce(order * moved + (1 - order) * log) / (order - 1)
        assert divergence <= order * shift**2 / (2 * sigma**2) + 1e-9
