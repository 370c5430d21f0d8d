"""A server that fails: every fault ends in a retry that works or in a clear error, in bounded time and memory."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from robustest.classifiers.served import ServedClassifier, open_served
from robustest.classifiers.spec import InputSpec
from robustest.errors import EnvironmentFailure, ModelError, RobustestError
from tests.classifiers.faulty import HANG, FaultyServer, linear, small_model

QUICK = {"timeout": 60.0, "retries": 2, "patience": 20.0, "batch": 16}
IMPATIENT = {
    "timeout": 1.5,
    "patience": 4.0,
}  # where an answer does not come; a busy machine must still answer the rest
SLOW = ("hang", "slow", "drip", "late:2.5")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.float32) / np.float32(255)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


def opened(server: FaultyServer, **settings: Any) -> ServedClassifier:
    return open_served(server.url, InputSpec("NHWC", "RGB"), {**QUICK, **settings})


def expected(images: np.ndarray[Any, Any] = IMAGES) -> np.ndarray[Any, Any]:
    return linear(InputSpec("NHWC", "RGB").prepare(images))


PASSING = [
    "drop",
    "cut",
    "stale",
    "hang",
    "slow",
    "drip",
    "status:429",
    "status:503",
    "status:502",
    "retry:503:0",
    "garbage",
]


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_retried_and_the_scores_are_right(server: FaultyServer, fault: str) -> None:
    classifier = opened(server, **IMPATIENT if fault in SLOW else {})
    before = classifier.counts
    server.begin(lambda place: fault if place == 0 else None)
    assert (classifier(IMAGES) == expected()).all()
    counts = classifier.counts
    assert counts.retried == 5
    assert counts.sent == counts.answered + counts.retried
    assert (counts.answered - before.answered, counts.repeated) == (
        10,
        5,
    )  # the first question is one of those asked twice


LASTING = {
    "drop": (EnvironmentFailure, "tried 3 times"),
    "cut": (EnvironmentFailure, "tried 3 times"),
    "stale": (EnvironmentFailure, "another request's"),
    "hang": (EnvironmentFailure, "within 1.5 s"),
    "slow": (EnvironmentFailure, "within 1.5 s"),
    "drip": (EnvironmentFailure, "within 1.5 s"),
    "late:2.5": (EnvironmentFailure, "within 1.5 s"),
    "status:503": (EnvironmentFailure, "503.*not well"),
    "status:429": (EnvironmentFailure, "429"),
    "retry:503:3600": (EnvironmentFailure, "asks to wait 3600 s"),
    "garbage": (EnvironmentFailure, "connection failed"),
    "status:401": (EnvironmentFailure, "Check the token"),
    "status:404": (EnvironmentFailure, "Check the model's name"),
    "redirect": (EnvironmentFailure, "redirect to http://127.0.0.1:9/elsewhere, which"),
    "status:500": (ModelError, "500"),
    "status:400": (ModelError, "400"),
    "html": (ModelError, "no JSON"),
    "deep": (ModelError, "no JSON|no whole answer|longer"),
    "nan": (ModelError, "NaN"),
    "few": (ModelError, "5 images were sent"),
    "huge": (ModelError, "longer than"),
    "gzip": (ModelError, "compressed"),
    "liar": (ModelError, "99999999"),
}


@pytest.mark.parametrize("fault", LASTING)
def test_a_fault_that_lasts_is_a_clear_error_in_bounded_time_and_memory(server: FaultyServer, fault: str) -> None:
    classifier = opened(server, **IMPATIENT if fault in SLOW else {})
    server.begin(lambda place: fault)
    kind, words = LASTING[fault]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    with pytest.raises(kind, match=words) as failure:
        classifier(IMAGES)
    assert time.monotonic() - started < HANG  # 4 s of patience and the last attempt's 1.5 s, or no wait at all
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 64 << 10  # KiB
    assert type(failure.value) is kind
    assert server.url in str(failure.value)
    assert "token=abc" not in str(failure.value)


def test_an_outage_is_no_models_error_so_that_no_image_is_blamed_for_it(server: FaultyServer) -> None:
    classifier = opened(server)
    server.begin(lambda place: "status:503")
    with pytest.raises(EnvironmentFailure) as failure:
        classifier(IMAGES)
    assert not isinstance(failure.value, ModelError)


def test_an_answer_that_changes_its_width_is_refused(server: FaultyServer) -> None:
    classifier = opened(server, batch=2)
    server.begin(lambda place: "shape" if place == 2 else None)
    with pytest.raises(ModelError, match=r"different numbers of scores|shapes"):
        classifier(IMAGES)


def test_a_second_answer_on_the_wire_is_never_taken_for_the_next_question(server: FaultyServer) -> None:
    classifier = opened(server)
    server.begin(lambda place: "twice" if place % 3 == 0 else None)
    for place in range(6):
        images = IMAGES[place % 5 :]
        assert (classifier(images) == expected(images)).all()


def test_retry_after_is_kept(server: FaultyServer) -> None:
    classifier = opened(server)
    server.begin(lambda place: "retry:429:1" if place == 0 else None)
    classifier(IMAGES)
    first, second = (when for when, _ in server.requests[:2])
    assert 1.0 <= second - first < 2.0


def test_waits_grow_and_are_jittered(server: FaultyServer) -> None:
    classifier = opened(server, retries=3)
    server.begin(lambda place: "status:503" if place < 3 else None)
    classifier(IMAGES)
    times = [when for when, _ in server.requests[:4]]
    for wait, (before, after) in zip((0.02, 0.4, 0.8), itertools.pairwise(times), strict=True):
        assert 0.5 * wait <= after - before < 1.5 * wait + 0.5


def test_a_server_that_is_not_there_is_named(server: FaultyServer) -> None:
    with pytest.raises(EnvironmentFailure, match=r"v2\+http://127\.0\.0\.1:9/m cannot be asked.*tried 3 times"):
        open_served("v2+http://127.0.0.1:9/m", None, QUICK)


def test_a_model_that_is_not_there_is_named(server: FaultyServer) -> None:
    with pytest.raises(EnvironmentFailure, match=r"does not show a model 'other'.*the model is m"):
        open_served(server.url.removesuffix("/m") + "/other", None, QUICK)


def test_answers_that_differ_are_counted_with_the_largest_difference(server: FaultyServer) -> None:
    classifier = opened(server)
    server.begin(lambda place: "other" if place == 1 else None)
    classifier(IMAGES)
    counts = classifier.counts
    assert (counts.repeated, counts.differing, counts.classes_changed) == (5, 5, 0)
    assert counts.largest_difference == pytest.approx(0.5, abs=1e-5)


def test_one_image_in_a_hundred_is_asked_twice(server: FaultyServer) -> None:
    classifier = opened(server)
    server.begin(lambda place: None)
    answered = classifier.counts.answered
    for _ in range(400):
        classifier(IMAGES)
    counts = classifier.counts
    assert counts.answered - answered - counts.repeated == 2000
    assert 20 <= counts.repeated <= 30
    assert counts.sent == counts.answered


def test_a_model_that_was_swapped_makes_the_run_invalid(server: FaultyServer) -> None:
    classifier = opened(server)
    classifier.begin_run(IMAGES)
    assert classifier.end_run().differing == 0
    classifier.begin_run(IMAGES)
    server.begin(lambda place: "other")
    with pytest.raises(EnvironmentFailure, match=r"differ by up to 0\.5.*The run is invalid"):
        classifier.end_run()


def test_a_batch_that_is_too_large_is_halved_and_remembered() -> None:
    with FaultyServer(small_model(largest=3)) as server:
        classifier = opened(server, batch=16)
        many = np.concatenate([IMAGES, IMAGES])
        assert (classifier(many) == expected(many)).all()
        server.begin(lambda place: None)
        assert (classifier(many) == expected(many)).all()
        assert [len(server.requests)] == [5]  # ten images, at most two or three a request: nothing is refused again


@pytest.mark.parametrize("fault", ["status:503", "drop"])
def test_failures_now_and_then_make_no_batch_smaller(server: FaultyServer, fault: str) -> None:
    classifier = opened(server, batch=5, retries=5)
    rng = np.random.default_rng(0)
    server.begin(lambda place: fault if rng.random() < 0.1 else None)
    for _ in range(100):
        assert (classifier(IMAGES) == expected()).all()
    failed = sum(kind is not None for _, kind in server.requests)
    counts = classifier.counts
    assert failed > 3
    assert classifier.failures == failed
    assert counts.retried == 5 * failed  # whole batches, never single images
    assert len(server.requests) == 100 + counts.repeated // 5 + failed


def test_the_user_hears_of_the_fifth_failure_and_then_of_the_fiftieth(
    server: FaultyServer, caplog: pytest.LogCaptureFixture
) -> None:
    classifier = opened(server)
    server.begin(lambda place: "drop" if place % 2 == 0 else None)
    for _ in range(20):
        classifier(IMAGES)
    (told,) = caplog.messages
    assert "fails at times: 5 of" in told
    assert "sent again" in told


def test_no_fault_goes_unnoticed_for_as_long_as_it_lasts(server: FaultyServer) -> None:
    classifier = opened(server)
    faults = [*LASTING, None]
    server.begin(lambda place: faults[place % len(faults)])
    for _ in range(12):
        try:
            scores = classifier(IMAGES)
        except RobustestError:
            continue
        assert (scores == expected()).all()
