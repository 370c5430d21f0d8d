"""A convolution as a sparse matrix, for the program that rechecks certificates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from robustest.bounds.errors import UnsupportedLayer
from robustest.bounds.recheck_layers import Array


def windows(shape: tuple[int, ...], weight: Array, given: Mapping[str, Any]) -> tuple[Any, tuple[int, int, int]]:
    """A convolution on (C, H, W) as a sparse matrix, entry by entry of its kernel."""
    channels, height, width = shape
    count, per_group, rows, columns = weight.shape
    stride, dilation = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    groups = given.get("group", 1)
    high = (height + top + bottom - dilation[0] * (rows - 1) - 1) // stride[0] + 1
    wide = (width + left + right - dilation[1] * (columns - 1) - 1) // stride[1] + 1
    y, x = (t.ravel() for t in np.meshgrid(np.arange(high), np.arange(wide), indexing="ij"))
    first = np.arange(count) // (count // groups) * per_group
    channel = (first[:, None] + np.arange(per_group))[:, :, None]
    out = np.arange(count)[:, None, None]
    to, come, entries = [], [], []
    for i in range(rows):
        for j in range(columns):
            row, column = y * stride[0] - top + i * dilation[0], x * stride[1] - left + j * dilation[1]
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = (row * width + column)[inside]
            each = (count, per_group, len(place))
            to.append(np.broadcast_to(out * high * wide + (y * wide + x)[inside], each).ravel())
            come.append((channel * height * width + place).ravel())
            entries.append(np.broadcast_to(weight[:, :, i, j, None], each).ravel())
    size = (count * high * wide, channels * height * width)
    triple = (np.concatenate(entries), (np.concatenate(to), np.concatenate(come)))
    return sparse.csr_matrix(triple, shape=size), (count, high, wide)


def no_automatic_padding(given: Mapping[str, Any]) -> None:
    """Refuse padding that the runtime works out."""
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UnsupportedLayer("automatic padding is not known to the recheck.")
