"""Layer-by-layer branching: forms hold at points, leaves bound what they cover, and small networks are decided exactly."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustest.bounds.branch import prove_region
from robustest.bounds.branch_compact import Affine, CompactForm
from robustest.bounds.branch_layers import prove_layers
from robustest.bounds.branch_rows import Leaves, RowBranch
from robustest.bounds.crown import margin_bounds, margin_rows
from robustest.bounds.graph import BoundGraph
from robustest.bounds.reading import read_torch
from robustest.bounds.region import Region
from robustest.bounds.substitute import Intervals
from robustest.classifiers.spec import InputSpec

from .random_nets import random_network
from .test_planted import load
from .test_verify_mnist import network, questions
from .train_planted import KINDS, RADIUS

GRAY = InputSpec("NCHW", "gray")
FOREVER = 1e9


def walk(graph: BoundGraph, region: Region, intervals: Intervals) -> tuple[CompactForm, list[Affine]]:
    compact = CompactForm(graph, region)
    return compact, [compact.step(index, intervals) for index in range(len(graph.nodes))]


def sample(region: Region, count: int, rng: np.random.Generator) -> torch.Tensor:
    """Points of a box, many of them at its corners; float32 images, as the networks see them."""
    share = torch.from_numpy(rng.random((count, region.n_inputs)))
    share[::2] = share[::2].round()
    points = (region.lower + share * (region.upper - region.lower)).float().double()
    return torch.minimum(torch.maximum(points, region.lower), region.upper)


def variables(graph: BoundGraph, compact: CompactForm, points: torch.Tensor, ends: Intervals) -> torch.Tensor:
    """(N, V) the scaled image and the outputs of undecided ReLUs at points."""
    half = torch.where(compact.half > 0, compact.half, 1.0)
    parts = [(points - compact.middle) / half]
    values = graph.forward_all(points)
    for index, node in enumerate(graph.nodes):
        if node.activation is not None:
            low, high = ends.lower[node.parents[0]][0], ends.upper[node.parents[0]][0]
            parts.append(values[index][:, (low < 0) & (high > 0)])
    return torch.cat(parts, 1)


def mlp(rng: np.random.Generator, *sizes: int, gain: float = 2.0) -> nn.Module:
    """Linear layers with ReLUs between them on (1, 1, sizes[0]) images."""
    layers: list[nn.Module] = [nn.Flatten()]
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**31)))
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(gain)
    return model


@pytest.mark.parametrize("seed", range(12))
def test_forms_are_the_network_and_every_leaf_bounds_what_it_covers(seed: int) -> None:
    """Any signs that a point has, with any slopes and multipliers, give a bound that the point does not break."""
    rng = np.random.default_rng(seed)
    model = random_network(rng, (1, 6, 6)) if seed % 2 else mlp(rng, 36, 12, 10, 8, 3)
    graph = read_torch(model, GRAY, (6, 6, 1))
    centre = torch.from_numpy(rng.random((1, 36)).astype(np.float32)).double()
    region = Region.ball(centre, "linf", float(rng.choice([0.02, 0.1, 0.3])))
    if not CompactForm.suits(graph, region):
        pytest.skip("the random network has an activation that is not a plain ReLU")
    ends = margin_bounds(graph, region, 0).intervals
    compact, forms = walk(graph, region, ends)
    points = sample(region, 2000, rng)
    seen, values = variables(graph, compact, points, ends), graph.forward_all(points)
    for form, value in zip(forms, values, strict=True):
        known = seen[:, : form.rows.shape[1]]
        off = (known @ form.rows.T + form.constant - value).abs()
        assert bool((off <= compact.slack * form.magnitude + 1e-12).all())
    if not compact.layers:
        return
    rows, _ = margin_rows(graph.n_classes, torch.tensor([0]))
    tree = RowBranch(compact, forms[-1].times(rows[0]), deadline=0.0)
    exact = values[-1] @ rows[0].T
    executed = torch.from_numpy(_scores(model, points)).double() @ rows[0].T
    lowest = torch.minimum(exact, executed)
    assert bool((tree.lower <= lowest.amin(0)).all())
    inputs = torch.cat(
        [seen.new_zeros(len(points), 0)]
        + [seen[:, : y.form.rows.shape[1]] @ y.form.rows.T + y.form.constant for y in compact.layers],
        1,
    )
    sign = inputs.sign().to(torch.int8) * torch.from_numpy(rng.random(inputs.shape) < rng.random((len(points), 1)))
    open_ = sign == 0
    theta = torch.from_numpy(rng.random(inputs.shape)).float() * torch.where(open_, 1.0, 3.0)
    theta[::5] = torch.where(open_, theta.round(), 0.0)[::5]
    owner = torch.from_numpy(rng.integers(0, rows.shape[1], len(points)))
    nothing = torch.zeros(len(points))
    leaves = Leaves(owner, sign, theta, nothing, nothing.long(), nothing, nothing.double() - torch.inf)
    bound = tree.exact.lower(leaves, tree.scale)[0]
    assert bool((bound <= lowest.gather(1, owner[:, None])[:, 0]).all())


def _scores(model: nn.Module, points: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        images = GRAY.prepare(points.float().reshape(-1, 6, 6, 1).numpy())
        return np.asarray(model(torch.from_numpy(images)))


@pytest.mark.parametrize("seed", range(6))
def test_ranges_of_neurons_come_out_as_a_fine_grid_finds_them(seed: int) -> None:
    """Two inputs, two layers before: branching closes most of what one relaxation leaves, and never goes too far."""
    rng = np.random.default_rng(seed)
    graph = read_torch(mlp(rng, 2, 6, 6, 3), GRAY, (1, 2, 1))
    region = Region.box_of(torch.zeros(1, 2), torch.ones(1, 2))
    ends = margin_bounds(graph, region, 0).intervals
    compact, forms = walk(graph, region, ends)
    if not compact.layers:
        pytest.skip("every ReLU is decided")
    tree = RowBranch(compact, forms[-1], deadline=FOREVER)
    before = tree.lower.clone()
    tree.run(torch.arange(3), decide=False, deadline=FOREVER, most=6000)
    step = torch.linspace(0, 1, 401, dtype=torch.float64)
    scores = graph.forward(torch.cartesian_prod(step, step))
    least, width = scores.amin(0), scores.amax(0) - scores.amin(0)
    assert bool((tree.lower <= least).all())
    assert bool((tree.lower >= least - 0.15 * width - 1e-6).all())
    assert float((least - tree.lower).sum()) <= 0.5 * float((least - before).sum()) + 0.01


@pytest.mark.parametrize("seed", range(8))
def test_small_networks_are_decided_on_both_sides_of_the_truth(seed: int) -> None:
    """With the bias moved so that the least margin of a fine grid is below or above 0, the answer is no or yes."""
    rng = np.random.default_rng(seed)
    model = mlp(rng, 2, 8, 8, 2)
    region = Region.box_of(torch.zeros(1, 2), torch.ones(1, 2))
    step = torch.linspace(0, 1, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(step, step)
    scores = read_torch(model, GRAY, (1, 2, 1)).forward(grid)
    least = float((scores[:, 0] - scores[:, 1]).min())
    for target, expected in ((-1e-4, False), (0.3, True)):
        with torch.no_grad():
            bias = model[5].bias  # type: ignore[index]
            before = bias[0].item()
            bias[0] += target - least
        graph = read_torch(model, GRAY, (1, 2, 1))
        first = margin_bounds(graph, region, 0)
        answer = prove_layers(graph, region, 0, first.intervals, seconds=FOREVER, most=6000)
        assert answer.proved is expected
        with torch.no_grad():
            bias[0] = before


@pytest.mark.parametrize("index", [i for i, kind in enumerate(KINDS) if kind == "linf"])
def test_a_planted_image_is_never_proved_away(index: int) -> None:
    _, graph, image, _ = load(index)
    region = Region.ball(torch.from_numpy(image)[None], "linf", RADIUS)
    first = margin_bounds(graph, region, 0)
    assert not prove_layers(graph, region, 0, first.intervals, seconds=FOREVER, most=5000).proved


def test_what_is_looked_at_lies_in_the_box_and_ends_the_search() -> None:
    rng = np.random.default_rng(3)
    graph = read_torch(mlp(rng, 9, 12, 12, 2), GRAY, (3, 3, 1))
    region = Region.ball(torch.from_numpy(rng.random((1, 9))), "linf", 0.4)
    asked: list[torch.Tensor] = []

    def look(points: torch.Tensor) -> np.ndarray | None:
        asked.append(points)
        return points[0].numpy().astype(np.float32) if len(asked) == 2 else None

    first = margin_bounds(graph, region, 0)
    answer = prove_layers(graph, region, 0, first.intervals, seconds=FOREVER, most=3000, look=look)
    for points in asked:
        assert bool(((points >= region.lower - 1e-12) & (points <= region.upper + 1e-12)).all())
    assert answer.found is not None
    assert not answer.proved


def test_no_undecided_relu_leaves_one_affine_bound() -> None:
    """A box of one point: the margin is the network's own, less rounding."""
    rng = np.random.default_rng(5)
    graph = read_torch(mlp(rng, 9, 12, 12, 2), GRAY, (3, 3, 1))
    point = torch.from_numpy(rng.random((1, 9)))
    scores = graph.forward(point)[0]
    label = int(scores.argmax())
    region = Region.box_of(point, point)
    answer = prove_layers(
        graph, region, label, margin_bounds(graph, region, label).intervals, seconds=FOREVER, most=100
    )
    gap = float(scores[label] - scores[1 - label])
    assert gap - 1e-3 <= float(answer.lower) <= gap
    assert answer.proved == (float(answer.lower) > 0)
    # What the executed network's rounding costs is known from CROWN, which charges it another way.
    crown = float(margin_bounds(graph, region, label).lower)
    assert 0.5 * (gap - crown) <= gap - float(answer.lower) <= 4 * (gap - crown)


def test_a_question_of_the_competition_that_one_relaxation_leaves_far_open(verify: Path) -> None:
    """256x4, image 11 at 0.05: five tools proved it; CROWN's bound is below -2. A refuted neighbour stays open."""
    graph = network(verify / "mnist_fc" / "mnist-net_256x4.onnx")
    mine = [q for q in questions(verify) if "256x4" in q[0]]
    _, region, label, verdict = mine[15 + 11]
    assert verdict == "unsat"
    assert float(margin_bounds(graph, region, label).lower.min()) < -2
    assert prove_region(graph, region, label, seconds=FOREVER, domains=400_000).proved
    _, region, label, verdict = mine[15 + 1]
    assert verdict == "sat"
    assert not prove_region(graph, region, label, seconds=FOREVER, domains=3_000).proved
