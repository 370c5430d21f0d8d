"""Lower bounds of the games on small regions, against formulas and exhaustive search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.attack.pixel_features import partition_features
from robustest.attack.pixel_game import PixelGame, PixelRules
from robustest.bounds.exact_games import (
    exact_grid_value,
    exhaustive_sparse,
    feature_robustness,
    margin_constant,
    safe_radius,
    sets_to_try,
)
from robustest.bounds.grid_region import GridConstants, GridRegion
from robustest.bounds.guarantee import Guarantee
from robustest.bounds.taugrid import TauGrid
from robustest.errors import InvalidSetting

from .plane import around, given, linear

Array = NDArray[np.float32]


def ring(images: Array) -> NDArray[np.float64]:
    """Wrong within 0.1 of (0.2, 0.2): margin |p - q| - 0.1, slope 1."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    gap = np.hypot(flat[:, 0] - 0.2, flat[:, 1] - 0.2) - 0.1
    return np.stack([gap, np.zeros_like(gap)], 1)


@pytest.mark.parametrize(("norm", "distance"), [("l2", 0.52), ("linf", 2.6 / 7), ("l1", 0.65)])
def test_the_safe_radius_of_a_plane_is_gap_over_slope(norm: str, distance: float) -> None:
    """From (0.6, 0.7) the gap is 2.6, the slope (3, 4): L2 5, Linf 7 in its dual, L1 4 along b alone."""
    found = safe_radius(TauGrid(around(0.6, 0.7), given(5.0), linear, label=0), norm=norm, tolerance=0.02)  # type: ignore[arg-type]
    assert found.lower is not None
    assert found.upper is not None
    assert found.lower <= distance <= found.upper
    assert found.upper - found.lower <= 0.03 * distance
    assert found.guarantee is Guarantee.PROOF_GIVEN_L


def test_the_safe_radius_of_a_disc_is_known() -> None:
    exact = math.hypot(0.6, 0.5) - 0.1
    found = safe_radius(TauGrid(around(0.8, 0.7), given(1.0), ring, label=0), tolerance=0.02)
    assert found.lower is not None
    assert found.upper is not None
    assert found.lower <= exact + 1e-6
    assert exact - 1e-6 <= found.upper
    assert found.upper <= 1.05 * found.lower
    few = safe_radius(TauGrid(around(0.8, 0.7), given(1.0), ring, label=0, batch=4), queries=20)
    assert few.lower is not None
    assert few.lower <= exact


def test_a_region_without_errors_is_safe_at_every_radius() -> None:
    found = safe_radius(TauGrid(around(1.0, 1.0).within(0.5), given(5.0), linear, label=0))
    assert found.lower == math.inf
    assert found.upper is None


def game_on(region: GridRegion, rules: PixelRules, margin: float) -> PixelGame:
    features = partition_features(np.array([0, 0, 1, 1]), np.full((2, 2), 0.25))
    return PixelGame(region.image, features, rules, clean_margin=margin)


@pytest.mark.parametrize("norm", ["l1", "l2", "l0"])
def test_a_star_finds_what_a_full_search_of_the_grid_finds(norm: str) -> None:
    """Steps of 0.25 from (0.6, 0.7), every grid point of both pixels tried by hand."""
    image = np.zeros((2, 2, 1), np.float32)
    image[0, 0], image[0, 1] = 0.6, 0.7
    whole = GridRegion.of_mask(image, np.ones((2, 2), bool))
    rules = PixelRules(norm=norm, radius=4.0, tau=0.25, change="dimension", once=False)  # type: ignore[arg-type]
    game = game_on(whole, rules, 2.6)
    rate = np.array([[3.0, 4.0, 0.0, 0.0]])
    constants = GridConstants(np.array([1]), rate, None, np.zeros(1), Guarantee.PROOF_REAL, "by hand")
    found = exact_grid_value(game, constants, whole, linear, 0)
    values = [sorted({float(np.clip(v + 0.25 * s, 0, 1)) for s in range(-4, 5)}) for v in (0.6, 0.7)]
    best = math.inf
    for a in values[0]:
        for b in values[1]:
            if 3 * np.float32(a) + 4 * np.float32(b) - 2 < 0:
                move = np.abs([a - np.float32(0.6), b - np.float32(0.7)])
                best = min(best, {"l1": move.sum(), "l2": math.hypot(*move), "l0": (move > 1e-6).sum()}[norm])
    assert found.upper == pytest.approx(best, abs=1e-5)
    assert found.lower == pytest.approx(best, abs=1e-5)
    assert found.witness is not None
    assert linear(found.witness[None]).argmax() == 1
    assert "grid" in found.subject


def test_a_constant_spares_queries_without_changing_the_value() -> None:
    image = np.zeros((2, 2, 1), np.float32)
    image[0, 0], image[0, 1] = 0.9, 0.9
    whole = GridRegion.of_mask(image, np.ones((2, 2), bool))
    rules = PixelRules(norm="l1", radius=4.0, tau=0.1, change="dimension", once=False)
    game = game_on(whole, rules, 4.3)
    tight, loose = (
        GridConstants(np.array([1]), np.array([[r, r, r, r]]), None, np.zeros(1), Guarantee.PROOF_REAL, "by hand")
        for r in (4.0, 1000.0)
    )
    with_bound = exact_grid_value(game, tight, whole, linear, 0)
    without = exact_grid_value(game, loose, whole, linear, 0)
    assert with_bound.upper == pytest.approx(without.upper)
    assert with_bound.queries < without.queries


def test_feature_robustness_is_that_of_the_hardest_feature() -> None:
    """Pixel a alone crosses at 2.6 / 3 > 0.6: it cannot; pixel b alone at 0.65."""
    image = around(0.6, 0.7).image
    grids = []
    for column in (0, 1):
        mask = np.zeros((2, 2), bool)
        mask[0, column] = True
        grids.append(TauGrid(GridRegion.of_mask(image, mask), given(5.0), linear, label=0))
    found = feature_robustness(grids, norm="linf")
    assert found.lower == math.inf
    assert found.upper is None
    only = feature_robustness(grids[1:], norm="linf")
    assert only.lower is not None
    assert only.upper is not None
    assert only.lower <= 0.65 <= only.upper


def test_constants_by_norm_and_pixel() -> None:
    rate = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 4.0]])
    constants = GridConstants(np.array([1, 2]), rate, None, np.zeros(2), Guarantee.PROOF_REAL, "by hand")
    dims = np.array([0, 1, 2])
    for norm, value in (("l1", 4.0), ("l2", 4.0), ("linf", 5.0), ("l0_dims", 4.0)):
        assert margin_constant(constants, norm, channels=1, dims=dims) == pytest.approx(value)
    assert margin_constant(constants, "l0", channels=3, dims=dims) == pytest.approx(5.0)
    with pytest.raises(InvalidSetting, match="its own norm"):
        margin_constant(given(1.0, "l2"), "l1", channels=1, dims=dims)


def test_every_small_set_with_listed_values_is_tried() -> None:
    """S7: 28x28 with two values takes 1,568 images for one pixel and 1.23 million for two."""
    assert sets_to_try(784, 1, 2) == 1568
    assert sets_to_try(784, 2, 2) == 1568 + 306_936 * 4
    image = around(0.6, 0.7).image
    ends = np.array([[0.0], [1.0]], np.float32)
    found = exhaustive_sparse(linear, image, 0, 2, ends)
    assert found.exact
    assert found.lower == 1  # b = 0 alone: 1.8 - 2 < 0
    kept = exhaustive_sparse(linear, image, 0, 2, ends[1:])
    assert kept.lower == 3
    assert kept.upper is None
    assert kept.queries == sets_to_try(4, 2, 1)
    assert "given colours alone" in kept.subject
    with pytest.raises(InvalidSetting, match="1,229,312"):
        exhaustive_sparse(linear, np.zeros((28, 28, 1), np.float32), 0, 2, ends, most=10**6)
