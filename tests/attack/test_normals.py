"""Normal draws in compiled code are numpy's, bit for bit, and leave the stream where numpy would have left it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustest import compiled
from robustest.attack import draws, normals

pytestmark = pytest.mark.usefixtures("loops_as_before")
needs_numba = pytest.mark.skipif(not compiled.installed(), reason="numba (extra `fast`) is not installed")


@needs_numba
@pytest.mark.parametrize("odd", [False, True], ids=["whole", "half a draw kept"])
@pytest.mark.parametrize("seed", range(3))
def test_half_a_million_draws_are_numpys(seed: int, odd: bool) -> None:
    """Among so many some 3,000 fall between the layers' places, and some 130 beyond the lowest one."""
    compiled.use(True)
    numpys, ours = np.random.default_rng(seed), np.random.default_rng(seed)
    if odd:
        assert numpys.random(dtype=np.float32) == ours.random(dtype=np.float32)
    drawn = normals.sizes_of_normals(ours, draws.words(ours), 500_001)
    wanted = numpys.standard_normal(500_001, dtype=np.float32)
    assert drawn.tobytes() == np.abs(wanted).tobytes()
    assert (drawn > 3.66).any()
    assert ours.bit_generator.state == numpys.bit_generator.state


@pytest.mark.parametrize("layer", [0, 1, 2, 100, 254, 255])
def test_the_tables_are_numpys(layer: int) -> None:
    """numpy is handed chosen bits: a draw within a layer's places takes no further ones, the next place does."""
    rng = np.random.default_rng(0)
    words, rest = draws.words(rng) or pytest.fail("PCG64 is not laid out as known")
    places, widths, _ = normals.tables()

    def draw(place: int) -> tuple[np.float32, bool]:
        before = words.tolist()
        rest[1] = np.uint64((layer | place << 9) << 32 | 1)
        return rng.standard_normal(dtype=np.float32), words.tolist() == before

    assert not draw(int(places[layer]))[1]
    for place in {1, int(places[layer]) - 1} if places[layer] else ():
        drawn, at_once = draw(place)
        assert at_once
        assert drawn == np.float32(place) * widths[layer]


def test_layers_have_one_area() -> None:
    """The definition: each layer, from an edge to the next and across, has the area of the lowest one with its tail."""
    _, widths, densities = normals.tables()
    edges, heights = widths.astype(np.float64) * 2**23, densities.astype(np.float64)
    area = edges[255] * heights[255] + math.sqrt(math.pi / 2) * math.erfc(edges[255] / math.sqrt(2))
    assert edges[0] * heights[255] == pytest.approx(area, rel=1e-5)
    assert edges[1:] * (heights[:-1] - heights[1:]) == pytest.approx(area, rel=1e-3)


def test_other_generators_are_left_to_numpy() -> None:
    ours, numpys = (np.random.Generator(np.random.MT19937(1)) for _ in range(2))
    drawn = normals.sizes_of_normals(ours, draws.words(ours), 1000)
    assert drawn.tobytes() == np.abs(numpys.standard_normal(1000, dtype=np.float32)).tobytes()
