"""Questions are answered in full calls, each with its own scores, in whatever pieces they were sent."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustest.attack.scorer import Answer, Scorer, thread_of
from robustest.classifiers import load_classifier
from robustest.results import Edits, Scores


def numbered(first: int, count: int) -> Edits:
    """Images that each change the one pixel whose number is the image's."""
    pixels = np.arange(first, first + count)
    return Edits(pixels, np.zeros((count, 1), np.float32), np.arange(count + 1))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20), full=st.integers(1, 6), behind=st.integers(1, 3))
def test_every_question_gets_its_own_scores_and_calls_are_full(sizes: list[int], full: int, behind: int) -> None:
    calls: list[int] = []

    def score(slots: NDArray[np.int64], edits: Edits) -> Scores:
        calls.append(len(edits))
        return np.stack([edits.pixels, slots], axis=1).astype(np.float32)

    with ThreadPoolExecutor(1) as thread:
        scorer = Scorer(score, thread, full=full)
        asked: deque[tuple[int, int, Answer]] = deque()
        first = forced = 0
        for size in [*sizes, 0]:
            if size:
                asked.append((first, size, scorer.ask(np.arange(size), numbered(first, size))))
                first += size
            while asked and (len(asked) > behind or not size):
                start, count, future = asked.popleft()
                scores = scorer.answer(future)
                assert scores[:, 0].tolist() == list(range(start, start + count))
                assert scores[:, 1].tolist() == list(range(count))
                forced += 1
    assert sum(calls) == sum(sizes)
    assert all(count == full for count in calls) or sum(count != full for count in calls) <= forced


@pytest.mark.parametrize("full", [None, 4])
def test_an_error_reaches_whoever_waits(full: int | None) -> None:
    def score(slots: NDArray[np.int64], edits: Edits) -> Scores:
        raise ValueError("broken")

    classifier = load_classifier(lambda images: np.zeros((len(images), 2), np.float32))
    with thread_of(classifier) as thread:
        scorer = Scorer(score, thread, full=full)
        futures = [scorer.ask(np.zeros(3, np.int64), numbered(0, 3)) for _ in range(2)]
        for future in futures:
            with pytest.raises(ValueError, match="broken"):
                scorer.answer(future)
