"""Greedy search over corners: what patience alone finds.

`greedy` scans every pixel and corner anew for each pixel it adds (cf. CornerSearch's one-pixel step, Croce & Hein,
ICCV 2019, arXiv:1909.05040, and Narodytska & Kasiviswanathan, CVPRW 2017): give it as many queries as it wants.
`one_scan` scans once and adds pixels in the order of what each did alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack.task import Search, Task
from robustest.baselines.corners import Corners, check_task

_CHUNK = 512
_SCAN_SHARE = 0.75  # of the budget, where it does not suffice for all pixels


def greedy(task: Task, rng: np.random.Generator) -> Search:
    """Add the pixel and corner that lower the margin most, over and over, until the image flips."""
    check_task(task, "greedy")
    corners = Corners(task.image)
    pixels, codes = corners.singles()
    held, held_codes = np.zeros(0, np.int64), np.zeros(0, np.int64)
    while len(pixels):
        order = rng.permutation(len(pixels))
        pixels, codes = pixels[order], codes[order]
        margins = np.full(len(pixels), np.inf)
        for start in range(0, len(pixels), _CHUNK):
            part = slice(start, start + _CHUNK)
            count = len(pixels[part])
            margins[part] = yield corners.edits(
                np.column_stack([np.tile(held, (count, 1)), pixels[part]]),
                np.column_stack([np.tile(held_codes, (count, 1)), codes[part]]),
            )
            if margins[part].min() < 0:
                return
        best = int(margins.argmin())
        held, held_codes = np.append(held, pixels[best]), np.append(held_codes, codes[best])
        left = pixels != pixels[best]
        pixels, codes = pixels[left], codes[left]


def one_scan(task: Task, rng: np.random.Generator) -> Search:
    """Try every pixel and corner alone, then add the best of each pixel, best first, until the image flips."""
    check_task(task, "one-scan")
    corners = Corners(task.image)
    pixels, codes = corners.singles()
    order = rng.permutation(len(pixels))
    if len(order) >= task.queries:
        order = order[: max(int(_SCAN_SHARE * task.queries), 1)]
    pixels, codes = pixels[order], codes[order]
    margins = np.full(len(pixels), np.inf)
    for start in range(0, len(pixels), _CHUNK):
        part = slice(start, start + _CHUNK)
        margins[part] = yield corners.edits(pixels[part, None], codes[part, None])
    if not len(margins) or margins.min() < 0:
        return
    pixels, codes = _best_of_each(pixels, codes, margins)
    for count in range(2, len(pixels) + 1):
        if (yield corners.edits(pixels[None, :count], codes[None, :count]))[0] < 0:
            return


def _best_of_each(
    pixels: NDArray[np.int64], codes: NDArray[np.int64], margins: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The best corner of each pixel, pixels in the order of their margins."""
    order = np.lexsort((codes, pixels, margins))
    _, first = np.unique(pixels[order], return_index=True)
    chosen = order[np.sort(first)]
    return pixels[chosen], codes[chosen]
