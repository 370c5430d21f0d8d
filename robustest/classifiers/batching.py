"""How many images to give the classifier at once, and whether its scores depend on that.

onnxruntime on a CPU gives an image the same bits in any company, so its batch is chosen by speed alone once a probe has
confirmed it. BLAS, oneDNN and cuDNN choose their kernels by the batch: there every call gets exactly the same number of
images, so that a result repeats bit for bit whatever else is being played. Even then an image's place may matter, where rows
of a matrix begin at addresses that kernels treat differently: such a classifier gets as few images a call as it takes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.classifier import Classifier, failures_of
from robustest.results import Edits

_LARGEST = 512
_MEMORY = 256 << 20  # bytes of one batch of input images
_CALL = 1.2e-4  # seconds that a call costs besides the model's own: drawing, splitting answers, and what lies in no cache any more
_GAIN = 0.97  # a larger batch must be as much faster
_SHORT = 0.03  # seconds: a call as long as this is not made larger where that was no gain
_WHILE = 0.01  # seconds that each size is measured for
_SPOILT = 8  # calls of one size that may be held up by failures before one counts
_LONG = 1.0  # seconds: larger calls than this only delay the first answer
_PIXELS = 1 << 23  # of one batch of exactly so many images: they keep any device busy, and larger ones only come later
_TRIED = 30  # images whose scores are compared at several places of a call: one alone may get the same everywhere


@dataclass(frozen=True, slots=True)
class Batch:
    """How images are given to the classifier.

    rows: images a call, >= 1. pad: always exactly that many.
    """

    rows: int
    pad: bool = False


def choose_batch(classifier: Classifier, images: NDArray[np.float32], *, rows: int | None = None) -> Batch:
    """The batch for an attack on images like these.

    Args:
        classifier: the black box.
        images: (N, H, W, C) in [0, 1], a few of those to be attacked, N >= 1.
        rows: the user's own choice, or None to measure; set aside where scores depend on the batch.
    """
    fixed = classifier.info.fixed_batch
    if fixed is not None:
        return Batch(fixed, pad=True)
    largest = classifier.info.largest_batch or _LARGEST
    if not classifier.info.steady or not batch_invariant(classifier, images):
        return Batch(padded_batch(classifier, images.shape[1:], min(classifier.info.padded_batch, largest)), pad=True)
    return Batch(min(rows, largest) if rows else best_batch(classifier, images.shape[1:]))


def batch_invariant(classifier: Classifier, images: NDArray[np.float32]) -> bool:
    """True if a few images get the same scores, bit for bit, alone, in pairs, and in a larger batch at other places."""
    noise = np.random.default_rng(0).random((5, *images.shape[1:]), dtype=np.float32)
    several = np.concatenate([images[:2], noise])
    together = classifier(np.concatenate([several, several[::-1]]))
    count = len(several)
    if not (together[:count] == together[count:][::-1]).all():
        return False
    alone = np.concatenate([classifier(several[place : place + 1]) for place in range(count)])
    pairs = np.concatenate([classifier(several[place : place + 2]) for place in range(0, count, 2)])
    return bool((alone == together[:count]).all() and (pairs == together[:count]).all())


def padded_batch(classifier: Classifier, shape: tuple[int, ...], most: int) -> int:
    """The most images a call, `most` or it halved some times, that fit in the memory, keep no answer waiting for long, and whose places do not matter.

    Args:
        shape: (H, W, C) of the images.
    """
    rows = most
    while rows > 1 and rows * shape[0] * shape[1] > _PIXELS:
        rows //= 2
    while rows > 1:
        try:
            if _place_invariant(classifier, shape, rows):
                break
        except MemoryError:
            pass
        rows //= 2
    return rows


def _place_invariant(classifier: Classifier, shape: tuple[int, ...], rows: int) -> bool:
    """True if an image gets the same scores, bit for bit, wherever in a call of so many it is; or other ones each time anyway."""
    height, width, channels = shape
    canvas = classifier.canvas((height, width, channels), slots=_TRIED, rows=rows, pad=True)
    for slot, image in enumerate(np.random.default_rng(0).random((_TRIED, *shape), dtype=np.float32)):
        canvas.place(slot, image)
    unchanged = Edits(np.zeros(0, np.int64), np.zeros((0, channels), np.float32), np.zeros(rows + 1, np.int64))
    beside = max(rows // 2 - 1, 1)  # an image comes to two places or more; they differ by an odd number
    for first in range(0, _TRIED, beside):
        slots = np.minimum(first + np.arange(rows) % beside, _TRIED - 1)
        scores = canvas.score(slots, unchanged)
        if not (scores == scores[slots - first]).all():
            return not np.array_equal(scores, canvas.score(slots, unchanged))
    return True


def best_batch(classifier: Classifier, shape: tuple[int, ...]) -> int:
    """Images a call that give the highest rate, measured by doubling, with what else a call costs.

    Args:
        shape: (H, W, C) of the images.
    """
    bytes_each = int(np.prod(shape)) * 4
    largest = max(1, min(_LARGEST, classifier.info.largest_batch or _LARGEST, _MEMORY // bytes_each))
    rng = np.random.default_rng(0)
    fastest, best, size = np.inf, 1, 1
    while size <= largest:
        try:
            seconds = _seconds(classifier, rng.random((size, *shape), dtype=np.float32))
        except MemoryError:
            break
        each = (seconds + _CALL) / size
        if each < fastest * _GAIN:
            fastest, best = each, size
        elif each > 1.5 * fastest or seconds >= _SHORT:
            break
        if seconds > _LONG:
            break
        size *= 2
    return best


def _seconds(classifier: Classifier, images: NDArray[np.float32]) -> float:
    """The least that a call took, of at least three and for a while; calls held up by a server's failures do not count."""
    classifier(images)  # the first call of a size allocates
    times: list[float] = []
    spoilt = 0
    while len(times) < 3 or sum(times) < _WHILE:
        failed = failures_of(classifier)
        started = time.perf_counter()
        classifier(images)
        seconds = time.perf_counter() - started
        if spoilt < _SPOILT and failures_of(classifier) != failed:
            spoilt += 1
            continue
        times.append(seconds)
        if times[-1] > 0.1:
            break
    return min(times)
