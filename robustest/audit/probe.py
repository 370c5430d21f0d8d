"""What a classifier does with the same image asked in different company: the basis of a result that repeats.

Scores of most models do not depend on what else is in the batch, bit for bit. Where they do, the run holds to one
batch size, padded; where even that does not repeat, the result says so. The probe's scores are kept in the plan: a
model that answers otherwise later is not the model that was planned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.batching import best_batch
from robustest.classifiers.canvas import HostCanvas
from robustest.classifiers.classifier import (
    Canvas,
    Classifier,
    ClassifierInfo,
    Images,
    check_fit,
    check_output,
    classes_of,
)
from robustest.errors import EnvironmentFailure, InvalidSetting
from robustest.images import ImageSet, as_unit
from robustest.results import Scores

_IMAGES = 16
_FIXED = 32  # images a call where scores depend on that
_DRIFT = 1e-3  # of the range of the scores: more than another machine's rounding


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found.

    indices: images asked. scores: (P, K) their scores, (P,) for a label-only model.
    rows: images a call that are fastest. batch: images a call to hold to, or None where it does not matter.
    largest_change: between scores of the same image asked in the same way; 0 where it repeats.
    """

    indices: tuple[int, ...]
    scores: Scores
    rows: int
    batch: int | None
    largest_change: float


def probe_classifier(classifier: Classifier, images: ImageSet, target: int | None = None) -> Probe:
    """Ask some images in several ways, and check that the classifier fits them and gives what it declares.

    Raises:
        ModelError, InvalidImage, InvalidSetting: it does not.
    """
    shape: Any = images.images.shape[1:]
    info = classifier.info
    check_fit(info, shape)
    indices = np.unique(np.linspace(0, len(images) - 1, min(len(images), _IMAGES)).round().astype(np.int64))
    asked = as_unit(images.images[indices])
    together = classifier(asked)
    distinct = np.unique([images.digests[int(i)] for i in indices], return_index=True)[1]
    check_output(together[np.sort(distinct)], info.output, source=info.source)
    classes = together.shape[1] if together.ndim == 2 else info.classes
    if target is not None and classes is not None and target >= classes:
        raise InvalidSetting(f"target must be below {classes}, the number of classes; got {target}.")
    rows = best_batch(classifier, shape)
    places = tuple(int(i) for i in indices)
    singly = np.concatenate([classifier(image[None]) for image in asked])
    if _same(together, singly) and _independent(classifier, asked, rows, together):
        return Probe(places, together, rows, None, 0.0)
    for batch in dict.fromkeys((min(rows, _FIXED), 1)):
        held = FixedBatch(classifier, batch)
        once = held(asked)
        again = np.concatenate([held(image[None]) for image in asked[::-1]])[::-1]
        if _same(once, again) and _independent(held, asked, rows, once):
            return Probe(places, once, rows, batch, 0.0)
    return Probe(places, together, rows, None, float(np.abs(together.astype(np.float64) - classifier(asked)).max()))


def _independent(classifier: Callable[[Images], Scores], asked: Images, rows: int, expected: Scores) -> bool:
    """True where images repeated to a full batch, in another order, have the expected scores bit for bit."""
    order = np.arange(rows)[::-1] % len(asked)
    return _same(classifier(asked[order]), expected[order])


def _same(first: Scores, second: Scores) -> bool:
    return first.shape == second.shape and bool((first == second).all())


def check_unchanged(classifier: Classifier, asked: Images, expected: Scores) -> None:
    """Check that the classifier still answers as it did when the run was planned, up to another machine's rounding.

    Args:
        asked: (P, H, W, C) the probe's images in [0, 1]. expected: their scores in the plan.

    Raises:
        EnvironmentFailure: it does not.
    """
    output = classifier.info.output
    now = classifier(asked)
    if output == "label":
        agree = now.shape == expected.shape and bool((now == expected).all())
        worst = 0.0
    elif now.shape != expected.shape:
        agree, worst = False, float("inf")
    else:
        worst = float(np.abs(now.astype(np.float64) - expected).max())
        agree = worst <= _DRIFT * max(1.0, float(np.ptp(expected)))
    if not agree:
        same = (
            int((classes_of(now, output) == classes_of(expected, output)).sum()) if now.shape == expected.shape else 0
        )
        raise EnvironmentFailure(
            f"{classifier.info.source} is not the model this run was planned with: it gives the same class for {same} of "
            f"{len(asked)} images asked then and now, and scores that differ by up to {worst:g}. Put the model back, or "
            "start again in another folder."
        )


class FixedBatch:
    """A classifier that is always asked for the same number of images, the last repeated where there are fewer."""

    def __init__(self, classifier: Classifier, batch: int) -> None:
        self._classifier, self._batch = classifier, batch

    @property
    def info(self) -> ClassifierInfo:
        """What is known of the classifier inside."""
        return self._classifier.info

    def __call__(self, images: Images, /) -> Scores:
        """Score images (N, H, W, C) in [0, 1]."""
        parts = [self._padded(images[start : start + self._batch]) for start in range(0, len(images), self._batch)]
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def _padded(self, images: NDArray[np.float32]) -> Scores:
        count = len(images)
        if count < self._batch:
            images = np.concatenate([images, np.repeat(images[-1:], self._batch - count, axis=0)])
        return self._classifier(images)[:count]

    def canvas(self, shape: tuple[int, int, int], *, slots: int, rows: int) -> Canvas:
        """A canvas in main memory; images take the same way to the model as alone."""
        return HostCanvas(self, None, shape, slots=slots, rows=rows)
