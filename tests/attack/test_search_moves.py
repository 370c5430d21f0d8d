"""Swaps: laws that every proposed state obeys, and the kinds of swap that must be among them."""

from __future__ import annotations

import numpy as np
import pytest

from robustest import compiled
from robustest.attack.search_asked import Asked
from robustest.attack.search_beliefs import Beliefs
from robustest.attack.search_moves import Ahead, Swaps, fresh_swaps
from robustest.attack.search_palette import Palette
from robustest.attack.search_states import State


def proposals(channels: int, pixels: list[int], useless: bool = False) -> tuple[Beliefs, State, Swaps]:
    """Many swaps of a state of an image of 10 x 10 pixels that is neither black nor white."""
    rng = np.random.default_rng(channels)
    image = rng.uniform(0.3, 0.7, (10, 10, channels)).astype(np.float32)
    palette = Palette(image, "corners", 1.0, eight_bit=False)
    held = Beliefs(palette, (10, 10), np.zeros(100, np.int64), rng=rng)
    state = State(held.cell_of_pixel[pixels], np.zeros(len(pixels), np.int64))
    known = np.zeros(held.mean.shape, bool) if useless else None
    ahead = Ahead(state, np.zeros(len(pixels)), 1.0, known)
    swaps = fresh_swaps(ahead, held, Asked(held.cells, None), optimism=1.0, count=90, most=90, rng=rng)
    assert swaps is not None
    return held, state, swaps


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixels", [[44], [44, 45, 72], [0, 9, 90, 99]])
def test_a_swap_keeps_the_number_of_pixels_and_stays_inside_the_image(channels: int, pixels: list[int]) -> None:
    held, state, swaps = proposals(channels, pixels)
    assert len(swaps.batch) == len(swaps.places) == len(swaps.single) == len(swaps.added) > 20
    for index in range(len(swaps.batch)):
        tried = swaps.batch[index]
        assert len(set(tried.cells.tolist())) == len(tried) == len(state)
        assert held.allowed[tried.colours, tried.cells].all()


def test_a_single_swap_brings_in_what_it_says_in_the_place_it_says() -> None:
    _, state, swaps = proposals(3, [44, 45, 72])
    for index in np.flatnonzero(swaps.single):
        tried, place = swaps.batch[int(index)], swaps.places[index]
        others = np.arange(3) != place
        assert (tried.cells[place], tried.colours[place]) == (swaps.added.cells[index], swaps.added.colours[index])
        assert np.array_equal(tried.cells[others], state.cells[others])
        assert np.array_equal(tried.colours[others], state.colours[others])


def test_neighbours_move_together_and_a_pixel_far_from_them_does_not() -> None:
    _, state, swaps = proposals(1, [44, 45, 72])
    steps = [swaps.batch[int(index)].cells - state.cells for index in np.flatnonzero(~swaps.single)]
    together = [step for step in steps if step[0]]
    assert together
    assert all(step[0] == step[1] and step[2] == 0 for step in together)
    assert any(step[2] for step in steps)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pixel_is_given_another_colour_where_there_are_several(channels: int) -> None:
    _, state, swaps = proposals(channels, [44, 45, 72])
    recoloured = [index for index in range(len(swaps.batch)) if np.array_equal(swaps.batch[index].cells, state.cells)]
    assert bool(recoloured) == (channels == 3)
    assert all((swaps.batch[index].colours != state.colours).sum() == 1 for index in recoloured)


def test_one_pixel_is_swapped_for_any_other_where_single_edits_are_to_be_tried() -> None:
    _, _, swaps = proposals(1, [44], useless=True)
    assert len(set(swaps.batch.cells.tolist())) == len(swaps.batch) == 90


@pytest.mark.parametrize("fast", [False, True])
def test_a_question_is_filled_until_every_swap_was_asked_about(fast: bool) -> None:
    compiled.use(fast)
    rng = np.random.default_rng(3)
    palette = Palette(np.zeros((4, 4, 1), np.float32), "corners", 1.0, eight_bit=False)  # black: white is all there is
    held = Beliefs(palette, (4, 4), np.zeros(16, np.int64), rng=rng)
    own = held.cell_of_pixel[[5, 15]]
    state = State(own, held.best(0.0, 1, but=np.zeros(held.mean.shape, bool))[1].repeat(2))
    others = [cell for cell in held.cell_of_pixel.tolist() if cell not in own]
    wanted = {frozenset((kept, cell)) for kept in own.tolist() for cell in others}
    asked, ahead = Asked(held.cells, None), Ahead(state, np.zeros(2), 1.0)

    def question(attempts: int) -> set[frozenset[int]]:
        swaps = fresh_swaps(ahead, held, asked, optimism=1.0, count=20, most=20, attempts=attempts, rng=rng)
        if swaps is None:
            return set()
        asked.heed(swaps.batch, np.zeros(held.mean.shape, bool), np.ones(len(swaps)), None)
        assert len(swaps) == len({frozenset(row) for row in swaps.cells.tolist()})
        return {frozenset(row) for row in swaps.cells.tolist()}

    first, second, third = question(1), question(300), question(300)
    assert len(wanted) == 28
    assert 0 < len(first) <= 14  # one swap for each of 14 edits
    assert len(second) == min(20, 28 - len(first))
    assert first | second | third == wanted
    assert len(first) + len(second) + len(third) == 28
