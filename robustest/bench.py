"""How fast an audit is beside the bare model: the floor, the gap, and where the gap goes.

Raw rate and audit are measured in turns within one run, so that a busy machine slows both; the ratio is what to read. The
raw rate is the best that the same model reaches on the same cores: at the best of several batch sizes, and, with several
processes, of one process with all the cores and of all processes with their share of them. Compiled inner loops, where
they can be had, are loaded before anything is measured. Each image is attacked as being of the class that the model gives:
speed does not depend on who is right, and a model with random weights can be measured, too.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustest import compiled
from robustest.attack.driver import Clock
from robustest.attack.find import iter_adversarials
from robustest.classifiers.batching import choose_batch
from robustest.classifiers.classifier import Classifier, classes_of
from robustest.errors import EnvironmentFailure
from robustest.images import ImageSet, as_unit
from robustest.rehearsal import rehearse
from robustest.results import Edits
from robustest.settings import AttackSettings

Opener = Callable[[int], Classifier]  # the classifier, with so many threads of its own

_LONG = 1.0  # seconds: batches that take longer are not tried
_AT_ONCE = 16  # images asked about in one call before anything is measured


@dataclass(frozen=True, slots=True)
class Speed:
    """What one benchmark measured.

    images: attacked a turn. right: of these, those that the model gives the class they are labelled with.
    workers: processes. batch: images a call in the audit.
    raw_per_second: images the bare model scores, the better of the two that follow, median of the turns.
    raw_one_process_per_second: with all cores in one process. raw_workers_per_second: of all workers together.
    audit_per_second: queries the audit sends.
    ratio: median of `ratios`, the second over the first in each turn.
    queries, seconds: of the audit, all turns together.
    peak_memory_bytes: of all processes. compiled: with compiled inner loops.
    shares: of the processes' seconds, adding up to 1: `tree` (the searches' own work), `merge` (batches, memory, records),
        `wait` (for the classifier, with nothing to do), `rest` (games that begin and end, finds scored once more); where
        the classifier scores in between, also `model` (queries at the raw rate, at most what scoring took) and `render`
        (what scoring took beyond that: drawing, transfer, smaller batches, cores that others used).
    shares_beside: where it scores in a thread of its own, those of that thread, in the same seconds and adding up to 1,
        too: `model`, `render`, `idle`; else empty.
    """

    model: str
    images: int
    right: int
    workers: int
    batch: int
    raw_per_second: float
    raw_one_process_per_second: float
    raw_workers_per_second: float
    audit_per_second: float
    ratio: float
    ratios: tuple[float, ...]
    queries: int
    seconds: float
    peak_memory_bytes: int
    compiled: bool
    shares: dict[str, float]
    shares_beside: dict[str, float]

    def as_json(self) -> dict[str, object]:
        """For files."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Turn:
    """One audit in one process.

    queries: sent. seconds: it took. clock: where they went. peak: bytes of the process's memory so far.
    beside: it scored in a thread of its own.
    """

    queries: int
    seconds: float
    clock: Clock
    peak: int
    beside: bool


def measure(
    classifier: Classifier,
    images: ImageSet,
    settings: AttackSettings,
    *,
    turns: int = 3,
    workers: int = 1,
    opener: Opener | None = None,
) -> Speed:
    """Measure raw rate and audit in turns.

    Args:
        classifier: the black box, with all the cores. images: what to attack.
        settings: of the attack. turns: how often each is measured, >= 1.
        workers: processes that share the images and the cores. opener: opens the classifier in each; needed for several.
    """
    given, images = images.labels, replace(images, labels=_answers(classifier, images))
    alone: list[float] = []
    together: list[float] = []
    parts: list[Turn] = []
    spans: list[float] = []
    count = workers if opener is not None else 1
    own = _Stage(classifier, images, settings)
    own.warm_up()  # compiles what no process did before
    with _crew(opener, images, settings, count) if opener is not None and count > 1 else _alone(own) as crew:
        rows = crew.choose_batch()
        own.raw()
        crew.raw()  # chooses the batch
        for _ in range(turns):
            alone.append(own.raw())
            together.append(sum(crew.raw()) if count > 1 else alone[-1])
            started = time.perf_counter()
            parts += crew.audit(rows)
            spans.append(time.perf_counter() - started)
    queries = [sum(part.queries for part in parts[turn * count : (turn + 1) * count]) for turn in range(turns)]
    rates = np.array(queries) / np.array(spans)
    raw = np.maximum(alone, together)
    shares, shares_beside = shares_of(parts, (np.array(queries) / raw).sum() * count)
    return Speed(
        model=classifier.info.source,
        images=len(images),
        right=int((given == images.labels).sum()),
        workers=count,
        batch=rows,
        raw_per_second=float(np.median(raw)),
        raw_one_process_per_second=float(np.median(alone)),
        raw_workers_per_second=float(np.median(together)),
        audit_per_second=float(np.median(rates)),
        ratio=float(np.median(rates / raw)),
        ratios=tuple((rates / raw).tolist()),
        queries=sum(queries),
        seconds=sum(spans),
        peak_memory_bytes=sum(part.peak for part in parts[-count:]),
        compiled=compiled.fast(),
        shares=shares,
        shares_beside=shares_beside,
    )


def shares_of(parts: Sequence[Turn], model: float) -> tuple[dict[str, float], dict[str, float]]:
    """Where the processes' seconds went, and those of the threads that scored beside them; see `Speed`.

    Args:
        parts: all turns of all processes. model: seconds of theirs that all queries would take at the raw rate.
    """
    work, score = sum(part.seconds for part in parts), sum(part.clock.score for part in parts)
    model = min(model, score)
    scoring = {"model": model, "render": score - model}
    spent = {
        "tree": sum(part.clock.search for part in parts),
        "merge": sum(part.clock.merge for part in parts),
        "wait": sum(part.clock.wait for part in parts),
    }
    beside = {}
    if all(part.beside for part in parts):
        beside = {**scoring, "idle": work - score}
    else:
        spent = {**scoring, **spent}
    spent["rest"] = work - sum(spent.values())
    return {name: s / work for name, s in spent.items()}, {name: s / work for name, s in beside.items()}


def _answers(classifier: Classifier, images: ImageSet) -> NDArray[np.int64]:
    """(N,) the class that the model gives each image."""
    parts = [images.images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE)]
    return np.concatenate([classes_of(classifier(as_unit(part)), classifier.info.output) for part in parts])


class _Stage:
    """The classifier and the images of one process."""

    def __init__(self, classifier: Classifier, images: ImageSet, settings: AttackSettings) -> None:
        self.classifier, self.images, self.settings = classifier, images, settings
        self.raw_batch: int | None = None

    def warm_up(self) -> None:
        """Load compiled inner loops, and play a little, so that none of it is measured."""
        few = self.images.take(range(min(4, len(self.images))))
        rehearse(few.images, self.settings)
        brief = replace(self.settings, queries=min(100, self.settings.queries))
        list(iter_adversarials(self.classifier, few.images, few.labels, brief, batch=8))

    def choose_batch(self) -> int:
        """Images a call, as an audit chooses them."""
        return choose_batch(self.classifier, as_unit(self.images.images[:4])).rows

    def raw(self) -> float:
        """See `raw_rate`; at the batch that is best when first asked."""
        shape = self.images.images.shape[1:]
        self.raw_batch = self.raw_batch or best_raw_batch(self.classifier, shape)
        return raw_rate(self.classifier, shape, self.raw_batch, seconds=1.0)

    def audit(self, rows: int) -> Turn:
        """Attack the images, `rows` a call to the classifier."""
        clock = Clock()
        queries = 0
        started = time.perf_counter()
        found = iter_adversarials(
            self.classifier, self.images.images, self.images.labels, self.settings, batch=rows, clock=clock
        )
        for _, result in found:
            queries += result.queries
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Turn(queries, seconds, clock, peak, self.classifier.info.beside)


class _Crew(Protocol):
    """Those who attack: this process, or several others."""

    def choose_batch(self) -> int:
        """Images a call, as an audit chooses them."""

    def raw(self) -> list[float]:
        """Of each, while all measure it."""

    def audit(self, rows: int) -> list[Turn]:
        """All images, shared."""


@contextmanager
def _alone(stage: _Stage) -> Iterator[_Crew]:
    class Alone:
        def choose_batch(self) -> int:
            return stage.choose_batch()

        def raw(self) -> list[float]:
            return [stage.raw()]

        def audit(self, rows: int) -> list[Turn]:
            return [stage.audit(rows)]

    yield Alone()


@contextmanager
def _crew(opener: Opener, images: ImageSet, settings: AttackSettings, count: int) -> Iterator[_Crew]:
    """Processes with their share of the images and of the cores, until the end of the block."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    pipes = [context.Pipe() for _ in range(count)]
    shares = [images.take(range(place, len(images), count)) for place in range(count)]
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, str(threads)))
    processes = [
        context.Process(target=_work, args=(theirs, opener, threads, share, settings), daemon=True)
        for (_, theirs), share in zip(pipes, shares, strict=True)
    ]
    try:
        for process in processes:
            process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    for _, theirs in pipes:
        theirs.close()
    ours = [pipe for pipe, _ in pipes]

    def ask(*order: Any, of: list[Connection] = ours) -> list[Any]:
        try:
            for pipe in of:
                pipe.send(order)
            answers = [pipe.recv() for pipe in of]
        except (EOFError, BrokenPipeError) as error:
            raise EnvironmentFailure(
                f"one of the benchmark's {count} processes died. Too little memory for so many is a usual cause: use fewer --workers."
            ) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    class Crew:
        def choose_batch(self) -> int:
            chosen: int = ask("choose_batch", of=ours[:1])[0]
            return chosen

        def raw(self) -> list[float]:
            return ask("raw")

        def audit(self, rows: int) -> list[Turn]:
            return ask("audit", rows)

    try:
        ask("warm_up")
        yield Crew()
    finally:
        for pipe in ours:
            pipe.close()
        for process in processes:
            process.join()


def _work(pipe: Connection, opener: Opener, threads: int, images: ImageSet, settings: AttackSettings) -> None:
    """Do what is asked through a pipe until it is closed; an error is an answer."""
    stage: _Stage | None = None
    while True:
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            stage = stage or _Stage(opener(threads), images, settings)
            pipe.send(getattr(stage, name)(*arguments))
        except Exception as error:  # whatever it is, the caller raises it
            pipe.send(error)


def best_raw_batch(classifier: Classifier, shape: tuple[int, ...]) -> int:
    """The batch, a power of two, at which the model alone scores most images a second; see `raw_rate`."""
    if classifier.info.fixed_batch:
        return classifier.info.fixed_batch
    rates: dict[int, float] = {}
    for rows in [1 << power for power in range(10)]:
        if rows > (classifier.info.largest_batch or 512):
            break
        rates[rows] = raw_rate(classifier, shape, rows, seconds=0.2)
        if 2 * rows / rates[rows] > _LONG:
            break
    return max(rates, key=lambda rows: rates[rows])


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
    return rows * len(times) / sum(times)
