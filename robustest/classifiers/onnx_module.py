"""An ONNX file as a torch module, so that gradients can be taken of it.

Covers the operators that exported image classifiers are made of; any other is refused by name. Layers with weights are
torch's own (`Conv2d`, `Linear`, `BatchNorm2d`), so that hooks find them. A Softmax at the end is dropped: the module
gives logits. Departure from the file: none beyond rounding, and whoever uses the module compares the two first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from robustest.classifiers.onnx_operators import OPERATORS
from robustest.errors import EnvironmentFailure, MissingExtra, ModelError

Value = Tensor | NDArray[Any] | None


class UnsupportedOperator(EnvironmentFailure):
    """An ONNX operator that gradients cannot be taken of here."""


class _Step:
    """One node: where its inputs and outputs are, and the function that computes them: of several outputs a tuple."""

    def __init__(self, inputs: list[str], outputs: list[str], function: Callable[..., Any]) -> None:
        self.inputs, self.outputs, self.function = inputs, outputs, function

    def run(self, *arguments: Any) -> dict[str, Any]:
        """The outputs by name."""
        result = self.function(*arguments)
        return dict(zip(self.outputs, result if len(self.outputs) > 1 else [result], strict=True))


class OnnxModule(nn.Module):
    """The network of an ONNX file, in eval mode, float32.

    Args:
        path: the file.

    Attributes:
        softmax: whether a Softmax at the end was dropped.

    Raises:
        UnsupportedOperator: an operator that is not known here. ModelError: the file cannot be read.
        MissingExtra: the package onnx is not installed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        onnx = _onnx()
        try:
            model = onnx.load(str(path))
        except Exception as error:  # onnx raises protobuf's own types, which vary with its version
            raise ModelError(f"model {path.name} cannot be read as ONNX: {error}.") from error
        self._constants: dict[str, NDArray[Any]] = {
            t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer
        }
        (self._input,) = [i.name for i in model.graph.input if i.name not in self._constants]
        self._output = model.graph.output[0].name
        self._layers = nn.ModuleList()
        self._steps: list[_Step] = []
        self.softmax = False
        for node in model.graph.node:
            self._add(node, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}, onnx)
        for tensor in self.parameters():
            tensor.requires_grad_(False)
        self._tensors = {
            name: torch.from_numpy(array.copy()) for name, array in self._constants.items() if array.dtype == np.float32
        }
        self.eval()

    def forward(self, batch: Tensor) -> Tensor:
        """Logits (N, K) of a batch in the file's own layout and values."""
        values: dict[str, Any] = {**self._constants, self._input: batch, "": None}
        for step in self._steps:
            arguments = [values[name] for name in step.inputs]
            if any(isinstance(value, Tensor) for value in arguments):
                arguments = [
                    self._tensors.get(name, value) if isinstance(value, np.ndarray) else value
                    for name, value in zip(step.inputs, arguments, strict=True)
                ]
            values |= step.run(*arguments)
        result: Tensor = values[self._output]
        return result.flatten(1)

    def _add(self, node: Any, attributes: dict[str, Any], onnx: Any) -> None:
        kind, inputs, output = node.op_type, list(node.input), node.output[0]
        if kind == "Constant":
            self._constants[output] = onnx.numpy_helper.to_array(attributes["value"])
            return
        if kind == "Softmax" and output == self._output:
            self._output, self.softmax = inputs[0], True
            return
        if kind in ("Dropout", "Identity"):
            function: Callable[..., Any] = _first
            inputs = inputs[:1]
        elif (layer := self._layer(kind, inputs, attributes)) is not None:
            self._layers.append(layer)
            function, inputs = layer, inputs[:1]
        elif kind in OPERATORS:
            function = _bound(OPERATORS[kind], {"outputs": len(node.output), **attributes})
        else:
            raise UnsupportedOperator(f"gradients: the ONNX operator {kind!r} is not known here.")
        # What else a node may give (a dropout's mask, a layer norm's mean) is for training.
        step = _Step(inputs, list(node.output) if kind == "Split" else [output], function)
        if all(name in self._constants for name in inputs):
            outcome = step.run(*(self._constants[name] for name in inputs))
            self._constants |= {name: np.asarray(value) for name, value in outcome.items()}
            return
        self._steps.append(step)

    def _layer(self, kind: str, inputs: list[str], attributes: dict[str, Any]) -> nn.Module | None:
        """A torch layer for a node whose weights are constants, or None."""
        if any(name and name not in self._constants for name in inputs[1:]) or inputs[0] in self._constants:
            return None
        arrays = [self._constants[name] if name else None for name in inputs[1:]]
        if kind == "Conv" and arrays[0] is not None and arrays[0].ndim == 4:
            return _conv(arrays[0], arrays[1] if len(arrays) > 1 else None, attributes)
        if kind == "Gemm" and arrays[0] is not None and attributes.get("transA", 0) == 0:
            weights = arrays[0] if attributes.get("transB", 0) else arrays[0].T
            bias = arrays[1] if len(arrays) > 1 else None
            bias = None if bias is None else bias * np.float32(attributes.get("beta", 1.0))
            return _linear(weights * np.float32(attributes.get("alpha", 1.0)), bias)
        if kind == "MatMul" and arrays[0] is not None and arrays[0].ndim == 2:
            return _linear(arrays[0].T, None)
        if kind == "BatchNormalization":
            return _batch_norm(*(a for a in arrays if a is not None), epsilon=attributes.get("epsilon", 1e-5))
        return nn.ReLU() if kind == "Relu" else None


def _onnx() -> Any:
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise MissingExtra("onnx", "compare", "taking gradients of an ONNX file") from error
    return onnx


def _first(value: Value) -> Value:
    return value


def _bound(operator: Callable[..., Any], attributes: dict[str, Any]) -> Callable[..., Any]:
    def function(*arguments: Value) -> Any:
        return operator(attributes, *arguments)

    return function


def _parameter(array: NDArray[Any]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.array(array, np.float32)), requires_grad=False)


class _PaddedConv(nn.Conv2d):
    """A convolution whose padding may differ from side to side."""

    margins: tuple[int, int, int, int] = (0, 0, 0, 0)

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(functional.pad(batch, self.margins) if any(self.margins) else batch)


def _conv(weights: NDArray[Any], bias: NDArray[Any] | None, attributes: dict[str, Any]) -> nn.Module:
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UnsupportedOperator(
            f"gradients: Conv with auto_pad {attributes['auto_pad'].decode()!r} is not known here."
        )
    groups = attributes.get("group", 1)
    layer = _PaddedConv(
        weights.shape[1] * groups,
        weights.shape[0],
        weights.shape[2:],
        stride=tuple(attributes.get("strides", (1, 1))),
        dilation=tuple(attributes.get("dilations", (1, 1))),
        groups=groups,
        bias=bias is not None,
    )
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    layer.margins = (left, right, top, bottom)
    layer.weight = _parameter(weights)
    if bias is not None:
        layer.bias = _parameter(bias)
    return layer


def _linear(weights: NDArray[Any], bias: NDArray[Any] | None) -> nn.Module:
    layer = nn.Linear(weights.shape[1], weights.shape[0], bias=bias is not None)
    layer.weight = _parameter(weights)
    if bias is not None:
        layer.bias = _parameter(np.broadcast_to(bias.reshape(-1), (len(weights),)))
    return layer


def _batch_norm(
    scale: NDArray[Any], shift: NDArray[Any], mean: NDArray[Any], variance: NDArray[Any], *, epsilon: float
) -> nn.Module:
    layer = _BatchNorm(len(scale), eps=epsilon)
    layer.weight, layer.bias = _parameter(scale), _parameter(shift)
    layer.running_mean = torch.from_numpy(np.array(mean, np.float32))
    layer.running_var = torch.from_numpy(np.array(variance, np.float32))
    return layer


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of an input of any rank; its statistics are fixed."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any rank will do."""
