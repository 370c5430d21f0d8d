"""Random corners: pixels and corner colours drawn blindly. The line that every attack has to be above."""

from __future__ import annotations

import numpy as np

from robustest.attack.task import Search, Task
from robustest.baselines.corners import Corners, check_pixels, check_task

_BATCH = 16
_LARGEST_SHARE = 4  # at most one pixel in this many, where k is left open


def random_corners(task: Task, rng: np.random.Generator, *, k: int | None = None) -> Search:
    """Ask for random sets of pixels at random corners, with no memory, until one flips.

    Args:
        k: pixels of each set; None draws the size anew each time, uniformly in its logarithm and below the best found,
            so that one run answers for every k.
    """
    check_task(task, "random-corners")
    corners = Corners(task.image)
    fixed = None if k is None else check_pixels("random-corners", k, corners.pixels)
    most = fixed or max(corners.pixels // _LARGEST_SHARE, 1)
    while most >= 1:
        sizes = [fixed or int(np.exp(rng.uniform(0, np.log(most + 1)))) for _ in range(_BATCH)]
        margins = yield corners.drawn(sizes, rng)
        flipped = [size for size, margin in zip(sizes, margins, strict=True) if margin < 0]
        if flipped and fixed:
            return
        most = min([most, *(size - 1 for size in flipped)])
