"""ONNX operators in torch, beside onnxruntime, which somebody else made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

import onnxruntime  # noqa: E402
import torch  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from robustest.classifiers.onnx_module import OnnxModule  # noqa: E402

_RNG = np.random.default_rng(0)
_INPUT = _RNG.normal(size=(3, 4, 6)).astype(np.float32)
_SOME = np.array([0.5, -1.0, 2.0, 0.25, -0.75, 1.5], np.float32)
_TWO = np.array([2], np.int64)
_LAST = np.array([-1], np.int64)

# Name, attributes, constant inputs after x, opset.
_CASES: list[tuple[str, dict[str, Any], list[NDArray[Any]], int]] = [
    ("LogSoftmax", {"axis": -1}, [], 13),
    ("LayerNormalization", {"axis": -1, "epsilon": 1e-3}, [_SOME, _SOME[::-1].copy()], 17),
    ("LayerNormalization", {"axis": 1}, [np.ones((4, 6), np.float32) * _SOME], 17),
    ("HardSwish", {}, [], 14),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, [], 13),
    ("HardSigmoid", {}, [], 13),
    ("Softplus", {}, [], 13),
    ("Gelu", {}, [], 20),
    ("Gelu", {"approximate": "tanh"}, [], 20),
    ("PRelu", {}, [_SOME], 13),
    ("Abs", {}, [], 13),
    ("Sum", {}, [_SOME, _SOME * 3], 13),
    ("Min", {}, [_SOME, np.float32(0.1)], 13),
    ("Max", {}, [_SOME], 13),
    ("ReduceSum", {"keepdims": 0}, [_TWO], 13),
    ("ReduceSum", {}, [], 13),
    ("ReduceSum", {"noop_with_empty_axes": 1}, [], 13),
    ("ReduceMean", {"axes": [1, 2]}, [], 13),
    ("ReduceMax", {"axes": [-1], "keepdims": 0}, [], 13),
    ("ReduceMin", {"axes": [1]}, [], 13),
    ("Expand", {}, [np.array([2, 1, 4, 1], np.int64)], 13),
]


def _saved(nodes: list[Any], constants: dict[str, NDArray[Any]], path: Path, opset: int) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(_INPUT.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
    return path


def _both(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    ours = OnnxModule(path)(torch.from_numpy(_INPUT)).numpy()
    (theirs,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": _INPUT})
    return ours, theirs.reshape(ours.shape)


@pytest.mark.parametrize(("name", "attributes", "constants", "opset"), _CASES, ids=lambda value: str(value)[:20])
def test_an_operator_gives_what_onnxruntime_gives(
    name: str, attributes: dict[str, Any], constants: list[NDArray[Any]], opset: int, tmp_path: Path
) -> None:
    named = {f"c{place}": value for place, value in enumerate(constants)}
    # Doubled, so that a Softmax at the end is none that is dropped, and of more than one axis.
    nodes = [
        helper.make_node(name, ["x", *named], ["z"], **attributes),
        helper.make_node("Add", ["z", "z"], ["sum"]),
        helper.make_node("Unsqueeze", ["sum", "first"], ["y"]),
    ]
    ours, theirs = _both(_saved(nodes, named | {"first": np.array([0], np.int64)}, tmp_path / "m.onnx", opset))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [None, [1, 3, 2]])
def test_split_gives_its_parts_in_order(sizes: list[int] | None, tmp_path: Path) -> None:
    inputs, constants = (["x"], {}) if sizes is None else (["x", "sizes"], {"sizes": np.array(sizes, np.int64)})
    nodes = [
        helper.make_node("Split", inputs, ["a", "b", "c"], axis=2),
        helper.make_node("Concat", ["c", "a", "b"], ["y"], axis=-1),
    ]
    ours, theirs = _both(_saved(nodes, constants, tmp_path / "m.onnx", 13))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("compared", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_where_chooses_by_comparisons(compared: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node(compared, ["x", "some"], ["first"]),
        helper.make_node("Less", ["x", "zero"], ["second"]),
        helper.make_node("Not", ["second"], ["third"]),
        helper.make_node("And", ["first", "third"], ["fourth"]),
        helper.make_node("Or", ["fourth", "second"], ["which"]),
        helper.make_node("Where", ["which", "x", "some"], ["y"]),
    ]
    constants = {"some": _INPUT[:, :, :1].copy(), "zero": np.float32(0)}
    ours, theirs = _both(_saved(nodes, constants, tmp_path / "m.onnx", 13))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["Erf", "Log", "Reciprocal", "Abs"])
def test_operators_of_constants_are_computed_once_and_right(name: str, tmp_path: Path) -> None:
    nodes = [helper.make_node(name, ["some"], ["z"]), helper.make_node("Mul", ["x", "z"], ["y"])]
    ours, theirs = _both(_saved(nodes, {"some": np.abs(_SOME)}, tmp_path / "m.onnx", 13))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_global_pooling_takes_the_largest_of_each_channel(tmp_path: Path) -> None:
    nodes = [helper.make_node("Unsqueeze", ["x", "first"], ["z"]), helper.make_node("GlobalMaxPool", ["z"], ["y"])]
    ours, theirs = _both(_saved(nodes, {"first": np.array([0], np.int64)}, tmp_path / "m.onnx", 13))
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(ours, _INPUT.max(axis=(1, 2))[None])


def test_slopes_go_through_them(tmp_path: Path) -> None:
    """The slope of log-softmax summed over one axis, known in closed form: 1 - K softmax."""
    nodes = [helper.make_node("LogSoftmax", ["x"], ["z"], axis=-1), helper.make_node("ReduceSum", ["z"], ["y"])]
    point = torch.from_numpy(_INPUT).requires_grad_(True)
    OnnxModule(_saved(nodes, {}, tmp_path / "m.onnx", 13))(point).sum().backward()
    assert point.grad is not None
    np.testing.assert_allclose(point.grad.numpy(), 1 - 6 * torch.softmax(point.detach(), -1).numpy(), atol=1e-5)
