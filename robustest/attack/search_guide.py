"""Player I's moves in the few-pixel search: the regions of an image that share what is learned of their pixels."""

from __future__ import annotations

from robustest.attack.search_states import Ints
from robustest.attack.task import Task
from robustest.saliency.features import Features, detect_features
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
    return one_region(height, width) if task.settings.guide == "uniform" else grid_regions(height, width)
