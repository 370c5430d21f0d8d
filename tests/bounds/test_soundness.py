"""No false proof: random networks, regions and points at zero tolerance, and mutants of the checker that must be caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from robustest.bounds import jacobian, norms, ops, region, relax, substitute
from robustest.bounds.alpha import optimise
from robustest.bounds.crown import margin_bounds, margin_rows
from robustest.bounds.graph import BoundGraph
from robustest.bounds.jacobian import lipschitz_margins
from robustest.bounds.lipschitz import eclipse_constant, product_constant
from robustest.bounds.norms import conv_spectral_norm, spectral_norm
from robustest.bounds.reading import read_torch
from robustest.bounds.region import Region
from robustest.classifiers.spec import InputSpec

from .random_nets import NORMS, inside, points_of, random_network, random_region


class FalseProofError(AssertionError):
    """A point of a region violates a bound that was claimed for it."""


def check_network(model: nn.Module, rng: np.random.Generator, shape: tuple[int, int, int], count: int) -> int:
    """Try every kind of bound of one network against points; returns how many triples were tried.

    `shape` is (H, W, C). The network is run as it is (float32 or float64): no tolerance.
    """
    channels = shape[2]
    spec = InputSpec("NCHW", "gray" if channels == 1 else "RGB")
    graph = read_torch(model, spec, shape)
    kind = next(model.parameters()).dtype
    tried = 0
    for norm in NORMS:
        images = torch.from_numpy(rng.random((3, *shape)).astype(np.float32))
        images = torch.where(torch.from_numpy(rng.random((3, *shape)) < 0.2), images.round(), images)
        ball = random_region(rng, images, norm)
        labels = torch.from_numpy(rng.integers(0, graph.n_classes, 3))
        with torch.no_grad():
            bounds = margin_bounds(graph, ball, labels)
            plain = margin_bounds(graph, ball, labels, crown=False)
            local = lipschitz_margins(graph, ball, labels, bounds.intervals)
        better = optimise(graph, ball, labels, steps=3)
        claims = torch.stack([bounds.lower, plain.lower, local, better.lower]).amax(0)
        points = torch.cat([points_of(rng, ball, count), inside(ball, ball.argmin_linear(bounds.form).float())], 1)
        flat = points.flatten(0, 1)
        ready = torch.from_numpy(spec.prepare(flat.reshape(-1, *shape).numpy())).to(kind)
        with torch.no_grad():
            scores = model(ready).double().reshape(3, -1, graph.n_classes)
        rows, _ = margin_rows(graph.n_classes, labels)
        margins = scores @ rows.transpose(1, 2)
        worst = (margins - claims[:, None]).amin()
        if worst < 0:
            raise FalseProofError(f"{norm}: a margin lies {-worst:g} below its bound")
        with torch.no_grad():
            every = graph.forward_all(flat)
        for node, values in enumerate(every):
            ends = bounds.intervals
            low, high = ends.lower[node][:, None], ends.upper[node][:, None]
            inner = values.reshape(3, -1, values.shape[1])
            if bool((inner < low).any() | (inner > high).any()):
                raise FalseProofError(f"{norm}: node {graph.nodes[node].name} leaves its interval")
        tried += points.shape[0] * points.shape[1]
    return tried


SHAPES = [(4, 4, 1), (5, 6, 1), (6, 5, 3), (7, 7, 1), (8, 8, 3)]


def test_no_point_of_a_region_violates_its_bounds() -> None:
    """100,000 triples of network, region and point, float32 and float64 by turns, at zero tolerance."""
    check_many(np.random.default_rng(0), triples=100_000, points=350)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(1, 5))
def test_no_point_of_a_region_violates_its_bounds_in_many_networks(part: int) -> None:
    check_many(np.random.default_rng(part), triples=50_000, points=60)


def check_many(rng: np.random.Generator, *, triples: int, points: int) -> None:
    """Random networks until this many triples were tried."""
    tried = 0
    while tried < triples:
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        model = random_network(rng, (shape[2], shape[0], shape[1]))
        if rng.random() < 0.5:
            model = model.double()
        tried += check_network(model, rng, shape, points)


def test_global_constants_hold_between_random_points() -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        model = random_network(rng, (1, 5, 5))
        graph = read_torch(model, InputSpec("NCHW", "gray"), (5, 5, 1))
        check_constants(graph, rng)


def check_constants(graph: BoundGraph, rng: np.random.Generator) -> None:
    """Margins change no faster than the global constants say, at gradients of random points."""
    points = torch.from_numpy(rng.random((20, graph.n_inputs))).requires_grad_()
    scores = graph.forward(points)
    for other in range(1, graph.n_classes):
        (slope,) = torch.autograd.grad((scores[:, 0] - scores[:, other]).sum(), points, retain_graph=True)
        for norm, dual in (("l1", torch.inf), ("l2", 2), ("linf", 1)):
            claims = [product_constant(graph, norm)]  # type: ignore[arg-type]
            better = eclipse_constant(graph) if norm == "l2" else None
            claims += [better] if better is not None else []
            seen = float(torch.linalg.vector_norm(slope, dual, dim=1).max())
            for claim in claims:
                if seen > float(claim.constant[0, other]) * (1 + 1e-9):
                    raise FalseProofError(f"{claim.method} in {norm}: {claim.constant[0, other]} < {seen}")


# Each mutant is one way in which such checkers have been wrong; the checks above must notice it.


def drop_intercept(patch: pytest.MonkeyPatch) -> None:
    """The upper line of an unstable ReLU without its intercept."""
    right = relax._relu

    def wrong(*args: object) -> relax.Relaxation:
        lines = right(*args)  # type: ignore[arg-type]
        return relax.Relaxation(
            lines.upper_slope, 0 * lines.upper_shift, lines.lower_slope, lines.lower_shift, lines.free
        )

    patch.setattr(relax, "_relu", wrong)


def one_pixel_fewer(patch: pytest.MonkeyPatch) -> None:
    """The k - 1 best pixels instead of the k best."""
    right = Region.best_units

    def wrong(self: Region, gains: torch.Tensor) -> torch.Tensor:
        assert self.budget is not None
        fewer = region.replace(self, budget=(self.budget - 1).clamp_min(0))
        return right(fewer, gains)

    patch.setattr(Region, "best_units", wrong)


def forget_padding(patch: pytest.MonkeyPatch) -> None:
    """Coefficients on padding kept, as if padding held the layer's constant."""
    patch.setattr("robustest.bounds.forms.Windows.cut", lambda self, shape: self)


def unclipped_slope(patch: pytest.MonkeyPatch) -> None:
    """Lower slopes that optimisation pushed above 1."""
    right = relax._relu

    def wrong(*args: object) -> relax.Relaxation:
        lines = right(*args)  # type: ignore[arg-type]
        steep = torch.where(lines.free & (lines.lower_slope > 0), 1.3, lines.lower_slope)
        return relax.Relaxation(lines.upper_slope, lines.upper_shift, steep, lines.lower_shift, lines.free)

    patch.setattr(relax, "_relu", wrong)


def forget_bias(patch: pytest.MonkeyPatch) -> None:
    """The constant of convolutions left out on the way back."""
    right = substitute._window_step

    def wrong(index: int, node: substitute.Node, *rest: object) -> object:
        step, change = right(index, node, *rest)  # type: ignore[arg-type]
        forms = rest[0]
        if isinstance(node.op, ops.Conv):
            change = change - forms.cut(node.shape).rows.sum((3, 4)) @ node.op.bias  # type: ignore[attr-defined]
        return step, change

    patch.setattr(substitute, "_window_step", wrong)


def narrow_gradient(patch: pytest.MonkeyPatch) -> None:
    """Derivatives of unstable neurons taken as half, as if all were so."""
    right = jacobian._derivative

    def wrong(*args: object) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = right(*args)  # type: ignore[arg-type]
        return (low + high) / 2, (low + high) / 2

    patch.setattr(jacobian, "_derivative", wrong)


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.mark.parametrize("mutant", [drop_intercept, one_pixel_fewer, unclipped_slope, forget_bias, narrow_gradient])
def test_mutants_of_local_bounds_are_caught(
    mutant: Callable[[pytest.MonkeyPatch], None], patch: pytest.MonkeyPatch
) -> None:
    mutant(patch)
    rng = np.random.default_rng(1)
    with pytest.raises(FalseProofError):
        check_many(rng, triples=60_000, points=60)


def test_forgotten_padding_is_caught(patch: pytest.MonkeyPatch) -> None:
    """Two convolutions without an activation between them: nothing else removes coefficients on padding."""
    rng = np.random.default_rng(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 2, 3, 1, 1), nn.Conv2d(2, 2, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(200, 3)]
    model = nn.Sequential(*layers).eval()
    check_network(model, rng, (10, 10, 1), 60)
    forget_padding(patch)
    with pytest.raises(FalseProofError):
        check_network(model, rng, (10, 10, 1), 1000)


def test_a_product_over_groups_is_caught(patch: pytest.MonkeyPatch) -> None:
    def wrong(weight: torch.Tensor, groups: int = 1) -> float:
        blocks = weight.reshape(groups, -1, *weight.shape[1:])
        return float(np.prod([conv_spectral_norm(block) for block in blocks]))

    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.normal(size=(4, 1, 2, 2))) * 0.2
    op = ops.Conv(weight, torch.zeros(4).double(), (4, 6, 6), groups=4)
    dense = op.backward(torch.eye(op.n_out, dtype=torch.float64))
    exact = float(torch.linalg.matrix_norm(dense, 2))
    assert wrong(weight, 4) < exact <= conv_spectral_norm(weight, 4)


def test_power_iteration_is_caught(patch: pytest.MonkeyPatch) -> None:
    def power_iteration(matrix: torch.Tensor) -> float:
        vector = torch.ones(matrix.shape[1], dtype=torch.float64)
        for _ in range(3):
            vector = matrix.T @ (matrix @ vector)
            vector = vector / vector.norm()
        return float((matrix @ vector).norm())

    patch.setattr(norms, "spectral_norm", power_iteration)
    rng = np.random.default_rng(0)
    # A linear network: its constant is attained, so nothing below it can pass.
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2, bias=False)).eval()
    with torch.no_grad():
        left, _sizes, _right = torch.linalg.svd(model[1].weight, full_matrices=False)
        model[2].weight[0], model[2].weight[1] = left[:, 0], 0
    graph = read_torch(model, InputSpec("NCHW", "gray"), (4, 4, 1))
    with pytest.raises(FalseProofError):
        check_constants(graph, rng)


def test_spectral_norms_are_never_below_the_exact_ones() -> None:
    rng = np.random.default_rng(0)
    for n, m in ((1, 5), (7, 3), (30, 30), (40, 90)):
        matrix = torch.from_numpy(rng.normal(size=(n, m)))
        exact = float(torch.linalg.matrix_norm(matrix, 2))
        assert exact <= spectral_norm(matrix) <= exact * (1 + 1e-6)


@pytest.mark.parametrize("magnitude", [2.0**24, 1e-30, 1e20])
def test_rounding_of_large_and_tiny_numbers_is_inside_the_bounds(magnitude: float) -> None:
    """Cancelling terms of size 2**24, tiny weights, huge biases: the executed scores stay above the bound."""
    rng = np.random.default_rng(0)
    for _ in range(6):
        model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
        with torch.no_grad():
            model[1].weight[:3] += magnitude
            model[1].weight[3:] = -model[1].weight[:3]
            model[1].bias += torch.randn(6) * magnitude
            model[3].weight[:, 3:] = -model[3].weight[:, :3]
        check_network(model, rng, (3, 3, 1), 40)


def _shuffled_dot(weight: np.ndarray, x: np.ndarray, order: np.ndarray) -> np.ndarray:
    total = np.zeros(len(weight), dtype=np.float32)
    for i in order:
        total = (total + weight[:, i] * x[i]).astype(np.float32)
    return total


def test_any_order_of_summation_stays_inside_the_bounds() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 60)).astype(np.float32) * np.logspace(-3, 3, 60, dtype=np.float32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(weight))
    graph = read_torch(model, InputSpec("NCHW", "gray"), (6, 10, 1))
    for _ in range(100):
        x = rng.random(60).astype(np.float32)
        point = torch.from_numpy(x)[None]
        claim = float(margin_bounds(graph, Region.ball(point, "linf", 0.0), 0).lower)
        ready = InputSpec("NCHW", "gray").prepare(x.reshape(1, 6, 10, 1)).ravel()
        scores = _shuffled_dot(weight, ready, rng.permutation(60)).astype(np.float64)
        assert scores[0] - scores[1] >= claim


def test_ten_bit_products_are_caught() -> None:
    """What TF32 does to the inputs of a product is far outside the float32 bounds: so it must be refused."""
    rng = np.random.default_rng(0)

    def cut(values: np.ndarray) -> np.ndarray:
        bits = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
        return bits.view(np.float32)

    weight = rng.normal(size=(2, 60)).astype(np.float32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(weight))
    graph = read_torch(model, InputSpec("NCHW", "gray"), (6, 10, 1))
    broken = 0
    for _ in range(50):
        x = rng.random(60).astype(np.float32)
        claim = float(margin_bounds(graph, Region.ball(torch.from_numpy(x)[None], "linf", 0.0), 0).lower)
        scores = cut(weight).astype(np.float64) @ cut(x)
        broken += bool(scores[0] - scores[1] < claim)
    assert broken > 0
