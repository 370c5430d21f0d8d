"""A network read a second time, for rechecking certificates: ONNX to a list of sparse matrices, in numpy and scipy alone.

Shares no code with `graph` and its readers, so that a mistake there cannot confirm itself. Knows affine layers, ReLU,
leaky ReLU and sums; whatever else a file holds is refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from robustest.bounds.errors import UnsupportedLayer

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layer:
    """One step on flattened arrays.

    inputs: earlier layers, by index; layer 0 is the image.
    matrix, bias: of an affine layer, else None. leak: slope below zero of a ReLU, else None; neither: a sum.
    mass: what the bias was computed from, for its rounding; its own size where empty.
    terms: roundings of one output of the executed layer at most.
    sums: each output is one sum of products, so that entries of the matrix that meet an exact 0 round nothing.
    """

    inputs: tuple[int, ...]
    size: int
    matrix: Any = None
    bias: Array = field(default_factory=lambda: np.zeros(0))
    mass: Array = field(default_factory=lambda: np.zeros(0))
    leak: float | None = None
    terms: int = 1
    sums: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """Layers in order, the last gives the scores. digest: sha256 of the file."""

    layers: tuple[Layer, ...]
    digest: str

    def values(self, image: Array) -> list[Array]:
        """Of every layer, for one flattened image."""
        found: list[Array] = [image]
        for layer in self.layers[1:]:
            inputs = [found[i] for i in layer.inputs]
            if layer.matrix is not None:
                found.append(layer.matrix @ inputs[0] + layer.bias)
            elif layer.leak is not None:
                found.append(np.where(inputs[0] > 0, inputs[0], layer.leak * inputs[0]))
            else:
                found.append(np.sum(inputs, axis=0))
        return found


def read_model(path: Path, spec: Mapping[str, Any], shape: tuple[int, int, int]) -> Model:
    """Read an ONNX file for images (H, W, C) in [0, 1] that are prepared as `spec` says.

    Args:
        path: of the file.
        spec: layout, channels, scale, mean, std, as in an input spec.
        shape: (H, W, C).
    """
    import onnx

    content = path.read_bytes()
    reader = _Reader(spec, shape)
    return Model(tuple(reader.read(onnx.load_from_string(content))), hashlib.sha256(content).hexdigest())


class _Reader:
    """Builds the list of layers; `known` maps a tensor's name to (layer, shape) or to a constant."""

    def __init__(self, spec: Mapping[str, Any], shape: tuple[int, int, int]) -> None:
        self.layers: list[Layer] = [Layer((), prod(shape))]
        self.known: dict[str, tuple[int, tuple[int, ...]] | NDArray[Any]] = {}
        self.entry = self._prepared(spec, shape)

    def _prepared(self, spec: Mapping[str, Any], shape: tuple[int, int, int]) -> tuple[int, tuple[int, ...]]:
        """The model's own input: `(255 x scale - mean) / std`, computed in float32 with few roundings."""
        height, width, channels = shape
        factor, mean, std = (
            np.broadcast_to(np.asarray(spec[key], np.float32), channels).astype(np.float64)
            for key in ("scale", "mean", "std")
        )
        order = np.arange(prod(shape)).reshape(shape)
        if spec["channels"] == "BGR":
            order = order[:, :, ::-1]
        channel = np.broadcast_to(np.arange(channels), shape)
        out: tuple[int, ...] = shape
        if spec["layout"] == "NCHW":
            order, channel, out = order.transpose(2, 0, 1), channel.transpose(2, 0, 1), (channels, height, width)
        flat, c = order.ravel(), channel.ravel()
        matrix = sparse.csr_matrix(((255 * factor / std)[c], (np.arange(len(flat)), flat)), shape=(len(flat),) * 2)
        return self._add(Layer((0,), len(flat), matrix, -(mean / std)[c], terms=16)), out

    def _add(self, layer: Layer) -> int:
        self.layers.append(layer)
        return len(self.layers) - 1

    def read(self, model: Any) -> list[Layer]:
        """All nodes of the file."""
        from onnx import helper, numpy_helper

        graph = model.graph
        for tensor in graph.initializer:
            self.known[tensor.name] = numpy_helper.to_array(tensor)
        (source,) = [i.name for i in graph.input if i.name not in self.known]
        self.known[source] = self.entry
        for node in graph.node:
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self.known[node.output[0]] = numpy_helper.to_array(given["value"])
                continue
            if node.op_type in ("Softmax", "LogSoftmax") and node.output[0] == graph.output[0].name:
                self.known[node.output[0]] = self.known[node.input[0]]
                continue
            inputs = [self.known[name] for name in node.input if name]
            if all(isinstance(i, np.ndarray) for i in inputs):
                raise UnsupportedLayer(
                    f"layer {node.name} ({node.op_type}) computes on constants; the recheck does not."
                )
            if node.op_type not in _OPERATORS:
                raise UnsupportedLayer(f"layer {node.name} ({node.op_type}) is not known to the recheck.")
            self.known[node.output[0]] = _OPERATORS[node.op_type](self, inputs, given)
        last = self.known[graph.output[0].name]
        assert isinstance(last, tuple)
        # Layers after the output, if any, are not part of it.
        return self.layers[: last[0] + 1]

    def _affine(self, at: int, matrix: Any, bias: Array, terms: int | None = None) -> int:
        csr = sparse.csr_matrix(matrix)
        most = int(np.diff(csr.indptr).max(initial=0)) + 2 if terms is None else terms
        values = np.asarray(bias, np.float64)
        return self._add(Layer((at,), csr.shape[0], csr, values, terms=most, sums=terms is None))

    def _joined(self, *read: int) -> int:
        """Roundings of the sums right before, of which a runtime that fuses layers makes one sum with what follows."""
        return sum(self.layers[at].terms for at in read if self.layers[at].matrix is not None)

    def _gemm(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        (at, _), weight = inputs[0], inputs[1].astype(np.float64)
        weight = (weight if given.get("transB") else weight.T) * given.get("alpha", 1.0)
        bias = np.zeros(len(weight))
        if len(inputs) > 2:
            bias = bias + inputs[2].astype(np.float64).ravel() * given.get("beta", 1.0)
        return self._affine(at, weight, bias), (len(weight),)

    def _matmul(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        (at, _), weight = inputs[0], inputs[1].astype(np.float64).T
        return self._affine(at, weight, np.zeros(len(weight))), (len(weight),)

    def _conv(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        (at, shape), weight = inputs[0], inputs[1].astype(np.float64)
        bias = inputs[2].astype(np.float64) if len(inputs) > 2 else np.zeros(len(weight))
        if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise UnsupportedLayer("a convolution with automatic padding is not known to the recheck.")
        matrix, out = _windows(shape, weight, given)
        return self._affine(at, matrix, np.repeat(bias, out[1] * out[2])), out

    def _averagepool(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        (at, shape), size = inputs[0], given["kernel_shape"]
        if any(given.get("pads", [0])) or given.get("ceil_mode"):
            raise UnsupportedLayer("average pooling with padding is not known to the recheck.")
        weight = np.full((shape[0], 1, *size), 1.0 / prod(size))
        matrix, out = _windows(shape, weight, {**given, "group": shape[0]})
        return self._affine(at, matrix, np.zeros(matrix.shape[0])), out

    def _batchnormalization(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        (at, shape), (scale, shift, mean, variance) = inputs[0], (t.astype(np.float64) for t in inputs[1:5])
        factor = scale / np.sqrt(variance + given.get("epsilon", 1e-5))
        each = prod(shape) // len(factor)
        matrix = sparse.csr_matrix(sparse.diags(np.repeat(factor, each)))
        # The constant is made of two parts that may cancel: both count for rounding.
        bias, mass = shift - mean * factor, np.abs(shift) + np.abs(mean * factor)
        terms = 16 + self._joined(at)
        return self._add(
            Layer((at,), prod(shape), matrix, np.repeat(bias, each), np.repeat(mass, each), terms=terms)
        ), shape

    def _relu(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        at, shape = inputs[0]
        return self._add(Layer((at,), prod(shape), leak=0.0)), shape

    def _leakyrelu(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        at, shape = inputs[0]
        return self._add(Layer((at,), prod(shape), leak=float(given.get("alpha", 0.01)), terms=2)), shape

    def _plus(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        return self._combine(inputs, 1.0)

    def _combine(self, inputs: Sequence[Any], sign: float) -> tuple[int, tuple[int, ...]]:
        first, second = inputs
        if isinstance(first, tuple) and isinstance(second, tuple):
            if sign < 0 or first[1] != second[1]:
                raise UnsupportedLayer("a difference of two arrays is not known to the recheck.")
            terms = 2 + self._joined(first[0], second[0])
            return self._add(Layer((first[0], second[0]), prod(first[1]), terms=terms)), first[1]
        if isinstance(first, tuple):
            value = np.broadcast_to(sign * second.astype(np.float64), (1, *first[1])).ravel()
            terms = 3 + self._joined(first[0])
            return self._affine(first[0], sparse.identity(prod(first[1])), value, terms), first[1]
        if sign < 0:
            raise UnsupportedLayer("a constant less an array is not known to the recheck.")
        return self._combine([second, first], 1.0)

    def _sub(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        return self._combine(inputs, -1.0)

    def _flatten(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        at, shape = inputs[0]
        if given.get("axis", 1) != 1:
            raise UnsupportedLayer("only flattening behind the batch axis is known to the recheck.")
        return at, (prod(shape),)

    def _reshape(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        (at, shape), target = inputs[0], [int(v) for v in inputs[1].ravel()]
        if len(target) != 2:
            raise UnsupportedLayer("only reshaping to (batch, length) is known to the recheck.")
        return at, (prod(shape),)

    def _identity(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        at, shape = inputs[0]
        return at, shape


_OPERATORS: dict[str, Callable[[_Reader, Sequence[Any], Mapping[str, Any]], tuple[int, tuple[int, ...]]]] = {
    "Add": _Reader._plus,
    "AveragePool": _Reader._averagepool,
    "BatchNormalization": _Reader._batchnormalization,
    "Conv": _Reader._conv,
    "Dropout": _Reader._identity,
    "Flatten": _Reader._flatten,
    "Gemm": _Reader._gemm,
    "Identity": _Reader._identity,
    "LeakyRelu": _Reader._leakyrelu,
    "MatMul": _Reader._matmul,
    "Relu": _Reader._relu,
    "Reshape": _Reader._reshape,
    "Sub": _Reader._sub,
}


def _windows(shape: tuple[int, ...], weight: Array, given: Mapping[str, Any]) -> tuple[Any, tuple[int, int, int]]:
    """A convolution on (C, H, W) as a sparse matrix, entry by entry of its kernel."""
    channels, height, width = shape
    count, per_group, rows, columns = weight.shape
    stride, dilation = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    groups = given.get("group", 1)
    high = (height + top + bottom - dilation[0] * (rows - 1) - 1) // stride[0] + 1
    wide = (width + left + right - dilation[1] * (columns - 1) - 1) // stride[1] + 1
    y, x = (t.ravel() for t in np.meshgrid(np.arange(high), np.arange(wide), indexing="ij"))
    to, come, entries = [], [], []
    for o in range(count):
        first = o // (count // groups) * per_group
        for c in range(per_group):
            for i in range(rows):
                for j in range(columns):
                    row = y * stride[0] - top + i * dilation[0]
                    column = x * stride[1] - left + j * dilation[1]
                    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                    to.append((o * high * wide + y * wide + x)[inside])
                    come.append(((first + c) * height * width + row * width + column)[inside])
                    entries.append(np.full(int(inside.sum()), weight[o, c, i, j]))
    size = (count * high * wide, channels * height * width)
    triple = (np.concatenate(entries), (np.concatenate(to), np.concatenate(come)))
    return sparse.csr_matrix(triple, shape=size), (count, high, wide)
