"""Where the classifier runs while the games are played: in a thread beside them, or in theirs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from robustest.classifiers.classifier import Classifier


class Scorer(Protocol):
    """Runs calls in order, one after the other."""

    def submit(self, call: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Have a call run."""


class _Here:
    """Runs calls at once, in the caller's own thread."""

    def submit(self, call: Callable[..., Any], /, *args: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call(*args))
        except Exception as error:  # raised where the result is asked for, as from a thread
            done.set_exception(error)
        return done


def scorer_of(classifier: Classifier) -> AbstractContextManager[Scorer]:
    """A thread, where the classifier scores elsewhere than on this one's core; a second one on it would only be in its way."""
    return ThreadPoolExecutor(1) if classifier.info.beside else nullcontext(_Here())
