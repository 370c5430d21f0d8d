"""What an audit will cost: the model and the search measured together for some seconds, before anything is planned."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from robustest.attack.driver import Job, play
from robustest.attack.find import strategy_named
from robustest.attack.task import Notes, Task
from robustest.audit.probe import probe_classifier
from robustest.audit.progress import duration
from robustest.audit.statistics import share_of
from robustest.classifiers.classifier import Classifier
from robustest.images import ImageSet, as_unit
from robustest.results import Verdict
from robustest.settings import AttackSettings

_FEWEST = 8  # queries an image that a measurement plays
_LEDGER_BYTES = 1100  # of one image's row, its part of result.json beside it


@dataclass(frozen=True, slots=True)
class Cost:
    """An estimate, from images spread over the set.

    images: to be audited. measured: images played. right: of them, those the classifier gets right.
    queries: at most, if every image the classifier gets right spends its whole budget. minimal: finds are checked beyond it.
    model_rate: images a second the bare model scores. rate: queries a second when played.
    seconds: on this machine, at most. bytes: of the run folder, images included.
    """

    images: int
    measured: int
    right: int
    queries: int
    model_rate: float
    rate: float
    seconds: float
    bytes: int
    minimal: bool

    def lines(self) -> list[str]:
        """The estimate for people."""
        share = share_of(self.right, self.measured)
        return [
            f"images      {self.images}; {self.right} of {self.measured} measured ones are classified right "
            f"({share.low:.0%} to {share.high:.0%} of all), the others are excluded",
            f"queries     about {self.queries:,} at most{', and what checking finds takes beyond that' if self.minimal else ''}",
            f"rate        {self.rate:,.0f} queries/s when played, {self.model_rate:,.0f} images/s by the bare model",
            f"time        about {duration(self.seconds)} at most on this machine, divided by the number of such machines",
            f"disk        about {self.bytes / 1e6:,.1f} MB for the run folder, adversarial images apart",
        ]


def estimate(
    classifier: Classifier,
    images: ImageSet,
    settings: AttackSettings,
    *,
    seconds: float = 5.0,
) -> Cost:
    """Play some images with a small budget and scale up.

    The bare model is timed first, so that the measurement fits into `seconds` however slow it is.
    """
    probe = probe_classifier(classifier, images, settings.target)
    shape = images.images.shape[1:]
    noise = np.random.default_rng(0).random((probe.batch.rows, *shape), dtype=np.float32)
    classifier(noise)  # the first call of a size allocates
    started = time.perf_counter()
    classifier(noise)
    each = max((time.perf_counter() - started) / len(noise), 1e-7)
    affordable = max(_FEWEST, int(0.7 * seconds / each))
    games = max(1, min(len(images), 64, affordable // _FEWEST))
    budget = max(_FEWEST, min(settings.queries, affordable // games))
    deadline = time.perf_counter() + seconds
    small = replace(settings, queries=min(budget, settings.queries), minimal=False)
    order = np.random.default_rng(settings.seed).permutation(len(images))

    def jobs() -> Iterator[Job]:
        for place, index in enumerate(order.tolist()):
            if place >= games and time.perf_counter() > deadline:
                return
            yield Job(
                index,
                Task(
                    image=as_unit(images.images[index]),
                    eight_bit=images.eight_bit,
                    label=int(images.labels[index]),
                    target=settings.target,
                    decision_only=classifier.info.output == "label",
                    clean_margin=float("nan"),
                    settings=small,
                    notes=Notes(),
                ),
                images.digests[index],
            )

    spent = played = right = 0
    started = time.perf_counter()
    search = strategy_named(settings.attack)
    height, width, channels = shape
    for _, result in play(classifier, jobs(), search, shape=(height, width, channels), batch=probe.batch, games=games):
        spent += result.queries
        played += 1
        right += result.verdict is not Verdict.EXCLUDED
    rate = spent / max(time.perf_counter() - started, 1e-6)
    expected = len(images) * (right / played * settings.queries + (1 - right / played))
    return Cost(
        images=len(images),
        measured=played,
        right=right,
        queries=round(expected),
        model_rate=1 / each,
        rate=rate,
        seconds=expected / rate,
        bytes=len(images) * (_LEDGER_BYTES * 2 + int(images.images[0].nbytes)),
        minimal=settings.minimal,
    )
