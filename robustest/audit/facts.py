"""What an audit was about and what was counted: the model, the images, the verdicts, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.spec import InputSpec


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The classifier of an audit.

    source: file name, URL or name. sha256: of the model file, None where there is none.
    spec: how it wants its input. guessed: what of that was guessed. classes: how many, None if unknown.
    batch: images a call on which its scores depend, so that the run held to it; None where they do not depend on it.
    largest_change: largest difference of scores of the same image asked twice in the same way; 0 is repeatable.
    """

    source: str
    sha256: str | None
    spec: InputSpec
    guessed: tuple[str, ...] = ()
    classes: int | None = None
    batch: int | None = None
    largest_change: float = 0.0


@dataclass(frozen=True, slots=True)
class DataFacts:
    """The images of an audit.

    source: where they came from. count: how many. sha256: of all images' digests and labels, in order.
    shape: (H, W, C). eight_bit: values are 0..255, so adversarial values are too. class_names: or empty.
    """

    source: str
    count: int
    sha256: str
    shape: tuple[int, int, int]
    eight_bit: bool
    class_names: tuple[str, ...] = ()

    def class_name(self, label: int | None) -> str:
        """The name of a class, its number where no name is known, a dash for None."""
        if label is None:
            return "-"
        return self.class_names[label] if 0 <= label < len(self.class_names) else str(label)


@dataclass(frozen=True, slots=True)
class Counts:
    """Images by verdict; tested are those attacked: all but the excluded.

    of_target: those of the excluded that the classifier gets right: they are of the class to be reached already.
    """

    flipped: int = 0
    survived: int = 0
    unknown: int = 0
    excluded: int = 0
    of_target: int = 0

    @property
    def wrong(self) -> int:
        """Images that the classifier gets wrong unchanged."""
        return self.excluded - self.of_target

    @property
    def tested(self) -> int:
        """Images attacked."""
        return self.flipped + self.survived + self.unknown

    @property
    def images(self) -> int:
        """All images."""
        return self.tested + self.excluded


@dataclass(frozen=True, slots=True)
class Columns:
    """What the totals are counted from; one row an image, N in all.

    verdict: (N,) index into the list of `Verdict`. distance: (N,) in the norm attacked, NaN where not flipped.
    l0_pixels: (N,), -1 where not flipped. queries, remembered, checks: (N,).
    unchecked: (N,) 1 where not every pixel of a flip was checked to be needed, else 0.
    of_target: (N,) 1 where excluded as an image of the target class that the classifier gets right, else 0.
    """

    verdict: NDArray[np.int8]
    distance: NDArray[np.float64]
    l0_pixels: NDArray[np.int64]
    queries: NDArray[np.int64]
    remembered: NDArray[np.int64]
    checks: NDArray[np.int64]
    unchecked: NDArray[np.int64]
    of_target: NDArray[np.int64]
