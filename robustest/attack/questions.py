"""A group's questions: merged into one for the classifier, less what is remembered, and its answers taken apart again."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robustest.attack import kernels, together
from robustest.attack.books import Books
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

    turning, others: the games, which are asked in this order. slots: (G,) theirs.
    bounds: (G + 1,) the rows of each among the N states asked. keys: (N,) of these states.
    known: (N,) their margins as far as remembered, NaN for the rest. places: rows that were sent, None for all.
    counts: (G,) how many of each game's states were sent. cut: games whose budget allowed only part of what was new.
    """

    turning: list[together.Kind]
    others: list[Game]
    slots: Ints
    bounds: Ints
    keys: Keys
    known: Margins
    places: Ints | None
    counts: Ints
    cut: NDArray[np.bool_]
    sent: Edits
    scores: Future[Scores]

    @property
    def games(self) -> list[Game]:
        """All of them, in order."""
        return [*(game for _, own in self.turning for game in own), *self.others]


def ask(games: list[Game], memories: Memories, scorer: Scorer) -> Asked:
    """Merge the questions of a group, leave out what is remembered or beyond the budget, and send the rest."""
    eight_bit = all(game.task.eight_bit for game in games)
    turning, others, merged = together.joined(games)
    if eight_bit:
        merged = replace(merged, values=rounded_to_eight_bit(merged.values))
    keys = state_keys(merged)
    sizes = np.array([game.asking for _, own in turning for game in own] + [game.asking for game in others])
    slots = together.slots_of([*(game for _, own in turning for game in own), *others])
    left = memories.books.left(slots)
    bounds = _cumulated(sizes)
    known, fresh, unknown = memories.find(slots, bounds, keys, left)
    memories.books.recall(slots, sizes, unknown)
    counts = np.minimum(unknown, left)
    total = int(np.add.reduce(counts))
    places = None if total == len(keys) else np.flatnonzero(fresh)
    sent = merged if places is None else merged.take(places)
    worked(total)
    future = scorer.ask(np.repeat(slots, counts), sent) if total else _nothing()
    return Asked(turning, others, slots, bounds, keys, known, places, counts, unknown > left, sent, future)


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
    output, games, books = classifier.info.output, asked.games, memories.books
    margins, heard = _margins(asked, scores, output, books)
    bounds = _cumulated(asked.counts)
    first = len(games) - len(asked.others)
    starting = [number for number, game in enumerate(asked.others, first) if game.search is None]
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
    lowest = memories.add(asked.slots, bounds, sent_keys, margins)
    for number in np.flatnonzero(lowest < 0).tolist():
        first = int(bounds[number])
        games[number].improve(asked.sent, first, margins[first : bounds[number + 1]])
    books.hear(asked.slots, asked.counts, lowest)
    began = float(books.seconds[asked.slots].sum())
    # A state beyond the budget ends the game, unless it was asked twice and so is known by now.
    unanswered = set[Game]()
    for number in np.flatnonzero(asked.cut).tolist():
        own = slice(asked.bounds[number], asked.bounds[number + 1])
        if games[number].record.memory.find(asked.keys[own], known[own]):
            unanswered.add(games[number])
    turning, number = list[tuple[together.Kind, Ints]](), 0
    for kind, players in asked.turning:
        starts = asked.bounds[number : number + len(players)]
        number += len(players)
        if unanswered:
            on = [place for place, game in enumerate(players) if game not in unanswered]
            players, starts = [players[place] for place in on], starts[on]
        if players:
            turning.append(((kind, players), starts))
    finished, going = list(unanswered), list[Game]()
    for game in asked.others:
        own = slice(asked.bounds[number], asked.bounds[number + 1])
        number += 1
        game.task.notes.scores = None if heard is None else heard[own]
        if game in unanswered:
            continue
        goes_on = (game.search is not None or game.attackable()) and game.advance(known[own])
        (going if goes_on else finished).append(game)
    going, over = together.heed(turning, going, known, heard, books)
    return going, finished + over, float(books.seconds[asked.slots].sum()) - began


def _margins(asked: Asked, scores: Scores, output: Output, books: Books) -> tuple[Margins, NDArray[np.float64] | None]:
    """Of the images sent: margins, and scores that can be compared; None where there are none, or only labels."""
    if not len(scores):
        return np.zeros(0), None
    labels, targets = books.label[asked.slots], books.target[asked.slots]
    heard = None if output == "label" else comparable(scores, output)
    if fast() and heard is not None:
        return kernels.margins_of(heard, asked.counts, labels, targets), heard
    return margins_of(scores, np.repeat(labels, asked.counts), np.repeat(targets, asked.counts), output), heard
