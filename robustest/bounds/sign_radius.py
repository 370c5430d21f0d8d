"""The largest radius that patterns of signs prove in the time there is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from robustest.bounds.graph import BoundGraph
from robustest.bounds.region import Region
from robustest.bounds.sign_cells import CellMargins, cell_margins

_MOST, _LEAST = 1 << 18, 1 << 8
"""Patterns that one region may take at most, and those that are always allowed."""
_SPEED = 2000.0
"""Patterns a second, before any was timed."""
_SHARE = 0.35
"""Of the time left, what one region may take."""
_WIDTH = 0.02
"""Relative width of the bracket on the radius at which the search stops."""
_GROWTH = 6.0
"""Most that the next radius is of the largest proved."""


@dataclass(slots=True)
class SignRadius:
    """For one network and one image.

    graph: a network with signs. label: the class to be proved. executed: for the network as executed.
    """

    graph: BoundGraph
    label: int
    executed: bool = True
    speed: float = _SPEED

    def prove(self, region: Region, seconds: float) -> CellMargins | None:
        """Margins over one region, for about so many CPU seconds; None where that is not enough."""
        begin = time.thread_time()
        most = int(min(max(self.speed * seconds, _LEAST), _MOST))
        found = cell_margins(
            self.graph, region, self.label, most=most, executed=self.executed, deadline=begin + 2 * max(seconds, 0.1)
        )
        if found is not None and found.patterns > _LEAST:
            self.speed = max(found.patterns / max(time.thread_time() - begin, 1e-3) / 4, _SPEED / 8)
        return found

    def largest(self, ball: Callable[[float], Region], start: float, top: float, deadline: float) -> float:
        """Largest radius found whose ball is proved.

        The number of undecided signs grows with the radius, and patterns as its power of 2: so radii begin small, and the
        next is where the logarithm of the number of patterns would reach what the time allows.

        Args:
            ball: of a radius. start: the radius tried first. top: none from here on can be proved.
            deadline: of this thread's CPU time.
        """
        low, high, radius = 0.0, top, min(start, top / 2)
        while high - low > _WIDTH * high and high > 1e-12 and (left := deadline - time.thread_time()) > 0.05:
            found = self.prove(ball(radius), _SHARE * left)
            if found is None or not found.proved:
                high = radius
                radius = (low + high) / 2 if low > 0 else high / 4
                continue
            low = radius
            possible = math.log2(max(_SHARE * left * self.speed, _LEAST)) / (math.log2(found.patterns) + 1)
            radius = min(low * min(max(0.9 * possible, 1.1), _GROWTH), (low + high) / 2 if high < top else math.inf)
            radius = min(radius, (low + high) / 2)
        return low
