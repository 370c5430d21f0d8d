"""Proofs by contradiction: corners hold what they must, nothing false is proved, and they prove more than CROWN alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from robustest.bounds.budget import most_in_l1
from robustest.bounds.crown import margin_bounds
from robustest.bounds.cuts import prove_by_cuts
from robustest.bounds.graph import BoundGraph
from robustest.bounds.radius import largest_radius
from robustest.bounds.reading import read_torch
from robustest.bounds.region import Region

from .random_nets import random_network
from .test_branch_layers import GRAY, mlp
from .test_planted import load
from .train_planted import KINDS, RADIUS


@pytest.mark.parametrize("seed", range(8))
def test_a_corner_holds_every_point_at_which_the_form_is_not_positive(seed: int) -> None:
    """Points of the box, drawn near its corner: inside the weighted ball, and no minimum over it lies above their values."""
    rng = np.random.default_rng(seed)
    n = 6
    lower = torch.from_numpy(rng.random((1, n)) * 0.5)
    upper = lower + torch.from_numpy(rng.random((1, n)) * 0.5)
    form = torch.from_numpy(rng.normal(size=(3, n)) * (rng.random((3, n)) < 0.8))
    box = Region.box_of(lower, upper)
    least = box.min_linear(form[None])[0]
    offset = -least - torch.from_numpy(rng.random(3) * 0.3)
    corner = box.below(form, least + offset)
    other = torch.from_numpy(rng.normal(size=(3, 4, n)))
    minima = corner.min_linear(other)
    assert corner.weight is not None
    share = torch.from_numpy(rng.random((20_000, n)) ** 4)
    for row in range(3):
        start = corner.centre[row]
        assert float(form[row] @ start + offset[row]) == pytest.approx(float(least[row] + offset[row]))
        points = start + share * (lower + upper - 2 * start)
        kept = points[points @ form[row] + offset[row] <= 0]
        assert len(kept)
        assert bool(((kept - start).abs() @ corner.weight[row] <= corner.eps[row]).all())
        assert bool((kept @ other[row].T >= minima[row]).all())
        for k in range(4):
            exact = linprog(
                other[row, k].numpy(),
                A_ub=form[row][None].numpy(),
                b_ub=[-float(offset[row])],
                bounds=list(zip(lower[0].tolist(), upper[0].tolist(), strict=True)),
            ).fun
            assert exact - 1e-7 <= float(minima[row, k]) <= exact + 1e-7


def test_what_costs_nothing_moves_freely_and_what_costs_is_shared_out() -> None:
    """2 a unit at a cost of 4, 1 a unit at 1, and 3 a unit for nothing, each within 1, of a budget of 2: 3 + 1 + 2/4."""
    form, one = torch.tensor([[[2.0, 1.0, 3.0]]]).double(), torch.ones(1, 3).double()
    weight = torch.tensor([[4.0, 1.0, 0.0]]).double()
    found = most_in_l1(form, 0 * one, one, torch.tensor([2.0]).double(), weight)
    assert float(found) == pytest.approx(3 + 1 + 2 * 0.25)
    assert float(most_in_l1(-form, -one, 0 * one, torch.tensor([2.0]).double(), weight)) == pytest.approx(4.5)


def check_small_network(seed: int, steps: int) -> None:
    """With the least margin of a fine grid moved to just below 0 nothing is proved, whatever the corners say."""
    rng = np.random.default_rng(seed)
    model = mlp(rng, 2, 8, 8, 3)
    step = torch.linspace(0, 1, 301, dtype=torch.float64)
    scores = read_torch(model, GRAY, (1, 2, 1)).forward(torch.cartesian_prod(step, step))
    least = float((scores[:, :1] - scores[:, 1:]).min())
    region = Region.box_of(torch.zeros(1, 2), torch.ones(1, 2))
    proved, plain = [], []
    before = model[5].bias[0].item()  # type: ignore[index]
    for target in (-1e-4, 0.3, 1.0, 3.0, 10.0):
        with torch.no_grad():
            model[5].bias[0] = before + target - least  # type: ignore[index]
        graph = read_torch(model, GRAY, (1, 2, 1))
        with torch.no_grad():
            first = margin_bounds(graph, region, 0)
        proved.append(prove_by_cuts(graph, region, 0, first, steps=steps))
        plain.append(bool(first.proved[0]))
    assert not proved[0]
    assert all(mine or not theirs for mine, theirs in zip(proved, plain, strict=True))


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("seed", range(10))
def test_small_networks_are_proved_on_the_right_side_of_the_truth_alone(seed: int, steps: int) -> None:
    check_small_network(seed, steps)


# Each mutant is one way in which corners can be wrong; the check above must notice it.


def short_corner(corner: Region) -> Region:
    """Half of the length that the form leaves."""
    return replace(corner, eps=corner.eps / 2)


def other_corner(corner: Region) -> Region:
    """The corner at which the form is largest."""
    return replace(corner, centre=corner.lower + corner.upper - corner.centre)


def dear_moves(corner: Region) -> Region:
    """Moves counted by more than the form's coefficients."""
    assert corner.weight is not None
    return replace(corner, weight=1.5 * corner.weight)


@pytest.mark.parametrize("mutant", [short_corner, other_corner, dear_moves])
def test_mutants_are_caught(mutant: Callable[[Region], Region]) -> None:
    right = Region.below
    caught = 0
    for seed in range(10):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Region, "below", lambda self, form, least: mutant(right(self, form, least)))
            try:
                check_small_network(seed, 0)
            except AssertionError:
                caught += 1
    assert caught


def test_cuts_prove_what_one_relaxation_leaves_open() -> None:
    """Over 30 random networks, each with its least margin (of a grid) moved to half of what CROWN lacks."""
    more = 0
    for seed in range(30):
        rng = np.random.default_rng(100 + seed)
        model = mlp(rng, 2, 6, 6, 2)
        step = torch.linspace(0, 1, 201, dtype=torch.float64)
        graph = read_torch(model, GRAY, (1, 2, 1))
        scores = graph.forward(torch.cartesian_prod(step, step))
        least = float((scores[:, 0] - scores[:, 1]).min())
        region = Region.box_of(torch.zeros(1, 2), torch.ones(1, 2))
        with torch.no_grad():
            lost = least - float(margin_bounds(graph, region, 0).lower)
            model[5].bias[0] += 0.8 * lost - least  # type: ignore[index]
            graph = read_torch(model, GRAY, (1, 2, 1))
            first = margin_bounds(graph, region, 0)
        if not bool(first.proved[0]):
            more += prove_by_cuts(graph, region, 0, first)
    assert more >= 10


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("index", [i for i, kind in enumerate(KINDS) if kind == "linf"])
def test_a_planted_image_is_never_proved_away(index: int, steps: int) -> None:
    _, graph, image, _ = load(index)
    region = Region.ball(torch.from_numpy(image)[None], "linf", RADIUS)
    with torch.no_grad():
        first = margin_bounds(graph, region, 0)
    assert not prove_by_cuts(graph, region, 0, first, steps=steps)


@pytest.mark.parametrize("steps", [0, 2])
def test_no_point_of_a_proved_box_is_lost(steps: int) -> None:
    """Random networks of all kinds; among thousands of points of each box that is proved none is another class."""
    proved = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        model = random_network(rng, (1, 6, 6))
        graph = read_torch(model, GRAY, (6, 6, 1))
        centre = torch.from_numpy(rng.random((1, 36)).astype(np.float32)).double()
        label = int(graph.forward(centre)[0].argmax())

        def gap(eps: float, centre: torch.Tensor = centre, label: int = label, graph: BoundGraph = graph) -> float:
            with torch.no_grad():
                return float(margin_bounds(graph, Region.ball(centre, "linf", eps), label).lower.min())

        plain = largest_radius(gap, 1.0, gap(0.0))
        for rise in (1.01, 1.03, 1.1) if plain > 0 else ():
            region = Region.ball(centre, "linf", plain * rise)
            with torch.no_grad():
                first = margin_bounds(graph, region, label)
            if bool(first.proved[0]) or not prove_by_cuts(graph, region, label, first, steps=steps):
                continue
            proved += 1
            share = torch.from_numpy(rng.random((4000, 36)))
            share[::2] = share[::2].round()
            # The corners of the forms are where CROWN itself expects the least margins.
            corners = torch.where(first.form[0] > 0, region.lower, region.upper)
            points = torch.cat([region.lower + share * (region.upper - region.lower), corners])
            assert bool((graph.forward(points).argmax(1) == label).all())
    assert proved >= 3
