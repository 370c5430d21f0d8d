"""The few-pixel search's settings that no user gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What was tuned, on images that no check uses.

    batch: states a question.
    screening: share of the queries for single edits; the tenth of it where only the label is given.
    optimism: deviations added to a mean when an edit is chosen.
    caution: the same for single edits of a large image, which are too many to try all that might be good.
    surprise: relative variance of what else moves the margin when a single edit of the clean image is scored.
    context: the same when the edit is made in a state with others, whose effects interfere.
    direct: size of a first success that is good enough to go on from.
    prefix: largest set that is tried before one is built with care. tallest: largest set that is built with care.
    building: queries for each edit of such a set of a large image, which may then be larger.
    patience: questions without progress before effects are measured anew. despair: before another state is built.
    glance: single edits tried of a large image before larger sets are. haste: queries that go into making the first
        find of a long search smaller.
    thin: edits of the best state above which it is changed by parts, not one by one, in a large image or where scores go by steps.
    trim: edits of the best state of a large image above which several are taken away at once.
    steps: share of single edits without any effect above which scores are taken to go by steps.
    stalls: steps without progress after which several edits at a time are given up in a small image.
    trust: questions of building before its progress is judged.
    aims: classes that the search turns to, one after the other.
    attempts: draws of swaps of a small image's state for one question, at most, until there are enough new ones.
    warmth: how much worse a swap may be accepted, in units of the beliefs' scale.
    """

    batch: int = 16
    screening: float = 0.2
    optimism: float = 1.5
    caution: float = 1.0
    surprise: float = 0.1
    context: float = 3.0
    direct: int = 8
    prefix: int = 256
    tallest: int = 64
    building: int = 20
    patience: int = 12
    despair: int = 12
    aims: int = 4
    attempts: int = 8
    warmth: float = 0.1
    glance: int = 96
    haste: int = 32
    thin: int = 24
    trim: int = 12
    steps: float = 0.25
    stalls: int = 6
    trust: int = 6
