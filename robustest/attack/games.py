"""One image in play: its search, its record, and the question that waits for an answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from robustest.attack.books import Totals
from robustest.attack.memory import Memories, Memory
from robustest.attack.record import Record
from robustest.attack.shrink import MANY, shrink, shrink_singly
from robustest.attack.task import Question, Search, Strategy, Task
from robustest.randomness import stream
from robustest.results import Edits, Margins

_MOST_RESERVED = 200  # queries kept for shrinking, however many pixels there are
_SHARE = 8  # of so many queries one may be kept, where pixels are put back one by one
_WORKED = 10  # queries a pixel spent before, for in what took fewer most pixels can be put back
_TWICE = 2  # queries a pixel that this takes, at least: before some are put back, and after
_FEW = 1000  # queries allowed below which a search does not come to making all large finds smaller by itself
_EMPTY = Edits(np.zeros(0, np.int64), np.zeros((0, 1), np.float32), np.zeros(2, np.int64))


@dataclass(frozen=True, slots=True)
class Job:
    """One image to be attacked, and its name in random streams."""

    index: int
    task: Task
    image_id: str


class Game:
    """One image in play.

    Args:
        job: the image. strategy: makes its search. slot: its place among the games, in the memories, too.

    Attributes:
        question: waits for an answer.
    """

    def __init__(self, job: Job, strategy: Strategy, slot: int, memories: Memories) -> None:
        self.job, self.slot, self.strategy = job, slot, strategy
        channels = job.task.image.shape[2]
        settings = job.task.settings
        memory = Memory(memories, slot)
        self.books = memory.books
        self.books.label[slot] = job.task.label
        self.books.target[slot] = -1 if job.task.target is None else job.task.target
        self.record = Record(job.task.image.reshape(-1, channels), settings.norm, settings.queries, memory)
        self.search: Search | None = None
        self.task = job.task
        job.task.notes.together = True
        self.question: Question = Edits(_EMPTY.pixels, np.zeros((0, channels), np.float32), _EMPTY.offsets)
        self.shrinking = False
        self.predicted: int | None = None
        self.reason = ""
        self.minimal = False
        self.totals = Totals(0, 0, np.inf, 0.0)  # once it is over

    @property
    def asking(self) -> int:
        """How many states its question asks about."""
        return int(self.books.asking[self.slot])

    def improve(self, edits: Edits, start: int, margins: Margins) -> None:
        """See `Record.improve`."""
        record = self.record
        record.improve(edits, start, margins)
        pixels = 0 if record.best is None else len(record.best.pixels)
        if pixels > 1 and not self.shrinking:
            self.books.reserve[self.slot] = self._reserve(pixels)
        else:
            self.books.reserve[self.slot] = 0

    def _reserve(self, pixels: int) -> int:
        """Queries left below which the best image must be checked."""
        check, budget = self.task.notes.check, self.record.budget
        most = _MOST_RESERVED if check == "groups" else max(_MOST_RESERVED, budget // _SHARE)
        if check == "cheap" and pixels * _TWICE > most:
            return budget // _SHARE if budget < _FEW else 0
        # Rounds of putting back single pixels, each with fewer to ask; many pixels go in groups first, which is cheap.
        return min(3 * pixels + 16, most, budget // 2)

    def advance(self, margins: Margins) -> bool:
        """Send the answer on and take the next question; False when the game is over.

        Where the question is turns with others, what they ask must be found next, and `goes_on` be asked then.
        """
        started = time.perf_counter()
        try:
            return self._next(margins)
        finally:
            self.books.spend_one(self.slot, time.perf_counter() - started)

    def attackable(self) -> bool:
        """True unless the unchanged image counts as adversarial already; then `reason` says why."""
        if self.predicted != self.task.label:
            self.reason = f"the classifier answers {self.predicted} for the unchanged image, not {self.task.label}"
        elif self.task.target == self.task.label:
            self.reason = f"the image already is of the target class {self.task.target}"
        return not self.reason

    def goes_beyond(self) -> bool:
        """True where the game, over by now, goes on beyond its budget: its best image must be checked, whatever that takes."""
        record = self.record
        if not self.task.settings.minimal or record.budget > self.task.settings.queries or record.unchecked() == 0:
            return False
        assert record.best is not None
        # Each round of checks asks about every pixel and some together, and puts one back at least, or is among the last.
        record.allow(record.budget + (len(record.best.pixels) + 32) ** 2)
        return self._shrink()

    def finish(self) -> None:
        """Let go of the search, and of the place in memories and books."""
        if self.search is not None:
            self.search.close()
        self.minimal = self.record.unchecked() == 0
        self.totals = self.books.totals(self.slot)

    def _next(self, margins: Margins) -> bool:
        try:
            if self.search is None:
                self.task = replace(self.job.task, clean_margin=float(margins[0]))
                rng = stream(self.task.settings.seed, self.job.image_id, purpose=self.task.settings.attack)
                self.search = self.strategy(self.task, rng)
                self.question = next(self.search)
            else:
                self.question = self.search.send(margins)
        except StopIteration:
            return (not self.shrinking or self.record.unchecked() > 0) and self._shrink()
        if not isinstance(self.question, Edits):
            return True
        self.books.asking[self.slot] = len(self.question)
        return self.goes_on()

    def goes_on(self) -> bool:
        """False when the game is over though there is a question; the question is another where it must be checked now."""
        if self._at_ease():
            return True
        if self.record.left - self.asking < self.books.reserve[self.slot] and self.record.unchecked() > 0:
            return self._shrink()
        self.books.reserve[self.slot] = 0  # until another is the best
        return self._at_ease()

    def _at_ease(self) -> bool:
        return self.books.at_ease(self.slot)

    def _shrink(self) -> bool:
        """Turn from the search to shrinking the best image."""
        if self.record.best is None or self.record.left <= 0:
            return False
        if self.search is not None:
            self.search.close()
        self.shrinking = True
        self.books.reserve[self.slot] = 0
        best = self.record.best
        many = len(best.pixels) if self.task.notes.check != "groups" else 0
        singly = many > MANY and self.record.left >= _TWICE * many and self.record.queries >= _WORKED * many
        self.search = shrink_singly(best) if singly else shrink(best)
        try:
            self.question = next(self.search)
        except StopIteration:
            return False
        assert isinstance(self.question, Edits)
        self.books.asking[self.slot] = len(self.question)
        return True
