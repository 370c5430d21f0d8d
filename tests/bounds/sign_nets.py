"""Small networks of signs: torch modules and ONNX files, drawn at random or made for a known answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .onnx_nets import OnnxWriter


class Sign(nn.Module):
    """`torch.sign`, or with `never_zero` the sign that exporters write as `sign(sign(x) + 0.1)`."""

    def __init__(self, never_zero: bool = False) -> None:
        super().__init__()
        self.never_zero = never_zero

    def forward(self, x: Tensor) -> Tensor:
        """-1, 0 or 1."""
        return torch.sign(torch.sign(x) + 0.1) if self.never_zero else torch.sign(x)


def linear(weight: object, bias: object) -> nn.Linear:
    """A layer with these weights."""
    matrix, shift = torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32)
    layer = nn.Linear(matrix.shape[1], matrix.shape[0])
    with torch.no_grad():
        layer.weight.copy_(matrix)
        layer.bias.copy_(shift)
    return layer


def flat(*layers: nn.Module) -> nn.Module:
    """Layers on the image as a row."""
    return nn.Sequential(nn.Flatten(), *layers).eval()


def random_signs(rng: np.random.Generator, shape: tuple[int, int, int], classes: int = 3) -> nn.Module:
    """A network of signs on (C, H, W): convolution, pooling, BatchNorm and matrices, half of its weights whole numbers."""
    whole = rng.random() < 0.5

    def drawn(layer: nn.Module) -> nn.Module:
        with torch.no_grad():
            for weights in layer.parameters():
                values = rng.choice([-1.0, 1.0], weights.shape) if whole else rng.normal(size=weights.shape)
                if weights.dim() == 1:
                    values = rng.integers(-2, 3, weights.shape) / (2.0 if rng.random() < 0.5 else 1.0)
                weights.copy_(torch.from_numpy(np.asarray(values)).float())
        return layer

    layers: list[nn.Module] = []
    size = shape
    if rng.random() < 0.7:
        layers.append(drawn(nn.Conv2d(shape[0], 2, 2)))
        size = (2, shape[1] - 1, shape[2] - 1)
        if rng.random() < 0.5:
            layers.append(nn.MaxPool2d(2, 1))
            size = (2, size[1] - 1, size[2] - 1)
        if rng.random() < 0.3:
            layers.append(nn.ReLU())
        if not whole and rng.random() < 0.5:
            norm = nn.BatchNorm2d(2)
            norm.running_mean = torch.from_numpy(rng.normal(size=2)).float()
            layers.append(norm)
        layers.append(Sign(bool(rng.random() < 0.5)))
        if whole and min(size[1:]) > 2 and rng.random() < 0.6:
            layers += [drawn(nn.Conv2d(2, 2, 2)), nn.MaxPool2d(2, 1), Sign()]
            size = (2, size[1] - 2, size[2] - 2)
    layers.append(nn.Flatten())
    width = int(np.prod(size))
    for _ in range(int(rng.integers(1, 3))):
        count = int(rng.integers(2, 7))
        layers += [drawn(nn.Linear(width, count)), Sign(bool(rng.random() < 0.5))]
        width = count
    last = nn.Linear(width, classes)
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(rng.normal(size=last.weight.shape)).float())
        last.bias.copy_(torch.from_numpy(rng.normal(size=classes)).float())
    return nn.Sequential(*layers, last).eval()


def random_signs_onnx(rng: np.random.Generator, shape: tuple[int, int, int], path: Path, *, classes: int = 3) -> Path:
    """The same kind of network as a file, on (C, H, W): convolution, pooling, BatchNorm, signs and matrices."""
    net = OnnxWriter(shape)

    def sign() -> None:
        net.add("Sign")
        if rng.random() < 0.5:
            net.add("Add", net.constant(np.float32(0.1)))
            net.add("Sign")

    whole = rng.random() < 0.5

    def drawn(*size: int) -> np.ndarray:
        return rng.choice([-1.0, 1.0], size) if whole else rng.normal(size=size)

    if rng.random() < 0.7:
        net.conv(drawn(2, shape[0], 2, 2), rng.integers(-2, 3, 2) / 2, stride=1, pad=0)
        if rng.random() < 0.6:
            high, wide = net.shape[1] - 1, net.shape[2] - 1
            net.add("MaxPool", shape=(2, high, wide), kernel_shape=[2, 2], strides=[1, 1])
        if rng.random() < 0.6:
            net.batch_norm(rng)
        if rng.random() < 0.3:
            net.add("Transpose", shape=(*net.shape[1:], net.shape[0]), perm=[0, 2, 3, 1])
            sign()
            net.add("Transpose", shape=(net.shape[2], *net.shape[:2]), perm=[0, 3, 1, 2])
        else:
            sign()
    net.add("Flatten", shape=(int(np.prod(net.shape)),))
    for _ in range(int(rng.integers(1, 3))):
        count = int(rng.integers(2, 7))
        net.dense(drawn(count, net.shape[0]), rng.integers(-2, 3, count) / 2)
        sign()
    net.dense(rng.normal(size=(classes, net.shape[0])), rng.normal(size=classes))
    return net.save(path)
