"""Brackets whose ends are known without running the checker: linear and max-affine networks, planted images."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustest.bounds.alpha import optimise, tighten
from robustest.bounds.branch import prove_region
from robustest.bounds.branch_compact import CompactForm
from robustest.bounds.check import certify, checker_of
from robustest.bounds.crown import margin_bounds
from robustest.bounds.errors import SoundnessViolation
from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import Bound, Bracket, Guarantee, Witness
from robustest.bounds.lipschitz import product_constant, supplied
from robustest.bounds.radius import largest_radius
from robustest.bounds.reading import graph_of
from robustest.bounds.region import Region
from robustest.classifiers.onnx_file import OnnxClassifier
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidImage, InvalidSetting

GRAY = InputSpec("NCHW", "gray")


def linear(weight: NDArray[np.float64], bias: NDArray[np.float64]) -> nn.Module:
    """Scores `weight x + bias` of a 4x4 gray image."""
    layer = nn.Linear(16, len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.mark.parametrize("seed", range(3))
def test_a_linear_classifier_has_the_distances_of_the_formula(seed: int) -> None:
    """In the middle of the box the nearest boundary is gap / dual norm, in L1, L2 and Linf; the bracket closes."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(3, 16))
    image = np.full((4, 4, 1), 0.5, np.float32)
    bias = np.array([0.3, 0.0, 0.05]) - weight @ image.ravel()
    brackets = certify(linear(weight, bias), image, 0, norms=("l1", "l2", "linf"), seconds=1.0, spec=GRAY)
    scores = weight @ image.ravel() + bias
    gaps, rows = scores[0] - scores[1:], weight[0] - weight[1:]
    exact = {
        "linf": min(g / np.abs(r).sum() for g, r in zip(gaps, rows, strict=True)),
        "l2": min(g / np.linalg.norm(r) for g, r in zip(gaps, rows, strict=True)),
        "l1": min(g / np.abs(r).max() for g, r in zip(gaps, rows, strict=True)),
    }
    for norm, bracket in brackets.items():
        assert bracket.lower is not None
        assert bracket.upper is not None
        assert bracket.lower.guarantee is Guarantee.PROOF_EXEC
        assert bracket.lower.value <= exact[norm] * (1 + 1e-6)
        assert bracket.lower.value >= exact[norm] * 0.98
        assert exact[norm] * (1 - 1e-5) <= bracket.upper.value <= exact[norm] * 1.05


def monotone_network(rng: np.random.Generator) -> nn.Module:
    """Two scores: a constant, and a rising function of 4x4 pixels: the nearest images lie at pixel value 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(rng.uniform(0, 1, (5, 16))))
        model[1].bias.copy_(torch.from_numpy(-rng.uniform(0, 2, 5)))
        model[3].weight.zero_()
        model[3].weight[1] = torch.from_numpy(rng.uniform(0, 1, 5))
        model[3].bias.zero_()
    return model


@pytest.mark.parametrize("seed", range(4))
def test_few_pixel_distances_agree_with_brute_force(seed: int) -> None:
    """On a rising network the best k pixels are set to 1: all subsets are tried."""
    rng = np.random.default_rng(seed)
    model = monotone_network(rng)
    image = (rng.random((4, 4, 1)) * 0.3).astype(np.float32)
    checker = checker_of(model, image_shape=image.shape, spec=GRAY)
    with torch.no_grad():
        start = float(model(torch.from_numpy(GRAY.prepare(image[None])))[0, 1])
        model[3].bias[0] = start + rng.uniform(0.3, 1.2)  # type: ignore[index]
    checker = checker_of(model, image_shape=image.shape, spec=GRAY)
    exact = None
    for count in range(1, 5):
        batch = []
        for pixels in itertools.combinations(range(16), count):
            moved = image.copy().reshape(-1)
            moved[list(pixels)] = 1.0
            batch.append(moved.reshape(4, 4, 1))
        if bool((np.asarray(checker.scorer(np.stack(batch))).argmax(1) != 0).any()):
            exact = count
            break
    bracket = checker.bracket(image, 0, norms=("l0",), seconds=5.0)["l0"]
    assert bracket.lower is not None
    if exact is None:
        assert bracket.lower.value >= 1
    else:
        assert bracket.lower.value <= exact
        assert bracket.upper is not None
        assert bracket.upper.value >= exact
        assert bracket.exact
        assert bracket.lower.value == exact


class Cones(nn.Module):
    """Score 0 is a constant, score 1 the largest of distances-below-1 to planted images: max-affine in each."""

    def __init__(self, images: NDArray[np.float32], size: float) -> None:
        super().__init__()
        count, n = images.shape
        # relu(x - p) and relu(p - x) sum to |x - p|: the L1 distance to a planted image is a small ReLU network.
        weight = np.concatenate([np.concatenate([np.eye(n), -np.eye(n)]) for _ in range(count)])
        shift = np.concatenate([np.concatenate([-p, p]) for p in images])
        self.split = nn.Linear(n, 2 * n * count)
        self.join = nn.Linear(2 * n * count, count)
        self.top = nn.Linear(count, 2)
        join = np.zeros((count, 2 * n * count))
        for i in range(count):
            join[i, 2 * n * i : 2 * n * (i + 1)] = -1.0
        with torch.no_grad():
            self.split.weight.copy_(torch.from_numpy(weight))
            self.split.bias.copy_(torch.from_numpy(shift))
            self.join.weight.copy_(torch.from_numpy(join))
            self.join.bias.fill_(size)
            self.top.weight.copy_(torch.tensor([[0.0] * count, [1.0] * count]))
            self.top.bias.copy_(torch.tensor([1e-3, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        """Class 1 exactly within (about) `size` of a planted image in L1."""
        scores: Tensor = self.top(torch.relu(self.join(torch.relu(self.split(x.flatten(1))))))
        return scores


@pytest.mark.parametrize("seed", range(2))
def test_planted_images_are_never_inside_a_proven_ball(seed: int) -> None:
    """Misclassified images are known to lie at known places; no norm's lower end may reach past them."""
    rng = np.random.default_rng(seed)
    image = rng.random((4, 4, 1)).astype(np.float32)
    moves = rng.normal(size=(3, 16)) * np.array([[0.05], [0.1], [0.2]])
    planted = np.clip(image.ravel() + moves, 0, 1).astype(np.float32)
    size = 0.02
    model = Cones(planted, size).eval()
    brackets = certify(model, image, 0, seconds=0.5, spec=GRAY)
    gaps = np.abs(planted.astype(np.float64) - image.ravel().astype(np.float64))
    nearest = {"l1": gaps.sum(1).min(), "l2": np.sqrt((gaps**2).sum(1)).min(), "linf": gaps.max(1).min()}
    for norm, exact in nearest.items():
        lower = brackets[norm].lower  # type: ignore[index]
        assert lower is not None
        assert 0 < lower.value <= exact
    # In L1 the class changes where the nearest cone reaches 1e-3: at distance `size - 1e-3` from its tip.
    assert brackets["l1"].lower is not None
    edge = nearest["l1"] - (size - 1e-3)
    assert brackets["l1"].lower.value <= edge * (1 + 1e-4)


@pytest.fixture(params=["layers", "domains"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to branch on a box, without cuts before: layer by layer, and over whole domains as in every other norm."""
    monkeypatch.setattr("robustest.bounds.branch.prove_by_cuts", lambda *_, **__: False)
    if request.param == "domains":
        monkeypatch.setattr(CompactForm, "suits", staticmethod(lambda graph, region: False))
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_branching_decides_what_one_relaxation_cannot() -> None:
    """`|x| + |y|` as ReLUs of both signs is at least 0: one relaxation gives less, branching proves it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]))
        model[1].bias.copy_(torch.tensor([0.0, 0.0, -1.0, 1.0]))
        model[3].weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
        model[3].bias.copy_(torch.tensor([0.05, 0.0]))
    graph = graph_of(model, GRAY, image_shape=(1, 2, 1))
    region = Region.box_of(torch.zeros(1, 2), torch.ones(1, 2))
    assert float(margin_bounds(graph, region, 0).lower) < 0
    assert float(optimise(graph, region, torch.tensor([0]), steps=30).lower) <= 0.05
    assert prove_region(graph, region, 0, seconds=20).proved
    with torch.no_grad():
        model[3].bias[0] = -0.05
    lowered = graph_of(model, GRAY, image_shape=(1, 2, 1))
    assert not prove_region(lowered, region, 0, seconds=2, domains=200).proved


def test_tightened_intervals_are_never_wider_and_hold() -> None:
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3)
    ).eval()
    graph = graph_of(model, GRAY, image_shape=(4, 4, 1))
    image = torch.from_numpy(rng.random((1, 16)))
    region = Region.ball(image, "linf", 0.2)
    plain = margin_bounds(graph, region, 0).intervals
    better, _ = tighten(graph, region, plain, steps=5)
    points = region.lower + torch.from_numpy(rng.random((500, 16))) * (region.upper - region.lower)
    for node, values in enumerate(graph.forward_all(points)):
        assert bool((better.lower[node] >= plain.lower[node]).all() and (better.upper[node] <= plain.upper[node]).all())
        assert bool((values >= better.lower[node]).all() and (values <= better.upper[node]).all())


def test_a_larger_radius_is_found_to_within_the_tolerance() -> None:
    assert largest_radius(lambda r: 1 - r * r, 10.0, 1.0) == pytest.approx(1.0, rel=0.01)
    assert largest_radius(lambda r: 1 - r, 0.5, 1.0) == pytest.approx(0.5, rel=0.01)
    assert largest_radius(lambda r: -1.0, 1.0, 0.0) == 0.0


def test_ends_that_cross_end_the_run() -> None:
    proof = Bound(2.0, Guarantee.PROOF_EXEC, "planted")
    image = np.zeros((1, 1, 1), np.float32)
    with pytest.raises(SoundnessViolation, match="bug"):
        Bracket("l2", proof, Witness(image, 1.0, 3, "attack"))
    with pytest.raises(InvalidSetting, match="proof"):
        Bracket("l2", Bound(2.0, Guarantee.ESTIMATE, "guess"), None)
    with pytest.raises(InvalidSetting, match="confidence"):
        Bound(1.0, Guarantee.PROBABILISTIC, "smoothing")


def test_an_image_that_is_wrong_already_has_distance_zero() -> None:
    model = linear(np.eye(2, 16), np.zeros(2))
    image = np.zeros((4, 4, 1), np.float32)
    image[0, 1] = 1.0
    bracket = certify(model, image, 0, norms=("l2",), spec=GRAY)["l2"]
    assert bracket.lower is None
    assert bracket.upper is not None
    assert bracket.upper.value == 0
    with pytest.raises(InvalidImage, match="label"):
        certify(model, image, 7, norms=("l2",), spec=GRAY)


def test_a_supplied_constant_gives_a_conditional_proof_only() -> None:
    given = supplied(5.0, "l2", 3)
    assert given.guarantee is Guarantee.PROOF_GIVEN_L
    assert given.radius(torch.tensor([2.0, 1.0, 0.5]).double(), 0) == pytest.approx(0.2)
    with pytest.raises(InvalidSetting, match="constant"):
        supplied(float("inf"), "l2", 3)


def test_constants_of_a_linear_network_are_the_dual_norms() -> None:
    weight = np.zeros((2, 16))
    weight[0, :2] = 3.0, 4.0
    graph = graph_of(linear(weight, np.zeros(2)), GRAY, image_shape=(4, 4, 1))
    for norm, exact in (("l1", 4.0), ("l2", 5.0), ("linf", 7.0)):
        found = float(product_constant(graph, norm).constant[0, 1])  # type: ignore[arg-type]
        assert exact <= found <= exact * (1 + 1e-5)


def test_execution_costs_at_most_half_a_percent_of_the_radius(zoo: Path) -> None:
    classifier = OnnxClassifier(zoo / "models" / "mnist_wk_eps01.onnx", threads=1)
    graph = graph_of(classifier)
    data = np.load(zoo / "data" / "mnist.npz")
    image = torch.from_numpy(data["images"][:1].astype(np.float32) / 255)
    label = int(data["labels"][0])

    def gap(executed: bool, eps: float) -> float:
        return float(margin_bounds(graph, Region.ball(image, "linf", eps), label, executed=executed).lower.min())

    real = largest_radius(lambda e: gap(False, e), 0.3, gap(False, 0.0), tolerance=1e-4)
    executed = largest_radius(lambda e: gap(True, e), 0.3, gap(True, 0.0), tolerance=1e-4)
    assert 0.995 * real <= executed <= real * (1 + 1e-3)


@pytest.mark.parametrize(
    ("name", "data", "eps"),
    [("cifar_resnet2b_adv", "cifar10", 0.002), ("mnist_lenet5_adv", "mnist", 0.002)],
)
def test_residual_and_pooled_networks_of_the_zoo_are_certified(zoo: Path, name: str, data: str, eps: float) -> None:
    """A ball that several images of any trained network must allow, proved for the network as executed."""
    classifier = OnnxClassifier(zoo / "models" / f"{name}.onnx", threads=1)
    graph, images = graph_of(classifier), np.load(zoo / "data" / f"{data}.npz")
    proved = 0
    for image, label in zip(images["images"][:4], images["labels"][:4].tolist(), strict=True):
        unit = torch.from_numpy(image.astype(np.float32) / 255).reshape(1, *graph.input_shape)
        region = Region.ball(unit, "linf", eps, channels=graph.input_shape[2])
        with torch.no_grad():
            proved += bool(margin_bounds(graph, region, label).proved[0])
    assert proved >= 1


def lowest_point(graph: BoundGraph, region: Region, rng: np.random.Generator) -> float:
    """The least margin of class 0 over class 1 that many descents from random points reach."""
    point = region.lower + torch.from_numpy(rng.random((200, graph.n_inputs))) * (region.upper - region.lower)
    for step in range(60):
        point = point.detach().requires_grad_()
        scores = graph.forward(point)
        (slope,) = torch.autograd.grad((scores[:, 0] - scores[:, 1]).sum(), point)
        size = (region.upper - region.lower) * 0.3 * (1 - step / 60) ** 2
        point = torch.minimum(torch.maximum(point - slope.sign() * size, region.lower), region.upper)
    scores = graph.forward(point.float()).detach()
    return float((scores[:, 0] - scores[:, 1]).min())


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("seed", range(2))
def test_branching_never_proves_a_region_with_a_known_counterexample(seed: int) -> None:
    """The bias is set so that the least point found is misclassified by a hair, and then right by a margin."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
        ).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(2.0)
    region = Region.ball(torch.from_numpy(rng.random((1, 4))), "linf", 0.4)
    least = lowest_point(graph_of(model, GRAY, image_shape=(2, 2, 1)), region, rng)
    with torch.no_grad():
        model[5].bias[0] -= least + 1e-4  # type: ignore[index]
    graph = graph_of(model, GRAY, image_shape=(2, 2, 1))
    assert lowest_point(graph, region, rng) < 0
    assert not prove_region(graph, region, 0, seconds=0.5).proved
    with torch.no_grad():
        model[5].bias[0] += 0.3  # type: ignore[index]
    raised = graph_of(model, GRAY, image_shape=(2, 2, 1))
    answer = prove_region(raised, region, 0, seconds=3.0)
    assert answer.proved or lowest_point(raised, region, rng) < 0.3 - 2e-4
