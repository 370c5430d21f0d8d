"""PNG files written here are what another reader sees."""

import base64
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from robustest.report.png import data_uri, palette_png, picture_uri, png_of


def read(content: bytes) -> NDArray[np.uint8]:
    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert array is not None
    return np.asarray(array[..., ::-1] if array.ndim == 3 else array[..., None], np.uint8)


sides = st.integers(1, 9)


@given(st.tuples(sides, sides, st.sampled_from([1, 3])).flatmap(lambda shape: arrays.arrays(np.uint8, shape)))
def test_a_picture_read_by_opencv_is_the_picture(image: NDArray[np.uint8]) -> None:
    got = read(png_of(image))
    assert np.array_equal(np.broadcast_to(got, image.shape) if image.shape[2] == got.shape[2] else got[..., :1], image)


@pytest.mark.parametrize("levels", [2, 16, 17, 256])
@pytest.mark.parametrize("width", [4, 5])
def test_a_palette_picture_has_the_palettes_colours(levels: int, width: int, rng: np.random.Generator) -> None:
    palette = rng.integers(0, 256, (levels, 3), dtype=np.uint8)
    places = rng.integers(0, levels, (3, width), dtype=np.uint8)
    assert np.array_equal(read(palette_png(places, palette)), palette[places])


def test_few_colours_are_stored_as_a_palette_and_many_are_not(rng: np.random.Generator) -> None:
    few = np.array([(200, 10, 30), (7, 99, 1)], np.uint8)[rng.integers(0, 2, (32, 32))]
    many = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    colour_type = [png_of(image)[25] for image in (few, many)]  # byte 25 of a PNG: 3 palette, 2 RGB
    assert colour_type == [3, 2]
    assert struct.unpack(">II", png_of(many)[16:24]) == (32, 32)


def test_small_pictures_are_exact_and_photographs_are_small(rng: np.random.Generator) -> None:
    small = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    uri = picture_uri(small)
    assert uri.startswith("data:image/png;base64,")
    assert np.array_equal(read(base64.b64decode(uri.partition(",")[2])), small)
    smooth = np.linspace(0, 255, 224 * 224 * 3).reshape(224, 224, 3).astype(np.uint8)
    photograph = picture_uri(smooth)
    assert photograph.startswith("data:image/webp;base64,")
    assert len(photograph) < 30_000
    assert read(base64.b64decode(photograph.partition(",")[2])).shape == (224, 224, 3)


def test_a_data_address_holds_the_bytes() -> None:
    assert data_uri(b"\x00\xff", "a/b") == "data:a/b;base64,AP8="
