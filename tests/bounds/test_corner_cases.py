"""Numbers at the edge of floating point: zero-width sets, signed zeros, subnormal numbers, overflow on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustest.bounds.builder import GraphBuilder
from robustest.bounds.centred import CentredBounds
from robustest.bounds.checker import Checker
from robustest.bounds.crown import margin_bounds, margin_rows
from robustest.bounds.errors import GraphMismatch
from robustest.bounds.graph import Activation
from robustest.bounds.reading import read_torch
from robustest.bounds.region import Region
from robustest.bounds.rounding import U32
from robustest.classifiers.spec import InputSpec
from robustest.settings import Norm

from .random_nets import random_network

GRAY = InputSpec("NCHW", "gray")
BALLS: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")


def claims_of(model: nn.Module, region: Region, label: int) -> float:
    """The least margin bound of either family."""
    graph = read_torch(model, GRAY, (4, 5, 1), lambda images: graph_scores(model, images))
    rows, _ = margin_rows(graph.n_classes, torch.tensor([label]))
    with torch.no_grad():
        lines = margin_bounds(graph, region, label).lower
        centred = CentredBounds(graph)
        around = centred.bound(centred.analyse(region), rows[0]).value
    return float(torch.fmax(lines, around).min())


def graph_scores(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """The model itself."""
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())))


def executed(model: nn.Module, image: torch.Tensor, label: int) -> float:
    """Its least margin on one image (1, 20)."""
    scores = graph_scores(model, image.reshape(1, 4, 5, 1).float().numpy()).astype(np.float64)[0]
    return float(min(scores[label] - s for c, s in enumerate(scores) if c != label))


@pytest.mark.parametrize("seed", range(12))
def test_a_set_of_one_image_is_bounded_by_its_margin_and_nearly_reaches_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_network(rng, (1, 4, 5))
    image = torch.from_numpy(rng.random(20).astype(np.float32))[None]
    image[0, :4] = torch.tensor([-0.0, 0.0, 1e-42, 1.0])
    for norm in BALLS:
        region = Region.ball(image.clamp_min(0), norm, 0.0)
        claim, margin = claims_of(model, region, 0), executed(model, image, 0)
        # No proof may come out too large; L2 of radius 0 has no price and proves nothing.
        assert not claim > margin
        if norm != "l2":
            assert claim > margin - 1e-3 * (1 + abs(margin))


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_subnormal_weights_and_pixels_are_inside_the_bounds_flushed_or_not(seed: int, flush: bool) -> None:
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[1].weight.mul_(1e-38)
        model[1].bias.mul_(1e-39)
        model[3].weight.mul_(1e35)
        model[3].bias.mul_(1e-4)
    image = torch.from_numpy((rng.random(20) * 10.0 ** -rng.integers(0, 40, 20)).astype(np.float32))[None]
    try:
        claims = [claims_of(model, Region.ball(image, norm, 0.0 if norm == "l0" else 1e-3), 0) for norm in BALLS]
        torch.set_flush_denormal(flush)
        for _ in range(200):
            moved = (image + torch.from_numpy(rng.uniform(-5e-5, 5e-5, (1, 20)).astype(np.float32))).clamp(0, 1)
            margin = executed(model, moved, 0)
            assert all(not claim > margin for norm, claim in zip(BALLS, claims, strict=True) if norm != "l0")
        assert not claims[3] > executed(model, image, 0)
    finally:
        torch.set_flush_denormal(False)


def overflowing() -> nn.Module:
    """Class 0 leads by 1 in exact arithmetic; a bright image overflows float32 on the way, and every score is lost."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[1].weight.fill_(1e38)
        model[1].bias.fill_(-1e38)
        model[3].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) * 1e-38)
        model[3].bias.copy_(torch.tensor([1.0, 0.0]))
    return model


def test_what_overflows_on_the_way_is_never_proved() -> None:
    model = overflowing()
    dark, bright = torch.zeros(1, 20), torch.ones(1, 20)
    assert executed(model, dark, 0) == 1.0
    assert np.isnan(executed(model, bright, 0))
    with pytest.raises(GraphMismatch):
        read_torch(model, GRAY, (4, 5, 1))
    builder = GraphBuilder((4, 5, 1))
    hidden = builder.dense(builder.reshape(0, (20,)), model[1].weight.detach(), model[1].bias.detach(), "hidden")
    bent = builder.activate(hidden, Activation("relu"), "relu")
    graph = builder.build(builder.dense(bent, model[3].weight.detach(), model[3].bias.detach(), "out"), unit=U32)
    assert float(graph.forward(bright) @ torch.tensor([[1.0], [-1.0]]).double()) == pytest.approx(1.0)
    rows = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    centred = CentredBounds(graph)
    for image, proved in ((dark, True), (bright, False)):
        for norm in BALLS[:3]:
            region = Region.ball(image, norm, 1e-4)
            with torch.no_grad():
                lines = margin_bounds(graph, region, 0).lower
                around = centred.bound(centred.analyse(region), rows).value
            assert (float(torch.fmax(lines, around)) > 0) == proved
    checker = Checker(graph, lambda images: graph_scores(model, images))
    for bracket in checker.bracket(dark.reshape(4, 5, 1).numpy(), 0, norms=("linf", "l2", "l1"), seconds=2).values():
        # Nothing overflows while no more than three pixels' worth of light is there.
        assert bracket.lower is not None
        assert bracket.lower.value <= 3.5
