"""Operator norms that are never too small: what a Lipschitz constant may be multiplied from.

* spectral norm of a matrix: an eigenvalue estimate that counts only once a Cholesky factorisation of
  `s^2 I - W W'` has succeeded with its rounding accounted for (Rump 2006, "Verification of positive definiteness");
* spectral norm of a convolution too large for that: Gram iteration on the kernel (Delattre et al. 2024,
  arXiv:2402.00240) with the rounding error carried along, stride dropped (which only raises the norm), groups by
  their maximum (never their product);
* norms from L1 to L1 and Linf to Linf: column and row sums.

Power iteration converges from below and is nowhere used as a bound.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor

from robustest.bounds.ops import Conv, Dense, Gather, LinearOp, Scale
from robustest.bounds.rounding import OUTWARD, U64, gamma

InducedNorm = Literal["l1", "l2", "linf"]

_DENSE_SIDE = 2048
_DENSE_ENTRIES = 8_000_000
_GRAM_STEPS = 5
_ROUND = 1 + 16 * U64


def operator_norm(op: LinearOp, norm: InducedNorm) -> float:
    """Upper bound of `max ||A x|| / ||x||`, both sides in `norm`."""
    if norm == "linf":
        rows = op.forward(torch.ones(1, op.n_in, dtype=torch.float64), absolute=True)
        return float(rows.max()) * OUTWARD
    if norm == "l1":
        columns = op.backward(torch.ones(1, op.n_out, dtype=torch.float64), absolute=True)
        return float(columns.max()) * OUTWARD
    if isinstance(op, Scale):
        return float(op.factor.abs().max()) * _ROUND
    if isinstance(op, Gather):
        times = torch.bincount(op.index[op.index >= 0], minlength=1)
        return math.sqrt(float(times.max())) * _ROUND
    if isinstance(op, Dense):
        return spectral_norm(op.weight)
    assert isinstance(op, Conv)
    if min(op.n_in, op.n_out) <= _DENSE_SIDE and op.n_in * op.n_out <= _DENSE_ENTRIES:
        return spectral_norm(op.backward(torch.eye(op.n_out, dtype=torch.float64)))
    return conv_spectral_norm(op.weight, op.groups)


def spectral_norm(matrix: Tensor) -> float:
    """Upper bound of the spectral norm of a matrix, to about nine digits, its rounding accounted for.

    Falls back to Gram iteration where a side of the matrix is too large to factorise.
    """
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    n, m = short.shape
    if n > 2 * _DENSE_SIDE:
        return _gram_norm(short)
    gram = short @ short.T
    gram = (gram + gram.T) / 2
    trace = float(short.square().sum()) * OUTWARD
    forming = gamma(m + 2, U64) * trace
    square = float(torch.linalg.eigvalsh(gram)[-1]) * (1 + 1e-9) + 2 * forming
    step = 1e-8
    while not positive_definite(square * torch.eye(n, dtype=torch.float64) - gram, 4 * U64 * square):
        square *= 1 + step
        step *= 2
    return math.sqrt(square + forming) * _ROUND


def positive_definite(matrix: Tensor, error: float = 0.0) -> bool:
    """Whether every symmetric matrix within `error` (in spectral norm) of this one is proved positive semidefinite.

    Rump (2006): if a floating-point Cholesky factorisation of `A - c I` ends, `A` is positive semidefinite for
    `c >= gamma / (1 - gamma) trace(A)` with `gamma = gamma_{n+1}`.
    """
    n = matrix.shape[0]
    rate = gamma(n + 1, U64)
    trace = float(matrix.diagonal().clamp_min(0).sum()) * OUTWARD
    shift = (rate / (1 - rate) * trace + error + 4 * U64 * float(matrix.diagonal().abs().max())) * _ROUND
    _, info = torch.linalg.cholesky_ex(matrix - shift * torch.eye(n, dtype=torch.float64))
    return int(info) == 0


def _gram_norm(matrix: Tensor) -> float:
    """Gram iteration on a matrix: `||A||^(2^t) <= ||(A A')^(2^(t-1))||_F`, errors carried along."""
    gram = matrix @ matrix.T
    error = gamma(matrix.shape[1] + 2, U64) * float(matrix.square().sum()) * OUTWARD
    scales: list[float] = []
    for _ in range(_GRAM_STEPS + 2):
        size = 2.0 ** math.ceil(math.log2(max(float(gram.norm()), 1e-300)))
        gram, error = gram / size, error / size
        scales.append(size)
        length = float(gram.norm()) * OUTWARD
        gram = gram @ gram.T
        error = (2 * length + error) * error + gamma(gram.shape[0] + 4, U64) * length * length
    value = float(gram.norm()) * OUTWARD + error
    for size in reversed(scales):
        value = math.sqrt(value) * size * _ROUND
    return math.sqrt(value) * _ROUND


def conv_spectral_norm(weight: Tensor, groups: int = 1) -> float:
    """Upper bound of the spectral norm of a convolution on maps of any size, with any zero padding and stride.

    Args:
        weight: (O, C / groups, kh, kw).
        groups: block diagonal, so the norm is the largest of the blocks'.
    """
    blocks = weight.reshape(groups, -1, *weight.shape[1:])
    unique = torch.unique(blocks.flatten(1), dim=0).reshape(-1, *blocks.shape[1:])
    return max(_conv_gram_norm(block) for block in unique)


def _conv_gram_norm(kernel: Tensor) -> float:
    def absolute_rows(k: Tensor) -> float:
        return float(k.abs().sum((1, 2, 3)).max()) * OUTWARD

    # The norm is invariant under transposition; the smaller Gram matrix is the cheaper one.
    kernel = kernel.transpose(0, 1) if kernel.shape[1] <= kernel.shape[0] else kernel.flip(2, 3)
    columns = float(kernel.abs().sum((0, 2, 3)).max()) * OUTWARD
    rows = absolute_rows(kernel)
    best = math.sqrt(rows * columns)
    terms = kernel.shape[1] * kernel.shape[2] * kernel.shape[3]
    gram = F.conv2d(kernel, kernel, padding=(kernel.shape[2] - 1, kernel.shape[3] - 1))
    error = gamma(terms + 2, U64) * rows * columns
    scales: list[float] = []
    for step in range(_GRAM_STEPS):
        value = absolute_rows(gram) + error
        for size in reversed(scales):
            value = math.sqrt(value) * size * _ROUND
        best = min(best, math.sqrt(value) * _ROUND)
        if step == _GRAM_STEPS - 1 or gram.numel() * gram.shape[0] * gram.shape[2] * gram.shape[3] > 5e8:
            break
        length = absolute_rows(gram)
        size = 2.0 ** math.ceil(math.log2(max(length, 1e-300)))
        gram, error, length = gram / size, error / size, length / size
        scales.append(size)
        terms = gram.shape[1] * gram.shape[2] * gram.shape[3]
        error = (2 * length + error) * error + gamma(terms + 2, U64) * length * length
        gram = F.conv2d(gram, gram, padding=(gram.shape[2] - 1, gram.shape[3] - 1))
    return best * _ROUND
