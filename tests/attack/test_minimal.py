"""Finds that are checked beyond the budget, on a classifier of which it is known how many pixels each of them needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.attack.find import find_adversarials, iter_adversarials
from robustest.classifiers import InputSpec, load_classifier
from robustest.results import AttackResult, Verdict
from robustest.settings import AttackSettings

_NEEDED = 30
_IMAGES = np.zeros((6, 16, 16, 1), np.uint8)
_IMAGES[:, 0, :, 0] = np.arange(6)[:, None]  # six different ones, all but black


def counting(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class 1 where 30 pixels or more are white: whatever flips with no pixel too many has 30 changes."""
    white = (images > 0.5).sum(axis=(1, 2, 3))
    return np.stack([np.zeros(len(images)), white - (_NEEDED - 0.5)], axis=1).astype(np.float32)


def labels_alone(images: NDArray[np.float32]) -> NDArray[np.int64]:
    return counting(images).argmax(axis=1)


def found(settings: AttackSettings, classifier: object = counting) -> list[AttackResult]:
    return find_adversarials(classifier, _IMAGES, np.zeros(len(_IMAGES), np.int64), settings=settings)


@pytest.mark.parametrize(
    ("attack", "queries"),
    [("game", 40), ("sparse-rs@60", 90), ("random-corners@200", 40), ("pointwise", 60), ("sparse-evo", 90)],
)
def test_each_find_is_checked_beyond_the_budget_where_it_must_be(attack: str, queries: int) -> None:
    settings = AttackSettings(queries=queries, attack=attack)
    within, beyond = found(settings), found(replace(settings, minimal=True))
    assert any(result.minimal is False for result in within)
    for before, after in zip(within, beyond, strict=True):
        assert before.queries <= queries
        if before.verdict is Verdict.FLIPPED:
            assert after.l0_pixels == _NEEDED
            assert after.minimal
            assert after.curve[: len(before.curve)] == before.curve
        if before.minimal is not False:
            assert (after.l0_pixels, after.queries, after.curve) == (before.l0_pixels, before.queries, before.curve)


def test_so_are_finds_by_labels_alone_and_in_other_norms() -> None:
    by_label = found(
        AttackSettings(queries=40, attack="pointwise", minimal=True),
        load_classifier(labels_alone, spec=InputSpec(output="label")),
    )
    in_l2 = found(AttackSettings(queries=60, norm="l2", minimal=True))
    for results in (by_label, in_l2):
        assert {(result.l0_pixels, result.minimal) for result in results} == {(_NEEDED, True)}


def test_what_was_not_flipped_within_the_budget_is_not_looked_for_beyond_it() -> None:
    settings = AttackSettings(queries=12, attack="one-scan")
    within, beyond = found(settings), found(replace(settings, minimal=True))
    assert {result.verdict for result in within} == {Verdict.SURVIVED}
    assert [result.queries for result in beyond] == [result.queries for result in within]


@pytest.mark.parametrize("games", [1, 2, 6])
def test_the_result_does_not_depend_on_how_many_are_in_play(games: int) -> None:
    settings = AttackSettings(queries=60, minimal=True)
    labels = np.zeros(len(_IMAGES), np.int64)
    some = dict(iter_adversarials(load_classifier(counting), _IMAGES, labels, settings, games=games))
    for place, alone in enumerate(found(settings)):
        assert (some[place].curve, some[place].queries) == (alone.curve, alone.queries)
        assert np.array_equal(some[place].image, alone.image)  # type: ignore[arg-type]
