"""What a card draws is the adversarial image, to the pixel."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from robustest.report.pictures import coarse, pictures_of


def painted(paths: tuple[tuple[str, str], ...], canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paint unit squares of SVG path data, as a browser does."""
    out = canvas.copy()
    for colour, path in paths:
        rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        for column, row in re.findall(r"M(\d+) (\d+)h1v1h-1z", path):
            out[int(row), int(column)] = rgb[: out.shape[2]]
    return out


pairs = st.sampled_from([1, 3]).flatmap(lambda c: st.tuples(*[arrays.arrays(np.uint8, (5, 4, c))] * 2))


@given(pairs)
def test_squares_over_the_clean_image_are_the_adversarial_one(
    pair: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    clean, changed = pair
    pictures = pictures_of(clean, changed)
    assert np.array_equal(painted(pictures.changed, clean), changed)


def test_the_difference_is_half_of_the_change_on_mid_grey() -> None:
    clean = np.array([[[0], [255], [100]]], np.uint8)
    changed = np.array([[[255], [0], [100]]], np.uint8)
    grey = np.full((1, 3, 3), 128, np.uint8)
    assert painted(pictures_of(clean, changed).difference, grey)[0].tolist() == [[255] * 3, [0] * 3, [128] * 3]


def test_each_changed_pixel_has_a_ring_around_it_until_there_are_too_many() -> None:
    clean = np.zeros((20, 20, 1), np.uint8)
    changed = clean.copy()
    changed[7, 3] = 255
    ((x, y, side),) = re.findall(r"M([\d.-]+) ([\d.-]+)h([\d.]+)v", pictures_of(clean, changed).rings)
    assert float(x) < 3
    assert float(y) < 7
    assert float(x) + float(side) > 4
    assert float(y) + float(side) > 8
    changed[:4] = 255  # 80 more
    assert pictures_of(clean, changed).rings == ""


def test_very_many_changes_become_a_picture() -> None:
    clean = np.zeros((40, 40, 3), np.uint8)
    pictures = pictures_of(clean, clean + 9)
    assert pictures.adversarial.startswith("data:image/png")
    assert pictures.changed == ()
    assert len(pictures.difference) == 1  # every cell changed by as much
    assert pictures.difference[0][0] == "#fefefe"


def test_no_adversarial_image_is_no_picture_of_one() -> None:
    pictures = pictures_of(np.zeros((4, 4, 1), np.uint8), None, np.full((4, 4), 1 / 16))
    assert not pictures.found
    assert pictures.saliency.startswith("data:image/png")


def test_float_images_are_drawn_as_a_screen_shows_them() -> None:
    clean = np.zeros((2, 2, 1), np.float32)
    changed = clean.copy()
    changed[0, 1] = 0.5
    assert pictures_of(clean, changed).changed == (("#808080", "M1 0h1v1h-1z"),)


@pytest.mark.parametrize("shape", [(28, 28), (56, 56), (57, 31), (224, 200), (1, 300)])
def test_a_coarse_map_keeps_the_sum(shape: tuple[int, int], rng: np.random.Generator) -> None:
    values = rng.random(shape)
    cells = coarse(values)
    assert max(cells.shape) <= 56
    assert cells.sum() == pytest.approx(values.sum())
