"""Player I's moves in the few-pixel search: the regions of an image that share what is learned of their pixels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from robustest.attack.search_states import Ints
from robustest.attack.task import Task
from robustest.results import SaliencyChange
from robustest.saliency.features import Features, detect_features
from robustest.saliency.mixture import mixture
from robustest.saliency.regions import feature_regions, grid_regions, one_region

LARGE = 64  # pixels along the shorter side, above which effects reach further and SIFT is trusted


def features_of(task: Task) -> Features | None:
    """The SIFT features of one image, where they were asked for and are trusted.

    In a small image a feature's region is hardly larger than what a pixel's neighbours tell of it anyway, and borrowing
    from it was measured to cost pixels (28x28): there SIFT is not trusted, and squares of a grid are the regions.
    """
    trusted = task.settings.guide == "sift" and min(task.image.shape[:2]) > LARGE
    return detect_features(task.image) if trusted else None


def regions_of(task: Task, features: Features | None) -> Ints:
    """(H*W,) player I's moves for one image, by the guide that was asked for; `features` as by `features_of`."""
    height, width, _ = task.image.shape
    if features is not None:
        return feature_regions(features, height, width)
    return _regions(height, width, whole=task.settings.guide == "uniform")


@lru_cache(maxsize=8)
def _regions(height: int, width: int, *, whole: bool) -> Ints:
    regions = one_region(height, width) if whole else grid_regions(height, width)
    regions.setflags(write=False)  # all images of this size share them
    return regions


def reweighted(
    image: NDArray[np.float32], features: Features | None, promise: NDArray[np.floating], *, sift: bool
) -> SaliencyChange:
    """The distribution that the guide gives, and the same reweighted by what each pixel turned out to promise (H, W), >= 0.

    It is made when it is looked at: most users never do.
    """

    def maps() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        height, width = promise.shape
        before = np.full(promise.shape, 1 / promise.size)
        if sift:
            before = mixture(detect_features(image) if features is None else features, height, width).distribution
        after = before * (1 + promise)
        return before, after / after.sum()

    return SaliencyChange.later(maps)
