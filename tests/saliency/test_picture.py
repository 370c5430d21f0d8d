"""The picture of a saliency: two halves that line up, colours whose order survives a gray print."""

import numpy as np
import pytest

from robustest.saliency.colours import heat_levels, heat_palette
from robustest.saliency.features import Features
from robustest.saliency.mixture import mixture
from robustest.saliency.picture import saliency_picture

NOTHING = Features(np.zeros((0, 2)), np.zeros(0), np.zeros(0))


def test_lightness_rises_all_the_way() -> None:
    light = heat_palette().astype(np.float64) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) >= -0.5).all()
    assert light[-1] > 10 * light[0]


def test_the_largest_is_the_last_colour_and_nothing_the_first() -> None:
    assert heat_levels(np.array([[0.0, 1.0], [2.0, 4.0]])).tolist() == [[0, 64], [128, 255]]
    assert heat_levels(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("shape", [(28, 28, 1), (10, 40, 3), (600, 500, 3)])
def test_without_features_the_left_half_is_the_image(shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    picture = saliency_picture(image, mixture(NOTHING, *shape[:2]))
    scale = picture.shape[0] // shape[0]
    left = picture[:, : shape[1] * scale]
    assert np.array_equal(left[::scale, ::scale], np.broadcast_to(image, (*shape[:2], 3)))
    right = picture[:, -shape[1] * scale :]
    assert (right == heat_palette()[-1]).all()  # uniform: every pixel is as bright


def test_a_feature_is_ringed_on_the_left_and_bright_on_the_right() -> None:
    feature = Features(np.array([[20.5, 8.5]]), np.array([3.0]), np.array([1.0]))
    picture = saliency_picture(np.zeros((28, 28, 1), np.uint8), mixture(feature, 28, 28))
    scale = 16
    ring = picture[round(8.5 * scale), round((20.5 + 3) * scale)]
    assert ring[0] > 150  # one sigma to the right of the centre
    assert (picture[2 * scale, 3 * scale] == 0).all()
    right = picture[:, -28 * scale :]
    assert (right[8 * scale, 20 * scale] == heat_palette()[-1]).all()
