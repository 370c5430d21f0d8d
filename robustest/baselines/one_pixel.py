"""One pixel attack: differential evolution over the place and colour of k pixels.

Source: Su, Vargas & Sakurai, IEEE Trans. Evol. Comp. 2019, arXiv:1710.08864: population 400, F = 0.5, no crossover, a
child replaces its parent if it is no worse, at most 100 generations, stop at the first flip. Departures: the fitness is
the margin, not the label's probability (a saturated softmax is flat); where the budget does not allow 20 generations of
400, the population is a twentieth of the budget.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack.task import Search, Task
from robustest.baselines.corners import check_pixels, check_task
from robustest.results import Edits

_POPULATION, _LEAST_POPULATION, _LEAST_GENERATIONS = 400, 10, 20
_F = 0.5


def one_pixel(task: Task, rng: np.random.Generator, *, k: int = 1) -> Search:
    """Evolve k pixels until the image flips or the queries are spent.

    Args:
        k: pixels changed; their colours are free.
    """
    check_task(task, "one-pixel")
    height, width, channels = task.image.shape
    k = check_pixels("one-pixel", k, height * width)
    size = int(np.clip(task.queries // _LEAST_GENERATIONS, _LEAST_POPULATION, _POPULATION))
    # A gene is (row, column, colour): places in units of pixels, colours in [0, 1].
    most = np.array([height, width] + [1.0] * channels)
    genes = np.empty((size, k, 2 + channels))
    genes[..., :2] = rng.uniform(0, most[:2], size=(size, k, 2))
    genes[..., 2:] = rng.normal(128 / 255, 127 / 255, size=(size, k, channels))
    genes = np.clip(genes, 0, most)
    fitness = yield _rendered(genes, task)
    while fitness.min() >= 0:
        first, second, third = (rng.permutation(size) for _ in range(3))
        children = np.clip(genes[first] + _F * (genes[second] - genes[third]), 0, most)
        margins = yield _rendered(children, task)
        better = margins <= fitness
        genes[better], fitness = children[better], np.where(better, margins, fitness)


def _rendered(genes: NDArray[np.float64], task: Task) -> Edits:
    """Edits of N genomes (N, k, 2 + C); of two at one place the last counts, and what changes nothing is left out."""
    height, width, channels = task.image.shape
    base = task.image.reshape(-1, channels)
    rows = np.minimum(genes[..., 0].astype(np.int64), height - 1)
    columns = np.minimum(genes[..., 1].astype(np.int64), width - 1)
    places = rows * width + columns
    colours = genes[..., 2:].astype(np.float32)
    if task.eight_bit:
        colours = np.rint(colours * 255).astype(np.float32) / np.float32(255)
    counts = (colours != base[places]).any(axis=2)
    for earlier in range(places.shape[1] - 1):
        counts[:, earlier] &= (places[:, earlier, None] != places[:, earlier + 1 :]).all(axis=1)
    offsets = np.zeros(len(genes) + 1, np.int64)
    np.cumsum(counts.sum(axis=1), out=offsets[1:])
    return Edits(places[counts], colours[counts], offsets)
