"""Boxes of few free dimensions: exact on networks whose boundary is a formula, and against dense lattices."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from robustest.bounds.box_branch import decide_box
from robustest.bounds.centred import CentredBounds
from robustest.bounds.decision import Decision
from robustest.bounds.grid_region import GridRegion
from robustest.bounds.reading import read_torch
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSetting

from .random_nets import random_network

SPEC = InputSpec("NCHW", "gray")


def run(model: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(SPEC.prepare(images))))


def tent() -> nn.Module:
    """Margin `|a - 0.3| + |b - 0.6| - 0.05` of the first two pixels of 3x3, written with ReLUs."""
    first, last = nn.Linear(9, 4), nn.Linear(4, 2)
    with torch.no_grad():
        first.weight.zero_()
        first.weight[0, 0], first.weight[1, 0], first.weight[2, 1], first.weight[3, 1] = 1, -1, 1, -1
        first.bias.copy_(torch.tensor([-0.3, 0.3, -0.6, 0.6]))
        last.weight.copy_(torch.tensor([[1.0] * 4, [0.0] * 4]))
        last.bias.copy_(torch.tensor([-0.05, 0.0]))
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), last).eval()


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [
        ((0.0, 0.0), (1.0, 1.0), Decision.FALSIFIED),
        ((0.36, 0.0), (1.0, 1.0), Decision.PROVED),
        ((0.0, 0.0), (1.0, 0.549), Decision.PROVED),
        ((0.28, 0.56), (0.31, 0.58), Decision.FALSIFIED),
        ((0.33, 0.63), (0.5, 0.9), Decision.PROVED),
    ],
)
def test_a_small_island_of_errors_is_found_or_excluded(
    low: tuple[float, float], high: tuple[float, float], decision: Decision
) -> None:
    """The errors are the L1 ball of radius 0.05 around (0.3, 0.6): a box is safe exactly if it misses that."""
    model = tent()
    image = np.zeros((3, 3, 1), np.float32)
    image[0, 0], image[0, 1] = low
    region = GridRegion(image, np.array([0, 1]), np.array(low, np.float32), np.array(high, np.float32))
    bounds = CentredBounds(read_torch(model, SPEC, (3, 3, 1)))
    answer = decide_box(bounds, region, 0, scorer=partial(run, model), seconds=60)
    assert answer.decision is decision
    if answer.witness is not None:
        flat = answer.witness.ravel()
        assert abs(flat[0] - 0.3) + abs(flat[1] - 0.6) <= 0.05 + 1e-6
        assert (flat[:2] >= region.lower).all()
        assert (flat[:2] <= region.upper).all()


def test_random_networks_agree_with_a_lattice_of_their_box(rng: np.random.Generator) -> None:
    met = []
    for _ in range(25):
        model = random_network(rng, (1, 5, 5)).float()
        scorer = partial(run, model)
        bounds = CentredBounds(read_torch(model, SPEC, (5, 5, 1)))
        image = rng.random((5, 5, 1)).astype(np.float32)
        label = int(scorer(image[None]).argmax())
        mask = np.zeros(25, bool)
        mask[rng.choice(25, 3, replace=False)] = True
        region = GridRegion.of_mask(image, mask.reshape(5, 5))
        answer = decide_box(bounds, region, label, scorer=scorer, boxes=300)
        met.append(answer.decision)
        lattice = np.array(list(itertools.product(np.linspace(0, 1, 13), repeat=3)), np.float32)
        broken = bool((scorer(region.render(lattice)).argmax(1) != label).any())
        if answer.decision is Decision.PROVED:
            assert not broken
        if answer.witness is not None:
            assert scorer(answer.witness[None]).argmax() != label
            assert ((answer.witness != image).reshape(-1) <= mask).all()
    assert met.count(Decision.PROVED) >= 10


def test_a_box_that_holds_a_tie_is_not_proved() -> None:
    """Margin 0 everywhere: the sides are halved until nothing is left to halve, and there is no proof."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
    image = np.zeros((2, 2, 1), np.float32)
    region = GridRegion(image, np.array([0]), np.zeros(1, np.float32), np.full(1, 1e-44, np.float32))
    bounds = CentredBounds(read_torch(model, SPEC, (2, 2, 1)))
    answer = decide_box(bounds, region, 0, scorer=partial(run, model), boxes=100)
    assert answer.decision is Decision.OPEN


def test_an_image_of_another_shape_is_refused() -> None:
    region = GridRegion.of_mask(np.zeros((2, 2, 1), np.float32), np.ones((2, 2), bool))
    with pytest.raises(InvalidSetting, match="must have shape"):
        decide_box(CentredBounds(read_torch(tent(), SPEC, (3, 3, 1))), region, 0, scorer=partial(run, tent()))


@pytest.mark.parametrize(("label", "target"), [(0, 0), (-2, None), (2, None), (0, 2)])
def test_a_label_and_a_target_that_are_not_two_of_the_classes_are_refused(label: int, target: int | None) -> None:
    """Scores -1 and -2: a row of the target's score alone, below 0 everywhere, would pass for a margin and prove the box."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([-1.0, -2.0]))
    region = GridRegion.of_mask(np.zeros((2, 2, 1), np.float32), np.ones((2, 2), bool))
    bounds = CentredBounds(read_torch(model, SPEC, (2, 2, 1)))
    with pytest.raises(InvalidSetting, match="must be two of 2 classes"):
        decide_box(bounds, region, label, scorer=partial(run, model), target=target)
