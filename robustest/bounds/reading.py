"""From whatever a user has (an ONNX file, a torch module, a loaded classifier) to a `BoundGraph` that was checked.

The input spec's preprocessing becomes part of the graph, so that bounds speak of images (H, W, C) in [0, 1], which is
what distances are measured on. Every graph is compared with the model on random images before it is given out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from robustest.bounds.builder import GraphBuilder
from robustest.bounds.errors import UnsupportedLayer
from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import Scorer
from robustest.bounds.rounding import U32, U64
from robustest.classifiers.onnx_digest import model_digest
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSpec

if TYPE_CHECKING:
    from torch import nn

ImageShape = tuple[int, int, int]


def graph_of(source: Any, spec: InputSpec | None = None, *, image_shape: ImageShape | None = None) -> BoundGraph:
    """Read a network and check what was read.

    Args:
        source: path of an ONNX file, a torch module, or a classifier of `robustest.classifiers` made of one.
        spec: how the model wants its images; a classifier's own, or plain [0, 1] values, where None.
        image_shape: (H, W, C), needed for a torch module or where an ONNX file leaves it open.

    Raises:
        UnsupportedLayer: the network holds something that no bound here covers, or it cannot be looked into.
        GraphMismatch: what was read does not compute what the model computes.
    """
    from robustest.classifiers.onnx_file import OnnxClassifier
    from robustest.classifiers.torch_module import TorchClassifier

    if isinstance(source, OnnxClassifier):
        shape = image_shape or _whole_shape(source.info.image_shape, source.info.source)
        return read_file(source.path, source.info.spec, shape, source)
    if isinstance(source, TorchClassifier):
        if image_shape is None:
            raise InvalidSpec("image_shape must be given for a torch module: (H, W, C) of the images it takes.")
        return read_torch(source.module, source.info.spec, image_shape, source)
    if isinstance(source, str | Path):
        classifier = OnnxClassifier(source, spec)
        return graph_of(classifier, image_shape=image_shape)
    if isinstance(source, torch.nn.Module):
        if image_shape is None:
            raise InvalidSpec("image_shape must be given for a torch module: (H, W, C) of the images it takes.")
        wanted = spec or InputSpec("NCHW", "gray" if image_shape[2] == 1 else "RGB")
        return read_torch(source, wanted, image_shape)
    raise UnsupportedLayer(
        f"a {type(source).__name__} cannot be looked into, so nothing can be proved about it by its weights. "
        "Give the ONNX file or the torch module, or supply a Lipschitz constant."
    )


def scorer_of(source: Any, spec: InputSpec | None = None) -> Scorer:
    """What scores images (N, H, W, C) as float32: the classifier itself, or one made of a file or a module."""
    from robustest.classifiers.onnx_file import OnnxClassifier
    from robustest.classifiers.torch_module import TorchClassifier

    if isinstance(source, str | Path):
        return OnnxClassifier(source, spec)
    if isinstance(source, torch.nn.Module):
        return TorchClassifier(source, spec)
    scorer: Scorer = source
    return scorer


def _whole_shape(shape: tuple[int | None, ...], source: str) -> ImageShape:
    if any(side is None for side in shape):
        raise InvalidSpec(f"image_shape must be given for {source}: its file leaves it open ({shape}).")
    return int(shape[0] or 0), int(shape[1] or 0), int(shape[2] or 0)


def prepared(builder: GraphBuilder, spec: InputSpec) -> int:
    """The node with the model's own input: scaled, reordered and transposed as the spec says."""
    scale, mean, std = (torch.from_numpy(np.asarray(t, dtype=np.float64)) for t in spec.affine())
    height, width, channels = builder.input_shape
    node = builder.scale(0, 255.0 * scale / std, -mean / std, "input spec", single=True)
    if spec.channels == "BGR":
        index = torch.arange(height * width * channels).reshape(height, width, channels).flip(-1)
        node = builder.gather(node, index, builder.input_shape, "BGR")
    if spec.layout == "NCHW":
        node = builder.permute(node, (2, 0, 1), "NCHW")
    return node


def read_file(path: Path, spec: InputSpec | None, shape: ImageShape, scores: Scorer) -> BoundGraph:
    """The network of an ONNX file, checked against `scores`; without a spec its input is the image as it is."""
    from robustest.bounds.graph_onnx import read_onnx

    builder = GraphBuilder(shape)
    output = read_onnx(path, builder, 0 if spec is None else prepared(builder, spec))
    graph = builder.build(output, unit=U32, digest=model_digest(path))
    _check(graph, scores)
    return graph


def read_torch(module: nn.Module, spec: InputSpec, shape: ImageShape, scores: Scorer | None = None) -> BoundGraph:
    """The network of a torch module, checked against `scores` or the module itself."""
    from robustest.bounds.arithmetic import arithmetic_of, module_digest
    from robustest.bounds.graph_torch import read_module

    kind = arithmetic_of(module)
    builder = GraphBuilder(shape)
    output = read_module(module, builder, prepared(builder, spec))
    unit = U32 if kind == torch.float32 else U64
    graph = builder.build(output, unit=unit, digest=module_digest(module))
    device = next((p.device for p in module.parameters()), torch.device("cpu"))

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            ready = torch.from_numpy(spec.prepare(images)).to(device=device, dtype=kind)
            return np.asarray(module(ready).cpu().numpy())

    _check(graph, scores or run)
    return graph


def _check(graph: BoundGraph, scores: Scorer) -> None:
    """Compare a graph with the model that it was read from.

    Raises:
        UnsupportedLayer: it gives one number an image.
    """
    if graph.n_classes < 2:
        raise UnsupportedLayer(
            "the network gives one number an image; proofs need a score for each class. Export it with two, [0, z] of its logit z, "
            "without a last Sigmoid."
        )
    if graph.jumps is None:
        graph.check_against(scores)
        return
    from robustest.bounds.sign_check import check_signs

    check_signs(graph, scores)
