"""What the search hears of every class: margins by hand, and an image whose nearest class is not the one to go for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robustest import compiled
from robustest.attack.find import find_adversarials
from robustest.attack.search_asked import Asked
from robustest.attack.search_rivals import Rivals
from robustest.attack.search_states import Batch
from robustest.settings import AttackSettings


def test_margins_are_gaps_to_every_other_class_nearest_first() -> None:
    rivals = Rivals(np.array([1.0, 9.0, 4.0, 8.0]), label=1)
    assert rivals.classes.tolist() == [3, 2, 0]
    assert rivals.clean.tolist() == [1.0, 5.0, 8.0]
    assert rivals.margins(np.array([[2.0, 3.0, 4.0, 0.0]])).tolist() == [[3.0, -1.0, 1.0]]


@pytest.mark.parametrize("switch", [None, *([0, 3] if compiled.installed() else [])])
def test_rows_are_remembered_by_their_states(switch: int | None) -> None:
    """In numpy, compiled, and from one to the other on the way: what was heard of each, and the margin of the others."""
    rng = np.random.default_rng(0)
    before = compiled.use(False)
    try:
        rivals, marks = Rivals(np.array([5.0, 0.0, 1.0]), label=0), np.zeros((2, 200), bool)
        asked, known = Asked(200, rivals), dict[tuple[int, int], list[float]]()
        for step in range(8):
            if step == switch:
                compiled.use(True)
            places = rng.permutation(400)[:70]  # each state once
            cells, colours = places % 200, places // 200
            scores = rng.standard_normal((70, 3))
            remembered = rng.random(70) < 0.3
            scores[remembered] = np.nan
            margins = rng.standard_normal(70)
            rows, new, _ = asked.heed(
                Batch(cells, colours, np.arange(71)), marks, margins, None if remembered.all() else scores
            )
            states = list(zip(cells.tolist(), colours.tolist(), strict=True))
            assert new == sum(state not in known for state in states)
            for place, state in enumerate(states):
                wanted = [scores[place, 0] - scores[place, 2], scores[place, 0] - scores[place, 1]]
                if remembered[place]:
                    wanted = known.get(state, [margins[place]] * 2)
                assert rows[place].tolist() == wanted
            known |= {state: row.tolist() for state, row in zip(states, rows, strict=True)}
            assert len(asked) == len(known)
    finally:
        compiled.use(before)


def test_where_nothing_was_scored_rows_are_remembered_too() -> None:
    for fast in {False, compiled.installed()}:
        before = compiled.use(fast)
        try:
            asked, marks = Asked(9, Rivals(np.array([5.0, 0.0, 1.0]), label=0)), np.zeros((1, 9), bool)
            first, second = (Batch(np.array([cell]), np.array([0]), np.array([0, 1])) for cell in (3, 4))
            rows, *_ = asked.heed(first, marks, np.array([2.0]), np.array([[4.0, 1.0, 2.0]]))
            assert asked.heed(first, marks, np.array([2.0]), None)[0].tolist() == rows.tolist() == [[2.0, 3.0]]
            assert asked.heed(second, marks, np.array([0.5]), None)[0].tolist() == [[0.5, 0.5]]
        finally:
            compiled.use(before)


def test_rivals_are_ranked_by_the_edits_that_they_would_take() -> None:
    rivals = Rivals(np.array([9.0, 7.0, 0.0, 5.0]), label=0)  # margins 2, 4 and 9 to classes 1, 3 and 2
    drops = np.array([[0.1, 2.0, 3.0], [0.1, 2.0, 3.0]])  # which take 20, 2 and 3 such edits
    rivals.hear(np.array([4, 5]), np.array([0, 0]), rivals.clean - drops)
    assert rivals.ranked() == [1, 2, 0]


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_a_class_farther_away_is_reached_where_it_takes_fewer_pixels(output: str) -> None:
    """Class 1 is nearest and every pixel helps a little: 9 are needed. Class 2 is far and two pixels do it together."""

    def score(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1).astype(np.float64)
        near = 0.12 * flat.sum(axis=1)
        pair = -9 + 5.2 * (flat[:, 21] + flat[:, 50])
        logits = np.stack([np.ones(len(images)), near, pair], axis=1)
        if output == "logits":
            return logits.astype(np.float32)
        odds = np.exp(logits)
        return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)

    blank: Any = np.zeros((1, 8, 8, 1), np.uint8)
    (result,) = find_adversarials(score, blank, [0], settings=AttackSettings(queries=400))
    assert result.l0_pixels == 2
