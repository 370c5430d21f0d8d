"""What is counted of the images in play, in arrays, so that a whole group is brought up to date at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustest.attack import kernels
from robustest.compiled import fast

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

STALE_QUESTIONS = 1000  # in a row answered from memory alone: a search that turns in a circle


class Totals(NamedTuple):
    """One image's counts when its game is over; see `Books`."""

    queries: int
    remembered: int
    lowest: float
    seconds: float


class Books:
    """Counts of S images, (S,) each, by the image's slot.

    budget: queries allowed, the clean image's included. queries: sent. remembered: states answered from memory.
    stale: questions in a row that were. reserve: queries left below which the best image must be checked, 0 for never.
    label, target: class to be left, and to be reached or -1. counts: (7, S) all of these, in this order.
    asking: states that the question waiting asks about. lowest: of the margins. nearest: distance of the best image where that is its number of edits, inf where it is not, or there is none.
    seconds: of the search. spent: seconds of all images that ever were in play.
    """

    def __init__(self, slots: int) -> None:
        self.counts: Ints = np.zeros((7, slots), np.int64)  # in the order of `kernels.BUDGET` to `TARGET`
        self.budget, self.queries, self.remembered, self.stale, self.reserve, self.label, self.target = self.counts
        self.asking = np.ones(slots, np.int64)
        self.lowest, self.nearest, self.seconds = np.full(slots, np.inf), np.full(slots, np.inf), np.zeros(slots)
        self.spent = 0.0

    def clear(self, slot: int) -> None:
        """Begin anew with one image."""
        for counts in (self.queries, self.remembered, self.stale, self.reserve, self.seconds):
            counts[slot] = 0
        self.asking[slot] = 1  # about the unchanged image
        self.lowest[slot] = self.nearest[slot] = np.inf

    def left(self, slots: Ints) -> Ints:
        """(G,) queries not yet spent."""
        return np.asarray(self.budget[slots] - self.queries[slots], np.int64)

    def recall(self, slots: Ints, asked: Ints, unknown: Ints) -> None:
        """Count the states asked of each image (G,), of which so many were not remembered."""
        self.remembered[slots] += asked - unknown
        self.stale[slots] = np.where(unknown > 0, 0, self.stale[slots] + 1)

    def hear(self, slots: Ints, sent: Ints, lowest: Doubles) -> None:
        """Count the queries that were sent of each image (G,), and keep the lowest of their margins."""
        self.queries[slots] += sent
        self.lowest[slots] = np.minimum(self.lowest[slots], lowest)

    def go_on(self, slots: Ints) -> NDArray[np.bool_]:
        """(G,) True where the question waiting asks about any state, and may be asked before the best must be checked."""
        if fast():
            return kernels.go_on(self.counts, self.asking, slots, STALE_QUESTIONS)
        asked = self.asking[slots]
        left, reserve = self.left(slots), self.reserve[slots]
        unhurried = (reserve == 0) | (left - asked >= reserve)
        return np.asarray((asked > 0) & unhurried & (left > 0) & (self.stale[slots] < STALE_QUESTIONS))

    def at_ease(self, slot: int) -> bool:
        """`go_on` of one image, whose question asks about some state."""
        asked = int(self.asking[slot])
        left, reserve = int(self.budget[slot]) - int(self.queries[slot]), int(self.reserve[slot])
        unhurried = reserve == 0 or left - asked >= reserve
        return unhurried and left > 0 and int(self.stale[slot]) < STALE_QUESTIONS

    def spend(self, slots: Ints, seconds: float) -> None:
        """Share the seconds of a call for several images (G,)."""
        self.seconds[slots] += seconds / len(slots)
        self.spent += seconds

    def spend_one(self, slot: int, seconds: float) -> None:
        """Count the seconds of a call for one image."""
        self.seconds[slot] += seconds
        self.spent += seconds

    def totals(self, slot: int) -> Totals:
        """What was counted of one image, to be kept when its place is another's."""
        queries, remembered = int(self.queries[slot]), int(self.remembered[slot])
        return Totals(queries, remembered, float(self.lowest[slot]), float(self.seconds[slot]))
