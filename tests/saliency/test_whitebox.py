"""Maps of others against formulas: linear models, bias-free networks, planted evidence, and counts of queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustest.attack.find import iter_adversarials
from robustest.baselines.sparse_rs import sparse_rs
from robustest.classifiers.callables import CallableClassifier
from robustest.classifiers.differentiable import GradientClassifier, NeedsGradients
from robustest.classifiers.spec import InputSpec
from robustest.results import AttackResult, Edits, Verdict
from robustest.saliency.blackbox_maps import lime, occlusion, one_pixel_drops
from robustest.saliency.judging import (
    as_distribution,
    deletion,
    flips_on_object,
    rank_correlation,
    top_share,
)
from robustest.saliency.whitebox import (
    MAPS,
    gradcam_map,
    gradient_map,
    integrated_map,
    lrp_relevance,
    normgrad_map,
)
from robustest.settings import AttackSettings

SIDE = 8
GRAY = InputSpec(layout="NCHW", channels="gray")


def weighted(weights: NDArray[np.float32]) -> CallableClassifier:
    """Class 0 scores the weighted sum of the image (H, W, 1), class 1 nothing."""

    def scores(images: NDArray[np.float32]) -> NDArray[np.float32]:
        total = images.reshape(len(images), -1) @ weights.reshape(-1)
        return np.stack([total, np.zeros_like(total)], axis=1)

    return CallableClassifier(scores)


def linear(weights: NDArray[np.float32], bias: tuple[float, float] = (0.0, 0.0)) -> GradientClassifier:
    layer = torch.nn.Linear(SIDE * SIDE, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.stack([weights.reshape(-1), np.zeros(SIDE * SIDE, np.float32)])))
        layer.bias.copy_(torch.tensor(bias))
    return GradientClassifier(torch.nn.Sequential(torch.nn.Flatten(), layer).eval(), GRAY)


def convolutional(*, bias: bool) -> GradientClassifier:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1, bias=bias),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 6, 3, padding=1, bias=bias),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(6 * 16, 3, bias=bias),
    )
    return GradientClassifier(network.eval(), GRAY)


def picture(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((SIDE, SIDE, 1)).astype(np.float32)


def test_the_gradient_of_a_linear_model_is_its_weights() -> None:
    weights = np.random.default_rng(1).normal(size=(SIDE, SIDE)).astype(np.float32)
    found = gradient_map(linear(weights), torch.from_numpy(picture()), 0)
    np.testing.assert_allclose(found, np.abs(weights), rtol=1e-6)


def test_integrated_gradients_of_a_linear_model_are_weight_times_value() -> None:
    weights = np.random.default_rng(1).normal(size=(SIDE, SIDE)).astype(np.float32)
    image = picture()
    found = integrated_map(linear(weights), torch.from_numpy(image), 0)
    np.testing.assert_allclose(found, np.abs(weights * image[..., 0]), rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 3.0])
def test_relevance_is_conserved_without_biases(gamma: float) -> None:
    model = convolutional(bias=False)
    image = torch.from_numpy(picture())
    logits = model.logits(image[None])[0].detach()
    order = logits.argsort(descending=True)
    relevance = lrp_relevance(model, image, int(order[0]), gamma=gamma)
    assert relevance.sum() == pytest.approx(float(logits[order[0]] - logits[order[1]]), rel=1e-3)


def test_relevance_without_gamma_is_gradient_times_input() -> None:
    model = convolutional(bias=True)
    image = torch.from_numpy(picture())
    order = model.logits(image[None])[0].argsort(descending=True)
    point = image[None].clone().requires_grad_(True)
    logits = model.logits(point)[0]
    (slope,) = torch.autograd.grad(logits[order[0]] - logits[order[1]], point)
    np.testing.assert_allclose(
        lrp_relevance(model, image, int(order[0]), gamma=0.0), (slope[0] * image).numpy(), rtol=1e-3, atol=5e-5
    )


def test_hooks_are_removed() -> None:
    model = convolutional(bias=True)
    image = torch.from_numpy(picture())
    before = model.logits(image[None])
    for make in MAPS.values():
        make(model, image, 0)
    assert torch.equal(before, model.logits(image[None]))
    assert all(not module._forward_hooks for module in model.module.modules())


@pytest.mark.parametrize("name", list(MAPS))
def test_a_map_has_the_images_size_and_repeats(name: str) -> None:
    model = convolutional(bias=True)
    image = torch.from_numpy(picture())
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first, second = (MAPS[name](model, image, 0, seed=5) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.shape == (SIDE, SIDE)
    assert (first >= 0).all()
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("make", [gradcam_map, normgrad_map])
def test_what_the_network_does_not_read_is_not_salient(make: object) -> None:
    """A convolution that looks at the pixel alone, read out on the left half only."""
    convolution, readout = torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.Linear(SIDE * SIDE, 2, bias=False)
    left = torch.zeros(SIDE, SIDE)
    left[:, : SIDE // 2] = 1.0
    with torch.no_grad():
        convolution.weight.fill_(1.0)
        readout.weight.copy_(torch.stack([left.flatten(), torch.zeros(SIDE * SIDE)]))
    model = GradientClassifier(torch.nn.Sequential(convolution, torch.nn.Flatten(), readout).eval(), GRAY)
    found = make(model, torch.from_numpy(picture() + 0.1), 0)  # type: ignore[operator]
    half = SIDE // 2
    if make is normgrad_map:
        assert found[:, half:].max() < 1e-3 * found[:, :half].min()
    else:
        assert found[:, :half].mean() > 0


def test_gradcam_looks_past_a_convolution_that_is_the_last_linear_layer() -> None:
    """Pixel-wise convolution, mean, then a 1x1 convolution as read-out: the evidence is the image itself."""
    inner, outer = torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.Conv2d(1, 2, 1, bias=False)
    with torch.no_grad():
        inner.weight.fill_(1.0)
        outer.weight.copy_(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1))
    network = torch.nn.Sequential(inner, torch.nn.AdaptiveAvgPool2d(1), outer, torch.nn.Flatten()).eval()
    image = picture()
    found = gradcam_map(GradientClassifier(network, GRAY), torch.from_numpy(image), 0)
    assert np.corrcoef(found.reshape(-1), image.reshape(-1))[0, 1] == pytest.approx(1.0)


def test_maps_of_convolutions_need_one() -> None:
    with pytest.raises(NeedsGradients, match="convolutions"):
        gradcam_map(linear(np.ones((SIDE, SIDE), np.float32)), torch.from_numpy(picture()), 0)


def test_occlusion_of_a_linear_model_is_the_weight_it_covers() -> None:
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[2:4, 4:6] = 1.0
    image = np.ones((SIDE, SIDE, 1), np.float32)
    found = occlusion(weighted(weights), image, 0, side=2, gray=0.0)
    # Squares of two at every pixel: that on the evidence loses 4, its four neighbours that share an edge 2, corners 1.
    assert found.queries == 7 * 7 + 1
    assert found.values[2, 4] == pytest.approx((4 + 2 + 2 + 1) / 4)
    assert found.values[0, 0] == 0.0


def test_lime_finds_the_square_that_counts_and_its_queries() -> None:
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[2:4, 4:6] = 1.0
    image = np.where(weights[..., None] > 0, 1.0, 0.2).astype(np.float32)
    found = lime(weighted(weights), image, 0, samples=300, rng=np.random.default_rng(0))
    assert found.queries == 300
    # Graying the square turns four white pixels into the mean colour: that is its weight, less the ridge's pull.
    assert found.values[2, 4] == pytest.approx(4 * (1 - float(image.mean())), rel=0.1)
    assert found.values[6, 0] < 0.05


def test_one_pixel_drops_are_weight_times_distance_to_the_corner() -> None:
    weights = np.random.default_rng(1).normal(size=(SIDE, SIDE)).astype(np.float32)
    image = picture()
    found = one_pixel_drops(weighted(weights), image, 0)
    expected = np.maximum(weights * image[..., 0], -weights * (1 - image[..., 0]))
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-5)
    assert found.queries == 1 + 2 * SIDE * SIDE
    some = one_pixel_drops(weighted(weights), image, 0, pixels=np.array([3, 9]))
    assert some.queries == 5
    assert np.flatnonzero(np.isfinite(some.values)).tolist() == [3, 9]
    assert some.values[0, 3] == pytest.approx(found.values[0, 3])


@given(st.lists(st.integers(0, 5), min_size=4, max_size=30), st.integers(0, 10**6))
def test_rank_correlation_agrees_with_its_formula(values: list[int], seed: int) -> None:
    first = np.array(values, np.float64)
    order = np.random.default_rng(seed).permutation(len(values)).astype(np.float64)
    found = rank_correlation(first, order)
    if len(set(values)) == 1:
        assert found is None
    elif len(set(values)) == len(values):
        ranks = np.argsort(np.argsort(first))
        n = len(values)
        assert found == pytest.approx(1 - 6 * ((ranks - order) ** 2).sum() / (n * (n**2 - 1)))
    else:
        assert found is not None
        assert -1 <= found <= 1
    assert rank_correlation(order, order**3) == pytest.approx(1)
    assert rank_correlation(order, -order) == pytest.approx(-1)


def test_top_share_counts_what_both_rank_first() -> None:
    drops = np.arange(100, dtype=np.float64)
    assert top_share(drops, drops, share=0.1) == 1.0
    assert top_share(-drops, drops, share=0.1) == 0.0
    half = drops.copy()
    half[90:95] = -1
    assert top_share(half, drops, share=0.1) == 0.5


def test_deletion_of_the_evidence_first_is_lowest() -> None:
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[:2] = 1.0
    image = weights[..., None].copy()
    guide = weights.astype(np.float64)
    good, bad = (deletion(weighted(weights), image, 0, values) for values in (guide, -guide))
    assert good < bad
    assert deletion(weighted(weights), image, 0, guide, insert=True) > deletion(
        weighted(weights), image, 0, -guide, insert=True
    )
    # The evidence is a quarter of the pixels, the mean colour a quarter: from 1 down to 1/4 along a line, then flat.
    assert good == pytest.approx(0.25 + 0.75 * 0.25 / 2, abs=0.01)


def test_a_map_becomes_a_distribution() -> None:
    spread = as_distribution(np.array([[0.0, 3.0], [1.0, 0.0]]), uniform_part=0.2)
    np.testing.assert_allclose(spread, [[0.05, 0.65], [0.25, 0.05]])
    np.testing.assert_allclose(as_distribution(np.zeros((2, 2))), 0.25)


def test_flips_are_counted_on_and_off_the_object() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[0] = 255
    edits = Edits(np.array([0, 3, 9]), np.ones((3, 1), np.float32), np.array([0, 3]))
    result = AttackResult(
        verdict=Verdict.FLIPPED, attack="a", norm="l0", label=0, target=None, seed=0, budget=1, edits=edits
    )
    assert flips_on_object(result, mask) == (2, 1)
    missing = AttackResult(verdict=Verdict.SURVIVED, attack="a", norm="l0", label=0, target=None, seed=0, budget=1)
    assert flips_on_object(missing, mask) is None


def test_a_search_guided_to_the_pixel_that_counts_needs_fewer_queries() -> None:
    weights = np.full((SIDE, SIDE), 0.01, np.float32)
    weights[5, 5] = 10.0
    classifier = weighted(-weights)  # the margin is -(sum): shifted below by the constant class
    shifted = CallableClassifier(lambda x: classifier(x) + np.array([[5.0, 0.0]], np.float32))
    images = np.zeros((12, SIDE, SIDE, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(12)
    spent = []
    for guide in (None, lambda task: as_distribution(weights.astype(np.float64))):

        def strategy(task: object, rng: np.random.Generator, guide: object = guide) -> object:
            return sparse_rs(task, rng, k=1, guide=guide)  # type: ignore[arg-type]

        settings = AttackSettings(queries=600, attack="sparse-rs@1")
        found = dict(iter_adversarials(shifted, images, np.zeros(12, np.int64), settings, batch=8, strategy=strategy))  # type: ignore[arg-type]
        assert all(result.l0_pixels == 1 for result in found.values())
        spent.append(np.mean([result.queries for result in found.values()]))
    assert spent[1] * 5 < spent[0]
