"""The largest radius that a bound proves, by few evaluations of it."""

from __future__ import annotations

import math
from collections.abc import Callable

_TOLERANCE = 0.005
"""Relative width at which the search for a radius stops."""


def largest_radius(gap: Callable[[float], float], top: float, start: float, *, tolerance: float = _TOLERANCE) -> float:
    """Largest radius found with `gap(radius) > 0`, by the secant method with bisection as its fallback.

    Args:
        gap: of a radius, falling; positive where the radius is proved.
        top: no radius from here on can be proved.
        start: the gap at radius 0.
        tolerance: relative width at which to stop.
    """
    low, high = 0.0, top
    at_low, at_high = start, math.nan
    for step in range(40):
        if high - low <= tolerance * high or high < 1e-9 * top:
            break
        middle = (low + high) / 2
        if math.isnan(at_high):
            middle = high / 3 if step == 0 else min(max(low + (high - low) / 4, high / 10), middle)
        elif step % 3 != 2:
            middle = low + (high - low) * at_low / (at_low - at_high)
            width = high - low
            middle = min(max(middle, low + 0.03 * width), high - 0.03 * width)
        value = gap(middle)
        if value > 0:
            low, at_low = middle, value
        else:
            high, at_high = middle, value
    return low
