"""Layers written as affine operators, ReLUs and sums: pooling, clipping, and the mean over a map.

`max(a, b) = b + relu(a - b)`, first along rows, then along columns; `clip(x, l, h) = l + relu(x - l) - relu(x - h)`.
Both are exact rewritings: the executed layer compares and rounds nothing, so no rounding is charged for them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustest.bounds.builder import GraphBuilder
from robustest.bounds.errors import UnsupportedLayer
from robustest.bounds.graph import Activation

Pads = tuple[int, int, int, int]


def max_pool(
    builder: GraphBuilder, parent: int, size: tuple[int, int], stride: tuple[int, int], pads: Pads, name: str
) -> int:
    """Largest value of each window; pads are top, left, bottom, right."""
    shape = builder.shape(parent)
    if len(shape) != 3:
        raise UnsupportedLayer(f"layer {name}: pooling of an array of shape {shape}; only of (C, H, W).")
    if any(pads):
        if pads[0] >= size[0] or pads[2] >= size[0] or pads[1] >= size[1] or pads[3] >= size[1]:
            raise UnsupportedLayer(f"layer {name}: padding {pads} as large as the window {size}.")
        # The nearest row and column of the map lie in every window that reaches out of it: the maximum is the same.
        index = torch.arange(math.prod(shape)).reshape(shape)
        rows = torch.arange(-pads[0], shape[1] + pads[2]).clamp(0, shape[1] - 1)
        columns = torch.arange(-pads[1], shape[2] + pads[3]).clamp(0, shape[2] - 1)
        picked = index[:, rows][:, :, columns]
        parent = builder.gather(parent, picked, tuple(picked.shape), name)
    high, wide = builder.shape(parent)[1:]
    out = ((high - size[0]) // stride[0] + 1, (wide - size[1]) // stride[1] + 1)
    down = _max_along(builder, parent, axis=0, size=size[0], stride=stride[0], count=out[0], name=name)
    return _max_along(builder, down, axis=1, size=size[1], stride=stride[1], count=out[1], name=name)


def _max_along(builder: GraphBuilder, parent: int, *, axis: int, size: int, stride: int, count: int, name: str) -> int:
    """Maximum over `size` neighbours on one axis, at `count` places `stride` apart."""
    step = (stride, 1) if axis == 0 else (1, stride)

    def place(taps: list[tuple[int, float]]) -> int:
        """A depthwise convolution that reads the given offsets, cropped to `count` places."""
        channels, high, wide = builder.shape(parent)
        reach = max(offset for offset, _ in taps) + 1
        kernel = torch.zeros(channels, 1, *((reach, 1) if axis == 0 else (1, reach)), dtype=torch.float64)
        for offset, value in taps:
            kernel[(slice(None), 0, offset, 0) if axis == 0 else (slice(None), 0, 0, offset)] = value
        extent = high if axis == 0 else wide
        crop = (count - 1) * stride + reach - extent
        pads = (0, 0, crop, 0) if axis == 0 else (0, 0, 0, crop)
        return builder.conv(parent, kernel, None, name, stride=step, pads=pads, groups=channels, exact=True)

    if size == 1:
        return parent if stride == 1 else place([(0, 1.0)])
    rest = place([(0, 1.0)])
    best = rest
    for offset in range(1, size):
        if offset == 1:
            gap = place([(0, -1.0), (1, 1.0)])
        else:
            candidate = place([(offset, 1.0)])
            minus = builder.conv(best, -_identity(builder, best), None, name, groups=builder.shape(best)[0], exact=True)
            gap = builder.add([candidate, minus], name, exact=True)
        rise = builder.activate(gap, Activation("relu"), name)
        best = builder.add([best, rise], name, exact=True)
    return best


def _identity(builder: GraphBuilder, node: int) -> Tensor:
    return torch.ones(builder.shape(node)[0], 1, 1, 1, dtype=torch.float64)


def average_pool(
    builder: GraphBuilder,
    parent: int,
    size: tuple[int, int],
    stride: tuple[int, int],
    pads: Pads,
    name: str,
    *,
    counted: bool,
) -> int:
    """Mean of each window; `counted` says whether padding counts in the divisor."""
    shape = builder.shape(parent)
    if len(shape) != 3:
        raise UnsupportedLayer(f"layer {name}: pooling of an array of shape {shape}; only of (C, H, W).")
    kernel = torch.full((shape[0], 1, *size), 1.0 / (size[0] * size[1]), dtype=torch.float64)
    pooled = builder.conv(parent, kernel, None, name, stride=stride, pads=pads, groups=shape[0])
    if counted or not any(pads):
        return pooled
    ones = torch.nn.functional.pad(torch.ones(1, 1, *shape[1:]).double(), (pads[1], pads[3], pads[0], pads[2]))
    share = torch.nn.functional.conv2d(ones, kernel[:1], None, stride)[0]
    return builder.scale(pooled, 1.0 / share, torch.zeros(1), name)


def global_average(builder: GraphBuilder, parent: int, name: str, *, keep: bool) -> int:
    """Mean over rows and columns; (C, 1, 1) or (C,)."""
    shape = builder.shape(parent)
    if len(shape) != 3:
        raise UnsupportedLayer(f"layer {name}: the mean of an array of shape {shape}; only of (C, H, W).")
    mean = average_pool(builder, parent, (shape[1], shape[2]), (1, 1), (0, 0, 0, 0), name, counted=True)
    return mean if keep else builder.reshape(mean, (shape[0],))


def clip(builder: GraphBuilder, parent: int, low: float, high: float, name: str) -> int:
    """Values cut to [low, high]."""
    if not low < high:
        raise UnsupportedLayer(f"layer {name} clips to [{low}, {high}].")
    one = torch.ones(1, dtype=torch.float64)

    def above(limit: float) -> int:
        shifted = parent if limit == 0 else builder.scale(parent, one, -limit * one, name)
        return builder.activate(shifted, Activation("relu"), name)

    if math.isinf(low) and math.isinf(high):
        return parent
    if math.isinf(low):
        minus = builder.scale(above(high), -one, 0 * one, name)
        return builder.add([parent, minus], name)
    rise = above(low)
    result = rise if low == 0 else builder.scale(rise, one, low * one, name)
    if math.isinf(high):
        return result
    return builder.add([result, builder.scale(above(high), -one, 0 * one, name)], name)
