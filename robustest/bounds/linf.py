"""Raising a proven Linf radius: by cuts, optimised slopes and branching over ReLUs, for the time there is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.bounds.branch import prove_region
from robustest.bounds.crown import margin_bounds
from robustest.bounds.cuts import prove_by_cuts
from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import Bound, Scorer, Witness
from robustest.bounds.region import Region
from robustest.bounds.witness import find_in_box, nearest_of, pull_back

_ASCENT = 4
"""Steps in which the slopes are optimised on each corner."""
_STEP = 0.03
"""Relative step by which a radius is asked to rise at first."""
_EASY = 0.25
"""Share of the time for branching that goes to cuts before it."""
_CUTS, _CUTS_AND_SLOPES = "CROWN with cuts", "CROWN with cuts and optimised slopes"


@dataclass(frozen=True, slots=True)
class LinfRaiser:
    """For one network.

    graph, scorer, executed: as of a `Checker`. bound: makes a bound of a value, its method and when its work began.
    """

    graph: BoundGraph
    scorer: Scorer
    executed: bool
    bound: Callable[[float, str, float], Bound]

    def by_slopes(
        self, image: NDArray[np.float32], label: int, lower: Bound | None, upper: Witness | None, seconds: float
    ) -> tuple[Bound | None, Witness | None]:
        """Raise a proven Linf radius by cuts, then by cuts and optimised slopes, in small steps: large ones seldom succeed."""
        begin = time.thread_time()
        point = torch.from_numpy(image).reshape(1, -1).double()
        assert lower is not None
        best = lower
        for steps, step in ((0, _STEP), (_ASCENT, _STEP / 2)):
            how, least, cost = _CUTS if steps == 0 else _CUTS_AND_SLOPES, step / 4, 0.0
            while best.value > 0 and step >= least:
                now = time.thread_time()
                left = seconds - (now - begin)
                radius = best.value * (1 + step)
                # A try takes about as long as the one before it.
                if left <= max(0.05, cost) or (upper is not None and radius >= upper.value):
                    return best, upper
                region = Region.ball(point, "linf", radius, channels=self.graph.input_shape[2])
                if self._cuts_prove(region, label, steps, left):
                    best = self.bound(radius, how, begin)
                else:
                    step /= 2
                cost = time.thread_time() - now
        return best, upper

    def _cuts_prove(self, region: Region, label: int, steps: int, seconds: float) -> bool:
        """Whether CROWN proves a region, by contradiction where it does not at once and time is left."""
        end = time.thread_time() + seconds
        with torch.no_grad():
            plain = margin_bounds(self.graph, region, label, executed=self.executed, deadline=end)
        left = end - time.thread_time()
        return prove_by_cuts(self.graph, region, label, plain, steps=steps, executed=self.executed, seconds=left)

    def by_branching(
        self, image: NDArray[np.float32], label: int, lower: Bound | None, upper: Witness | None, seconds: float
    ) -> tuple[Bound | None, Witness | None]:
        """Raise a proven Linf radius by cuts, optimised slopes and branching over ReLUs, for the time there is."""
        begin = time.thread_time()
        point = torch.from_numpy(image).reshape(1, -1).double()
        rng = np.random.default_rng(0)
        assert lower is not None
        best, _ = self.by_slopes(image, label, lower, upper, _EASY * seconds)
        assert best is not None
        high = upper.value if upper is not None else 1.0
        while True:
            left = seconds - (time.thread_time() - begin)
            # One region's slopes take longer than the plain radius did: where that is all of what is left, none is begun.
            if left <= max(0.05, lower.seconds) or best.value <= 0 or high - best.value <= 0.02 * high:
                return best, upper
            middle = best.value + 0.4 * (high - best.value)
            region = Region.ball(point, "linf", middle, channels=self.graph.input_shape[2])

            def attack(starts: Tensor, region: Region = region) -> NDArray[np.float32] | None:
                return find_in_box(
                    self.graph,
                    self.scorer,
                    region.lower[0],
                    region.upper[0],
                    label,
                    rng=rng,
                    restarts=1,
                    steps=30,
                    starts=starts,
                )

            answer = prove_region(
                self.graph, region, label, seconds=min(left, seconds / 3), executed=self.executed, attack=attack
            )
            if answer.proved:
                how = "CROWN with optimised slopes" if answer.domains <= 1 else "branch and bound over ReLUs"
                best = self.bound(middle, how, begin)
            elif answer.witness is not None:
                upper = nearest_of(
                    upper, pull_back(self.scorer, image, label, answer.witness[None], "linf", "branch and bound")
                )
                high = upper.value if upper is not None else middle
            else:
                high = middle
