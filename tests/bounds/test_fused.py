"""Layers that a runtime runs as one: a BatchNorm folded into weights, a residual added inside a convolution's sum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from robustest.bounds.graph import BoundGraph
from robustest.bounds.ops import Conv, Scale
from robustest.bounds.reading import read_file
from robustest.bounds.recheck_bounds import rounding
from robustest.bounds.recheck_model import read_model
from robustest.bounds.rounding import U32, gamma
from robustest.classifiers.spec import InputSpec

from .onnx_nets import OnnxWriter

SHAPE = (6, 6, 3)


def written(folder: Path, *, mean: float = 0.0) -> Path:
    """Conv - BatchNorm with a large mean that cancels - ReLU - Conv - Add - ReLU - Gemm, on (3, 6, 6)."""
    rng = np.random.default_rng(0)
    net = OnnxWriter((3, 6, 6))
    net.conv(rng.normal(size=(8, 3, 3, 3)), rng.normal(size=8), stride=1, pad=1)
    gain, spread = rng.uniform(0.5, 2, 8), rng.uniform(0.5, 2, 8)
    shift = mean * gain / np.sqrt(spread + 1e-5)
    net.add("BatchNormalization", *(net._tensor(v) for v in (gain, shift, np.full(8, mean), spread)))
    before = net.add("Relu")
    net.conv(0.1 * rng.normal(size=(8, 8, 3, 3)), rng.normal(size=8), stride=1, pad=1)
    net.add("Add", before)
    net.add("Relu")
    net.add("Flatten", shape=(288,))
    net.dense(rng.normal(size=(3, 288)) / 17, rng.normal(size=3))
    return net.save(folder / "fused.onnx")


def session_of(path: Path, *, fuse: bool, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED if fuse else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def graph_of_file(path: Path) -> BoundGraph:
    session = session_of(path, fuse=True)

    def scores(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"image": images.transpose(0, 3, 1, 2)})[0])

    return read_file(path, InputSpec("NCHW", "RGB"), SHAPE, scores)


@pytest.mark.parametrize("mean", [0.0, 3.0, 1e4])
def test_scores_of_a_fused_run_lie_within_the_charged_rounding(tmp_path: Path, mean: float) -> None:
    path = written(tmp_path, mean=mean)
    graph = graph_of_file(path)
    images = np.random.default_rng(1).random((64, *SHAPE)).astype(np.float32)
    exact = graph.forward(torch.from_numpy(images)).numpy()
    allowed = graph.execution_error(torch.from_numpy(images)).numpy()
    for fuse in (True, False):
        executed = session_of(path, fuse=fuse).run(None, {"image": images.transpose(0, 3, 1, 2)})[0]
        assert (np.abs(executed.astype(np.float64) - exact) <= allowed).all()


def test_the_runtime_does_fuse_what_the_charge_is_for(tmp_path: Path) -> None:
    session_of(written(tmp_path), fuse=True, optimised=tmp_path / "after.onnx")
    left = [node.op_type for node in onnx.load(tmp_path / "after.onnx").graph.node]
    assert "BatchNormalization" not in left


def test_a_folded_constant_is_charged_with_the_whole_sum_in_both_programs(tmp_path: Path) -> None:
    """A sum of n + 2 terms errs by gamma(n + 2) of each of its terms' sizes, the folded constant's too."""
    path = written(tmp_path, mean=1e4)
    graph = graph_of_file(path)
    terms = next(n.op.terms for n in graph.nodes if isinstance(n.op, Conv))
    scale = next(i for i, n in enumerate(graph.nodes) if isinstance(n.op, Scale) and "Batch" in n.name)
    assert graph.error_rate(scale, unit=U32)[0] >= gamma(terms + 8, U32)
    merged = next(i for i, n in enumerate(graph.nodes) if n.kind == "add")
    assert graph.error_rate(merged, unit=U32)[0] >= gamma(terms + 2, U32)
    spec = {"layout": "NCHW", "channels": "RGB", "scale": 1 / 255, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    model = read_model(path, spec, SHAPE)
    layer = next(x for x in model.layers if len(x.mass))
    reach = np.zeros(layer.size)
    assert (rounding(layer, [reach]) >= gamma(terms + 8, U32) * layer.mass).all()
