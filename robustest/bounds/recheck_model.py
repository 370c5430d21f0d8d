"""A network read a second time, for rechecking certificates: ONNX to a list of sparse matrices, in numpy and scipy alone.

Shares no code with `graph` and its readers, so that a mistake there cannot confirm itself. Knows affine layers, ReLU,
leaky ReLU, sign, maxima of picked entries (max pooling, and transposition as maxima of one) and sums; whatever else a
file holds is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from robustest.bounds.errors import UnsupportedLayer
from robustest.bounds.recheck_layers import Array, Layer, Model, marked, read_by
from robustest.bounds.recheck_windows import no_automatic_padding, windows
from robustest.classifiers.onnx_digest import model_digest

_FLOAT = 1  # the number of float32 in ONNX
_SOFTMAX_TIE = 2.0**-19
"""Scores that differ by less may have the same float32 probability."""


def read_model(path: Path, spec: Mapping[str, Any], shape: tuple[int, int, int]) -> Model:
    """Read an ONNX file for images (H, W, C) in [0, 1] that are prepared as `spec` says.

    Args:
        path: of the file.
        spec: layout, channels, scale, mean, std, as in an input spec.
        shape: (H, W, C).
    """
    import onnx

    reader = _Reader(spec, shape)
    layers = tuple(reader.read(onnx.load(str(path))))
    return Model(layers, model_digest(path), _SOFTMAX_TIE if reader.softmax else 0.0)


class _Reader:
    """Builds the list of layers; `known` maps a tensor's name to (layer, shape) or to a constant."""

    def __init__(self, spec: Mapping[str, Any], shape: tuple[int, int, int]) -> None:
        self.layers: list[Layer] = [Layer((), prod(shape))]
        self.known: dict[str, tuple[int, tuple[int, ...]] | NDArray[Any]] = {}
        self.softmax = False
        self.single = False  # the image comes in as float32, and so does all that depends on it
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
        (source,) = [i for i in graph.input if i.name not in self.known]
        self.known[source.name] = self.entry
        self.single = source.type.tensor_type.elem_type == _FLOAT
        for node in graph.node:
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                ((kind, value),) = given.items()
                self.known[node.output[0]] = numpy_helper.to_array(value) if kind == "value" else np.asarray(value)
                continue
            if node.op_type == "Softmax" and node.output[0] == graph.output[0].name:
                if given.get("axis", -1) not in (-1, 1):
                    raise UnsupportedLayer(f"layer {node.name} (Softmax) is not over the classes.")
                self.known[node.output[0]] = self.known[node.input[0]]
                self.softmax = True
                continue
            if node.domain not in ("", "ai.onnx"):
                raise UnsupportedLayer(f"layer {node.name} ({node.op_type}) is of domain {node.domain!r}.")
            inputs = [self.known[name] for name in node.input if name]
            if all(isinstance(i, np.ndarray) for i in inputs):
                raise UnsupportedLayer(
                    f"layer {node.name} ({node.op_type}) computes on constants; the recheck does not."
                )
            leads = isinstance(inputs[0], tuple) or node.op_type in ("Add", "Mul")
            if node.op_type not in _OPERATORS or not leads:
                raise UnsupportedLayer(f"layer {node.name} ({node.op_type}) is not known to the recheck.")
            self.known[node.output[0]] = _OPERATORS[node.op_type](self, inputs, given)
        last = self.known[graph.output[0].name]
        assert isinstance(last, tuple)
        return marked(read_by(self.layers, last[0]))

    def _affine(self, at: int, matrix: Any, bias: Array, terms: int | None = None) -> int:
        csr = sparse.csr_matrix(matrix)
        most = int(np.diff(csr.indptr).max(initial=0)) + 2 if terms is None else terms
        values = np.asarray(bias, np.float64)
        return self._add(Layer((at,), csr.shape[0], csr, values, terms=most, sums=terms is None))

    def _joined(self, *read: int) -> int:
        """Roundings of the sums right before, of which a runtime that fuses layers makes one sum with what follows."""
        return sum(self.layers[at].terms for at in read if self.layers[at].matrix is not None)

    def _gemm(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        if given.get("transA"):
            raise UnsupportedLayer("a product with a transposed image is not known to the recheck.")
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
        no_automatic_padding(given)
        matrix, out = windows(shape, weight, given)
        return self._affine(at, matrix, np.repeat(bias, out[1] * out[2])), out

    def _averagepool(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        (at, shape), size = inputs[0], given["kernel_shape"]
        no_automatic_padding(given)
        if any(given.get("pads", [0])) or given.get("ceil_mode") or any(d != 1 for d in given.get("dilations", [])):
            raise UnsupportedLayer("average pooling with padding or dilation is not known to the recheck.")
        weight = np.full((shape[0], 1, *size), 1.0 / prod(size))
        matrix, out = windows(shape, weight, {**given, "group": shape[0]})
        return self._affine(at, matrix, np.zeros(matrix.shape[0])), out

    def _batchnormalization(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        if given.get("training_mode"):
            raise UnsupportedLayer("batch normalisation in training mode depends on the batch; the recheck refuses it.")
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
        (at, shape), leak = inputs[0], float(given.get("alpha", 0.01))
        if not 0 <= leak <= 1:
            raise UnsupportedLayer(f"a leaky ReLU of slope {leak} is not known to the recheck; it must be in [0, 1].")
        return self._add(Layer((at,), prod(shape), leak=leak, terms=2)), shape

    def _sign(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        at, shape = inputs[0]
        layer, zero = self.layers[at], 0.0
        inner = self.layers[layer.inputs[0]] if layer.inputs else layer
        if layer.matrix is not None and inner.zero is not None and layer.matrix.nnz == layer.size == inner.size:
            # A sign of a scaled and shifted sign: where it is one again, its value at 0 is all that may differ.
            factor = layer.matrix.diagonal()
            three = [factor * v + layer.bias for v in (-1.0, inner.zero, 1.0)]
            clear = all((np.abs(t) > 1e-3 * (np.abs(factor) + np.abs(layer.bias))).all() for t in three)
            if clear and (three[0] < 0).all() and (three[2] > 0).all() and len(set(np.sign(three[1]))) == 1:
                at, zero = inner.inputs[0], float(np.sign(three[1][0]))
        return self._add(Layer((at,), prod(shape), zero=zero)), shape

    def _moved(self, at: int, index: NDArray[np.int64]) -> int:
        """A layer with the entries of another in another order; signs are taken after the move."""
        if (index == np.arange(self.layers[at].size)).all() and len(index) == self.layers[at].size:
            return at
        layer = self.layers[at]
        if layer.zero is not None:
            return self._add(Layer((self._moved(layer.inputs[0], index),), len(index), zero=layer.zero))
        if layer.taps is not None:
            return self._add(Layer(layer.inputs, len(index), taps=layer.taps[index]))
        if layer.matrix is not None and layer.matrix.nnz <= layer.size:
            mass = layer.mass[index] if len(layer.mass) else layer.mass
            return self._add(replace(layer, matrix=layer.matrix[index], bias=layer.bias[index], mass=mass))
        return self._add(Layer((at,), len(index), taps=index[:, None]))

    def _transpose(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        (at, shape), order = inputs[0], given.get("perm")
        if order is None or order[0] != 0:
            raise UnsupportedLayer("only a transposition that leaves the batch axis is known to the recheck.")
        index = np.arange(prod(shape)).reshape(shape).transpose([a - 1 for a in order[1:]])
        return self._moved(at, index.ravel()), index.shape

    def _maxpool(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        (at, shape), size = inputs[0], given["kernel_shape"]
        if (
            len(shape) != 3
            or len(size) != 2
            or given.get("ceil_mode")
            or any(d != 1 for d in given.get("dilations", []))
        ):
            raise UnsupportedLayer("only plain max pooling in two dimensions is known to the recheck.")
        no_automatic_padding(given)
        stride, (top, left, bottom, right) = given.get("strides", [1, 1]), given.get("pads", [0, 0, 0, 0])
        index = np.pad(
            np.arange(prod(shape)).reshape(shape), ((0, 0), (top, bottom), (left, right)), constant_values=-1
        )
        views = np.lib.stride_tricks.sliding_window_view(index, size, (1, 2))[:, :: stride[0], :: stride[1]]
        taps = views.reshape(-1, prod(size))
        if (taps < 0).all(axis=1).any():
            raise UnsupportedLayer("max pooling with a window that lies outside its map is not known to the recheck.")
        before = self.layers[at]
        if before.taps is not None:
            flat = np.where(taps[:, :, None] < 0, -1, before.taps[np.maximum(taps, 0)])
            return self._add(Layer(before.inputs, len(taps), taps=flat.reshape(len(taps), -1))), views.shape[:3]
        return self._add(Layer((at,), len(taps), taps=taps)), views.shape[:3]

    def _times(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        first, second = inputs
        if isinstance(first, tuple) and isinstance(second, tuple):
            raise UnsupportedLayer("a product of two arrays that depend on the image is not known to the recheck.")
        (at, shape), factor = (first, second) if isinstance(first, tuple) else (second, first)
        values = np.broadcast_to(factor.astype(np.float64), (1, *shape)).ravel()
        terms = 3 + self._joined(at)
        return self._affine(at, sparse.diags(values), np.zeros(len(values)), terms), shape

    def _over(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        if not isinstance(inputs[1], np.ndarray) or not np.all(inputs[1]):
            raise UnsupportedLayer("a division by what depends on the image, or by 0, is not known to the recheck.")
        return self._times((inputs[0], 1 / inputs[1].astype(np.float64)), given)

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
        if len(target) != 2 or target[0] not in (-1, 0, 1) or target[1] not in (-1, prod(shape)):
            raise UnsupportedLayer("only reshaping to (batch, length) is known to the recheck.")
        return at, (prod(shape),)

    def _cast(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        if not self.single or given["to"] != _FLOAT:
            raise UnsupportedLayer("a cast is known to the recheck from float32 to float32 alone.")
        return self._identity(inputs, given)

    def _dropout(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        if len(inputs) > 2 and bool(np.any(inputs[2])):
            raise UnsupportedLayer("dropout in training mode is random; the recheck refuses it.")
        return self._identity(inputs, given)

    def _identity(self, inputs: Sequence[Any], given: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
        at, shape = inputs[0]
        return at, shape


_OPERATORS: dict[str, Callable[[_Reader, Sequence[Any], Mapping[str, Any]], tuple[int, tuple[int, ...]]]] = {
    "Add": _Reader._plus,
    "AveragePool": _Reader._averagepool,
    "BatchNormalization": _Reader._batchnormalization,
    "Cast": _Reader._cast,
    "Conv": _Reader._conv,
    "Div": _Reader._over,
    "Dropout": _Reader._dropout,
    "Flatten": _Reader._flatten,
    "Gemm": _Reader._gemm,
    "Identity": _Reader._identity,
    "LeakyRelu": _Reader._leakyrelu,
    "MatMul": _Reader._matmul,
    "MaxPool": _Reader._maxpool,
    "Mul": _Reader._times,
    "Relu": _Reader._relu,
    "Reshape": _Reader._reshape,
    "Sign": _Reader._sign,
    "Sub": _Reader._sub,
    "Transpose": _Reader._transpose,
}
