"""Features of the pixel game: the parts of an image that player I picks from, each with its pixels.

Three ways to make them: the SIFT mixture (features overlap, pixels drawn from a Gaussian), a partition of the
image (every pixel belongs to one feature), and pixels in the order of their measured effect (grey-box).

Source: Wicker, Huang & Kwiatkowska, TACAS 2018, arXiv:1710.07859, for the mixture; Wu et al., TCS 2020,
arXiv:1807.03571, for partitions and the order by effect. Knows nothing of classifiers, games or search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.errors import InvalidSetting
from robustest.saliency import Saliency

_REACH = 2.0  # standard deviations from its centre that a SIFT feature's pixels lie within
_LEAST_CHANCE = 1e-6
_MOST_PIXELS = 1024  # of a feature: a state has a move for each, and a tree holds many states
_SQUARE = 24  # side of the squares a larger image is cut into


@dataclass(frozen=True, slots=True)
class PixelFeatures:
    """F features of one image.

    weights: (F,) probability that nature, were it player I, would pick each; > 0, sum 1.
    pixels: for each feature its pixels (row * W + column), the likeliest first, none twice.
    chances: for each feature the probability of each of its pixels; > 0, sum 1.
    centres: (F, 2) column and row in the image, for drawings; radii: (F,) in pixels, 0 for a patch.
    """

    weights: NDArray[np.float64]
    pixels: tuple[NDArray[np.int64], ...]
    chances: tuple[NDArray[np.float64], ...]
    centres: NDArray[np.float64]
    radii: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.pixels)

    def distribution(self, size: int) -> NDArray[np.float64]:
        """(size,) probability of each pixel: a feature is drawn, then a pixel of it."""
        total = np.zeros(size)
        for weight, pixels, chances in zip(self.weights, self.pixels, self.chances, strict=True):
            total[pixels] += weight * chances
        return total


def sift_features(saliency: Saliency, *, most: int = 32, uniform_part: float = 0.1) -> PixelFeatures:
    """The strongest keypoints, each with the pixels near it; and the whole image, cut into squares where it is large.

    Args:
        saliency: of the image; without a keypoint there is nothing but the whole image.
        most: keypoints used, >= 1.
        uniform_part: weight of the whole image, in (0, 1], so that every pixel can be reached.
    """
    if most < 1:
        raise InvalidSetting(f"most must be >= 1; got {most}.")
    height, width = saliency.distribution.shape
    found = saliency.features.take(most)
    rows, columns = np.mgrid[:height, :width] + 0.5
    parts = []
    for (x, y), sigma in zip(found.centre, found.sigma, strict=True):
        squared = ((columns - x) ** 2 + (rows - y) ** 2).reshape(-1)
        near = np.flatnonzero(squared <= max(_REACH * sigma, 1.0) ** 2)
        near = near if len(near) else np.array([int(squared.argmin())])
        near = near[np.argsort(squared[near], kind="stable")][:_MOST_PIXELS]
        parts.append((near, np.exp(-squared[near] / (2 * sigma**2))))
    side = max(height, width) if height * width <= _MOST_PIXELS else _SQUARE
    squares = (rows // side * -(-width // side) + columns // side).astype(np.int64)
    rest = partition_features(squares.reshape(-1), saliency.distribution)
    parts += list(zip(rest.pixels, rest.chances, strict=True))
    share = (1 - uniform_part) * found.response / max(float(found.response.sum()), 1e-300)
    weights = np.concatenate([share, np.full(len(rest), (uniform_part if len(found) else 1.0) / len(rest))])
    centres = np.concatenate([found.centre, rest.centres])
    radii = np.append(_REACH * found.sigma, np.zeros(len(rest)))
    return _features(weights, parts, centres, radii)


def partition_features(regions: NDArray[np.int64], distribution: NDArray[np.float64]) -> PixelFeatures:
    """One feature for each region; every pixel belongs to exactly one.

    Args:
        regions: (H * W,) region of each pixel, 0 to F - 1, none empty.
        distribution: (H, W) saliency: what regions and their pixels weigh.
    """
    chances = distribution.reshape(-1)
    parts = [(own, chances[own]) for own in (np.flatnonzero(regions == r) for r in range(int(regions.max()) + 1))]
    weights = np.array([mass.sum() for _, mass in parts])
    width = distribution.shape[1]
    centres = np.array([(np.mean(own % width) + 0.5, np.mean(own // width) + 0.5) for own, _ in parts])
    return _features(weights, parts, centres, np.zeros(len(parts)))


def effect_features(effects: NDArray[np.float64], *, size: int = 8) -> PixelFeatures:
    """Pixels in the order of their measured effect, cut into features of `size` pixels: the grey-box way.

    Args:
        effects: (H, W) how far the margin falls when the pixel alone is changed, the best instruction; any sign.
        size: pixels a feature, >= 1; the first feature holds those with the largest effects.
    """
    if size < 1:
        raise InvalidSetting(f"size must be >= 1; got {size}.")
    flat = np.maximum(effects.reshape(-1), 0.0)
    flat = flat / flat.max() if flat.max() > 0 else np.ones(len(flat))
    order = np.argsort(-effects.reshape(-1), kind="stable")
    parts = [(order[at : at + size], flat[order[at : at + size]] + 0.01) for at in range(0, len(order), size)]
    width = effects.shape[1]
    centres = np.array([(np.mean(own % width) + 0.5, np.mean(own // width) + 0.5) for own, _ in parts])
    return _features(np.array([mass.sum() for _, mass in parts]), parts, centres, np.zeros(len(parts)))


def _features(
    weights: NDArray[np.float64],
    parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]],
    centres: NDArray[np.float64],
    radii: NDArray[np.float64],
) -> PixelFeatures:
    """Sorted and normalised, no chance below a millionth of the largest of its feature."""
    pixels, chances = [], []
    for own, mass in parts:
        order = np.argsort(-mass, kind="stable")
        floored = np.maximum(mass[order], _LEAST_CHANCE * max(float(mass.max()), 1e-300))
        pixels.append(own[order].astype(np.int64))
        chances.append(floored / floored.sum())
    return PixelFeatures(weights / weights.sum(), tuple(pixels), tuple(chances), centres, radii)
