"""The three answers that any complete method gives about a region of images."""

from __future__ import annotations

from enum import Enum


class Decision(Enum):
    """What a method came to about one region; the value says it in a sentence."""

    PROVED = "No image of the region is misclassified."
    FALSIFIED = "A misclassified image of the region was found and scored."
    OPEN = "Time, nodes or queries ran out; nothing is proven of the region."
