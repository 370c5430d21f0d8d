"""How many images to give the classifier at once: measured, bounded by memory, and of no influence on any result."""

from __future__ import annotations

import time

import numpy as np

from robustest.classifiers.classifier import Classifier

_LARGEST = 512
_MEMORY = 256 << 20  # bytes of one batch of input images
_GAIN = 1.05  # a larger batch must be this much faster an image


def best_batch(classifier: Classifier, shape: tuple[int, int, int]) -> int:
    """Images a call that give about the highest rate.

    Doubles the batch from 8 while that gains more than 5 % an image. For a model of fixed batch, that batch.

    Args:
        shape: (H, W, C) of the images.
    """
    info = classifier.info
    if info.fixed_batch is not None:
        return max(info.fixed_batch, 1)
    bytes_each = int(np.prod(shape)) * 4
    largest = max(1, min(_LARGEST, info.largest_batch or _LARGEST, _MEMORY // bytes_each))
    noise = np.random.default_rng(0).random((largest, *shape), dtype=np.float32)
    best, best_time, size = 1, np.inf, min(8, largest)
    while size <= largest:
        try:
            each = _seconds_each(classifier, noise[:size])
        except MemoryError:
            break
        if each * _GAIN >= best_time:
            break
        best, best_time = size, each
        if each * size > 2.0:  # a call of seconds: larger ones only delay the first answer
            break
        size *= 2
    return best


def _seconds_each(classifier: Classifier, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    classifier(images)  # the first call of a size allocates
    started = time.perf_counter()
    classifier(images)
    return (time.perf_counter() - started) / len(images)
