"""Least values of linear forms over regions, against closed forms and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from robustest.bounds.recheck_bounds import Leaf
from robustest.bounds.region import Region
from robustest.errors import InvalidSetting
from robustest.settings import Norm

ROOM = 1e-9
"""The minimum may lie below the exact one by rounding, never above it."""


def close_below(found: float, exact: float, room: float = ROOM) -> bool:
    """Whether a lower bound is one, and tight."""
    return exact - room * (1 + abs(exact)) <= found <= exact + 1e-15 * (1 + abs(exact))


def test_linf_over_a_whole_ball_is_the_l1_norm_of_the_form() -> None:
    form = torch.tensor([[[1.0, -2.0, 3.0]]], dtype=torch.float64)
    ball = Region.ball(torch.full((1, 3), 0.5), "linf", 0.1)
    assert close_below(float(ball.min_linear(form)), 1.0 - 0.1 * 6)


def test_l2_away_from_the_box_is_the_l2_norm_of_the_form() -> None:
    form = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
    ball = Region.ball(torch.full((1, 2), 0.5), "l2", 0.2)
    assert close_below(float(ball.min_linear(form)), 3.5 - 0.2 * 5)


def test_l1_takes_the_steepest_coordinates_as_far_as_the_box_goes() -> None:
    form = torch.tensor([[[5.0, 4.0, 1.0]]], dtype=torch.float64)
    ball = Region.ball(torch.tensor([[0.3, 0.5, 0.5]], dtype=torch.float64), "l1", 0.5)
    # 0.3 of the budget moves the first to 0, 0.2 moves the second.
    assert close_below(float(ball.min_linear(form)), 5 * 0.3 + 4 * 0.5 + 0.5 - 5 * 0.3 - 4 * 0.2)


@pytest.mark.parametrize("budget", [0, 1, 2, 3])
@pytest.mark.parametrize("norm", ["l0", "l0_dims"])
def test_l0_is_the_best_of_all_subsets(norm: Norm, budget: int) -> None:
    rng = np.random.default_rng(budget)
    image, form = rng.random(8), rng.normal(size=8)
    unit = 2 if norm == "l0" else 1
    best = min(
        sum(
            min(form[i] * (v - image[i]) for v in (0, image[i], 1))
            for u in units
            for i in range(u * unit, (u + 1) * unit)
        )
        for units in itertools.combinations(range(8 // unit), budget)
    )
    ball = Region.ball(torch.from_numpy(image)[None], norm, budget, channels=2)
    assert close_below(float(ball.min_linear(torch.from_numpy(form)[None, None])), form @ image + best)


@pytest.mark.parametrize("seed", range(5))
def test_l1_and_l2_agree_with_general_solvers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, form, eps = rng.random(6), rng.normal(size=6), rng.uniform(0.1, 1)
    batch = torch.from_numpy(image)[None]
    flat = torch.from_numpy(form)[None, None]
    # L1: x = image + p - q with p, q >= 0 and their sum within the budget.
    answer = linprog(
        np.concatenate([form, -form]),
        A_ub=np.ones((1, 12)),
        b_ub=[eps],
        bounds=[*((0, 1 - v) for v in image), *((0, v) for v in image)],
    )
    assert close_below(float(Region.ball(batch, "l1", eps).min_linear(flat)), form @ image + answer.fun, 1e-7)
    solved = minimize(
        lambda d: form @ d,
        np.zeros(6),
        jac=lambda d: form,
        bounds=list(zip(-image, 1 - image, strict=True)),
        constraints={"type": "ineq", "fun": lambda d: eps**2 - d @ d, "jac": lambda d: -2 * d},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    found = float(Region.ball(batch, "l2", eps).min_linear(flat))
    assert abs(found - (form @ image + solved.fun)) < 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_the_least_point_is_in_the_region_and_attains_the_minimum(norm: Norm) -> None:
    rng = np.random.default_rng(3)
    image, form = torch.from_numpy(rng.random((2, 12))), torch.from_numpy(rng.normal(size=(2, 4, 12)))
    eps = 2 if norm == "l0" else 0.4
    ball = Region.ball(image, norm, eps, channels=3)
    point = ball.argmin_linear(form)
    value = (form * point).sum(-1)
    assert bool((point >= 0).all() and (point <= 1).all())
    assert bool(((value - ball.min_linear(form)).abs() < 1e-6).all())


def test_groups_share_no_budget() -> None:
    image = torch.full((1, 4), 0.5).double()
    form = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]]).double()
    sets = [[(torch.tensor([0, 1]), 1), (torch.tensor([2, 3]), 1)]]
    found = float(Region.sparse(image, sets, channels=1).min_linear(form))
    assert close_below(found, 5.0 - 4 * 0.5 - 2 * 0.5)


def test_windows_see_what_the_whole_sees() -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, 27)))
    for norm, eps in (("linf", 0.1), ("l2", 0.4), ("l1", 0.8), ("l0", 2)):
        ball = Region.ball(image, norm, eps, channels=3)  # type: ignore[arg-type]
        window = torch.tensor([[0, 1, 9, 9]])  # two pixels inside the image and two outside
        form = torch.from_numpy(rng.normal(size=(1, 1, 12)))
        whole = torch.zeros(1, 1, 27).double()
        whole[..., :6] = form[..., :6]
        seen = ball.restrict(torch.tensor([0]), window)
        assert float(seen.min_linear(form)) == pytest.approx(float(ball.min_linear(whole)), abs=1e-9)


def test_what_is_no_region_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="eps"):
        Region.ball(torch.zeros(1, 2), "linf", -0.1)
    with pytest.raises(InvalidSetting, match="255"):
        Region.ball(torch.full((1, 2), 200.0), "linf", 0.1)
    with pytest.raises(InvalidSetting, match="lower"):
        Region.box_of(torch.ones(1, 2), torch.zeros(1, 2))


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("seed", range(5))
def test_moves_that_may_gain_either_way_are_bounded_by_their_best_ways(norm: Norm, seed: int) -> None:
    """Against all choices of directions (each a problem of one direction) and points of the set; both programs."""
    rng = np.random.default_rng(seed)
    centre = torch.from_numpy(rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], (1, 6)))
    region = Region.ball(centre, norm, float(rng.uniform(0.05, 1.5)))
    rise, fall = (torch.from_numpy(rng.random((1, 4, 6)) * (rng.random((1, 4, 6)) < 0.7)) for _ in range(2))
    bound = region.most_gained(rise, fall)
    up, down = region.upper - region.centre, region.centre - region.lower
    best = torch.zeros_like(bound)
    solve = region.knapsack if norm == "l1" else region.ball_and_box
    for ways in itertools.product([True, False], repeat=6):
        upwards = torch.tensor(ways)
        best = torch.maximum(best, solve(torch.where(upwards, rise, fall), torch.where(upwards, up, down)[:, None]))
    assert bool((bound >= best * (1 - 1e-12)).all())
    loose = solve(torch.maximum(rise, fall), torch.maximum(up, down)[:, None])
    assert bool((bound <= loose * (1 + 1e-9)).all())
    # Where each dimension has one way alone, the bound is exact.
    one = region.most_gained(rise * (rise > fall), fall * (rise <= fall))
    single = solve(torch.maximum(rise, fall), torch.where(rise > fall, up, down))
    assert torch.allclose(one, single, rtol=1e-9)
    moves = torch.from_numpy(rng.normal(size=(1, 20_000, 6)))
    size = moves.abs().sum(-1, keepdim=True) if norm == "l1" else moves.norm(dim=-1, keepdim=True)
    moves = torch.minimum(torch.maximum(moves / size * region.eps, -down), up)
    gain = moves.clamp_min(0) @ rise.transpose(1, 2) + (-moves).clamp_min(0) @ fall.transpose(1, 2)
    assert bool((gain <= bound[:, None] * (1 + 1e-12)).all())
    leaf = Leaf(*(t[0].numpy() for t in (region.centre, region.lower, region.upper)), norm, eps=float(region.eps))
    middle, radius = (fall - rise)[0].numpy() / 2, (fall + rise)[0].numpy() / 2
    again = leaf.most_lost(middle, radius)
    assert (again >= best[0].numpy() * (1 - 1e-12)).all()
    assert (again <= loose[0].numpy() * (1 + 1e-6)).all()


def test_a_way_that_is_forgotten_is_caught() -> None:
    """From 0 nothing goes down and from 1 nothing up: rates the wrong way gain nothing, rates the right way all."""
    region = Region.ball(torch.tensor([[0.0, 1.0]]).double(), "l2", 0.5)
    right = torch.tensor([[[3.0, 0.0]]]).double(), torch.tensor([[[0.0, 4.0]]]).double()
    assert float(region.most_gained(*right)) == pytest.approx(2.5)
    assert float(region.most_gained(right[1], right[0])) == 0.0
