"""The largest radius that a bound proves, by few evaluations of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from robustest.settings import Norm

_TOLERANCE = 0.005
"""Relative width at which the search for a radius stops."""
_FIRST = 0.25
"""Share of `top` that is tried first: evaluations far beyond what can be proved cost most and say least."""


def largest_radius(
    gap: Callable[[float], float],
    top: float,
    start: float,
    *,
    tolerance: float = _TOLERANCE,
    first: float = _FIRST,
    growth: float = math.inf,
    deadline: float = math.inf,
    latest: float = math.inf,
) -> float:
    """Largest radius found with `gap(radius) > 0`, for a gap that falls roughly as `start - a * radius**p`.

    The next radius is where the power law through the last two evaluations (a square through the first) crosses
    zero, kept inside the bracket; the answer is always a radius whose own gap was positive.

    Args:
        gap: of a radius, falling; positive where the radius is proved.
        top: no radius from here on can be proved.
        start: the gap at radius 0.
        tolerance: relative width at which to stop.
        first: share of `top` tried first.
        growth: no radius is tried beyond this many times the largest that is proved: where larger ones cost more.
        deadline: of this thread's CPU time, after which no evaluation begins once something is proved.
        latest: the same, whether something is proved or not.
    """
    low, high = 0.0, top
    fallen: list[tuple[float, float]] = []
    guess = first * top
    if not start > 0:
        return 0.0
    for _ in range(40):
        if high - low <= tolerance * high or high < 1e-9 * top or time.thread_time() > (deadline if low else latest):
            break
        width = high - low
        middle = min(guess, high - 0.02 * width)
        if low > 0:
            middle = min(max(middle, low + 0.02 * width), growth * low)
        value = gap(middle)
        if value > 0:
            low = middle
        else:
            high = middle
        fallen.append((middle, start - value if math.isfinite(value) else math.inf))
        guess = _crossing(fallen, start) * (1 - tolerance / 3)
        if not low < guess < high:
            # The law has settled on an end of the bracket, or says nothing: step past it, or halve.
            settled = low > 0 and low * (1 - tolerance) <= guess <= low * (1 + tolerance)
            if settled and guess <= low and high < math.inf:
                guess = low * (1 + tolerance)
            else:
                guess = (low + high) / 2 if low > 0 else high / 4
    return low


def diameter(n: int, norm: Norm) -> float:
    """The largest distance of two images of `n` dimensions, in L1, L2 or Linf."""
    return {"l1": float(n), "l2": math.sqrt(n)}.get(norm, 1.0)


def _crossing(fallen: list[tuple[float, float]], start: float) -> float:
    """Where the power law through the last evaluations has used up the gap at radius 0; NaN where there is none."""
    radius, lost = fallen[-1]
    if not 0 < lost < math.inf:
        return math.nan
    power = 2.0
    if len(fallen) > 1:
        other, before = fallen[-2]
        if 0 < before < math.inf and before != lost and other != radius:
            power = min(max(math.log(lost / before) / math.log(radius / other), 1.0), 12.0)
    return float(radius * (start / lost) ** (1 / power))
