"""Linear forms on a node's output, on their way back to the image: whole arrays, or windows of maps.

A form that starts at one neuron of a convolution reads a small window of each earlier map (its receptive field).
Keeping to the window is what makes bounds on every neuron of a convolutional network affordable. Forms that share a
place (one a channel, say) share what their window sees; all windows have the same size, and a place may lie partly
outside the map.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor

from robustest.bounds.ops import Conv, Shape


@dataclass(frozen=True, slots=True)
class Whole:
    """Forms on all entries of a node.

    rows: (N, Q, size). owner: (N,) which set of the batch a block of Q rows is about; None: block i is about set i.
    """

    rows: Tensor
    owner: Tensor | None


@dataclass(frozen=True, slots=True)
class Windows:
    """Forms on a window of a (C, H, W) map each, K of them at each of U places.

    rows: (U, K, C, h, w). top, left: (U,) the place of a window's corner in the map, may be negative.
    owner: (U,) set of the batch. inside: whether coefficients outside the map are known to be 0.
    """

    rows: Tensor
    top: Tensor
    left: Tensor
    owner: Tensor
    inside: bool

    def look(self, values: Tensor, shape: Shape) -> Tensor:
        """(U, 1, C, h, w) what the windows see of (B, size) values on the map; 0 outside."""
        high, wide = self.rows.shape[3:]
        before_r, before_c, after_r, after_c = self._margins(shape)
        maps = values.reshape(-1, *shape)
        if before_r or before_c or after_r or after_c:
            maps = F.pad(maps, (before_c, after_c, before_r, after_r))
        views = maps.unfold(2, high, 1).unfold(3, wide, 1)
        owner = self.owner if values.shape[0] > 1 else torch.zeros_like(self.owner)
        return views[owner, :, self.top + before_r, self.left + before_c][:, None]

    def total(self, values: Tensor, shape: Shape, rows: Tensor | None = None) -> Tensor:
        """(U, K) of each form (or of other rows in its place) applied to (B, size) values on the map."""
        seen = self.look(values, shape).flatten(2)
        return ((self.rows if rows is None else rows).flatten(2) @ seen.transpose(1, 2))[..., 0]

    def _margins(self, shape: Shape) -> tuple[int, int, int, int]:
        high, wide = self.rows.shape[3:]
        return (
            max(0, -int(self.top.min())),
            max(0, -int(self.left.min())),
            max(0, int(self.top.max()) + high - shape[1]),
            max(0, int(self.left.max()) + wide - shape[2]),
        )

    def cut(self, shape: Shape) -> Windows:
        """The same without coefficients outside the map."""
        if self.inside or not any(self._margins(shape)):
            return replace(self, inside=True)
        ones = torch.ones(1, shape[1] * shape[2], dtype=self.rows.dtype)
        return replace(self, rows=self.rows * self.look(ones, (1, *shape[1:])), inside=True)

    def through(self, op: Conv) -> Windows:
        """Back through a convolution."""
        rows = op.windows_backward(self.rows.flatten(0, 1))
        return replace(
            self,
            rows=rows.reshape(*self.rows.shape[:2], *rows.shape[1:]),
            top=self.top * op.stride[0] - op.pads[0],
            left=self.left * op.stride[1] - op.pads[1],
            inside=False,
        )

    def whole(self, shape: Shape) -> Whole:
        """The same forms on the whole map."""
        high, wide = self.rows.shape[3:]
        before_r, before_c, after_r, after_c = self._margins(shape)
        places, count = self.rows.shape[:2]
        room = (shape[1] + before_r + after_r, shape[2] + before_c + after_c)
        maps = self.rows.new_zeros(places, count, shape[0], *room)
        views = maps.unfold(3, high, 1).unfold(4, wide, 1)
        views[torch.arange(places), :, :, self.top + before_r, self.left + before_c] = self.rows
        inner = maps[..., before_r : before_r + shape[1], before_c : before_c + shape[2]]
        return Whole(inner.reshape(places, count, -1), self.owner)

    def plus(self, other: Windows) -> Windows | None:
        """Sum of forms on the same map, or None where their windows are not laid out alike."""
        down, right = other.top - self.top, other.left - self.left
        if bool((down != down[0]).any() | (right != right[0]).any()):
            return None
        step_r, step_c = int(down[0]), int(right[0])
        (h1, w1), (h2, w2) = self.rows.shape[3:], other.rows.shape[3:]
        top, left = min(0, step_r), min(0, step_c)
        high, wide = max(h1, step_r + h2) - top, max(w1, step_c + w2) - left
        mine = F.pad(self.rows, (-left, wide + left - w1, -top, high + top - h1))
        theirs = F.pad(
            other.rows, (step_c - left, wide - (step_c - left) - w2, step_r - top, high - (step_r - top) - h2)
        )
        return replace(
            self,
            rows=mine + theirs,
            top=self.top + top,
            left=self.left + left,
            inside=self.inside and other.inside,
        )

    def pixels(self, input_shape: Shape) -> tuple[Tensor, Tensor]:
        """(U, h * w) indices of pixels of the (H, W, C) image, H * W outside it, and (U, K, h * w * C) forms."""
        height, width, _ = input_shape
        high, wide = self.rows.shape[3:]
        r = self.top[:, None] + torch.arange(high)
        c = self.left[:, None] + torch.arange(wide)
        ok = ((r >= 0) & (r < height))[:, :, None] & ((c >= 0) & (c < width))[:, None, :]
        index = torch.where(ok, r[:, :, None] * width + c[:, None, :], height * width)
        forms = self.rows.permute(0, 1, 3, 4, 2).flatten(2)
        return index.flatten(1), forms


Forms = Whole | Windows


def add_forms(first: Forms | None, second: Forms, shape: Shape) -> Forms:
    """Sum of forms on one node of this shape."""
    if first is None:
        return second
    if isinstance(first, Windows) and isinstance(second, Windows):
        joined = first.plus(second)
        if joined is not None:
            return joined
    a = first.whole(shape) if isinstance(first, Windows) else first
    b = second.whole(shape) if isinstance(second, Windows) else second
    return Whole(a.rows + b.rows, a.owner)
