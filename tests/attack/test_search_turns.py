"""Whole turns in compiled code ask the questions of the plain search, one by one, and hear the answers alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustest import compiled
from robustest.attack import draws, search_swap_kernels, search_turn_kernels
from robustest.attack.find import iter_adversarials
from robustest.attack.search import game_search
from robustest.attack.task import Search, Task
from robustest.classifiers import load_classifier
from robustest.settings import AttackSettings

pytestmark = pytest.mark.skipif(not compiled.installed(), reason="numba (extra `fast`) is not installed")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = compiled.fast()
    yield
    compiled.use(before)


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


def questions(shape: tuple[int, int, int], *, fast: bool, queries: int) -> list[bytes]:
    """All that six games asked and were answered, and the draw that would have been next."""
    compiled.use(fast)
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (6, *shape)).astype(np.uint8)
    classifier = load_classifier(network(shape, 5))
    labels = np.argmax(classifier(images.astype(np.float32) / 255), axis=1)
    told: dict[bytes, list[bytes]] = {}

    def search(task: Task, rng: np.random.Generator) -> Search:
        own = told.setdefault(task.image.tobytes(), [])
        play = game_search(task, rng)
        try:
            question = next(play)
            while True:
                own += [question.pixels.tobytes(), question.values.tobytes(), question.offsets.tobytes()]
                margins = yield question
                own.append(margins.tobytes())
                question = play.send(margins)
        except StopIteration:
            return
        finally:
            own.append(rng.random(2).tobytes())

    list(iter_adversarials(classifier, images, labels, AttackSettings(queries=queries), strategy=search))
    return [part for key in sorted(told) for part in told[key]]


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 15, 3)])
def test_every_question_is_the_same(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = questions(shape, fast=False, queries=500)
    compiled.use(True)
    heed: Any = search_turn_kernels.heed_swaps
    aims: list[int] = []

    def counted(*args: Any) -> Any:
        aims.append(args[4])
        return heed(*args)

    monkeypatch.setattr(search_turn_kernels, "heed_swaps", counted)
    assert questions(shape, fast=True, queries=500) == wanted
    assert len(aims) > 20  # it was these turns that asked
    assert {aim >= 0 for aim in aims} == {False, True}  # for the nearest class, and for a rival


def test_where_scores_are_equal_numpy_puts_them_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all of them always were: nothing but the place of the noise is drawn in compiled code then."""
    wanted = questions((8, 8, 1), fast=False, queries=300)
    compiled.use(True)
    propose: Any = search_swap_kernels.propose_swaps

    def ties(*args: Any) -> tuple[int, int]:
        words, rest, pool, _, mean = args[:5]
        kept = words.copy(), rest.copy()
        _, start = propose(*args)
        words[:], rest[:] = kept
        assert draws.below(words, rest, len(pool) - mean.size) == start
        return search_turn_kernels.TIES, start

    monkeypatch.setattr(search_swap_kernels, "propose_swaps", ties)
    assert questions((8, 8, 1), fast=True, queries=300) == wanted


@given(numbers=st.lists(st.floats(-1e6, 1e6, width=32), min_size=0, max_size=128), kind=st.sampled_from(["f4", "f8"]))
def test_sums_are_taken_in_numpys_order(numbers: list[float], kind: str) -> None:
    compiled.use(True)
    values = np.array(numbers, kind)
    assert search_turn_kernels.summed(values) == np.add.reduce(values)
