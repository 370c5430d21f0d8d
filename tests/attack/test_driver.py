"""The driver and its record: budget, memory, verdicts, and that nothing depends on who else is in the batch."""

from __future__ import annotations

import gc
import itertools
import pickle
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustest.attack import driver, find, scorer
from robustest.attack.driver import usual_games
from robustest.attack.find import iter_adversarials
from robustest.attack.games import Game
from robustest.attack.memory import Memories, Memory
from robustest.attack.questions import Asked, answer, ask
from robustest.attack.record import Record, distances_of, edit_keys, state_keys
from robustest.attack.replay import Find, replay, replayed
from robustest.attack.scorer import Scorer
from robustest.attack.search_beliefs import Beliefs
from robustest.attack.task import Search, Task
from robustest.classifiers import InputSpec, load_classifier
from robustest.classifiers.batching import Batch
from robustest.classifiers.classifier import Classifier
from robustest.demo import MODELS, demo_images
from robustest.errors import ModelError
from robustest.images import as_unit
from robustest.results import AttackResult, Edits, SaliencyChange, Verdict
from robustest.settings import AttackSettings, Norm
from tests.models import linear_scores

SIDE = 5


def brightness(threshold: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Class 1 if more than `threshold` pixels' worth of light is in a gray image, else 0."""
    weights = np.stack([np.zeros(SIDE * SIDE), np.ones(SIDE * SIDE)], axis=1).astype(np.float32)
    return linear_scores(weights, np.array([threshold, 0], np.float32))  # type: ignore[return-value]


def black() -> Task:
    """A black image, of which four lit pixels pass a threshold of 3.5."""
    return Task(
        image=np.zeros((SIDE, SIDE, 1), np.float32),
        eight_bit=True,
        label=0,
        target=None,
        decision_only=False,
        clean_margin=3.5,
        settings=AttackSettings(),
    )


def lights(counts: list[int]) -> Callable[[Task, np.random.Generator], Search]:
    """A search that lights the first k pixels, for each k in turn, one question each."""

    def search(task: Task, rng: np.random.Generator) -> Search:
        for count in counts:
            yield Edits.of([{pixel: 1.0 for pixel in range(count)}], 1)

    return search


def run(
    strategy: Callable[[Task, np.random.Generator], Search], *, queries: int = 100, number: int = 3, **more: object
) -> list[AttackResult]:
    rng = np.random.default_rng(0)
    images = np.where(rng.random((number, SIDE, SIDE, 1)) < 0.5, np.uint8(0), np.uint8(1))  # dark, and all different
    classifier = load_classifier(brightness(3.5))
    settings = AttackSettings(queries=queries)
    found = dict(
        iter_adversarials(classifier, images, np.zeros(number, np.int64), settings, strategy=strategy, **more)  # type: ignore[arg-type]
    )
    return [found[index] for index in range(number)]


@pytest.mark.parametrize(
    ("check", "lit", "queries", "pixels", "minimal"),
    [
        ("groups", 300, 600, 111, True),
        ("pixels", 300, 600, 111, True),  # 200 queries are too few to try 300 pixels: groups of them first
        ("cheap", 300, 1200, 300, False),  # so the search has them all
        ("cheap", 300, 900, 111, False),  # or few are held back, for groups: 112, of which not 111 are left to try each
        ("pixels", 120, 2400, 111, True),  # of 300 held back 120 try each, 9 some together, 111 each of the rest
        ("cheap", 120, 2400, 111, True),
    ],
)
def test_the_last_find_is_checked_as_the_search_asks_for(
    check: Any, lit: int, queries: int, pixels: int, minimal: bool
) -> None:
    """Of 2,000 pixels 111 must be lit; the search finds more at once, and then asks on for nothing."""

    def strategy(task: Task, rng: np.random.Generator) -> Search:
        task.notes.check = check
        yield Edits.of([{pixel: 1.0 for pixel in range(lit)}], 1)
        for pair in itertools.combinations(range(2000), 2):
            yield Edits.of([dict.fromkeys(pair, 1.0)], 1)

    weights = np.stack([np.zeros(2000), np.ones(2000)], axis=1).astype(np.float32)
    classifier = load_classifier(linear_scores(weights, np.array([110.5, 0], np.float32)))
    images = np.zeros((1, 50, 40, 1), np.uint8)
    settings = AttackSettings(queries=queries)
    ((_, result),) = iter_adversarials(classifier, images, np.zeros(1, np.int64), settings, strategy=strategy)
    assert result.l0_pixels == pixels
    assert result.minimal is minimal


def test_a_flip_is_shrunk_replayed_and_measured() -> None:
    for result in run(lights([9])):
        assert result.verdict is Verdict.FLIPPED
        assert result.l0_pixels == 4  # four lit pixels pass the threshold of 3.5, three and the dark rest do not
        assert result.minimal is True
        assert result.predicted == 1
        assert result.image is not None
        assert result.image.dtype == np.uint8
        assert result.curve[0] == (2, 9.0)
        assert result.curve[-1][1] == 4.0


def test_the_budget_is_never_exceeded_and_counts_the_clean_image() -> None:
    for queries in (1, 2, 5, 17):
        for result in run(lights([1, 2, 3, 9] * 50), queries=queries):
            assert result.queries <= queries
    assert run(lights([1, 2, 3]), queries=3)[0].verdict is Verdict.SURVIVED


def test_a_finished_game_is_freed_at_once() -> None:
    """Its search and the driver's notes know each other: left so, they would wait for the garbage collector."""
    classifier = load_classifier(brightness(3.5))
    images = np.arange(60 * SIDE * SIDE, dtype=np.uint8).reshape(60, SIDE, SIDE, 1) % 2
    before = gc.isenabled()
    gc.disable()
    try:
        found = iter_adversarials(classifier, images, np.zeros(60, np.int64), AttackSettings(queries=30), games=2)
        alive = [sum(type(thing) is Beliefs for thing in gc.get_objects()) for _ in found]
    finally:
        if before:
            gc.enable()
    assert max(alive) <= 4  # of the two in play; each looks at its image as one or two rivals see it


def test_games_are_shared_by_all_groups_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watched(games: list[Game], memories: Memories, scorer: Scorer) -> Asked:
        sizes.append(len(games))
        return ask(games, memories, scorer)

    def ending(task: Task, rng: np.random.Generator) -> Search:
        for count in range(1, 3 if task.image[0, 0, 0] else 12):  # some images are given up early
            yield Edits.of([{pixel: 0.5 for pixel in range(count)}], 1)

    monkeypatch.setattr(driver, "ask", watched)
    images = np.zeros((8, SIDE, SIDE, 1), np.uint8)
    images[:, 1, :, 0] = np.arange(8)[:, None]  # all different
    images[:4, 0, 0, 0] = 1  # the first group's
    classifier = load_classifier(brightness(30))
    results = list(iter_adversarials(classifier, images, np.zeros(8, np.int64), AttackSettings(), strategy=ending))
    assert sorted(result.queries for _, result in results) == [3] * 4 + [12] * 4
    assert sizes[:4] == [2, 2, 2, 2]
    assert sizes[-4:] == [1, 1, 1, 1]  # the four that are left


def test_calls_are_full_where_all_must_be_of_one_size_and_few_games_ask_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight images, three states each a question, four a call: two groups of four leave nothing over, one image cannot."""
    sizes, calls = list[int](), list[int]()

    def watched(games: list[Game], memories: Memories, scorer: Scorer) -> Asked:
        if not sizes:
            calls.clear()  # those that chose the batch
        sizes.append(len(games))
        return ask(games, memories, scorer)

    def scoring(images: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(images))
        return brightness(30)(images)

    def threes(task: Task, rng: np.random.Generator) -> Search:
        for level in range(20 if task.image[0, 0, 0] else 40):  # one image goes on alone
            yield Edits.of([{0: (3 * level + more + 1) / 200} for more in range(3)], 1)

    monkeypatch.setattr(driver, "ask", watched)
    images = np.zeros((7, SIDE, SIDE, 1), np.float32)
    images[:, 1, :, 0] = np.arange(7)[:, None] / 255
    images[1:, 0, 0, 0] = 1
    classifier = load_classifier(scoring)
    here = replace(classifier.info, beside=False, steady=False, padded_batch=4)
    monkeypatch.setattr(type(classifier), "info", property(lambda _: here))
    results = list(iter_adversarials(classifier, images, np.zeros(7, np.int64), AttackSettings(), strategy=threes))
    assert sum(result.queries for _, result in results) == 7 + 3 * (40 + 6 * 20)
    assert sizes[:2] == [4, 3]
    assert set(sizes[-15:]) == {1}  # the last image is in one group
    assert set(calls) == {4}
    filled = sum(calls) - sum(result.queries for _, result in results)
    assert filled <= 20 + 8  # one for each question of the image that is left alone, few before


def test_something_is_left_to_score_while_a_group_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen images, three states each a question, eighteen a call: what is asked last must not have to be waited for."""
    calls = deque[Callable[[], None]]()
    left = list[int]()

    class Slow(Future[Any]):
        """Calls are run when their answers are waited for, in order, and no sooner."""

        def result(self, timeout: float | None = None) -> Any:
            while not self.done():
                calls.popleft()()
            return super().result(timeout)

    class Thread:
        def submit(self, call: Callable[..., Any], /, *args: Any) -> Future[Any]:
            future = Slow()
            calls.append(lambda: future.set_result(call(*args)))
            return future

    def watched(classifier: Classifier, asked: Asked, *more: Any) -> Any:
        left.append(len(calls))
        return answer(classifier, asked, *more)

    def threes(task: Task, rng: np.random.Generator) -> Search:
        for level in range(20):
            yield Edits.of([{0: (3 * level + more + 1) / 200} for more in range(3)], 1)

    monkeypatch.setattr(scorer, "Future", Slow)
    monkeypatch.setattr(driver, "thread_of", lambda _: nullcontext(Thread()))
    monkeypatch.setattr(driver, "answer", watched)
    images = np.zeros((16, SIDE, SIDE, 1), np.float32)
    images[:, 1, :, 0] = np.arange(16)[:, None] / 255
    classifier = load_classifier(brightness(30))
    elsewhere = replace(classifier.info, beside=True, steady=False, padded_batch=18)
    monkeypatch.setattr(type(classifier), "info", property(lambda _: elsewhere))
    results = list(iter_adversarials(classifier, images, np.zeros(16, np.int64), AttackSettings(), strategy=threes))
    assert sum(result.queries for _, result in results) == 16 * 61
    assert min(left[8:-8]) >= 1


def test_a_question_asked_twice_is_answered_from_memory() -> None:
    result = run(lights([1, 2, 1, 2, 2]))[0]
    assert (result.queries, result.remembered) == (3, 3)


def test_a_search_that_turns_in_a_circle_is_stopped() -> None:
    def circle(task: Task, rng: np.random.Generator) -> Search:
        while True:
            yield Edits.of([{0: 1.0}], 1)

    assert run(circle)[0].queries == 2


def test_finds_of_several_rounds_are_scored_again_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve images, three in play at once: 12 finds, each scored again once, in a call for all that came meanwhile."""
    together = list[int]()

    def watched(classifier: Classifier, finds: list[Find]) -> list[AttackResult]:
        together.append(len(finds))
        return replayed(classifier, finds)

    monkeypatch.setattr(driver, "replayed", watched)
    monkeypatch.setattr(find, "choose_batch", lambda *_, rows: Batch(rows))  # as where no score depends on the batch
    alone = run(lights([4]), number=12, batch=1, games=3)
    assert together == [1] * 12
    together.clear()
    assert len(run(lights([4]), number=12, batch=16, games=3)) == 12
    assert sum(together) == 12
    assert len(together) <= 4
    assert [result.l0_pixels for result in alone] == [4] * 12


def test_a_find_that_does_not_hold_is_told_from_those_beside_it() -> None:
    task = black()
    found = AttackResult(verdict=Verdict.SURVIVED, attack="x", norm="l0", label=0, target=None, seed=0, budget=1)
    finds = [Find(found, task, Edits.of([dict.fromkeys(range(count), 1.0)], 1), True) for count in (3, 4, 2, 9)]
    believed = replayed(load_classifier(brightness(3.5)), finds)
    assert [result.verdict for result in believed] == [Verdict.UNKNOWN, Verdict.FLIPPED] * 2
    assert [result.l0_pixels for result in believed] == [None, 4, None, 9]


def test_misclassified_images_are_excluded_and_cost_one_query() -> None:
    images = np.full((2, SIDE, SIDE, 1), 255, np.uint8)
    images[1, 0] = 0
    classifier = load_classifier(brightness(3.5))
    found = dict(iter_adversarials(classifier, images, np.zeros(2, np.int64), AttackSettings(), strategy=lights([1])))
    assert {result.verdict for result in found.values()} == {Verdict.EXCLUDED}
    assert found[0].queries == 1
    assert "answers 1" in found[0].reason


def wandering(task: Task, rng: np.random.Generator) -> Search:
    """Random states of one to seven lit pixels, three a question."""
    while True:
        states = [{int(p): 1.0 for p in rng.choice(SIDE * SIDE, rng.integers(1, 8), replace=False)} for _ in range(3)]
        yield Edits.of(states, 1)


def test_results_do_not_depend_on_batch_or_company() -> None:
    def essence(results: list[AttackResult]) -> list[object]:
        return [(r.verdict, r.l0_pixels, r.queries, r.curve, r.margin) for r in results]

    whole = essence(run(wandering, number=6, batch=64))
    assert essence(run(wandering, number=6, batch=1)) == whole
    assert essence(run(wandering, number=6, batch=5)) == whole
    assert essence(run(wandering, number=2, batch=64)) == whole[:2]


def test_a_label_only_classifier_plays_and_says_so() -> None:
    scores = brightness(3.5)
    classifier = load_classifier(lambda images: scores(images).argmax(axis=1), InputSpec(output="label"))
    images = np.zeros((2, SIDE, SIDE, 1), np.uint8)
    images[1, 0, 0] = 1
    found = dict(
        iter_adversarials(classifier, images, np.zeros(2, np.int64), AttackSettings(queries=60), strategy=lights([9]))
    )
    assert all(result.l0_pixels == 4 and result.decision_only for result in found.values())


def test_a_flip_that_does_not_hold_when_scored_again_is_unknown() -> None:
    found = run(lights([9]), number=1)[0]
    task = black()
    too_few = Edits.of([{0: 1.0, 1: 1.0, 2: 1.0}], 1)
    again = replay(load_classifier(brightness(3.5)), found, task, too_few, minimal=True)
    assert again.verdict is Verdict.UNKNOWN
    assert "answers differently" in again.reason


def test_constant_scores_are_an_error_not_a_result() -> None:
    with pytest.raises(ModelError, match="same scores"):
        list(
            iter_adversarials(
                load_classifier(lambda images: np.ones((len(images), 2), np.float32) * [2, 1]),
                np.arange(2 * SIDE * SIDE, dtype=np.uint8).reshape(2, SIDE, SIDE, 1),
                np.arange(2),
                AttackSettings(),
                strategy=lights([1]),
                batch=4,
            )
        )


@given(st.lists(st.integers(0, 30), unique=True, max_size=6), st.integers(0, 100))
def test_a_state_is_a_set_its_order_does_not_matter(pixels: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    colours = {pixel: rng.random(3, dtype=np.float32) for pixel in pixels}
    shuffled = {pixel: colours[pixel] for pixel in rng.permutation(np.array(pixels, int)).tolist()}
    keys = state_keys(Edits.of([colours, shuffled], 3)).tolist()
    assert keys[0] == keys[1]
    if pixels:
        assert state_keys(Edits.of([{p: c for p, c in colours.items() if p != pixels[0]}], 3))[0] != keys[0]


def test_keys_of_all_single_changes_of_an_image_differ() -> None:
    values = np.array([[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)], np.float32)
    edits = Edits(np.repeat(np.arange(1024), 8), np.tile(values, (1024, 1)), np.arange(8193))
    assert len(set(edit_keys(edits).tolist())) == 8192


@pytest.mark.parametrize(("norm", "wanted"), [("l0", 2), ("l0_dims", 3), ("l1", 1.4), ("l2", 0.78**0.5), ("linf", 0.7)])
def test_distances_of_edits(norm: Norm, wanted: float) -> None:
    base = np.array([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]], np.float32)
    edits = Edits.of([{}, {0: [0.1, 0.9, 0.3], 1: [0.0, 0.5, 0.7]}], 3)
    assert distances_of(edits, base, norm) == pytest.approx([0, wanted], abs=1e-6)


def test_the_record_keeps_the_first_of_equally_near_images() -> None:
    record = Record(np.zeros((9, 1), np.float32), "l0", 10, Memory())
    edits = Edits.of([{0: 1.0, 1: 1.0}, {2: 1.0}, {3: 1.0}], 1)
    margins = np.array([-1.0, -2.0, -3.0])
    record.memory.add(state_keys(edits), margins)
    record.memory.books.hear(np.array([0]), np.array([3]), np.array([-3.0]))
    record.improve(edits, 0, margins)
    assert record.best is not None
    assert record.best.pixels.tolist() == [2]
    assert record.curve == [(1, 2.0), (2, 1.0)]
    assert (record.queries, record.left) == (3, 7)
    assert record.memory.books.totals(0)[:3] == (3, 0, -3.0)
    assert record.unchecked() == 1


def test_of_images_equally_near_in_linf_the_record_keeps_the_first_with_the_fewest_pixels() -> None:
    record = Record(np.zeros((9, 1), np.float32), "linf", 10, Memory())
    edits = Edits.of([{0: 1.0}, {0: 0.5, 1: 0.5, 2: 0.5}, {0: 0.5, 1: 0.25}, {3: 0.5, 1: 0.5}, {4: 1.0}], 1)
    margins = np.full(5, -1.0)
    record.memory.add(state_keys(edits), margins)
    record.memory.books.hear(np.array([0]), np.array([5]), np.array([-1.0]))
    record.improve(edits, 0, margins)
    assert record.best is not None
    assert record.best.pixels.tolist() == [0, 1]
    assert record.best.values[:, 0].tolist() == [0.5, 0.25]
    assert record.curve == [(1, 1.0), (2, 0.5)]


@pytest.mark.parametrize("norm", ["l0", "l0_dims", "l1", "l2", "linf"])
def test_no_single_pixel_can_be_put_back_where_a_result_says_so(norm: Norm) -> None:
    classifier, images = load_classifier(MODELS["plain"]), demo_images().take([0, 4])
    settings = AttackSettings(norm=norm, queries=300)
    results = find.find_adversarials(classifier, images.images, images.labels, settings=settings)
    for clean, label, result in zip(images.images, images.labels, results, strict=True):
        assert result.minimal
        assert result.image is not None
        changed = np.argwhere((result.image != clean).any(axis=2))
        fewer = np.repeat(result.image[None], len(changed), axis=0)
        for row, place in zip(fewer, map(tuple, changed), strict=True):
            row[place] = clean[place]
        assert (classifier(as_unit(fewer)).argmax(axis=1) == label).all()


def test_a_search_hears_the_scores_of_what_was_sent_and_nothing_of_what_was_remembered() -> None:
    told: list[NDArray[np.float64] | None] = []

    def search(task: Task, rng: np.random.Generator) -> Search:
        told.append(task.notes.scores)
        for counts in ([1, 2], [2, 3], [3, 2]):
            yield Edits.of([{pixel: 1.0 for pixel in range(count)} for count in counts], 1)
            told.append(task.notes.scores)

    run(search, number=1)
    clean, first, mixed, none = told
    assert clean is not None
    assert clean.shape == (1, 2)
    assert first is not None
    assert first[:, 0].tolist() == [3.5, 3.5]
    assert first[1, 1] > first[0, 1] > clean[0, 1]
    assert mixed is not None
    assert np.isnan(mixed).tolist() == [[True, True], [False, False]]
    assert none is None


def test_as_many_games_are_played_as_fill_a_batch_and_have_room() -> None:
    assert usual_games(Batch(256), (224, 224, 3)) == 64  # ten states each; 30 MB each fit into a gigabyte a group
    assert usual_games(Batch(128, pad=True), (224, 224, 3)) == 64  # or into half of it, where there are four groups
    assert (
        usual_games(Batch(128, pad=True), (224, 224, 3), beside=False) == 24
    )  # one group, and one half as large again
    assert usual_games(Batch(2), (28, 28, 1)) == 128  # small ones are played together whatever the batch
    assert usual_games(Batch(2), (224, 224, 3)) == 4  # large ones only as far as they cost little memory
    assert usual_games(Batch(256), (2000, 2000, 3)) == 2


def test_saliency_is_computed_when_it_is_looked_at_and_travels_as_maps() -> None:
    before, after = np.full((2, 2), 0.25), np.array([[0.5, 0.5], [0, 0]])
    calls = []
    change = SaliencyChange.later(lambda: (calls.append(1), (before, after))[1])  # type: ignore[func-returns-value]
    assert not calls
    assert (change.after is after, change.before is before, calls) == (True, True, [1])
    copied = pickle.loads(pickle.dumps(SaliencyChange.later(lambda: (before, after))))
    assert np.array_equal(copied.after, after)
