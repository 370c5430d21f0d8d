"""Where a sum may overflow on the way nothing is proved, by any method: a bound that is no number is no bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustest.bounds.alpha import optimise
from robustest.bounds.box_branch import decide_box
from robustest.bounds.branch import prove_region
from robustest.bounds.centred import CentredBounds
from robustest.bounds.checker import Checker
from robustest.bounds.crown import margin_bounds, propagate
from robustest.bounds.cuts import prove_by_cuts
from robustest.bounds.decision import Decision
from robustest.bounds.graph import BoundGraph
from robustest.bounds.grid_region import GridRegion
from robustest.bounds.region import Region
from robustest.bounds.slope_certificate import slopes_that_prove
from robustest.bounds.sparse_branch import decide_sparse
from robustest.settings import Norm

from .test_branch_layers import added_up, exact_graph, layers_of

SUMMED = [3e38, 3e38, -3e38, -3e38]  # 0, where no sum on the way is too large


def early() -> nn.Sequential:
    """Its first sum can come out infinite in float32, and its scores then are no numbers."""
    return layers_of(([SUMMED[:3]], SUMMED[3:]), ([[-1.0], [0.0]], [1.0, 0.0]))


def late() -> nn.Sequential:
    """Class 1 wins on every image: `2e38 (relu(x) + relu(1 - x)) - 1e38` is 1e38, and `0.5 - 1e-38 of that` is negative.

    Bounds of the two ReLUs by themselves allow 4e38, which is more than float32 holds.
    """
    return layers_of(
        ([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], [0.0, 1.0]),
        ([[2e38, 2e38]], [-1e38]),
        ([[-1e-38], [0.0]], [0.5, 0.0]),
    )


@pytest.fixture(params=[early, late])
def graph(request: pytest.FixtureRequest) -> BoundGraph:
    return exact_graph(request.param(), 3)


def says_yes(images: np.ndarray) -> np.ndarray:
    """A classifier that finds class 0 everywhere: no witness spoils a false proof."""
    return np.tile(np.array([1.0, 0.0]), (len(images), 1))


def region_of(norm: Norm) -> Region:
    return Region.ball(torch.full((1, 3), 0.5), norm, 2 if norm == "l0" else 0.5)


def test_what_the_networks_say_of_themselves() -> None:
    points = torch.rand(50, 1, 1, 3)
    assert np.isinf(added_up(SUMMED))
    with torch.no_grad():
        scores = late()(points)
    assert bool((scores[:, 1] > scores[:, 0]).all())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_no_relaxation_and_no_branching_proves_anything(graph: BoundGraph, norm: Norm) -> None:
    region, label = region_of(norm), torch.tensor([0])
    with torch.no_grad():
        first = margin_bounds(graph, region, 0)
        ends = propagate(graph, region)
    assert not bool(first.lower.isnan().any())
    assert not bool((first.lower > 0).any())
    assert not any(bool(t.isnan().any()) for t in (*ends.lower, *ends.upper))
    assert not bool(optimise(graph, region, label, steps=3).proved)
    assert not prove_region(graph, region, 0, seconds=2, domains=50).proved
    assert not prove_region(graph, region, 0, seconds=2, domains=0).proved
    centred = CentredBounds(graph)
    value = centred.bound(centred.analyse(region), torch.tensor([[1.0, -1.0]], dtype=torch.float64)).value
    assert not bool((value > 0).any())


def test_neither_cuts_nor_written_slopes_do(graph: BoundGraph) -> None:
    region = region_of("linf")
    with torch.no_grad():
        first = margin_bounds(graph, region, 0)
    for steps in (0, 2):
        assert not prove_by_cuts(graph, region, 0, first, steps=steps)
    assert slopes_that_prove(graph, region, 0, seconds=1) is None


def test_neither_pixels_nor_boxes_do(graph: BoundGraph) -> None:
    bounds, image = CentredBounds(graph), np.full((1, 3, 1), 0.5, dtype=np.float32)
    for units in (1, 2):
        answer = decide_sparse(bounds, image, 0, units, scorer=says_yes, seconds=2, nodes=40)
        assert answer.decision is not Decision.PROVED
    box = GridRegion(image, np.arange(3), lower=np.zeros(3, np.float32), upper=np.ones(3, np.float32))
    assert decide_box(bounds, box, 0, scorer=says_yes, seconds=2, boxes=40).decision is not Decision.PROVED


def test_no_bracket_has_a_lower_end(graph: BoundGraph) -> None:
    image = np.full((1, 3, 1), 0.5, dtype=np.float32)
    for branch in (True, False):
        found = Checker(graph, says_yes).bracket(image, 0, seconds=2, branch=branch)
        for norm in ("l1", "l2", "linf"):
            lower = found[norm].lower
            assert lower is None or lower.value <= 1e-6
        lower = found["l0"].lower
        assert lower is None or lower.value <= 1
