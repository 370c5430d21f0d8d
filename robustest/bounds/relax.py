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
_THIN = 2.0**-200
"""Nearer than this to 0 a jump gets no slanted line: its slope would be too large a number."""


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
    if activation.kind == "sign":
        return _sign(activation, low, high)
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


def _sign(activation: Activation, low: Tensor, high: Tensor) -> Relaxation:
    """Lines around a jump at 0 from a = f(low) up to b = f(high), each the one of two with less between it and f.

    The upper line is b, or for low < 0 the line of any slope s >= 0 and shift `max(b, a - s low)`. It is sound: below 0,
    f is a (there f is constant, as low is below 0 too) and the line, which rises, is at least `s low + shift >= a`; from 0
    on f is at most b and the line at least its shift, `>= b`. With `s = (b - a) / -low` it passes through (low, a) and
    (0, b); its mean over the interval is less than b where high < -low. The lower line is the same seen from the other
    side. Where the interval is decided a = b, and where an end is not finite nothing is known.
    """
    at_low, at_high = activation.interval(low, high)
    rise = at_high - at_low
    known = torch.isfinite(rise)
    steep_up, steep_down = known & (low < -_THIN) & (high < -low), known & (high > _THIN) & (-low < high)
    zero = torch.zeros_like(low)
    upper_slope = torch.where(steep_up, rise / (-low).clamp_min(_THIN), zero)
    lower_slope = torch.where(steep_down, rise / high.clamp_min(_THIN), zero)
    upper_shift = torch.where(steep_up, torch.maximum(at_high, at_low - upper_slope * low), at_high)
    lower_shift = torch.where(steep_down, torch.minimum(at_low, at_high - lower_slope * high), at_low)
    return Relaxation(
        upper_slope,
        torch.where(upper_slope > 0, upper_shift + (1 + upper_shift.abs()) * (_OUT - 1), upper_shift),
        lower_slope,
        torch.where(lower_slope > 0, lower_shift - (1 + lower_shift.abs()) * (_OUT - 1), lower_shift),
        torch.zeros_like(low, dtype=torch.bool),
    )


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
