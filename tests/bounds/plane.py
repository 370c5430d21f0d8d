"""A plane in the first two pixels of a 2x2 image, where every distance is a formula, and grids around points of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.bounds.grid_region import GridConstants, GridNorm, GridRegion


def linear(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Margin 3 a + 4 b - 2 of the first two pixels: slope 5, boundary 3 a + 4 b = 2."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    gap = 3 * flat[:, 0] + 4 * flat[:, 1] - 2
    return np.stack([gap, np.zeros_like(gap)], 1)


def around(a: float, b: float) -> GridRegion:
    """Images with any first two pixels, of which the image itself has a and b; the others are 0."""
    image = np.zeros((2, 2, 1), np.float32)
    image[0, 0], image[0, 1] = a, b
    mask = np.zeros((2, 2), bool)
    mask[0] = True
    return GridRegion.of_mask(image, mask)


def given(constant: float, norm: GridNorm = "l2") -> GridConstants:
    """A constant that somebody vouches for, of the margin of class 0."""
    return GridConstants.supplied(constant, norm, label=0, classes=2)
