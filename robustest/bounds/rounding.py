"""Floating-point rounding as numbers that a proof can subtract.

Higham (2002), chapter 3: a dot product of n terms, summed in any order, with or without FMA, errs by at most
`gamma(n, u) * sum |a_i b_i|` with `gamma(n, u) = n u / (1 - n u)`, plus underflow. `u` is half the distance of 1 to
the next number: 2**-24 for binary32, 2**-53 for binary64.

Holds for dot products in IEEE arithmetic alone: not for TF32, bfloat16, half, Winograd or FFT convolutions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

U32 = 2.0**-24
U64 = 2.0**-53
FLUSH32 = 2.0**-126
"""Smallest normal binary32 number: what one operation loses where subnormals are flushed to zero."""

SOFTMAX_TIE32, SOFTMAX_TIE64 = 2.0**-19, 2.0**-48
"""Scores that differ by more than this have different probabilities in a softmax computed in binary32, in binary64.

The larger of two probabilities is above the other by one unit in the last place where `exp(-gap) < 1 - 2 u`; the rest
is for an exponential that errs by some units. Scores nearer than that may tie, and the first class wins a tie.
"""

OUTWARD = 1.0 + 2.0**-30
"""Factor that covers the float64 rounding of a sum of up to 2**20 nonnegative terms computed here."""


def gamma(terms: int, unit: float) -> float:
    """Relative error of `terms` roundings, `terms * unit / (1 - terms * unit)`, itself rounded up."""
    product = terms * unit
    if product >= 0.5:
        return math.inf
    return product / (1.0 - product) * (1.0 + 8 * U64)


def gammas(terms: Tensor, unit: float) -> Tensor:
    """`gamma` of many numbers of terms at once."""
    product = terms * unit
    return torch.where(product < 0.5, product / (1.0 - product) * (1.0 + 8 * U64), math.inf)


def or_nothing(lower: Tensor) -> Tensor:
    """Lower bounds, -inf where overflow left no number: such a bound says nothing, and compares as nothing."""
    return torch.where(lower.isnan(), -math.inf, lower)


def up(value: float) -> float:
    """Next float64 above."""
    return math.nextafter(value, math.inf)


def down(value: float) -> float:
    """Next float64 below."""
    return math.nextafter(value, -math.inf)
