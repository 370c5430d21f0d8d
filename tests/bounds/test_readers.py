"""Files that either reader of networks could misread: each is read as onnxruntime computes it, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from robustest.bounds.builder import GraphBuilder
from robustest.bounds.errors import UnsupportedLayer, UnsupportedNumerics
from robustest.bounds.graph import BoundGraph
from robustest.bounds.graph_onnx import read_onnx
from robustest.bounds.recheck_model import read_model

SPEC = {"layout": "NCHW", "channels": "gray", "scale": 1 / 255, "mean": 0.0, "std": 1.0}


def written(
    path: Path, nodes: list[Any], tensors: dict[str, np.ndarray], *, shape: tuple[int, ...] = (1, 4, 4)
) -> Path:
    """A file with these nodes on `x`, the last of which gives `y`; not checked, as files that others write are not."""
    held = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], held,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("mine", 1)])
    onnx.save(model, str(path))
    return path


def graph_in(path: Path) -> BoundGraph:
    """Its graph for images whose entries are its inputs, not compared with anything."""
    builder = GraphBuilder((4, 4, 1))
    entry = builder.permute(0, (2, 0, 1), "NCHW")
    return builder.build(read_onnx(path, builder, entry), unit=2.0**-24)


def node(kind: str, more: list[str], **given: Any) -> Any:
    """One node from `x` and `more` to `y`."""
    return helper.make_node(kind, ["x", *more], ["y"], name="here", **given)


def test_a_clip_with_an_upper_end_alone_is_one(tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", [node("Clip", ["", "top"])], {"top": np.array(0.5, np.float32)})
    image = torch.linspace(0, 1, 16).reshape(1, -1)
    assert torch.equal(graph_in(path).forward(image), image.double().clamp_max(0.5))


@pytest.mark.parametrize(
    ("made", "tensors"),
    [
        (node("Relu", [], domain="mine"), {}),
        (node("Add", ["a"], broadcast=1, axis=1), {"a": np.ones(4, np.float32)}),
        (node("Pad", ["pads", "", "axes"]), {"pads": np.ones(4, np.int64), "axes": np.array([2, 3])}),
        (node("AveragePool", [], kernel_shape=[2, 2], dilations=[2, 2]), {}),
        (node("Dropout", ["rate", "train"]), {"rate": np.array(0.5, np.float32), "train": np.array(True)}),
        (node("Transpose", []), {}),
        (node("Relu", ["nothing"]), {}),
        (node("Add", ["a"]), {"a": np.ones((3, 1, 1), np.float32)}),
        (node("Mul", ["a"]), {"a": np.ones((2, 1, 4, 4), np.float32)}),
        (node("Squeeze", ["axes"]), {"axes": np.array([0])}),
    ],
    ids=[
        "domain", "old broadcast", "left out", "dilated mean", "random dropout", "batch axis", "unknown input", "grown",
        "batch of two", "batch axis dropped",
    ],
)  # fmt: skip
def test_what_would_be_misread_is_refused_by_name(tmp_path: Path, made: Any, tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(UnsupportedLayer, match="here"):
        graph_in(written(tmp_path / "net.onnx", [made], tensors))


@pytest.mark.parametrize("form", [{"value_float": 0.5}, {"value_floats": [0.5]}])
def test_a_constant_stands_in_any_numeric_attribute(tmp_path: Path, form: dict[str, Any]) -> None:
    nodes = [helper.make_node("Constant", [], ["a"], name="half", **form), node("Add", ["a"])]
    path = written(tmp_path / "net.onnx", nodes, {})
    image = torch.linspace(0, 1, 16).reshape(1, -1)
    assert torch.equal(graph_in(path).forward(image), image.double() + 0.5)
    second = read_model(path, SPEC, (4, 4, 1)).values(image[0].double().numpy())
    assert np.allclose(second[-1], image[0].numpy() + 0.5, atol=1e-6)


def test_a_cast_from_float32_to_float32_and_a_division_by_constants_are_read(tmp_path: Path) -> None:
    nodes = [helper.make_node("Div", ["x", "a"], ["b"]), helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT)]
    path = written(tmp_path / "net.onnx", nodes, {"a": np.array([2, 4, 8, 0.5], np.float32)})
    image = torch.linspace(0, 1, 16).reshape(1, -1)
    wanted = (image.double().reshape(4, 4) / torch.tensor([2, 4, 8, 0.5])).reshape(1, -1)
    assert torch.equal(graph_in(path).forward(image), wanted)
    second = read_model(path, SPEC, (4, 4, 1)).values(image[0].double().numpy())
    assert np.allclose(second[-1], wanted[0], atol=1e-6)


@pytest.mark.parametrize(
    ("source", "to"),
    [
        (TensorProto.UINT8, TensorProto.FLOAT),
        (TensorProto.DOUBLE, TensorProto.FLOAT),
        (TensorProto.FLOAT, TensorProto.DOUBLE),
        (TensorProto.FLOAT, TensorProto.INT32),
    ],
)
def test_any_other_cast_rounds_and_is_refused_by_both_readers(tmp_path: Path, source: int, to: int) -> None:
    path = written(tmp_path / "net.onnx", [node("Cast", [], to=to)], {})
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.elem_type = source
    onnx.save(model, str(path))
    with pytest.raises(UnsupportedLayer, match=r"here.*float32 to float32 alone"):
        graph_in(path)
    with pytest.raises(UnsupportedLayer, match="float32 to float32 alone"):
        read_model(path, SPEC, (4, 4, 1))


def test_the_second_reader_refuses_to_divide_by_zero(tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", [node("Div", ["a"])], {"a": np.zeros(1, np.float32)})
    with pytest.raises(UnsupportedLayer, match="by 0"):
        read_model(path, SPEC, (4, 4, 1))


def test_a_constant_of_another_form_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Constant", [], ["a"], name="here", value_string="half"), node("Add", ["a"])]
    with pytest.raises(UnsupportedLayer, match="here"):
        graph_in(written(tmp_path / "net.onnx", nodes, {}))


def test_what_is_divided_by_zero_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", [node("Div", ["a"])], {"a": np.zeros(1, np.float32)})
    with pytest.raises(UnsupportedNumerics, match=r"here.*not finite"):
        graph_in(path)


def test_half_precision_in_a_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", [node("Add", ["a"])], {"a": np.ones(1, np.float16)})
    with pytest.raises(UnsupportedNumerics, match="FLOAT16"):
        graph_in(path)


@pytest.mark.parametrize(
    ("made", "tensors"),
    [
        (node("Relu", [], domain="mine"), {}),
        (node("LeakyRelu", [], alpha=2.0), {}),
        (node("LeakyRelu", [], alpha=-0.1), {}),
        (node("AveragePool", [], kernel_shape=[2, 2], auto_pad="SAME_UPPER"), {}),
        (node("AveragePool", [], kernel_shape=[2, 2], dilations=[2, 2]), {}),
        (node("MaxPool", [], kernel_shape=[2, 2], auto_pad="SAME_UPPER"), {}),
        (node("MaxPool", [], kernel_shape=[2, 2], ceil_mode=1), {}),
        (node("Reshape", ["to"]), {"to": np.array([-1, 8])}),
        (node("Dropout", ["rate", "train"]), {"rate": np.array(0.5, np.float32), "train": np.array(True)}),
        (node("Gemm", ["w"], transA=1), {"w": np.ones((16, 2), np.float32)}),
        (helper.make_node("MatMul", ["w", "x"], ["y"], name="here"), {"w": np.ones((2, 16), np.float32)}),
    ],
    ids=[
        "domain", "steep", "falling", "padded mean", "dilated mean", "padded maximum", "ceiling", "two rows", "dropout",
        "transposed", "constant first",
    ],
)  # fmt: skip
def test_the_second_reader_refuses_what_it_would_misread(
    tmp_path: Path, made: Any, tensors: dict[str, np.ndarray]
) -> None:
    with pytest.raises(UnsupportedLayer):
        read_model(written(tmp_path / "net.onnx", [made], tensors), SPEC, (4, 4, 1))


def test_the_second_reader_pools_and_transposes_as_onnxruntime_does(tmp_path: Path) -> None:
    import onnxruntime

    nodes = [
        helper.make_node("MaxPool", ["x"], ["a"], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 3, 1]),
        helper.make_node("Mul", ["b", "f"], ["c"]),
        helper.make_node("Sign", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    tensors = {"f": np.array([2.0, -1.0, 3.0], np.float32), "w": rng.normal(size=(24, 3)).astype(np.float32)}
    path = written(tmp_path / "net.onnx", nodes, tensors, shape=(3, 4, 4))
    spec = {**SPEC, "channels": "RGB", "mean": [0.5, 0.4, 0.3]}
    model = read_model(path, spec, (4, 4, 3))
    session = onnxruntime.InferenceSession(str(path))
    for _ in range(20):
        image = rng.random((4, 4, 3)).astype(np.float32)
        ready = (image - np.array([0.5, 0.4, 0.3], np.float32)).transpose(2, 0, 1)[None]
        theirs = session.run(None, {"x": ready})[0][0]
        assert model.values(image.astype(np.float64).ravel())[-1] == pytest.approx(theirs, abs=1e-5)
