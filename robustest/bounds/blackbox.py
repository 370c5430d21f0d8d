"""What may be said of a classifier that can only be asked, and of which classifier it is said.

* Randomized smoothing (L2) speaks of the *smoothed* classifier: the class that noisy images get most often.
* Randomized ablation (L0) speaks of the *ablated* classifier: the class of images of which few pixels are left.
* The volume test speaks of the classifier itself, and of the share of a region that is misclassified, not of its worst.
* CLEVER is an *estimate* of how far the nearest misclassified image is: it may err on either side, and is no bound.

Smoothing draws whole numbers (a discrete Gaussian, exactly, by rejection) and adds them to 8-bit images, because sums of
floats are not the Gaussian that Cohen's theorem is about; the radius comes from the discrete Gaussian's own divergence,
and is smaller. Sources: Cohen et al. 2019, arXiv:1902.02918; Li et al. 2019, arXiv:1809.03113 (radius from divergence);
Canonne et al. 2020, arXiv:2004.00010 (discrete Gaussian); Voracek & Hein, ICLR 2023 (why floats fail); Levine & Feizi
2020, arXiv:1911.09272.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.bounds.guarantee import Bound, Guarantee
from robustest.errors import InvalidSetting

_DRAW_SLACK = 2.0**-40
"""Most that one number drawn here can differ in distribution from the exact one (its chances are float64)."""

Label = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""(N, H, W, C) float32 images to (N,) classes: labels are all that is asked for."""


def discrete_gaussian(shape: tuple[int, ...], sigma: float, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """Whole numbers z with probability proportional to `exp(-z^2 / (2 sigma^2))`.

    Rejection from a two-sided geometric distribution: the ratio of the two is `exp(-(|z| - sigma^2 t)^2 / (2 sigma^2))`
    with `t = 1 / (floor(sigma) + 1)`.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise InvalidSetting(f"sigma must be > 0 steps of 1/255; got {sigma}.")
    t = 1.0 / (math.floor(sigma) + 1)
    count = math.prod(shape)
    out = np.empty(0, np.int64)
    while len(out) < count:
        size = 2 * (count - len(out)) + 16
        # |z| is geometric; a sign is drawn, and minus zero is refused so that zero is not counted twice.
        magnitude = rng.geometric(-math.expm1(-t), size) - 1
        sign = rng.integers(0, 2, size) * 2 - 1
        accept = rng.random(size) < np.exp(-((magnitude - sigma * sigma * t) ** 2) / (2 * sigma * sigma))
        accept &= ~((magnitude == 0) & (sign < 0))
        out = np.concatenate([out, (sign * magnitude)[accept]])
    return out[:count].reshape(shape)


@dataclass(frozen=True, slots=True)
class Voted:
    """What a vote found about one image.

    label: the class of the smoothed (or ablated) classifier, None if it abstains. count: votes of it among `of`.
    bound: within which *that* classifier keeps its class, an L2 distance between images in [0, 1] (or a number of
        pixels); None if it abstains.
    """

    label: int | None
    count: int
    of: int
    bound: Bound | None


def smooth(
    classify: Label,
    image: NDArray[np.uint8],
    *,
    sigma: float,
    samples: int = 10_000,
    choose: int = 100,
    confidence: float = 0.999,
    batch: int = 1000,
    rng: np.random.Generator,
) -> Voted:
    """Certify the smoothed classifier around one 8-bit image.

    Args:
        classify: the base classifier; it is shown values outside [0, 1], as the theorem asks: nothing is clipped.
        image: (H, W, C) uint8.
        sigma: of the noise, in steps of 1/255, > 0; 64 is 0.25.
        samples: votes for the certificate. choose: votes to choose the class with.
        confidence: with which the radius holds.
        batch: images a call.
        rng: stream of the noise.
    """
    started = time.thread_time()
    label, count, low = _elected(
        lambda count: _votes(classify, image, sigma, count, batch, rng), samples, choose, confidence
    )
    low -= image.size * _DRAW_SLACK
    radius = smoothing_radius(low, sigma)
    if radius is None:
        return Voted(None, count, samples, None)
    says = (
        "About the smoothed classifier (most frequent class under noise), not the classifier itself.",
        f"Between 8-bit images; discrete Gaussian noise, sigma {sigma:g}/255; {samples} votes, numpy's generator taken "
        "as random.",
    )
    bound = Bound(
        radius, Guarantee.PROBABILISTIC, "randomized smoothing", says, confidence, time.thread_time() - started
    )
    return Voted(label, count, samples, bound)


def _elected(
    votes: Callable[[int], NDArray[np.int64]], samples: int, choose: int, confidence: float
) -> tuple[int, int, float]:
    """The class that `choose` votes name, how many of `samples` fresh votes it gets, and the least share that it has."""
    label = int(np.bincount(votes(choose)).argmax())
    count = int((votes(samples) == label).sum())
    return label, count, _least_share(count, samples, confidence)


def _least_share(count: int, of: int, confidence: float) -> float:
    """Lower end of the one-sided Clopper-Pearson interval of a share."""
    from scipy.special import betaincinv

    if not 0 < confidence < 1:
        raise InvalidSetting(f"confidence must be in (0, 1); got {confidence}. Try 0.999.")
    return float(betaincinv(count, of - count + 1, 1 - confidence)) if count else 0.0


def _votes(
    classify: Label, image: NDArray[np.uint8], sigma: float, count: int, batch: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    found = []
    for start in range(0, count, batch):
        noise = discrete_gaussian((min(batch, count - start), *image.shape), sigma, rng=rng)
        # Whole numbers below 2**24 are exact in float32; the division is part of the classifier.
        found.append(classify((image.astype(np.int64) + noise).astype(np.float32) / np.float32(255)))
    return np.concatenate(found).astype(np.int64)


def smoothing_radius(low: float, sigma: float) -> float | None:
    """L2 radius in images of [0, 1], from a lower bound of the top class's probability; None for no certificate.

    Shifting by a whole vector v changes the noise by a Renyi divergence of order a of at most `a |v|^2 / (2 sigma^2)`
    (complete the square; the sum of `exp(-(z - c)^2 / (2 sigma^2))` over whole z is largest for a whole c). For the class
    to lose, votes must go from (p, 1 - p) to (1/2, 1/2), a divergence of `-log(2 M)`, M the power mean of order 1 - a
    of p and 1 - p. So it keeps its class while `|v|^2 < 2 sigma^2 max over a > 1 of -log(2 M) / a`.
    """
    if low <= 0.5:
        return None
    best = 0.0
    for order in np.concatenate([1 + np.logspace(-3, 0, 40), np.linspace(2.05, 60, 120)]):
        # Power mean of order 1 - a of the two probabilities, in logarithms.
        logs = (1 - order) * np.log(np.array([low, max(1 - low, 1e-300)]))
        mean = math.exp((np.logaddexp(*logs) - math.log(2)) / (1 - order))
        best = max(best, -math.log1p(min(-1e-300, 2 * mean - 1)) / order)
    return math.sqrt(2 * best) * sigma / 255 * (1 - 1e-9)


def ablate(
    classify: Label,
    image: NDArray[np.float32],
    *,
    keep: int,
    samples: int = 10_000,
    choose: int = 100,
    confidence: float = 0.999,
    batch: int = 1000,
    rng: np.random.Generator,
) -> Voted:
    """Certify the ablated classifier around one image: in how many pixels it may change.

    Args:
        classify: the base classifier; it is shown images (H, W, C + 1) whose last channel is 1 where a pixel is kept and
            0 where it is ablated (its colour is 0 then), so that no colour means "ablated".
        image: (H, W, C) in [0, 1].
        keep: pixels that are left, >= 1, of H * W.
        samples, choose, confidence, batch, rng: as for `smooth`.
    """
    started = time.thread_time()
    places = image.shape[0] * image.shape[1]
    if not 1 <= keep <= places:
        raise InvalidSetting(f"keep must be between 1 and {places}, the pixels of the image; got {keep}.")

    def votes(count: int) -> NDArray[np.int64]:
        found = []
        for start in range(0, count, batch):
            size = min(batch, count - start)
            order = rng.random((size, places)).argsort(axis=1)[:, :keep]
            left = np.zeros((size, places), np.float32)
            np.put_along_axis(left, order, 1.0, axis=1)
            left = left.reshape(size, *image.shape[:2], 1)
            found.append(classify(np.concatenate([image * left, left], axis=3)))
        return np.concatenate(found).astype(np.int64)

    label, count, low = _elected(votes, samples, choose, confidence)
    pixels = ablation_radius(low, places, keep)
    if pixels is None:
        return Voted(None, count, samples, None)
    says = (
        "About the ablated classifier (most frequent class of images with few pixels left), not the classifier itself.",
        f"{keep} of {places} pixels left; {samples} votes, numpy's generator taken as random.",
    )
    # Up to `pixels` changed pixels are harmless, so the nearest image of another class changes one more.
    bound = Bound(
        float(pixels + 1),
        Guarantee.PROBABILISTIC,
        "randomized ablation",
        says,
        confidence,
        time.thread_time() - started,
    )
    return Voted(label, count, samples, bound)


def ablation_radius(low: float, places: int, keep: int) -> int | None:
    """Most pixels rho with `low - (1 - C(d - rho, K) / C(d, K)) > 1/2`; None if not even 0."""
    if low <= 0.5:
        return None
    rho, untouched = 0, 1.0
    while rho < places:
        # Chance that none of rho + 1 changed pixels is among those kept, as a falling product.
        left = places - keep - rho
        untouched *= max(left, 0) / (places - rho)
        if low - (1 - untouched) * (1 + 1e-12) <= 0.5:
            break
        rho += 1
    return rho


def volume_test(
    classify: Label,
    draw: Callable[[int], NDArray[np.float32]],
    label: int,
    *,
    samples: int = 10_000,
    confidence: float = 0.999,
    batch: int = 1000,
) -> Bound:
    """The largest share of a region that can be misclassified, from images drawn from it uniformly.

    With none of n misclassified the share is at most `1 - alpha^(1/n)`; with some, the Clopper-Pearson upper end.

    Args:
        classify: the classifier. draw: (n) to n images of the region. label: the class to be kept.
        samples: images to draw. confidence: of the bound. batch: images a call.
    """
    started = time.thread_time()
    wrong = 0
    for start in range(0, samples, batch):
        wrong += int((classify(draw(min(batch, samples - start))) != label).sum())
    share = 1 - _least_share(samples - wrong, samples, confidence)
    says = (f"{wrong} of {samples} images drawn uniformly from the region were misclassified; not the worst case.",)
    return Bound(share, Guarantee.STATISTICAL, "volume test", says, confidence, time.thread_time() - started)


def clever(
    margin_and_slope: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    image: NDArray[np.float64],
    *,
    radius: float,
    norm: str = "l2",
    batches: int = 25,
    samples: int = 64,
    rng: np.random.Generator,
) -> Bound:
    """An estimate of the distance to the boundary, by extreme values of gradient norms: no bound in either direction.

    The largest gradient norm of each batch is fitted by a reverse Weibull distribution; its end is taken for the local
    Lipschitz constant (Weng et al. 2018, arXiv:1801.10578).

    Args:
        margin_and_slope: points (N, n) to the margin (N,) and its gradient (N, n), of a network or by differences.
        image: (n,) flattened. radius: of the ball that points are drawn from. norm: `l2` or `linf`.
        batches, samples: how many maxima, of how many points each.
        rng: stream of the points.
    """
    from scipy.stats import weibull_max

    if norm not in ("l2", "linf"):
        raise InvalidSetting(f"norm must be l2 or linf; got {norm!r}.")
    started = time.thread_time()
    n = image.size
    tops = []
    for _ in range(batches):
        step = rng.uniform(-1, 1, (samples, n)) if norm == "linf" else _in_ball(samples, n, rng)
        _, slope = margin_and_slope(np.clip(image + radius * step, 0, 1))
        tops.append(np.linalg.norm(slope, ord=1 if norm == "linf" else 2, axis=1).max())
    found = np.array(tops)
    spread = float(np.ptp(found))
    constant = float(found.max())
    if spread > 1e-9 * constant:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # The likelihood is unbounded for some samples; the end is clipped to what was seen either way.
            warnings.simplefilter("ignore")
            _, end, _ = weibull_max.fit(found, loc=constant + spread, scale=spread)
        constant = float(np.clip(end, constant, constant + 10 * spread))
    gap = float(margin_and_slope(image[None])[0][0])
    value = min(max(gap, 0.0) / max(constant, 1e-300), radius)
    says = (f"Extreme values of {batches} x {samples} gradients within {radius:g}; an estimate is not a bound.",)
    return Bound(value, Guarantee.ESTIMATE, "CLEVER", says, None, time.thread_time() - started)


def _in_ball(count: int, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points drawn uniformly from the unit ball of L2."""
    step = rng.normal(size=(count, n))
    return np.asarray(step / np.linalg.norm(step, axis=1, keepdims=True) * rng.random((count, 1)) ** (1 / n))
