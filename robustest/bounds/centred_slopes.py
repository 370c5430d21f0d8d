"""Slopes around a base value: what bounds centred on an image put in place of an activation's change.

A sign changes by nothing before z has moved by |z0|, and by its jump at most: a secant from z0 bounds it, or the jump
alone. With z0 the value at the base and z in [l, u], the change of a ReLU is at least the tangent at z0 times the change of z
and at most the larger of two secants from z0, to l and to u; of an S-shaped function it lies between its flattest and
its steepest slope. Each slope comes with what its float64 computation may have rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustest.bounds.graph import Activation
from robustest.bounds.rounding import U64

_SLOPE_ERROR = 128 * U64
"""Absolute rounding error of any slope computed here (slopes are at most 1)."""
_OUT = 2.0**-40
"""Relative error of a secant's slope, far above what a few roundings can do."""
_FAR = 8.0
"""A sign whose input can move this many times as far as it is from 0 counts with its jump and not with a secant."""


@dataclass(frozen=True, slots=True)
class Slopes:
    """What is used of one layer of activations, (B, n) each, around the base value f(z0).

    A form's coefficient c > 0 becomes `c * below` with radius `c * below_half` (None for 0); c < 0 becomes `c * middle`
    with radius `-c * half`, or (ReLU alone) `c * line` on CROWN's upper line, which loses `-c * gap`. A radius r becomes
    `r * steepest`.
    """

    below: Tensor
    below_half: Tensor | None
    middle: Tensor
    half: Tensor
    steepest: Tensor
    line: Tensor
    gap: Tensor

    def seen(self, look: Callable[[Tensor], Tensor]) -> Slopes:
        """The same slopes as forms of another shape meet them."""
        return Slopes(
            look(self.below),
            None if self.below_half is None else look(self.below_half),
            *(look(t) for t in (self.middle, self.half, self.steepest, self.line, self.gap)),
        )


@dataclass(frozen=True, slots=True)
class Jumps:
    """What is used of one layer of signs, (B, n) each, around f(z0): the change lies in [-down, up].

    rate: where above 0, the change is also at most `rate |z - z0|` in size, and on one side of 0 alone.
    """

    down: Tensor
    up: Tensor
    rate: Tensor

    def seen(self, look: Callable[[Tensor], Tensor]) -> Jumps:
        """The same as forms of another shape meet it."""
        return Jumps(look(self.down), look(self.up), look(self.rate))

    def through(
        self, centre: Tensor, radius: Tensor | None, *, constant: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | float]:
        """Forms on the change of the signs to forms on that of their inputs, and what that loses.

        With `constant` the jumps are lost as they stand; else secants are used where there are any.
        """
        secant = torch.zeros_like(self.rate, dtype=torch.bool) if constant else self.rate > 0
        rise, fall = centre.clamp_max(0), centre.clamp_min(0)
        each = fall * self.down - rise * self.up
        if radius is not None:
            each = each + radius * torch.maximum(self.down, self.up)
        lost = torch.where(secant, 0.0, each).sum(-1)
        if constant:
            return torch.zeros_like(centre), None, lost
        # c change >= c rate dz/2 - |c| rate |dz|/2 where the change can only take from the form, and >= 0 elsewhere.
        bent = torch.where(secant, torch.where(self.down > 0, fall, rise) * (self.rate / 2), 0.0)
        spread = bent.abs() * (1 + _OUT)
        if radius is not None:
            spread = spread + torch.where(secant, radius * self.rate, 0.0)
        return bent, spread, lost


def jumps_of(activation: Activation, base: Tensor, lower: Tensor, upper: Tensor) -> Jumps:
    """Of a layer of signs, for z in [lower, upper] and lower <= base <= upper.

    To change at all, z must reach 0, which is |z0| away: so the secant's rate is the jump over |z0|. It is not used
    where z0 is so near to 0 that z easily moves many times as far.
    """
    at_base = activation(base)
    low, high = activation.interval(lower, upper)
    down, up = at_base - low, high - at_base
    span = torch.maximum(base - lower, upper - base)
    jump = torch.maximum(down, up)
    near = (base.abs() * _FAR < span) | (base.abs() < 1e-100) | ~torch.isfinite(jump)
    rate = torch.where(near | (jump == 0), 0.0, jump / base.abs().clamp_min(1e-100) * (1 + _OUT))
    return Jumps(down, up, rate)


def slopes_of(activation: Activation, base: Tensor, lower: Tensor, upper: Tensor) -> Slopes | Jumps:
    """Slopes of the change of an activation, for z in [lower, upper] and lower <= base <= upper."""
    if activation.kind == "sign":
        return jumps_of(activation, base, lower, upper)
    if activation.kind == "relu":
        return _relu_slopes(activation.slope, base, lower, upper)
    # The derivative of either is largest where |z| is least, and between its values at the ends otherwise.
    nearest = torch.where((lower <= 0) & (upper >= 0), torch.zeros_like(base), torch.minimum(lower.abs(), upper.abs()))
    farthest = torch.maximum(lower.abs(), upper.abs())
    steepest, flattest = (_derivative(activation, z) for z in (nearest, farthest))
    middle = (steepest + flattest) / 2
    half = (steepest - flattest) / 2 + _SLOPE_ERROR
    return Slopes(middle, half, middle, half, steepest + _SLOPE_ERROR, middle, torch.zeros_like(base))


def _derivative(activation: Activation, z: Tensor) -> Tensor:
    value = activation(z)
    return value * (1 - value) if activation.kind == "sigmoid" else (1 - value) * (1 + value)


def _relu_slopes(leak: float, base: Tensor, lower: Tensor, upper: Tensor) -> Slopes:
    """See `Slopes`; `leak` is the slope below zero."""
    positive = base > 0
    one = torch.ones_like(base)
    tangent = torch.where(positive, one, leak * one)
    # Secants from the base to either end; the change of a convex function is steepest towards the upper one.
    fall = (base - lower).clamp_min(1e-300)
    rise = (upper - base).clamp_min(1e-300)
    to_lower = torch.where(positive & (lower < 0), (base - leak * lower) / fall, tangent)
    to_upper = torch.where(~positive & (upper > 0), (upper - leak * base) / rise, tangent)
    exact = to_lower == to_upper
    half = torch.where(exact, 0.0, (to_upper - to_lower) / 2 + _SLOPE_ERROR)
    crossing = (lower < 0) & (upper > 0)
    line = torch.where(crossing, (upper - leak * lower) / (upper - lower).clamp_min(1e-300), 0.0)
    line = torch.where(crossing, line, torch.where(lower >= 0, one, leak * one))
    at_base = torch.where(positive, base, leak * base)
    gap = leak * lower + line * (base - lower) - at_base + _SLOPE_ERROR * (lower.abs() + upper.abs())
    leaky = _SLOPE_ERROR if leak else 0.0
    return Slopes(
        below=tangent,
        below_half=torch.full_like(base, leaky) if leak else None,
        middle=(to_lower + to_upper) / 2,
        half=half + leaky,
        steepest=torch.where(exact, tangent, to_upper + _SLOPE_ERROR),
        line=line,
        gap=torch.where(crossing, gap.clamp_min(0), leaky * (lower.abs() + upper.abs())),
    )
