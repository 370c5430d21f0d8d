"""What the search believes: laws of the filter, of regions and of phases."""

from __future__ import annotations

import numpy as np
import pytest

from robustest.attack.search_beliefs import Beliefs
from robustest.attack.search_palette import Palette
from robustest.saliency.regions import one_region
from robustest.settings import Values


def beliefs(side: int = 8, regions: np.ndarray | None = None) -> Beliefs:
    image = np.zeros((side, side, 1), np.float32)
    palette = Palette(image, "corners", 1.0, eight_bit=True)
    regions = np.zeros(side * side, np.int64) if regions is None else regions
    return Beliefs(palette, (side, side), regions, rng=np.random.default_rng(0))


def told(held: Beliefs, pixel: int, drop: float) -> None:
    held.learn(held.cell_of_pixel[[pixel]], np.array([1]), np.array([drop]), noise=0.0)


def test_an_edit_scored_without_noise_is_believed() -> None:
    held = beliefs()
    told(held, 27, 3.0)
    assert np.isclose(held.mean[1, held.cell_of_pixel[27]], 3.0, atol=1e-3)


def test_what_is_near_is_believed_more_than_what_is_far() -> None:
    held = beliefs()
    told(held, 27, 3.0)
    near, next_but_one, far = (float(held.mean[1, held.cell_of_pixel[pixel]]) for pixel in (28, 29, 63))
    assert 3 > near > next_but_one > far == 0


def test_what_is_told_twice_in_one_question_is_not_believed_twice() -> None:
    held = beliefs()
    cells = held.cell_of_pixel[[27, 27, 27]]
    held.learn(cells, np.array([1, 1, 1]), np.array([3.0, 3.0, 3.0]), noise=0.0)
    assert np.isclose(held.mean[1, cells[0]], 3.0, atol=1e-3)


def test_a_region_is_borrowed_from_by_its_own_pixels_most() -> None:
    side = 12
    halves = (np.arange(side * side) % side >= side // 2).astype(np.int64)
    held = beliefs(side, halves)
    told(held, 1, 5.0)
    held.borrow()
    same, other = held.cell_of_pixel[side * side - side], held.cell_of_pixel[side * side - 1]
    assert held.mean[1, same] > held.mean[1, other] > 0


def test_a_phase_of_the_grid_that_never_matters_is_looked_at_less() -> None:
    held = beliefs(16)
    pixels = np.arange(0, 256, 3)
    rows, columns = np.divmod(pixels, 16)
    drops = np.where((rows % 2 == 0) & (columns % 2 == 0), 2.0, 0.0)
    held.tune(held.cell_of_pixel[pixels], np.ones(len(pixels), np.int64), drops)
    seen, unseen = held.cell_of_pixel[[0, 17]]
    assert held.deviation[1, seen] > 4 * held.deviation[1, unseen]


def test_the_rim_and_edits_that_change_nothing_are_never_chosen() -> None:
    held = beliefs(4)
    cells, colours = held.top(held.drawn(1.0), 100)
    assert sorted(cells) == sorted(held.cell_of_pixel)
    assert (colours == 1).all()


def test_avoided_cells_are_not_chosen() -> None:
    held = beliefs(4)
    avoid = held.cell_of_pixel[:10]
    cells, _ = held.top(held.drawn(1.0), 100, avoid=avoid)
    assert sorted(cells) == sorted(held.cell_of_pixel[10:])


@pytest.mark.parametrize("values", ["corners", "free", "tau"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_edit_is_as_large_as_the_root_mean_square_of_its_change(values: Values, channels: int) -> None:
    image = np.random.default_rng(1).random((7, 6, channels), dtype=np.float32)
    palette = Palette(image, values, 0.25, eight_bit=True)
    believed = Beliefs(palette, (7, 6), one_region(7, 6), rng=np.random.default_rng(0))
    for colour in range(palette.count):
        change = palette.change(colour)
        assert np.array_equal(palette.squares(colour), np.square(change).sum(axis=1))
        wanted = np.sqrt(np.square(change).mean(axis=1))
        assert np.array_equal(believed.size[colour, believed.cell_of_pixel], wanted)
