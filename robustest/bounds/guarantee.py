"""What kind of statement a number is: bounds that carry their guarantee, and brackets made of them.

A distance bound is never a bare float here. The lower end of a bracket is a `Bound` with a proof label, the upper
end a `Witness`: an image that was scored again. Estimates exist, are labelled so, and cannot be a bracket's end.
Knows nothing of networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.bounds.errors import SoundnessViolation
from robustest.errors import InvalidSetting
from robustest.settings import Norm

Scorer = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""(N, H, W, C) float32 in [0, 1] to (N, K) scores: the classifier itself."""


class Guarantee(Enum):
    """What is claimed, in a sentence that is printed with the number."""

    PROOF_EXEC = (
        "Proved for the float32 network as executed: every affine layer computed with IEEE binary32 dot products "
        "in any order, with or without FMA, layers after one another or fused into one."
    )
    PROOF_REAL = "Proved for the network in exact real arithmetic; the checker's own rounding is accounted for."
    PROOF_GIVEN_L = "Proved if the Lipschitz constant that was supplied is right; it was not checked."
    PROBABILISTIC = "Holds with the stated confidence, for the smoothed classifier, not for the classifier itself."
    STATISTICAL = "Holds with the stated confidence for the share of the region, not for its worst image."
    ESTIMATE = "An estimate; it may be wrong in either direction."

    @property
    def is_proof(self) -> bool:
        """Whether a bracket may rest on it (PROOF_GIVEN_L is conditional, and says so)."""
        return self in (Guarantee.PROOF_EXEC, Guarantee.PROOF_REAL, Guarantee.PROOF_GIVEN_L)


@dataclass(frozen=True, slots=True)
class Bound:
    """A number about an image's distance to misclassification, with what is claimed of it.

    value: >= 0; no misclassified image is nearer than this (in the norm's own unit; pixels for l0). Of STATISTICAL ones:
        at most this share of a region is misclassified. ESTIMATE claims neither.
    method: what proved it, such as `crown`.
    assumptions: conditions under which it holds, as sentences.
    confidence: of the probabilistic kinds, in (0, 1); None for proofs and estimates.
    seconds: CPU seconds of this thread that it took.
    certificate: what a second program needs to check it, where one was made; its claim says its own radius, which is
        smaller than the value where branching over ReLUs proved the rest.
    """

    value: float
    guarantee: Guarantee
    method: str
    assumptions: tuple[str, ...] = ()
    confidence: float | None = None
    seconds: float = 0.0
    certificate: Mapping[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be a distance, and a confidence where none belongs."""
        if not self.value >= 0:
            raise InvalidSetting(f"value of a bound must be >= 0; got {self.value}. What is not known is None.")
        probabilistic = self.guarantee in (Guarantee.PROBABILISTIC, Guarantee.STATISTICAL)
        if probabilistic != (self.confidence is not None):
            raise InvalidSetting(f"confidence must stand with {self.guarantee.name} exactly; got {self.confidence}.")

    def to_json(self) -> dict[str, Any]:
        """As plain values; the certificate is saved apart."""
        return {
            "value": self.value,
            "guarantee": self.guarantee.name,
            "claim": self.guarantee.value,
            "method": self.method,
            "assumptions": list(self.assumptions),
            "confidence": self.confidence,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Witness:
    """A misclassified image, scored again by the classifier itself.

    image: (H, W, C) float32 in [0, 1], exactly what was scored.
    value: its distance from the original, computed in float64 from the stored images.
    label: the class that the classifier gives it.
    method: what found it.
    """

    image: NDArray[np.float32] = field(repr=False)
    value: float
    label: int
    method: str

    def to_json(self) -> dict[str, Any]:
        """As plain values, without the image."""
        return {"value": self.value, "label": self.label, "method": self.method}


@dataclass(frozen=True, slots=True)
class Bracket:
    """`[lower, upper]` on the distance to the nearest misclassified image, in one norm.

    lower: proven, or None where nothing was proved.
    upper: a witness, or None where no misclassified image was found.
    note: why an end is missing, where that is known.
    """

    norm: Norm
    lower: Bound | None
    upper: Witness | None
    note: str = ""

    def __post_init__(self) -> None:
        """A lower end must be a proof, and ends that cross are a bug of the checker."""
        if self.lower is None:
            return
        if not self.lower.guarantee.is_proof:
            raise InvalidSetting(f"lower end of a bracket must be a proof; got {self.lower.guarantee.name}.")
        if self.upper is not None and self.lower.value > self.upper.value:
            raise SoundnessViolation(
                f"{self.norm}: proved that nothing is misclassified nearer than {self.lower.value!r} "
                f"({self.lower.method}), yet {self.upper.method} found class {self.upper.label} at "
                f"{self.upper.value!r}. This is a bug of the checker; please report it with the model and the image."
            )

    @property
    def exact(self) -> bool:
        """Whether the ends meet: the distance is known."""
        return self.lower is not None and self.upper is not None and self.lower.value == self.upper.value

    @property
    def ratio(self) -> float | None:
        """Upper over lower, >= 1; None where an end is missing or the lower one is 0."""
        if self.lower is None or self.upper is None or self.lower.value == 0:
            return None
        return self.upper.value / self.lower.value

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "norm": self.norm,
            "lower": None if self.lower is None else self.lower.to_json(),
            "upper": None if self.upper is None else self.upper.to_json(),
            "ratio": self.ratio,
            "exact": self.exact,
            "note": self.note,
        }


def steps_of_255(radius: float) -> int:
    """How many steps of 1/255 the nearest misclassified 8-bit image differs by at least, from a proven Linf radius.

    Distances of 8-bit images are whole steps, up to 2**-24 that their float32 values are rounded by: so an image that
    differs by k steps lies inside the ball, and is right, while `k / 255 + 2**-23 < radius`. The next step is the answer.
    """
    return max(0, math.ceil((radius - 2.0**-23) * 255 - 1e-9))
