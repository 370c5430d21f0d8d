"""Whole turns in compiled code ask the questions of the plain search, one by one, and hear the answers alike."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustest import compiled
from robustest.attack import (
    addresses,
    draws,
    driver,
    search_climb_desks,
    search_desks,
    search_single_desks,
    search_swap_desks,
    search_turn_kernels,
)
from robustest.attack import questions as questions_of_a_group
from robustest.attack.find import find_adversarials, iter_adversarials
from robustest.attack.questions import Asked
from robustest.attack.search import game_search
from robustest.attack.search_turns import SwapTurns
from robustest.attack.task import Search, Task
from robustest.classifiers import InputSpec, load_classifier
from robustest.classifiers.classifier import classes_of
from robustest.errors import InvalidImage
from robustest.settings import AttackSettings

pytestmark = [
    pytest.mark.usefixtures("loops_as_before"),
    pytest.mark.skipif(not compiled.installed(), reason="numba (extra `fast`) is not installed"),
]


def network(shape: tuple[int, int, int], classes: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Two random layers: not linear, and no class is nearest for all images."""
    rng = np.random.default_rng(7)
    first = rng.standard_normal((int(np.prod(shape)), 24)) / 4
    second = rng.standard_normal((24, classes))

    def score(images: NDArray[np.float32]) -> NDArray[np.float32]:
        flat = images.reshape(len(images), -1).astype(np.float64)
        hidden = np.maximum([row @ first for row in flat], 0)  # one by one: an image's bits are the same in any batch
        return np.array([row @ second for row in hidden]).astype(np.float32)

    return score


def questions(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
    *,
    fast: bool,
    queries: int,
    games: int | None = None,
    scores: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
    spec: InputSpec | None = None,
) -> list[bytes]:
    """All that six games asked, the queries they spent until then, and the draw that would have been next."""
    compiled.use(fast)
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (6, *shape)).astype(np.uint8)
    classifier = load_classifier(scores or network(shape, 5), spec)
    labels = classes_of(classifier(images.astype(np.float32) / 255), classifier.info.output)
    told: dict[bytes, list[bytes]] = {}

    def ask(*arguments: Any) -> Asked:
        asked = questions_of_a_group.ask(*arguments)
        for number, game in enumerate(asked.games):
            own = told.setdefault(game.task.image.tobytes(), [])
            own.append(asked.keys[asked.bounds[number] : asked.bounds[number + 1]].tobytes())
            own.append(str(game.books.totals(game.slot)[:2]).encode())
        return asked

    def search(task: Task, rng: np.random.Generator) -> Search:
        try:
            yield from game_search(task, rng)
        finally:
            told[task.image.tobytes()].append(rng.random(2).tobytes())

    monkeypatch.setattr(driver, "ask", ask)
    settings = AttackSettings(queries=queries)
    list(iter_adversarials(classifier, images, labels, settings, strategy=search, games=games))
    return [part for key in sorted(told) for part in told[key]]


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 15, 3)])
@pytest.mark.parametrize("games", [None, 1])
def test_every_question_is_the_same(
    shape: tuple[int, int, int], games: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = questions(monkeypatch, shape, fast=False, queries=500)
    compiled.use(True)
    heed: Any = search_swap_desks.heed
    aims, turns = list[int](), set[tuple[int, int]]()

    def counted(*args: Any) -> Any:
        desks = [addresses.ints_at(address, search_desks.FIELDS) for address in args[0]]
        aims.extend(desk[search_desks.AIM] for desk in desks)
        modes = [int(desk[search_desks.MODE]) for desk in desks]
        following = heed(*args)
        turns.update(zip(modes, following.tolist(), strict=True))
        return following

    monkeypatch.setattr(search_swap_desks, "heed", counted)
    singles = _count_heeded(monkeypatch, search_single_desks)
    assert questions(monkeypatch, shape, fast=True, queries=500, games=games) == wanted
    assert sum(singles) > 20
    assert len(aims) > 20  # it was these turns that asked
    assert {aim >= 0 for aim in aims} == {False, True}  # for the nearest class, and for a rival
    assert {mode for mode, _ in turns} == set(range(4))  # swaps, and effects measured for each of three reasons


def test_with_compiled_code_too_a_label_beyond_the_classes_is_refused() -> None:
    compiled.use(True)
    images = np.zeros((2, 8, 8, 1), np.uint8)
    with pytest.raises(InvalidImage, match="must be below 5, the number of scores"):
        find_adversarials(network((8, 8, 1), 5), images, [0, 5], queries=20)


def test_of_labels_alone_every_question_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def labels(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return network((8, 8, 1), 5)(images).argmax(axis=1)

    wanted, heard = (
        questions(monkeypatch, (8, 8, 1), fast=fast, queries=500, scores=labels, spec=InputSpec(output="label"))
        for fast in (False, True)
    )
    assert heard == wanted


def far_away(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """A linear classifier: class 0 of these images, by some ten pixels."""
    weights = np.random.default_rng(2).standard_normal((int(np.prod(images.shape[1:])), 3))
    scores = [row @ weights for row in images.reshape(len(images), -1).astype(np.float64)]
    return (np.array(scores) + np.array([30.0, 0, 0])).astype(np.float32)


@pytest.mark.parametrize("step", [0.0, 0.8])
def test_where_many_pixels_are_needed_every_question_is_the_same(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With scores that every edit changes, and with some in steps, where building a state stands still at times."""

    def scores(images: NDArray[np.float32]) -> NDArray[np.float32]:
        told = far_away(images)
        return (np.floor(told / step) * step).astype(np.float32) if step else told

    wanted = questions(monkeypatch, (12, 11, 1), fast=False, queries=700, scores=scores)
    compiled.use(True)
    climbs = _count_heeded(monkeypatch, search_climb_desks)
    assert questions(monkeypatch, (12, 11, 1), fast=True, queries=700, scores=scores) == wanted
    assert sum(climbs) > 10


def rugged(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class 0 whatever is changed, by a margin that looks random: whoever builds a state soon stands still for long."""
    weights = np.random.default_rng(2).standard_normal(int(np.prod(images.shape[1:])))
    heights = [1e4 * float(row @ weights) % 1 for row in images.reshape(len(images), -1).astype(np.float64)]
    return np.stack([5 + np.array(heights), np.zeros(len(images))], axis=1).astype(np.float32)


def test_where_building_stands_still_every_question_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = questions(monkeypatch, (8, 8, 1), fast=False, queries=700, scores=rugged)
    compiled.use(True)
    heed: Any = search_climb_desks.heed
    stalled: list[int] = []

    def counted(*args: Any) -> Any:
        told = heed(*args)
        stalled.extend(addresses.ints_at(address, search_desks.FIELDS)[search_desks.STALLED] for address in args[0])
        return told

    monkeypatch.setattr(search_climb_desks, "heed", counted)
    assert questions(monkeypatch, (8, 8, 1), fast=True, queries=700, scores=rugged) == wanted
    assert max(stalled) > 6  # so that a worse state was gone on from, twice


def test_where_a_state_flips_with_fewer_edits_every_question_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of states of some edits one in thirty flips, as if by chance: so does what is left without one of them, at times."""

    def scores(images: NDArray[np.float32]) -> NDArray[np.float32]:
        told = rugged(images)
        extreme = ((images == 0) | (images == 1)).sum(axis=(1, 2, 3))
        told[:, 0] -= np.where(extreme >= 8, 5.03, 4)
        return told

    wanted = questions(monkeypatch, (9, 8, 1), fast=False, queries=1500, scores=scores)
    compiled.use(True)
    heed: Any = search_swap_desks.heed
    turns = set[tuple[int, int]]()

    def counted(*args: Any) -> Any:
        modes = [int(addresses.ints_at(address, search_desks.FIELDS)[search_desks.MODE]) for address in args[0]]
        following = heed(*args)
        turns.update(zip(modes, following.tolist(), strict=True))
        return following

    monkeypatch.setattr(search_swap_desks, "heed", counted)
    assert questions(monkeypatch, (9, 8, 1), fast=True, queries=1500, scores=scores) == wanted
    assert (search_desks.DROPPING, search_desks.FLIPPED) in turns


def _count_heeded(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[int]:
    """How many games' answers each call of a module's `heed` takes in, from now on."""
    heed: Any = module.heed
    counts: list[int] = []

    def counted(games: NDArray[np.int64], *args: Any) -> Any:
        counts.append(len(games))
        return heed(games, *args)

    monkeypatch.setattr(module, "heed", counted)
    return counts


@pytest.mark.parametrize("module", [search_swap_desks, search_single_desks, search_climb_desks])
def test_where_scores_are_equal_numpy_puts_them_in_order(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all of them always were: nothing but the place of the noise is drawn in compiled code then."""
    wanted = questions(monkeypatch, (12, 11, 1), fast=False, queries=300, scores=far_away)
    compiled.use(True)
    propose: Any = module.propose

    def ties(addresses_of_desks: NDArray[np.int64], *args: Any) -> NDArray[np.int64]:
        desks = [addresses.ints_at(address, search_desks.FIELDS) for address in addresses_of_desks]
        kept = [(desk.copy(), *(words.copy() for words in _words_of(desk))) for desk in desks]
        told: NDArray[np.int64] = propose(addresses_of_desks, *args)
        drawn = ~np.isin(told[1], (search_desks.CROWDED, search_desks.MEASURE))
        for desk, (before, state, rest), undone in zip(desks, kept, drawn, strict=True):
            if undone:
                words, half = _words_of(desk)
                start = desk[search_desks.START]
                words[:], half[:], desk[:] = state, rest, before
                below = int(desk[search_desks.POOLED] - desk[search_desks.KINDS] * desk[search_desks.WIDTH])
                assert draws.below(words, half, below) == start
                desk[search_desks.START] = start
        told[0, drawn], told[1, drawn] = 0, search_desks.TIED
        return told

    monkeypatch.setattr(module, "propose", ties)
    assert questions(monkeypatch, (12, 11, 1), fast=True, queries=300, scores=far_away) == wanted


def test_arrays_may_be_others_after_turns_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands on a desk is looked up anew: beliefs in other arrays, and a larger table, change nothing."""
    wanted = questions(monkeypatch, (8, 8, 1), fast=False, queries=400)
    take_up, moved = SwapTurns.take_up, list[int]()

    def elsewhere(turns: SwapTurns, stop: int) -> None:
        beliefs, asked = turns.beliefs, turns.player.asked
        for name in ("mean", "deviation", "tally", "_told", "_heard"):
            before = getattr(beliefs, name)
            setattr(beliefs, name, before.copy())
            before[...] = 1  # whoever still looks here is misled
        beliefs._places = None
        asked._grow(2 * len(asked) + 1000)
        moved.append(len(asked))
        take_up(turns, stop)

    monkeypatch.setattr(SwapTurns, "take_up", elsewhere)
    assert questions(monkeypatch, (8, 8, 1), fast=True, queries=400) == wanted
    assert moved


@pytest.mark.parametrize("step", [0.0, 4.0])
def test_single_edits_end_where_none_is_left_or_most_change_nothing(
    step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4x4 gray pixels have at most 32 single edits. Scores in steps hardly ever change; and nothing flips."""

    def brightness(images: NDArray[np.float32]) -> NDArray[np.float32]:
        total = images.reshape(len(images), -1).astype(np.float64).sum(axis=1)
        told = 3 + (np.floor(total / step) if step else total)
        return np.stack([told, 0 * told], axis=1).astype(np.float32)

    plain, fast = (
        questions(monkeypatch, (4, 4, 1), fast=fast, queries=200, scores=brightness) for fast in (False, True)
    )
    assert fast == plain


def _words_of(desk: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    return addresses.words_at(desk[search_desks.WORDS], 4), addresses.words_at(desk[search_desks.REST], 2)


@given(numbers=st.lists(st.floats(-1e6, 1e6, width=32), min_size=0, max_size=128), kind=st.sampled_from(["f4", "f8"]))
def test_sums_are_taken_in_numpys_order(numbers: list[float], kind: str) -> None:
    compiled.use(True)
    values = np.array(numbers, kind)
    assert search_turn_kernels.summed(values) == np.add.reduce(values)
