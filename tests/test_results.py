"""What two images differ in, with answers known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from robustest.results import Distances, Edits, distances_between, distances_of_each

BASES = np.zeros((3, 2, 2, 2), np.float32)
CHANGED = BASES.copy()
CHANGED[1, 0, 1] = 0.5, 0.25
CHANGED[2, 1, 0, 1], CHANGED[2, 1, 1, 0] = 1, 0.75
WANTED = [
    Distances(0, 0, 0.0, 0.0, 0.0),
    Distances(1, 2, 0.75, (0.25 + 0.0625) ** 0.5, 0.5),
    Distances(2, 2, 1.75, 1.25, 1.0),
]


def test_distances_of_several_pairs_are_those_of_each() -> None:
    assert distances_of_each(BASES, CHANGED) == WANTED
    assert [distances_between(*pair) for pair in zip(BASES, CHANGED, strict=True)] == WANTED


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 7, 3)])
def test_sums_do_not_depend_on_how_many_pairs_there_are(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    bases, changed = rng.random((2, 5, *shape), dtype=np.float32)
    assert distances_of_each(bases, changed) == [distances_between(*pair) for pair in zip(bases, changed, strict=True)]


def test_edits_of_several_pairs_are_those_of_each() -> None:
    found = Edits.between_each(BASES, CHANGED)
    assert [edits.pixels.tolist() for edits in found] == [[], [1], [2, 3]]
    assert [edits.values.tolist() for edits in found] == [[], [[0.5, 0.25]], [[0, 1], [0.75, 0]]]
    assert [edits.offsets.tolist() for edits in found] == [[0, 0], [0, 1], [0, 2]]
