"""How fast an audit is beside the bare model: the floor, the gap, and where the gap goes.

Raw rate and audit are measured in turns within one run, so that a busy machine slows both; the ratio is what to read.
"""

from __future__ import annotations

import resource
import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.attack.driver import Clock
from robustest.attack.find import iter_adversarials
from robustest.classifiers.batching import choose_batch
from robustest.classifiers.classifier import Classifier
from robustest.errors import NothingToTest
from robustest.images import ImageSet, as_unit
from robustest.results import Edits, Verdict
from robustest.settings import AttackSettings


@dataclass(frozen=True, slots=True)
class Speed:
    """What one benchmark measured.

    raw_per_second: images the bare model scores at its best batch, median of the turns.
    audit_per_second: queries the audit sends, excluded images included. ratio: the second over the first.
    batch: images a call. queries: sent in all. seconds: of the audit.
    peak_memory_bytes: of the whole process. search_bytes_per_game: of one game's memory of answers, at the end.
    shares: of the audit's seconds: `model` (queries at the raw rate), `render` (drawing and transfer, beside the model),
        `tree` (the search's own work), `merge` (batches, memory, records), `wait` (for the classifier with nothing to
        do). Scoring runs beside the rest, so shares may add up to more than 1.
    """

    model: str
    images: int
    raw_per_second: float
    audit_per_second: float
    ratio: float
    batch: int
    queries: int
    seconds: float
    peak_memory_bytes: int
    shares: dict[str, float]

    def as_json(self) -> dict[str, object]:
        """For files."""
        return asdict(self)


def measure(classifier: Classifier, images: ImageSet, settings: AttackSettings, *, turns: int = 3) -> Speed:
    """Measure raw rate and audit in turns.

    Args:
        classifier: the black box. images: what to attack; those it gets wrong cost one query each.
        settings: of the attack. turns: how often each is measured, >= 1.

    Raises:
        NothingToTest: the classifier is wrong about every image.
    """
    shape = images.images.shape[1:]
    batch = choose_batch(classifier, as_unit(images.images[:4]))
    raw: list[float] = []
    rates: list[float] = []
    clock = Clock()
    queries, seconds, excluded = 0, 0.0, 0
    for _ in range(turns):
        raw.append(raw_rate(classifier, shape, batch.rows))
        started = time.perf_counter()
        sent = 0
        for _, result in iter_adversarials(
            classifier, images.images, images.labels, settings, batch=batch.rows, clock=clock
        ):
            sent += result.queries
            excluded += result.verdict is Verdict.EXCLUDED
        spent = time.perf_counter() - started
        rates.append(sent / spent)
        queries, seconds = queries + sent, seconds + spent
    if excluded == turns * len(images):
        raise NothingToTest(
            f"{classifier.info.source} is wrong about all of {len(images)} images; check the input spec."
        )
    raw_median, audit_median = float(np.median(raw)), float(np.median(rates))
    model = queries / raw_median
    shares = {
        "model": model / seconds,
        "render": max(clock.score - model, 0.0) / seconds,
        "tree": clock.search / seconds,
        "merge": clock.merge / seconds,
        "wait": clock.wait / seconds,
    }
    return Speed(
        model=classifier.info.source,
        images=len(images),
        raw_per_second=raw_median,
        audit_per_second=audit_median,
        ratio=float(np.median(np.array(rates) / np.array(raw))),
        batch=batch.rows,
        queries=queries,
        seconds=seconds,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        shares=shares,
    )


def raw_rate(classifier: Classifier, shape: tuple[int, ...], rows: int, *, seconds: float = 0.5) -> float:
    """Images a second of the model alone, on a canvas whose images never change: no search, no edits.

    Args:
        shape: (H, W, C) of the images. rows: images a call. seconds: to measure for, at least three calls.
    """
    height, width, channels = shape
    canvas = classifier.canvas((height, width, channels), slots=1, rows=rows, pad=False)
    canvas.place(0, np.random.default_rng(0).random(shape, dtype=np.float32))
    slots: NDArray[np.int64] = np.zeros(rows, np.int64)
    nothing = Edits(np.zeros(0, np.int64), np.zeros((0, channels), np.float32), np.zeros(rows + 1, np.int64))
    canvas.score(slots, nothing)
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        canvas.score(slots, nothing)
        times.append(time.perf_counter() - started)
    return rows / float(np.median(times))
