"""The large moves, on states and classifiers where what they must do is known."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustest.attack.find import find_adversarials
from robustest.attack.search_beliefs import Beliefs
from robustest.attack.search_blocks import (
    FINEST,
    doubled,
    floods,
    in_reach,
    parts_of,
    replacement,
    settle,
    spreads,
    thin,
)
from robustest.attack.search_palette import Palette
from robustest.attack.search_states import Batch, State
from robustest.results import Edits, Margins
from robustest.settings import AttackSettings


def beliefs_of(image: np.ndarray) -> Beliefs:
    height, width, _ = image.shape
    palette = Palette(image.astype(np.float32), "corners", 1.0, eight_bit=True)
    return Beliefs(palette, (height, width), np.zeros(height * width, np.int64), rng=np.random.default_rng(0))


def some_state(beliefs: Beliefs, count: int, seed: int) -> State:
    rng = np.random.default_rng(seed)
    cells = rng.choice(beliefs.cell_of_pixel, count, replace=False)
    return State(cells, rng.integers(beliefs.colours, size=count))


def test_a_spread_has_one_colour_and_changes_each_of_its_pixels() -> None:
    image = np.zeros((64, 64, 3))
    image[:32] = 1
    beliefs = beliefs_of(image)
    states = spreads(beliefs, np.random.default_rng(0))
    assert len(states) == 16
    for state in states:
        assert len(set(state.colours.tolist())) == 1
        assert len(set(state.cells.tolist())) == len(state)
        assert beliefs.allowed[state.colours, state.cells].all()
        assert len(state) <= 64 * 64 / 16


def test_floods_grow_to_the_whole_image() -> None:
    beliefs = beliefs_of(np.full((20, 20, 1), 0.5))
    start = State(beliefs.cell_of_pixel[:4], np.ones(4, np.int64))
    states = floods(start, beliefs, np.random.default_rng(0))
    assert [len(state) for state in states] == [50, 100, 200, 400] * 2
    assert all((state.colours == 1).all() for state in states[:4])
    assert 150 < states[-1].colours.sum() < 250


@given(count=st.integers(1, 20), size=st.integers(2, 60), seed=st.integers(0, 99))
def test_parts_are_disjoint_cover_the_state_and_are_of_like_size(count: int, size: int, seed: int) -> None:
    beliefs = beliefs_of(np.full((10, 10, 1), 0.5))
    state = some_state(beliefs, size, seed)
    parts = parts_of(state, count, across=beliefs.across, rng=np.random.default_rng(seed))
    assert sorted(np.concatenate(parts).tolist()) == list(range(size))
    assert len(parts) == min(count, size)
    assert max(map(len, parts)) <= 2 * min(map(len, parts)) + 1


def test_parts_are_pieces_of_the_image() -> None:
    """Two heaps of dots far from each other: any cut in two between equally many puts one heap in each part."""
    beliefs = beliefs_of(np.zeros((40, 40, 1)))
    rows, columns = np.divmod(np.arange(16), 4)
    pixels = np.concatenate([rows * 40 + columns, (rows + 36) * 40 + columns + 36])
    state = State(beliefs.cell_of_pixel[pixels], np.ones(32, np.int64))
    heaps = {frozenset(range(16)), frozenset(range(16, 32))}
    same = 0
    for seed in range(20):
        parts = parts_of(state, 2, across=beliefs.across, rng=np.random.default_rng(seed))
        same += {frozenset(part.tolist()) for part in parts} == heaps
    assert same >= 10  # a cut along the line between the heaps, about an eighth of all slants, may mix them


@given(seed=st.integers(0, 99), size=st.integers(4, 40))
def test_a_replacement_is_of_pixels_that_the_state_does_not_hold(seed: int, size: int) -> None:
    beliefs = beliefs_of(np.full((40, 40, 1), 0.5))
    state = some_state(beliefs, size, seed)
    new = replacement(state, np.arange(size // 2), np.ones(size), beliefs, reach=2, rng=np.random.default_rng(seed))
    assert len(new) <= size // 2
    assert not np.isin(new.cells, state.cells).any()
    assert len(set(new.cells.tolist())) == len(new)
    assert beliefs.allowed[new.colours, new.cells].all()


def test_a_replacement_is_most_often_next_to_the_edit_that_matters_and_of_its_colour() -> None:
    """70 % near and 30 % anywhere; in the same colour 80 % and an eighth of the rest: 400 draws of one each."""
    beliefs = beliefs_of(np.full((40, 40, 3), 0.5))
    state = State(beliefs.cell_of_pixel[[5 * 40 + 5, 30 * 40 + 30]], np.array([3, 6]))
    rng = np.random.default_rng(0)
    near, same = 0, 0
    for _ in range(400):
        new = replacement(state, np.array([0]), np.array([5.0, 1.0]), beliefs, reach=2, rng=rng)
        for pixel, colour in zip(beliefs.pixel_of_cell[new.cells].tolist(), new.colours.tolist(), strict=True):
            near += abs(pixel // 40 - 30) <= 2 and abs(pixel % 40 - 30) <= 2
            same += colour == 6
    assert 0.6 * 400 < near < 0.8 * 400
    assert 0.75 * 400 < same < 0.9 * 400


class Counting:
    """A search's player for which so many edits flip, whichever they are; the first best has 10,000."""

    stop = 0

    def __init__(self, needed: int, *, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.beliefs = beliefs_of(np.full((100, 100, 1), 0.5))
        self.needed, self.left = needed, 2000
        self.best = State(self.beliefs.cell_of_pixel, np.ones(10_000, np.int64))

    def ask(self, batch: Batch) -> Generator[Edits, Margins, Margins]:
        margins = self.needed - 0.5 - np.diff(batch.offsets)
        self.left -= len(batch)
        for place in np.flatnonzero(margins < 0).tolist():
            self.best = min(self.best, batch[place], key=len)
        return margins
        yield  # a search's questions are generators; this one is answered at once


@pytest.mark.parametrize("seed", range(3))
def test_a_spread_of_which_no_exchange_helps_becomes_twice_as_large_again_and_again(seed: int) -> None:
    """Of 100 dots come 200, 400 and 800, less a few that fall on one another: more than 500, and fewer than 1,000."""
    player = Counting(500, seed=seed)
    dots = some_state(player.beliefs, 100, seed)
    assert list(settle(player, dots, State.empty(), until=0)) == []
    assert 500 <= len(player.best) <= 800
    assert set(zip(dots.cells.tolist(), dots.colours.tolist(), strict=True)) <= set(
        zip(player.best.cells.tolist(), player.best.colours.tolist(), strict=True)
    )


def test_a_spread_does_not_become_so_large_that_it_is_not_worth_while() -> None:
    """Of 100 dots come 200, 400 and so on to 3,200: twice that would be more than half of the best's 10,000."""
    player = Counting(6000, seed=0)
    assert list(settle(player, some_state(player.beliefs, 100, 0), State.empty(), until=0)) == []
    assert len(player.best) == 10_000
    assert player.left > 2000 - (1 + 5 * 20 + 6)


class Dark(Counting):
    """A search's player on a black image with few white pixels, where nothing flips and any edits at all help a little."""

    def __init__(self, white: int, seed: int) -> None:
        super().__init__(10_000, seed=seed)
        image = np.zeros((100, 100, 1), np.float32)
        image.reshape(-1)[np.random.default_rng(seed).choice(10_000, white, replace=False)] = 1
        self.beliefs, self.left = beliefs_of(image), 300

    def ask(self, batch: Batch) -> Generator[Edits, Margins, Margins]:
        sizes = np.diff(batch.offsets)
        assert sizes.min() > 0
        self.left -= len(batch)
        return 100 - self.rng.random(len(batch))
        yield


@pytest.mark.parametrize("white", [1, 2, 3, 4, 6, 10, 30])
def test_dots_that_nothing_can_take_the_place_of_are_not_all_taken_away(white: int) -> None:
    """Black dots can be put on white pixels alone: all of them lie there, and there is no other place for them."""
    for seed in range(6):
        player = Dark(white, seed)
        (colour,) = [c for c in range(player.beliefs.colours) if player.beliefs.allowed[c].sum() == white]
        cells = np.flatnonzero(player.beliefs.allowed[colour])
        dots = State(cells, np.full(white, colour))
        assert list(settle(player, dots, State.empty(), until=0)) == []
        assert list(settle(player, State.empty(), State.empty(), until=0)) == []


@given(size=st.integers(1, 50), most=st.integers(1, 800), seed=st.integers(0, 99))
def test_each_of_the_larger_states_holds_the_one_before_and_at_most_as_many_edits_again(
    size: int, most: int, seed: int
) -> None:
    beliefs = beliefs_of(np.full((40, 40, 1), 0.5))
    state = some_state(beliefs, size, seed)
    for larger in doubled(state, np.ones(size), most, beliefs, rng=np.random.default_rng(seed)):
        assert len(state) < len(larger) <= min(2 * len(state), most)
        assert larger.cells[: len(state)].tolist() == state.cells.tolist()
        assert len(set(larger.cells.tolist())) == len(larger)
        state = larger


class Evenly(Counting):
    """A search's player for which so many edits in each square of 10 x 10 pixels flip; all 10,000 pixels do at first."""

    def ask(self, batch: Batch) -> Generator[Edits, Margins, Margins]:
        pixels = self.beliefs.pixel_of_cell[batch.cells]
        squares = (
            np.repeat(np.arange(len(batch)) * 100, np.diff(batch.offsets)) + pixels // 1000 * 10 + pixels % 100 // 10
        )
        fewest = np.bincount(squares, minlength=len(batch) * 100).reshape(-1, 100).min(axis=1)
        margins = self.needed - 0.5 - fewest
        self.left -= len(batch)
        for place in np.flatnonzero(margins < 0).tolist():
            self.best = min(self.best, batch[place], key=len)
        return margins
        yield


@pytest.mark.parametrize("seed", range(3))
def test_what_is_needed_everywhere_is_made_sparser_everywhere(seed: int) -> None:
    """A part of a sixteenth takes in whole squares; with every other dot left out, each square keeps about half of its own."""
    player = Evenly(2, seed=seed)
    player.left = 100
    assert list(thin(player, least=24, finest=FINEST)) == []
    assert 200 <= len(player.best) < 2000


@pytest.mark.parametrize("seed", [0, 1])
def test_a_flip_that_takes_many_pixels_is_found_at_once_and_made_small(seed: int) -> None:
    """Each bright pixel of a square of 20 x 20 lowers the margin by 1, and 30 of them are needed."""

    def score(images: np.ndarray) -> np.ndarray:
        bright = images[:, 30:50, 20:40].sum(axis=(1, 2, 3))
        return np.stack([29.5 - bright, np.zeros(len(images))], axis=1).astype(np.float32)

    image = np.zeros((1, 96, 96, 1), np.uint8)
    (result,) = find_adversarials(score, image, [0], settings=AttackSettings(queries=600, seed=seed))
    assert result.l0_pixels == 30
    assert result.edits is not None
    assert all(30 <= pixel // 96 < 50 and 20 <= pixel % 96 < 40 for pixel in result.edits.pixels.tolist())


def test_a_flip_is_in_reach_where_the_last_turns_progress_would_bring_it_in_half_of_what_is_left() -> None:
    """From 5 to 4 in 100 queries: 400 more are needed, so 800 must be left; to 2 in 100: 67 more, so 134 are enough."""

    def turns(margins: list[float], left: int) -> list[tuple[float, int]]:
        spent = np.linspace(100, 0, len(margins)).astype(int)
        return [(margin, left + int(more)) for margin, more in zip(margins, spent, strict=True)]

    assert not in_reach(turns([5, 4.9, 4.6, 4.2, 4], 780))
    assert in_reach(turns([5, 4.9, 4.6, 4.2, 4], 820))
    assert not in_reach(turns([5, 4, 3, 2.5, 2], 130))
    assert in_reach(turns([5, 4, 3, 2.5, 2], 140))
    assert not in_reach(turns([5, 5, 5, 5, 5], 100_000))
    assert in_reach(turns([5, 5, 5, 5], 10))  # too early to tell


def by_steps(images: np.ndarray) -> np.ndarray:
    """Flips where 300 pixels are changed, or 16 of an 8 x 8 square are bright, which it tells of by steps of 4."""
    bright = (images[:, 16:24, 16:24, 0] > 0.9).sum(axis=(1, 2))
    changed = (np.abs(images[..., 0] - 128 / 255) > 0.1).sum(axis=(1, 2))
    margins = np.where((bright >= 16) | (changed >= 300), -1.0, 4.5 - bright // 4)
    return np.stack([margins, np.zeros(len(images))], axis=1).astype(np.float32)


def test_where_no_single_edit_tells_anything_large_states_lead_to_small_ones() -> None:
    # No pixel of a minimal set can be put back, so it has 300 pixels or 16; no edit tells of the 16 by itself.
    image = np.full((1, 48, 48, 1), 128, np.uint8)
    found = [
        find_adversarials(by_steps, image, [0], settings=AttackSettings(queries=500, seed=seed))[0].l0_pixels
        for seed in range(5)
    ]
    assert set(found) <= {16, 300}
    assert found.count(16) >= 3
