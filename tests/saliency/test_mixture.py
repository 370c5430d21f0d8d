"""The saliency distribution: its laws, its fallback, and where its mass is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustest.errors import InvalidSetting
from robustest.saliency import Features, detect_features, mixture, saliency_of


def one_feature(x: float, y: float, sigma: float) -> Features:
    return Features(np.array([[x, y]]), np.array([sigma]), np.array([1.0]))


@given(st.integers(0, 1000), st.integers(8, 40), st.integers(8, 40), st.sampled_from([1, 3]))
def test_it_is_a_distribution_that_reaches_every_pixel(seed: int, height: int, width: int, channels: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    found = saliency_of(image).distribution
    assert found.shape == (height, width)
    assert found.sum() == pytest.approx(1)
    assert found.min() >= 0.1 / (height * width) * 0.999


def test_a_blank_image_has_no_feature_and_falls_back_to_uniform() -> None:
    found = saliency_of(np.zeros((28, 28), np.uint8))
    assert found.uniform
    assert (found.distribution == 1 / 784).all()


def test_a_gaussian_at_the_border_is_renormalised_inside_not_clamped() -> None:
    found = mixture(one_feature(0.5, 10.5, 2.0), 21, 21, uniform_part=1e-9).distribution
    centre, right = found[10, 0], found[10, 2]
    assert right / centre == pytest.approx(np.exp(-0.5), rel=1e-4)  # two pixels away at sigma 2
    assert found[:, 0].sum() < 0.4  # clamping would put 0.6 of the mass into the border column


def test_features_weigh_by_response() -> None:
    two = Features(np.array([[4.5, 4.5], [24.5, 24.5]]), np.array([1.0, 1.0]), np.array([3.0, 1.0]))
    found = mixture(two, 30, 30, uniform_part=1e-9).distribution
    assert found[:15, :15].sum() == pytest.approx(0.75, abs=1e-3)


def test_a_bright_blob_is_found_where_it_is_in_the_small_image_s_own_pixels() -> None:
    yy, xx = np.mgrid[:28, :28]
    image = np.exp(-((xx - 19.5) ** 2 + (yy - 8.5) ** 2) / 18)[..., None].astype(np.float32)
    features = detect_features(image)
    assert len(features) >= 1
    assert features.centre[0] == pytest.approx([20, 9], abs=1.0)
    assert len({tuple(np.round(c, 1)) for c in features.centre}) == len(features)


def test_the_uniform_part_must_leave_every_pixel_reachable() -> None:
    with pytest.raises(InvalidSetting, match="uniform_part"):
        saliency_of(np.zeros((8, 8), np.uint8), uniform_part=0.0)
