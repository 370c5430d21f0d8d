"""Time of one image, shared out among the steps that bound it."""

from __future__ import annotations

import time
from collections.abc import Sequence


class Clock:
    """Shares the time that is left among the steps that are still to come, by their weights.

    Args:
        end: this thread's CPU time at which all must be done. weights: of the steps, in their order.
    """

    def __init__(self, end: float, weights: Sequence[float]) -> None:
        self.end = end
        self.weights = list(weights)

    def next(self) -> float:
        """CPU time at which the next step should be done."""
        now = time.thread_time()
        share = max(0.0, self.end - now) * self.weights[0] / sum(self.weights)
        del self.weights[0]
        return now + share
