"""One process's work on a run: claims shards, plays their images side by side, and writes each result when it is there.

Places that become free are filled with the next image, of the next shard where one is used up, so that the batches
stay full to the end. Results depend on nothing but each image, the plan and the model.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from robustest import compiled
from robustest.attack.driver import Job, play, usual_games
from robustest.attack.find import strategy_named
from robustest.attack.task import Notes, Strategy, Task
from robustest.audit.deaths import death_noted, note_death, noted_death, own_death, suspect
from robustest.audit.files import storage, write_json
from robustest.audit.images import StoredImages, open_images
from robustest.audit.leases import EXPIRY, HEARTBEAT, Heart, Lease, LeaseLostError, Watch, Worker, claim
from robustest.audit.ledger import FILE, Ledger, seconds_of, tally
from robustest.audit.plan import Plan, shard_folder
from robustest.audit.probe import check_unchanged
from robustest.audit.records import ImageRecord, record_of
from robustest.audit.served import ServedWatch, check_valid
from robustest.classifiers.batching import Batch
from robustest.classifiers.classifier import Classifier
from robustest.errors import ModelError, RobustestError
from robustest.images import as_unit
from robustest.results import AttackResult, SaliencyChange, Verdict

DONE = "done.json"
_POLL = 0.3  # seconds between two looks for a shard whose owner is gone
_SALIENCY_BYTES = 16 << 20  # of all maps that a run keeps, those of the first images


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an image: `started`, or its verdict with what it took."""

    index: int
    verdict: Verdict | None = None
    queries: int = 0


@dataclass(slots=True)
class _Shard:
    """A shard held: what is left of it, what is in play, what must be played alone."""

    number: int
    lease: Lease
    ledger: Ledger
    todo: deque[int]
    alone: deque[int]
    playing: set[int] = field(default_factory=set)

    @property
    def empty(self) -> bool:
        """True where every image has its row."""
        return not self.todo and not self.alone and not self.playing


def work_on(
    run: Path,
    plan: Plan,
    classifier: Classifier,
    *,
    only: Sequence[int] | None = None,
    workers: int = 1,
    wait: bool = True,
    notify: Callable[[Event], None] | None = None,
    strategy: Strategy | None = None,
    durable: bool = False,
    worker: Worker | None = None,
    heartbeat: float = HEARTBEAT,
    expiry: float = EXPIRY,
) -> None:
    """Work until all shards are done, or none is left to take.

    Args:
        run: the run folder. plan: its plan. classifier: the one that was planned.
        only: shards to work on; None for all. workers: processes that share the work here.
        wait: for shards that others hold, to take them over if they die.
        notify: told of every image started and finished.
        strategy: a search in place of the one the plan names. durable: survive a loss of power, too.
        worker: this process's name; a new one if None. heartbeat, expiry: of leases, in seconds.

    Raises:
        EnvironmentFailure: the disk is full, the model fails on everything or is another one.
    """
    with storage(run), Heart(heartbeat) as heart:
        work = _Work(
            run,
            plan,
            classifier,
            only,
            workers,
            notify,
            strategy,
            durable,
            worker,
            heart,
            Watch(expiry, noted=partial(death_noted, run)),
        )
        try:
            work.go(wait)
        except (RobustestError, OSError, sqlite3.Error):
            raise
        except (Exception, SystemExit) as error:
            work.blame(error)
            raise
        finally:
            work.leave()


class _Work:
    def __init__(
        self,
        run: Path,
        plan: Plan,
        classifier: Classifier,
        only: Sequence[int] | None,
        workers: int,
        notify: Callable[[Event], None] | None,
        strategy: Strategy | None,
        durable: bool,
        worker: Worker | None,
        heart: Heart,
        watch: Watch,
    ) -> None:
        self.run, self.plan = run, plan
        self.classifier = classifier
        self.batch = Batch(plan.rows, pad=plan.model.batch is not None)
        self.images: StoredImages = open_images(run, plan.data.sha256)
        self.shards = range(plan.shards) if only is None else only
        self.share = plan.data.count * len(self.shards) // (plan.shards * max(1, workers))  # images, about
        self.notify = notify or (lambda _: None)
        self.strategy = strategy or strategy_named(plan.settings.attack)
        self.durable = durable
        self.worker = worker or Worker.here()
        self.heart, self.watch = heart, watch
        self.served = ServedWatch(run, classifier, self.worker.name)
        self.held: dict[int, _Shard] = {}
        self.done: set[int] = set()
        self.finished, self.blamed = 0, False
        self.began = time.monotonic()
        usual = usual_games(self.batch, plan.data.shape, beside=self.classifier.info.beside)
        self.places = max(1, min(usual, -(-plan.data.count // max(1, workers))))
        self.maps = _SALIENCY_BYTES // (4 * plan.data.shape[0] * plan.data.shape[1])
        heart.rate = self.rate
        self.asked: Any = as_unit(self.images.pixels[list(plan.probe)])

    def rate(self) -> float:
        """Images finished a second, since the work began."""
        return self.finished / max(time.monotonic() - self.began, 1e-3)

    def go(self, wait: bool) -> None:
        """Work until nothing is left to take."""
        if all(self._is_done(number) for number in self.shards):
            return
        check_valid(self.run)
        check_unchanged(self.classifier, self.asked, self.plan.scores, change=self.plan.model.largest_change)
        self.served.begin(self.asked)
        compiled.expect(self.share * self.plan.settings.queries)
        while True:
            self._play_together()
            self._play_alone()
            if all(self._is_done(number) for number in self.shards) or not wait:
                return
            time.sleep(_POLL)

    def blame(self, error: BaseException) -> None:
        """Hold an error that nobody foresaw against the images in play, as a death of this process.

        Else whoever takes over would play them together again, and fail again, for ever. Where no process watches over
        this one the error is its caller's, who may have raised it to stop.
        """
        self.blamed = self.worker.parent != 0
        if self.blamed:
            note_death(self.run, self.worker.name, own_death(f"{type(error).__name__}: {error}"))

    def leave(self) -> None:
        """Give back what is held, in good order; images that are blamed for an error stay marked as in play."""
        self.served.note()
        for shard in list(self.held.values()):
            self.heart.drop(shard.lease)
            try:
                if not self.blamed:
                    shard.ledger.stop()
                shard.lease.release()
            except LeaseLostError:
                pass
            finally:
                shard.ledger.close()
        self.held.clear()

    def _play_together(self) -> None:
        jobs = self._jobs()
        try:
            for index, result in self._play(jobs, self.places):
                self._finish(index, result)
        except ModelError:
            # One of the images in play made the model fail, or the model fails on everything: alone, each will tell.
            for shard in self.held.values():
                shard.ledger.stop()
                shard.alone.extend(sorted(shard.playing))
                shard.playing.clear()

    def _play_alone(self) -> None:
        while True:
            shard = next((shard for shard in self.held.values() if shard.alone), None)
            if shard is None:
                return
            index = shard.alone.popleft()
            try:
                shard.ledger.start(index, alone=True)
            except LeaseLostError:
                self._lose(shard)
                continue
            shard.playing.add(index)
            self.notify(Event(index))
            try:
                for _, result in self._play(iter([self._job(index)]), 1):
                    self._finish(index, result)
            except ModelError as error:
                self.served.check()
                check_unchanged(self.classifier, self.asked, self.plan.scores, change=self.plan.model.largest_change)
                self._write(shard, self._undecided(index, f"the model failed on it: {error}"))

    def _play(self, jobs: Iterator[Job], places: int) -> Iterator[tuple[int, AttackResult]]:
        plan = self.plan
        return play(self.classifier, jobs, self.strategy, shape=plan.data.shape, batch=self.batch, games=places)

    def _jobs(self) -> Iterator[Job]:
        while True:
            shard = next((shard for shard in self.held.values() if shard.todo), None)
            if shard is None:
                if not self._claim():
                    return
                continue
            index = shard.todo.popleft()
            try:
                shard.ledger.start(index)
            except LeaseLostError:
                self._lose(shard)
                continue
            shard.playing.add(index)
            self.notify(Event(index))
            yield self._job(index)

    def _job(self, index: int) -> Job:
        settings = self.plan.settings
        task = Task(
            image=as_unit(self.images.pixels[index]),
            eight_bit=self.plan.data.eight_bit,
            label=int(self.images.labels[index]),
            target=settings.target,
            decision_only=self.plan.model.spec.output == "label",
            clean_margin=float("nan"),
            settings=settings,
            notes=Notes(),
        )
        return Job(index, task, self.images.sha256(index))

    def _claim(self) -> bool:
        """Take a further shard; False where there is none to be had now."""
        for number in self.shards:
            if number in self.held or self._is_done(number):
                continue
            folder = shard_folder(self.run, number)
            folder.mkdir(parents=True, exist_ok=True)
            lease = claim(folder, self.worker, self.watch)
            if lease is None:
                continue
            if self._is_done(number):
                lease.retire()
                continue
            try:
                shard = self._open(number, lease)
            except LeaseLostError:
                continue
            self.heart.add(lease)
            self.held[number] = shard
            if shard.empty:
                self._complete(shard)
            return True
        return False

    def _open(self, number: int, lease: Lease) -> _Shard:
        """Open a shard's ledger and settle what its last owner left."""
        folder = shard_folder(self.run, number)
        ledger = Ledger(
            folder / FILE, key=self.plan.key, owner=lease.number, worker=self.worker.name, durable=self.durable
        )
        known = ledger.suspicions()
        left = ledger.left_behind()
        if left:
            deaths = {mark.worker: noted_death(self.run, mark.worker) for mark in left}
            changed = suspect(known, [(mark.index, mark.alone, deaths[mark.worker]) for mark in left])
            ledger.bury(changed)
            known.update(changed)
        finished = ledger.finished()
        todo: deque[int] = deque()
        alone: deque[int] = deque()
        for index in self.plan.indices(number):
            suspicion = known.get(index)
            if index in finished:
                continue
            if suspicion is not None and suspicion.condemned:
                ledger.record(self._undecided(index, suspicion.reason), distance=None, seconds=0.0)
                self.notify(Event(index, Verdict.UNKNOWN))
            elif suspicion is not None and suspicion.isolated:
                alone.append(index)
            else:
                todo.append(index)
        return _Shard(number, lease, ledger, todo, alone)

    def _undecided(self, index: int, reason: str) -> ImageRecord:
        return ImageRecord(
            index=index,
            name=self.images.names[index],
            sha256=self.images.sha256(index),
            label=int(self.images.labels[index]),
            verdict=Verdict.UNKNOWN,
            reason=reason,
        )

    def _finish(self, index: int, result: AttackResult) -> None:
        shard = self.held.get(index // self.plan.shard)
        if shard is None or index not in shard.playing:
            return  # the shard was lost to another process, which plays the image again
        record = record_of(
            result,
            index=index,
            name=self.images.names[index],
            sha256=self.images.sha256(index),
            eight_bit=self.plan.data.eight_bit,
        )
        self._write(shard, record, result.seconds, result.saliency if index < self.maps else None)

    def _write(
        self, shard: _Shard, record: ImageRecord, seconds: float = 0.0, saliency: SaliencyChange | None = None
    ) -> None:
        distance = record.distance(self.plan.settings.norm)
        try:
            shard.ledger.record(record, distance=distance, seconds=seconds, saliency=saliency)
        except LeaseLostError:
            self._lose(shard)
            return
        shard.playing.discard(record.index)
        self.finished += 1
        self.notify(Event(record.index, record.verdict, record.queries))
        if shard.empty:
            self._complete(shard)

    def _complete(self, shard: _Shard) -> None:
        """Seal a shard all of whose images have their row."""
        self.served.check()
        shard.ledger.seal()
        shard.ledger.close()
        folder = shard_folder(self.run, shard.number)
        counted = tally(folder / FILE)
        write_json(
            folder / DONE,
            {
                "flipped": counted.flipped,
                "survived": counted.survived,
                "unknown": counted.unknown,
                "excluded": counted.excluded,
                "queries": counted.queries,
                "seconds": seconds_of(folder / FILE),
                "host": self.worker.host,
            },
        )
        self.heart.drop(shard.lease)
        shard.lease.retire()
        self.done.add(shard.number)
        del self.held[shard.number]

    def _lose(self, shard: _Shard) -> None:
        """Let go of a shard that another process has taken over."""
        self.heart.drop(shard.lease)
        shard.ledger.close()
        self.held.pop(shard.number, None)

    def _is_done(self, number: int) -> bool:
        if number not in self.done and (shard_folder(self.run, number) / DONE).is_file():
            self.done.add(number)
        return number in self.done
