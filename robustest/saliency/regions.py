"""Regions: an image cut into parts, player I's moves.

What is learned of one pixel of a region is borrowed by the others, so features that cut along what the classifier
looks at make learning faster. A grid of squares is the control that any use of features has to beat.
Knows nothing of classifiers, games or search.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.saliency.features import Features

MOST_FEATURES = 200
_GRID_SIDES = 10  # squares along the shorter side


def feature_regions(features: Features, height: int, width: int, *, most: int = MOST_FEATURES) -> NDArray[np.int64]:
    """(H*W,) region of each pixel: the feature it is nearest to by squared distance over sigma.

    The strongest `most` features are used; with fewer than two of them it is the grid.
    """
    if len(features) < 2:
        return grid_regions(height, width)
    chosen = features.take(most)
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    nearest = np.full((height, width), np.inf)
    regions = np.zeros((height, width), np.int64)
    reach, closer = np.empty_like(nearest), np.empty(nearest.shape, bool)
    for index, ((x, y), sigma) in enumerate(zip(chosen.centre, chosen.sigma, strict=True)):
        np.add((columns - x) ** 2, (rows - y) ** 2, out=reach)
        reach /= max(sigma, 0.7)
        np.less(reach, nearest, out=closer)
        np.copyto(nearest, reach, where=closer)
        np.copyto(regions, index, where=closer)
    used = np.bincount(regions.reshape(-1)) > 0
    return np.asarray((used.cumsum() - 1)[regions.reshape(-1)], np.int64)


def grid_regions(height: int, width: int) -> NDArray[np.int64]:
    """(H*W,) region of each pixel: a grid of squares, about ten along the shorter side."""
    side = max(2, min(height, width) // _GRID_SIDES)
    across = -(-width // side)
    rows, columns = np.mgrid[:height, :width]
    return np.asarray((rows // side * across + columns // side).reshape(-1), np.int64)


def one_region(height: int, width: int) -> NDArray[np.int64]:
    """(H*W,) zeros: the whole image is one region, nothing is borrowed but the overall mean."""
    return np.zeros(height * width, np.int64)
