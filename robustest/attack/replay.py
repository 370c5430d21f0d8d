"""Replay: an adversarial image is believed when it was rendered, rounded as it will be stored, and scored once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustest.attack.task import Task
from robustest.classifiers.classifier import Classifier, classes_of, margins_of
from robustest.images import as_eight_bit
from robustest.results import AttackResult, Distances, Edits, Verdict, distances_of_each


@dataclass(frozen=True, slots=True)
class Find:
    """What an attack says of one image, not yet believed.

    result: what is known without the image. task: of the attack. best: the edits said to flip, N = 1.
    minimal: every single one was put back and the image was no longer adversarial.
    """

    result: AttackResult
    task: Task
    best: Edits
    minimal: bool


def replay(classifier: Classifier, result: AttackResult, task: Task, best: Edits, *, minimal: bool) -> AttackResult:
    """`replayed` of one find."""
    return replayed(classifier, [Find(result, task, best, minimal)])[0]


def replayed(classifier: Classifier, finds: Sequence[Find]) -> list[AttackResult]:
    """Render adversarial images, round them to 8 bits where the input is 8-bit, and score them once more, in one call.

    Args:
        finds: at least one, of images of one size, all 8-bit or none.

    Returns:
        Of each its `result` as FLIPPED with the image and its distances, or as UNKNOWN if the flip does not hold.
    """
    images, kept = _stored(finds)
    output = classifier.info.output
    scores = classifier(images)
    labels, targets = (
        np.array([-1 if aim is None else aim for aim in aims])
        for aims in zip(*[(find.task.label, find.task.target) for find in finds], strict=True)
    )
    margins, classes = margins_of(scores, labels, targets, output).tolist(), classes_of(scores, output).tolist()
    bases = np.stack([find.task.image for find in finds])
    edits, distances = Edits.between_each(bases, images), distances_of_each(bases, images)
    return [_judged(*one) for one in zip(finds, kept, edits, distances, margins, classes, strict=True)]


def _stored(finds: Sequence[Find]) -> tuple[NDArray[np.float32], Sequence[NDArray[np.uint8] | NDArray[np.float32]]]:
    """The images as the classifier gets them (N, H, W, C), and as they are kept."""
    images = np.stack([find.task.image for find in finds])
    for image, find in zip(images, finds, strict=True):
        image.reshape(-1, image.shape[2])[find.best.pixels] = find.best.values
    if not finds[0].task.eight_bit:
        return images, [image.copy() for image in images]  # each of its own, to be kept alone
    stored = as_eight_bit(images)
    return stored.astype(np.float32) / np.float32(255), [image.copy() for image in stored]


def _judged(
    find: Find,
    stored: NDArray[np.uint8] | NDArray[np.float32],
    edits: Edits,
    distances: Distances,
    margin: float,
    predicted: int,
) -> AttackResult:
    """What the scores of a find's image say of it."""
    if margin >= 0:
        reason = (
            f"a flip was found, but scored again the image has margin {margin:g}: the classifier answers differently"
        )
        return replace(find.result, verdict=Verdict.UNKNOWN, reason=reason, checks=1)
    return replace(
        find.result,
        verdict=Verdict.FLIPPED,
        predicted=predicted,
        image=stored,
        edits=edits,
        l0_pixels=distances.l0_pixels,
        l0_dims=distances.l0_dims,
        l1=distances.l1,
        l2=distances.l2,
        linf=distances.linf,
        minimal=find.minimal,
        checks=1,
    )
