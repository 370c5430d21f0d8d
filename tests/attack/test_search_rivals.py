"""What the search hears of every class: margins by hand, and an image whose nearest class is not the one to go for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robustest import compiled
from robustest.attack.find import find_adversarials
from robustest.attack.search_rivals import Rivals
from robustest.settings import AttackSettings


def test_margins_are_gaps_to_every_other_class_nearest_first() -> None:
    rivals = Rivals(np.array([1.0, 9.0, 4.0, 8.0]), label=1)
    assert rivals.classes.tolist() == [3, 2, 0]
    assert rivals.clean.tolist() == [1.0, 5.0, 8.0]
    rows = rivals.margins(np.array([[2.0, 3.0, 4.0, 0.0]]), np.array([7]), np.array([-1.0]))
    assert rows.tolist() == [[3.0, -1.0, 1.0]]


def test_what_was_heard_before_is_remembered_and_the_rest_has_its_margin() -> None:
    rivals = Rivals(np.array([5.0, 0.0, 1.0]), label=0)
    first = rivals.margins(np.array([[4.0, 1.0, 2.0]]), np.array([11]), np.array([2.0]))
    nothing = np.full((1, 3), np.nan)
    assert rivals.margins(nothing, np.array([11]), np.array([2.0])).tolist() == first.tolist()
    assert rivals.margins(None, np.array([11]), np.array([2.0])).tolist() == first.tolist()
    assert rivals.margins(None, np.array([12]), np.array([0.5])).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("switch", [None, *([0, 3] if compiled.installed() else [])])
def test_rows_are_remembered_by_their_keys(switch: int | None) -> None:
    """In numpy, compiled, and from one to the other on the way: the last told of each key, and nothing of the others."""
    rng = np.random.default_rng(0)
    before = compiled.use(False)
    try:
        rivals, known = Rivals(np.array([5.0, 0.0, 1.0]), label=0), dict[int, list[float]]()
        for step in range(8):
            if step == switch:
                compiled.use(True)
            keys = rng.integers(0, 400, 70) << 40  # equal in their lowest bits
            scores = rng.standard_normal((70, 3))
            asked = rng.random(70) < 0.3
            scores[asked] = np.nan
            margins = rng.standard_normal(70)
            rows = rivals.margins(scores, keys, margins)
            for place in range(70):
                wanted = [scores[place, 0] - scores[place, 2], scores[place, 0] - scores[place, 1]]
                if asked[place]:
                    wanted = known.get(int(keys[place]), [margins[place]] * 2)
                assert rows[place].tolist() == wanted
            known |= {int(key): row.tolist() for key, row in zip(keys, rows, strict=True)}
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
