"""Replay: an adversarial image is believed when it was rendered, rounded as it will be stored, and scored once more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from robustest.attack.task import Task
from robustest.classifiers.classifier import Classifier, classes_of, margins_of
from robustest.images import as_eight_bit
from robustest.results import AttackResult, Edits, Verdict, distances_between


def replay(classifier: Classifier, result: AttackResult, task: Task, best: Edits, *, minimal: bool) -> AttackResult:
    """Render an adversarial image, round it to 8 bits where the input is 8-bit, and score it once more.

    Returns:
        `result` as FLIPPED with the image and its distances, or as UNKNOWN if the flip does not hold.
    """
    image = best.apply(task.image)[0]
    stored: NDArray[np.uint8] | NDArray[np.float32] = image
    if task.eight_bit:
        stored = as_eight_bit(image)
        image = stored.astype(np.float32) / np.float32(255)
    output = classifier.info.output
    scores = classifier(image[None])
    aim = np.array([-1 if task.target is None else task.target])
    margin = float(margins_of(scores, np.array([task.label]), aim, output)[0])
    predicted = int(classes_of(scores, output)[0])
    if margin >= 0:
        reason = (
            f"a flip was found, but scored again the image has margin {margin:g}: the classifier answers differently"
        )
        return replace(result, verdict=Verdict.UNKNOWN, reason=reason, checks=1)
    distances = distances_between(task.image, image)
    return replace(
        result,
        verdict=Verdict.FLIPPED,
        predicted=predicted,
        image=stored,
        edits=Edits.between(task.image, image),
        l0_pixels=distances.l0_pixels,
        l0_dims=distances.l0_dims,
        l1=distances.l1,
        l2=distances.l2,
        linf=distances.linf,
        minimal=minimal,
        checks=1,
    )
