"""The repaired grid theorem on classifiers whose nearest boundary is a formula, and against dense lattices."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from robustest.bounds.cover import adaptive_cover
from robustest.bounds.decision import Decision
from robustest.bounds.grid_constants import global_constants, local_constants
from robustest.bounds.grid_region import GridConstants, GridNorm, GridRegion
from robustest.bounds.guarantee import Guarantee, Scorer
from robustest.bounds.lipschitz import product_constant
from robustest.bounds.reading import read_torch
from robustest.bounds.taugrid import TauGrid
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSetting

from .plane import around, given, linear
from .random_nets import random_network

Array = NDArray[np.float32]
SPEC = InputSpec("NCHW", "gray")


@pytest.mark.parametrize(
    ("norm", "slope", "per_step"), [("l2", 5.0, math.sqrt(2) / 2), ("l1", 4.0, 1.0), ("linf", 7.0, 0.5)]
)
def test_required_tau_is_margin_over_slope_and_half_a_cell(norm: GridNorm, slope: float, per_step: float) -> None:
    grid = TauGrid(around(0.5, 0.75), given(slope, norm), linear, label=0)  # the margin is 2.5
    assert grid.required_tau() == pytest.approx(2.5 / (slope * per_step))


def test_points_are_counted_before_the_run() -> None:
    grid = TauGrid(around(0.5, 0.75), given(5.0), linear, label=0)
    # Steps of 0.2 from 0.5 (two each way and both bounds) and from 0.75 (three down, one up, both bounds).
    assert grid.plan(0.2).points == 7 * 7
    assert math.prod(len(a) for a in grid.axes(0.2)) == 7 * 7
    assert "49 grid points" in grid.plan(0.2).sentence(scores="logits")
    assert grid.announcement(0.2).startswith("A grid needs tau <= 0.7071 at the image itself. tau = 0.2 in 2 dim")
    hopeless = TauGrid(around(0.0, 0.0), given(5.0), linear, label=0)  # misclassified already
    assert "no step is small enough" in hopeless.announcement()
    whole = GridRegion.of_mask(np.zeros((28, 28, 1), np.float32), np.ones((28, 28), bool))
    large = TauGrid(whole, given(1.0), linear, label=0)
    assert large.plan(0.05).points == 21**784
    with pytest.raises(InvalidSetting, match=r"10\^1037 grid points"):
        large.uniform(0.05)


def test_a_grid_proves_a_region_on_one_side_of_the_boundary() -> None:
    region = around(0.9, 0.9).within(0.2)  # the least margin is 3 * 0.7 + 4 * 0.7 - 2 = 2.9
    grid = TauGrid(region, given(5.0), linear, label=0)
    fine = grid.uniform(0.1)
    assert fine.decision is Decision.PROVED
    assert fine.guarantee is Guarantee.PROOF_GIVEN_L
    bound = fine.bound(0.2, free=2)
    assert bound is not None
    assert bound.guarantee is Guarantee.PROOF_GIVEN_L
    assert any("supplied, not checked" in a for a in bound.assumptions)
    assert "given the supplied" in fine.sentence()


@pytest.mark.parametrize("tau", [0.3, 0.1, 0.03])
def test_the_sandwich_holds_the_distance_of_a_plane(tau: float) -> None:
    """S3: from (0.6, 0.7) the boundary is (1.8 + 2.8 - 2) / 5 = 0.52 away; F - rho <= 0.52 <= F."""
    cover = TauGrid(around(0.6, 0.7), given(5.0), linear, label=0).uniform(tau)
    assert cover.decision is Decision.FALSIFIED
    assert cover.upper is not None
    assert cover.upper >= 0.52
    if cover.lower is not None:
        assert cover.lower <= 0.52
        assert cover.upper - cover.lower <= tau * math.sqrt(2) / 2 + 1e-6


def test_an_error_in_the_middle_of_a_cell_is_not_proved_away() -> None:
    """The published theorem takes L1 balls of radius tau / 2, which miss the middle of a square cell."""

    def bump(images: Array) -> NDArray[np.float64]:
        flat = images.reshape(len(images), -1).astype(np.float64)
        away = np.abs(flat[:, 0] - 0.5) + np.abs(flat[:, 1] - 0.5)
        gap = np.minimum(away - 0.3, 0.6)  # slope 1 in Linf's dual: L1 norm of the gradient is 2
        return np.stack([gap, np.zeros_like(gap)], 1)

    # At the corners, tau = 1, the margin is 0.6 > 1 * tau / 2: the published form would call the square safe.
    grid = TauGrid(around(0.0, 0.0), given(1.0, "l1"), bump, label=0)
    assert grid.uniform(1.0).decision is Decision.OPEN
    assert adaptive_cover(grid).decision is Decision.FALSIFIED


def test_an_adaptive_cover_asks_only_where_it_must() -> None:
    region = around(1.0, 1.0).within(0.55)  # least margin 3 * 0.45 + 4 * 0.45 - 2 = 1.15
    grid = TauGrid(region, given(5.0), linear, label=0)
    cover = adaptive_cover(grid)
    assert cover.decision is Decision.PROVED
    assert cover.certified == 1.0
    assert cover.queries < grid.uniform(0.1).queries


def test_points_that_were_visited_save_queries() -> None:
    region = around(1.0, 1.0).within(0.55)
    grid = TauGrid(region, given(5.0), linear, label=0)
    alone = adaptive_cover(grid)
    visited = np.array(list(itertools.product(np.linspace(0.5, 1, 9), repeat=2)), np.float32)
    helped = adaptive_cover(grid, visited=visited)
    assert helped.decision is Decision.PROVED
    assert helped.reused > 0
    assert helped.queries < alone.queries
    wrong = adaptive_cover(TauGrid(around(1, 1), given(5.0), linear, label=0), visited=np.zeros((1, 2), np.float32))
    assert wrong.decision is Decision.FALSIFIED
    assert wrong.queries == 0


def test_an_unfinished_cover_is_progress_not_proof() -> None:
    region = around(1.0, 1.0).within(0.69)  # least margin 0.17: many cells
    cover = adaptive_cover(TauGrid(region, given(20.0), linear, label=0, batch=2), queries=40)
    assert cover.decision is Decision.OPEN
    assert 0 < cover.certified < 1
    assert cover.bound(0.69, free=2) is None
    assert "progress, not proof" in cover.sentence()


def test_a_margin_equal_to_the_loss_is_not_certified() -> None:
    """A constant margin of 0.5 with slope 1 and tau 1 in Linf: equality is no proof."""

    def flat(images: Array) -> NDArray[np.float64]:
        return np.stack([np.full(len(images), 0.5), np.zeros(len(images))], 1)

    grid = TauGrid(around(0.0, 0.0), given(1.0, "linf"), flat, label=0)
    assert grid.uniform(1.0).decision is Decision.OPEN
    assert grid.uniform(0.5).decision is Decision.PROVED


def test_targeted_grids_ask_about_one_rival() -> None:
    """Class 1 is reached at once, class 2 never."""

    def three(images: Array) -> NDArray[np.float64]:
        flat = images.reshape(len(images), -1).astype(np.float64)
        return np.stack([np.ones(len(flat)), 2 - 3 * flat[:, 0], np.full(len(flat), -9.0)], 1)

    region = around(1.0, 1.0)
    for target, decision in ((1, Decision.FALSIFIED), (2, Decision.PROVED)):
        constants = GridConstants.supplied(3.0, "l1", label=0, classes=3, target=target)
        assert adaptive_cover(TauGrid(region, constants, three, label=0)).decision is decision


def run_network(model: nn.Module, images: Array) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(SPEC.prepare(images))))


def near_a_boundary(scorer: Scorer, rng: np.random.Generator, others: int) -> tuple[Array, int]:
    """A random image, moved towards another one of a different class, if one is met, until just before the class changes."""
    image = rng.random((5, 5, 1)).astype(np.float32)
    label = int(scorer(image[None]).argmax())
    for other in rng.random((others, 5, 5, 1)).astype(np.float32):
        line = image + np.linspace(0, 1, 30, dtype=np.float32)[:, None, None, None] * (other - image)
        wrong = np.flatnonzero(scorer(line).argmax(1) != label)
        if len(wrong):
            return line[wrong[0] - 1], label
    return image, label


def test_local_and_global_constants_agree_with_a_dense_lattice() -> None:
    """Random networks, three free dimensions: what is proved holds on 21^3 lattice points, what is refuted is wrong."""
    rng = np.random.default_rng(0)
    met = set()
    for turn in range(16):
        model = random_network(rng, (1, 5, 5)).float()
        graph = read_torch(model, SPEC, (5, 5, 1))
        scorer = partial(run_network, model)
        image, label = near_a_boundary(scorer, rng, 50 * (turn % 2))
        mask = np.zeros(25, bool)
        mask[rng.choice(25, 3, replace=False)] = True
        region = GridRegion.of_mask(image, mask.reshape(5, 5)).within(float(rng.uniform(0.05, 1)))
        axes = [np.linspace(lo, hi, 21).astype(np.float32) for lo, hi in zip(region.lower, region.upper, strict=True)]
        lattice = np.clip(np.array(list(itertools.product(*axes)), np.float32), region.lower, region.upper)
        broken = bool((scorer(region.render(lattice)).argmax(1) != label).any())
        local = local_constants(graph, region, label, scorer=scorer)
        whole = global_constants(graph, product_constant(graph, "l2"), region, label, scorer=scorer)
        for constants in (local, whole):
            cover = adaptive_cover(TauGrid(region, constants, scorer, label=label), queries=1000)
            met.add(cover.decision)
            if cover.decision is Decision.PROVED:
                assert not broken
                assert cover.guarantee is Guarantee.PROOF_EXEC
            if cover.decision is Decision.FALSIFIED:
                assert cover.witness is not None
                assert scorer(cover.witness[None]).argmax() != label
    assert {Decision.PROVED, Decision.FALSIFIED} <= met


def test_regions_are_the_pixels_of_a_feature_or_of_a_change() -> None:
    image = np.zeros((6, 6, 3), np.float32)
    other = image.copy()
    other[2, 3, 1] = 1
    assert GridRegion.of_support(image, other).dims.tolist() == [45, 46, 47]
    feature = GridRegion.of_feature(image, (3.5, 2.5), 1.0)
    # The pixel whose middle is at column 3.5, row 2.5, and its four neighbours, three channels each.
    assert len(feature.dims) == 15
    with pytest.raises(InvalidSetting, match="some True entry"):
        GridRegion.of_mask(image, np.zeros((6, 6), bool))
    with pytest.raises(InvalidSetting, match="tau must be > 0"):
        TauGrid(feature, given(1.0), linear, label=0).plan(0.0)
    with pytest.raises(InvalidSetting, match="constant must be"):
        given(math.inf)
