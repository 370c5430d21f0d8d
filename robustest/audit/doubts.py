"""Reasons to doubt an audit: what is to be read before any of its numbers."""

from __future__ import annotations

import numpy as np

from robustest.audit.facts import Columns
from robustest.audit.images import StoredImages
from robustest.audit.plan import Plan
from robustest.audit.statistics import clopper_pearson
from robustest.classifiers.classifier import classes_of
from robustest.results import Verdict

_COPIES = 0.01  # share of images that are copies of others, above which intervals are narrower than they should be
_FEW = 8  # images of which classes are counted, at least
_MISSED = 0.6  # of the classes that as many images drawn at random would be of
_SHIFTED = 4  # answers that are the label less 1, at least
_MOST = 0.75  # and their share of those asked


def doubts_of(plan: Plan, columns: Columns, images: StoredImages) -> tuple[str, ...]:
    """The doubts as sentences, the model's before the images' before the search's."""
    found = (
        _of_the_model(plan),
        _of_labels(plan, columns, images),
        _of_the_sample(plan, images),
        _of_finds(plan, columns),
    )
    return tuple(doubt for doubts in found for doubt in doubts)


def _count(columns: Columns, verdict: Verdict) -> int:
    return int((columns.verdict == list(Verdict).index(verdict)).sum())


def _of_the_model(plan: Plan) -> list[str]:
    doubts = []
    if plan.model.largest_change > 0:
        doubts.append(
            f"The model does not repeat: scores of the same image, asked twice in the same way, differ by up to "
            f"{plan.model.largest_change:g}. Every flip was scored once more, but another run may find others."
        )
    if plan.model.guessed:
        doubts.append(f"The input spec was guessed: {'; '.join(plan.model.guessed)}.")
    return doubts


def _of_labels(plan: Plan, columns: Columns, images: StoredImages) -> list[str]:
    """That the labels may not be the model's own class numbers."""
    doubts = []
    names = plan.data.class_names
    classes = plan.scores.shape[1] if plan.scores.ndim == 2 else None
    if names and classes is not None and len(names) != classes:
        doubts.append(
            f"The images name {len(names)} classes, taken as numbers 0 to {len(names) - 1} in this order: "
            f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}; the model has {classes}. Each label must be the model's own "
            "number of that class: folders and labels.csv can hold numbers in place of names."
        )
    wrong = _count(columns, Verdict.EXCLUDED) - int(columns.of_target.sum())
    if clopper_pearson(wrong, plan.data.count)[0] > 0.5:
        doubts.append(
            f"The model is wrong about {wrong} of {plan.data.count} unchanged images. If it is known to do better, the labels are "
            f"numbered otherwise than its classes are, or the input spec (layout, channels, scale, mean, std) is not its own.{_shift(plan, images)}"
        )
        if names and len(names) == classes:
            doubts[-1] += (
                f" The classes were numbered in this order: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}."
            )
    return doubts


def _shift(plan: Plan, images: StoredImages) -> str:
    """A sentence where the labels of the images asked first look as if classes were numbered from 1."""
    answers, labels = classes_of(plan.scores, plan.model.spec.output), images.labels[list(plan.probe)]
    shifted = int((answers == labels - 1).sum())
    if shifted < max(_SHIFTED, _MOST * len(labels)):
        return ""
    return f" Of {len(labels)} images asked first, it gives {shifted} the class before that of the label: are the labels numbered from 1?"


def _of_the_sample(plan: Plan, images: StoredImages) -> list[str]:
    """That the images are no sample of what the model may meet."""
    doubts = []
    count = len(images.labels)
    distinct = len(np.unique(images.digests, axis=0))
    if count - distinct > _COPIES * count:
        doubts.append(
            f"{count - distinct:,} of {count:,} images are copies of others. Intervals take each image as drawn apart, so they are too narrow."
        )
    classes = plan.scores.shape[1] if plan.scores.ndim == 2 else plan.model.classes
    if classes is not None and count >= _FEW:
        there = len(np.unique(images.labels))
        if there < _MISSED * classes * (1 - (1 - 1 / classes) ** count):
            which = "one class alone" if there == 1 else f"{there} classes alone"
            doubts.append(
                f"The images are of {which}, of {classes} that the model has: nothing was asked about the others. Where a set is "
                "sorted by class, its first images are no sample of it."
            )
    return doubts


def _of_finds(plan: Plan, columns: Columns) -> list[str]:
    doubts = []
    unknown = _count(columns, Verdict.UNKNOWN)
    if unknown:
        doubts.append(
            f"{unknown} of {plan.data.count} images could not be decided; each interval counts them against the claim on both sides."
        )
    if plan.model.spec.output == "label":
        doubts.append(
            "The model gives its class alone, so the search had no margins to go by and finds less than with scores."
        )
    settings = plan.settings
    far = settings.attack == "game" and (settings.values != "tau" or settings.tau == 1)
    if far and settings.norm in ("l2", "linf"):
        where = "an end or the middle" if settings.values == "free" else "the end"
        large = "Linf about as large as it can be" if settings.norm == "linf" else "L2 large"
        doubts.append(
            f"Each changed value moved to {where} of its range, which makes {large}: --values tau with a small --tau asks about small "
            "changes."
        )
    if columns.unchecked.any():
        doubts.append(
            f"For {columns.unchecked.sum():,} of {_count(columns, Verdict.FLIPPED):,} flipped images the budget did not suffice to check that "
            "every changed pixel is needed: their distances may be too large. --minimal checks that, whatever it takes."
        )
    return doubts
