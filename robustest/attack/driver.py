"""The driver: plays many games side by side and merges their questions into batches for the classifier.

It owns the budget, the memory and the verdict: a search can neither overspend nor claim. Two groups of games take
turns, so that one group's search works while the other's batch is being scored. What a game asks and is answered
depends on nothing but its own image and seed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustest.attack.memory import Keys
from robustest.attack.record import Record, rounded_to_eight_bit, state_keys
from robustest.attack.replay import replay
from robustest.attack.scorer import Scorer, thread_of
from robustest.attack.shrink import shrink
from robustest.attack.task import Search, Strategy, Task
from robustest.classifiers.batching import Batch
from robustest.classifiers.classifier import Classifier, check_output, classes_of, comparable, margins_of
from robustest.compiled import worked
from robustest.randomness import stream
from robustest.results import AttackResult, Edits, Margins, Scores, Verdict

_STALE_QUESTIONS = 1000  # in a row answered from memory alone: a search that turns in a circle
_MOST_RESERVED = 200  # queries kept for shrinking, however many pixels there are
_MOST_GAMES = 32  # in a group: joining their questions costs hardly more than one game's own
_CHEAP_BYTES, _GAMES_BYTES = 64 << 20, 1 << 30  # of a group's games: spent on any, and on as many as fill the batches
_PIXEL_BYTES = 600  # that one game keeps of a pixel
_EMPTY = Edits(np.zeros(0, np.int64), np.zeros((0, 1), np.float32), np.zeros(2, np.int64))


@dataclass(slots=True)
class Clock:
    """Where the time of `play` goes, in seconds; filled in while it runs, never part of a result.

    score: rendering and the classifier, in a thread of its own. search: the games' own work. merge: joining and
    splitting questions, memory and records. wait: for the classifier, with nothing else to do.
    """

    score: float = 0.0
    search: float = 0.0
    merge: float = 0.0
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """One image to be attacked, and its name in random streams."""

    index: int
    task: Task
    image_id: str


class _Game:
    """One image in play: its search, its record, and the question that waits for an answer."""

    def __init__(self, job: Job, strategy: Strategy, slot: int) -> None:
        self.job, self.slot, self.strategy = job, slot, strategy
        channels = job.task.image.shape[2]
        settings = job.task.settings
        self.record = Record(job.task.image.reshape(-1, channels), settings.norm, settings.queries)
        self.search: Search | None = None
        self.task = job.task
        self.question = Edits(_EMPTY.pixels, np.zeros((0, channels), np.float32), _EMPTY.offsets)
        self.shrinking = False
        self.stale = 0
        self.seconds = 0.0
        self.predicted: int | None = None
        self.reason = ""

    def recall(self, keys: Keys, known: Margins) -> int:
        """Write what is remembered of the states asked to `known`, NaN for the rest; returns how many these are."""
        unknown = self.record.memory.find(keys, known)
        self.record.remembered += len(keys) - unknown
        self.stale = 0 if unknown else self.stale + 1
        return unknown

    def advance(self, margins: Margins) -> bool:
        """Send the answer on and take the next question; False when the game is over."""
        started = time.perf_counter()
        try:
            return self._next(margins)
        finally:
            self.seconds += time.perf_counter() - started

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
        if not self.shrinking and self.record.best is not None and self._must_check():
            return self._shrink()
        return self.record.left > 0 and self.stale < _STALE_QUESTIONS

    def _must_check(self) -> bool:
        """True when the queries left are just enough to shrink the best image and check that no pixel can be put back."""
        best = self.record.best
        assert best is not None
        if len(best.pixels) == 1:
            return False
        # Rounds of putting back single pixels, each with fewer to ask; many pixels go in groups first, which is cheap.
        needed = min(3 * len(best.pixels) + 16, _MOST_RESERVED, self.record.budget // 2)
        return self.record.left - len(self.question) < needed and self.record.unchecked() > 0

    def _shrink(self) -> bool:
        """Turn from the search to shrinking the best image."""
        if self.record.best is None or self.record.left <= 0:
            return False
        if self.search is not None:
            self.search.close()
        self.shrinking = True
        self.search = shrink(self.record.best)
        try:
            self.question = next(self.search)
        except StopIteration:
            return False
        return True


class _CleanScores:
    """The first scores of different clean images, checked to be what the classifier's output declares."""

    enough = 8

    def __init__(self, classifier: Classifier) -> None:
        self._info = classifier.info
        self._rows: dict[str, Scores] = {}
        self._labels: set[int] = set()

    def add(self, games: list[_Game], scores: Scores) -> None:
        if len(self._rows) >= self.enough:
            return
        for game, row in zip(games, scores, strict=True):
            self._rows.setdefault(game.job.image_id, row)
            self._labels.add(game.task.label)
        self.check(least=self.enough)

    def check(self, *, least: int = 2) -> None:
        """Raise `ModelError` if they are not; constant scores only where at least so many images were scored."""
        if self._rows:
            known = np.stack(list(self._rows.values()))
            few = len(known) < least or len(self._labels) < 2
            check_output(known, self._info.output, source=self._info.source, constant=few)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A group's merged question on its way: what was sent, and how the answers find back.

    bounds: (G + 1,) the rows of each game among the N states asked. keys: (N,) of these states.
    known: (N,) their margins as far as remembered, NaN for the rest. places: rows that were sent, None for all.
    counts: (G,) how many of each game's states were sent. cut: games whose budget allowed only part of what was new.
    """

    games: list[_Game]
    bounds: list[int]
    keys: Keys
    known: Margins
    places: NDArray[np.int64] | None
    counts: list[int]
    cut: set[int]
    sent: Edits
    scores: Future[Scores]


def usual_games(batch: Batch, shape: tuple[int, int, int]) -> int:
    """Images in play at once, half of them a group, that fill the batches and leave room in memory.

    A game asks about ten new states at a time. Where games are small there are more than a batch needs: the more
    questions are joined, the less joining costs each, and the longer the classifier is left to itself.
    """
    each = _PIXEL_BYTES * shape[0] * shape[1]
    wanted = min(_MOST_GAMES, max(-(-batch.rows // 8), _CHEAP_BYTES // each))
    return 2 * max(1, min(wanted, _GAMES_BYTES // each))


def play(
    classifier: Classifier,
    jobs: Iterable[Job],
    strategy: Strategy,
    *,
    shape: tuple[int, int, int],
    batch: Batch,
    games: int | None = None,
    clock: Clock | None = None,
) -> Iterator[tuple[int, AttackResult]]:
    """Attack images side by side; yield (index, result) as each is finished.

    Args:
        classifier: the black box.
        jobs: the images, taken one by one as places become free.
        strategy: makes a search of a task.
        shape: (H, W, C) of every image.
        batch: how many images to give the classifier at once.
        games: images in play at once; None for as many as fill the batches.
        clock: is told where the time goes.
    """
    places = games or usual_games(batch, shape)
    canvas = classifier.canvas(shape, slots=places, rows=batch.rows, pad=batch.pad)
    clean = _CleanScores(classifier)
    waiting = iter(jobs)
    free = deque(range(places))
    groups: list[list[_Game]] = [[], []]
    asked: list[_Asked | None] = [None, None]
    exhausted = False
    clock = clock or Clock()

    def score(slots: NDArray[np.int64], sent: Edits) -> Scores:
        started = time.perf_counter()
        scores = canvas.score(slots, sent)
        clock.score += time.perf_counter() - started
        return scores

    with thread_of(classifier) as thread:
        scorer = Scorer(score, thread, full=batch.rows if batch.pad else None)
        while not exhausted or any(groups) or any(asked):
            for turn in (0, 1):
                pending = asked[turn]
                finished: list[_Game] = []
                asked[turn] = None
                if pending is not None:
                    started = time.perf_counter()
                    scores = scorer.answer(pending.scores)
                    clock.wait += time.perf_counter() - started
                    groups[turn], finished = _answer(classifier, pending, scores, clean, clock)
                    free.extend(game.slot for game in finished)
                room = -(-places // 2) if turn == 0 else max(places // 2, 1)
                while not exhausted and free and len(groups[turn]) < room:
                    job = next(waiting, None)
                    if job is None:
                        exhausted = True
                        break
                    game = _Game(job, strategy, free.popleft())
                    thread.submit(canvas.place, game.slot, job.task.image)  # before any score: one thread, in order
                    groups[turn].append(game)
                if groups[turn]:
                    started, scored = time.perf_counter(), clock.score
                    asked[turn] = _ask(groups[turn], scorer)
                    clock.merge += time.perf_counter() - started
                    if not classifier.info.beside:
                        clock.merge -= clock.score - scored
                    groups[turn] = []
                for game in finished:
                    yield game.job.index, _result(classifier, game)
    clean.check()


def _ask(games: list[_Game], scorer: Scorer) -> _Asked:
    """Merge the questions of a group, leave out what is remembered or beyond the budget, and send the rest."""
    merged = Edits.joined([game.question for game in games])
    if all(game.task.eight_bit for game in games):
        merged = replace(merged, values=rounded_to_eight_bit(merged.values))
    keys = state_keys(merged)
    known = np.empty(len(keys))
    bounds = [0]
    counts: list[int] = []
    beyond: list[int] = []  # rows that the budget does not allow
    cut: set[int] = set()
    for number, game in enumerate(games):
        start, stop = bounds[-1], bounds[-1] + len(game.question)
        count = game.recall(keys[start:stop], known[start:stop])
        if count > game.record.left:
            cut.add(number)
            beyond += (start + np.flatnonzero(np.isnan(known[start:stop]))[game.record.left :]).tolist()
            count = game.record.left
        bounds.append(stop)
        counts.append(count)
    total = sum(counts)
    places = None
    if total < len(keys):
        fresh = np.isnan(known)
        fresh[beyond] = False
        places = np.flatnonzero(fresh)
    sent = merged if places is None else merged.take(places)
    slots = np.repeat(np.array([game.slot for game in games]), counts)
    worked(total)
    future = scorer.ask(slots, sent) if total else _nothing()
    return _Asked(games, bounds, keys, known, places, counts, cut, sent, future)


def _nothing() -> Future[Scores]:
    future: Future[Scores] = Future()
    future.set_result(np.zeros((0, 2), np.float32))
    return future


def _answer(
    classifier: Classifier, asked: _Asked, scores: Scores, clean: _CleanScores, clock: Clock
) -> tuple[list[_Game], list[_Game]]:
    """Take in the scores of a merged question; return the games that go on and those that are over."""
    output = classifier.info.output
    started = time.perf_counter()
    counts = asked.counts
    labels = np.repeat(np.array([game.task.label for game in asked.games]), counts)
    aims = np.array([-1 if game.task.target is None else game.task.target for game in asked.games])
    margins = margins_of(scores, labels, np.repeat(aims, counts), output) if len(scores) else np.zeros(0)
    heard = None if output == "label" or not len(scores) else comparable(scores, output)
    starting = [game for game in asked.games if game.search is None]
    if starting:
        rows = np.cumsum([0, *counts])[:-1][[game.search is None for game in asked.games]]
        clean.add(starting, scores[rows])
        for game, predicted in zip(starting, classes_of(scores[rows], output).tolist(), strict=True):
            game.predicted = predicted
    known, sent_keys = asked.known, asked.keys
    if asked.places is None:
        known = margins
    else:
        known[asked.places] = margins
        sent_keys = sent_keys[asked.places]
        if heard is not None:
            sent, heard = heard, np.full((len(known), heard.shape[1]), np.nan)
            heard[asked.places] = sent
    before = sum(game.seconds for game in asked.games)
    going: list[_Game] = []
    finished: list[_Game] = []
    start = 0
    for number, (game, count) in enumerate(zip(asked.games, counts, strict=True)):
        stop = start + count
        game.record.learn(asked.sent, start, sent_keys[start:stop], margins[start:stop])
        start = stop
        own = slice(asked.bounds[number], asked.bounds[number + 1])
        game.task.notes.scores = None if heard is None else heard[own]
        # A state beyond the budget ends the game, unless it was asked twice and so is known by now.
        answered = number not in asked.cut or not game.record.memory.find(asked.keys[own], known[own])
        goes_on = False
        if game.search is not None or _attackable(game):
            goes_on = answered and game.advance(known[own])
        (going if goes_on else finished).append(game)
    spent = sum(game.seconds for game in asked.games) - before
    clock.search += spent
    clock.merge += time.perf_counter() - started - spent
    return going, finished


def _attackable(game: _Game) -> bool:
    task = game.task
    if game.predicted != task.label:
        game.reason = f"the classifier answers {game.predicted} for the unchanged image, not {task.label}"
    elif task.target == task.label:
        game.reason = f"the image already is of the target class {task.target}"
    return not game.reason


def _result(classifier: Classifier, game: _Game) -> AttackResult:
    """The verdict on a finished game; a flip is rendered, rounded and scored once more."""
    task, record = game.task, game.record
    if game.search is not None:
        game.search.close()
    saliency = task.notes.saliency() if task.notes.saliency is not None else None
    task.notes.saliency = None  # it holds the search, which holds the notes: only the garbage collector would free that
    common = AttackResult(
        verdict=Verdict.SURVIVED,
        attack=task.settings.attack,
        norm=task.settings.norm,
        label=task.label,
        target=task.target,
        seed=task.settings.seed,
        budget=task.settings.queries,
        predicted=game.predicted,
        queries=record.queries,
        remembered=record.remembered,
        margin=float(record.lowest),
        curve=tuple(record.curve),
        saliency=saliency,
        decision_only=task.decision_only,
        seconds=game.seconds,
    )
    if game.reason:
        return replace(common, verdict=Verdict.EXCLUDED, reason=game.reason, margin=None)
    if record.best is None:
        return common
    return replay(classifier, common, task, record.best, minimal=record.unchecked() == 0)
