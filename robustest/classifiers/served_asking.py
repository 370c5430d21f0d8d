"""Asking a server: paced, at most so many at once, again after a failure, counted; and some of it twice, to compare."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.served_settings import ServerSettings
from robustest.classifiers.served_transport import GarbledError, RefusedError, Signature, TransientError, Transport
from robustest.errors import EnvironmentFailure, ModelError

_SOON = 0.02  # seconds before the second attempt: where few requests fail, it is the last
_FIRST_WAIT, _LONGEST_WAIT = 0.4, 10.0  # seconds between two later attempts, doubled each time
_TOLD_FIRST, _TOLD_NEXT = 5, 10  # failed requests before the user is told, and times as many before the next telling
_SHARE = 100  # one image in so many is asked twice
_log = logging.getLogger(__name__)  # says what a waiting user must know; on standard error unless configured otherwise
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class ServedCounts:
    """Images by what became of them; what the driver answered from its memory never came here.

    sent: put on the wire, every attempt counted. answered: scores that came and were used or compared.
    retried: sent once more after a failure. repeated: asked twice on purpose. probes: asked while the server was opened.
    Where nothing failed for good, sent = answered + retried, and answered - repeated - probes were asked by the audit.
    differing: of those repeated, images whose scores were not the same. largest_difference: between their scores.
    classes_changed: images whose class was not the same.
    """

    sent: int = 0
    answered: int = 0
    retried: int = 0
    repeated: int = 0
    probes: int = 0
    differing: int = 0
    largest_difference: float = 0.0
    classes_changed: int = 0

    def as_json(self) -> dict[str, int | float]:
        """For files."""
        return asdict(self)

    def __add__(self, other: ServedCounts) -> ServedCounts:
        """Of two processes together."""
        mine, theirs = self.as_json(), other.as_json()
        total: dict[str, Any] = {name: mine[name] + theirs[name] for name in mine}
        total["largest_difference"] = max(self.largest_difference, other.largest_difference)
        return ServedCounts(**total)


class Asker:
    """Puts questions to one server, from any number of threads.

    Args:
        settings: retries, patience, pace. source: the server's name in errors.
    """

    def __init__(self, settings: ServerSettings, source: str) -> None:
        self._settings, self._source = settings, source
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(settings.concurrent)
        self._counts = ServedCounts()
        self._due = 0.0
        self._requests, self._failed, self._told = 0, 0, _TOLD_FIRST
        self.opening = True
        self.largest: int | None = None  # images a request, once the server has refused more
        # Jitter must differ between processes that lost the same server at once; no result depends on it.
        self._jitter = random.Random()

    @property
    def counts(self) -> ServedCounts:
        """So far."""
        with self._lock:
            return self._counts

    @property
    def failed(self) -> int:
        """Requests so far that failed and could be sent again."""
        with self._lock:
            return self._failed

    def ask(self, transport: Transport, batch: NDArray[Any], signature: Signature) -> NDArray[Any]:
        """The answer for a batch; a part of them is asked twice, and a batch that is too large is halved.

        Raises:
            EnvironmentFailure: the server cannot be reached, or lets nobody in. ModelError: it answers no scores.
        """
        answer = self._halving(transport, batch, signature)
        with self._lock:
            again = not self.opening and self._counts.repeated * _SHARE <= self._counts.answered
            if again:
                self._add(repeated=len(batch))
        if again:
            self._compare(answer, self._halving(transport, batch, signature))
        return answer

    def persistently(self, question: Callable[[], _Answer], *, images: int = 0, what: str = "") -> _Answer:
        """The answer to any question, asked again while that may help.

        Args:
            question: raises the errors of `served_transport`. images: how many it is about. what: for errors.

        Raises:
            EnvironmentFailure, ModelError: as `ask`. RefusedError: the batch is too large, or the server refused this.
        """
        began = time.monotonic()
        attempt = 0
        while True:
            self._pace(images)
            with self._lock:
                self._requests += 1
            with self._places:
                self._add_locked(
                    sent=images, retried=images if attempt else 0, probes=images * (self.opening and not attempt)
                )
                try:
                    answer = question()
                except TransientError as error:
                    failure = error
                except GarbledError as error:
                    raise ModelError(f"{self._source} gave no usable answer{what}: {error}.") from None
                else:
                    self._add_locked(answered=images)
                    return answer
            attempt += 1
            self._note(failure)
            self._wait(failure, attempt, began, what)

    def _halving(self, transport: Transport, batch: NDArray[Any], signature: Signature) -> NDArray[Any]:
        count = len(batch)

        def question() -> NDArray[Any]:
            answer = transport.infer(batch, signature)
            if answer.ndim < 1 or len(answer) != count:
                raise GarbledError(f"{count} images were sent and an answer of shape {answer.shape} came")
            return answer

        try:
            return self.persistently(question, images=count, what=f" for {count} images")
        except RefusedError as error:
            if not error.too_large or count == 1:
                raise self._refusal(error, count) from None
        half = -(-count // 2)
        parts = [self._halving(transport, part, signature) for part in (batch[:half], batch[half:])]
        if parts[0].shape[1:] != parts[1].shape[1:]:
            raise ModelError(
                f"{self._source} answers with shapes {parts[0].shape} and {parts[1].shape} to halves of a batch."
            )
        with self._lock:
            self.largest = min(self.largest or half, half)
        return np.concatenate(parts)

    def _refusal(self, error: RefusedError, count: int) -> EnvironmentFailure:
        text = f"{self._source} refused {count} image{'s' * (count > 1)}: {error}."
        hints = {401: " Check the token.", 403: " Check the token.", 404: " Check the model's name and version."}
        if error.status in (400, 413, 422, 200) or error.status >= 500:
            return ModelError(text)
        return EnvironmentFailure(text + hints.get(error.status, ""))

    def _wait(self, failure: TransientError, attempt: int, began: float, what: str) -> None:
        """Wait before the next attempt; the server's own wish is never cut short."""
        settings = self._settings
        spent = time.monotonic() - began
        if attempt > settings.retries:
            raise EnvironmentFailure(
                f"{self._source} cannot be asked{what}: {failure}; tried {attempt} times in {spent:.1f} s. Check that it runs and "
                "how long it takes ([server] timeout, retries), then run the same command again to go on."
            )
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (attempt - 2)) if attempt > 1 else _SOON
        wait *= self._jitter.uniform(0.5, 1.5)
        if failure.wait is not None:
            wait = failure.wait * self._jitter.uniform(1.0, 1.1)
        if spent + wait > settings.patience:
            wish = f" and asks to wait {failure.wait:g} s" if failure.wait is not None else ""
            raise EnvironmentFailure(
                f"{self._source} cannot be asked{what}: {failure}{wish}; {settings.patience:g} s of patience are over after "
                f"{attempt} attempts. Allow more with [server] patience, or run the same command again later to go on."
            )
        time.sleep(wait)

    def _note(self, failure: TransientError) -> None:
        """Count a failure; the user hears of it at the 5th, the 50th, ... since an audit then goes on, only more slowly."""
        with self._lock:
            self._failed += 1
            if self._failed < self._told:
                return
            self._told *= _TOLD_NEXT
            counted = f"{self._failed} of {self._requests} requests"
        _log.warning(
            "robustest: %s fails at times: %s of this process so far, the last with: %s. They are sent again, which takes time "
            "and changes no result.",
            self._source,
            counted,
            failure,
        )

    def _pace(self, images: int) -> None:
        rate = self._settings.rate
        if rate is None or not images:
            return
        with self._lock:
            now = time.monotonic()
            due = max(now, self._due)
            self._due = due + images / rate
        time.sleep(max(0.0, due - now))

    def _compare(self, first: NDArray[Any], second: NDArray[Any]) -> None:
        if first.shape != second.shape:
            raise ModelError(f"{self._source} answers the same images with shapes {first.shape} and {second.shape}.")
        gaps = np.abs(first.astype(np.float64) - second.astype(np.float64)).reshape(len(first), -1).max(axis=1)
        moved = (first.argmax(axis=1) != second.argmax(axis=1)) if first.ndim == 2 else gaps > 0
        with self._lock:
            self._add(differing=int((gaps > 0).sum()), classes_changed=int(moved.sum()))
            largest = max(self._counts.largest_difference, float(gaps.max(initial=0.0)))
            self._counts = replace(self._counts, largest_difference=largest)

    def _add_locked(self, **more: int) -> None:
        with self._lock:
            self._add(**more)

    def _add(self, **more: int) -> None:
        changed: dict[str, Any] = {name: getattr(self._counts, name) + value for name, value in more.items()}
        self._counts = replace(self._counts, **changed)
