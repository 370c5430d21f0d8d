"""Residual steps along convex gradients, what execution drifts by around an image, and the search for a radius."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustest.bounds import lipschitz as lipschitz_module
from robustest.bounds.branch import prove_region
from robustest.bounds.centred import CentredBounds
from robustest.bounds.check import checker_of
from robustest.bounds.checker import Checker
from robustest.bounds.crown import margin_bounds, margin_rows
from robustest.bounds.drift import ExecutionDrift
from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import steps_of_255
from robustest.bounds.lipschitz import product_constant, rates_of
from robustest.bounds.radius import largest_radius
from robustest.bounds.reading import read_torch
from robustest.bounds.region import Region
from robustest.classifiers.spec import InputSpec

from .random_nets import points_of, random_network

GRAY = InputSpec("NCHW", "gray")


class Step(nn.Module):
    """`x + down f(up x)`."""

    def __init__(self, up: Tensor, down: Tensor, bent: nn.Module | None = None) -> None:
        super().__init__()
        self.up = nn.Linear(up.shape[1], up.shape[0])
        self.down = nn.Linear(down.shape[1], down.shape[0])
        self.bent = bent or nn.ReLU()
        with torch.no_grad():
            self.up.weight.copy_(up)
            self.down.weight.copy_(down)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.down(self.bent(self.up(x)))


def scored(*layers: nn.Module, seed: int = 0, classes: int = 3) -> nn.Module:
    """The layers on flattened 4x4 images, then a matrix to the scores."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(16, classes)).eval()


def graph_of_module(model: nn.Module, shape: tuple[int, int, int] = (4, 4, 1)) -> BoundGraph:
    return read_torch(model, GRAY if shape[2] == 1 else InputSpec("NCHW", "RGB"), shape)


def max_min() -> Step:
    """Sorts pairs of entries: `(min(a, b), max(a, b))` by `x - D' relu(D x)` with rows `e_a - e_b`."""
    rows = torch.zeros(8, 16)
    rows[torch.arange(8), 2 * torch.arange(8)] = 1.0
    rows[torch.arange(8), 2 * torch.arange(8) + 1] = -1.0
    step = Step(rows, -rows.T)
    with torch.no_grad():
        step.up.bias.zero_()
        step.down.bias.zero_()
    return step


def steepest(model: nn.Module, rng: np.random.Generator, points: int = 300) -> float:
    """Largest spectral norm of the Jacobian of what stands before the scores, over random points: never too large."""
    body = nn.Sequential(*list(model.children())[:-1]).double()
    found = 0.0
    for point in torch.from_numpy(rng.normal(size=(points, 1, 16)) * 2):
        slope = torch.autograd.functional.jacobian(body, point)
        found = max(found, float(torch.linalg.matrix_norm(slope.reshape(16, 16), 2)))
    return found


def test_sorting_pairs_stretches_nothing() -> None:
    model = scored(max_min(), max_min())
    x = torch.randn(5, 16)
    both = x.reshape(5, 8, 2)
    expected = torch.stack([both.amin(2), both.amax(2)], 2).flatten(1)
    assert torch.allclose(list(model.children())[1](x), expected)
    found = product_constant(graph_of_module(model), "l2").constant[0, 1]
    row = list(model.children())[-1].weight.detach().double()
    exact = float((row[0] - row[1]).norm())
    assert exact <= float(found) <= exact * (1 + 1e-6)


@pytest.mark.parametrize("share", [0.5, 2.0, 3.5, 6.0, -1.0])
@pytest.mark.parametrize("bent", [nn.ReLU(), nn.LeakyReLU(0.2), nn.Tanh()])
def test_a_residual_steps_rate_is_never_exceeded_and_tight_where_it_is_known(share: float, bent: nn.Module) -> None:
    """`x - c A' f(A x)`: 1 for `c |A|^2 <= 2`, else `c |A|^2 - 1`; for a negative c the sum `1 + |c| |A|^2`."""
    rng = np.random.default_rng(7)
    up = torch.from_numpy(rng.normal(size=(10, 16)))
    up /= torch.linalg.matrix_norm(up, 2)
    noise = 1e-3 * torch.from_numpy(rng.normal(size=(16, 10)))
    for rest in (0.0, 1.0):
        down = -share * up.T + rest * noise
        model = scored(Step(up, down, bent)).double()
        rate = rates_of(graph_of_module(model), "l2").image[-1]
        assert steepest(model, rng) <= rate
        known = max(1.0, share - 1) if share >= 0 else 1 - share
        room = rest * 2 * float(noise.norm()) + 1e-6
        assert known - room <= rate <= known + room


def test_a_rate_without_the_residual_steps_second_part_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that takes every step for harmless, whatever its size, claims less than points show."""
    rng = np.random.default_rng(3)
    up = torch.from_numpy(rng.normal(size=(10, 16)))
    up /= torch.linalg.matrix_norm(up, 2)
    model = scored(Step(up, -6.0 * up.T)).double()
    graph = graph_of_module(model)
    monkeypatch.setattr(
        lipschitz_module, "_descent_rate", lambda graph, index, norms: (graph.nodes[index].parents[0], 1.0)
    )
    claimed = min(rates_of(graph, "l2").image[-1], 1.0 + 1e-6)
    assert steepest(model, rng) > claimed


@pytest.mark.parametrize("seed", range(6))
def test_executed_margins_stay_within_the_drift(seed: int) -> None:
    """Float32 networks at random points of L2 balls, at zero tolerance."""
    rng = np.random.default_rng(seed)
    shape = (5, 5, 1) if seed % 2 else (4, 4, 1)
    if seed % 2:
        model = random_network(rng, (1, 5, 5))
    else:
        up = torch.from_numpy(rng.normal(size=(12, 16))) / 5
        model = scored(Step(up, -0.7 * up.T), nn.Linear(16, 16), max_min(), seed=seed)
        if seed == 4:
            # Terms of 2**24 that cancel: most of a margin's digits are lost.
            with torch.no_grad():
                model[2].weight[:, :2] = torch.tensor([2.0**24, -(2.0**24)])
    graph = graph_of_module(model, shape)
    drift = ExecutionDrift(graph, rates_of(graph, "l2"))
    image = torch.from_numpy(rng.random((1, *shape)).astype(np.float32))
    ball = Region.ball(image, "l2", 0.8)
    points = points_of(rng, ball, 400)[0]
    with torch.no_grad():
        executed = model(points.reshape(-1, 1, *shape[:2])).double()
    exact = graph.forward(points)
    for label in range(graph.n_classes):
        most = drift.margins(ball.centre, label, 0.8)
        short = (exact[:, [label]] - exact) - (executed[:, [label]] - executed)
        assert bool((short <= most).all())


def test_on_a_linear_network_the_executed_l2_radius_is_the_closed_form_less_its_rounding() -> None:
    """Margin over slope: `(0.3 * 0.6 + 0.4 * 0.8) / 0.5 = 1`, straight towards (0, 0)."""
    weight = torch.zeros(2, 16)
    weight[0, :2] = torch.tensor([0.3, 0.4])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(weight)
    image = np.zeros((4, 4, 1), np.float32)
    image[0, 0], image[0, 1] = 0.6, 0.8
    bracket = checker_of(model, image_shape=(4, 4, 1)).bracket(image, 0, norms=("l2",))["l2"]
    assert bracket.lower is not None
    assert 1.0 * (1 - 1e-3) <= bracket.lower.value <= 1.0 + 1e-6


def most_domains(graph: BoundGraph, *, side: int, radii: tuple[float, ...]) -> int:
    """The most domains that proofs on Linf balls around one image branched into; none of 1,500 points contradicts any."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((1, side, side, 1)).astype(np.float32))
    label = int(graph.forward(image)[0].argmax())
    most = 0
    for eps in radii:
        ball = Region.ball(image, "linf", eps)
        # Cuts leave branching nothing to do on some of these balls.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("robustest.bounds.branch.prove_by_cuts", lambda *_, **__: False)
            answer = prove_region(graph, ball, label, seconds=1e9, domains=24)
        most = max(most, answer.domains)
        scores = graph.forward(points_of(rng, ball, 1500)[0])
        margins = scores[:, [label]] - scores
        margins[:, label] = math.inf
        assert float(margins.min()) > 0 if answer.proved else answer.lower <= float(margins.min())
    return most


def test_branching_over_a_convolutional_network_tightens_and_claims_nothing_false() -> None:
    """Domains are many sets of intervals on one region; convolutional neurons keep to their windows there."""
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
    assert most_domains(graph_of_module(model, (8, 8, 1)), side=8, radii=(0.04, 0.06, 0.1)) > 1


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_bounds_that_ran_out_of_time_hold_all_the_same(norm: str) -> None:
    rng = np.random.default_rng(11)
    model = random_network(rng, (1, 6, 6))
    graph = graph_of_module(model, (6, 6, 1))
    image = torch.from_numpy(rng.random((1, 6, 6, 1)).astype(np.float32))
    ball = Region.ball(image, norm, 2 if norm == "l0" else 0.1)  # type: ignore[arg-type]
    rows, _ = margin_rows(graph.n_classes, torch.tensor([0]))
    margins = graph.forward(points_of(rng, ball, 500)[0]) @ rows[0].T
    with torch.no_grad():
        hurried = margin_bounds(graph, ball, 0, deadline=-math.inf).lower
        bounds = CentredBounds(graph)
        other = bounds.bound(bounds.analyse(ball, deadline=-math.inf), rows[0]).value
        whole = margin_bounds(graph, ball, 0).lower
    assert bool((margins >= torch.maximum(hurried, other)).all())
    assert bool((hurried <= whole + 1e-9).all())


def test_a_radius_is_found_in_few_evaluations_whatever_the_shape_of_the_gap() -> None:
    """Roots known in closed form; every answer's own gap was positive."""
    cases = [
        (lambda r: 1 - r * r, 10.0, 1.0, 1.0),
        (lambda r: 1 - 4 * r, 2.0, 1.0, 0.25),
        (lambda r: 2 - 500 * r**5 if r < 0.5 else -math.inf, 1.8, 2.0, (2 / 500) ** 0.2),
        (lambda r: 1.0 if r < 0.3 else -1.0, 2.0, 1.0, 0.3),
    ]
    for gap, top, start, root in cases:
        asked: list[float] = []

        def ask(radius: float, gap=gap, asked=asked) -> float:  # type: ignore[no-untyped-def]
            asked.append(radius)
            return float(gap(radius))

        found = largest_radius(ask, top, start)
        assert found in asked
        assert gap(found) > 0
        assert root * 0.99 <= found <= root
        assert len(asked) <= 14


def test_a_radius_search_stops_at_its_deadline_with_what_was_proved() -> None:
    assert largest_radius(lambda r: 1 - r, 2.0, 1.0, deadline=-math.inf, first=0.2) == pytest.approx(0.4)
    assert largest_radius(lambda r: 1 - r, 2.0, 1.0, deadline=-math.inf, latest=-math.inf) == 0.0


def test_a_checker_without_time_gives_a_bracket_without_false_claims() -> None:
    torch.manual_seed(1)
    model = scored(nn.Linear(16, 16), nn.ReLU())
    checker: Checker = checker_of(model, image_shape=(4, 4, 1))
    image = np.random.default_rng(2).random((4, 4, 1)).astype(np.float32)
    label = int(np.asarray(checker.scorer(image[None])).argmax())
    for norm, bracket in checker.bracket(image, label, seconds=0.0).items():
        assert bracket.norm == norm
        assert bracket.lower is not None
        assert bracket.lower.value >= 0


def test_a_linf_proof_counts_up_to_the_next_step_of_8_bit_images() -> None:
    """Every pair of 8-bit values that differs by fewer steps lies inside the radius as float32, with room to spare."""
    values = np.arange(256, dtype=np.float32) / np.float32(255)
    gaps = np.abs(values[:, None].astype(np.float64) - values[None])
    steps = np.abs(np.subtract.outer(np.arange(256), np.arange(256)))
    for radius in (1e-9, 0.003, 1 / 255, 0.0040, 2 / 255 + 1e-9, 2 / 255 + 1e-6, 0.1, 0.5):
        known = steps_of_255(radius)
        assert bool((gaps[steps < known] < radius).all())
        assert known / 255 >= radius - 2.0**-22
    assert steps_of_255(0.0) == 0
    assert steps_of_255(0.1) == 26
    assert steps_of_255(2 / 255) == 2


def test_branching_over_a_residual_network_tightens_and_claims_nothing_false() -> None:
    """A sum whose one branch was cut and whose other was not has bounds for every domain."""
    torch.manual_seed(2)
    up = torch.randn(24, 16) / 3
    model = scored(nn.Linear(16, 16), Step(up, -0.4 * up.T), Step(up, 0.3 * up.T), seed=2)
    assert most_domains(graph_of_module(model), side=4, radii=(0.1, 0.2)) > 2
