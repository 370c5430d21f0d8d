"""Saliency: where to look in an image, as a probability distribution over its pixels.

A feature is drawn with probability proportional to its response, then a pixel from a Gaussian at the feature's centre
with the feature's sigma, discretised on the pixel grid and renormalised inside the image; a uniform part lets every
pixel be reached. Without any feature the distribution is uniform.

Source: Wicker, Huang & Kwiatkowska, TACAS 2018, arXiv:1710.07859. Departure: pixels outside the image are left out,
not clamped to the border, so edges get no extra mass. Knows nothing of classifiers, games or search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.errors import InvalidSetting
from robustest.images import Pixels, as_unit, check_images
from robustest.saliency.features import Features, detect_features

UNIFORM_PART = 0.1


@dataclass(frozen=True, slots=True)
class Saliency:
    """Where to look in one image.

    distribution: (H, W) probabilities, all > 0, sum 1.
    features: the keypoints it was made of; none if it fell back to the uniform distribution.
    """

    distribution: NDArray[np.float64]
    features: Features

    @property
    def uniform(self) -> bool:
        """True where there was no feature, so that every pixel is as likely."""
        return len(self.features) == 0


def saliency_of(image: Pixels, *, uniform_part: float = UNIFORM_PART) -> Saliency:
    """The SIFT saliency distribution of one image.

    Args:
        image: (H, W, C) or (H, W), uint8 or floats in [0, 1].
        uniform_part: share of the uniform distribution in the mixture, in (0, 1].

    Raises:
        InvalidImage: not such an image. InvalidSetting: `uniform_part` out of its range.
    """
    unit = as_unit(check_images(np.asarray(image)[None], argument="image"))[0]
    return mixture(detect_features(unit), unit.shape[0], unit.shape[1], uniform_part=uniform_part)


def mixture(features: Features, height: int, width: int, *, uniform_part: float = UNIFORM_PART) -> Saliency:
    """The mixture of the features' Gaussians and the uniform distribution: see the module."""
    if not 0 < uniform_part <= 1:
        raise InvalidSetting(
            f"uniform_part must be in (0, 1], so that every pixel can be reached; got {uniform_part:g}."
        )
    uniform = np.full((height, width), 1 / (height * width))
    if not len(features):
        return Saliency(uniform, features)
    weights = features.response / features.response.sum()
    across = _gaussians(np.arange(width, dtype=np.float64) + 0.5, features.centre[:, 0], features.sigma)
    down = _gaussians(np.arange(height, dtype=np.float64) + 0.5, features.centre[:, 1], features.sigma)
    total = np.einsum("m,mh,mw->hw", weights, down, across)
    distribution = (1 - uniform_part) * total / total.sum() + uniform_part * uniform
    return Saliency(distribution / distribution.sum(), features)


def _gaussians(
    places: NDArray[np.float64], centres: NDArray[np.float64], sigmas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(M, P) one axis of each Gaussian at the given places, renormalised inside the image."""
    curves = np.exp(-((places[None] - centres[:, None]) ** 2) / (2 * sigmas[:, None] ** 2))
    return np.asarray(curves / curves.sum(axis=1, keepdims=True))
