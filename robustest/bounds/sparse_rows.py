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
        owner, entry, weight = (part.numpy() for part in op.taps(torch.from_numpy(rows)))
        return sparse.csr_matrix((weight, (owner, entry)), shape=size)
    raise AssertionError(f"operators are of four kinds, not {type(op).__name__}")
