"""Where and how the classifier scores while the games are played: in a thread beside them or in theirs, in full batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.classifier import Classifier
from robustest.results import Edits, Scores

Score = Callable[[NDArray[np.int64], Edits], Scores]


class Answer(Protocol):
    """What a call gives, maybe later."""

    def result(self) -> Any:
        """Wait for it; raises what the call raised."""


class Thread(Protocol):
    """Runs calls in order, one after the other."""

    def submit(self, call: Callable[..., Any], /, *args: Any) -> Answer:
        """Have a call run."""


class Done:
    """The answer of a call that is over."""

    def __init__(self, value: Any, error: Exception | None = None) -> None:
        self._value, self._error = value, error

    def result(self) -> Any:
        """What it gave; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._value


class _Here:
    """Runs calls at once, in the caller's own thread."""

    def submit(self, call: Callable[..., Any], /, *args: Any) -> Answer:
        try:
            return Done(call(*args))
        except Exception as error:  # raised where the result is asked for, as from a thread
            return Done(None, error)


def thread_of(classifier: Classifier) -> AbstractContextManager[Thread]:
    """A thread, where the classifier scores elsewhere than on this one's core; a second one on it would only be in its way."""
    return ThreadPoolExecutor(1) if classifier.info.beside else nullcontext(_Here())


class _Question:
    """Images to be scored, maybe in several calls, and what came of them so far."""

    def __init__(self, slots: NDArray[np.int64], edits: Edits) -> None:
        self.slots, self.edits = slots, edits
        self.sent, self.scores = 0, list[Scores]()
        self.answer: Future[Scores] = Future()

    def hear(self, scores: Scores) -> None:
        """Take in the scores of the next images; the answer is there when all are."""
        self.scores.append(scores)
        if sum(len(part) for part in self.scores) == len(self.edits):
            self.answer.set_result(self.scores[0] if len(self.scores) == 1 else np.concatenate(self.scores))


class Scorer:
    """Has questions scored, in a thread, in the order they were asked.

    Where every call must have the same number of images, what does not fill a call waits for the next question, so that
    a call is filled up with images that nobody asked about only when there is nothing else to play.

    Args:
        score: scores images. thread: where. full: images a call, where that is fixed; None to score a question at once.
    """

    def __init__(self, score: Score, thread: Thread, *, full: int | None) -> None:
        self._score, self._thread, self._full = score, thread, full
        self._waiting: deque[_Question] = deque()
        self._count = 0

    def ask(self, slots: NDArray[np.int64], edits: Edits) -> Answer:
        """Have images scored: base `slots[i]` with the i-th edits. `answer` gives the scores."""
        if self._full is None:
            return self._thread.submit(self._score, slots, edits)
        question = _Question(slots, edits)
        self._waiting.append(question)
        self._count += len(edits)
        while self._count >= self._full:
            self._send(self._full)
        return question.answer

    def answer(self, asked: Answer) -> Scores:
        """The scores of a question, waited for."""
        if any(question.answer is asked for question in self._waiting):
            self._send(self._count)
        scores: Scores = asked.result()
        return scores

    def _send(self, count: int) -> None:
        parts: list[tuple[_Question, NDArray[np.int64], Edits]] = []
        self._count -= count
        while count:
            question = self._waiting[0]
            start = question.sent
            stop = question.sent = min(start + count, len(question.edits))
            parts.append((question, question.slots[start:stop], question.edits.part(start, stop)))
            count -= stop - start
            if stop == len(question.edits):
                self._waiting.popleft()
        self._thread.submit(self._run, parts)

    def _run(self, parts: list[tuple[_Question, NDArray[np.int64], Edits]]) -> None:
        try:
            scores = self._score(
                np.concatenate([slots for _, slots, _ in parts]), Edits.joined([edits for _, _, edits in parts])
            )
        except Exception as error:  # raised where the answers are waited for
            for question, _, _ in parts:
                if not question.answer.done():
                    question.answer.set_exception(error)
            return
        start = 0
        for question, slots, _ in parts:
            if not question.answer.done():
                question.hear(scores[start : start + len(slots)])
            start += len(slots)
