"""Linear operators on flattened arrays, in float64: what every affine layer of a network is made of.

Each operator maps (N, n_in) to (N, n_out), knows its transpose and both with absolute weights, and how many terms
it adds up for one output (which is what bounds its rounding). Convolution covers stride, padding on each side,
dilation and groups, and average pooling; `Scale` covers normalisation and BatchNorm; `Gather` covers transposition,
slices and padding with a constant. Knows nothing of networks or regions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor

from robustest.bounds.transposed import suits, transposed

Shape = tuple[int, ...]


class LinearOp(ABC):
    """An affine map `x -> A x + constant`.

    in_shape, out_shape: without the batch axis.
    constant: (n_out,) float64.
    terms: most summands of one output, the constant among them.
    """

    in_shape: Shape
    out_shape: Shape
    constant: Tensor
    terms: int

    @property
    def n_in(self) -> int:
        """Length of a flattened input."""
        return prod(self.in_shape)

    @property
    def n_out(self) -> int:
        """Length of a flattened output."""
        return prod(self.out_shape)

    @abstractmethod
    def forward(self, x: Tensor, *, absolute: bool = False) -> Tensor:
        """(N, n_in) to (N, n_out): `A x`, or `|A| x`; the constant is left out."""

    @abstractmethod
    def backward(self, rows: Tensor, *, absolute: bool = False) -> Tensor:
        """(N, n_out) to (N, n_in): `rows A`, or `rows |A|`."""

    def magnitude(self, reach: Tensor) -> Tensor:
        """(N, n_out) of `|A| reach + |constant|`: what its rounding is relative to."""
        return self.forward(reach, absolute=True) + self.constant.abs()

    def live_terms(self, reach: Tensor) -> Tensor:
        """(N, n_out) or (N, 1): most summands of an output that can differ from 0 (its constant among them).

        Args:
            reach: (N, n_in) bound on the absolute values of the inputs; an input of reach 0 adds nothing, exactly.
        """
        return torch.full((len(reach), 1), float(self.terms), dtype=torch.float64)

    @cached_property
    def is_finite(self) -> bool:
        """Whether every stored number is finite."""
        return bool(torch.isfinite(self.constant).all())

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The numbers that it multiplies by and adds."""
        return (self.constant,)

    @cached_property
    def is_whole(self) -> bool:
        """Whether all of those are whole numbers."""
        return all(bool((t == t.round()).all()) for t in self.stored)


class _Weighted(LinearOp):
    """A matrix or a convolution: each output is a sum of inputs times weights."""

    weight: Tensor

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """See `LinearOp`."""
        return self.weight, self.constant

    @cached_property
    def _absolute(self) -> Tensor:
        return self.weight.abs()

    @cached_property
    def is_finite(self) -> bool:
        """Whether every stored number is finite."""
        return bool(torch.isfinite(self.weight).all() and torch.isfinite(self.constant).all())


@dataclass(frozen=True, eq=False)
class Dense(_Weighted):
    """A matrix.

    weight: (n_out, n_in).
    """

    weight: Tensor
    constant: Tensor
    in_shape: Shape
    out_shape: Shape
    terms: int = field(init=False)

    def __post_init__(self) -> None:
        """Count the summands."""
        object.__setattr__(self, "terms", self.weight.shape[1] + 1)

    def forward(self, x: Tensor, *, absolute: bool = False) -> Tensor:
        """See `LinearOp`."""
        return x @ (self._absolute if absolute else self.weight).T

    def backward(self, rows: Tensor, *, absolute: bool = False) -> Tensor:
        """See `LinearOp`."""
        return rows @ (self._absolute if absolute else self.weight)

    def live_terms(self, reach: Tensor) -> Tensor:
        """See `LinearOp`."""
        return (reach > 0).sum(1, keepdim=True).to(torch.float64) + 1


@dataclass(frozen=True, eq=False)
class Conv(_Weighted):
    """A convolution in two dimensions on (C, H, W) arrays.

    weight: (O, C / groups, kh, kw).
    stride, dilation: rows, columns.
    pads: top, left, bottom, right, zeros.
    """

    weight: Tensor
    bias: Tensor
    in_shape: Shape
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    out_shape: Shape = field(init=False)
    constant: Tensor = field(init=False)
    terms: int = field(init=False)

    def __post_init__(self) -> None:
        """Work out the output's shape."""
        top, left, bottom, right = self.pads
        high = (self.in_shape[1] + top + bottom - self.span[0]) // self.stride[0] + 1
        wide = (self.in_shape[2] + left + right - self.span[1]) // self.stride[1] + 1
        object.__setattr__(self, "out_shape", (self.weight.shape[0], high, wide))
        object.__setattr__(self, "constant", self.bias[:, None, None].expand(self.out_shape).flatten())
        object.__setattr__(self, "terms", self.weight[0].numel() + 1)

    @property
    def span(self) -> tuple[int, int]:
        """Rows and columns that the dilated kernel covers."""
        return (
            (self.weight.shape[2] - 1) * self.dilation[0] + 1,
            (self.weight.shape[3] - 1) * self.dilation[1] + 1,
        )

    def below(self, high: int, wide: int) -> tuple[int, int]:
        """Rows and columns of padded input that a window of the output, `high` by `wide`, reads."""
        return (high - 1) * self.stride[0] + self.span[0], (wide - 1) * self.stride[1] + self.span[1]

    @cached_property
    def _matrix(self) -> tuple[Tensor, Tensor] | None:
        """The operator and its absolute value as (n_out, n_in) matrices, where products with those are faster."""
        if self.n_in > 4 * self.terms and self.n_in * self.n_out > 40_000:
            return None
        rows = torch.eye(self.n_out, dtype=torch.float64)
        dense = self._transpose(rows, self.weight)
        return dense, dense.abs()

    def forward(self, x: Tensor, *, absolute: bool = False) -> Tensor:
        """See `LinearOp`."""
        if self._matrix is not None:
            return x @ self._matrix[absolute].T
        top, left, bottom, right = self.pads
        maps = x.reshape(-1, *self.in_shape)
        weight = self._absolute if absolute else self.weight
        if top == bottom and left == right:
            out = F.conv2d(maps, weight, None, self.stride, (top, left), self.dilation, self.groups)
        else:
            padded = F.pad(maps, (left, right, top, bottom))
            out = F.conv2d(padded, weight, None, self.stride, 0, self.dilation, self.groups)
        return out.flatten(1)

    def backward(self, rows: Tensor, *, absolute: bool = False) -> Tensor:
        """See `LinearOp`."""
        if self._matrix is not None:
            return rows @ self._matrix[absolute]
        return self._transpose(rows, self._absolute if absolute else self.weight)

    def live_terms(self, reach: Tensor) -> Tensor:
        """See `LinearOp`."""
        groups, (outputs, _, tall, broad) = self.groups, self.weight.shape
        live = (reach > 0).to(torch.float64).reshape(len(reach) * groups, -1, *self.in_shape[1:]).sum(1, keepdim=True)
        top, left, bottom, right = self.pads
        ones = torch.ones(1, 1, tall, broad, dtype=torch.float64)
        count = F.conv2d(F.pad(live, (left, right, top, bottom)), ones, None, self.stride, 0, self.dilation)
        count = count.reshape(len(reach), groups, 1, -1).expand(-1, -1, outputs // groups, -1)
        return count.reshape(len(reach), -1) + 1

    def _transpose(self, rows: Tensor, weight: Tensor) -> Tensor:
        full = self._transposed(rows.reshape(-1, *self.out_shape), weight)
        top, left = self.pads[:2]
        bottom, right = top + self.in_shape[1], left + self.in_shape[2]
        # Rows and columns that no window reaches have no coefficient.
        full = F.pad(full, (0, max(0, right - full.shape[3]), 0, max(0, bottom - full.shape[2])))
        return full[:, :, top:bottom, left:right].flatten(1)

    @cached_property
    def _window_matrices(self) -> dict[tuple[int, int], Tensor | None]:
        return {}

    def _window_matrix(self, high: int, wide: int) -> Tensor | None:
        """(O h w, C h' w') for a window, where products with it are faster than a transposed convolution."""
        if (high, wide) not in self._window_matrices:
            below = self.below(high, wide)
            waste = below[0] * below[1] * self.groups / (self.weight.shape[2] * self.weight.shape[3])
            count = self.weight.shape[0] * high * wide
            matrix = None
            if waste <= 16 and count * self.in_shape[0] * below[0] * below[1] <= 6_000_000:
                rows = torch.eye(count, dtype=torch.float64).reshape(count, -1, high, wide)
                matrix = self._transposed(rows, self.weight).flatten(1)
            self._window_matrices[high, wide] = matrix
        return self._window_matrices[high, wide]

    def taps(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What some rows (R,) of the operator read: which of the rows, which input, and its weight, (T,) each, row by row."""
        _, height, width = self.in_shape
        _, high, wide = self.out_shape
        per_group, tall, broad = self.weight.shape[1:]
        out = rows // (high * wide)
        top = rows // wide % high * self.stride[0] - self.pads[0]
        left = rows % wide * self.stride[1] - self.pads[1]
        channel = (out // (self.weight.shape[0] // self.groups) * per_group)[:, None] + torch.arange(per_group)
        row = top[:, None] + torch.arange(tall) * self.dilation[0]
        column = left[:, None] + torch.arange(broad) * self.dilation[1]
        entry = (channel[:, :, None, None] * height + row[:, None, :, None]) * width + column[:, None, None, :]
        inside = ((row >= 0) & (row < height))[:, None, :, None] & ((column >= 0) & (column < width))[:, None, None, :]
        inside = inside.expand_as(entry)
        owner = torch.arange(len(rows))[:, None, None, None].expand_as(entry)
        return owner[inside], entry[inside], self.weight[out][inside]

    def rows_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Some rows (R,) of the operator as a matrix: the F inputs that they read, in rising order, and (R, F) weights."""
        owner, entry, weight = self.taps(rows)
        reads = torch.unique(entry)
        slot = torch.zeros(self.n_in, dtype=torch.int64)
        slot[reads] = torch.arange(len(reads))
        matrix = torch.zeros(len(rows), len(reads), dtype=torch.float64)
        matrix[owner, slot[entry]] = weight
        return reads, matrix

    def windows_backward(self, windows: Tensor) -> Tensor:
        """(N, O, h, w) forms on a window of the output to (N, C, h', w') on the window of padded input under it."""
        high, wide = windows.shape[2:]
        matrix = self._window_matrix(high, wide)
        if matrix is None:
            return self._transposed(windows, self.weight)
        return (windows.flatten(1) @ matrix).reshape(-1, self.in_shape[0], *self.below(high, wide))

    def _transposed(self, maps: Tensor, weight: Tensor) -> Tensor:
        """Transposed convolution without padding."""
        taps = weight.shape[2] * weight.shape[3]
        if weight.shape[1] == 1 and weight.shape[0] == self.groups and taps <= 9:
            # Depthwise (pooling): a few shifted sums are faster than the general routine.
            out = maps.new_zeros(*maps.shape[:2], *self.below(*maps.shape[2:]))
            for row in range(weight.shape[2]):
                for column in range(weight.shape[3]):
                    first = (row * self.dilation[0], column * self.dilation[1])
                    bottom = first[0] + (maps.shape[2] - 1) * self.stride[0] + 1
                    right = first[1] + (maps.shape[3] - 1) * self.stride[1] + 1
                    target = out[:, :, first[0] : bottom : self.stride[0], first[1] : right : self.stride[1]]
                    target += maps * weight[:, 0, row, column, None, None]
            return out
        if self.groups == 1 and suits(maps, weight):
            return transposed(maps, weight, self.stride, self.dilation)
        return F.conv_transpose2d(maps, weight, None, self.stride, 0, 0, self.groups, self.dilation)


@dataclass(frozen=True, eq=False)
class Scale(LinearOp):
    """A factor and a constant for each entry: normalisation, BatchNorm, arithmetic with constants.

    factor: (n,). mass: (n,) what the constant's own computation is relative to, >= |constant|.
    """

    factor: Tensor
    constant: Tensor
    in_shape: Shape
    mass: Tensor
    out_shape: Shape = field(init=False)
    terms: int = 8

    def __post_init__(self) -> None:
        """A scale keeps the shape."""
        object.__setattr__(self, "out_shape", self.in_shape)

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """See `LinearOp`."""
        return self.factor, self.constant

    @cached_property
    def is_finite(self) -> bool:
        """Whether every stored number is finite."""
        return bool(torch.isfinite(self.factor).all() and torch.isfinite(self.mass).all())

    def forward(self, x: Tensor, *, absolute: bool = False) -> Tensor:
        """See `LinearOp`."""
        return x * (self.factor.abs() if absolute else self.factor)

    def backward(self, rows: Tensor, *, absolute: bool = False) -> Tensor:
        """See `LinearOp`."""
        return rows * (self.factor.abs() if absolute else self.factor)

    def magnitude(self, reach: Tensor) -> Tensor:
        """See `LinearOp`."""
        return self.forward(reach, absolute=True) + self.mass


@dataclass(frozen=True, eq=False)
class Gather(LinearOp):
    """Picks entries: output i is input `index[i]`, or `constant[i]` where the index is -1.

    index: (n_out,) int64.
    """

    index: Tensor
    constant: Tensor
    in_shape: Shape
    out_shape: Shape
    terms: int = 1

    @cached_property
    def _taken(self) -> Tensor:
        return (self.index >= 0).to(torch.float64)

    @cached_property
    def is_permutation(self) -> bool:
        """Whether it only reorders."""
        return self.n_in == self.n_out and bool(torch.equal(self.index.sort()[0], torch.arange(self.n_in)))

    @cached_property
    def _inverse(self) -> Tensor:
        return self.index.argsort()

    def forward(self, x: Tensor, *, absolute: bool = False) -> Tensor:
        """See `LinearOp`."""
        picked = x[:, self.index.clamp_min(0)]
        return picked if self.is_permutation else picked * self._taken

    def backward(self, rows: Tensor, *, absolute: bool = False) -> Tensor:
        """See `LinearOp`."""
        if self.is_permutation:
            return rows[:, self._inverse]
        out = rows.new_zeros(rows.shape[0], self.n_in)
        return out.index_add(1, self.index.clamp_min(0), rows * self._taken)
