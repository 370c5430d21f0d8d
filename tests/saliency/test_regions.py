"""Regions: every pixel belongs to exactly one, and features cut where they should."""

from __future__ import annotations

import numpy as np

from robustest.saliency.features import Features
from robustest.saliency.regions import feature_regions, grid_regions, one_region


def features(*places: tuple[float, float]) -> Features:
    return Features(np.array(places, float), np.ones(len(places)), np.arange(len(places), 0, -1.0))


def test_two_features_of_one_size_share_the_image_at_the_middle() -> None:
    regions = feature_regions(features((2.0, 4.0), (8.0, 4.0)), 8, 10).reshape(8, 10)
    assert (regions[:, :5] == regions[0, 0]).all()
    assert (regions[:, 5:] == regions[0, 9]).all()
    assert regions[0, 0] != regions[0, 9]


def test_only_the_strongest_features_are_used() -> None:
    regions = feature_regions(features((1.0, 1.0), (9.0, 1.0), (5.0, 9.0)), 10, 10, most=2)
    assert len(np.unique(regions)) == 2


def test_region_numbers_leave_no_gap() -> None:
    regions = feature_regions(features((1.0, 1.0), (1.0, 1.0), (9.0, 1.0)), 10, 10)
    assert sorted(np.unique(regions)) == list(range(len(np.unique(regions))))


def test_fewer_than_two_features_fall_back_to_the_grid() -> None:
    assert np.array_equal(feature_regions(features((3.0, 3.0)), 28, 28), grid_regions(28, 28))


def test_the_grid_covers_images_that_are_not_square() -> None:
    regions = grid_regions(21, 33)
    assert len(regions) == 21 * 33
    assert np.bincount(regions).min() >= 1


def test_one_region_is_one() -> None:
    assert not one_region(5, 7).any()
