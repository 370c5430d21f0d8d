"""A group's questions: merged into one for the classifier, less what is remembered, and its answers taken apart again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustest.attack import kernels, together
from robustest.attack.books import Books
from robustest.attack.games import Game
from robustest.attack.memory import Keys, Memories
from robustest.attack.record import rounded_to_eight_bit, state_keys
from robustest.attack.scorer import Answer, Done, Scorer
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


class Asked(NamedTuple):
    """A group's merged question on its way: what was sent, and how the answers find back.

    turning, others: the games, which are asked in this order. slots: (G,) theirs.
    bounds: (G + 1,) the rows of each among the N states asked. keys: (N,) of these states.
    known: (N,) their margins as far as remembered, NaN for the rest. places: rows that were sent.
    counts: (G,) how many of each game's states were sent. cut: games whose budget allowed only part of what was new.
    """

    turning: list[together.Circle]
    others: list[Game]
    slots: Ints
    bounds: Ints
    keys: Keys
    known: Margins
    places: Ints
    counts: Ints
    cut: NDArray[np.bool_]
    sent: Edits
    scores: Answer

    @property
    def games(self) -> list[Game]:
        """All of them, in order."""
        return [game for own in (*(circle.games for circle in self.turning), self.others) for game in own]


def ask(games: list[Game], memories: Memories, scorer: Scorer) -> Asked:
    """Merge the questions of a group, leave out what is remembered or beyond the budget, and send the rest."""
    turning, others, slots, merged = together.joined(games)
    sizes = memories.books.asking[slots]
    eight_bit = all(game.task.eight_bit for game in games)
    look_up = _looked_up_at_once if fast() and merged.values.flags.c_contiguous else _looked_up
    keys, bounds, known, counts, cut, places, own, sent = look_up(merged, eight_bit, memories, slots, sizes)
    total = len(own)
    worked(total)
    future = scorer.ask(own, sent) if total else Done(np.zeros((0, 2), np.float32))
    return Asked(turning, others, slots, bounds, keys, known, places, counts, cut, sent, future)


LookedUp = tuple[Keys, Ints, Margins, Ints, NDArray[np.bool_], Ints, Ints, Edits]


def _looked_up(merged: Edits, eight_bit: bool, memories: Memories, slots: Ints, sizes: Ints) -> LookedUp:
    """See `Asked`: keys, bounds, what is known, counts and cut; places; the slot of each state that is sent; what is sent."""
    if eight_bit:
        merged = Edits(merged.pixels, rounded_to_eight_bit(merged.values), merged.offsets)
    keys, bounds = state_keys(merged), _cumulated(sizes)
    left = memories.books.left(slots)
    known, fresh, unknown = memories.find(slots, bounds, keys, left)
    memories.books.recall(slots, sizes, unknown)
    counts = np.minimum(unknown, left)
    places, own = np.flatnonzero(fresh), np.repeat(slots, counts)
    sent = merged if len(places) == len(fresh) else merged.take(places)
    return keys, bounds, known, counts, unknown > left, places, own, sent


def _looked_up_at_once(merged: Edits, eight_bit: bool, memories: Memories, slots: Ints, sizes: Ints) -> LookedUp:
    """The same in one compiled call."""
    edits = (merged.pixels, merged.values, merged.offsets)
    keys, bounds, known, counts, cut, places, own, *sent = kernels.looked_up(
        *edits, eight_bit, *memories.tables(), memories.books.counts, slots, sizes
    )
    return keys, bounds, known, counts, cut, places, own, Edits(*sent)


def _cumulated(sizes: Ints) -> Ints:
    bounds = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=bounds[1:])
    return bounds


def answer(
    classifier: Classifier, asked: Asked, memories: Memories, scores: Scores, clean: CleanScores
) -> tuple[list[Game], list[Game], float]:
    """Take in the scores of a merged question; return the games that go on, those that are over, and the searches' seconds."""
    output, books = classifier.info.output, memories.books
    _begin(asked, scores, output, clean, books)
    take_in = _taken_in_at_once if fast() and output != "label" and len(scores) else _taken_in
    margins, bounds, known, heard, flipping = take_in(asked, scores, output, memories)
    games = asked.games if len(flipping) or np.logical_or.reduce(asked.cut) else []
    for number in flipping.tolist():
        first = int(bounds[number])
        games[number].improve(asked.sent, first, margins[first : bounds[number + 1]])
    began = books.spent
    # A state beyond the budget ends the game, unless it was asked twice and so is known by now.
    unanswered = set[Game]()
    for number in np.flatnonzero(asked.cut).tolist() if games else ():
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
    going, over = together.heed(turning, going, known, heard, asked.slots, books)
    return going, finished + over, books.spent - began


def _begin(asked: Asked, scores: Scores, output: Output, clean: CleanScores, books: Books) -> None:
    """Check the scores of the unchanged images of games that begin, and tell these their classes."""
    first = len(asked.slots) - len(asked.others)
    numbers = [number for number, game in enumerate(asked.others, first) if game.search is None]
    if not numbers:
        return
    games, slots = [asked.others[number - first] for number in numbers], asked.slots[numbers]
    answers = scores[np.cumsum(asked.counts)[numbers] - 1]  # each asked about one image
    margins_of(answers, books.label[slots], books.target[slots], output)  # raises where there is no such class
    clean.add(games, answers)
    for game, predicted in zip(games, classes_of(answers, output).tolist(), strict=True):
        game.predicted = predicted


TakenIn = tuple[Margins, Ints, Margins, NDArray[np.float64] | None, Ints]


def _taken_in(asked: Asked, scores: Scores, output: Output, memories: Memories) -> TakenIn:
    """Remember and count the scores of the states that were sent.

    Returns:
        Their margins, and the bounds of each game's; margins and comparable scores of all states asked, NaN of those not
        sent, None where there are no scores, or only labels; games that flip.
    """
    books, bounds = memories.books, _cumulated(asked.counts)
    margins, heard = np.zeros(0), None
    if len(scores):
        heard = None if output == "label" else comparable(scores, output)
        labels, targets = books.label[asked.slots], books.target[asked.slots]
        margins = margins_of(scores, np.repeat(labels, asked.counts), np.repeat(targets, asked.counts), output)
    known, sent_keys = asked.known, asked.keys
    if len(asked.places) < len(known):
        known[asked.places], sent_keys = margins, sent_keys[asked.places]
        if heard is not None:
            sent, heard = heard, np.full((len(known), heard.shape[1]), np.nan)
            heard[asked.places] = sent
    else:
        known = margins
    lowest = memories.add(asked.slots, bounds, sent_keys, margins)
    books.hear(asked.slots, asked.counts, lowest)
    return margins, bounds, known, heard, np.flatnonzero(lowest < 0)


def _taken_in_at_once(asked: Asked, scores: Scores, output: Output, memories: Memories) -> TakenIn:
    """The same in one compiled call, less the games whose best is nearer than what flips."""
    books, slots, counts = memories.books, asked.slots, asked.counts
    table = memories.tables(slots, counts)
    sent = (comparable(scores, output), asked.keys, asked.known, asked.places, asked.sent.offsets)
    return kernels.taken_in(*sent, *table, memories.entries, slots, counts, books.counts, books.lowest, books.nearest)
