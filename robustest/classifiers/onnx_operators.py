"""ONNX operators without weights, in torch, and in numpy where they compute shapes.

Each takes the node's attributes and its inputs: tensors where the value depends on the image, arrays where it is a
constant or a shape. Source: the ONNX operator specification, opsets 7 to 20.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor
from torch.nn import functional

Attributes = dict[str, Any]

_DTYPES = {
    1: (np.float32, torch.float32),
    6: (np.int32, torch.int32),
    7: (np.int64, torch.int64),
    9: (np.bool_, torch.bool),
    11: (np.float64, torch.float64),
}


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _ints(value: Any) -> list[int]:
    return [int(item) for item in _array(value).reshape(-1)]


def _either(tensor: Callable[..., Any], array: Callable[..., Any]) -> Callable[..., Any]:
    """An elementwise operator of tensors, and of arrays where no input is a tensor."""

    def operator(attributes: Attributes, *values: Any) -> Any:
        if not any(isinstance(value, Tensor) for value in values):
            return array(*values)
        reference = next(value for value in values if isinstance(value, Tensor))
        return tensor(
            *(v if isinstance(v, Tensor) else torch.as_tensor(np.asarray(v), device=reference.device) for v in values)
        )

    return operator


def _divide(a: Any, b: Any) -> Any:
    return (a // b).astype(a.dtype) if np.issubdtype(np.asarray(a).dtype, np.integer) else a / b


def _axes(attributes: Attributes, given: Any) -> list[int] | None:
    if given is not None:
        return _ints(given)
    return list(attributes["axes"]) if "axes" in attributes else None


def _reduced(reduce: Callable[..., Tensor]) -> Callable[..., Any]:
    """An operator that reduces some axes, all where none are given."""

    def operator(attributes: Attributes, x: Tensor, axes: Any = None) -> Tensor:
        places = _axes(attributes, axes)
        if not places:
            if attributes.get("noop_with_empty_axes", 0):
                return x
            places = list(range(x.ndim))
        return reduce(x, dim=places, keepdim=bool(attributes.get("keepdims", 1)))

    return operator


def _folded(tensor: Callable[..., Any], array: Callable[..., Any]) -> Callable[..., Any]:
    """An elementwise operator of any number of inputs, taken two at a time."""
    two = _either(tensor, array)
    return lambda attributes, *values: functools.reduce(lambda a, b: two(attributes, a, b), values)


def _split(attributes: Attributes, x: Any, sizes: Any = None) -> tuple[Any, ...]:
    axis, outputs = attributes.get("axis", 0), attributes["outputs"]
    given = _ints(sizes) if sizes is not None else attributes.get("split")
    each = -(-x.shape[axis] // outputs)  # the last one may be smaller
    ends = np.cumsum(given if given is not None else [each] * outputs)
    return tuple(
        x[(slice(None),) * (axis % x.ndim) + (slice(start, end),)]
        for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
    )


def _layer_normalization(attributes: Attributes, x: Tensor, scale: Any, bias: Any = None) -> Tensor:
    shape = x.shape[attributes.get("axis", -1) % x.ndim :]
    weight, shift = (None if value is None else torch.as_tensor(value).expand(shape) for value in (scale, bias))
    return functional.layer_norm(x, shape, weight, shift, attributes.get("epsilon", 1e-5))


def _hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    slope, middle = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))
    return (slope * x + middle).clamp(0, 1)


def _gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=attributes.get("approximate", b"none").decode())


def _expand(attributes: Attributes, x: Any, shape: Any) -> Any:
    sides = np.broadcast_shapes(tuple(x.shape), tuple(_ints(shape)))
    return x.expand(sides) if isinstance(x, Tensor) else np.broadcast_to(x, sides)


def _reshape(attributes: Attributes, x: Any, shape: Any) -> Any:
    sides = [
        x.shape[i] if side == 0 and not attributes.get("allowzero", 0) else side for i, side in enumerate(_ints(shape))
    ]
    return x.reshape(sides)


def _flatten(attributes: Attributes, x: Any) -> Any:
    axis = attributes.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis])) if axis else 1, -1)


def _transpose(attributes: Attributes, x: Any) -> Any:
    order = attributes.get("perm", list(range(x.ndim))[::-1])
    return x.permute(order) if isinstance(x, Tensor) else np.transpose(x, order)


def _unsqueeze(attributes: Attributes, x: Any, axes: Any = None) -> Any:
    places = _axes(attributes, axes) or []
    rank = x.ndim + len(places)
    for axis in sorted(axis % rank for axis in places):
        x = x.unsqueeze(axis) if isinstance(x, Tensor) else np.expand_dims(x, axis)
    return x


def _squeeze(attributes: Attributes, x: Any, axes: Any = None) -> Any:
    places = _axes(attributes, axes)
    if places is None:
        return x.squeeze()
    for axis in sorted((axis % x.ndim for axis in places), reverse=True):
        x = x.squeeze(axis)
    return x


def _concat(attributes: Attributes, *values: Any) -> Any:
    if any(isinstance(value, Tensor) for value in values):
        return torch.cat([torch.as_tensor(value) for value in values], dim=attributes["axis"])
    return np.concatenate([np.atleast_1d(value) for value in values], axis=attributes["axis"])


def _gather(attributes: Attributes, x: Any, indices: Any) -> Any:
    axis, places = attributes.get("axis", 0), _array(indices)
    if not isinstance(x, Tensor):
        return np.take(x, places, axis=axis)
    chosen = x.index_select(axis, torch.as_tensor(places.reshape(-1) % x.shape[axis]))
    return chosen.reshape(*x.shape[:axis], *places.shape, *x.shape[axis:][1:])


def _slice(
    attributes: Attributes, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None
) -> Any:
    starts, ends = (attributes["starts"], attributes["ends"]) if starts is None else (_ints(starts), _ints(ends))
    places = (_ints(axes) if axes is not None else attributes.get("axes")) or list(range(len(starts)))
    strides = _ints(steps) if steps is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, places, strides, strict=True):
        indices = range(x.shape[axis])[
            slice(start, end if abs(end) < 2**31 else (None if end > 0 or step < 0 else end), step)
        ]
        if isinstance(x, Tensor):
            x = x.index_select(axis, torch.tensor(list(indices), dtype=torch.int64, device=x.device))
        else:
            x = np.take(x, list(indices), axis=axis)
    return x


def _pad(attributes: Attributes, x: Tensor, pads: Any = None, value: Any = None) -> Tensor:
    sides = _ints(pads) if pads is not None else list(attributes["pads"])
    mode = attributes.get("mode", b"constant").decode()
    rank = x.ndim
    order = [side for axis in reversed(range(rank)) for side in (sides[axis], sides[axis + rank])]
    if mode == "constant":
        return functional.pad(
            x,
            order,
            value=float(_array(value).reshape(-1)[0]) if value is not None else float(attributes.get("value", 0.0)),
        )
    return functional.pad(x, order[:4], mode={"edge": "replicate"}.get(mode, mode))


def _pooled(x: Tensor, attributes: Attributes, fill: float) -> Tensor:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    padded = functional.pad(x, (left, right, top, bottom), value=fill) if any((top, left, bottom, right)) else x
    if attributes.get("ceil_mode", 0):
        for axis, (size, stride) in enumerate(
            zip(attributes["kernel_shape"], attributes.get("strides", (1, 1)), strict=True)
        ):
            missing = -(padded.shape[2 + axis] - size) % stride
            padded = functional.pad(padded, (0, 0, 0, missing) if axis == 0 else (0, missing, 0, 0), value=fill)
    return padded


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    return functional.max_pool2d(
        _pooled(x, attributes, -torch.inf), attributes["kernel_shape"], attributes.get("strides", (1, 1))
    )


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    size, strides = attributes["kernel_shape"], attributes.get("strides", (1, 1))
    total = functional.avg_pool2d(_pooled(x, attributes, 0.0), size, strides)
    if attributes.get("count_include_pad", 0):
        return total
    return total / functional.avg_pool2d(_pooled(torch.ones_like(x), attributes, 0.0), size, strides)


def _clip(attributes: Attributes, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    least = attributes.get("min") if low is None else float(_array(low))
    most = attributes.get("max") if high is None else float(_array(high))
    return x.clamp(least, most)


def _cast(attributes: Attributes, x: Any) -> Any:
    array, tensor = _DTYPES[attributes["to"]]
    return x.to(tensor) if isinstance(x, Tensor) else np.asarray(x).astype(array)


def _constant_of_shape(attributes: Attributes, shape: Any) -> Any:
    import onnx.numpy_helper

    value = onnx.numpy_helper.to_array(attributes["value"]).reshape(-1)[0] if "value" in attributes else np.float32(0)
    return np.full(_ints(shape), value)


def _grid_sample(attributes: Attributes, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(attributes.get("mode", b"bilinear").decode(), "bilinear")
    return functional.grid_sample(
        x,
        grid,
        mode=mode,
        padding_mode=attributes.get("padding_mode", b"zeros").decode(),
        align_corners=bool(attributes.get("align_corners", 0)),
    )


def _gemm(attributes: Attributes, a: Tensor, b: Any, c: Any = None) -> Tensor:
    left = a.T if attributes.get("transA", 0) else a
    right = torch.as_tensor(b).T if attributes.get("transB", 0) else torch.as_tensor(b)
    product: Tensor = attributes.get("alpha", 1.0) * (left @ right)
    if c is not None:
        product = product + attributes.get("beta", 1.0) * torch.as_tensor(c)
    return product


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": _either(torch.add, np.add),
    "Sub": _either(torch.sub, np.subtract),
    "Mul": _either(torch.mul, np.multiply),
    "Div": _either(torch.div, _divide),
    "MatMul": _either(torch.matmul, np.matmul),
    "Gemm": _gemm,
    "Neg": _either(torch.neg, np.negative),
    "Sqrt": _either(torch.sqrt, np.sqrt),
    "Exp": _either(torch.exp, np.exp),
    "Pow": _either(torch.pow, np.power),
    "Sign": _either(torch.sign, np.sign),
    "Erf": _either(torch.erf, lambda x: np.asarray(special.erf(x), x.dtype)),
    "Log": _either(torch.log, np.log),
    "Abs": _either(torch.abs, np.abs),
    "Reciprocal": _either(torch.reciprocal, lambda x: 1 / x),
    "Sum": _folded(torch.add, np.add),
    "Min": _folded(torch.minimum, np.minimum),
    "Max": _folded(torch.maximum, np.maximum),
    "Equal": _either(torch.eq, np.equal),
    "Greater": _either(torch.gt, np.greater),
    "GreaterOrEqual": _either(torch.ge, np.greater_equal),
    "Less": _either(torch.lt, np.less),
    "LessOrEqual": _either(torch.le, np.less_equal),
    "Not": _either(torch.logical_not, np.logical_not),
    "And": _either(torch.logical_and, np.logical_and),
    "Or": _either(torch.logical_or, np.logical_or),
    "Where": _either(torch.where, np.where),
    "Expand": _expand,
    "Tanh": _either(torch.tanh, np.tanh),
    "Sigmoid": _either(torch.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "LeakyRelu": lambda attributes, x: functional.leaky_relu(x, attributes.get("alpha", 0.01)),
    "PRelu": _either(lambda x, slope: torch.where(x < 0, slope * x, x), lambda x, slope: np.where(x < 0, slope * x, x)),
    "Elu": lambda attributes, x: functional.elu(x, attributes.get("alpha", 1.0)),
    "Softmax": lambda attributes, x: torch.softmax(x, attributes.get("axis", -1)),
    "LogSoftmax": lambda attributes, x: torch.log_softmax(x, attributes.get("axis", -1)),
    "Softplus": lambda attributes, x: functional.softplus(x),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda attributes, x: functional.hardswish(x),
    "Gelu": _gelu,
    "LayerNormalization": _layer_normalization,
    "Clip": _clip,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda attributes, x: x.mean(dim=(2, 3), keepdim=True),
    "GlobalMaxPool": lambda attributes, x: x.amax(dim=(2, 3), keepdim=True),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMin": _reduced(torch.amin),
    "Split": _split,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Pad": _pad,
    "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "GridSample": _grid_sample,
    "Shape": lambda attributes, x: np.array(x.shape, np.int64),
}
