"""The few-pixel search, on classifiers whose smallest flip is known by a formula or by trying everything."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from robustest.attack.find import find_adversarials
from robustest.attack.search import game_search
from robustest.attack.search_guide import features_of, regions_of
from robustest.attack.search_palette import Palette
from robustest.attack.search_tuning import Tuning
from robustest.attack.task import Notes, Task
from robustest.results import AttackResult, Edits, Verdict
from robustest.settings import AttackSettings

Scoring = Callable[[Any], Any]


def linear(weights: np.ndarray, offset: float = 0.0) -> Scoring:
    """Two classes; the margin of class 0 is the weighted sum of the pixels plus an offset."""

    def score(images: np.ndarray) -> np.ndarray:
        margin = images.reshape(len(images), -1).astype(np.float64) @ weights.reshape(-1) + offset
        return np.stack([margin, np.zeros(len(images))], axis=1).astype(np.float32)

    return score


def fewest_of_linear(weights: np.ndarray, image: np.ndarray, offset: float) -> int:
    """Pixels needed to flip class 0 of a linear margin: the largest gains, one after the other, until it is below 0."""
    unit = image.astype(np.float64) / 255
    slopes = weights.reshape(unit.shape)
    gains = np.maximum(slopes * unit, slopes * (unit - 1)).sum(axis=2).reshape(-1)
    left = float((slopes * unit).sum()) + offset
    taken = np.cumsum(np.sort(gains)[::-1])
    return int(np.searchsorted(taken, left, side="right")) + 1


def attack(score: Scoring, images: np.ndarray, *, label: int = 0, **settings: Any) -> list[AttackResult]:
    return find_adversarials(score, images, [label] * len(images), settings=AttackSettings(**settings))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("guide", ["sift", "grid", "uniform"])
def test_a_linear_classifier_is_flipped_with_the_largest_gains(channels: int, guide: str) -> None:
    rng = np.random.default_rng(channels)
    weights = rng.normal(size=(10, 10, channels)) ** 3
    image = rng.integers(0, 256, (10, 10, channels)).astype(np.uint8)
    offset = 8.0 - float((weights * (image / 255)).sum())
    (result,) = attack(linear(weights, offset), image[None], queries=3000, guide=guide)
    assert result.l0_pixels == fewest_of_linear(weights, image, offset)
    assert result.minimal


@pytest.mark.parametrize("seed", range(3))
def test_where_only_many_pixels_flip_several_are_added_at_a_time(seed: int) -> None:
    """Forty are needed of pixels that hardly differ. One a question, of sixteen states each, would take 640 queries to build."""
    weights = -1 - np.random.default_rng(seed).random((28, 28)) / 4
    gains = np.sort(-weights.reshape(-1))[::-1]
    offset = float(gains[:39].sum() + gains[39] / 2)
    image = np.zeros((1, 28, 28, 1), np.uint8)
    assert fewest_of_linear(weights, image[0], offset) == 40
    (result,) = attack(linear(weights, offset), image, queries=1000, seed=seed)
    assert [size for queries, size in result.curve if queries <= 500][-1] <= 43


def test_a_pair_that_no_single_pixel_announces_is_found_on_a_small_board() -> None:
    """The class changes only where two given pixels are bright together: 3 x 3 pixels, every set of two can be tried."""

    def score(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1)
        together = np.minimum(flat[:, 1], flat[:, 7])
        return np.stack([0.5 - together, np.zeros(len(images))], axis=1).astype(np.float32)

    (result,) = attack(score, np.zeros((1, 3, 3, 1), np.uint8), queries=300)
    assert result.l0_pixels == 2
    assert result.edits is not None
    assert sorted(result.edits.pixels) == [1, 7]


def test_agrees_with_trying_every_set_on_a_small_game() -> None:
    rng = np.random.default_rng(5)
    weights, pairs = rng.normal(size=9), rng.normal(size=(9, 9))

    def margin(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1).astype(np.float64)
        return 4 + flat @ weights + np.einsum("ni,nj,ij->n", flat, flat, pairs)

    def score(images: np.ndarray) -> np.ndarray:
        return np.stack([margin(images), np.zeros(len(images))], axis=1).astype(np.float32)

    fewest = next(
        size
        for size in range(1, 10)
        for places in itertools.combinations(range(9), size)
        if margin(np.isin(np.arange(9), places).astype(float)[None])[0] < 0
    )
    (result,) = attack(score, np.zeros((1, 3, 3, 1), np.uint8), queries=512)
    assert result.l0_pixels == fewest


@pytest.mark.parametrize("queries", [1, 2, 3, 17, 100])
def test_the_budget_is_never_exceeded_whatever_it_is(queries: int) -> None:
    asked = 0
    weights = np.random.default_rng(0).normal(size=(8, 8, 3))

    def score(images: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(images)
        return linear(weights, 500.0)(images)

    (result,) = attack(score, np.full((1, 8, 8, 3), 128, np.uint8), queries=queries)
    assert result.queries <= queries
    assert result.verdict is Verdict.SURVIVED


def test_nothing_that_can_flip_is_survived_with_the_whole_budget() -> None:
    def score(images: np.ndarray) -> np.ndarray:
        mean = images.reshape(len(images), -1).mean(axis=1)
        return np.stack([10 + mean, mean], axis=1).astype(np.float32)

    (result,) = attack(score, np.full((1, 6, 6, 1), 100, np.uint8), queries=400)
    assert result.verdict is Verdict.SURVIVED
    assert result.l0_pixels is None


def test_a_plateau_is_crossed() -> None:
    """The margin does not move until four pixels are bright: nothing can be learned of single edits."""

    def score(images: np.ndarray) -> np.ndarray:
        bright = (images.reshape(len(images), -1) > 0.5).sum(axis=1)
        return np.stack([np.where(bright >= 4, -1.0, 1.0), np.zeros(len(images))], axis=1).astype(np.float32)

    (result,) = attack(score, np.zeros((1, 12, 12, 1), np.uint8), queries=600)
    assert result.l0_pixels == 4


def test_a_small_image_that_only_one_colour_nearly_everywhere_flips_is_flipped() -> None:
    """Single edits tell nothing, a few white ones that white is right; sets drawn at random are half of them black."""

    def score(images: np.ndarray) -> np.ndarray:
        white = (images.reshape(len(images), -1) == 1).sum(axis=1)
        margin = np.select([white >= 180, white >= 4], [-1.0, 0.9], 1.0)
        return np.stack([margin, np.zeros(len(images))], axis=1).astype(np.float32)

    (result,) = attack(score, np.full((1, 16, 16, 1), 128, np.uint8), queries=600)
    assert result.l0_pixels is not None
    assert 180 <= result.l0_pixels <= 256


def test_the_label_alone_is_enough() -> None:
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(8, 8, 1))
    image = np.zeros((8, 8, 1), np.uint8)
    inner = linear(weights, 2.0)

    def score(images: np.ndarray) -> np.ndarray:
        return inner(images).argmax(axis=1)

    from robustest.classifiers.loading import load_classifier
    from robustest.classifiers.spec import InputSpec

    box = load_classifier(score, InputSpec(output="label"))
    result = find_adversarials(box, image[None], [0], settings=AttackSettings(queries=800))[0]
    assert result.flipped
    assert result.decision_only
    assert result.l0_pixels is not None
    assert result.l0_pixels <= 3 * fewest_of_linear(weights, image, 2.0)


def test_the_same_seed_gives_the_same_result_however_images_are_batched() -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(9, 9, 3))
    images = rng.integers(0, 256, (5, 9, 9, 3)).astype(np.uint8)
    offset = 3.0 - min(float((weights * (image / 255)).sum()) for image in images)
    score = linear(weights, offset)
    settings = AttackSettings(queries=300, seed=7)
    together = find_adversarials(score, images, [0] * 5, settings=settings, batch=64)
    alone = [find_adversarials(score, image[None], [0], settings=settings, batch=3)[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        assert (one.l0_pixels, one.queries, one.curve) == (other.l0_pixels, other.queries, other.curve)


def test_an_image_that_is_already_at_every_colour_it_may_take_ends_at_once() -> None:
    task = _task(np.zeros((4, 4, 1), np.float32), AttackSettings(queries=50, values="tau", tau=1e-3))
    assert list(game_search(task, np.random.default_rng(0))) == []


def test_states_hold_a_pixel_once_and_never_a_colour_that_is_no_change() -> None:
    rng = np.random.default_rng(4)
    image = rng.integers(0, 2, (7, 7, 3)).astype(np.float32)
    task = _task(image, AttackSettings(queries=3000))
    search = game_search(task, rng, Tuning(despair=3))
    question = next(search)
    asked = 0
    while asked < 2000:
        assert isinstance(question, Edits)  # nobody said that this driver takes `Turns`
        asked += len(question)
        for index in range(len(question)):
            state = question.one(index)
            assert len(set(state.pixels.tolist())) == len(state.pixels) > 0
            assert (state.values != image.reshape(-1, 3)[state.pixels]).any(axis=1).all()
        question = search.send(_margins(question))


def test_tau_steps_stay_on_the_grid() -> None:
    image = np.full((2, 2, 1), 0.9, np.float32)
    palette = Palette(image, "tau", 0.25, eight_bit=False)
    assert palette.colours[:, 0, 0] == pytest.approx([0.65, 1.0])


def test_a_middle_colour_is_found_where_only_that_one_flips() -> None:
    """The margin is lowest at half brightness, and no corner of the cube flips."""

    def score(images: np.ndarray) -> np.ndarray:
        nearest = np.abs(images.reshape(len(images), -1) - 0.5).min(axis=1)
        return np.stack([nearest - 0.1, np.zeros(len(images))], axis=1).astype(np.float32)

    blank = np.zeros((1, 6, 6, 1), np.uint8)
    assert attack(score, blank, queries=200, values="free")[0].l0_pixels == 1
    assert attack(score, blank, queries=200, values="corners")[0].verdict is Verdict.SURVIVED


@pytest.mark.parametrize(
    ("values", "tau", "levels"),
    [("corners", 1.0, {0, 77, 255}), ("free", 1.0, {0, 77, 128, 255}), ("tau", 0.2, {26, 77, 128})],
)
def test_the_search_asks_about_no_other_colours_than_the_help_names(values: Any, tau: float, levels: set[int]) -> None:
    """An image of 77 that nothing flips: each channel goes to an end, to the middle (128), or 0.2 * 255 = 51 up or down."""
    clean = np.full((1, 12, 12, 3), 77, np.uint8)
    seen: set[int] = set()

    def score(images: np.ndarray) -> np.ndarray:
        asked = np.rint(images * 255).astype(int)
        noise = (asked == 77).mean(axis=(1, 2, 3)) < 0.05  # asked to learn how the function answers, before the search
        seen.update(np.unique(asked[~noise]).tolist())
        return np.stack([1 + images.mean(axis=(1, 2, 3)), np.zeros(len(images))], axis=1).astype(np.float32)

    attack(score, clean, queries=400, values=values, tau=tau)
    assert seen == levels


def test_a_blank_image_has_no_feature_and_falls_back_to_the_grid() -> None:
    blank = np.zeros((80, 80, 1), np.float32)
    by_feature, by_grid, whole = (
        regions_of(task, features_of(task))
        for task in (_task(blank, AttackSettings(guide=guide)) for guide in ("sift", "grid", "uniform"))
    )
    assert np.array_equal(by_feature, by_grid)
    assert len(np.unique(whole)) == 1


def test_sift_is_trusted_in_large_images_only() -> None:
    rng = np.random.default_rng(0)
    for side, trusted in ((32, False), (96, True)):
        image = rng.random((side, side, 1)).astype(np.float32)
        task, squares = _task(image, AttackSettings()), _task(image, AttackSettings(guide="grid"))
        same = np.array_equal(regions_of(task, features_of(task)), regions_of(squares, features_of(squares)))
        assert same != trusted
        assert (features_of(task) is not None) == trusted


@pytest.mark.parametrize("guide", ["sift", "uniform"])
def test_saliency_before_and_after_are_distributions_and_move_towards_what_matters(guide: str) -> None:
    weights = np.zeros((12, 12, 1))
    weights[6, 6] = -30.0
    rng = np.random.default_rng(0)
    image = rng.integers(0, 40, (12, 12, 1)).astype(np.uint8)
    (result,) = attack(linear(weights, 40.0), image[None], queries=1200, guide=guide)
    change = result.saliency
    assert change is not None
    assert change.before.sum() == pytest.approx(1)
    assert change.after.sum() == pytest.approx(1)
    assert change.after[6, 6] > change.before[6, 6]


def _task(image: np.ndarray, settings: AttackSettings) -> Task:
    return Task(
        image=image,
        eight_bit=True,
        label=0,
        target=None,
        decision_only=False,
        clean_margin=5.0,
        settings=settings,
        notes=Notes(),
    )


def _margins(question: Edits) -> np.ndarray:
    """A margin that falls with the pixels' numbers, and flips at a sum of 150."""
    sums = np.bincount(question.rows, weights=question.pixels, minlength=len(question))
    return 5 - sums / 30


def test_where_scores_are_saturated_no_queries_go_into_building_a_state_edit_by_edit() -> None:
    """Probabilities are exactly 1 and 0 until 12 pixels are bright: single edits and small sets tell nothing."""

    def score(images: np.ndarray) -> np.ndarray:
        logits = 400 - 40 * images.reshape(len(images), -1).astype(np.float64).sum(axis=1)
        own = np.float32(1 / (1 + np.exp(-np.clip(logits, -700, 700))))
        return np.stack([own, 1 - own], axis=1).astype(np.float32)

    blank = np.zeros((1, 16, 16, 1), np.uint8)
    (result,) = attack(score, blank, queries=400)
    assert result.l0_pixels == 11  # at 10 the two are level, which is no flip
    assert result.minimal


@pytest.mark.parametrize(("seed", "queries"), [(0, 335), (1, 345), (2, 325), (4, 370), (6, 240), (9, 265), (11, 380)])
def test_what_is_found_last_is_still_checked(seed: int, queries: int) -> None:
    """Neighbours interfere, and a smaller state turns up near the end: no single pixel of it can be put back."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=144) ** 3
    image = rng.integers(0, 256, (12, 12, 1)).astype(np.uint8)
    offset = 12 - float((weights * (image.reshape(-1) / 255)).sum())

    def score(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1).astype(np.float64)
        margins = flat @ weights + offset + 0.5 * np.sin(7 * flat[:, :-1] * flat[:, 1:]).sum(axis=1)
        return np.stack([margins, np.zeros(len(images))], axis=1).astype(np.float32)

    (result,) = attack(score, image[None], queries=queries, seed=seed)
    assert result.minimal
    assert result.edits is not None
    places = np.arange(len(result.edits.pixels))
    for place in places:
        kept = places != place
        back = (image / np.float32(255)).reshape(-1, 1)
        back[result.edits.pixels[kept]] = result.edits.values[kept]
        assert score(back.reshape(1, 12, 12, 1))[0, 0] >= 0
