"""Some rows of an operator as a sparse matrix, for programs that need a few entries of each layer and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from robustest.bounds.ops import Conv, Dense, Gather, LinearOp, Scale


def sparse_rows(op: LinearOp, rows: NDArray[np.int64]) -> Any:
    """(R, n_in) float64 CSR matrix of the rows named; the constant is left out."""
    size = (len(rows), op.n_in)
    if isinstance(op, Dense):
        return sparse.csr_matrix(op.weight[torch.from_numpy(rows)].numpy())
    if isinstance(op, Scale):
        return sparse.csr_matrix((op.factor.numpy()[rows], (np.arange(len(rows)), rows)), shape=size)
    if isinstance(op, Gather):
        source = op.index.numpy()[rows]
        taken = np.flatnonzero(source >= 0)
        return sparse.csr_matrix((np.ones(len(taken)), (taken, source[taken])), shape=size)
    if isinstance(op, Conv):
        return _conv_rows(op, rows, size)
    raise AssertionError(f"operators are of four kinds, not {type(op).__name__}")


def _conv_rows(op: Conv, rows: NDArray[np.int64], size: tuple[int, int]) -> Any:
    """Row by row the taps of the kernel that lie inside the map."""
    _, height, width = op.in_shape
    _, high, wide = op.out_shape
    weight = op.weight.numpy()
    count, per_group, tall, broad = weight.shape
    out, place = np.divmod(rows, high * wide)
    row = place // wide * op.stride[0] - op.pads[0]
    column = place % wide * op.stride[1] - op.pads[1]
    channel = (out // (count // op.groups) * per_group)[:, None] + np.arange(per_group)
    row = row[:, None] + np.arange(tall) * op.dilation[0]
    column = column[:, None] + np.arange(broad) * op.dilation[1]
    shape = (len(rows), per_group, tall, broad)
    entry = (channel[:, :, None, None] * height + row[:, None, :, None]) * width + column[:, None, None, :]
    inside = ((row >= 0) & (row < height))[:, None, :, None] & ((column >= 0) & (column < width))[:, None, None, :]
    inside = np.broadcast_to(inside, shape)
    owner = np.broadcast_to(np.arange(len(rows))[:, None, None, None], shape)
    return sparse.csr_matrix((weight[out][inside], (owner[inside], entry[inside])), shape=size)
