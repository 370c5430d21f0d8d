"""A group's questions: merged into one for the classifier, less what is remembered, and its answers taken apart again."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

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

    turning: list[together.Circle]
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
        return [*(game for circle in self.turning for game in circle.games), *self.others]


def ask(games: list[Game], memories: Memories, scorer: Scorer) -> Asked:
    """Merge the questions of a group, leave out what is remembered or beyond the budget, and send the rest."""
    turning, others, slots, merged = together.joined(games)
    if all(game.task.eight_bit for game in games):
        merged = Edits(merged.pixels, rounded_to_eight_bit(merged.values), merged.offsets)
    keys = state_keys(merged)
    sizes = np.array(
        [game.asking for circle in turning for game in circle.games] + [game.asking for game in others], np.int64
    )
    left = memories.books.left(slots)
    bounds = _cumulated(sizes)
    known, fresh, unknown = memories.find(slots, bounds, keys, left)
    memories.books.recall(slots, sizes, unknown)
    counts = np.minimum(unknown, left)
    total = int(np.add.reduce(counts))
    places, own, sent = _unknown(merged, fresh, counts, slots)
    worked(total)
    future = scorer.ask(own, sent) if total else _nothing()
    return Asked(turning, others, slots, bounds, keys, known, places, counts, unknown > left, sent, future)


def _unknown(merged: Edits, fresh: NDArray[np.bool_], counts: Ints, slots: Ints) -> tuple[Ints | None, Ints, Edits]:
    """Of all states (N,) those to be sent: which, None for all; the slot of each; their edits."""
    if fast() and merged.values.flags.c_contiguous:
        edits = (merged.pixels, merged.values, merged.offsets)
        places, own, pixels, values, offsets = kernels.unknown_of(*edits, fresh, counts, slots)
        return (None if len(places) == len(fresh) else places), own, Edits(pixels, values, offsets)
    own = np.repeat(slots, counts)
    if len(own) == len(fresh):
        return None, own, merged
    places = np.flatnonzero(fresh)
    return places, own, merged.take(places)


def _cumulated(sizes: Ints) -> Ints:
    if fast():
        return kernels.bounds_of(sizes)
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
        sent_keys, heard = _scattered(asked, asked.places, margins, heard)
    lowest = memories.add(asked.slots, bounds, sent_keys, margins)
    for number in _flipping(asked, bounds, margins, lowest, books).tolist():
        first = int(bounds[number])
        games[number].improve(asked.sent, first, margins[first : bounds[number + 1]])
    books.hear(asked.slots, asked.counts, lowest)
    began = books.spent
    # A state beyond the budget ends the game, unless it was asked twice and so is known by now.
    unanswered = set[Game]()
    for number in np.flatnonzero(asked.cut).tolist():
        own = slice(asked.bounds[number], asked.bounds[number + 1])
        if games[number].record.memory.find(asked.keys[own], known[own]):
            unanswered.add(games[number])
    turning, number = list[tuple[together.Circle, Ints]](), 0
    for circle in asked.turning:
        starts = asked.bounds[number : number + len(circle.games)]
        number += len(circle.games)
        if unanswered:
            on = [place for place, game in enumerate(circle.games) if game not in unanswered]
            circle, starts = circle.keep(on), starts[on]
        if circle.games:
            turning.append((circle, starts))
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
    return going, finished + over, books.spent - began


def _scattered(
    asked: Asked, places: Ints, margins: Margins, heard: NDArray[np.float64] | None
) -> tuple[Keys, NDArray[np.float64] | None]:
    """Write the margins of the states that were sent to what is known of all; their keys, and the scores of all, NaN where not sent."""
    if fast() and heard is not None:
        return kernels.scattered(asked.known, asked.keys, places, margins, heard)
    asked.known[places] = margins
    if heard is not None:
        sent, heard = heard, np.full((len(asked.known), heard.shape[1]), np.nan)
        heard[places] = sent
    return asked.keys[places], heard


def _flipping(asked: Asked, bounds: Ints, margins: Margins, lowest: Margins, books: Books) -> Ints:
    """Games that flip; with compiled code less those whose best is nearer."""
    if fast():
        return kernels.flipping(margins, bounds, asked.sent.offsets, asked.slots, books.nearest)
    return np.flatnonzero(lowest < 0)


def _margins(asked: Asked, scores: Scores, output: Output, books: Books) -> tuple[Margins, NDArray[np.float64] | None]:
    """Of the images sent: margins, and scores that can be compared; None where there are none, or only labels."""
    if not len(scores):
        return np.zeros(0), None
    heard = None if output == "label" else comparable(scores, output)
    starting = any(game.search is None for game in asked.others)  # if there are such classes is checked then
    if fast() and heard is not None and not starting:
        return kernels.margins_of(heard, asked.counts, asked.slots, books.counts), heard
    labels, targets = books.label[asked.slots], books.target[asked.slots]
    return margins_of(scores, np.repeat(labels, asked.counts), np.repeat(targets, asked.counts), output), heard
