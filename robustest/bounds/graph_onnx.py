"""Reads a network from an ONNX file into a `BoundGraph`; refuses what it does not know, by name.

Shapes are worked out here, for one image, with the batch axis left out; arithmetic on shapes and constants that the
exporters leave in files (Shape, Gather, Concat, Slice, Cast...) is folded. Departure from the file: a Softmax at the
end is dropped, since in exact arithmetic it does not change which class is largest; what its rounding may is charged to
the scores (`BoundGraph`), and that is said in the assumptions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.bounds.builder import GraphBuilder
from robustest.bounds.errors import UnsupportedLayer, UnsupportedNumerics
from robustest.bounds.graph import Activation
from robustest.bounds.graph_folds import constant_of, fold
from robustest.bounds.graph_layers import average_pool, clip, global_average, max_pool
from robustest.errors import MissingExtra, ModelError

Array = NDArray[Any]
Value = Array | int
"""A constant, or the index of a node."""
_NOT_GIVEN: Array = np.zeros(0)
"""Stands for an input that a node leaves out."""
_FLOAT = 1  # the number of float32 in ONNX


def read_onnx(path: Path, builder: GraphBuilder, entry: int) -> int:
    """Add the network of a file to `builder`; `entry` is the node with the file's input. Returns the scores' node."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingExtra("onnx", "bounds", "reading weights from an ONNX file") from error
    try:
        model = onnx.load(str(path))
    except Exception as error:  # onnx raises protobuf's own types, which vary with its version
        raise ModelError(f"model {path} cannot be read as ONNX: {error}. Export it again.") from error
    _check_numbers(model)
    values: dict[str, Value] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in values]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UnsupportedLayer(
            f"model {path} has {len(inputs)} inputs and {len(model.graph.output)} outputs; one of each is "
            "needed. Export it with the scores as its only output."
        )
    values[inputs[0].name] = entry
    reader = _Reader(builder, values, single=inputs[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT)
    result = model.graph.output[0].name
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        label = f"{node.op_type} '{node.name or node.output[0]}'"
        if node.domain not in ("", "ai.onnx"):
            raise UnsupportedLayer(f"layer {label} is of domain {node.domain!r}; what it computes is not known.")
        if "broadcast" in attributes:
            raise UnsupportedLayer(f"layer {label} broadcasts as ONNX did before version 7. Export the model again.")
        if node.op_type == "Constant":
            values[node.output[0]] = constant_of(label, attributes)
            continue
        if node.op_type == "Softmax" and node.output[0] == result:
            before = values[node.input[0]]
            if isinstance(before, int):
                builder.end_in_softmax(before)
            values[result] = before
            continue
        found = reader.read(node.op_type, node.name or node.output[0], list(node.input), attributes)
        values.update(zip(node.output, found, strict=False))
    output = values[result]
    if not isinstance(output, int):
        raise UnsupportedLayer(f"model {path}: the output does not depend on the input.")
    return output


def _check_numbers(model: Any) -> None:
    """Refuse a file that computes in half precision or less: proofs charge the rounding of float32 or float64."""
    from onnx import TensorProto

    held = [(t.name, t.data_type) for t in model.graph.initializer]
    held += [(v.name, v.type.tensor_type.elem_type) for v in [*model.graph.input, *model.graph.output]]
    for name, kind in held:
        words = TensorProto.DataType.Name(kind)
        if "FLOAT" in words and words != "FLOAT":
            raise UnsupportedNumerics(
                f"tensor {name!r} of the model is of type {words}; proofs are about float32 or float64. Export it in float32."
            )


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))


class _Reader:
    """One file being read: turns each ONNX node into nodes of the builder, or folds it.

    single: the image comes in as float32, and so does all that depends on it.
    """

    def __init__(self, builder: GraphBuilder, values: dict[str, Value], *, single: bool) -> None:
        self.builder = builder
        self.values = values
        self.single = single

    def read(self, kind: str, name: str, inputs: list[str], attributes: dict[str, Any]) -> list[Value]:
        """The outputs of one ONNX node."""
        label = f"{kind} '{name}'"
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        if "" in inputs and kind != "Clip":
            raise UnsupportedLayer(f"layer {label} leaves out an input before another one; only Clip may.")
        unknown = [i for i in inputs if i and i not in self.values]
        if unknown:
            raise UnsupportedLayer(f"layer {label} reads {unknown[0]!r}, which nothing here computes.")
        given = [self.values[i] if i else _NOT_GIVEN for i in inputs]
        if all(not isinstance(v, int) for v in given):
            return [fold(kind, label, [v for v in given if not isinstance(v, int)], attributes)]
        handler: Callable[..., Value] | None = getattr(self, f"_on_{kind.lower()}", None)
        if handler is None:
            raise UnsupportedLayer(
                f"layer {label} is not supported: no bound here covers it, and none is given for the rest. "
                "Supported: Gemm, MatMul, Conv, BatchNormalization, pooling, Relu, LeakyRelu, Clip, Sigmoid, Tanh, Sign, "
                "Add, Sub, Mul and Div with constants, Pad, Slice, Concat, Transpose, Reshape, Flatten."
            )
        return [handler(label, given, attributes)]

    def _node(self, value: Value, label: str) -> int:
        if isinstance(value, int):
            return value
        raise UnsupportedLayer(f"layer {label} has a constant where the image should enter.")

    def _const(self, value: Value, label: str) -> Array:
        if isinstance(value, int):
            raise UnsupportedLayer(
                f"layer {label} multiplies or shapes values that both depend on the image (as attention does); "
                "no bound here covers it."
            )
        return value

    def _on_gemm(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        x, weight = self._node(given[0], label), _tensor(self._const(given[1], label))
        if attributes.get("transA", 0):
            raise UnsupportedLayer(f"layer {label}: transA is not supported.")
        weight = weight if attributes.get("transB", 0) else weight.T
        weight = weight * float(attributes.get("alpha", 1.0))
        bias = None
        if len(given) > 2:
            bias = _tensor(self._const(given[2], label)) * float(attributes.get("beta", 1.0))
            bias = bias.flatten().expand(weight.shape[0])
        return self.builder.dense(x, weight, bias, label)

    def _on_matmul(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        x, weight = self._node(given[0], label), _tensor(self._const(given[1], label))
        if weight.dim() != 2:
            raise UnsupportedLayer(f"layer {label}: a product with an array of shape {tuple(weight.shape)}.")
        return self.builder.dense(x, weight.T, None, label)

    def _on_conv(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        x, weight = self._node(given[0], label), _tensor(self._const(given[1], label))
        bias = _tensor(self._const(given[2], label)) if len(given) > 2 else None
        stride = _two(attributes.get("strides", (1, 1)))
        dilation = _two(attributes.get("dilations", (1, 1)))
        span = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
        pads = self._pads(self.builder.shape(x), span, stride, attributes)
        return self.builder.conv(
            x, weight, bias, label, stride=stride, pads=pads, dilation=dilation, groups=attributes.get("group", 1)
        )

    def _pads(
        self, shape: tuple[int, ...], span: list[int], stride: tuple[int, int], attributes: dict[str, Any]
    ) -> tuple[int, int, int, int]:
        mode = attributes.get("auto_pad", b"NOTSET")
        mode = mode.decode() if isinstance(mode, bytes) else mode
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            total = [max((-(-shape[1 + i] // stride[i]) - 1) * stride[i] + span[i] - shape[1 + i], 0) for i in (0, 1)]
            small, big = [t // 2 for t in total], [t - t // 2 for t in total]
            first, last = (small, big) if mode == "SAME_UPPER" else (big, small)
            return first[0], first[1], last[0], last[1]
        pads = attributes.get("pads", (0, 0, 0, 0))
        return pads[0], pads[1], pads[2], pads[3]

    def _on_batchnormalization(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        x = self._node(given[0], label)
        gain, shift, mean, variance = (_tensor(self._const(v, label)) for v in given[1:5])
        if attributes.get("training_mode", 0):
            raise UnsupportedLayer(f"layer {label} is in training mode; export the model in evaluation mode.")
        factor = gain / (variance + float(attributes.get("epsilon", 1e-5))).sqrt()
        trail = (-1,) + (1,) * (len(self.builder.shape(x)) - 1)
        return self.builder.scale(
            x,
            factor.reshape(trail),
            (shift - mean * factor).reshape(trail),
            label,
            (shift.abs() + (mean * factor).abs()).reshape(trail),
        )

    def _on_relu(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        return self.builder.activate(self._node(given[0], label), Activation("relu"), label)

    def _on_leakyrelu(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        slope = float(attributes.get("alpha", 0.01))
        return self.builder.activate(self._node(given[0], label), Activation("relu", slope), label)

    def _on_sigmoid(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        return self.builder.activate(self._node(given[0], label), Activation("sigmoid"), label)

    def _on_tanh(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        return self.builder.activate(self._node(given[0], label), Activation("tanh"), label)

    def _on_sign(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        return self.builder.activate(self._node(given[0], label), Activation("sign"), label)

    def _on_clip(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        ends = [self._const(v, label) for v in given[1:]]
        low = attributes.get("min", float(ends[0].item()) if len(ends) > 0 and ends[0].size else -np.inf)
        high = attributes.get("max", float(ends[1].item()) if len(ends) > 1 and ends[1].size else np.inf)
        return clip(self.builder, self._node(given[0], label), float(low), float(high), label)

    def _on_add(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        first, second = given
        if isinstance(first, int) and isinstance(second, int):
            return self.builder.add([first, second], label)
        node, constant = (first, second) if isinstance(first, int) else (second, first)
        return self._arithmetic(self._node(node, label), np.ones(()), self._const(constant, label), label)

    def _on_sub(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        first, second = given
        if isinstance(first, int) and isinstance(second, int):
            minus = self._arithmetic(second, -np.ones(()), np.zeros(()), label)
            return self.builder.add([first, self._node(minus, label)], label)
        if isinstance(first, int):
            return self._arithmetic(first, np.ones(()), -self._const(second, label), label)
        return self._arithmetic(self._node(second, label), -np.ones(()), first, label)

    def _on_mul(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        node, factor = (given[0], given[1]) if isinstance(given[0], int) else (given[1], given[0])
        factor = self._const(factor, label)
        return self._arithmetic(self._node(node, label), factor, np.zeros(()), label)

    def _on_div(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        with np.errstate(divide="ignore"):  # what is divided by 0 is refused as weights that are not finite
            factor = 1.0 / self._const(given[1], label).astype(np.float64)
        return self._arithmetic(self._node(given[0], label), factor, np.zeros(()), label)

    def _arithmetic(self, node: int, factor: Array, constant: Array, label: str) -> Value:
        shape = self.builder.shape(node)
        parts = []
        for values in (factor, constant):
            if values.ndim == len(shape) + 1 and values.shape[0] == 1:
                values = values[0]  # the batch axis
            parts.append(_tensor(values))
        return self.builder.scale(node, parts[0], parts[1], label)

    def _on_maxpool(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        if _two(attributes.get("dilations", (1, 1))) != (1, 1) or attributes.get("ceil_mode", 0):
            raise UnsupportedLayer(f"layer {label}: dilation and ceil_mode are not supported.")
        x, size = self._node(given[0], label), _two(attributes["kernel_shape"])
        stride = _two(attributes.get("strides", (1, 1)))
        pads = self._pads(self.builder.shape(x), list(size), stride, attributes)
        return max_pool(self.builder, x, size, stride, pads, label)

    def _on_averagepool(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        if _two(attributes.get("dilations", (1, 1))) != (1, 1) or attributes.get("ceil_mode", 0):
            raise UnsupportedLayer(f"layer {label}: dilation and ceil_mode are not supported.")
        x, size = self._node(given[0], label), _two(attributes["kernel_shape"])
        stride = _two(attributes.get("strides", (1, 1)))
        pads = self._pads(self.builder.shape(x), list(size), stride, attributes)
        counted = bool(attributes.get("count_include_pad", 0))
        return average_pool(self.builder, x, size, stride, pads, label, counted=counted)

    def _on_globalaveragepool(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        return global_average(self.builder, self._node(given[0], label), label, keep=True)

    def _on_reducemean(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        axes = attributes.get("axes")
        if axes is None and len(given) > 1:
            axes = [int(a) for a in self._const(given[1], label)]
        x = self._node(given[0], label)
        rank = len(self.builder.shape(x)) + 1
        if axes is None or rank != 4 or sorted(a % rank for a in axes) != [2, 3]:
            raise UnsupportedLayer(f"layer {label}: a mean over axes {axes}; only over rows and columns.")
        return global_average(self.builder, x, label, keep=bool(attributes.get("keepdims", 1)))

    def _on_flatten(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        if attributes.get("axis", 1) not in (0, 1):
            raise UnsupportedLayer(f"layer {label}: axis {attributes['axis']}; it must be 1.")
        x = self._node(given[0], label)
        return self.builder.reshape(x, (self.builder.nodes[x].size,))

    def _on_reshape(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        x = self._node(given[0], label)
        wanted = [int(d) for d in self._const(given[1], label)]
        old = (1, *self.builder.shape(x))
        wanted = [old[i] if d == 0 else d for i, d in enumerate(wanted)]
        size = self.builder.nodes[x].size
        if len(wanted) > 1 and wanted[0] in (1, -1):
            rest = wanted[1:]
            if -1 in rest:
                known = -int(np.prod(rest))
                rest = [size // known if d == -1 else d for d in rest]
            if int(np.prod(rest)) == size:
                return self.builder.reshape(x, tuple(rest))
        raise UnsupportedLayer(f"layer {label}: reshape of {old} to {wanted}; the batch axis must stay first.")

    def _on_squeeze(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        x = self._node(given[0], label)
        shape = self.builder.shape(x)
        axes = attributes.get("axes") or ([int(a) for a in self._const(given[1], label)] if len(given) > 1 else None)
        drop = {a % (len(shape) + 1) for a in axes} if axes else {i + 1 for i, d in enumerate(shape) if d == 1}
        if 0 in drop:
            raise UnsupportedLayer(f"layer {label} drops the batch axis.")
        return self.builder.reshape(x, tuple(d for i, d in enumerate(shape) if i + 1 not in drop))

    def _on_transpose(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        axes = attributes.get("perm")
        if axes is None or axes[0] != 0:
            raise UnsupportedLayer(f"layer {label} moves the batch axis.")
        return self.builder.permute(self._node(given[0], label), [a - 1 for a in axes[1:]], label)

    def _on_pad(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        mode = attributes.get("mode", b"constant")
        if mode not in (b"constant", "constant") or len(given) > 3:
            raise UnsupportedLayer(f"layer {label}: only constant padding of all axes is supported.")
        pads = [int(p) for p in (attributes["pads"] if "pads" in attributes else self._const(given[1], label))]
        value = attributes.get("value", float(np.ravel(self._const(given[2], label))[0]) if len(given) > 2 else 0.0)
        half = len(pads) // 2
        if pads[0] or pads[half]:
            raise UnsupportedLayer(f"layer {label} pads the batch axis.")
        return self.builder.pad(self._node(given[0], label), pads[1:half], pads[half + 1 :], float(value), label)

    def _on_slice(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        x = self._node(given[0], label)
        if "starts" in attributes:
            starts, ends = list(attributes["starts"]), list(attributes["ends"])
            axes, steps = list(attributes.get("axes", range(len(starts)))), [1] * len(starts)
        else:
            rest = [[int(i) for i in self._const(v, label)] for v in given[1:]]
            starts, ends = rest[0], rest[1]
            axes = rest[2] if len(rest) > 2 else list(range(len(starts)))
            steps = rest[3] if len(rest) > 3 else [1] * len(starts)
        shape = self.builder.shape(x)
        index = np.arange(self.builder.nodes[x].size).reshape(1, *shape)
        cut = [slice(None)] * index.ndim
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            cut[axis] = slice(start, None if step < 0 and end < -(2**31) else end, step)
        picked = index[tuple(cut)]
        if picked.shape[0] != 1:
            raise UnsupportedLayer(f"layer {label} cuts the batch axis.")
        flat = torch.from_numpy(np.ascontiguousarray(picked).ravel())
        return self.builder.gather(x, flat, tuple(picked.shape[1:]), label)

    def _on_concat(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        axis = int(attributes["axis"])
        shapes = [(1, *self.builder.shape(v)) if isinstance(v, int) else v.shape for v in given]
        axis %= len(shapes[0])
        if axis == 0:
            raise UnsupportedLayer(f"layer {label} joins along the batch axis.")
        total = sum(s[axis] for s in shapes)
        parts, done = [], 0
        for value, shape in zip(given, shapes, strict=True):
            if not isinstance(value, int):
                raise UnsupportedLayer(f"layer {label} joins the image's values with constants.")
            before, after = [0] * len(shape), [0] * len(shape)
            before[axis], after[axis] = done, total - done - shape[axis]
            parts.append(self.builder.pad(value, before[1:], after[1:], 0.0, label))
            done += shape[axis]
        return self.builder.add(parts, label, exact=True)

    def _on_shape(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        return np.array((1, *self.builder.shape(self._node(given[0], label))), dtype=np.int64)

    def _on_identity(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        return given[0]

    def _on_cast(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        if not self.single or attributes["to"] != _FLOAT:
            raise UnsupportedLayer(
                f"layer {label} changes the type of values, which is supported from float32 to float32 alone. Export the model "
                "with float32 input and arithmetic."
            )
        return given[0]

    def _on_dropout(self, label: str, given: list[Value], attributes: dict[str, Any]) -> Value:
        if len(given) > 2 and bool(np.any(self._const(given[2], label))):
            raise UnsupportedLayer(f"layer {label} is in training mode, where it is random.")
        return given[0]


def _two(values: Any) -> tuple[int, int]:
    if len(values) != 2:
        raise UnsupportedLayer(f"only two-dimensional layers are supported; got settings {tuple(values)}.")
    return int(values[0]), int(values[1])
