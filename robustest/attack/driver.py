"""The driver: plays many games side by side and merges their questions into batches for the classifier.

It owns the budget, the memory and the verdict: a search can neither overspend nor claim. Groups of games take turns, so
that one group's search works while the others' batches are being scored. What a game asks and is answered depends on
nothing but its own image and seed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustest.attack.games import Game, Job
from robustest.attack.memory import Memories
from robustest.attack.questions import Asked, CleanScores, answer, ask
from robustest.attack.replay import Find, replayed
from robustest.attack.scorer import Scorer, thread_of
from robustest.attack.task import Strategy
from robustest.classifiers.batching import Batch
from robustest.classifiers.classifier import Classifier
from robustest.results import AttackResult, Edits, Scores, Verdict

_MOST_GAMES = 64  # in a group: joining their questions costs hardly more than one game's own
_CHEAP_BYTES, _GAMES_BYTES = 64 << 20, 2 << 30  # spent on a group's games anyway; on all games that fill the batches
_PIXEL_BYTES = 600  # that one game keeps of a pixel
_CHEAP_ROWS = 16  # where so many images go in one call and more,
_HELD_ROUNDS = 8  # finds of so many rounds are scored again together

__all__ = ["Clock", "Job", "play", "usual_games"]


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


def usual_groups(batch: Batch, *, beside: bool) -> int:
    """Groups of games that take turns.

    Where nothing can be done meanwhile one will do, or two, so that what one leaves over of a full batch goes with the
    other's. Where scoring goes on beside the searches, an answer may have to wait for a full batch that the next group
    begins: with two groups nothing would be left to score while the first one's searches work.

    Args:
        beside: see `ClassifierInfo`.
    """
    if beside:
        return 4 if batch.pad else 2
    return 2 if batch.pad else 1


def usual_games(batch: Batch, shape: tuple[int, int, int], *, beside: bool = True) -> int:
    """Images in play at once that fill the batches and leave room in memory: all groups, or one half as large again.

    A game asks about ten new states at a time. Where games are small there are more than a batch needs: the more
    questions are joined, the less joining costs each, and the longer the classifier is left to itself.

    Args:
        beside: see `ClassifierInfo`.
    """
    each, groups = _PIXEL_BYTES * shape[0] * shape[1], usual_groups(batch, beside=beside)
    wanted = min(_MOST_GAMES, max(-(-batch.rows // 8), _CHEAP_BYTES // each))
    group = max(1, min(wanted, _GAMES_BYTES // (max(groups, 2) * each)))
    return groups * group if beside else group + group // 2


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
    beside = classifier.info.beside
    count = usual_groups(batch, beside=beside)
    places = games or usual_games(batch, shape, beside=beside)
    canvas = classifier.canvas(shape, slots=places, rows=batch.rows, pad=batch.pad)
    clean, memories = CleanScores(classifier), Memories(places)
    waiting = iter(jobs)
    free = deque(range(places))
    groups: list[list[Game]] = [[] for _ in range(count)]
    asked: list[Asked | None] = [None] * count
    exhausted = False
    over: list[tuple[int, AttackResult | Find]] = []
    rounds, each = 0, _HELD_ROUNDS if batch.rows >= _CHEAP_ROWS and not batch.pad else 1
    clock = clock or Clock()

    def score(slots: NDArray[np.int64], sent: Edits) -> Scores:
        started = time.perf_counter()
        scores = canvas.score(slots, sent)
        clock.score += time.perf_counter() - started
        return scores

    with thread_of(classifier) as thread:
        scorer = Scorer(score, thread, full=batch.rows if batch.pad else None)
        while not exhausted or any(groups) or any(asked):
            for turn in range(count):
                pending = asked[turn]
                finished: list[Game] = []
                asked[turn] = None
                if pending is not None:
                    started, scored = time.perf_counter(), clock.score
                    scores = scorer.answer(pending.scores)
                    clock.wait += time.perf_counter() - started
                    if not beside:
                        clock.wait -= clock.score - scored
                    started = time.perf_counter()
                    going, finished, spent = answer(classifier, pending, memories, scores, clean)
                    groups[turn] += going
                    clock.search += spent
                    clock.merge += time.perf_counter() - started - spent
                    beyond = [game for game in finished if game.goes_beyond()]
                    groups[turn] += beyond
                    finished = [game for game in finished if game not in beyond]
                    for game in finished:
                        game.finish()
                        free.append(game.slot)
                room = max((places + count - 1 - turn) // count, 1)
                while not exhausted and free and len(groups[turn]) < room:
                    job = next(waiting, None)
                    if job is None:
                        exhausted = True
                        break
                    game = Game(job, strategy, free.popleft(), memories)
                    thread.submit(canvas.place, game.slot, job.task.image)  # before any score: one thread, in order
                    groups[turn].append(game)
                if exhausted and count > 1:
                    _share(groups, asked, turn, least=0 if beside else batch.rows)
                if groups[turn]:
                    started, scored = time.perf_counter(), clock.score
                    asked[turn] = ask(groups[turn], memories, scorer)
                    clock.merge += time.perf_counter() - started
                    if not beside:
                        clock.merge -= clock.score - scored
                    groups[turn] = []
                over.extend((game.job.index, _result(game)) for game in finished)
                finished.clear()
                rounds += 1
                if over and rounds % each == 0:
                    yield from _believed(classifier, over, batch.rows)
                    over.clear()
        yield from _believed(classifier, over, batch.rows)
    clean.check()


def _share(groups: list[list[Game]], asked: list[Asked | None], turn: int, *, least: int) -> None:
    """Hand games to the group with the fewest where that has fewer, so that each works while others' images are scored.

    Args:
        least: states that all must ask together; where they ask fewer, all games become one group.
    """
    waited = [question for question in asked if question is not None]
    sizes = [
        len(own) + (len(question.slots) if question is not None else 0)
        for own, question in zip(groups, asked, strict=True)
    ]
    other = min((place for place in range(len(groups)) if place != turn), key=lambda place: sizes[place])
    more = (sizes[turn] - sizes[other]) // 2
    if sum(game.asking for own in groups for game in own) + sum(len(question.keys) for question in waited) <= least:
        other = max((place for place in range(len(groups)) if place != turn), key=lambda place: sizes[place])
        more = sizes[turn] if sizes[other] else 0
    if more > 0:
        groups[other] += groups[turn][-more:]
        del groups[turn][-more:]


def _result(game: Game) -> AttackResult | Find:
    """The verdict on a finished game, or a flip that must be scored once more."""
    task, record, totals = game.task, game.record, game.totals
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
        queries=totals.queries,
        remembered=totals.remembered,
        margin=totals.lowest,
        curve=tuple(record.curve),
        saliency=saliency,
        decision_only=task.decision_only,
        seconds=totals.seconds,
    )
    if game.reason:
        return replace(common, verdict=Verdict.EXCLUDED, reason=game.reason, margin=None)
    if record.best is None:
        return common
    return Find(common, task, record.best, game.minimal)


def _believed(
    classifier: Classifier, over: list[tuple[int, AttackResult | Find]], most: int
) -> Iterator[tuple[int, AttackResult]]:
    """Results by their index, with finds scored once more, at most so many in one call."""
    finds = [(index, result) for index, result in over if isinstance(result, Find)]
    for index, result in over:
        if not isinstance(result, Find):
            yield index, result
    for start in range(0, len(finds), most):
        own = finds[start : start + most]
        results = replayed(classifier, [find for _, find in own])
        yield from zip([index for index, _ in own], results, strict=True)
