"""Swaps made together, on margins whose smallest flip is known: every edit lowers them by an amount of its own."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustest.attack.search_asked import Asked
from robustest.attack.search_beliefs import Beliefs
from robustest.attack.search_joint import carried, compatible, grow, together, trim
from robustest.attack.search_moves import Ahead, Swaps, fresh_swaps
from robustest.attack.search_palette import Palette
from robustest.attack.search_states import Batch, State
from robustest.attack.search_tuning import Tuning
from robustest.results import Edits, Margins

SIDE = 80


class Additive:
    """A search's player whose margin falls by `effects` (V, cells) of each edit, from `start`."""

    stop = until = 0
    tried = np.inf  # queries after which it is hopeless

    def __init__(self, effects: np.ndarray, start: float, best: State, *, seed: int, queries: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.beliefs = beliefs_on(self.rng)
        self.tuning, self.asked = Tuning(), Asked(self.beliefs.cells, None)
        self.effects, self.start, self.best, self.left = effects, start, best, queries
        self.clean = start
        self.marks = np.zeros(self.beliefs.mean.shape, bool)

    def ask(self, batch: Batch) -> Generator[Edits, Margins, Margins]:
        falls = np.add.reduceat(self.effects[batch.colours, batch.cells], batch.offsets[:-1])
        margins: Margins = self.start - falls
        _, new, place = self.asked.heed(batch, self.marks, margins, None)
        self.left -= max(new, -(-len(batch) // 4))
        if place >= 0 and (self.best is None or len(batch[place]) < len(self.best)):
            self.best = batch[place]
        return margins
        yield  # a search's questions are generators; this one is answered at once

    def hopeless(self, size: int, margin: float, spent: int) -> bool:
        return spent >= self.tried


def beliefs_on(rng: np.random.Generator) -> Beliefs:
    palette = Palette(np.full((SIDE, SIDE, 1), 0.5, np.float32), "corners", 1.0, eight_bit=True)
    return Beliefs(palette, (SIDE, SIDE), np.zeros(SIDE * SIDE, np.int64), rng=rng, far=True)


def known(count: int, *, seed: int) -> Additive:
    """So many edits lower the margin by 1 each, which is believed; 19.5 are needed, and 4,000 are known to flip."""
    beliefs = beliefs_on(np.random.default_rng(0))
    cells = beliefs.cell_of_pixel[np.arange(count) * 101 + 500]
    effects = np.zeros(beliefs.mean.shape)
    effects[1, cells] = 1
    large = State(beliefs.cell_of_pixel[:4000], np.ones(4000, np.int64))
    player = Additive(effects, 19.5, large, seed=seed, queries=2000)
    player.beliefs.deviation *= 1e-3
    player.beliefs.mean[1, cells] = 1
    return player


def built(player: Additive, *, tallest: int = 64, until: int = 0, patience: float = np.inf) -> State:
    """What `grow` gives."""
    with pytest.raises(StopIteration) as over:
        next(grow(player, tallest=tallest, until=until, patience=patience))
    state: State = over.value.value
    return state


@pytest.mark.parametrize("seed", range(4))
def test_edits_that_help_are_made_together(seed: int) -> None:
    """Thirteen of thirty help in the first question; a leap of eight more, or of sixteen, flips in the next."""
    player = known(30, seed=seed)
    assert len(built(player)) == 0
    assert 20 <= len(player.best) <= 13 + 16
    assert player.left >= 2000 - 3 * 20


def test_what_is_hopeless_is_given_up_and_handed_back() -> None:
    player = known(12, seed=0)
    player.tried = 100
    state = built(player)
    assert player.left > 2000 - 150
    assert 8 <= len(state) <= 20
    assert player.effects[state.colours, state.cells].sum() >= 8


def test_a_wall_is_given_up_after_so_many_steps_or_queries() -> None:
    """Nothing helps: each step asks thirteen single edits and at most three leaps, and none is progress."""
    for patience in (2, 5):
        player = known(0, seed=0)
        assert len(built(player, patience=patience)) == 0
        assert 13 * patience <= 2000 - player.left <= 16 * patience
    player = known(0, seed=0)
    built(player, until=1500)
    assert 1500 - 16 < player.left <= 1500


@pytest.mark.parametrize("seed", range(6))
def test_weak_edits_give_way_to_strong_ones_next_to_them(seed: int) -> None:
    """Forty edits lower the margin by 1 each; each has a neighbour that lowers it by 5, and 40 are needed: eight of those."""
    beliefs = beliefs_on(np.random.default_rng(0))
    rows, columns = np.divmod(np.arange(40), 8)
    weak = beliefs.cell_of_pixel[(10 + 4 * rows) * SIDE + 10 + 4 * columns]
    effects = np.zeros(beliefs.mean.shape)
    effects[1, weak], effects[1, weak + 1] = 1, 5
    player = Additive(effects, 39.5, State(weak, np.ones(40, np.int64)), seed=seed, queries=900)
    for _ in trim(player, least=8):
        raise AssertionError("every question is answered at once")
    assert 8 <= len(player.best) <= 11
    assert effects[player.best.colours, player.best.cells].sum() > 39.5
    assert player.left >= -40  # the last question may go beyond


def test_it_is_over_at_once_where_the_best_is_small_enough() -> None:
    player = Additive(np.zeros((2, 1)), 1.0, State(np.arange(8), np.ones(8, np.int64)), seed=0, queries=100)
    assert list(trim(player, least=8)) == []
    assert player.left == 100


def test_it_ends_where_no_smaller_set_flips() -> None:
    """Ten edits, all needed, and no other edit does anything."""
    beliefs = beliefs_on(np.random.default_rng(0))
    cells = beliefs.cell_of_pixel[np.arange(10) * 17 + 1000]
    effects = np.zeros(beliefs.mean.shape)
    effects[1, cells] = 1
    player = Additive(effects, 9.5, State(cells, np.ones(10, np.int64)), seed=0, queries=100_000)
    list(trim(player, least=8))
    assert len(player.best) == 10
    assert 95_000 < player.left < 100_000


@pytest.mark.parametrize("seed", range(4))
def test_needs_that_are_known_are_not_measured_again(seed: int) -> None:
    """Of 100 edits forty lower the margin by 1 each and forty are needed: sixty go after one round of 100 states."""
    beliefs = beliefs_on(np.random.default_rng(0))
    cells = beliefs.cell_of_pixel[np.arange(100) * 17 + 1000]
    effects = np.zeros(beliefs.mean.shape)
    effects[1, cells[:40]], effects[1, cells[40:]] = 1, 0.001
    order = np.random.default_rng(seed).permutation(100)
    player = Additive(effects, 39.5, State(cells[order], np.ones(100, np.int64)), seed=seed, queries=150)
    list(trim(player, least=40))
    assert set(player.best.cells.tolist()) == set(cells[:40].tolist())
    assert player.left >= 20


def test_what_is_known_of_edits_is_carried_to_a_state_that_shares_some_of_them() -> None:
    state, other = (State(np.array(cells), np.zeros(len(cells), np.int64)) for cells in ([5, 7, 9], [9, 8, 5, 6]))
    assert carried(state, np.array([1.0, 3.0, 2.0]), other).tolist() == [2, 2, 1, 2]


def test_what_was_built_in_vain_is_handed_back() -> None:
    """Forty edits help, but a hundred of their kind would be needed."""
    player = known(40, seed=0)
    player.start = player.clean = 99.5
    player.best = None
    player.left = 300
    state = built(player)
    assert player.best is None
    assert len(state) >= 30


@given(size=st.integers(2, 30), seed=st.integers(0, 999))
def test_compatible_swaps_make_one_state_of_as_many_edits(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    beliefs = beliefs_on(rng)
    state = State(beliefs.cell_of_pixel[rng.choice(SIDE * SIDE, size, replace=False)], rng.integers(2, size=size))
    asked = Asked(beliefs.cells, None)
    swaps = fresh_swaps(Ahead(state, np.ones(size), 1.0), beliefs, asked, optimism=1.0, count=32, most=16, rng=rng)
    assert swaps is not None
    rows = compatible(state, swaps, rng.permutation(len(swaps.batch)))
    joint = together(state, swaps, rows)
    assert len(set(joint.cells.tolist())) == size
    before, after = (set(zip(s.cells.tolist(), s.colours.tolist(), strict=True)) for s in (state, joint))
    assert len(after - before) == len(rows)
    for row in rows.tolist():
        single = swaps.batch[row]
        changed = set(zip(single.cells.tolist(), single.colours.tolist(), strict=True)) - before
        assert changed <= after


def test_which_swaps_are_compatible_by_hand() -> None:
    """Of four edits: the second row leaves the same place as the first, the third takes the same cell, the fourth moves a group,
    the fifth takes a cell that the state holds elsewhere, the sixth recolours an edit in its place."""
    state = State(np.array([10, 20, 30, 40]), np.zeros(4, np.int64))
    added = State(np.array([11, 12, 11, 50, 20, 40]), np.array([0, 0, 0, 0, 0, 1]))
    places, single = np.array([0, 0, 1, 1, 2, 3]), np.array([True, True, True, False, True, True])
    cells, colours = state.cells[None].repeat(6, 0), state.colours[None].repeat(6, 0)
    cells[np.arange(6), places], colours[np.arange(6), places] = added.cells, added.colours
    swaps = Swaps(cells, colours, added, places, single)
    rows = compatible(state, swaps, np.arange(6))
    assert rows.tolist() == [0, 5]
    joint = together(state, swaps, rows)
    assert joint.cells.tolist() == [11, 20, 30, 40]
    assert joint.colours.tolist() == [0, 0, 0, 1]
