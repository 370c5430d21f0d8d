"""How the few-pixel search paces itself: the stages of its budget, and when its questions tell nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.results import Margins

FIRST_STAGE = 200  # queries
_GROWTH = 5


def stages(queries: int) -> list[int]:
    """Queries spent at the end of each stage: 200, 1,000, 5,000, ... and the budget."""
    ends, stage = [], FIRST_STAGE
    while stage < queries:
        ends.append(stage)
        stage *= _GROWTH
    return [*ends, queries]


def no_change(margins: Margins, margin: float) -> NDArray[np.bool_]:
    """Which margins are that one, but for rounding."""
    return np.abs(margins - margin) <= 1e-6 * abs(margin)


def tells_nothing(margins: Margins, margin: float) -> bool:
    """True where all margins are the same as that one, but for rounding: the scores are saturated."""
    if len(margins) and abs(float(margins[0]) - margin) > 1e-6 * abs(margin):
        return False  # as a rule; no need to look at the others
    return bool(no_change(margins, margin).all())
