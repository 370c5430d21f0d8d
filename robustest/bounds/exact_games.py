"""The games' lower bounds on small regions: best-first search with a proven constant as its admissible bound.

* `exact_grid_value`: the cooperative pixel game by A*, to the distance of the nearest misclassified *grid* image (the
  finite maximum safe radius, FMSR); what the constant excludes is never asked about.
* `safe_radius`: the maximum safe radius itself, between grid points too: cells of the region are taken in the order of
  their distance from the image, dropped where a margin certifies them, split elsewhere. The distance of the nearest
  cell left is a lower bound at any time.
* `feature_robustness`: how far the most robust feature must be changed, from the safe radius of each.
* `exhaustive_sparse`: S7, all sets of few pixels with values from a list: proves that list harmless, nothing more.

Source: Wu et al., TCS 2020, arXiv:1807.03571. Departure: their heuristic (proportional to the gap of two scores) is not
admissible; a constant that was proved is.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from games.a_star import best_first
from games.game import Evaluation
from games.search import Stop, Stopping, Watch
from robustest.attack.pixel_game import PixelGame, Turn
from robustest.bounds.grid_region import ORDER, UP, GridConstants, GridNorm, GridRegion
from robustest.bounds.guarantee import Guarantee, Scorer
from robustest.bounds.taugrid import TauGrid
from robustest.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class RadiusBracket:
    """`[lower, upper]` on a distance within a region, each end None where nothing was shown.

    lower: no misclassified image (of those asked about) is nearer; infinite where the whole region is safe.
    upper: distance of `witness` (H, W, C), misclassified when scored. queries: images scored.
    guarantee: of the lower end. subject: which images and which scores it is about.
    """

    lower: float | None
    upper: float | None
    witness: NDArray[np.float32] | None
    queries: int
    guarantee: Guarantee
    subject: str

    @property
    def exact(self) -> bool:
        """Whether the ends meet."""
        return self.lower is not None and self.lower == self.upper


def margin_constant(constants: GridConstants, norm: str, *, channels: int, dims: NDArray[np.int64]) -> float:
    """How fast the least margin can fall per unit of a norm; for `l0` and `l0_dims` by one pixel or dimension.

    Args:
        constants: per free dimension, or in this same norm.
        norm: of the game. channels: of the image. dims: the free dimensions that the constants are about.
    """
    if constants.norm is not None:
        if constants.norm != norm:
            raise InvalidSetting(f"constants are in {constants.norm}; a game in {norm} needs them in its own norm.")
        return float(constants.rate.max()) * UP
    rate = constants.rate
    if norm == "l0":
        owner = np.unique(dims // channels, return_inverse=True)[1]
        sums = np.stack([np.bincount(owner, row) for row in rate])
        return float(sums.max()) * UP
    if norm in ("l1", "l0_dims"):
        return float(rate.max()) * UP
    return float(np.linalg.norm(rate, ord=2 if norm == "l2" else 1, axis=1).max()) * UP


def exact_grid_value(
    game: PixelGame,
    constants: GridConstants,
    region: GridRegion,
    scorer: Scorer,
    label: int,
    *,
    queries: int = 100_000,
    batch: int = 64,
) -> RadiusBracket:
    """Distance of the nearest misclassified image of a pixel game's grid, by A*.

    Args:
        game: on the region's image; all its features' pixels must lie in the region.
        constants: proven over the region, for the scores that `scorer` gives.
        region: its free dimensions hold those of the game.
        scorer: the classifier itself. label: the class to be kept.
        queries: images to score at most. batch: scored at once.
    """
    channels, norm = region.image.shape[2], game.rules.norm
    used = np.unique(np.concatenate(game.features.pixels))
    dims = (used[:, None] * channels + np.arange(channels)).ravel()
    if not np.isin(dims, region.dims).all() or (region.lower > 0).any() or (region.upper < 1).any():
        raise InvalidSetting("the region must hold every pixel of the game's features, with all values in [0, 1].")
    constant = margin_constant(constants, norm, channels=channels, dims=region.dims)
    admissible = game.lipschitz_bound(max(constant, 1e-300))
    slack = float(constants.slack.max())

    def bound(state: Turn, evaluation: Evaluation) -> float:
        # What execution may add to a margin is taken off before the constant is applied to it.
        return admissible(state, replace(evaluation, score=max(evaluation.score - slack, 0.0)))

    search = best_first(game, bound=bound, batch=batch, watch=Watch(stopping=Stopping(queries=queries)))
    try:
        question = next(search)
        while True:
            images = game.edits(question).apply(region.image)
            scores = np.asarray(scorer(images), dtype=np.float64)
            margins = (scores[:, [label]] - scores[:, constants.rivals]).min(axis=1)
            question = search.send([game.judge(s, float(m)) for s, m in zip(question, margins, strict=True)])
    except StopIteration as end:
        result = end.value
    witness = None
    if result.best is not None:
        witness = game.edits([result.best.state]).apply(region.image)[0]
    lower = game.severity_of(result.upper)
    subject = "Images of the game's grid alone, not those between its points."
    if result.stop is Stop.SOLVED and lower is None:
        lower = math.inf  # nothing on the grid within the game's radius
        subject += f" None within {game.rules.radius:g}."
    upper = None if result.best is None else game.severity_of(result.best.payoff)
    return RadiusBracket(lower, upper, witness, result.queries, constants.guarantee, subject)


def safe_radius(
    grid: TauGrid, *, norm: GridNorm = "l2", queries: int = 100_000, tolerance: float = 0.01
) -> RadiusBracket:
    """The maximum safe radius within a region of few dimensions, to a relative `tolerance` or as far as queries go.

    Args:
        grid: region, constants and classifier. norm: of the radius; any constants will do.
        queries: images to score at most. tolerance: stop once lower >= (1 - tolerance) * upper, in [0, 1).
    """
    region, constants = grid.region, grid.constants
    own, order = region.own.astype(np.float64), ORDER[norm]
    says = (
        f"Only the {len(region.dims)} free dimensions of the region change; scores are the classifier's {grid.scores}."
    )

    def nearest(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
        gap = np.maximum(np.maximum(low - own, own - high), 0.0)
        return float(np.linalg.norm(gap, ord=order)) / UP

    tick = itertools.count(1)
    root = region.lower.astype(np.float64), region.upper.astype(np.float64)
    heap = [(0.0, 0, *root)]
    best, witness, asked, floor = math.inf, None, 0, math.inf
    while heap and heap[0][0] < (1 - tolerance) * best and asked < queries:
        count = min(grid.batch, len(heap), queries - asked)
        taken = [heapq.heappop(heap) for _ in range(count)]
        points = np.stack([(low + high) / 2 for _, _, low, high in taken]).astype(np.float32)
        margins = grid.margins(points)
        asked += len(taken)
        for (_, _, low, high), point, margin in zip(taken, points, margins, strict=True):
            at = point.astype(np.float64)
            away = float(np.linalg.norm(at - own, ord=order)) * UP
            if (margin < 0).any() and away < best:
                best, witness = away, grid.region.render(point[None])[0]
            half = np.maximum(np.maximum(at - low, high - at), 0.0)
            if (margin > constants.loss(half[None])[0]).all():
                continue
            side = int((high - low).argmax())
            middle = (low[side] + high[side]) / 2
            if not low[side] < middle < high[side]:
                floor = min(floor, nearest(low, high))  # too thin to halve: the lower bound stays below it
                continue
            below, above = high.copy(), low.copy()
            below[side] = above[side] = middle
            heapq.heappush(heap, (nearest(low, below), next(tick), low, below))
            heapq.heappush(heap, (nearest(above, high), next(tick), above, high))
    lower = min(heap[0][0] if heap else best, best, floor)
    return RadiusBracket(lower, _finite(best), witness, asked, constants.guarantee, says)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class FeatureRobustness:
    """How far the most robust feature must be changed to change the class.

    features: of each its safe radius. lower, upper: of the largest; upper None where some feature is not known to
    change the class at all, lower infinite where one is proved not to.
    """

    features: tuple[RadiusBracket, ...]
    lower: float | None
    upper: float | None


def feature_robustness(grids: Sequence[TauGrid], *, norm: GridNorm = "l2", queries: int = 100_000) -> FeatureRobustness:
    """The competitive game's value, bracketed: the largest over features of the safe radius within each.

    Args:
        grids: one for each feature. norm: of the radii. queries: for each feature.
    """
    found = tuple(safe_radius(grid, norm=norm, queries=queries) for grid in grids)
    lowers = [f.lower for f in found if f.lower is not None]
    uppers = [f.upper for f in found]
    known = [u for u in uppers if u is not None]
    return FeatureRobustness(found, max(lowers, default=None), max(known) if len(known) == len(uppers) else None)


def sets_to_try(places: int, units: int, values: int) -> int:
    """`sum_j C(places, j) values^j` for j = 1 .. units: images that `exhaustive_sparse` scores at most."""
    return sum(math.comb(places, j) * values**j for j in range(1, units + 1))


def exhaustive_sparse(
    scorer: Scorer,
    image: NDArray[np.float32],
    label: int,
    units: int,
    colours: NDArray[np.float32],
    *,
    most: int = 2_000_000,
    batch: int = 1024,
) -> RadiusBracket:
    """Try every image with at most `units` pixels changed to one of `colours` (V, C), fewest pixels first: S7.

    Raises:
        InvalidSetting: that would be more than `most` images; the message says how many.
    """
    height, width, channels = image.shape
    count = sets_to_try(height * width, units, len(colours))
    if count > most:
        raise InvalidSetting(f"units = {units} with {len(colours)} colours takes {count:,} images; most = {most:,}.")
    subject = f"Images with pixels set to one of {len(colours)} given colours alone."
    asked = 0
    for size in range(1, units + 1):
        plays = (
            (places, chosen)
            for places in itertools.combinations(range(height * width), size)
            for chosen in itertools.product(range(len(colours)), repeat=size)
        )
        while part := list(itertools.islice(plays, batch)):
            states = np.repeat(image.reshape(1, -1, channels), len(part), axis=0)
            rows = np.arange(len(part))[:, None]
            states[rows, [p for p, _ in part]] = colours[[c for _, c in part]]
            classes = np.asarray(scorer(states.reshape(-1, *image.shape))).argmax(axis=1)
            asked += len(part)
            wrong = np.flatnonzero(classes != label)
            if len(wrong):
                witness = states[wrong[0]].reshape(image.shape)
                return RadiusBracket(float(size), float(size), witness, asked, Guarantee.PROOF_EXEC, subject)
    return RadiusBracket(float(units + 1), None, None, asked, Guarantee.PROOF_EXEC, subject)
