"""What is found out about a server before it is audited: which transport is right and fastest, and how large its batches are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.served_asking import Asker
from robustest.classifiers.served_transport import Signature, Transport
from robustest.errors import EnvironmentFailure, ModelError

_AGREE = 1e-6  # of the range of the scores: binary tensors against JSON
_LARGEST, _BYTES = 256, 16 << 20  # images and bytes of one request
_WORDS = 160  # of an error, in a note
_GAIN = 1.1  # rates nearer than this are equal
_SECONDS = 3.0  # for measuring the batch
_SLOW = 1.0  # seconds: a larger request only delays
_SPOILT = 8  # requests of one size that may fail before one counts with its waiting


@dataclass(frozen=True, slots=True)
class Candidate:
    """A transport to try, and whether the server says that it has it."""

    transport: Transport
    advertised: bool


@dataclass(frozen=True, slots=True)
class Chosen:
    """The transport in use, its answer to the probe, and a sentence for each other one that was not taken."""

    transport: Transport
    answer: NDArray[Any]
    notes: tuple[str, ...] = ()


def choose_transport(
    asker: Asker, faster: list[Candidate], reference: Transport | None, batch: NDArray[Any], signature: Signature
) -> Chosen:
    """The first of the faster transports that answers as JSON does; JSON itself if none does.

    Args:
        faster: tried in this order. reference: JSON, or None to take the first that answers.
        batch: the probe, in the model's own layout and type.

    Raises:
        EnvironmentFailure, ModelError: no transport answers.
    """
    expected, failure = _tried(asker, reference, batch, signature) if reference is not None else (None, None)
    notes: list[str] = []
    for candidate in faster:
        name = candidate.transport.name
        answer, refusal = _tried(asker, candidate.transport, batch, signature)
        if answer is None:
            notes.append(f"transport {name} was not taken: {str(refusal)[:_WORDS]}")
            failure = failure or refusal
            continue
        if expected is None and reference is not None:
            if not candidate.advertised:
                notes.append(f"transport {name} was not taken: JSON does not answer, so nothing confirms it")
                continue
            notes.append(f"transport {name}, as the server offers it; JSON does not answer, so nothing confirms it")
        elif expected is not None:
            gap = _gap(answer, expected)
            if gap > _AGREE:
                notes.append(f"transport {name} was not taken: its scores differ from JSON's by {gap:g} of their range")
                continue
        return Chosen(candidate.transport, answer, tuple(notes))
    if expected is None or reference is None:
        raise failure or ModelError("no transport answers")
    return Chosen(reference, expected, tuple(notes))


def _tried(
    asker: Asker, transport: Transport | None, batch: NDArray[Any], signature: Signature
) -> tuple[NDArray[Any] | None, EnvironmentFailure | None]:
    """An answer, or the model error that came in its place; a server that cannot be reached at all is raised."""
    if transport is None:
        return None, None
    try:
        return asker.ask(transport, batch, signature), None
    except ModelError as error:
        return None, error


def _gap(answer: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference, as a part of the range of the scores (of 1 where that is smaller)."""
    if answer.shape != expected.shape:
        return float("inf")
    a, b = answer.astype(np.float64), expected.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0 if np.array_equal(a, b, equal_nan=True) else float("inf")
    return float(np.abs(a - b).max(initial=0.0) / max(1.0, np.ptp(b) if b.size else 0.0))


def measure_batch(asker: Asker, send: Callable[[int], object], bytes_each: int) -> tuple[int, float]:
    """Images a request up to which the rate grows, and the best rate in images a second.

    Args:
        send: asks once about so many images. bytes_each: of one image on the wire.
    """
    limit = max(1, min(_LARGEST, _BYTES // max(1, bytes_each)))
    best, fastest, size, spent = 1, 0.0, min(8, limit), 0.0
    while True:
        seconds = float("inf")
        for _ in range(2):
            taken = _unspoilt(asker, send, size)
            spent += taken
            seconds = min(seconds, taken)
            if seconds > _SLOW:
                break
        if asker.largest is not None:
            return asker.largest, max(fastest, size / seconds)
        if size / seconds > fastest * _GAIN:
            best, fastest = size, size / seconds
        elif size >= 4 * best:
            break
        if size >= limit or seconds > _SLOW or spent > _SECONDS:
            break
        size = min(2 * size, limit)
    return best, fastest


def _unspoilt(asker: Asker, send: Callable[[int], object], size: int) -> float:
    """Seconds that a request takes when it does not fail: what the wait for another attempt lasts is no measure of the batch."""
    for _ in range(_SPOILT):
        failed = asker.failed
        started = time.perf_counter()
        send(size)
        seconds = time.perf_counter() - started
        if asker.failed == failed:
            break
    return seconds
