"""Shrinking, on margins of which it is known what can be put back."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustest.attack.shrink import shrink, shrink_singly
from robustest.results import Edits, Margins

Margin = Callable[[frozenset[int]], float]


def play(
    search: Generator[Edits, Margins, None], margin: Margin, start: range
) -> tuple[frozenset[int], set[frozenset[int]]]:
    """What a search comes to, and all the states that it asked: as a driver, that scores no state twice."""
    best, asked = frozenset(start), set[frozenset[int]]()
    try:
        question = next(search)
        while True:
            states = [frozenset(question.one(index).pixels.tolist()) for index in range(len(question))]
            asked.update(states)
            best = min([best, *(state for state in states if margin(state) < 0)], key=len)
            question = search.send(np.array([margin(state) for state in states]))
    except StopIteration:
        return best, asked


def pixels(count: int) -> Edits:
    return Edits.of([{pixel: 1.0 for pixel in range(count)}], 1)


@pytest.mark.parametrize("count", [2, 7, 40])
def test_where_no_pixel_can_be_put_back_each_is_tried_once(count: int) -> None:
    best, asked = play(shrink_singly(pixels(count)), lambda state: count - 0.5 - len(state), range(count))
    assert best == frozenset(range(count))
    assert len(asked) == count


def test_where_one_pixel_can_be_put_back_the_others_are_tried_twice() -> None:
    best, asked = play(shrink_singly(pixels(30)), lambda state: 28.5 - len(state - {17}), range(30))
    assert best == frozenset(range(30)) - {17}
    assert len(asked) == 30 + 29


def test_what_can_be_put_back_together_is_put_back_together() -> None:
    """Forty of a hundred do nothing: all are tried, then the forty are left out in 16 steps, then the sixty are tried."""
    best, asked = play(shrink_singly(pixels(100)), lambda state: 59.5 - len([p for p in state if p >= 40]), range(100))
    assert best == frozenset(range(40, 100))
    assert len(asked) == 100 + 16 + 60


@given(
    count=st.integers(1, 40), seed=st.integers(0, 999), rough=st.sampled_from([0.0, 0.3, 3.0]), kept=st.integers(1, 40)
)
def test_in_the_end_every_single_pixel_was_tried_and_none_can_be_put_back(
    count: int, seed: int, rough: float, kept: int
) -> None:
    """Of margins that add up, and of such on which every set has a part of its own."""
    worth = np.random.default_rng(seed).exponential(size=count)

    def margin(state: frozenset[int]) -> float:
        own = np.random.default_rng([seed, *sorted(state)]).normal()
        return float(np.sort(worth)[:kept].sum() - worth[list(state)].sum() + rough * own * (len(state) < count)) - 1e-9

    best, asked = play(shrink_singly(pixels(count)), margin, range(count))
    assert margin(best) < 0
    each = [best - {pixel} for pixel in best if len(best) > 1]
    assert all(state in asked and margin(state) >= 0 for state in each)


def test_where_few_can_be_put_back_together_it_takes_fewer_queries_than_to_try_all_again() -> None:
    """Ten pairs of twins, of which either will do, and 40 pixels that are needed: ten of 60 can be put back."""
    twins = [{2 * pair, 2 * pair + 1} for pair in range(10)]

    def margin(state: frozenset[int]) -> float:
        return 49.5 - sum(bool(state & pair) for pair in twins) - len([pixel for pixel in state if pixel >= 20])

    found = [play(how(pixels(60)), margin, range(60)) for how in (shrink_singly, shrink)]
    assert [len(best) for best, _ in found] == [50, 50]
    assert len(found[0][1]) < len(found[1][1])
