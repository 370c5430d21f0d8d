"""The grid that a few-pixel search lays over images of one size: cells with a rim, so that a neighbour is an offset."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

PERIOD = 2  # of the strides that convolutions commonly begin with


@dataclass(frozen=True, slots=True)
class Grid:
    """What all games on images of one size share; nobody writes to it.

    across: cells from one row to the next. cells: how many, rim included.
    cell_of_pixel: (H*W,). pixel_of_cell: (cells,), -1 on the rim. phase: (cells,) place within PERIOD x PERIOD pixels.
    around: (K,) how far each of the cells around a cell is, itself included. steps: (8,) the same of those next to it.
    offsets: (L,) the same of those that are learned of with it. middle: the place of the cell itself among them.
    near: (L,) their correlation with it.
    """

    across: int
    cells: int
    cell_of_pixel: Ints
    pixel_of_cell: Ints
    phase: NDArray[np.uint8]
    around: Ints
    steps: Ints
    offsets: Ints
    middle: int
    near: NDArray[np.float32]


@lru_cache(maxsize=8)
def grid_of(height: int, width: int, *, reach: float, far: bool) -> Grid:
    """The grid of images of H x W pixels.

    Args:
        reach: e-folding length of the correlation, in pixels. far: learn of pixels up to four away, not two.
    """
    radius = 4 if far else 2
    across = width + 2 * radius
    cells = across * (height + 2 * radius)
    rows, columns = np.divmod(np.arange(height * width), width)
    cell_of_pixel = (rows + radius) * across + columns + radius
    pixel_of_cell = np.full(cells, -1)
    pixel_of_cell[cell_of_pixel] = np.arange(height * width)
    phase = np.zeros(cells, np.uint8)
    phase[cell_of_pixel] = (rows % PERIOD) * PERIOD + columns % PERIOD
    steps = np.arange(-radius, radius + 1)
    down, right = (axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij"))
    around = down * across + right
    steps_away = np.abs(down) + np.abs(right)
    close = (steps_away <= 2) | ((steps_away <= 4) & (down % 2 == 0) & (right % 2 == 0) & far)
    return Grid(
        across,
        cells,
        cell_of_pixel,
        pixel_of_cell,
        phase,
        around,
        np.array([-across - 1, -across, -across + 1, -1, 1, across - 1, across, across + 1]),
        around[close],
        int(np.flatnonzero(around[close] == 0)[0]),
        np.exp(-np.hypot(down, right)[close] / reach).astype(np.float32),
    )
