"""Reads a network from a torch module into a `BoundGraph`, by symbolic tracing; refuses what it does not know, by name.

`torch.fx` runs the module's own `forward` with stand-ins, so residual networks and functional calls are read as they
are executed. A module that branches on its values cannot be traced and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from robustest.bounds.builder import GraphBuilder
from robustest.bounds.errors import UnsupportedLayer
from robustest.bounds.graph import Activation
from robustest.bounds.graph_layers import average_pool, clip, global_average, max_pool

Value = Any
"""A `_Node`, a tensor, or a plain value."""


class _Node:
    """Marks an index of the builder, so that plain integers stay plain."""

    def __init__(self, index: int) -> None:
        self.index = index


def read_module(module: nn.Module, builder: GraphBuilder, entry: int) -> int:
    """Add a module to `builder`; `entry` is the node with its input. Returns the scores' node."""
    try:
        traced = fx.Tracer().trace(module)
    except Exception as error:  # a module's own forward runs here and may raise anything
        raise UnsupportedLayer(
            f"the module {type(module).__name__} cannot be traced ({error}); its forward must not branch on values."
        ) from error
    reader = _Reader(module, builder)
    values: dict[fx.Node, Value] = {}
    seen_input = False
    for node in traced.nodes:
        if node.op == "placeholder":
            if seen_input:
                raise UnsupportedLayer(f"the module takes more than one input ({node.name}).")
            seen_input, values[node] = True, _Node(entry)
        elif node.op == "get_attr":
            values[node] = _attribute(module, str(node.target))
        elif node.op == "output":
            result = values[node.args[0]] if isinstance(node.args[0], fx.Node) else None
            if not isinstance(result, _Node):
                raise UnsupportedLayer("the module must return one array of scores.")
            return result.index
        else:
            args = fx.map_arg(node.args, lambda n: values[n])
            kwargs = fx.map_arg(node.kwargs, lambda n: values[n])
            values[node] = reader.read(node, args, kwargs)
    raise AssertionError("a traced module has an output")


def _attribute(module: nn.Module, path: str) -> Value:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


class _Reader:
    """One module being read."""

    def __init__(self, module: nn.Module, builder: GraphBuilder) -> None:
        self.module = module
        self.builder = builder

    def read(self, node: fx.Node, args: Any, kwargs: Any) -> Value:
        """What one traced call gives."""
        if node.op == "call_module":
            part = self.module.get_submodule(str(node.target))
            return _Node(self._layer(part, f"{type(part).__name__} '{node.target}'", self._only(args, node)))
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        label = f"{name} '{node.name}'"
        if not any(isinstance(a, _Node) for a in _flat([*args, *kwargs.values()])):
            call: Any = getattr(args[0], name) if node.op == "call_method" else node.target
            return call(*(args[1:] if node.op == "call_method" else args), **kwargs)
        handler = _CALLS.get(str(name).strip("_"))
        if handler is None:
            raise self._unknown(label)
        found = handler(self, label, args, kwargs)
        return _Node(found) if isinstance(found, int) else found

    def _unknown(self, label: str) -> UnsupportedLayer:
        return UnsupportedLayer(
            f"layer {label} is not supported: no bound here covers it, and none is given for the rest. Supported: "
            "Linear, Conv2d, BatchNorm, pooling, ReLU, ReLU6, LeakyReLU, Sigmoid, Tanh, sign, Flatten, Dropout, Identity, "
            "ZeroPad2d, and sums of branches."
        )

    def _only(self, args: Any, node: fx.Node) -> int:
        if len(args) != 1 or not isinstance(args[0], _Node):
            raise self._unknown(f"'{node.target}'")
        return int(args[0].index)

    def _layer(self, part: nn.Module, label: str, x: int) -> int:
        build = self.builder
        if isinstance(part, nn.Linear):
            return build.dense(x, part.weight.detach(), None if part.bias is None else part.bias.detach(), label)
        if isinstance(part, nn.Conv2d):
            if part.padding_mode != "zeros":
                raise UnsupportedLayer(f"layer {label}: padding_mode {part.padding_mode!r}; it must be 'zeros'.")
            return self._conv(x, part, label)
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            return self._batch_norm(x, part, label)
        if isinstance(part, nn.ReLU):
            return build.activate(x, Activation("relu"), label)
        if isinstance(part, nn.LeakyReLU):
            return build.activate(x, Activation("relu", part.negative_slope), label)
        if isinstance(part, nn.ReLU6 | nn.Hardtanh):
            return clip(build, x, float(part.min_val), float(part.max_val), label)
        if isinstance(part, nn.Sigmoid | nn.Tanh):
            return build.activate(x, Activation("sigmoid" if isinstance(part, nn.Sigmoid) else "tanh"), label)
        if isinstance(part, nn.MaxPool2d):
            return self._max_pool(x, label, part.kernel_size, part.stride, part.padding, part.dilation, part.ceil_mode)
        if isinstance(part, nn.AvgPool2d):
            if part.divisor_override is not None:
                raise UnsupportedLayer(f"layer {label}: divisor_override is not supported.")
            return self._average_pool(
                x, label, part.kernel_size, part.stride, part.padding, part.ceil_mode, part.count_include_pad
            )
        if isinstance(part, nn.AdaptiveAvgPool2d):
            return self._adaptive(x, label, part.output_size)
        if isinstance(part, nn.Flatten):
            if part.start_dim not in (0, 1) or part.end_dim != -1:
                raise UnsupportedLayer(f"layer {label}: it must flatten all but the batch axis.")
            return build.reshape(x, (build.nodes[x].size,))
        if isinstance(part, nn.Unflatten):
            return build.reshape(x, tuple(int(d) for d in part.unflattened_size))
        if isinstance(part, nn.ZeroPad2d):
            left, right, top, bottom = part.padding
            return build.pad(x, (0, top, left), (0, bottom, right), 0.0, label)
        if isinstance(part, nn.Softmax):
            return self._softmax(x)
        if isinstance(part, nn.Identity | nn.Dropout | nn.Dropout2d):
            return x
        raise self._unknown(label)

    def _softmax(self, x: int) -> int:
        self.builder.end_in_softmax(x)
        return x

    def _conv(self, x: int, part: nn.Conv2d, label: str) -> int:
        stride, dilation = _pair(part.stride), _pair(part.dilation)
        if part.padding == "valid":
            pads = (0, 0, 0, 0)
        elif part.padding == "same":
            total = [d * (k - 1) for d, k in zip(dilation, part.weight.shape[2:], strict=True)]
            pads = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
        else:
            rows, columns = _pair(part.padding)
            pads = (rows, columns, rows, columns)
        bias = None if part.bias is None else part.bias.detach()
        weight = part.weight.detach()
        return self.builder.conv(
            x, weight, bias, label, stride=stride, pads=pads, dilation=dilation, groups=part.groups
        )

    def _batch_norm(self, x: int, part: nn.BatchNorm2d | nn.BatchNorm1d, label: str) -> int:
        if part.running_mean is None or part.running_var is None:
            raise UnsupportedLayer(f"layer {label} keeps no running statistics, so its output depends on the batch.")
        mean, variance = part.running_mean.double(), part.running_var.double()
        gain = torch.ones_like(mean) if part.weight is None else part.weight.detach().double()
        shift = torch.zeros_like(mean) if part.bias is None else part.bias.detach().double()
        factor = gain / (variance + part.eps).sqrt()
        trail = (-1,) + (1,) * (len(self.builder.shape(x)) - 1)
        mass = shift.abs() + (mean * factor).abs()
        constant = shift - mean * factor
        return self.builder.scale(x, factor.reshape(trail), constant.reshape(trail), label, mass.reshape(trail))

    def _max_pool(self, x: int, label: str, size: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> int:
        if _pair(dilation) != (1, 1) or ceil:
            raise UnsupportedLayer(f"layer {label}: dilation and ceil_mode are not supported.")
        rows, columns = _pair(padding)
        pads = (rows, columns, rows, columns)
        return max_pool(self.builder, x, _pair(size), _pair(stride or size), pads, label)

    def _average_pool(self, x: int, label: str, size: Any, stride: Any, padding: Any, ceil: bool, counted: bool) -> int:
        if ceil:
            raise UnsupportedLayer(f"layer {label}: ceil_mode is not supported.")
        rows, columns = _pair(padding)
        pads = (rows, columns, rows, columns)
        return average_pool(self.builder, x, _pair(size), _pair(stride or size), pads, label, counted=counted)

    def _adaptive(self, x: int, label: str, size: Any) -> int:
        shape = self.builder.shape(x)
        wanted = _pair(size) if not isinstance(size, int) else (size, size)
        if len(shape) != 3 or shape[1] % wanted[0] or shape[2] % wanted[1]:
            raise UnsupportedLayer(f"layer {label}: {shape} to {wanted}; the size must divide the map's.")
        window = (shape[1] // wanted[0], shape[2] // wanted[1])
        return average_pool(self.builder, x, window, window, (0, 0, 0, 0), label, counted=True)

    def on_add(self, label: str, args: Any, kwargs: Any, *, sign: float = 1.0) -> int:
        """Sum or difference of two branches, or of one and a constant."""
        if kwargs:
            raise self._unknown(f"{label} with {sorted(kwargs)}")
        first, second = args
        build = self.builder
        one = torch.ones(1, dtype=torch.float64)
        if isinstance(first, _Node) and isinstance(second, _Node):
            other = second.index
            if sign < 0:
                other = build.scale(other, -one, 0 * one, label)
            return build.add([first.index, other], label)
        if isinstance(first, _Node):
            return build.scale(first.index, one, sign * _constant(second), label)
        return build.scale(second.index, sign * one, _constant(first), label)

    def on_multiply(self, label: str, args: Any, kwargs: Any, *, divide: bool = False) -> int:
        """Product or quotient with a constant."""
        first, second = args[0], args[1]
        zero = torch.zeros(1, dtype=torch.float64)
        if isinstance(first, _Node) and isinstance(second, _Node):
            raise UnsupportedLayer(f"layer {label} multiplies two values that both depend on the image.")
        if isinstance(first, _Node):
            factor = _constant(second)
            return self.builder.scale(first.index, 1 / factor if divide else factor, zero, label)
        if divide:
            raise UnsupportedLayer(f"layer {label} divides by a value that depends on the image.")
        return self.builder.scale(second.index, _constant(first), zero, label)

    def on_flatten(self, label: str, args: Any, kwargs: Any) -> int:
        """All but the batch axis."""
        start = args[1] if len(args) > 1 else kwargs.get("start_dim", 0)
        if start != 1:
            raise UnsupportedLayer(f"layer {label}: it must flatten all but the batch axis (start_dim=1).")
        x = args[0].index
        return self.builder.reshape(x, (self.builder.nodes[x].size,))

    def on_reshape(self, label: str, args: Any, kwargs: Any) -> int:
        """view and reshape, the batch axis first."""
        x = args[0].index
        wanted = list(args[1]) if len(args) == 2 and isinstance(args[1], tuple | list) else list(args[1:])
        size = self.builder.nodes[x].size
        rest = [int(d) for d in wanted[1:] if isinstance(d, int)]
        if len(rest) == len(wanted) - 1 and rest:
            if -1 in rest:
                known = -int(torch.tensor(rest).prod())
                rest = [size // known if d == -1 else d for d in rest]
            if int(torch.tensor(rest).prod()) == size:
                return self.builder.reshape(x, tuple(rest))
        raise UnsupportedLayer(f"layer {label}: reshape to {wanted}; the batch axis must stay first.")

    def on_permute(self, label: str, args: Any, kwargs: Any) -> int:
        """Transposition that leaves the batch axis."""
        axes = list(args[1]) if len(args) == 2 else list(args[1:])
        if axes[0] != 0:
            raise UnsupportedLayer(f"layer {label} moves the batch axis.")
        return self.builder.permute(args[0].index, [a - 1 for a in axes[1:]], label)

    def on_mean(self, label: str, args: Any, kwargs: Any) -> int:
        """Mean over rows and columns."""
        axes = args[1] if len(args) > 1 else kwargs.get("dim")
        keep = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
        if axes is None or sorted(a % 4 for a in axes) != [2, 3]:
            raise UnsupportedLayer(f"layer {label}: a mean over axes {axes}; only over rows and columns (2, 3).")
        return global_average(self.builder, args[0].index, label, keep=bool(keep))

    def on_pad(self, label: str, args: Any, kwargs: Any) -> int:
        """Constant padding of the last axes."""
        mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
        value = args[3] if len(args) > 3 else kwargs.get("value", 0.0)
        if mode != "constant":
            raise UnsupportedLayer(f"layer {label}: mode {mode!r}; it must be 'constant'.")
        x, sides = args[0].index, list(args[1])
        rank = len(self.builder.shape(x))
        if len(sides) > 2 * rank:
            raise UnsupportedLayer(f"layer {label} pads the batch axis.")
        sides = sides + [0] * (2 * rank - len(sides))
        before, after = sides[0::2][::-1], sides[1::2][::-1]
        return self.builder.pad(x, before, after, float(value or 0.0), label)

    def on_cat(self, label: str, args: Any, kwargs: Any) -> int:
        """Joining branches along an axis that is not the batch's."""
        parts, axis = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
        if axis == 0 or not all(isinstance(p, _Node) for p in parts):
            raise UnsupportedLayer(f"layer {label}: only branches joined along another axis than the batch's.")
        rank = len(self.builder.shape(parts[0].index))
        axis = axis - 1 if axis > 0 else axis % (rank + 1) - 1
        total = sum(self.builder.shape(p.index)[axis] for p in parts)
        joined, done = [], 0
        for part in parts:
            length = self.builder.shape(part.index)[axis]
            before, after = [0] * rank, [0] * rank
            before[axis], after[axis] = done, total - done - length
            joined.append(self.builder.pad(part.index, before, after, 0.0, label))
            done += length
        return self.builder.add(joined, label, exact=True)

    def on_max_pool(self, label: str, args: Any, kwargs: Any) -> int:
        """F.max_pool2d."""
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        given = _settings(names, args[1:], kwargs, {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False})
        return self._max_pool(args[0].index, label, *given)

    def on_average_pool(self, label: str, args: Any, kwargs: Any) -> int:
        """F.avg_pool2d."""
        names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
        rest = {"stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True}
        return self._average_pool(args[0].index, label, *_settings(names, args[1:], kwargs, rest))

    def on_leaky(self, label: str, args: Any, kwargs: Any) -> int:
        """F.leaky_relu."""
        slope = args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01)
        return self.builder.activate(args[0].index, Activation("relu", float(slope)), label)

    def on_clamp(self, label: str, args: Any, kwargs: Any) -> int:
        """torch.clamp with numbers."""
        given = _settings(("min", "max"), args[1:], kwargs, {"min": None, "max": None})
        low, high = (float("inf") * s if v is None else float(v) for v, s in zip(given, (-1, 1), strict=True))
        return clip(self.builder, args[0].index, low, high, label)


def _settings(names: tuple[str, ...], args: Any, kwargs: Any, rest: dict[str, Any]) -> list[Any]:
    given = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
    return [given[n] if n in given else rest[n] for n in names]


def _constant(value: Any) -> Tensor:
    values = value.detach().double() if isinstance(value, Tensor) else torch.tensor([float(value)]).double()
    return values[0] if values.dim() == 4 else values


def _flat(values: Any) -> list[Any]:
    return [v for item in values for v in (_flat(item) if isinstance(item, tuple | list) else [item])]


def _activation(kind: Any) -> Callable[[_Reader, str, Any, Any], int]:
    return lambda reader, label, args, kwargs: reader.builder.activate(args[0].index, Activation(kind), label)


_CALLS: dict[str, Callable[[_Reader, str, Any, Any], Any]] = {
    "relu": _activation("relu"),
    "sigmoid": _activation("sigmoid"),
    "tanh": _activation("tanh"),
    "sign": _activation("sign"),
    "leaky_relu": _Reader.on_leaky,
    "relu6": lambda r, label, a, k: clip(r.builder, a[0].index, 0.0, 6.0, label),
    "clamp": _Reader.on_clamp,
    "add": _Reader.on_add,
    "iadd": _Reader.on_add,
    "sub": lambda r, label, a, k: r.on_add(label, a, k, sign=-1.0),
    "mul": _Reader.on_multiply,
    "truediv": lambda r, label, a, k: r.on_multiply(label, a, k, divide=True),
    "div": lambda r, label, a, k: r.on_multiply(label, a, k, divide=True),
    "flatten": _Reader.on_flatten,
    "view": _Reader.on_reshape,
    "reshape": _Reader.on_reshape,
    "permute": _Reader.on_permute,
    "mean": _Reader.on_mean,
    "pad": _Reader.on_pad,
    "cat": _Reader.on_cat,
    "max_pool2d": _Reader.on_max_pool,
    "avg_pool2d": _Reader.on_average_pool,
    "adaptive_avg_pool2d": lambda r, label, a, k: r._adaptive(a[0].index, label, a[1]),
    "softmax": lambda r, label, a, k: r._softmax(a[0].index),
    "dropout": lambda r, label, a, k: a[0],
    "contiguous": lambda r, label, a, k: a[0],
}
