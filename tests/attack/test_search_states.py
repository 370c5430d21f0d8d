"""Batches of states are those that a definition edit by edit gives, and so are the images that shrinking asks about."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustest import compiled
from robustest.attack.search_states import Batch, State, prefixes, stretches, without_parts
from robustest.attack.shrink import keeping
from robustest.results import Edits

pytestmark = pytest.mark.usefixtures("loops_as_before")


def some_state(size: int, seed: int) -> State:
    rng = np.random.default_rng(seed)
    return State(rng.permutation(3 * size), rng.integers(2, size=3 * size)).keep(np.arange(size))


def listed(batch: Batch) -> list[list[tuple[int, int]]]:
    """Each state's edits in order."""
    states = [batch[place] for place in range(len(batch))]
    return [list(zip(state.cells.tolist(), state.colours.tolist(), strict=True)) for state in states]


@given(size=st.integers(1, 40), group=st.integers(1, 45), seed=st.integers(0, 99), fast=st.booleans())
def test_each_part_of_an_order_is_left_out_once(size: int, group: int, seed: int, fast: bool) -> None:
    compiled.use(fast)
    state, order = some_state(size, seed), np.random.default_rng(seed).permutation(size)
    edits = list(zip(state.cells.tolist(), state.colours.tolist(), strict=True))
    wanted = []
    for start in range(0, size, group):
        gone = set(order[start : start + group].tolist())
        wanted.append([edit for place, edit in enumerate(edits) if place not in gone])
    assert listed(without_parts(state, order, group)) == wanted


@given(size=st.integers(1, 40), seed=st.integers(0, 99), fast=st.booleans())
def test_prefixes_and_stretches(size: int, seed: int, fast: bool) -> None:
    compiled.use(fast)
    state = some_state(size, seed)
    edits = list(zip(state.cells.tolist(), state.colours.tolist(), strict=True))
    sizes = [length for length in (2, 3, 4, 6, 8, 12, 16, 24, 32) if length < size]
    assert listed(prefixes(state)) == [edits[:length] for length in [*sizes, size]]
    bounds = [(0, size), (size // 2, size), (size // 3, size // 2)]
    assert listed(stretches(state, bounds)) == [edits[start:stop] for start, stop in bounds]


@given(seed=st.integers(0, 99), fast=st.booleans())
def test_images_keep_the_changes_they_are_said_to(seed: int, fast: bool) -> None:
    compiled.use(fast)
    rng = np.random.default_rng(seed)
    changes = dict(zip(rng.permutation(30)[:9].tolist(), rng.random(9).tolist(), strict=True))
    kept = rng.random((4, 9)) < 0.5
    found = keeping(Edits.of([changes], 1), kept)
    pairs = [(pixel, np.float32(value)) for pixel, value in changes.items()]
    for row, own in enumerate(kept):
        wanted = [pair for pair, keep in zip(pairs, own.tolist(), strict=True) if keep]
        assert [(pixel, colour[0]) for pixel, colour in found.items(row)] == wanted
