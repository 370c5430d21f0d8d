"""Two lines around an activation: what CROWN puts in place of a curve on an interval.

For each entry `lower_slope * z + lower_shift <= f(z) <= upper_slope * z + upper_shift` on [low, high]. The shifts are
moved outward by what float64 can have rounded, and by enough to cover the rounding of their own weighted sum.
For ReLU the lower slope is free in [slope, 1] wherever the interval holds 0: alpha-CROWN optimises it.

Source: Zhang et al. 2018 (CROWN), arXiv:1811.00866; S-shaped lines as in DeepPoly (Singh et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustest.bounds.graph import Activation

_OUT = 1.0 + 2.0**-32
_SLIP = 2.0**-50


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Lines around one activation node, (B, size) each; `free` marks entries whose lower slope may be chosen."""

    upper_slope: Tensor
    upper_shift: Tensor
    lower_slope: Tensor
    lower_shift: Tensor | None
    free: Tensor

    def take(self, owner: Tensor | None) -> Relaxation:
        """The relaxation that each of R rows sees."""
        if owner is None or self.upper_slope.shape[0] == 1:
            return self
        return Relaxation(
            self.upper_slope[owner],
            self.upper_shift[owner],
            self.lower_slope[owner],
            None if self.lower_shift is None else self.lower_shift[owner],
            self.free[owner],
        )


def relax(activation: Activation, low: Tensor, high: Tensor) -> Relaxation:
    """Lines for an activation whose input lies in [low, high], (B, size) each; differentiable for ReLU."""
    if activation.kind == "relu":
        return _relu(activation.slope, low, high)
    return _s_shaped(activation, low, high)


def _relu(leak: float, low: Tensor, high: Tensor) -> Relaxation:
    free = (low < 0) & (high > 0)
    width = torch.where(free, high - low, 1.0)
    crossing = (high - leak * low) / width.clamp_min(1e-300)
    stable = torch.where(low >= 0, 1.0, leak)
    upper_slope = torch.where(free, crossing, stable)
    # The chord must lie above at both ends, whatever its slope was rounded to.
    shift = torch.maximum((leak - crossing) * low, (1.0 - crossing) * high) + _SLIP * (high - low)
    upper_shift = torch.where(free, shift * _OUT, 0.0)
    lower_slope = torch.where(free, torch.where(high > -low, 1.0, leak), stable)
    return Relaxation(upper_slope, upper_shift, lower_slope, None, free)


def _s_shaped(activation: Activation, low: Tensor, high: Tensor) -> Relaxation:
    def slope_at(z: Tensor) -> Tensor:
        value = activation(z)
        return value * (1 - value) if activation.kind == "sigmoid" else 1 - value * value

    at_low, at_high = activation(low), activation(high)
    least = torch.minimum(slope_at(low), slope_at(high))
    middle = (low + high) / 2
    at_middle, tangent = activation(middle), slope_at(middle)
    chord = torch.where(high > low, (at_high - at_low) / (high - low).clamp_min(1e-12), least)
    convex, concave = high <= 0, low >= 0
    upper_slope = torch.where(convex, chord, torch.where(concave, tangent, least))
    upper_at = torch.where(concave, middle, high)
    upper_value = torch.where(concave, at_middle, at_high)
    lower_slope = torch.where(concave, chord, torch.where(convex, tangent, least))
    lower_at = torch.where(convex, middle, low)
    lower_value = torch.where(convex, at_middle, at_low)
    # A chord's slope may be rounded by 2**-52 of its value over its width: charged over the interval's length.
    slip = 2.0**-44 * (1 + low.abs() + high.abs())
    upper_shift = torch.maximum(upper_value - upper_slope * upper_at, at_low - upper_slope * low)
    upper_shift = torch.where(convex, torch.maximum(upper_shift, at_high - upper_slope * high), upper_shift)
    lower_shift = torch.minimum(lower_value - lower_slope * lower_at, at_high - lower_slope * high)
    lower_shift = torch.where(concave, torch.minimum(lower_shift, at_low - lower_slope * low), lower_shift)
    return Relaxation(
        upper_slope,
        upper_shift + upper_shift.abs() * (_OUT - 1) + slip,
        lower_slope,
        lower_shift - lower_shift.abs() * (_OUT - 1) - slip,
        torch.zeros_like(low, dtype=torch.bool),
    )
