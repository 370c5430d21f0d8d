"""What is counted of the images in play, in arrays, so that a whole group is brought up to date at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

_STALE_QUESTIONS = 1000  # in a row answered from memory alone: a search that turns in a circle


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
    lowest: of the margins. seconds: of the search. label, target: class to be left, and to be reached or -1.
    """

    def __init__(self, slots: int) -> None:
        self.budget, self.queries, self.remembered, self.stale, self.reserve = np.zeros((5, slots), np.int64)
        self.label, self.target = np.zeros((2, slots), np.int64)
        self.lowest, self.seconds = np.full(slots, np.inf), np.zeros(slots)

    def clear(self, slot: int) -> None:
        """Begin anew with one image."""
        for counts in (self.queries, self.remembered, self.stale, self.reserve, self.seconds):
            counts[slot] = 0
        self.lowest[slot] = np.inf

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

    def go_on(self, slots: Ints, asked: Ints) -> NDArray[np.bool_]:
        """(G,) True where so many states may be asked and nothing need be checked before."""
        left, reserve = self.left(slots), self.reserve[slots]
        unhurried = (reserve == 0) | (left - asked >= reserve)
        return np.asarray(unhurried & (left > 0) & (self.stale[slots] < _STALE_QUESTIONS))

    def at_ease(self, slot: int, asked: int) -> bool:
        """`go_on` of one image."""
        left, reserve = int(self.budget[slot]) - int(self.queries[slot]), int(self.reserve[slot])
        unhurried = reserve == 0 or left - asked >= reserve
        return unhurried and left > 0 and int(self.stale[slot]) < _STALE_QUESTIONS

    def spend(self, slots: Ints, seconds: float) -> None:
        """Share the seconds of a call for several images (G,)."""
        self.seconds[slots] += seconds / len(slots)

    def totals(self, slot: int) -> Totals:
        """What was counted of one image, to be kept when its place is another's."""
        queries, remembered = int(self.queries[slot]), int(self.remembered[slot])
        return Totals(queries, remembered, float(self.lowest[slot]), float(self.seconds[slot]))
