"""Reading networks: what is supported gives the model's own scores, what is not is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustest.bounds.builder import GraphBuilder
from robustest.bounds.check import certify
from robustest.bounds.errors import GraphMismatch, UnsupportedLayer, UnsupportedNumerics
from robustest.bounds.reading import graph_of
from robustest.classifiers.callables import CallableClassifier
from robustest.classifiers.spec import InputSpec

from .random_nets import random_network

GRAY = InputSpec("NCHW", "gray")


def small(*layers: nn.Module) -> nn.Module:
    """A network on 4x4 gray images."""
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_are_read_as_they_compute(seed: int) -> None:
    """`graph_of` itself compares with the module on random images, within its bound on rounding."""
    rng = np.random.default_rng(seed)
    shape = (9, 8, 3)
    spec = InputSpec("NCHW", "RGB", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    graph = graph_of(random_network(rng, (3, 9, 8)), spec, image_shape=shape)
    assert graph.n_inputs == 9 * 8 * 3


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.GELU(), "GELU"),
        (nn.LayerNorm(4), "LayerNorm"),
        (nn.MultiheadAttention(4, 1), "MultiheadAttention"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "Conv2d"),
        (nn.MaxPool2d(2, ceil_mode=True), "MaxPool2d"),
    ],
)
def test_an_unknown_layer_is_refused_by_name(layer: nn.Module, name: str) -> None:
    with pytest.raises(UnsupportedLayer, match=name):
        graph_of(small(layer, nn.Flatten()), GRAY, image_shape=(4, 4, 1))


@pytest.mark.parametrize("pads", [(-1, 0, 0, 0), (0, -1, 1, 1)])
def test_a_convolution_that_crops_at_the_top_or_left_is_refused(pads: tuple[int, int, int, int]) -> None:
    builder = GraphBuilder((4, 4, 1))
    planes = builder.permute(0, (2, 0, 1), "first")
    with pytest.raises(UnsupportedLayer, match=r"layer second: .*negative"):
        builder.conv(planes, torch.ones(1, 1, 2, 2), None, "second", pads=pads)


class Branching(nn.Module):
    """Decides by values."""

    def forward(self, x: Tensor) -> Tensor:
        """Two different networks."""
        return x.flatten(1)[:, :2] if x.sum() > 0 else x.flatten(1)[:, 2:4]


class Squaring(nn.Module):
    """Multiplies two values of the image."""

    def forward(self, x: Tensor) -> Tensor:
        """A square."""
        return (x * x).flatten(1)[:, :2]


def test_branches_and_products_are_refused() -> None:
    with pytest.raises(UnsupportedLayer, match="branch"):
        graph_of(Branching().eval(), GRAY, image_shape=(4, 4, 1))
    with pytest.raises(UnsupportedLayer, match="multiplies two values"):
        graph_of(Squaring().eval(), GRAY, image_shape=(4, 4, 1))


def test_training_mode_half_precision_and_broken_weights_are_refused() -> None:
    trained = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).train()
    with pytest.raises(UnsupportedNumerics, match="training mode"):
        graph_of(trained, GRAY, image_shape=(4, 4, 1))
    with pytest.raises(UnsupportedNumerics, match="float16"):
        graph_of(small(nn.Flatten(), nn.Linear(16, 2)).half(), GRAY, image_shape=(4, 4, 1))
    broken = small(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        broken[1].bias[0] = torch.nan  # type: ignore[index]
    with pytest.raises(UnsupportedNumerics, match="not finite"):
        graph_of(broken, GRAY, image_shape=(4, 4, 1))


def test_autocast_is_refused() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(UnsupportedNumerics, match="autocast"):
        graph_of(small(nn.Flatten(), nn.Linear(16, 2)), GRAY, image_shape=(4, 4, 1))


def test_another_network_than_the_model_is_refused() -> None:
    builder = GraphBuilder((1, 2, 1))
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    graph = builder.build(builder.dense(0, weight, None, "fc"), unit=2.0**-24)
    graph.check_against(lambda images: images.reshape(-1, 2) @ weight.numpy().T)
    with pytest.raises(GraphMismatch, match="differs"):
        graph.check_against(lambda images: images.reshape(-1, 2) @ weight.numpy().T + np.float32(1e-4))


def test_a_black_box_is_refused_with_the_way_out() -> None:
    box = CallableClassifier(lambda images: images.reshape(len(images), -1)[:, :2])
    with pytest.raises(UnsupportedLayer, match="Lipschitz"):
        certify(box, np.zeros((4, 4, 1), np.float32), 0)


READABLE = [
    "cifar_cnn_a_adv",
    "cifar_onepixel_lenet",
    "cifar_resnet2b_adv",
    "mnist_colt_eps01",
    "mnist_lenet5_adv",
    "mnist_mlp_point",
    "mnist_wk_eps01",
]


@pytest.mark.parametrize("name", READABLE)
def test_networks_of_the_zoo_are_read(zoo: Path, name: str) -> None:
    """Residual, pooled, probabilities, NHWC: the self-check against onnxruntime is part of reading."""
    assert graph_of(zoo / "models" / f"{name}.onnx").n_classes == 10


def test_batch_norm_networks_of_the_zoo_are_read(zoo: Path) -> None:
    assert graph_of(zoo / "models" / "cifar_onepixel_resnet.onnx").softmax


@pytest.mark.parametrize(
    ("name", "layer"),
    [("cifar_vit_pgd", "Concat|Softmax|MatMul"), ("gtsrb_stn", "MatMul|Grid")],
)
def test_a_transformer_and_other_unbounded_layers_are_refused_by_name(zoo: Path, name: str, layer: str) -> None:
    with pytest.raises(UnsupportedLayer, match=layer):
        graph_of(zoo / "models" / f"{name}.onnx")
