"""Raising a proven Linf radius: by optimised slopes, and by branching over ReLUs, for the time there is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.bounds.alpha import optimise
from robustest.bounds.branch import prove_region
from robustest.bounds.crown import margin_bounds
from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import Bound, Witness
from robustest.bounds.region import Region
from robustest.bounds.witness import Scorer, find_in_box, nearest_of, pull_back

_ASCENT = 16
"""Steps in which the slopes are optimised then."""
_STEP = 0.03
"""Relative step by which optimised slopes are asked to raise a radius at first."""


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
        """Raise a proven Linf radius by optimised slopes alone, in small steps: large ones seldom succeed."""
        begin = time.thread_time()
        point = torch.from_numpy(image).reshape(1, -1).double()
        assert lower is not None
        best, step = lower, _STEP
        while best.value > 0 and step >= _STEP / 8:
            left = seconds - (time.thread_time() - begin)
            radius = best.value * (1 + step)
            if left <= 0.05 or (upper is not None and radius >= upper.value):
                break
            region = Region.ball(point, "linf", radius, channels=self.graph.input_shape[2])
            if self._slopes_prove(region, label, left):
                best = self.bound(radius, "CROWN with optimised slopes", begin)
            else:
                step /= 2
        return best, upper

    def _slopes_prove(self, region: Region, label: int, seconds: float) -> bool:
        """Whether CROWN proves a region, with slopes optimised for the rivals that need it, intermediate ones too."""
        with torch.no_grad():
            plain = margin_bounds(self.graph, region, label, executed=self.executed)
        hard = plain.rivals[plain.lower <= 0]
        if len(hard) == 0:
            return True
        found = optimise(
            self.graph,
            region,
            torch.tensor([label]),
            rivals=hard[None],
            steps=_ASCENT,
            executed=self.executed,
            known=plain.intervals,
            seconds=seconds,
        )
        return bool(found.proved[0])

    def by_branching(
        self, image: NDArray[np.float32], label: int, lower: Bound | None, upper: Witness | None, seconds: float
    ) -> tuple[Bound | None, Witness | None]:
        """Raise a proven Linf radius by optimised slopes and branching over ReLUs, for the time there is."""
        begin = time.thread_time()
        point = torch.from_numpy(image).reshape(1, -1).double()
        rng = np.random.default_rng(0)
        assert lower is not None
        best, high = lower, upper.value if upper is not None else 1.0
        while True:
            left = seconds - (time.thread_time() - begin)
            if left <= 0.05 or best.value <= 0 or high - best.value <= 0.02 * high:
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
