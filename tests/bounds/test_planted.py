"""Networks that were trained to hide one misclassified image: nothing here may prove it away."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from robustest.bounds.box_branch import decide_box
from robustest.bounds.centred import CentredBounds
from robustest.bounds.cover import adaptive_cover
from robustest.bounds.crown import margin_bounds
from robustest.bounds.decision import Decision
from robustest.bounds.graph import BoundGraph
from robustest.bounds.grid_constants import local_constants
from robustest.bounds.grid_region import GridRegion
from robustest.bounds.reading import read_torch
from robustest.bounds.region import Region
from robustest.bounds.sparse_branch import decide_sparse
from robustest.bounds.taugrid import TauGrid
from robustest.classifiers.spec import InputSpec

from .train_planted import _KEYS, DATA, KINDS, RADIUS, SIDE, UNITS, near, network

SPEC = InputSpec("NCHW", "gray")
SHAPE = (SIDE, SIDE, 1)


def load(index: int) -> tuple[nn.Module, BoundGraph, NDArray[np.float32], NDArray[np.float32]]:
    """The network, its graph, its image and the planted one."""
    with np.load(DATA) as data:
        model = network().eval()
        model.load_state_dict({key: torch.from_numpy(data[f"{index}.{key}"]) for key in _KEYS})
        image, hidden = (data[f"{index}.{name}"].reshape(SHAPE) for name in ("image", "planted"))
    return model, read_torch(model, SPEC, SHAPE), image, hidden


def run(model: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(SPEC.prepare(images))))


def of_kind(kind: str) -> list[int]:
    return [index for index, found in enumerate(KINDS) if found == kind]


@pytest.mark.parametrize("index", range(len(KINDS)))
def test_the_planted_image_is_wrong_and_hard_to_meet(index: int) -> None:
    """The image itself is right, the planted one in its region wrong; of 2,000 random ones almost none is."""
    model, _, image, hidden = load(index)
    assert run(model, image[None]).argmax() == 0
    assert run(model, hidden[None]).argmax() == 1
    if KINDS[index] == "l0":
        assert (hidden != image).sum() == UNITS
    else:
        assert np.abs(hidden.astype(np.float64) - image).max() <= RADIUS
    tries = near(torch.from_numpy(image.ravel()), KINDS[index], 2000, torch.Generator().manual_seed(0))
    assert (run(model, tries.numpy().reshape(-1, *SHAPE)).argmax(1) == 1).mean() < 0.02


@pytest.mark.parametrize("index", of_kind("l0"))
def test_a_hidden_pair_of_pixels_is_found(index: int) -> None:
    model, graph, image, _ = load(index)
    answer = decide_sparse(CentredBounds(graph), image, 0, UNITS, scorer=partial(run, model), seconds=20)
    assert answer.decision is not Decision.PROVED
    if answer.witness is not None:
        assert run(model, answer.witness[None]).argmax() == 1


@pytest.mark.parametrize("index", of_kind("l0"))
def test_covers_and_boxes_of_the_two_pixels_find_it_too(index: int) -> None:
    model, graph, image, hidden = load(index)
    region, scorer = GridRegion.of_support(image, hidden), partial(run, model)
    answer = decide_box(CentredBounds(graph), region, 0, scorer=scorer, seconds=20)
    assert answer.decision is Decision.FALSIFIED
    constants = local_constants(graph, region, 0, scorer=scorer)
    assert adaptive_cover(TauGrid(region, constants, scorer, label=0)).decision is Decision.FALSIFIED


@pytest.mark.parametrize("index", of_kind("linf"))
def test_a_hidden_image_of_a_box_is_not_proved_away(index: int) -> None:
    _, graph, image, hidden = load(index)
    point = torch.from_numpy(image.reshape(1, -1).astype(np.float64))
    away = float(np.abs(hidden.astype(np.float64) - image).max())
    for norm, eps in (("linf", away), ("l2", float(np.linalg.norm(hidden.astype(np.float64) - image)) * (1 + 1e-12))):
        ball = Region.ball(point, norm, eps)  # type: ignore[arg-type]
        rows = torch.tensor([[1.0, -1.0]]).double()
        bounds = CentredBounds(graph)
        with torch.no_grad():
            assert bounds.bound(bounds.analyse(ball), rows).value.item() <= 0
            assert margin_bounds(graph, ball, torch.tensor([0])).lower.item() <= 0
