"""BruSLeAttack: which of a synthetic colour image's pixels to take is learned as a Dirichlet distribution.

Source: Vo, Abbasnejad & Ranasinghe, ICLR 2024, arXiv:2404.05311. The number k of pixels is fixed, as in Sparse-RS.
Departure: the first masks are drawn one by one from the same budget, and all of them are counted.
"""

from __future__ import annotations

import numpy as np

from robustest.attack.task import Search, Task
from robustest.baselines.corners import Corners, check_pixels, check_task

_FIRST_MASKS = 10
_SMOOTHING = 0.01  # z of the paper: what a pixel never tried is worth against one tried in vain
# lambda_0, m_1 and m_2 of the power step decay. Of m_1 = 0.24, -0.24 and -0.5 the second flipped most with 10 pixels on
# 40 CIFAR-10 and 30 MNIST images (100 % and 83 %, against 98 % and 70 %, and 100 % and 87 %).
_SHARE, _FALL, _DECAY = 0.3, -0.24, 0.997


def swapped_share(step: int) -> float:
    """The share of the k pixels to be exchanged at a step >= 1: `lambda_0 * step^m1 * m2^step`, at most 1."""
    return float(min(1.0, _SHARE * step**_FALL * _DECAY**step))


def brusle(task: Task, rng: np.random.Generator, *, k: int = 10) -> Search:
    """Keep the pixels that a drawn preference favours, exchange the rest, learn which exchanges lowered the margin.

    Args:
        k: pixels taken from the synthetic image.
    """
    check_task(task, "brusle")
    corners = Corners(task.image)
    count = corners.pixels
    k = check_pixels("brusle", k, count)
    synthetic = rng.integers(corners.count, size=count)
    dissimilar = np.abs(corners.colours[synthetic] - corners.base).mean(axis=1).astype(np.float64)
    mask, margin = np.zeros(0, np.int64), np.inf
    for _ in range(_FIRST_MASKS):
        drawn = rng.choice(count, k, replace=False)
        answer = (yield corners.edits(drawn[None], synthetic[drawn][None]))[0]
        if answer < 0:
            return
        if answer < margin:
            mask, margin = drawn, answer
    tried, helped = np.zeros(count), np.zeros(count)
    step = 0
    while margin >= 0:
        step += 1
        # A Dirichlet draw is a vector of gamma draws over their sum; the order of the entries needs no sum.
        preference = rng.standard_gamma((helped + _SMOOTHING) / (tried + _SMOOTHING))
        fresh = max(int(np.ceil(swapped_share(step) * k)), 1)
        fresh = min(fresh, count - k)
        if fresh < 1:
            return
        kept = _drawn(mask, preference[mask], k - fresh, rng)
        outside = np.ones(count, bool)
        outside[mask] = False
        others = np.flatnonzero(outside)
        added = _drawn(others, preference[others] * dissimilar[others], fresh, rng)
        candidate = np.concatenate([kept, added])
        answer = (yield corners.edits(candidate[None], synthetic[candidate][None]))[0]
        tried[added] += 1
        if answer < margin:
            helped[added] += 1
        if answer <= margin:
            mask, margin = candidate, answer


def _drawn(
    pool: np.ndarray[tuple[int], np.dtype[np.int64]],
    weights: np.ndarray[tuple[int], np.dtype[np.float64]],
    count: int,
    rng: np.random.Generator,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """`count` of the pool without replacement, by weight: the largest of Gumbel-shifted logarithms."""
    if count == 0:
        return pool[:0]
    keys = np.log(np.maximum(weights, 1e-300)) + rng.gumbel(size=len(pool))
    return pool[np.argpartition(-keys, count - 1)[:count]]
