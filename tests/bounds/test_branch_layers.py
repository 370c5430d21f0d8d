"""Layer-by-layer branching: forms hold at points, leaves bound what they cover, and small networks are decided exactly."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustest.bounds.arithmetic import arithmetic_of
from robustest.bounds.branch import prove_region
from robustest.bounds.branch_compact import Affine, CompactForm
from robustest.bounds.branch_layers import LayersAnswer, prove_layers
from robustest.bounds.branch_rows import Leaves, RowBranch
from robustest.bounds.builder import GraphBuilder
from robustest.bounds.crown import margin_bounds, margin_rows
from robustest.bounds.graph import BoundGraph
from robustest.bounds.graph_torch import read_module
from robustest.bounds.reading import read_torch
from robustest.bounds.region import Region
from robustest.bounds.rounding import U32, U64
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


@pytest.mark.parametrize("seed", range(24))
def test_deciding_claims_no_more_than_a_fine_grid_shows(seed: int) -> None:
    """Forms moved to both sides of 0: what is left open, closed or stuck counts in the bound, and no bound is too high."""
    rng = np.random.default_rng(seed)
    graph = read_torch(mlp(rng, 2, 4, 3, 6), GRAY, (1, 2, 1))
    region = Region.box_of(torch.zeros(1, 2), torch.ones(1, 2))
    compact, forms = walk(graph, region, margin_bounds(graph, region, 0).intervals)
    if not compact.layers:
        pytest.skip("every ReLU is decided")
    step = torch.linspace(0, 1, 401, dtype=torch.float64)
    scores = graph.forward(torch.cartesian_prod(step, step))
    least = scores.amin(0)
    target = torch.from_numpy(rng.choice([-0.3, -0.05, -0.01, 0.02, 0.3], 6))
    moved = Affine(forms[-1].rows, forms[-1].constant + target - least, forms[-1].noise, forms[-1].magnitude)
    tree = RowBranch(compact, moved, deadline=FOREVER)
    tree.run(torch.arange(6), decide=True, deadline=FOREVER, most=6000)
    assert bool((tree.lower <= target).all())
    assert torch.equal(tree.proved, target > 0)


def layers_of(*layers: tuple[list[list[float]], list[float]], dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Linear layers of these weights and biases with ReLUs between them."""
    parts: list[nn.Module] = [nn.Flatten()]
    for weights, bias in layers:
        linear = nn.Linear(len(weights[0]), len(weights), dtype=dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(weights, dtype=dtype))
            linear.bias.copy_(torch.tensor(bias, dtype=dtype))
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def added_up(terms: Sequence[float]) -> float:
    """Their float32 sum, one after the other. In what order a library adds, and so what it gets, depends on the machine."""
    with np.errstate(over="ignore"):
        return float(np.cumsum(np.array(terms, np.float32))[-1])


def exact_graph(network: nn.Module, pixels: int) -> BoundGraph:
    """Its graph, unchecked: on such networks float32 is off by more than a graph's check against its model allows."""
    builder = GraphBuilder((1, pixels, 1))
    output = read_module(network, builder, 0)
    return builder.build(output, unit=U32 if arithmetic_of(network) == torch.float32 else U64, digest="")


def in_order(terms: Sequence[float]) -> float:
    """The float32 sum of float32 numbers in their order."""
    total = np.float32(0)
    for term in terms:
        total = np.float32(total + np.float32(term))
    return float(total)


BIG = 2.0**24
UNDECIDED = 0.5
"""Bias of a ReLU of `free - 0.5`: undecided where that pixel is free."""


def cancelling(sign: float, bias: float) -> tuple[list[float], float, float, float]:
    """Weights for three ones and a bias, their exact sum, and the least and the largest of two float32 sums."""
    weights = [sign * BIG, sign, -sign * BIG]
    sums = in_order([*weights, bias]), in_order([weights[0], weights[2], weights[1], bias])
    return weights, sign + bias, min(sums), max(sums)


def test_what_rounding_flips_in_a_branched_layer_is_not_proved() -> None:
    """`relu(z) - 0.25`, z of 0.5 in exact arithmetic: summed in order z is -0.5 in float32, and the margin negative."""
    weights, exact, least, _ = cancelling(1.0, -0.5)
    assert exact == 0.5
    assert least == -0.5
    graph = exact_graph(layers_of(([weights], [-0.5]), ([[1.0], [0.0]], [-0.25, 0.0])), 3)
    answer = _at_ones(graph, 3)
    assert not answer.proved
    assert float(answer.lower) <= -0.25


def test_what_rounding_flips_in_the_margins_is_not_proved() -> None:
    """A margin of 0.5 that float32 sums in order to -0.5, beside one undecided ReLU and without any."""
    weights, exact, least, _ = cancelling(1.0, -0.5)
    assert (exact, least) == (0.5, -0.5)
    pass_on = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    network = layers_of((pass_on, [0.0, 0.0, 0.0, -UNDECIDED]), ([[*weights, 0.0], [0.0] * 4], [-0.5, 0.0]))
    graph = exact_graph(network, 4)
    for free in (True, False):
        answer = _at_ones(graph, 4, free=free)
        assert not answer.proved
        assert float(answer.lower) <= -0.5
    weights, exact, _, most = cancelling(-1.0, 1.5)
    assert (exact, most) == (0.5, 1.5)
    network = layers_of((pass_on, [0.0, 0.0, 0.0, -UNDECIDED]), ([[0.0] * 4, [*weights, 0.0]], [0.75, 1.5]))
    answer = _at_ones(exact_graph(network, 4), 4, free=True)
    assert not answer.proved
    assert float(answer.lower) <= 0.75 - 1.5


class Both(nn.Module):
    """The sum of two linear layers."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.first(x) + self.second(x)
        return total


@pytest.mark.parametrize("swapped", [False, True])
def test_what_rounding_flips_in_one_branch_of_a_sum_is_not_proved(swapped: bool) -> None:
    """Nothing plus a margin of 0.5 that float32 sums in order to -0.5."""
    weights, exact, least, _ = cancelling(1.0, -0.5)
    assert (exact, least) == (0.5, -0.5)
    parts = [
        layers_of(([row, [0.0, 0.0, 0.0]], [bias, 0.0]))[1] for row, bias in (([0.0, 0.0, 0.0], 0.0), (weights, -0.5))
    ]
    network = nn.Sequential(nn.Flatten(), Both(*(parts[::-1] if swapped else parts))).eval()
    answer = _at_ones(exact_graph(network, 3), 3)
    assert not answer.proved
    assert float(answer.lower) <= -0.5


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_rounding_flips_in_a_tightened_layer_is_not_proved(sign: float) -> None:
    """The second layer's z ends 1 further in float32 than in exact arithmetic, downwards or upwards: no margin lives on it.

    It enters the margin as `relu(z) - 0.25` or as `1 - relu(z)`; before it lies an undecided ReLU, so it is branched for.
    """
    weights, exact, least, most = cancelling(sign, -0.5 if sign > 0 else 1.5)
    assert exact == 0.5
    assert (least, most) == ((-0.5, 0.5) if sign > 0 else (0.5, 1.5))
    pass_on = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    network = layers_of(
        (pass_on, [0.0, 0.0, 0.0, -UNDECIDED]),
        ([[*weights, 0.0]], [-0.5 if sign > 0 else 1.5]),
        ([[sign], [0.0]], [-0.25 if sign > 0 else 1.0, 0.0]),
    )
    answer = _at_ones(exact_graph(network, 4), 4, free=True)
    assert not answer.proved
    assert float(answer.lower) <= (-0.25 if sign > 0 else -0.5)
    assert float(answer.intervals.lower[3][0, 0]) <= least
    assert float(answer.intervals.upper[3][0, 0]) >= most


def _at_ones(graph: BoundGraph, count: int, *, free: bool = False) -> LayersAnswer:
    """What is proved of class 0 at the image of ones, whose last pixel may be free."""
    lower = torch.ones(1, count)
    lower[0, -1] -= float(free)
    region = Region.box_of(lower, torch.ones(1, count))
    first = margin_bounds(graph, region, 0, crown=False)
    return prove_layers(graph, region, 0, first.intervals, seconds=FOREVER, most=500)


def test_what_float32_gets_wrong_float64_does_not_prove() -> None:
    """Three times `relu(z) - z` plus a margin of -0.6, in exact arithmetic, whose parts of 2**24 float32 rounds to a sum above 0.

    With `z = 2**24 - 0.9 - 2**26 x` the margin is -0.6 for x below 1/4 and rises behind it.
    """
    scale = 2.0**26
    bias = 3 * BIG + 2.1 - 4.5 * scale
    network = layers_of(
        ([[-scale]] * 3 + [[1.0]], [BIG - 0.9] * 3 + [1.0]),
        ([[1.0, 1.0, 1.0, 3 * scale], [0.0] * 4], [bias, 0.0]),
        dtype=torch.float64,
    )
    graph = exact_graph(network, 1)
    margin = graph.forward(torch.tensor([[0.0], [0.2], [0.3]], dtype=torch.float64))[:, 0]
    assert margin[:2].tolist() == pytest.approx([-0.6, -0.6], abs=1e-6)
    assert float(margin[2]) > 1e5
    region = Region.box_of(torch.zeros(1, 1), torch.ones(1, 1))
    first = margin_bounds(graph, region, 0, executed=False)
    answer = prove_layers(graph, region, 0, first.intervals, seconds=FOREVER, most=500, executed=False)
    assert not answer.proved
    assert float(answer.lower) <= -0.6


def test_a_sum_that_overflows_proves_nothing() -> None:
    """A neuron can come out infinite, and 0 times that is no number: not even a margin of 1 is proved."""
    weights, bias = [3e38, 3e38, -3e38], -3e38
    assert np.isinf(added_up([*weights, bias]))
    graph = exact_graph(layers_of(([weights], [bias]), ([[0.0], [0.0]], [1.0, 0.0])), 3)
    answer = _at_ones(graph, 3)
    assert not answer.proved
    assert not float(answer.lower) > 0


@pytest.mark.parametrize("hair", [1e-2, 1e-4, 1e-6])
def test_a_relu_that_opens_or_shuts_by_a_hair_counts(hair: float) -> None:
    """Over x in [0, 1]: `relu(x - 1 + hair)` rises to the hair, and `relu(x - hair) - (x - hair)` to it where x is 0."""
    region = Region.box_of(torch.zeros(1, 1), torch.ones(1, 1))
    for bias, weights, shift in ((hair - 1.0, [-1.0, 0.0], 0.0), (-hair, [-1.0, 1.0], -hair)):
        for share, expected in ((0.5, False), (1.5, True)):
            margin = share * hair + shift
            network = layers_of(
                ([[1.0], [1.0]], [bias, 0.0]), ([weights, [0.0, 0.0]], [margin, 0.0]), dtype=torch.float64
            )
            graph = exact_graph(network, 1)
            first = margin_bounds(graph, region, 0, executed=False)
            answer = prove_layers(graph, region, 0, first.intervals, seconds=FOREVER, most=100, executed=False)
            assert answer.proved is expected


def test_every_rival_counts_and_a_tie_is_no_proof() -> None:
    """Scores of `relu(x - 1/2)` plus 2, 1 and 2.2, and twice the same: the one rival that wins or ties decides."""
    region = Region.box_of(torch.zeros(1, 1), torch.ones(1, 1))
    for weights, bias in (
        ([[1.0], [0.0], [0.0]], [2.0, 1.0, 2.2]),
        ([[1.0], [0.0], [1.0]], [2.0, 1.0, 2.0]),
        ([[0.0], [0.0]], [0.0, 0.0]),
    ):
        graph = exact_graph(layers_of(([[1.0]], [-0.5]), (weights, bias), dtype=torch.float64), 1)
        for box in (region, Region.box_of(torch.zeros(1, 1), torch.zeros(1, 1))):
            first = margin_bounds(graph, box, 0, executed=False)
            answer = prove_layers(graph, box, 0, first.intervals, seconds=FOREVER, most=100, executed=False)
            assert not answer.proved
            assert float(answer.lower.min()) <= 0
            assert len(bias) == 2 or float(answer.lower[0]) > 0


def test_tightened_ends_hold_in_exact_arithmetic_at_zero_tolerance() -> None:
    """Neurons that are affine on the box, after a layer with an undecided ReLU: their range is known as a fraction."""
    rng = np.random.default_rng(7)
    n, count = 150, 20
    pass_on = np.vstack([np.eye(n), np.eye(n)[:1]])
    weights = np.hstack([rng.normal(size=(count, n)) * 2.0 ** rng.integers(-8, 8, (count, n)), np.zeros((count, 1))])
    centre = rng.random(n) * 0.5 + 0.25
    bias = -weights[:, :n] @ (centre + 1.0)
    network = layers_of(
        (pass_on.tolist(), [1.0] * n + [-centre[0]]),
        (weights.tolist(), bias.tolist()),
        ([[1.0] * count, [0.0] * count], [0.0, 0.0]),
        dtype=torch.float64,
    )
    lower, upper = centre - 1e-5, centre + 1e-5
    region = Region.box_of(torch.from_numpy(lower)[None], torch.from_numpy(upper)[None])
    graph = exact_graph(network, n)
    first = margin_bounds(graph, region, 0, executed=False, crown=False)
    answer = prove_layers(graph, region, 0, first.intervals, seconds=FOREVER, most=200, executed=False)
    for row in range(count):
        ends = [
            Fraction(bias[row]) + sum(Fraction(w) * (Fraction(a if (w > 0) == low else b) + 1) for w, a, b in terms)
            for low in (True, False)
            for terms in [list(zip(weights[row, :n].tolist(), lower.tolist(), upper.tolist(), strict=True))]
        ]
        assert Fraction(float(answer.intervals.lower[3][0, row])) <= ends[0]
        assert ends[1] <= Fraction(float(answer.intervals.upper[3][0, row]))
