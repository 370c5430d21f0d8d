"""The three answers that any complete method gives about a region of images, and what a branch and bound found."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Decision(Enum):
    """What a method came to about one region; the value says it in a sentence."""

    PROVED = "No image of the region is misclassified."
    FALSIFIED = "A misclassified image of the region was found and scored."
    OPEN = "Time, nodes or queries ran out; nothing is proven of the region."


@dataclass(frozen=True, slots=True)
class Answer:
    """What a branch and bound found.

    witness: (H, W, C) float32, misclassified as scored by the classifier itself; or None.
    nodes: bounded so far. open: still waiting. lowest: the least bound among those; None where none is left.
    seconds: CPU seconds of this thread.
    tree: the splits, as plain values for a certificate, where they were asked for and the region was proved.
    """

    decision: Decision
    witness: NDArray[np.float32] | None
    nodes: int
    open: int
    lowest: float | None
    seconds: float
    tree: dict[str, Any] | None = field(default=None, repr=False)
