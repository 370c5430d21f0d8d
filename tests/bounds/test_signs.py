"""Networks of signs: distances known in closed form or by linear programs, and no false proof at any point."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor, nn

from robustest.bounds import centred_slopes, crown, recheck_signs, relax, sign_cells, sign_sets
from robustest.bounds.alpha import optimise, tighten
from robustest.bounds.centred import CentredBounds
from robustest.bounds.certificate import Certificate, ball_claim
from robustest.bounds.check import checker_of
from robustest.bounds.crown import margin_bounds, margin_rows, propagate
from robustest.bounds.drift import ExecutionDrift
from robustest.bounds.errors import GraphMismatch, UnsupportedLayer
from robustest.bounds.graph import Activation, BoundGraph
from robustest.bounds.grid_constants import local_constants
from robustest.bounds.grid_region import GridRegion
from robustest.bounds.guarantee import Guarantee
from robustest.bounds.jacobian import gradient_intervals
from robustest.bounds.lipschitz import eclipse_constant, product_constant, rates_of
from robustest.bounds.reading import graph_of
from robustest.bounds.recheck import Finding, recheck
from robustest.bounds.recheck_bounds import Leaf
from robustest.bounds.recheck_model import read_model
from robustest.bounds.region import Region
from robustest.bounds.sign_cells import cell_margins
from robustest.bounds.sign_check import check_signs
from robustest.bounds.slope_certificate import slopes_that_prove
from robustest.classifiers.onnx_file import OnnxClassifier
from robustest.classifiers.spec import InputSpec
from robustest.settings import Norm

from .random_nets import NORMS, inside, points_of, random_region
from .sign_nets import Sign, flat, linear, random_signs, random_signs_onnx
from .test_recheck import FalseProofError, table

SPEC = InputSpec("NCHW", "gray")
BALLS: tuple[Norm, ...] = ("linf", "l2", "l1")


def half_plane() -> nn.Module:
    """Class 0 where x + y > 1, of a (1, 2, 1) image."""
    return flat(linear([[1.0, 1.0]], [-1.0]), Sign(), linear([[1.0], [-1.0]], [0.0, 0.0]))


def radius_of(graph: BoundGraph, image: NDArray[np.float32], norm: Norm) -> float:
    """The largest radius that patterns prove of class 0."""
    point = torch.from_numpy(image).reshape(1, -1).double()
    low, high = 0.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        found = cell_margins(graph, Region.ball(point, norm, middle), 0)
        low, high = (middle, high) if found is not None and found.proved else (low, middle)
    return low


@pytest.mark.parametrize(("norm", "exact"), [("linf", 0.3), ("l2", 0.6 / np.sqrt(2)), ("l1", 0.6)])
def test_a_half_plane_has_the_distance_of_the_formula(norm: Norm, exact: float) -> None:
    image = np.array([0.9, 0.7], np.float32).reshape(1, 2, 1)
    graph = graph_of(half_plane(), image_shape=(1, 2, 1))
    assert exact * (1 - 1e-5) < radius_of(graph, image, norm) < exact * (1 + 1e-7)
    margins = margin_bounds(graph, Region.ball(torch.from_numpy(image)[None], norm, exact * 0.999), 0)
    assert float(margins.lower.min()) == pytest.approx(2.0)


def exact_linf(
    planes: NDArray[np.float64], wrong: Callable[[NDArray[np.float64]], bool], x: NDArray[np.float64]
) -> float:
    """Distance to the nearest closed cell of an arrangement of planes (H, n + 1) whose signs are wrong: a program a cell."""
    n = len(x)
    best = np.inf
    for signs in itertools.product((-1.0, 1.0), repeat=len(planes)):
        if not wrong(np.array(signs)):
            continue
        normal = np.array(signs)[:, None] * planes
        # Minimise r with |d| <= r, x + d in [0, 1] and every plane on its side.
        rows = np.concatenate([
            np.hstack([-normal[:, :n], np.zeros((len(planes), 1))]),
            np.hstack([np.eye(n), -np.ones((n, 1))]),
            np.hstack([-np.eye(n), -np.ones((n, 1))]),
        ])  # fmt: skip
        limits = np.concatenate([normal @ np.append(x, 1.0), np.zeros(2 * n)])
        ends = [(-v, 1 - v) for v in x] + [(0, None)]
        found = linprog(np.append(np.zeros(n), 1.0), A_ub=rows, b_ub=limits, bounds=ends)
        if found.status == 0:
            best = min(best, float(found.fun))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_radii_are_those_of_linear_programs_over_every_cell(seed: int) -> None:
    """Five planes in three dimensions and two more layers of signs: the exact distance, cell by cell."""
    rng = np.random.default_rng(seed)
    planes = rng.normal(size=(5, 4)).astype(np.float32)
    inner = rng.choice([-1.0, 1.0], (3, 5)).astype(np.float32)
    last = rng.normal(size=(2, 3)).astype(np.float32)
    net = flat(
        linear(planes[:, :3], planes[:, 3]), Sign(), linear(inner, [0.5, -0.5, 0.5]), Sign(), linear(last, [0.0, 0.0])
    )
    image = rng.random((1, 3, 1)).astype(np.float32)
    x = image.ravel().astype(np.float64)

    def scores(signs: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(last @ np.sign(inner @ signs + [0.5, -0.5, 0.5]))

    label = int(scores(np.sign(planes[:, :3] @ x + planes[:, 3])).argmax())
    exact = exact_linf(planes.astype(np.float64), lambda s: int(scores(s).argmax()) != label, x)
    graph = graph_of(net, image_shape=(1, 3, 1))
    point = torch.from_numpy(image)[None]
    for share, proved in ((0.98, True), (1.0001, False)):
        radius = min(share * exact, 1.0)
        found = cell_margins(graph, Region.ball(point, "linf", radius), label)
        assert found is not None
        assert found.proved is (proved or not np.isfinite(exact))


def check_signs_of_network(rng: np.random.Generator, count: int) -> int:
    """Every bound of one random network against its float32 execution at points of random regions, at zero tolerance."""
    shape = [(4, 4, 1), (3, 4, 1), (3, 3, 3)][int(rng.integers(3))]
    model = random_signs(rng, (shape[2], shape[0], shape[1]))
    spec = InputSpec("NCHW", "gray" if shape[2] == 1 else "RGB")
    builder = graph_from(model, shape)
    tried = 0
    for norm in NORMS:
        image = torch.from_numpy(np.round(rng.random((1, *shape)) * 4) / 4).float()
        if rng.random() < 0.5:
            image = torch.from_numpy(rng.random((1, *shape))).float()
        region = random_region(rng, image, norm)
        with torch.no_grad():
            score = model(image.permute(0, 3, 1, 2))[0]
            label = int(score.argmax())
            rows, _ = margin_rows(builder.n_classes, torch.tensor([label]))
            lower = [margin_bounds(builder, region, label).lower[0].numpy()]
            centred = CentredBounds(builder)
            lower.append(centred.bound(centred.analyse(region), rows[0]).value[0].numpy())
            found = cell_margins(builder, region, label, most=512)
            if found is not None:
                lower.append(found.lower if found.proved else np.minimum(found.lower, -np.inf))
            best = inside(
                region, region.argmin_linear(torch.from_numpy(rng.normal(size=(1, 6, region.n_inputs)))).float()
            )
            points = torch.cat([points_of(rng, region, count), on_planes(rng, region, count), best], 1)[0]
            images = points.reshape(-1, *shape)
            values = model(torch.from_numpy(spec.prepare(images.numpy()))).double() @ rows[0].T
        if (values.numpy() < np.stack(lower).max(axis=0)).any():
            raise FalseProofError(f"{norm}: a point is below its bound")
        tried += len(points)
    return tried


def graph_from(model: nn.Module, shape: tuple[int, int, int]) -> BoundGraph:
    """Its graph, not compared: mutants would be refused before they prove anything."""
    from robustest.bounds.builder import GraphBuilder
    from robustest.bounds.graph_torch import read_module
    from robustest.bounds.reading import prepared

    builder = GraphBuilder(shape)
    spec = InputSpec("NCHW", "gray" if shape[2] == 1 else "RGB")
    return builder.build(read_module(model, builder, prepared(builder, spec)), unit=2.0**-24)


def on_planes(rng: np.random.Generator, region: Region, count: int) -> Tensor:
    """Points of a region with values in quarters: sums with whole weights are exactly 0 at many of them."""
    points = points_of(rng, region, count)
    return inside(region, torch.where(torch.rand_like(points) < 0.9, (points * 4).round() / 4, points))


def test_no_point_of_a_region_violates_the_bounds_of_a_network_of_signs() -> None:
    """20,000 triples of network, region and point, many of those exactly where signs are 0."""
    rng = np.random.default_rng(5)
    tried = 0
    while tried < 20_000:
        tried += check_signs_of_network(rng, 60)


def check_recheck_of_network(rng: np.random.Generator, folder: Path, count: int) -> int:
    """The second program's margins against onnxruntime."""
    shape = [(4, 4, 1), (3, 5, 1)][int(rng.integers(2))]
    path = random_signs_onnx(rng, (1, *shape[:2]), folder / "net.onnx")
    classifier, model = OnnxClassifier(path, SPEC), read_model(path, table(SPEC), shape)
    tried = 0
    for norm in BALLS:
        image = torch.from_numpy(np.round(rng.random((1, *shape)) * 4) / 4).float()
        ball = random_region(rng, image, norm)
        leaf = Leaf(*(t[0].numpy() for t in (ball.centre, ball.lower, ball.upper)), norm=norm, eps=float(ball.eps[0]))
        label = int(classifier(image.numpy()).argmax())
        rows = margin_rows(3, torch.tensor([label]))[0][0].numpy()
        least, _ = recheck_signs.least_margin(model, leaf, rows)
        if not least > 0:
            continue
        points = torch.cat([points_of(rng, ball, count), on_planes(rng, ball, count)], 1)[0]
        values = classifier(points.numpy().reshape(-1, *shape)).astype(np.float64) @ rows.T
        if (values.min(axis=0) < least).any():
            raise FalseProofError(f"{norm}: {values.min()} below {least}")
        tried += len(points)
    return tried


def test_no_point_violates_what_the_second_program_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    tried = 0
    while tried < 4_000:
        tried += check_recheck_of_network(rng, tmp_path, 60)


def zero_alone() -> nn.Module:
    """Wrong exactly where x + y = 1: `sign(s + 0.5) + sign(0.5 - s)` is 2 at s = 0 and 0 at s = -1 and 1."""
    return flat(
        linear([[1.0, 1.0]], [-1.0]), Sign(), linear([[1.0], [-1.0]], [0.5, 0.5]), Sign(),
        linear([[-1.0, -1.0], [0.0, 0.0]], [1.0, 0.0]),
    )  # fmt: skip


def test_a_counterexample_on_the_plane_itself_is_not_proved_away() -> None:
    image = np.array([0.75, 0.5], np.float32).reshape(1, 2, 1)
    planted = np.array([0.5, 0.5], np.float32).reshape(1, 2, 1)
    graph = graph_from(zero_alone(), (1, 2, 1))
    with torch.no_grad():
        assert int(zero_alone()(torch.from_numpy(planted)[None]).argmax()) == 1
    assert 0.1249 < radius_of(graph, image, "linf") < 0.125
    found = cell_margins(graph, Region.ball(torch.from_numpy(image)[None], "linf", 0.2), 0)
    assert found is not None
    assert not found.proved
    assert not bool(margin_bounds(graph, Region.ball(torch.from_numpy(image)[None], "linf", 0.2), 0).proved[0])


def test_a_sign_that_is_never_zero_is_read_as_one() -> None:
    net = flat(linear([[1.0, 1.0]], [-1.0]), Sign(True), linear([[-1.0], [1.0]], [0.0, 0.0]))
    graph = graph_of(net, image_shape=(1, 2, 1))
    kinds = [n.activation for n in graph.nodes if n.activation is not None]
    assert kinds == [Activation("sign", zero=1.0)]
    with torch.no_grad():
        at_zero = graph.forward(torch.tensor([[0.5, 0.5]]))
    assert at_zero.tolist() == [[-1.0, 1.0]]
    # Another constant makes another function, which stays as it is.
    other = graph_of(
        flat(linear([[1.0, 1.0]], [-1.0]), Sign(), linear([[2.0]], [3.0]), Sign(), linear([[1.0], [0.0]], [0.0, 0.0])),
        image_shape=(1, 2, 1),
    )
    assert sum(n.activation is not None for n in other.nodes) == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_small_planted_cell_is_never_inside_a_proven_ball(seed: int) -> None:
    """Wrong where every plane agrees, in a cell 0.002 wide around a point that was hidden there."""
    rng = np.random.default_rng(seed)
    image, planted = rng.uniform(0.3, 0.7, (2, 4))
    planes = np.concatenate([np.eye(4), -np.eye(4)])
    shifts = np.concatenate([-(planted - 0.001), planted + 0.001])
    net = flat(linear(planes, shifts), Sign(), linear([[1.0] * 8], [-7.0]), Sign(), linear([[-1.0], [1.0]], [0.0, 0.0]))
    graph = graph_of(net, image_shape=(2, 2, 1))
    point = torch.from_numpy(image).reshape(1, -1).double()
    distances = {
        "linf": np.abs(image - planted).max(),
        "l2": np.linalg.norm(image - planted),
        "l1": np.abs(image - planted).sum(),
    }
    for norm in BALLS:
        away = float(distances[norm])
        centred = CentredBounds(graph)
        region = Region.ball(point, norm, away * 1.0001 + 1e-4)
        rows, _ = margin_rows(2, torch.tensor([0]))
        with torch.no_grad():
            assert float(centred.bound(centred.analyse(region), rows[0]).value.min()) <= 0
            assert float(margin_bounds(graph, region, 0).lower.min()) <= 0
            found = cell_margins(graph, region, 0, most=1 << 14)
        assert found is not None
        assert not found.proved
    near = cell_margins(graph, Region.ball(point, "linf", float(distances["linf"]) - 0.0015), 0)
    assert near is not None
    assert near.proved


def test_rounding_counts_before_a_sign_is_decided() -> None:
    """1 + 2**-25 - 1 is 0 or 2**-25 in float32, by the order of its sum; only the exact value is sure to be positive."""
    net = flat(linear([[1.0, 2.0**-25, -1.0]], [0.0]), Sign(), linear([[1.0], [0.0]], [-0.5, 0.0]))
    ones = np.ones((1, 3, 1), np.float32)
    sums = set()
    for order in itertools.permutations([np.float32(1), np.float32(2.0**-25), np.float32(-1)]):
        total = np.float32(0)
        for part in order:
            total = np.float32(total + part)
        sums.add(float(np.sign(total)))
    assert sums == {0.0, 1.0}  # so class 0 in one order and class 1 in another
    graph = graph_from(net, (1, 3, 1))
    point = Region.ball(torch.from_numpy(ones)[None], "linf", 0.0)
    rows, _ = margin_rows(2, torch.tensor([0]))
    centred = CentredBounds(graph)
    with torch.no_grad():
        assert float(margin_bounds(graph, point, 0).lower.min()) <= 0
        assert float(margin_bounds(graph, point, 0, executed=False).lower.min()) > 0
        assert float(centred.bound(centred.analyse(point), rows[0]).value.min()) <= 0
        found = cell_margins(graph, point, 0)
    assert found is not None
    assert not found.proved


def test_whole_sums_are_exact_and_others_are_not() -> None:
    """Sums of signs with whole weights round nothing; with a fraction, or a scale that may be folded in, they are charged."""
    rng = np.random.default_rng(0)
    whole = rng.choice([-1.0, 1.0], (4, 64))
    head = [linear(rng.normal(size=(64, 9)), np.zeros(64)), Sign()]
    tail = [Sign(), linear(np.ones((2, 4)), [0.0, 1.0])]
    scaled = nn.BatchNorm1d(4).eval()
    for middle, exact in (
        ([linear(whole, [1.0, 2.0, 3.0, 4.0])], True),
        ([linear(whole, [0.5, 2.0, 3.0, 4.0])], False),
        ([linear(whole, [1.0, 2.0, 3.0, 4.0]), scaled], False),
        ([linear(whole * 2.0**20, [1.0, 2.0, 3.0, 4.0])], False),
    ):
        graph = graph_from(flat(*head, *middle, *tail), (3, 3, 1))
        at = next(i for i, n in enumerate(graph.nodes) if n.op is not None and n.op.n_in == 64)
        error = graph.node_error(at, [torch.ones(1, 64, dtype=torch.float64)], unit=2.0**-24)
        assert (float(error.max()) < 1e-8) is exact


def test_numbers_that_overflow_prove_nothing() -> None:
    """Infinity less infinity is NaN, and so is its sign: no interval of signs holds it."""
    net = flat(linear([[3e38, 3e38, -3e38, -3e38]], [0.0]), Sign(), linear([[0.0], [0.0]], [1.0, 0.0]))
    graph = graph_from(net, (2, 2, 1))
    region = Region.ball(torch.ones(1, 2, 2, 1), "linf", 0.0)
    rows, _ = margin_rows(2, torch.tensor([0]))
    centred = CentredBounds(graph)
    with torch.no_grad():
        assert not float(margin_bounds(graph, region, 0).lower.min()) > 0
        assert not float(centred.bound(centred.analyse(region), rows[0]).value.min()) > 0
        assert cell_margins(graph, region, 0) is None
    lower, upper = Activation("sign").interval(torch.tensor([1.0, -torch.inf]), torch.tensor([torch.inf, torch.inf]))
    assert torch.isinf(lower).all()
    assert torch.isinf(upper).all()


def refusals(graph: BoundGraph) -> list[Callable[[], object]]:
    """Everything that rests on derivatives, rates or slopes."""
    region = Region.ball(torch.full((1, 1, 2, 1), 0.8), "linf", 0.01)
    label = torch.tensor([0])
    grid = GridRegion.of_mask(np.full((1, 2, 1), 0.8, np.float32), np.ones((1, 2), dtype=bool))
    rows, _ = margin_rows(2, label)
    return [
        lambda: rates_of(graph, "l2"),
        lambda: product_constant(graph, "l1"),
        lambda: eclipse_constant(graph),
        lambda: ExecutionDrift(graph, rates_of(graph, "l2")),
        lambda: gradient_intervals(graph, propagate(graph, region), rows),
        lambda: local_constants(graph, grid, 0, scorer=lambda images: images),
        lambda: optimise(graph, region, label),
        lambda: tighten(graph, region, propagate(graph, region)),
        lambda: slopes_that_prove(graph, region, 0, seconds=1.0),
    ]


@pytest.mark.parametrize("which", range(9))
def test_what_rests_on_derivatives_is_refused_by_the_name_of_the_layer(which: int) -> None:
    graph = graph_of(half_plane(), image_shape=(1, 2, 1))
    with pytest.raises(UnsupportedLayer, match="sign"):
        refusals(graph)[which]()


def test_another_network_than_the_model_is_refused_though_its_scores_jump() -> None:
    rng = np.random.default_rng(2)
    model = random_signs(rng, (1, 4, 4))
    graph = graph_of(model, image_shape=(4, 4, 1))

    def scores(images: NDArray[np.float32], more: float = 0.0) -> NDArray[np.floating]:
        with torch.no_grad():
            return np.asarray(model(torch.from_numpy(SPEC.prepare(images))).numpy()) + np.float32(more)

    check_signs(graph, scores)
    with pytest.raises(GraphMismatch, match="more than rounding explains"):
        check_signs(graph, lambda images: scores(images, 1e-2))
    with pytest.raises(GraphMismatch, match="more than rounding explains"):
        check_signs(graph, lambda images: -scores(images))
    # A sign whose value at 0 was read wrongly shows where sums of whole numbers are 0.
    whole = flat(linear(rng.normal(size=(16, 16)), [0.0] * 16), Sign(True), linear(rng.choice([-1.0, 1.0], (3, 16)), [0.0] * 3), Sign(True),
                 linear(np.eye(3), [0.0, 1.0, 2.0]))  # fmt: skip
    wrong = flat(*[m if not isinstance(m, Sign) else Sign() for m in list(whole.children())[1:]])
    with torch.no_grad(), pytest.raises(GraphMismatch):
        check_signs(
            graph_from(whole, (4, 4, 1)),
            lambda images: np.asarray(wrong(torch.from_numpy(SPEC.prepare(images))).numpy()),
        )


def certificate(folder: Path, radius: float) -> Path:
    """A claim about a half-plane's ball in Linf, true below 0.3, that nothing was proved of."""
    from .onnx_nets import OnnxWriter

    net = OnnxWriter((1, 1, 2))
    net.add("Flatten", shape=(2,))
    net.dense(np.array([[1.0, 1.0]]), np.array([-1.0]))
    net.add("Sign")
    net.dense(np.array([[1.0], [-1.0]]), np.zeros(2))
    path = net.save(folder / "plane.onnx")
    image = np.array([0.9, 0.7], np.float32).reshape(1, 2, 1)
    digest = OnnxClassifier(path, SPEC).info.digest
    claim = ball_claim("linf", radius)
    Certificate(digest, SPEC, image, 0, None, claim, Guarantee.PROOF_EXEC, "sign patterns").save(folder / "plane.json")
    return path


@pytest.mark.parametrize(("radius", "finding"), [(0.2999, Finding.CONFIRMED), (0.3001, Finding.NOT_CONFIRMED)])
def test_a_certificate_is_confirmed_up_to_the_exact_radius_alone(
    tmp_path: Path, radius: float, finding: Finding
) -> None:
    path = certificate(tmp_path, radius)
    assert recheck(tmp_path / "plane.json", path).finding is finding


@pytest.mark.parametrize("seed", range(3))
def test_brackets_of_a_network_of_signs_hold_the_brute_force_distance(seed: int) -> None:
    """All 256^2 images of two bytes: none that is wrong lies inside a proven ball, and radii come near the nearest."""
    rng = np.random.default_rng(seed)
    planes = rng.normal(size=(4, 2)).astype(np.float32)
    shifts = -(planes @ rng.uniform(0.2, 0.8, 2)).astype(np.float32)
    last = rng.normal(size=(3, 4)).astype(np.float32)
    net = flat(linear(planes, shifts), Sign(), linear(last, [0.0] * 3))
    values = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).reshape(-1, 1, 2, 1).astype(
        np.float32
    ) / np.float32(255)
    with torch.no_grad():
        classes = net(torch.from_numpy(values)).argmax(1).numpy()
    checker = checker_of(net, image_shape=(1, 2, 1))
    image = values[int(rng.integers(len(values)))]
    label = int(classes[(values == image).all(axis=(1, 2, 3))][0])
    gap = np.abs(values[classes != label].astype(np.float64) - image).reshape(-1, 2)
    found = checker.bracket(image, label, norms=("l0", "l1", "l2", "linf"), seconds=4.0)
    nearest = {"linf": gap.max(1).min(), "l2": np.sqrt((gap**2).sum(1)).min(), "l1": gap.sum(1).min()}
    for norm, away in nearest.items():
        lower = found[norm].lower  # type: ignore[index]
        assert lower is not None
        assert lower.value <= away
        assert lower.value > 0.9 * (away - 2 / 255)
    pixels = found["l0"].lower
    assert pixels is not None
    assert pixels.value <= (gap > 0).sum(1).min()


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    """Undone within the test, whatever it raises."""
    with pytest.MonkeyPatch.context() as context:
        yield context


# Mutants.


def others_in_step(patch: pytest.MonkeyPatch) -> None:
    """The other values of a sign handed out in step with the patterns that it is added to, not each to all of them."""
    patch.setattr(sign_sets.np, "tile", lambda values, times: np.repeat(values, times[1], axis=1))


def zero_is_one(patch: pytest.MonkeyPatch) -> None:
    """Sign(0) taken for +1 or -1."""
    right = sign_sets.choices

    def wrong(activation: Activation, low: float, high: float) -> list[float]:
        return [v for v in right(activation, low, high) if v]

    patch.setattr(sign_sets, "choices", wrong)
    patch.setattr(sign_cells, "choices", wrong)


def midpoints(patch: pytest.MonkeyPatch) -> None:
    """Undecided signs decided by the middle of their interval."""
    right = Activation.interval

    def interval(self: Activation, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        middle = (low + high) / 2
        return right(self, middle, middle) if self.kind == "sign" else right(self, low, high)

    patch.setattr(Activation, "interval", interval)


def lower_upper_line(patch: pytest.MonkeyPatch) -> None:
    """CROWN's upper line lowered."""
    right = relax._sign

    def wrong(activation: Activation, low: Tensor, high: Tensor) -> relax.Relaxation:
        found = right(activation, low, high)
        return relax.Relaxation(
            found.upper_slope, found.upper_shift - 0.25, found.lower_slope, found.lower_shift, found.free
        )

    patch.setattr(relax, "_sign", wrong)


def steeper_lower_line(patch: pytest.MonkeyPatch) -> None:
    """CROWN's lower line through the origin."""
    right = relax._sign

    def wrong(activation: Activation, low: Tensor, high: Tensor) -> relax.Relaxation:
        found = right(activation, low, high)
        shift = torch.where(found.lower_slope > 0, found.lower_shift + 1, found.lower_shift)  # type: ignore[operator]
        return relax.Relaxation(found.upper_slope, found.upper_shift, found.lower_slope, shift, found.free)

    patch.setattr(relax, "_sign", wrong)


def half_secants(patch: pytest.MonkeyPatch) -> None:
    """Secants as steep as if z0 were twice as far from 0."""
    right = centred_slopes.jumps_of

    def wrong(*args: Any) -> centred_slopes.Jumps:
        found = right(*args)
        return centred_slopes.Jumps(found.down, found.up, found.rate / 2)

    patch.setattr(centred_slopes, "jumps_of", wrong)


def eager_exclusion(patch: pytest.MonkeyPatch) -> None:
    """Sets of signs excluded at half of what a region can gain."""
    right = sign_sets._Exclusion._lost
    patch.setattr(sign_sets._Exclusion, "_lost", lambda self, form: right(self, form) / 2)


def last_pattern_left_out(patch: pytest.MonkeyPatch) -> None:
    """One pattern fewer."""
    right = sign_cells.possible_patterns

    def wrong(*args: Any) -> sign_sets.Patterns | None:
        found = right(*args)
        if found is None or found.values.shape[1] < 2:
            return found
        return sign_sets.Patterns(found.entries, found.values[:, :-1])

    patch.setattr(sign_cells, "possible_patterns", wrong)


def later_signs_by_midpoint(patch: pytest.MonkeyPatch) -> None:
    """Signs behind the first decided by their middle value."""
    right = sign_cells._Cells._split

    def wrong(self: Any, activation: Activation, low: Any, high: Any) -> Any:
        return right(self, activation, (low + high) / 2, (low + high) / 2)

    patch.setattr(sign_cells._Cells, "_split", wrong)


def test_values_handed_out_in_step_are_caught(patch: pytest.MonkeyPatch) -> None:
    others_in_step(patch)
    with pytest.raises(AssertionError):
        test_a_small_planted_cell_is_never_inside_a_proven_ball(1)


@pytest.mark.parametrize(
    "mutate",
    [midpoints, lower_upper_line, steeper_lower_line, half_secants, eager_exclusion, last_pattern_left_out],
)
def test_mutants_of_bounds_of_signs_are_caught(
    patch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mutate(patch)
    rng = np.random.default_rng(5)
    with pytest.raises(FalseProofError):
        deque((check_signs_of_network(rng, 60) for _ in range(150)), maxlen=0)


def test_a_sign_that_is_never_zero_in_the_bounds_is_caught(patch: pytest.MonkeyPatch) -> None:
    zero_is_one(patch)
    with pytest.raises(AssertionError):
        test_a_counterexample_on_the_plane_itself_is_not_proved_away()


def no_rounding(patch: pytest.MonkeyPatch) -> None:
    """No rounding charged before a sign is decided."""
    right = crown.BoundGraph.node_error
    patch.setattr(BoundGraph, "node_error", lambda *args, **given: 0 * right(*args, **given))


def everything_whole(patch: pytest.MonkeyPatch) -> None:
    """Every sum taken for one of whole numbers."""
    patch.setattr(BoundGraph, "_unrounded", property(lambda graph: (True,) * len(graph.nodes)))


@pytest.mark.parametrize("mutate", [no_rounding, everything_whole, later_signs_by_midpoint])
def test_mutants_of_rounding_are_caught(
    patch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None]
) -> None:
    mutate(patch)
    caught = 0
    for known in (test_rounding_counts_before_a_sign_is_decided, test_rounding_counts_in_later_signs):
        try:
            known()
        except AssertionError:
            caught += 1
    assert caught


def test_rounding_counts_in_later_signs() -> None:
    """The same sum behind a first sign."""
    net = flat(
        linear([[1.0]], [0.0]), Sign(), linear([[1.0], [2.0**-25], [-1.0]], [0.0] * 3),
        linear([[1.0, 1.0, 1.0]], [0.0]), Sign(), linear([[1.0], [0.0]], [-0.5, 0.0]),
    )  # fmt: skip
    graph = graph_from(net, (1, 1, 1))
    with torch.no_grad():
        found = cell_margins(graph, Region.ball(torch.ones(1, 1, 1, 1), "linf", 0.1), 0)
    assert found is not None
    assert not found.proved


def test_a_lipschitz_constant_that_is_not_refused_is_caught(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BoundGraph, "need_continuous", lambda graph, method: None)
    graph = graph_of(half_plane(), image_shape=(1, 2, 1))
    # Its scores are 1 and -1, its layers of rate 1 and 2: the radius would be beyond the exact one, 0.1.
    assert product_constant(graph, "l2").radius(torch.tensor([1.0, -1.0]).double(), 0) > 0.1 / np.sqrt(2)
    with pytest.raises(pytest.fail.Exception):
        test_what_rests_on_derivatives_is_refused_by_the_name_of_the_layer(1)


def no_drift(patch: pytest.MonkeyPatch) -> None:
    """The second program without rounding."""
    right = recheck_signs.rounding
    patch.setattr(recheck_signs, "rounding", lambda layer, reach: 0 * right(layer, reach))


def half_spread(patch: pytest.MonkeyPatch) -> None:
    """The second program with half of what a region can gain."""
    right = recheck_signs._Network._spread
    patch.setattr(recheck_signs._Network, "_spread", lambda self, matrix: right(self, matrix) / 2)


def needs_too_much(patch: pytest.MonkeyPatch) -> None:
    """The second program asking too much of a sign before it turns."""
    right = recheck_signs._Network._turns

    def wrong(self: Any, *args: Any) -> Any:
        return [recheck_signs._Turn(t.row, 3 * t.needs) for t in right(self, *args)]

    patch.setattr(recheck_signs._Network, "_turns", wrong)


def second_without_zero(patch: pytest.MonkeyPatch) -> None:
    """The second program's signs never 0."""
    patch.setattr(recheck_signs, "_possible", lambda zero, low, high: [-1.0, 1.0])


@pytest.mark.parametrize("mutate", [half_spread, needs_too_much])
def test_mutants_of_the_second_program_are_caught(
    patch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None], tmp_path: Path
) -> None:
    mutate(patch)
    rng = np.random.default_rng(8)
    with pytest.raises(FalseProofError):
        deque((check_recheck_of_network(rng, tmp_path, 60) for _ in range(120)), maxlen=0)


@pytest.mark.parametrize("mutate", [second_without_zero, no_drift])
def test_a_second_program_without_zero_or_rounding_is_caught(
    patch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None], tmp_path: Path
) -> None:
    mutate(patch)
    with pytest.raises(AssertionError):
        test_the_second_program_knows_zero_and_rounding(tmp_path)


def test_the_second_program_knows_zero_and_rounding(tmp_path: Path) -> None:
    from .onnx_nets import OnnxWriter

    net = OnnxWriter((1, 1, 2))
    net.add("Flatten", shape=(2,))
    net.dense(np.array([[1.0, 1.0]]), np.array([-1.0]))
    net.add("Sign")
    net.dense(np.array([[1.0], [-1.0]]), np.array([0.5, 0.5]))
    net.add("Sign")
    net.dense(np.array([[-1.0, -1.0], [0.0, 0.0]]), np.array([1.0, 0.0]))
    zero = read_model(net.save(tmp_path / "zero.onnx"), table(SPEC), (1, 2, 1))
    image = np.array([0.75, 0.5])
    leaf = Leaf(image, image - 0.2, image + 0.2, "linf", eps=0.2)
    assert recheck_signs.least_margin(zero, leaf, np.array([[1.0, -1.0]]))[0] <= 0
    net = OnnxWriter((1, 1, 3))
    net.add("Flatten", shape=(3,))
    net.dense(np.array([[1.0, 2.0**-25, -1.0]]), np.zeros(1))
    net.add("Sign")
    net.dense(np.array([[1.0], [0.0]]), np.array([-0.5, 0.0]))
    model = read_model(net.save(tmp_path / "round.onnx"), table(SPEC), (1, 3, 1))
    ones = np.ones(3)
    assert recheck_signs.least_margin(model, Leaf(ones, ones, ones, "linf"), np.array([[1.0, -1.0]]))[0] <= 0


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 3])
def test_a_binarised_network_of_the_zoo_is_certified(zoo: Path, tmp_path: Path, place: int) -> None:
    """Convolution, pooling and BatchNorm around signs: radii > 0, confirmed by the second program, refuted by no find."""
    path = zoo / "models" / "gtsrb_bnn48.onnx"
    classifier = OnnxClassifier(path, threads=1)
    with np.load(zoo / "data" / "gtsrb48.npz") as data:
        image, label = data["images"][place].astype(np.float32) / np.float32(255), int(data["labels"][place])
    found = checker_of(classifier, image_shape=image.shape).bracket(image, label, norms=BALLS, seconds=15.0)
    for norm in BALLS:
        lower, upper = found[norm].lower, found[norm].upper
        assert lower is not None
        assert upper is not None
        assert 0 < lower.value < upper.value
        assert lower.guarantee is Guarantee.PROOF_EXEC
    certificate_ = found["linf"].lower
    assert certificate_ is not None
    (tmp_path / "linf.json").write_text(json.dumps(certificate_.certificate))
    assert recheck(tmp_path / "linf.json", path).confirmed
