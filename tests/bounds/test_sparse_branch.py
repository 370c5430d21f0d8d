"""Few-pixel branch and bound against brute force, closed forms and planted counterexamples."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from robustest.bounds.centred import CentredBounds
from robustest.bounds.decision import Decision
from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import Scorer
from robustest.bounds.reading import read_torch
from robustest.bounds.region import Region
from robustest.bounds.sparse_branch import _SparseSearch, decide_sparse
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSetting

from .random_nets import random_network


def read(model: nn.Module, shape: tuple[int, int, int]) -> tuple[BoundGraph, Scorer]:
    """A network's graph, and the network itself as a scorer."""
    spec = InputSpec("NCHW", "gray" if shape[2] == 1 else "RGB")
    kind = next(model.parameters()).dtype

    def scorer(images: NDArray[np.float32]) -> NDArray[np.floating]:
        with torch.no_grad():
            return np.asarray(model(torch.from_numpy(spec.prepare(images)).to(kind)))

    return read_torch(model, spec, shape), scorer


def small_network(seed: int, channels: int = 1) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [
            nn.Conv2d(channels, 3, 2, 1, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(75, 6),
            nn.ReLU(),
            nn.Linear(6, 3),
        ]
        return nn.Sequential(*layers).eval()


def lattice_says(scorer: Scorer, image: NDArray[np.float32], label: int, units: int, values: int, dims: bool) -> bool:
    """Whether any image with at most `units` units changed to one of `values` grid values a channel is misclassified."""
    height, width, channels = image.shape
    grid = np.linspace(0, 1, values, dtype=np.float32)
    places = list(range(height * width * (channels if dims else 1)))
    for chosen in itertools.combinations(places, units):
        per = 1 if dims else channels
        combos = np.array(list(itertools.product(grid, repeat=units * per)), dtype=np.float32)
        batch = np.repeat(image.reshape(1, -1), len(combos), axis=0)
        for i, place in enumerate(chosen):
            batch[:, place * per : (place + 1) * per] = combos[:, i * per : (i + 1) * per]
        if (scorer(batch.reshape(-1, *image.shape)).argmax(1) != label).any():
            return True
    return False


@pytest.mark.parametrize(("channels", "norm", "values"), [(1, "l0", 9), (3, "l0", 3), (3, "l0_dims", 9)])
def test_decisions_agree_with_brute_force_on_tiny_images(channels: int, norm: str, values: int) -> None:
    """4x4 images: a proof is never contradicted by the lattice, and what the lattice breaks is falsified."""
    rng = np.random.default_rng(0)
    met = {Decision.PROVED: 0, Decision.FALSIFIED: 0}
    for seed in range(12):
        graph, scorer = read(small_network(seed, channels), (4, 4, channels))
        bounds = CentredBounds(graph)
        image = rng.random((4, 4, channels)).astype(np.float32)
        label = int(scorer(image[None]).argmax())
        for units in (1, 2):
            answer = decide_sparse(bounds, image, label, units, scorer=scorer, norm=norm, seconds=60)  # type: ignore[arg-type]
            assert answer.decision is not Decision.OPEN
            met[answer.decision] += 1
            if answer.decision is Decision.PROVED:
                cheap = values if units == 1 or channels == 1 else 2
                assert not lattice_says(scorer, image, label, units, cheap, norm == "l0_dims")
            else:
                assert answer.witness is not None
                changed = (answer.witness != image).any(-1).sum() if norm == "l0" else (answer.witness != image).sum()
                assert changed <= units
                assert scorer(answer.witness[None]).argmax() != label
                assert answer.witness.min() >= 0
                assert answer.witness.max() <= 1
    assert min(met.values()) >= 3


def test_monotone_networks_are_decided_exactly_as_at_their_corners() -> None:
    """With weights >= 0 before the last layer's difference, the worst value of a pixel is an end: 3 pixels exactly."""
    rng = np.random.default_rng(1)
    for seed in range(5):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
        with torch.no_grad():
            model[1].weight.abs_()
            model[3].weight[0].abs_()
            model[3].weight[1] = -model[3].weight[0]
            model[3].bias[0], model[3].bias[1] = -0.9, 0.9
        graph, scorer = read(model, (4, 4, 1))
        image = rng.uniform(0.3, 1, (4, 4, 1)).astype(np.float32)
        if scorer(image[None]).argmax() != 0:
            continue
        for units in (1, 2, 3):
            # The margin grows with every pixel, so black is the worst of each.
            broken = lattice_says(scorer, image, 0, units, 2, False)
            answer = decide_sparse(CentredBounds(graph), image, 0, units, scorer=scorer, seconds=60)
            assert answer.decision is (Decision.FALSIFIED if broken else Decision.PROVED)


def planted(units: int) -> tuple[nn.Module, NDArray[np.float32]]:
    """A network that errs only near one image with `units` changed pixels at values inside (0, 1).

    A bump `relu(width - sum |x_i - v_i|)` over all pixels, written with ReLUs alone, is added to the rival's score.
    """
    rng = np.random.default_rng(units)
    image = rng.random((4, 4, 1)).astype(np.float32)
    hidden = image.copy().ravel()
    where = rng.choice(16, units, replace=False)
    hidden[where] = np.where(hidden[where] > 0.5, 0.15, 0.85).astype(np.float32)
    first, second, last = nn.Linear(16, 32), nn.Linear(32, 1), nn.Linear(1, 2)
    with torch.no_grad():
        eye = torch.eye(16)
        first.weight.copy_(torch.cat([eye, -eye]))
        first.bias.copy_(torch.from_numpy(np.concatenate([-hidden, hidden])))
        second.weight.fill_(-1.0)
        second.bias.fill_(0.05)
        last.weight.copy_(torch.tensor([[0.0], [100.0]]))
        last.bias.copy_(torch.tensor([1.0, 0.0]))
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), last).eval(), image


@pytest.mark.parametrize("units", [1, 2])
def test_hidden_counterexamples_inside_the_box_are_never_proved_away(units: int) -> None:
    """The error lies in a corner-free ball of L1 size 0.04: fewer pixels are proved, that many are falsified."""
    model, image = planted(units)
    graph, scorer = read(model, (4, 4, 1))
    bounds = CentredBounds(graph)
    if units > 1:
        below = decide_sparse(bounds, image, 0, units - 1, scorer=scorer, seconds=60)
        assert below.decision is Decision.PROVED
    answer = decide_sparse(bounds, image, 0, units, scorer=scorer, seconds=60)
    assert answer.decision is Decision.FALSIFIED


def test_a_target_that_cannot_be_reached_is_proved_while_another_class_is() -> None:
    """Class 2 scores -5 always; class 1 wins when one pixel turns white."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[1] = 1.0
        model[1].bias.copy_(torch.tensor([0.5, 0.0, -5.0]))
    graph, scorer = read(model, (4, 4, 1))
    image = np.zeros((4, 4, 1), np.float32)
    bounds = CentredBounds(graph)
    assert decide_sparse(bounds, image, 0, 1, scorer=scorer).decision is Decision.FALSIFIED
    assert decide_sparse(bounds, image, 0, 1, scorer=scorer, target=1).decision is Decision.FALSIFIED
    assert decide_sparse(bounds, image, 0, 16, scorer=scorer, target=2).decision is Decision.PROVED


def test_a_mask_keeps_pixels_where_they_are() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[1, 3] = 2.0
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    graph, scorer = read(model, (4, 4, 1))
    image = np.zeros((4, 4, 1), np.float32)
    free = np.ones((4, 4), bool)
    bounds = CentredBounds(graph)
    assert decide_sparse(bounds, image, 0, 1, scorer=scorer, mask=free).decision is Decision.FALSIFIED
    free[0, 3] = False
    assert decide_sparse(bounds, image, 0, 15, scorer=scorer, mask=free).decision is Decision.PROVED


def test_a_colour_pixel_may_change_all_its_channels_and_a_dimension_only_itself() -> None:
    """Class 1 needs all three channels of a pixel: one pixel is enough, two dimensions are not."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[1, [0, 4, 8]] = 1.0
        model[1].bias.copy_(torch.tensor([2.5, 0.0]))
    graph, scorer = read(model, (2, 2, 3))
    image = np.zeros((2, 2, 3), np.float32)
    bounds = CentredBounds(graph)
    assert decide_sparse(bounds, image, 0, 1, scorer=scorer).decision is Decision.FALSIFIED
    assert decide_sparse(bounds, image, 0, 2, scorer=scorer, norm="l0_dims").decision is Decision.PROVED
    assert decide_sparse(bounds, image, 0, 3, scorer=scorer, norm="l0_dims").decision is Decision.FALSIFIED


def test_the_children_of_a_split_hold_every_image_of_their_parent() -> None:
    """Random images of a node, down random paths of splits: some child always holds them."""
    rng = np.random.default_rng(0)
    graph, scorer = read(small_network(0, 3), (4, 4, 3))
    image = rng.random((4, 4, 3)).astype(np.float32)
    search = _SparseSearch(CentredBounds(graph), image, 0, "l0", None, scorer)
    for _ in range(200):
        moved = rng.choice(16, 3, replace=False)
        point = image.copy().reshape(16, 3)
        point[moved] = rng.random((3, 3)).astype(np.float32)
        node = search.root(torch.arange(16), 3)
        for _ in range(12):
            children = search._split(node, torch.from_numpy(rng.random(48)))
            held = [c for c in children if holds(search._region([c]), point.ravel())]
            assert held
            node = held[0]


def holds(region: Region, point: NDArray[np.float32]) -> bool:
    """Whether an image is in a set of groups with budgets and boxes for single units."""
    exact = torch.from_numpy(point.astype(np.float64))
    if bool(((exact < region.lower[0]) | (exact > region.upper[0])).any()):
        return False
    assert region.group is not None
    assert region.budget is not None
    moved = (exact != region.centre[0]).reshape(-1, region.unit).any(-1)
    counts = [int(moved[region.group[0] == g].sum()) for g in range(region.budget.shape[1])]
    return all(c <= int(b) for c, b in zip(counts, region.budget[0], strict=True))


def test_answers_do_not_depend_on_how_many_nodes_are_bounded_at_once() -> None:
    graph, scorer = read(random_network(np.random.default_rng(5), (1, 6, 6)), (6, 6, 1))
    image = np.random.default_rng(0).random((6, 6, 1)).astype(np.float32)
    label = int(scorer(image[None]).argmax())
    bounds = CentredBounds(graph)
    decisions = {decide_sparse(bounds, image, label, 2, scorer=scorer, batch=b, seconds=60).decision for b in (1, 2, 7)}
    assert len(decisions) == 1


def test_no_time_is_no_proof() -> None:
    model, image = planted(2)
    graph, scorer = read(model, (4, 4, 1))
    answer = decide_sparse(CentredBounds(graph), image, 0, 2, scorer=scorer, nodes=1)
    assert answer.decision is Decision.OPEN
    assert answer.open > 0
    assert answer.tree is None


def test_where_nothing_may_change_a_tie_is_not_proved() -> None:
    """Both scores are always 0: there is nothing to cut, and no proof."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
    graph, scorer = read(model, (4, 4, 1))
    nothing = np.zeros((4, 4), bool)
    answer = decide_sparse(CentredBounds(graph), np.zeros((4, 4, 1), np.float32), 0, 1, scorer=scorer, mask=nothing)
    assert answer.decision is Decision.OPEN


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda k: k.update(units=0), "units must be >= 1"),
        (lambda k: k.update(target=0), "label and target"),
        (lambda k: k.update(image=np.zeros((3, 3, 1), np.float32)), "must have shape"),
        (lambda k: k.update(mask=np.ones((3, 3), bool)), "mask must have"),
    ],
)
def test_misuse_is_named(change: Callable[[dict[str, object]], None], words: str) -> None:
    graph, scorer = read(small_network(0), (4, 4, 1))
    given: dict[str, object] = {"image": np.zeros((4, 4, 1), np.float32), "label": 0, "units": 1, "scorer": scorer}
    change(given)
    with pytest.raises(InvalidSetting, match=words):
        decide_sparse(CentredBounds(graph), **given)  # type: ignore[arg-type]
