"""Few-pixel witnesses and distances: a linear classifier's L0 distance is a count of its best pixels."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from robustest.bounds.centred import CentredBounds
from robustest.bounds.reading import read_torch
from robustest.bounds.sparse_attack import few_pixel_witness
from robustest.bounds.sparse_branch import sparse_distance
from robustest.classifiers.spec import InputSpec

from .random_nets import random_network


def run(model: nn.Module, spec: InputSpec, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(spec.prepare(images))))


def linear_case(seed: int, channels: int) -> tuple[nn.Module, InputSpec, NDArray[np.float32], int, int]:
    """A two-class linear network, an image of class 0, and how many pixels and dimensions change its class."""
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16 * channels, 2)).eval()
    image = rng.random((4, 4, channels)).astype(np.float32)
    spec = InputSpec("NCHW", "gray" if channels == 1 else "RGB")
    flat = torch.from_numpy(spec.prepare(image[None])).flatten()
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(rng.normal(size=(2, 16 * channels))))
        gap = (model[1].weight[0] - model[1].weight[1]) @ flat
        model[1].bias.copy_(torch.tensor([float(rng.uniform(1, 3)) - float(gap), 0.0]))
    weight = (model[1].weight[0] - model[1].weight[1]).detach().numpy().reshape(channels, 4, 4).transpose(1, 2, 0)
    margin = float((weight * image).sum() + model[1].bias[0].item())
    gains = np.maximum(weight * image, -weight * (1 - image))
    counts = [
        int(np.argmax(np.cumsum(np.sort(each)[::-1]) > margin)) + 1 for each in (gains.sum(2).ravel(), gains.ravel())
    ]
    return model, spec, image, counts[0], counts[1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_the_distance_of_a_linear_classifier_is_a_count_of_its_best_pixels(seed: int, channels: int) -> None:
    model, spec, image, pixels, dims = linear_case(seed, channels)
    scorer = partial(run, model, spec)
    assert scorer(image[None]).argmax() == 0
    graph = read_torch(model, spec, (4, 4, channels))
    for norm, unit, count in (("l0", channels, pixels), ("l0_dims", 1, dims)):
        witness = few_pixel_witness(graph, scorer, image, 0, unit=unit)
        assert witness is not None
        assert scorer(witness[None]).argmax() == 1
        assert (witness != image).reshape(-1, unit).any(1).sum() == count
        found = sparse_distance(CentredBounds(graph), image, 0, scorer=scorer, norm=norm, seconds=20)  # type: ignore[arg-type]
        assert (found.lower, found.upper) == (count, count)


def test_a_bracket_of_a_random_network_is_a_bracket(rng: np.random.Generator) -> None:
    """Lower never exceeds upper, and a witness that is given is used."""
    for _ in range(4):
        model = random_network(rng, (1, 5, 5)).float()
        scorer = partial(run, model, InputSpec("NCHW", "gray"))
        graph = read_torch(model, InputSpec("NCHW", "gray"), (5, 5, 1))
        image = rng.random((5, 5, 1)).astype(np.float32)
        label = int(scorer(image[None]).argmax())
        others = rng.random((100, 5, 5, 1)).astype(np.float32)
        wrong = others[scorer(others).argmax(1) != label]
        given = wrong[0] if len(wrong) else None
        found = sparse_distance(CentredBounds(graph), image, label, scorer=scorer, seconds=0.1, given=given)
        assert found.lower >= 1
        if given is not None:
            assert found.upper is not None
        if found.upper is not None:
            assert found.lower <= found.upper
            assert found.witness is not None
            assert scorer(found.witness[None]).argmax() != label


def test_where_no_image_is_misclassified_there_is_no_witness() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    spec = InputSpec("NCHW", "gray")
    graph = read_torch(model, spec, (4, 4, 1))
    image = np.full((4, 4, 1), 0.5, np.float32)
    assert few_pixel_witness(graph, partial(run, model, spec), image, 0, unit=1) is None
    found = sparse_distance(CentredBounds(graph), image, 0, scorer=partial(run, model, spec), seconds=20)
    assert found.lower == 17
    assert found.upper is None
