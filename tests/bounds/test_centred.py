"""Bounds centred on the image: no point violates them, exactness where it is known, and mutants that must be caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustest.bounds import centred
from robustest.bounds.centred import CentredBounds
from robustest.bounds.centred_slopes import Slopes
from robustest.bounds.cones import Link, build_cone
from robustest.bounds.graph import Activation
from robustest.bounds.reading import read_torch
from robustest.bounds.region import Region
from robustest.classifiers.spec import InputSpec

from .random_nets import NORMS, inside, points_of, random_network, random_region

SHAPES = [(4, 4, 1), (5, 6, 1), (6, 5, 3), (7, 7, 1)]


class FalseProofError(AssertionError):
    """A point of a region violates a bound that was claimed for it."""


def check_network(model: nn.Module, rng: np.random.Generator, shape: tuple[int, int, int], count: int) -> int:
    """Try the bounds of one network against points of regions of every norm, at zero tolerance; returns how many."""
    spec = InputSpec("NCHW", "gray" if shape[2] == 1 else "RGB")
    graph = read_torch(model, spec, shape)
    bounds = CentredBounds(graph)
    kind = next(model.parameters()).dtype
    tried = 0
    for norm in NORMS:
        images = torch.from_numpy(rng.random((3, *shape)).astype(np.float32))
        images = torch.where(torch.from_numpy(rng.random((3, *shape)) < 0.3), images.round(), images)
        ball = random_region(rng, images * float(rng.integers(0, 3) > 0), norm)
        rows = torch.from_numpy(rng.integers(-1, 2, (3, graph.n_classes))).double()
        with torch.no_grad():
            state = bounds.analyse(ball)
            found = bounds.bound(state, rows)
            points = torch.cat([points_of(rng, ball, count), inside(ball, ball.argmin_linear(found.form).float())], 1)
            flat = points.flatten(0, 1)
            ready = torch.from_numpy(spec.prepare(flat.reshape(-1, *shape).numpy())).to(kind)
            values = model(ready).double().reshape(3, -1, graph.n_classes) @ rows.T
            if bool((values < found.value[:, None]).any()):
                raise FalseProofError(f"{norm}: {(found.value[:, None] - values).max():g} below its bound")
            for node, every in enumerate(graph.forward_all(flat)):
                inner = every.reshape(3, -1, every.shape[1])
                if bool((inner < state.lower[node][:, None]).any() | (inner > state.upper[node][:, None]).any()):
                    raise FalseProofError(f"{norm}: node {graph.nodes[node].name} leaves its interval")
        tried += points.shape[0] * points.shape[1]
    return tried


@pytest.mark.parametrize("part", range(2))
def test_no_point_of_a_region_violates_its_bounds(part: int) -> None:
    """25,000 triples of network, region and point in each part, float32 and float64 by turns."""
    rng = np.random.default_rng(100 + part)
    tried = 0
    while tried < 25_000:
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        model = random_network(rng, (shape[2], shape[0], shape[1]))
        if rng.random() < 0.3:
            # Without biases, a black image stands exactly on the kink of every ReLU.
            with torch.no_grad():
                for weights in model.parameters():
                    if weights.dim() == 1:
                        weights.zero_()
        tried += check_network(model.double() if rng.random() < 0.5 else model, rng, shape, 60)


def test_bounds_are_exact_on_a_linear_network() -> None:
    """For a linear network the least margin over few pixels is a sum of the best pixels' gains."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval().double()
    graph = read_torch(model, InputSpec("NCHW", "gray"), (4, 4, 1))
    image = rng.random((1, 4, 4, 1))
    weight = (model[1].weight[0] - model[1].weight[1]).detach().numpy()
    margin = float(weight @ image.ravel() + (model[1].bias[0] - model[1].bias[1]).item())
    gains = np.sort(np.minimum(weight * (1 - image.ravel()), -weight * image.ravel()))
    bounds = CentredBounds(graph, unit=0.0)
    rows = torch.tensor([[1.0, -1.0]]).double()
    for k in (1, 2, 3):
        ball = Region.ball(torch.from_numpy(image), "l0", float(k))
        value = float(bounds.bound(bounds.analyse(ball), rows).value)
        assert value == pytest.approx(margin + gains[:k].sum(), abs=1e-6)


def test_a_region_of_one_image_loses_only_rounding() -> None:
    rng = np.random.default_rng(0)
    model = random_network(rng, (1, 7, 7)).double()
    graph = read_torch(model, InputSpec("NCHW", "gray"), (7, 7, 1))
    image = torch.from_numpy(rng.random((1, 7, 7, 1)))
    bounds = CentredBounds(graph, unit=0.0)
    value = bounds.bound(bounds.analyse(Region.ball(image, "l0", 0.0)), torch.eye(graph.n_classes).double()).value
    assert torch.allclose(value, graph.forward(image), atol=1e-9)


@pytest.mark.parametrize("leak", [0.0, 0.1, 1.0])
def test_slopes_hold_the_change_of_a_relu(leak: float) -> None:
    """On a grid of (base, lower, upper) the tangent lies below the change, the secants and CROWN's line above it."""
    grid = torch.linspace(-1, 1, 9).double()
    lower, base, upper = (t.flatten() for t in torch.meshgrid(grid, grid, grid, indexing="ij"))
    valid = (lower <= base) & (base <= upper)
    lower, base, upper = lower[valid], base[valid], upper[valid]
    relu = Activation("relu", leak)
    use = centred.slopes_of(relu, base, lower, upper)
    for share in np.linspace(0, 1, 41):
        z = lower + share * (upper - lower)
        step, change = z - base, relu(z) - relu(base)
        assert bool((change >= use.below * step - 1e-12).all())
        assert bool((change <= use.middle * step + use.half * step.abs() + 1e-12).all())
        assert bool((change <= use.line * step + use.gap + 1e-12).all())
        assert bool((change.abs() <= use.steepest * step.abs() + 1e-12).all())


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 2, 1)],
        [nn.Conv2d(1, 2, 2, 1, 1), nn.MaxPool2d(2), nn.Conv2d(2, 2, 2)],
        [nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Conv2d(4, 4, 2, groups=2, dilation=2), nn.BatchNorm2d(4)],
    ],
)
def test_cones_carry_forms_back_like_the_whole_network(layers: list[nn.Module]) -> None:
    """A patch's small matrices give the same coefficients on the image as the operators themselves."""
    model = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    model(torch.zeros(1, 1, 8, 8))
    graph = read_torch(model, InputSpec("NCHW", "gray"), (8, 8, 1))
    read = [n.parents[0] for n in graph.nodes if n.activation is not None]
    cones = [cone for cone in (build_cone(graph, target) for target in read) if cone is not None]
    assert cones
    for cone in cones:
        size = graph.nodes[cone.target].size
        forms = torch.eye(cone.index[cone.target].shape[1]).double()[None, None].expand(cone.patches, 1, -1, -1)
        small = {cone.target: forms}
        large = {cone.target: torch.eye(size).double()}
        for at in cone.order[:-1]:
            node = graph.nodes[at]
            form, whole = small.pop(at), large.pop(at)
            for parent in node.parents:
                step = cone.links[at, parent].backward(form)
                small[parent] = small[parent] + step if parent in small else step
                full = whole if node.op is None else node.op.backward(whole)
                large[parent] = large[parent] + full if parent in large else full
        for p in range(cone.patches):
            for row, entry in enumerate(cone.index[cone.target][p].tolist()):
                if entry == size:
                    continue
                image = torch.zeros(graph.n_inputs + 1).double()
                image[cone.index[0][p]] = small[0][p, 0, row]
                assert torch.allclose(image[:-1], large[0][entry], atol=1e-12)


# Each mutant is one way in which such bounds can be wrong; the check above must notice it.


def _slopes(patch: pytest.MonkeyPatch, change: Callable[[Slopes], Slopes]) -> None:
    right = centred.slopes_of
    patch.setattr(centred, "slopes_of", lambda *args: change(right(*args)))


def no_secants(patch: pytest.MonkeyPatch) -> None:
    """One slope between the secants in place of both."""
    _slopes(patch, lambda s: replace(s, half=0 * s.half))


def no_gap(patch: pytest.MonkeyPatch) -> None:
    """CROWN's upper line without its height above the base value."""
    _slopes(patch, lambda s: replace(s, gap=0 * s.gap))


def steep_tangent(patch: pytest.MonkeyPatch) -> None:
    """The middle slope below the change as well."""
    _slopes(patch, lambda s: replace(s, below=s.middle))


def lazy_radius(patch: pytest.MonkeyPatch) -> None:
    """Radii shrunk by the middle slope, not by the steepest one."""
    _slopes(patch, lambda s: replace(s, steepest=s.middle))


def one_pixel_fewer(patch: pytest.MonkeyPatch) -> None:
    """The k - 1 best pixels instead of the k best."""
    right = Region.best_units

    def wrong(self: Region, gains: torch.Tensor) -> torch.Tensor:
        assert self.budget is not None
        return right(replace(self, budget=(self.budget - 1).clamp_min(0)), gains)

    patch.setattr(Region, "best_units", wrong)


def signed_radius(patch: pytest.MonkeyPatch) -> None:
    """Radii pushed through the matrix itself and not its absolute value."""
    right = Link.backward
    patch.setattr(Link, "backward", lambda self, forms, absolute=False: right(self, forms))


def one_sided_gains(patch: pytest.MonkeyPatch) -> None:
    """Pixels that can only grow."""
    right = centred._gains
    patch.setattr(centred, "_gains", lambda c, r, down, up: right(c, r, 0 * down, up))


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.mark.parametrize(
    "mutant", [no_secants, no_gap, steep_tangent, lazy_radius, one_pixel_fewer, signed_radius, one_sided_gains]
)
def test_mutants_are_caught(mutant: Callable[[pytest.MonkeyPatch], None], patch: pytest.MonkeyPatch) -> None:
    mutant(patch)
    rng = np.random.default_rng(1)

    def try_many() -> None:
        for _ in range(80):
            shape = SHAPES[int(rng.integers(len(SHAPES)))]
            check_network(random_network(rng, (shape[2], shape[0], shape[1])), rng, shape, 60)

    with pytest.raises(FalseProofError):
        try_many()
