"""What a classifier answers before the run: that it fits its images, how it is asked from then on, whether it repeats.

The probe's scores are kept in the plan: a model that answers otherwise later is not the model that was planned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robustest.classifiers.batching import Batch, choose_batch
from robustest.classifiers.classifier import Classifier, Images, check_fit, check_output, classes_of
from robustest.errors import EnvironmentFailure, InvalidSetting
from robustest.images import ImageSet, as_unit, check_labels
from robustest.results import Scores

_IMAGES = 16
_DRIFT = 1e-3  # of the range of the scores: more than another machine's rounding
_NOISE = 4.0  # times the largest change between two answers of a classifier that does not repeat


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found.

    indices: images asked. scores: (P, K) their scores, (P,) for a label-only model.
    batch: how images are given to the classifier from here on, by every process.
    largest_change: between scores of the same images asked twice in the same way; 0 where it repeats.
    """

    indices: tuple[int, ...]
    scores: Scores
    batch: Batch
    largest_change: float


def probe_classifier(classifier: Classifier, images: ImageSet, target: int | None = None) -> Probe:
    """Ask some images twice, and check that the classifier fits them and gives what it declares.

    Raises:
        ModelError, InvalidImage, InvalidSetting: it does not.
    """
    info = classifier.info
    height, width, channels = images.images.shape[1:]
    check_fit(info, (height, width, channels))
    indices = np.unique(np.linspace(0, len(images) - 1, min(len(images), _IMAGES)).round().astype(np.int64))
    asked = as_unit(images.images[indices])
    scores = classifier(asked)
    distinct = np.unique([images.digests[int(i)] for i in indices], return_index=True)[1]
    one_class = len(np.unique(images.labels[indices])) < 2
    check_output(scores[np.sort(distinct)], info.output, source=info.source, constant=one_class)
    classes = scores.shape[1] if scores.ndim == 2 else info.classes
    check_labels(images.labels, len(images), classes)
    if target is not None and classes is not None and target >= classes:
        raise InvalidSetting(f"target must be below {classes}, the number of classes; got {target}.")
    change = float(np.abs(scores.astype(np.float64) - classifier(asked)).max())
    return Probe(tuple(int(i) for i in indices), scores, choose_batch(classifier, asked), change)


def check_unchanged(classifier: Classifier, asked: Images, expected: Scores, *, change: float = 0.0) -> None:
    """Check that the classifier still answers as it did when the run was planned, up to another machine's rounding.

    Args:
        asked: (P, H, W, C) the probe's images in [0, 1]. expected: their scores in the plan.
        change: `largest_change` of the probe; a classifier that did not repeat then need not now.

    Raises:
        EnvironmentFailure: it does not.
    """
    output = classifier.info.output
    now = classifier(asked)
    if output == "label":
        agree = now.shape == expected.shape and (change > 0 or bool((now == expected).all()))
        worst = 0.0
    elif now.shape != expected.shape:
        agree, worst = False, float("inf")
    else:
        worst = float(np.abs(now.astype(np.float64) - expected).max())
        agree = worst <= max(_DRIFT * max(1.0, float(np.ptp(expected))), _NOISE * change)
    if not agree:
        same = (
            int((classes_of(now, output) == classes_of(expected, output)).sum()) if now.shape == expected.shape else 0
        )
        raise EnvironmentFailure(
            f"{classifier.info.source} is not the model this run was planned with: it gives the same class for {same} of "
            f"{len(asked)} images asked then and now, and scores that differ by up to {worst:g}. Put the model back, or "
            "start again in another folder."
        )
