"""Sparse-RS, the L0 version: random search over k pixels at corner colours.

Source: Croce, Andriushchenko, Singh, Flammarion & Hein, AAAI 2022, arXiv:2006.12834. The number k is fixed: one run
answers for one k, and a curve over k takes a run, and a budget, for each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from robustest.attack.task import Search, Task
from robustest.baselines.corners import Corners, check_pixels, check_task

# The share of pixels swapped is halved when these shares of the budget are spent.
_HALVINGS = [tenths / 10_000 for tenths in (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)]


def swapped_share(spent: float, initial: float) -> float:
    """The share of the k pixels to be swapped, when a share `spent` of the budget is gone (paper, appendix)."""
    return float(initial / 2 ** bisect_left(_HALVINGS, spent))


def sparse_rs(
    task: Task,
    rng: np.random.Generator,
    *,
    k: int = 10,
    initial: float = 0.8,
    guide: Callable[[Task], NDArray[np.float64]] | None = None,
) -> Search:
    """Swap some of k pixels for others at random corner colours; keep what is no worse; stop at the first flip.

    Args:
        k: pixels changed. initial: share of them swapped at first, in (0, 1].
        guide: gives the distribution (H, W), all > 0, that pixels are drawn from; None for the paper's uniform one.
    """
    check_task(task, "sparse-rs")
    corners = Corners(task.image)
    k = check_pixels("sparse-rs", k, corners.pixels)
    inside = np.zeros(corners.pixels, bool)
    chances = None if guide is None else guide(task).reshape(-1)
    reach = None if chances is None else np.cumsum(chances / chances.sum())
    pixels = rng.choice(corners.pixels, k, replace=False, p=None if chances is None else chances / chances.sum())
    codes = rng.integers(corners.count, size=k)
    inside[pixels] = True
    margin = (yield corners.edit(pixels, codes))[0]
    iteration = 0
    while margin >= 0:
        iteration += 1
        swaps = max(int(swapped_share(iteration / max(task.queries, 1), initial) * k), 1)
        places = rng.permutation(k)[:swaps] if k > 1 else np.zeros(1, np.int64)
        tried, colours = pixels.copy(), codes.copy()
        tried[places] = _others(inside, k, pixels[places], reach, rng)
        colours[places] = rng.integers(corners.count, size=swaps)
        answer = (yield corners.edit(tried, colours))[0]
        if answer <= margin:
            inside[pixels[places]] = False
            inside[tried[places]] = True
            margin, pixels, codes = answer, tried, colours


def _others(
    inside: NDArray[np.bool_],
    size: int,
    removed: NDArray[np.int64],
    reach: NDArray[np.float64] | None,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """As many distinct pixels outside the set as are removed; those removed themselves where no other is left.

    Args:
        inside: (P,) the set, `size` pixels of them. removed: (n,) pixels of it.
        reach: (P,) running sum of the distribution they are drawn from, None for the uniform one.
    """
    count, outside = len(removed), len(inside) - size
    if outside < 4 * count:
        pool = np.flatnonzero(~inside)
        return rng.permutation(pool)[:count] if outside >= count else removed
    chosen: list[int] = []
    while len(chosen) < count:
        if reach is None:
            pixel = int(rng.integers(len(inside)))
        else:
            pixel = min(int(np.searchsorted(reach, rng.random(), side="right")), len(inside) - 1)
        if not inside[pixel] and pixel not in chosen:
            chosen.append(pixel)
    return np.array(chosen, np.int64)
