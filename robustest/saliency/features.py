"""SIFT keypoints of an image, as arrays.

Tiny images are enlarged first: OpenCV's defaults find too little in 28x28 (on 300 digits, unenlarged leaves 5 % without
a keypoint, twice enlarged none). Keypoints that share a centre (one for each orientation) are merged.

Source: Lowe, IJCV 2004, by OpenCV. Knows nothing of classifiers, games or search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.images import as_eight_bit

_LEAST_SIDE = 112  # enlarged up to about this many pixels, and at most four times
_CONTRAST = 0.01


@dataclass(frozen=True, slots=True)
class Features:
    """Keypoints of one image, as columns, strongest first; M is how many.

    centre: (M, 2) column and row, in pixels of the image as given; 0.5 is the middle of the first.
    sigma: (M,) spread in the same pixels, > 0: half of OpenCV's diameter.
    response: (M,) strength the detector gave, > 0, no unit; of merged keypoints the largest.
    """

    centre: NDArray[np.float64]
    sigma: NDArray[np.float64]
    response: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.response)

    def take(self, most: int) -> Features:
        """The strongest `most` of them."""
        return Features(self.centre[:most], self.sigma[:most], self.response[:most])


def enlargement(height: int, width: int) -> int:
    """How many times an image is enlarged before SIFT looks at it: 1 to 4."""
    return int(np.clip(_LEAST_SIDE // max(min(height, width), 1), 1, 4))


def detect_features(image: NDArray[np.float32], *, contrast: float = _CONTRAST) -> Features:
    """SIFT keypoints of an image (H, W, C) in [0, 1]; there may be none.

    Args:
        image: gray or RGB.
        contrast: OpenCV's contrast threshold, >= 0; lower finds more.
    """
    import cv2

    height, width, channels = image.shape
    scale = enlargement(height, width)
    eight = as_eight_bit(image)
    gray = eight[..., 0] if channels == 1 else cv2.cvtColor(eight, cv2.COLOR_RGB2GRAY)
    large = gray if scale == 1 else cv2.resize(gray, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
    sift = cv2.SIFT_create(contrastThreshold=contrast)  # type: ignore[attr-defined]  # missing in OpenCV's stubs
    keypoints = sift.detect(np.ascontiguousarray(large), None)
    table = np.array([(*k.pt, k.size, k.response) for k in keypoints], np.float64).reshape(-1, 4)
    table = table[table[:, 3] > 0]
    table[:, :3] /= scale
    return _merged(table)


def _merged(table: NDArray[np.float64]) -> Features:
    """One keypoint a place: the strongest, ties by position so that the order is always the same."""
    order = np.lexsort((table[:, 2], table[:, 0], table[:, 1], -table[:, 3]))
    table = table[order]
    _, first = np.unique(np.round(table[:, :2], 1), axis=0, return_index=True)
    table = table[np.sort(first)]
    return Features(table[:, :2].copy(), np.maximum(table[:, 2] / 2, 0.5), table[:, 3].copy())
