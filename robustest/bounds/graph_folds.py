"""Arithmetic on constants that exporters leave in ONNX files: shapes, slices, casts; worked out in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.bounds.errors import UnsupportedLayer

Array = NDArray[Any]


def fold(kind: str, label: str, given: list[Array], attributes: dict[str, Any]) -> Array:
    """A node whose inputs are all constants."""
    try:
        return _FOLDS[kind](given, attributes)
    except KeyError:
        raise UnsupportedLayer(f"layer {label}: constants cannot be worked out through it.") from None


def constant_of(label: str, attributes: dict[str, Any]) -> Array:
    """The array of a Constant node, in whichever of its attributes it stands."""
    from onnx import numpy_helper

    ((kind, value),) = attributes.items()
    if kind == "value":
        return np.asarray(numpy_helper.to_array(value))
    if kind in ("value_float", "value_floats", "value_int", "value_ints"):
        return np.asarray(value, np.float32 if "float" in kind else np.int64)
    raise UnsupportedLayer(f"layer {label} holds its value as {kind}.")


def _fold_slice(given: list[Array], attributes: dict[str, Any]) -> Array:
    starts = attributes.get("starts") or given[1]
    ends = attributes.get("ends") or given[2]
    axes = attributes.get("axes") or (given[3] if len(given) > 3 else range(len(starts)))
    steps = given[4] if len(given) > 4 else [1] * len(starts)
    cut = [slice(None)] * given[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        stop = None if step < 0 and end < -(2**31) else int(end)
        cut[int(axis)] = slice(int(start), stop, int(step))
    return given[0][tuple(cut)]


def _axes_of(given: list[Array], attributes: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(a) for a in (attributes.get("axes") or given[1]))


def _fold_constant(given: list[Array], attributes: dict[str, Any]) -> Array:
    from onnx import numpy_helper

    value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    return np.full([int(d) for d in given[0]], value[0], dtype=value.dtype)


def _fold_cast(given: list[Array], attributes: dict[str, Any]) -> Array:
    from onnx import helper

    return given[0].astype(helper.tensor_dtype_to_np_dtype(int(attributes["to"])))


def _fold_div(given: list[Array], attributes: dict[str, Any]) -> Array:
    if np.issubdtype(given[0].dtype, np.integer):
        return np.asarray(np.trunc(given[0] / given[1]).astype(given[0].dtype))
    return np.asarray(given[0] / given[1])


_FOLDS: dict[str, Callable[[list[Array], dict[str, Any]], Array]] = {
    "Add": lambda g, a: np.asarray(g[0] + g[1]),
    "Sub": lambda g, a: np.asarray(g[0] - g[1]),
    "Mul": lambda g, a: np.asarray(g[0] * g[1]),
    "Div": _fold_div,
    "Neg": lambda g, a: np.asarray(-g[0]),
    "Cast": _fold_cast,
    "Concat": lambda g, a: np.concatenate(g, int(a["axis"])),
    "ConstantOfShape": _fold_constant,
    "Gather": lambda g, a: np.take(g[0], g[1].astype(np.int64), axis=int(a.get("axis", 0))),
    "Identity": lambda g, a: g[0],
    "Reshape": lambda g, a: g[0].reshape([int(d) for d in g[1]]),
    "Shape": lambda g, a: np.array(g[0].shape, dtype=np.int64),
    "Slice": _fold_slice,
    "Squeeze": lambda g, a: np.squeeze(g[0], _axes_of(g, a)),
    "Transpose": lambda g, a: np.transpose(g[0], a.get("perm")),
    "Unsqueeze": lambda g, a: np.expand_dims(g[0], _axes_of(g, a)),
}
