"""A SparseEvo-like attack: evolution of which pixels to take from a misclassified noise image. Needs the label alone.

Source: Vo, Abbasnejad & Ranasinghe, ICLR 2022, arXiv:2202.00091: a population of bit masks over the pixels, recombined
from the best and two others, bits removed by mutation, a child replacing the worst if it is fitter; the fitness is the
distance to the clean image while the image is misclassified. Departures ("like"): the starting image is drawn until it
is misclassified, from uniform noise; the distance is the number of pixels; a mutation that fails shrinks the next one.
"""

from __future__ import annotations

import numpy as np

from robustest.attack.task import Search, Task
from robustest.baselines.corners import check_task
from robustest.results import Edits

_POPULATION = 10
_MUTATED, _LEAST_MUTATED = 0.16, 0.004  # share of a mask's pixels put back at first, and the paper's mutation rate
_SHRINK, _GROW = 0.95, 1.3


def sparse_evo(task: Task, rng: np.random.Generator) -> Search:
    """Evolve masks of a noise image until the queries are spent."""
    check_task(task, "sparse-evo")
    base = task.image.reshape(-1, task.image.shape[2])
    while True:
        noise = rng.random(base.shape).astype(np.float32)
        if task.eight_bit:
            noise = np.rint(noise * 255).astype(np.float32) / np.float32(255)
        full = (noise != base).any(axis=1)
        if (yield _image(full, noise))[0] < 0:
            break
    masks = [full.copy() for _ in range(_POPULATION)]
    share = _MUTATED
    while True:
        sizes = np.array([mask.sum() for mask in masks])
        best, worst = int(sizes.argmin()), int(sizes.argmax())
        first, second = rng.permutation(_POPULATION)[:2]
        child = masks[best].copy()
        # Where the two others differ, evolution is at work: the pixel is put back there half of the time.
        child[(masks[first] != masks[second]) & (rng.random(len(child)) < 0.5)] = False
        held = np.flatnonzero(child)
        if len(held) < 2:
            child, held = masks[best].copy(), np.flatnonzero(masks[best])
        if len(held) < 2:
            return
        removed = min(max(int(share * len(held)), 1), len(held) - 1)
        child[rng.permutation(held)[:removed]] = False
        if (yield _image(child, noise))[0] < 0:
            share = min(share * _GROW, 0.5)
            if child.sum() <= sizes[worst]:
                masks[worst] = child
        else:
            share = max(share * _SHRINK, _LEAST_MUTATED)


def _image(
    mask: np.ndarray[tuple[int], np.dtype[np.bool_]], noise: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> Edits:
    """One image that takes the noise where the mask is set."""
    pixels = np.flatnonzero(mask)
    return Edits(pixels, noise[pixels], np.array([0, len(pixels)], np.int64))
