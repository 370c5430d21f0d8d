"""A picture of an image's saliency: its features as circles, and the distribution as a heat map beside it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.images import Pixels, as_eight_bit, as_unit, check_images
from robustest.saliency.colours import heat_levels, heat_palette
from robustest.saliency.mixture import Saliency

_SIDE = 448  # pixels of the longer side of each half, about
_GAP = 16
_RING = np.array([255, 0, 140], np.uint8)
_MOST_RINGS = 200


def saliency_picture(image: Pixels, saliency: Saliency) -> NDArray[np.uint8]:
    """Draw where the search looks: left the image with a circle for each feature, right the heat map over its outline.

    A circle's centre is the feature's, its radius one sigma, its strength its share of the strongest response; the
    200 strongest are drawn.

    Args:
        image: (H, W, C) uint8 or floats in [0, 1]. saliency: of this image.

    Returns:
        (H', W', 3) uint8 RGB, enlarged by a whole number so that single pixels stay visible.
    """
    import cv2

    eight = as_eight_bit(as_unit(check_images(np.asarray(image)[None], argument="image"))[0])
    height, width = eight.shape[:2]
    scale = max(1, round(_SIDE / max(height, width)))
    colour = np.repeat(eight, 3, axis=2) if eight.shape[2] == 1 else eight
    large = np.ascontiguousarray(colour.repeat(scale, axis=0).repeat(scale, axis=1))
    features = saliency.features.take(_MOST_RINGS)
    rings: NDArray[np.uint8] = large.copy()
    for (x, y), sigma, response in zip(features.centre, features.sigma, features.response, strict=True):
        one = rings.copy()
        cv2.circle(
            one, (round(x * scale), round(y * scale)), max(round(sigma * scale), 2), _RING.tolist(), 2, cv2.LINE_AA
        )
        share = 0.3 + 0.7 * float(response / features.response.max())
        rings = np.asarray(cv2.addWeighted(one, share, rings, 1 - share, 0), np.uint8)
    heat = heat_palette()[heat_levels(saliency.distribution)].repeat(scale, axis=0).repeat(scale, axis=1)
    gap = np.full((len(large), _GAP, 3), 255, np.uint8)
    return np.concatenate([rings, gap, heat], axis=1)
