"""Small random networks written as ONNX files by hand, for the program that rechecks certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class OnnxWriter:
    """Adds layers one by one; `shape` is (C, H, W) or (length,) of what the last one gives."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.input_shape = shape
        self.shape: tuple[int, ...] = shape
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.name = "image"

    def _tensor(self, values: np.ndarray) -> str:
        name = f"w{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def add(self, kind: str, *more: str, shape: tuple[int, ...] | None = None, **given: Any) -> str:
        """A node that reads the last one and `more`; returns its name."""
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.name, *more], [out], name=f"{kind}_{len(self.nodes)}", **given))
        self.name, self.shape = out, self.shape if shape is None else shape
        return out

    def constant(self, values: np.ndarray | np.floating) -> str:
        """The name of a constant."""
        return self._tensor(np.asarray(values))

    def conv(self, weight: np.ndarray, bias: np.ndarray, *, stride: int, pad: int, groups: int = 1) -> None:
        """A square convolution."""
        high, wide = ((side + 2 * pad - weight.shape[2]) // stride + 1 for side in self.shape[1:])
        size = [weight.shape[2]] * 2
        self.add(
            "Conv", self._tensor(weight), self._tensor(bias), shape=(len(weight), high, wide),
            kernel_shape=size, strides=[stride] * 2, pads=[pad] * 4, group=groups,
        )  # fmt: skip

    def dense(self, weight: np.ndarray, bias: np.ndarray) -> None:
        """A matrix on a flat array."""
        self.add("Gemm", self._tensor(weight), self._tensor(bias), shape=(len(weight),), transB=1)

    def batch_norm(self, rng: np.random.Generator) -> None:
        """Random statistics."""
        count = self.shape[0]
        values = [
            rng.uniform(0.5, 2, count),
            rng.normal(size=count),
            rng.normal(size=count),
            rng.uniform(0.2, 2, count),
        ]
        self.add("BatchNormalization", *(self._tensor(v) for v in values))

    def save(self, path: Path) -> Path:
        """Write the file; the last node gives the scores."""
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, *self.input_shape])]
        outputs = [helper.make_tensor_value_info(self.name, TensorProto.FLOAT, [None, *self.shape])]
        graph = helper.make_graph(self.nodes, "net", inputs, outputs, self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return path


def random_onnx(
    rng: np.random.Generator, shape: tuple[int, int, int], path: Path, *, classes: int = 3, maxima: bool = False
) -> Path:
    """A network with stride, padding, groups, BatchNorm, pooling, leaky ReLU and residuals at random, on (C, H, W).

    With `maxima` its pools take the largest value, and are there more often.
    """
    net = OnnxWriter(shape)
    for _ in range(int(rng.integers(0, 3))):
        channels, size, pad = net.shape[0], int(rng.integers(1, 4)), int(rng.integers(0, 2))
        if min(net.shape[1:]) < 4:
            break
        kind = rng.choice(["conv", "grouped", "residual"])
        count = channels * 2 if kind == "grouped" else channels if kind == "residual" else int(rng.integers(1, 4))
        groups = channels if kind == "grouped" else 1
        weight = rng.normal(
            size=(count, channels // groups, 3, 3) if kind == "residual" else (count, channels // groups, size, size)
        )
        before = net.name
        if kind == "residual":
            net.conv(0.4 * weight, rng.normal(size=count), stride=1, pad=1)
            net.add("Relu")
            net.conv(0.4 * weight[::-1], rng.normal(size=count), stride=1, pad=1)
            net.add("Add", before)
        else:
            net.conv(0.7 * weight, rng.normal(size=count), stride=int(rng.integers(1, 3)), pad=pad, groups=groups)
        if rng.random() < 0.3:
            net.batch_norm(rng)
        net.add("LeakyRelu", alpha=0.1) if rng.random() < 0.3 else net.add("Relu")
        if rng.random() < (0.8 if maxima else 0.3) and min(net.shape[1:]) >= 2:
            high, wide = net.shape[1] // 2, net.shape[2] // 2
            net.add(
                "MaxPool" if maxima else "AveragePool",
                shape=(net.shape[0], high, wide),
                kernel_shape=[2, 2],
                strides=[2, 2],
            )
    net.add("Flatten", shape=(int(np.prod(net.shape)),))
    for _ in range(int(rng.integers(0, 3))):
        wide = int(rng.integers(2, 8))
        net.dense(rng.normal(size=(wide, net.shape[0])) / np.sqrt(net.shape[0]), rng.normal(size=wide) * 0.3)
        net.add("Relu")
    net.dense(rng.normal(size=(classes, net.shape[0])) / np.sqrt(net.shape[0]), rng.normal(size=classes) * 0.3)
    return net.save(path)
