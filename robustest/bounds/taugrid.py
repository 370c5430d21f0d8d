"""The tau-grid: proofs for regions of few free dimensions from scores at grid points and a Lipschitz constant.

Every point of a box lies within half a cell of the grid whose steps are tau, bounds included. If at every grid point
each margin exceeds what it can lose over half a cell, no image of the box is misclassified (S2); and with F the distance
of the nearest misclassified grid point, the maximum safe radius lies in [F - rho, F] (S3). Any finite set of cells that
covers the box will do as well (S4): `cover` splits cells only where scores ask for it, and takes images that a game has
already scored as cell centres. Only the free dimensions count (S6); with a target only its margin does (S5).

Sources: Wicker, Huang & Kwiatkowska, TACAS 2018, arXiv:1710.07859; Wu et al., TCS 2020, arXiv:1807.03571. Departures:
the published theorem takes L1 balls of radius tau/2, which do not cover a cell of more than one dimension, and a
smallest confidence gap that is 0 for any continuous network; here cells are covered, margins are pairwise, and the
grid's rim is subtracted. Numpy alone; asks a scorer, and knows nothing of networks: see
`grid_constants`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.bounds.decision import Decision
from robustest.bounds.grid_region import ORDER, UP, GridConstants, GridRegion
from robustest.bounds.guarantee import Bound, Guarantee, Scorer
from robustest.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class GridPlan:
    """What a uniform grid would take, to be read before it is run.

    tau: step. points: grid points in all, bounds included. half: (m,) half-cells.
    """

    tau: float
    points: int
    half: NDArray[np.float64]

    def sentence(self, *, scores: str) -> str:
        """The plan in words; `scores` names what the classifier gives."""
        size = f"{self.points:,}" if self.points < 10**15 else f"10^{math.log10(self.points):.0f}"
        return f"tau = {self.tau:.4g} in {len(self.half)} dimensions: {size} grid points to score ({scores})."


@dataclass(frozen=True, slots=True)
class Cover:
    """What a grid or a cover came to.

    witness: (H, W, C) a misclassified image, as scored; or None.
    lower, upper: S3's bracket on the distance, in the constants' norm, within the region; None where not shown.
    queries: images scored. reused: points taken from those given. cells: certified. open: left undecided.
    certified: share of the region's volume in certified cells: progress, not proof.
    """

    decision: Decision
    witness: NDArray[np.float32] | None
    lower: float | None
    upper: float | None
    queries: int
    reused: int
    cells: int
    open: int
    certified: float
    guarantee: Guarantee
    method: str
    assumptions: tuple[str, ...]

    def bound(self, radius: float, *, free: int, seconds: float = 0.0) -> Bound | None:
        """What a proof of the images within `radius` says of the distance, for the `free` dimensions alone."""
        if self.decision is not Decision.PROVED:
            return None
        only = f"Only the {free} free dimensions of the region change."
        return Bound(radius, self.guarantee, self.method, (*self.assumptions, only), seconds=seconds)

    def sentence(self) -> str:
        """The result in words, with what it rests on."""
        if self.decision is Decision.PROVED:
            given = " given the supplied Lipschitz constant" if self.guarantee is Guarantee.PROOF_GIVEN_L else ""
            return f"Proved{given}: no adversarial example in this region ({self.cells} cells, {self.queries} queries)."
        if self.decision is Decision.FALSIFIED:
            return f"An adversarial example was found in this region ({self.queries} queries)."
        return (
            f"Undecided, {self.open} cells left; {self.certified:.1%} of the volume is certified: progress, not proof."
        )


class TauGrid:
    """Grids and covers of one region for one classifier."""

    def __init__(
        self,
        region: GridRegion,
        constants: GridConstants,
        scorer: Scorer,
        *,
        label: int,
        scores: str = "logits",
        batch: int = 256,
    ) -> None:
        """Prepare a region.

        Args:
            region: images with few free dimensions.
            constants: of the margins of `label`; with one rival only, that is the target.
            scorer: the classifier itself; constants speak of the scores that it gives.
            label: the class to be kept.
            scores: what those are, in a word: logits or probabilities.
            batch: images scored at once.
        """
        if constants.norm is None and constants.rate.shape[1] != len(region.dims):
            raise InvalidSetting(
                f"constants must have a rate for each of the {len(region.dims)} free dimensions; got {constants.rate.shape[1]}."
            )
        self.region, self.constants, self.scorer = region, constants, scorer
        self.label, self.scores, self.batch = label, scores, batch

    def margins(self, points: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, Q) executed margins of points (N, m) of the region."""
        scores = np.asarray(self.scorer(self.region.render(points)), dtype=np.float64)
        return scores[:, [self.label]] - scores[:, self.constants.rivals]

    def axes(self, tau: float) -> list[NDArray[np.float32]]:
        """Per free dimension its grid values: steps of tau from the image's own, and both bounds."""
        if not tau > 0:
            raise InvalidSetting(f"tau must be > 0; got {tau}. 1 reaches the bounds alone.")
        found = []
        for own, low, high in zip(self.region.own, self.region.lower, self.region.upper, strict=True):
            down = math.floor((float(own) - float(low)) / tau)
            up = math.floor((float(high) - float(own)) / tau)
            steps = (float(own) + tau * np.arange(-down, up + 1)).astype(np.float32)
            found.append(np.unique(np.clip(np.concatenate([[low], steps, [high]]), low, high).astype(np.float32)))
        return found

    def plan(self, tau: float) -> GridPlan:
        """How many points a step of tau takes, counted without listing them."""
        if not tau > 0:
            raise InvalidSetting(f"tau must be > 0; got {tau}. 1 reaches the bounds alone.")
        counts, half = [], []
        for own, low, high in zip(self.region.own, self.region.lower, self.region.upper, strict=True):
            widths = (float(own) - float(low), float(high) - float(own))
            counts.append(1 + sum(math.ceil(w / tau) for w in widths))
            half.append(min(tau, max(widths)) / 2)
        return GridPlan(tau, math.prod(counts), np.array(half))

    def required_tau(self) -> float:
        """Largest step at which the image's own margin would be enough: a grid must be at least as fine. One query."""
        margins = self.margins(self.region.own[None])[0]
        rate = self.constants.rate
        if self.constants.norm is None:
            per_step = rate.sum(axis=1) / 2
        else:
            order = ORDER[self.constants.norm]
            per_step = rate[:, 0] * (1.0 if order == math.inf else len(self.region.dims) ** (1 / order)) / 2
        return max(0.0, float(((margins - self.constants.slack) / np.maximum(per_step, 1e-300)).min()))

    def announcement(self, tau: float | None = None) -> str:
        """What is to be read before a uniform grid is run: the required step, and the points of `tau` (or of that step)."""
        required = self.required_tau()
        if required <= 0:
            return "The image's own margin is not enough for any grid: no step is small enough."
        plan = self.plan(min(required, 1.0) if tau is None else tau)
        return f"A grid needs tau <= {required:.4g} at the image itself. {plan.sentence(scores=self.scores)}"

    def uniform(self, tau: float, *, most: int = 1_000_000) -> Cover:
        """Score the whole grid: S2 for the box, S3 for the distance.

        Raises:
            InvalidSetting: the grid has more than `most` points; the message says how many.
        """
        plan = self.plan(tau)
        if plan.points > most:
            raise InvalidSetting(
                f"tau = {tau:g}: {plan.sentence(scores=self.scores)} That is more than most = {most:,}. Free fewer "
                "dimensions, take a larger tau, or use the adaptive cover."
            )
        axes = self.axes(tau)
        half = np.array([np.diff(a.astype(np.float64)).max(initial=0.0) / 2 for a in axes])
        loss = self.constants.loss(half[None])[0]
        order = ORDER[self.constants.norm or "linf"]
        rho = float(np.linalg.norm(half, ord=order)) * UP
        queries, weak_at, nearest, witness = 0, math.inf, math.inf, None
        weak = 0
        for points in _chunks(axes, self.batch):
            margins = self.margins(points)
            queries += len(points)
            away = np.linalg.norm(points.astype(np.float64) - self.region.own, ord=order, axis=1)
            wrong = (margins < 0).any(axis=1)
            failing = ~wrong & ~(margins > loss).all(axis=1)
            weak += int(failing.sum())
            weak_at = min(weak_at, float(away[failing].min(initial=math.inf)))
            if wrong.any() and away[wrong].min() < nearest:
                first = int(np.flatnonzero(wrong)[away[wrong].argmin()])
                nearest, witness = float(away[first]), self.region.render(points[[first]])[0]
        sure = weak_at >= nearest
        if witness is not None:
            lower = max(0.0, nearest / UP - rho) if sure else None
            return self.result(Decision.FALSIFIED, witness, lower, nearest, queries, 0, queries - weak, weak)
        decision = Decision.PROVED if weak == 0 else Decision.OPEN
        return self.result(decision, None, None, None, queries, 0, queries - weak, weak)

    def result(
        self,
        decision: Decision,
        witness: NDArray[np.float32] | None,
        lower: float | None,
        upper: float | None,
        queries: int,
        reused: int,
        cells: int,
        left: int,
        certified: float | None = None,
    ) -> Cover:
        """A result that says what it rests on."""
        share = cells / max(queries, 1) if certified is None else certified
        share = 1.0 if decision is Decision.PROVED else share
        kept = self.constants
        says = (*kept.assumptions, f"The scores bounded are the classifier's {self.scores}.")
        return Cover(
            decision, witness, lower, upper, queries, reused, cells, left, share, kept.guarantee, kept.method, says
        )


def _chunks(axes: list[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """The points of a grid, `size` at a time."""
    points = itertools.product(*axes)
    while part := list(itertools.islice(points, size)):
        yield np.array(part, dtype=np.float32)
