"""Tiny classifiers with known answers, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def linear_scores(weights: NDArray[np.float32], bias: NDArray[np.float32]) -> object:
    """A callable on NHWC in [0, 1]: scores images.reshape(N, -1) @ weights + bias."""

    def linear(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return (images.reshape(len(images), -1) @ weights + bias).astype(np.float32)

    return linear


def write_linear_onnx(
    path: Path,
    weights: NDArray[np.float32],
    bias: NDArray[np.float32],
    *,
    shape: tuple[object, ...],
    softmax: bool = False,
) -> Path:
    """An ONNX file with input `shape` (first axis the batch) that is flattened, multiplied by weights (D, K), added to bias."""
    last = "probabilities" if softmax else "logits"
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w", "b"], ["gemm" if softmax else last]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["gemm"], [last], axis=1))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [shape[0], len(bias)])],
        [
            numpy_helper.from_array(weights.astype(np.float32), "w"),
            numpy_helper.from_array(bias.astype(np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path
