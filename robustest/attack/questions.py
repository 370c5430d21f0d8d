"""A group's questions: merged into one for the classifier, less what is remembered, and its answers taken apart again."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustest.attack import kernels, together
from robustest.attack.games import Game
from robustest.attack.memory import Keys, Memories
from robustest.attack.record import rounded_to_eight_bit, state_keys
from robustest.attack.scorer import Scorer
from robustest.classifiers.classifier import Classifier, check_output, classes_of, comparable, margins_of
from robustest.classifiers.spec import Output
from robustest.compiled import fast, worked
from robustest.results import Edits, Margins, Scores

Ints = NDArray[np.int64]


class CleanScores:
    """The first scores of different clean images, checked to be what the classifier's output declares."""

    enough = 8

    def __init__(self, classifier: Classifier) -> None:
        self._info = classifier.info
        self._rows: dict[str, Scores] = {}
        self._labels: set[int] = set()

    def add(self, games: list[Game], scores: Scores) -> None:
        """Take in the scores of games that begin."""
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
class Asked:
    """A group's merged question on its way: what was sent, and how the answers find back.

    slots: (G,) of the games. bounds: (G + 1,) the rows of each among the N states asked. keys: (N,) of these states.
    known: (N,) their margins as far as remembered, NaN for the rest. places: rows that were sent, None for all.
    counts: (G,) how many of each game's states were sent. cut: games whose budget allowed only part of what was new.
    """

    games: list[Game]
    slots: Ints
    bounds: Ints
    keys: Keys
    known: Margins
    places: Ints | None
    counts: Ints
    cut: NDArray[np.bool_]
    sent: Edits
    scores: Future[Scores]


def ask(games: list[Game], memories: Memories, scorer: Scorer) -> Asked:
    """Merge the questions of a group, leave out what is remembered or beyond the budget, and send the rest."""
    games, merged = together.joined(games)
    if all(game.task.eight_bit for game in games):
        merged = replace(merged, values=rounded_to_eight_bit(merged.values))
    keys = state_keys(merged)
    slots = np.array([game.slot for game in games])
    left = np.array([game.record.left for game in games])
    sizes = [len(game.question) for game in games]
    bounds = _cumulated(np.array(sizes))
    known, fresh, unknown = memories.find(slots, bounds, keys, left)
    for game, size, new in zip(games, sizes, unknown.tolist(), strict=True):
        game.recall(size, new)
    counts = np.minimum(unknown, left)
    total = int(np.add.reduce(counts))
    places = None if total == len(keys) else np.flatnonzero(fresh)
    sent = merged if places is None else merged.take(places)
    worked(total)
    future = scorer.ask(np.repeat(slots, counts), sent) if total else _nothing()
    return Asked(games, slots, bounds, keys, known, places, counts, unknown > left, sent, future)


def _cumulated(sizes: Ints) -> Ints:
    bounds = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=bounds[1:])
    return bounds


def _nothing() -> Future[Scores]:
    future: Future[Scores] = Future()
    future.set_result(np.zeros((0, 2), np.float32))
    return future


def answer(
    classifier: Classifier, asked: Asked, memories: Memories, scores: Scores, clean: CleanScores
) -> tuple[list[Game], list[Game], float]:
    """Take in the scores of a merged question; return the games that go on, those that are over, and the searches' seconds."""
    output, games = classifier.info.output, asked.games
    margins, heard = _margins(asked, scores, output)
    bounds = _cumulated(asked.counts)
    starting = [number for number, game in enumerate(games) if game.search is None]
    if starting:
        rows = bounds[starting]
        clean.add([games[number] for number in starting], scores[rows])
        for number, predicted in zip(starting, classes_of(scores[rows], output).tolist(), strict=True):
            games[number].predicted = predicted
    known, sent_keys = asked.known, asked.keys
    if asked.places is None:
        known = margins
    else:
        known[asked.places] = margins
        sent_keys = sent_keys[asked.places]
        if heard is not None:
            sent, heard = heard, np.full((len(known), heard.shape[1]), np.nan)
            heard[asked.places] = sent
    lowest = memories.add(asked.slots, bounds, sent_keys, margins).tolist()
    cut: set[int] = set(np.flatnonzero(asked.cut).tolist())
    firsts, rows_of, began = bounds.tolist(), asked.bounds.tolist(), sum([game.seconds for game in games])
    going: list[Game] = []
    finished: list[Game] = []
    turning: list[tuple[Game, int]] = []
    for number, game in enumerate(games):
        start, stop = firsts[number], firsts[number + 1]
        if stop > start:
            game.record.learn(asked.sent, start, margins[start:stop], lowest[number])
        # A state beyond the budget ends the game, unless it was asked twice and so is known by now.
        own = slice(rows_of[number], rows_of[number + 1])
        answered = number not in cut or not game.record.memory.find(asked.keys[own], known[own])
        if answered and not isinstance(game.question, Edits):
            turning.append((game, rows_of[number]))
            continue
        game.task.notes.scores = None if heard is None else heard[own]
        goes_on = False
        if game.search is not None or game.attackable():
            goes_on = answered and game.advance(known[own])
        (going if goes_on else finished).append(game)
    together.heed(turning, known, heard, going, finished)
    return going, finished, sum([game.seconds for game in games]) - began


def _margins(asked: Asked, scores: Scores, output: Output) -> tuple[Margins, NDArray[np.float64] | None]:
    """Of the images sent: margins, and scores that can be compared; None where there are none, or only labels."""
    if not len(scores):
        return np.zeros(0), None
    labels = np.array([game.task.label for game in asked.games])
    targets = np.array([-1 if game.task.target is None else game.task.target for game in asked.games])
    heard = None if output == "label" else comparable(scores, output)
    if fast() and heard is not None:
        return kernels.margins_of(heard, asked.counts, labels, targets), heard
    return margins_of(scores, np.repeat(labels, asked.counts), np.repeat(targets, asked.counts), output), heard
