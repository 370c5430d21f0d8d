"""Every black-box baseline against linear classifiers, whose fewest pixels are known, and against its own paper's rules."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.attack.find import find_adversarials, strategy_named
from robustest.baselines.brusle import swapped_share as brusle_share
from robustest.baselines.corners import Corners
from robustest.baselines.pointwise import _sparse_noise
from robustest.baselines.sparse_rs import swapped_share as sparse_rs_share
from robustest.classifiers.callables import CallableClassifier
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSetting
from robustest.results import AttackResult, Verdict
from robustest.settings import AttackSettings

SIDE = 8
ALL = [
    "sparse-rs@4",
    "brusle@4",
    "random-corners",
    "random-corners@4",
    "one-pixel@4",
    "greedy",
    "one-scan",
    "pointwise",
    "sparse-evo",
]


def threshold(weights: NDArray[np.float32], limit: float, *, label_only: bool = False) -> CallableClassifier:
    """Class 1 where the image's weighted sum reaches the limit: the fewest pixels are the largest weights."""

    def scores(images: NDArray[np.float32]) -> NDArray[np.float32]:
        gap = images.reshape(len(images), -1) @ weights - np.float32(limit)
        if label_only:
            return (gap > 0).astype(np.int64)  # type: ignore[return-value]
        return np.stack([np.zeros_like(gap), gap], axis=1)

    return CallableClassifier(scores, InputSpec(output="label" if label_only else "logits"))


def attack(
    classifier: CallableClassifier, name: str, *, queries: int = 600, channels: int = 1, count: int = 3, seed: int = 0
) -> list[AttackResult]:
    images = np.zeros((count, SIDE, SIDE, channels), np.uint8)
    images[:, 0, 0] = np.arange(count)[:, None]  # different images, so different random streams
    settings = AttackSettings(queries=queries, seed=seed, attack=name)
    return find_adversarials(classifier, images, [0] * count, settings=settings, batch=16)


@pytest.mark.parametrize("name", ALL)
def test_a_flip_holds_no_pixel_can_be_put_back_and_the_budget_is_kept(name: str) -> None:
    classifier = threshold(np.ones(SIDE * SIDE, np.float32), 2.5)
    for result in attack(classifier, name):
        assert result.verdict is Verdict.FLIPPED
        assert result.predicted == 1
        assert result.queries <= 600
        assert result.minimal
        assert result.image is not None
        assert result.image.astype(np.float64).sum() / 255 > 2.5  # the definition of class 1, on the stored image
        assert result.l0_pixels is not None
        assert result.l0_pixels >= 3  # three white pixels are the fewest


@pytest.mark.parametrize("name", ["sparse-rs@4", "brusle@4", "random-corners@4", "greedy", "one-scan", "pointwise"])
def test_equal_pixels_are_shrunk_to_the_fewest(name: str) -> None:
    classifier = threshold(np.ones(SIDE * SIDE, np.float32), 2.5)
    assert [result.l0_pixels for result in attack(classifier, name)] == [3, 3, 3]


@pytest.mark.parametrize("name", ["greedy", "one-scan"])
@pytest.mark.parametrize("channels", [1, 3])
def test_greedy_takes_the_largest_weights(name: str, channels: int) -> None:
    weights = np.linspace(0.1, 1.0, SIDE * SIDE * channels, dtype=np.float32)
    # The last four pixels, all channels white, are just enough: any other four are not.
    limit = float(weights[-4 * channels :].sum()) - 1e-3
    for result in attack(threshold(weights, limit), name, queries=5000, channels=channels):
        assert result.edits is not None
        assert sorted(result.edits.pixels.tolist()) == [60, 61, 62, 63]
        assert (result.edits.values == 1).all()


def test_greedy_scans_once_for_each_pixel_it_adds() -> None:
    weights = np.linspace(0.1, 1.0, SIDE * SIDE, dtype=np.float32)
    limit = float(weights[-3:].sum()) - 1e-3
    (result,) = attack(threshold(weights, limit), "greedy", queries=5000, count=1)
    # One clean image; 64, 63 and 62 changes (black pixels gain nothing from black); then of the three images with one
    # pixel put back the one that was never asked.
    assert result.queries == 1 + 64 + 63 + 62 + 1


def test_one_scan_asks_each_change_once() -> None:
    weights = np.linspace(0.1, 1.0, SIDE * SIDE, dtype=np.float32)
    limit = float(weights[-3:].sum()) - 1e-3
    (result,) = attack(threshold(weights, limit), "one-scan", queries=5000, count=1)
    # One clean image, 64 singles, the best two, the best three, and its three pairs, one of which was asked already.
    assert result.queries == 1 + 64 + 2 + 2


@pytest.mark.parametrize("name", ["sparse-rs@2", "brusle@2", "random-corners@2", "one-pixel@2"])
def test_a_fixed_number_of_pixels_is_never_exceeded(name: str) -> None:
    classifier = threshold(np.ones(SIDE * SIDE, np.float32), 2.5)
    for result in attack(classifier, name, queries=300):
        assert result.verdict is Verdict.SURVIVED  # two pixels cannot be enough
        assert result.margin is not None
        assert result.margin >= 0.49  # 2.5 less two white pixels and the image's own one dark one


def test_sparse_rs_climbs_where_blind_search_does_not() -> None:
    weights = np.full(SIDE * SIDE, -1.0, np.float32)
    weights[:4] = 1.0  # four of 64 pixels, each white: once in ten million blind draws
    classifier = threshold(weights, 3.5)
    found = attack(classifier, "sparse-rs@4", queries=1000, count=10)
    blind = attack(classifier, "random-corners@4", queries=500, count=10)
    learned = attack(classifier, "brusle@5", queries=500, count=10)
    assert sum(result.flipped for result in found) == 10
    assert sum(result.flipped for result in blind) == 0
    # BruSLe's colours are fixed by one draw: flipping needs the four pixels white in it, once in 16 images.
    assert sum(result.flipped for result in learned) <= 5


def test_brusle_learns_which_pixels_help() -> None:
    weights = np.zeros(SIDE * SIDE, np.float32)
    weights[:32] = np.linspace(0.91, 1.1, 32)  # any five of these are enough, any four are not
    classifier = threshold(weights, 4.5)
    found = attack(classifier, "brusle@5", queries=300, count=20)
    blind = attack(classifier, "random-corners@5", queries=300, count=20)
    assert sum(result.flipped for result in blind) <= 12  # each with probability 1 - (1 - 0.25^5)^300, a quarter
    assert sum(result.flipped for result in found) >= 18


@pytest.mark.parametrize("name", ["pointwise", "sparse-evo"])
def test_label_only_attacks_need_no_scores(name: str) -> None:
    weights = np.ones(SIDE * SIDE, np.float32)
    blind = attack(threshold(weights, 2.5, label_only=True), name)
    scored = attack(threshold(weights, 2.5), name)
    assert [r.l0_pixels for r in blind] == [r.l0_pixels for r in scored]
    assert all(r.decision_only and r.flipped for r in blind)


def test_one_pixel_finds_a_colour_that_no_corner_has() -> None:
    def scores(images: NDArray[np.float32]) -> NDArray[np.float32]:
        gray = (np.abs(images - 0.5) < 0.1).any(axis=(1, 2, 3)).astype(np.float32)
        return np.stack([np.full_like(gray, 0.5), gray], axis=1)

    classifier = CallableClassifier(scores, InputSpec())
    assert all(r.l0_pixels == 1 for r in attack(classifier, "one-pixel"))
    assert not any(r.flipped for r in attack(classifier, "sparse-rs@1"))


def test_one_pixel_evolves_towards_a_colour_that_blind_draws_would_miss() -> None:
    goal = np.array([0.5, 0.2, 0.8], np.float32)

    def scores(images: NDArray[np.float32]) -> NDArray[np.float32]:
        away = np.abs(images - goal).max(axis=3).min(axis=(1, 2))  # of the pixel nearest to the goal
        return np.stack([away, np.full_like(away, 0.02)], axis=1)

    # Within 0.02 in all three channels: about one of 30,000 draws of the first population.
    found = attack(CallableClassifier(scores, InputSpec()), "one-pixel", queries=4000, channels=3, count=4)
    assert sum(result.flipped for result in found) >= 3


def test_pointwise_starts_from_noise_that_is_just_dense_enough() -> None:
    corners = Corners(np.zeros((20, 20, 1), np.float32))
    noise = _sparse_noise(corners, np.random.default_rng(0))
    edits, found = next(noise), None
    while found is None:
        try:
            edits = noise.send(np.array([1.0 if len(edits.pixels) < 5 else -1.0]))
        except StopIteration as end:
            found = end.value
    assert 5 <= len(found.pixels) <= 12  # of 400; five are needed


@pytest.mark.parametrize("name", ALL)
def test_a_result_repeats_whatever_the_batch(name: str) -> None:
    classifier = threshold(np.linspace(0.1, 1, SIDE * SIDE, dtype=np.float32), 2.2)
    images = np.random.default_rng(3).integers(0, 30, (4, SIDE, SIDE, 1)).astype(np.uint8)
    settings = AttackSettings(queries=200, seed=4, attack=name)
    together = find_adversarials(classifier, images, [0] * 4, settings=settings, batch=64)
    alone = [find_adversarials(classifier, images[i : i + 1], [0], settings=settings, batch=1)[0] for i in range(4)]
    for first, second in zip(together, alone, strict=True):
        assert (first.verdict, first.queries, first.curve, first.margin) == (
            second.verdict,
            second.queries,
            second.curve,
            second.margin,
        )


def test_corner_edits_leave_out_what_changes_nothing() -> None:
    image = np.zeros((2, 2, 3), np.float32)
    image[0, 1] = 1.0
    corners = Corners(image)
    edits = corners.edits(np.array([[0, 1], [2, 3]]), np.array([[0, 7], [7, 1]]))
    assert edits.sizes.tolist() == [0, 2]
    assert edits.pixels.tolist() == [2, 3]
    drawn = corners.drawn([1, 4, 2], np.random.default_rng(0))
    assert len(drawn) == 3
    assert (drawn.sizes <= [1, 4, 2]).all()
    assert all(len(set(drawn.one(i).pixels.tolist())) == drawn.sizes[i] for i in range(3))
    assert (drawn.values != image.reshape(4, 3)[drawn.pixels]).any(axis=1).all()
    assert len(corners.singles()[0]) == 4 * 7  # of eight corners one is each pixel's own colour


def test_sparse_rs_halves_its_share_where_the_paper_does() -> None:
    assert sparse_rs_share(0.0, 0.8) == 0.8
    assert sparse_rs_share(0.004, 0.8) == 0.4
    assert sparse_rs_share(0.01, 0.8) == 0.2
    assert sparse_rs_share(0.9, 0.8) == 0.8 / 2**9


def test_brusle_share_is_the_papers_power_step_decay() -> None:
    assert brusle_share(1) == pytest.approx(0.3 * 0.997)
    assert brusle_share(100) == pytest.approx(0.3 * 100**-0.24 * 0.997**100)


@pytest.mark.parametrize("name", ["greedy@3", "sparse-rs@", "sparse-rs@0", "sparse-rs@-1", "nothing"])
def test_a_name_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidSetting, match="attack"):
        strategy_named(name)


@pytest.mark.parametrize(("name", "change"), [("sparse-rs", {"norm": "l2"}), ("greedy", {"values": "free"})])
def test_settings_that_a_baseline_cannot_follow_are_refused(name: str, change: dict[str, str]) -> None:
    classifier = threshold(np.ones(SIDE * SIDE, np.float32), 2.5)
    settings = AttackSettings(queries=50, attack=name, **change)  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match=next(iter(change))):
        find_adversarials(classifier, np.zeros((1, SIDE, SIDE, 1), np.uint8), [0], settings=settings, batch=4)
