"""What may be said of a rate: exact intervals, survival bounds, paired comparison, and whether a claim can be shown at all.

Sources: Clopper & Pearson, Biometrika 26 (1934), by the quantiles of the beta distribution; McNemar, Psychometrika 12
(1947), in its exact binomial form. Knows nothing of images or attacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.errors import InvalidSetting

CONFIDENCE = 0.95
_MOST_POINTS = 400  # of a survival curve over a continuous distance


@dataclass(frozen=True, slots=True)
class Share:
    """A count out of a total, with its interval; `share` is None where the total is 0.

    count: how many. of: out of how many. low, high: the interval at `confidence`, in [0, 1].
    """

    count: int
    of: int
    low: float
    high: float
    confidence: float = CONFIDENCE

    @property
    def share(self) -> float | None:
        """count / of, or None of nothing."""
        return self.count / self.of if self.of else None


@dataclass(frozen=True, slots=True)
class SurvivalPoint:
    """How many of the tested images survive this attack when it may go as far as `distance`.

    flipped: images flipped at or below the distance. unknown: images not decided. of: images tested.
    low, high: the interval of the share that survives, unknown counted as flipped below and as survived above.
    """

    distance: float
    flipped: int
    unknown: int
    of: int
    low: float
    high: float

    @property
    def survived(self) -> int:
        """Images known not to be flipped by this attack within the distance."""
        return self.of - self.flipped - self.unknown

    @property
    def share(self) -> float:
        """Share that survives, unknown counted as flipped."""
        return self.survived / self.of


@dataclass(frozen=True, slots=True)
class Median:
    """Distance by which half of the tested images are flipped; None means above all distances that were found.

    value: unknown images counted as not flipped. low, high: where the median of the population may lie at 95 %,
    unknown counted against the claim on both sides.
    """

    value: float | None
    low: float | None
    high: float | None


def clopper_pearson(count: int, of: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact two-sided interval of a proportion.

    Args:
        count: successes, 0 <= count <= of. of: trials; with none, the interval is [0, 1].
        confidence: of the two-sided interval, in (0, 1).
    """
    from scipy.special import betaincinv

    if not 0 <= count <= of:
        raise InvalidSetting(f"count must be between 0 and {of}, the number of trials; got {count}.")
    if not 0 < confidence < 1:
        raise InvalidSetting(f"confidence must be in (0, 1); got {confidence!r}. Try 0.95.")
    tail = (1 - confidence) / 2
    low = float(betaincinv(count, of - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, of - count, 1 - tail)) if count < of else 1.0
    return low, high


def share_of(count: int, of: int, *, confidence: float = CONFIDENCE) -> Share:
    """A count with its Clopper-Pearson interval."""
    low, high = clopper_pearson(count, of, confidence=confidence)
    return Share(count, of, low, high, confidence)


def survival_at(
    distances: NDArray[np.float64], distance: float, tested: int, unknown: int, *, confidence: float = CONFIDENCE
) -> SurvivalPoint:
    """The point of the survival curve at one distance.

    Args:
        distances: (F,) of the flipped images, in any order.
        distance: the radius asked about. tested: images attacked, > 0. unknown: how many of them were not decided.
    """
    flipped = int((distances <= distance).sum())
    low = clopper_pearson(tested - flipped - unknown, tested, confidence=confidence)[0]
    high = clopper_pearson(tested - flipped, tested, confidence=confidence)[1]
    return SurvivalPoint(float(distance), flipped, unknown, tested, low, high)


def survival_curve(
    distances: NDArray[np.float64], tested: int, unknown: int, *, whole: bool, confidence: float = CONFIDENCE
) -> tuple[SurvivalPoint, ...]:
    """The share of images that survive, at every distance where it changes.

    Args:
        distances: (F,) of the flipped images. tested, unknown: as in `survival_at`.
        whole: distances are counts; the curve then has the points 0, 1, 2, 3, 5, 10 and 20 too.

    Returns:
        Points of rising distance, the first at 0; empty where nothing was tested. A curve of very many distinct
        distances keeps 400 of them, evenly spread in rank, with the first and the last.
    """
    if tested == 0:
        return ()
    places = np.unique(distances)
    if len(places) > _MOST_POINTS:
        places = places[np.unique(np.linspace(0, len(places) - 1, _MOST_POINTS).round().astype(np.int64))]
    extra = [0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0] if whole else [0.0]
    return tuple(
        survival_at(distances, place, tested, unknown, confidence=confidence)
        for place in sorted({*places.tolist(), *extra})
    )


def median_of(distances: NDArray[np.float64], tested: int, unknown: int, *, confidence: float = CONFIDENCE) -> Median:
    """The median distance to a flip, images that were not flipped counted as farther than all others.

    The interval is the sign test's: it ends where the Clopper-Pearson interval of the share flipped leaves one half.
    """
    ordered = np.sort(distances)

    def first(reached: Sequence[bool]) -> float | None:
        return next((float(d) for d, yes in zip(ordered, reached, strict=True) if yes), None)

    if tested == 0:
        return Median(None, None, None)
    counts = np.searchsorted(ordered, ordered, side="right")
    value = first([2 * int(n) >= tested for n in counts])
    worst = min(tested, _smallest_with(tested, lambda n: clopper_pearson(n, tested, confidence=confidence)[1] >= 0.5))
    best = _smallest_with(tested, lambda n: clopper_pearson(n, tested, confidence=confidence)[0] >= 0.5)
    low = 0.0 if unknown >= worst else first([int(n) + unknown >= worst for n in counts])
    high = first([int(n) >= best for n in counts])
    return Median(value, low, high)


def _smallest_with(of: int, holds: Callable[[int], bool]) -> int:
    """The smallest count in 0..of for which a monotone condition holds, or of + 1 if for none."""
    low, high = 0, of + 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same images, by what changed.

    only_first, only_second: images flipped in one of them alone. both, neither: in both, in none.
    p_value: two-sided exact McNemar test that changes in either direction are equally likely.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float


def compare_paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Exact McNemar test on the images of both runs.

    Args:
        first, second: whether each image was flipped, in the same order.
    """
    if len(first) != len(second):
        raise InvalidSetting(
            f"first and second must be about the same images; got {len(first)} and {len(second)} of them."
        )
    pairs = list(zip(first, second, strict=True))
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    changed, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(changed, i) for i in range(fewer + 1)) / 2**changed
    both = sum(a and b for a, b in pairs)
    return Paired(both, only_first, only_second, len(pairs) - both - changed, min(1.0, 2 * tail))


def images_needed(share: float, *, confidence: float = CONFIDENCE, two_sided: bool = True) -> int:
    """Images of which all must survive before a survival share can be shown.

    With none of n flipped the lower bound is alpha^(1/n), alpha = 1 - confidence, halved if two-sided.
    """
    if not 0 < share < 1:
        raise InvalidSetting(f"share must be in (0, 1) to be shown by counting; got {share!r}.")
    alpha = (1 - confidence) / (2 if two_sided else 1)
    return math.ceil(math.log(alpha) / math.log(share) - 1e-12)


def planning_problem(
    share: float,
    images: int,
    *,
    confidence: float = CONFIDENCE,
    quantity: str = "survival",
    best: str = "none flipped",
) -> str | None:
    """Why no outcome on so many images could show a share of at least `share`, or None where one could.

    Args:
        quantity: what the share is called. best: the outcome that would show most.

    Raised before a query is spent: an audit that can only end inconclusive is not worth running.
    """
    needed = images_needed(share, confidence=confidence)
    if images >= needed:
        return None
    return (
        f"{images} images cannot show a {quantity} of >= {share:g} at {100 * confidence:.6g}% confidence, even with {best}: "
        f"{needed} images with {best} could ({images_needed(share, confidence=confidence, two_sided=False)} for a one-sided bound)."
    )
