"""Regions of few free dimensions, and how fast the margins of a classifier can fall in them: what a tau-grid needs.

Numpy alone: a classifier that can only be asked, with a Lipschitz constant that somebody vouches for, needs no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustest.bounds.guarantee import Guarantee
from robustest.errors import InvalidSetting

GridNorm = Literal["l1", "l2", "linf"]

ORDER = {"l1": 1.0, "l2": 2.0, "linf": math.inf}
"""Of each norm, for `numpy.linalg.norm`."""
UP = 1.0 + 2.0**-40
"""Covers the float64 rounding of the sums made of grid cells."""


@dataclass(frozen=True, slots=True)
class GridRegion:
    """A box of images in which few dimensions are free.

    image: (H, W, C) float32 in [0, 1]. dims: (m,) free entries of the flattened image, rising.
    lower, upper: (m,) float32, the values they may take; they hold the image's own.
    """

    image: NDArray[np.float32]
    dims: NDArray[np.int64]
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]

    @staticmethod
    def of_mask(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> GridRegion:
        """Every pixel (or dimension) of a mask (H, W) or (H, W, C) is free in [0, 1]."""
        wide = mask if mask.ndim == 3 else np.repeat(mask[:, :, None], image.shape[2], axis=2)
        if wide.shape != image.shape or not wide.any():
            raise InvalidSetting(f"mask must be (H, W) or {image.shape} with some True entry; got {mask.shape}.")
        dims = np.flatnonzero(wide).astype(np.int64)
        bounds = np.zeros(len(dims), np.float32), np.ones(len(dims), np.float32)
        return GridRegion(np.ascontiguousarray(image, np.float32), dims, *bounds)

    @staticmethod
    def of_support(image: NDArray[np.float32], other: NDArray[np.float32]) -> GridRegion:
        """The pixels in which another image, an adversarial one say, differs are free."""
        return GridRegion.of_mask(image, (image != other).any(axis=2))

    @staticmethod
    def of_feature(
        image: NDArray[np.float32], centre: tuple[float, float], sigma: float, *, widths: float = 1.0
    ) -> GridRegion:
        """The pixels within `widths` standard deviations of a feature's centre (column, row) are free."""
        rows, columns = np.indices(image.shape[:2]) + 0.5
        return GridRegion.of_mask(image, np.hypot(columns - centre[0], rows - centre[1]) <= widths * sigma)

    def within(self, radius: float) -> GridRegion:
        """Only values within `radius` of the image's own."""
        own = self.own.astype(np.float64)
        low = np.maximum(self.lower, np.nextafter((own - radius).astype(np.float32), np.float32(-1)))
        high = np.minimum(self.upper, np.nextafter((own + radius).astype(np.float32), np.float32(2)))
        return replace(self, lower=low, upper=high)

    @property
    def own(self) -> NDArray[np.float32]:
        """(m,) values of the image itself."""
        return self.image.reshape(-1)[self.dims]

    def render(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points (N, m) as images (N, H, W, C)."""
        out = np.repeat(self.image.reshape(1, -1), len(points), axis=0)
        out[:, self.dims] = points
        return out.reshape(-1, *self.image.shape)


@dataclass(frozen=True, slots=True)
class GridConstants:
    """How fast each margin `score[label] - score[rival]` can fall, of whatever scores the scorer gives.

    rivals: (Q,) classes. rate: (Q, m) per free dimension (`norm` None), or (Q, 1) in a norm.
    slack: (Q,) what the scores of the executed classifier may differ from those that the rate is about, twice over.
    guarantee: PROOF_GIVEN_L where the rate was supplied.
    """

    rivals: NDArray[np.int64]
    rate: NDArray[np.float64]
    norm: GridNorm | None
    slack: NDArray[np.float64]
    guarantee: Guarantee
    method: str
    assumptions: tuple[str, ...] = ()

    @staticmethod
    def supplied(
        constant: float, norm: GridNorm, *, label: int, classes: int, target: int | None = None
    ) -> GridConstants:
        """A Lipschitz constant of every margin that the user vouches for."""
        if not (constant > 0 and math.isfinite(constant)):
            raise InvalidSetting(f"constant must be a number > 0; got {constant}.")
        rivals = np.array([c for c in range(classes) if c != label] if target is None else [target], np.int64)
        says = f"Every margin changes by at most {constant:g} per unit of {norm} (supplied, not checked)."
        rate = np.full((len(rivals), 1), float(constant))
        zero = np.zeros(len(rivals))
        return GridConstants(rivals, rate, norm, zero, Guarantee.PROOF_GIVEN_L, "tau-grid, supplied L", (says,))

    def loss(self, half: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, Q) most that margins can fall over half-cells (N, m)."""
        if self.norm is None:
            fall = half @ self.rate.T
        else:
            fall = np.linalg.norm(half, ord=ORDER[self.norm], axis=1)[:, None] * self.rate[:, 0]
        return fall * UP + self.slack
