"""What the ends of one image's brackets in several norms say of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from robustest.bounds.guarantee import Bound, Witness
from robustest.bounds.witness import distance, nearest_of
from robustest.settings import Norm


def nearest_in(image: NDArray[np.float32], norm: Norm, found: Mapping[Norm, Witness | None]) -> Witness | None:
    """The nearest in one norm of the witnesses found in any."""
    others = [replace(w, value=distance(w.image, image, norm)) for n, w in found.items() if w is not None and n != norm]
    return nearest_of(found[norm], *others)


def share(lowers: dict[Norm, Bound | None]) -> None:
    """`L1 >= L2 >= Linf`: a radius proved in one norm holds in a larger one."""
    for small, large in (("linf", "l2"), ("linf", "l1"), ("l2", "l1")):
        source, target = lowers.get(small), lowers.get(large)  # type: ignore[call-overload]
        if source is not None and target is not None and source.value > target.value:
            lowers[large] = source  # type: ignore[index]


def note(lower: Bound | None, upper: Witness | None) -> str:
    """Why an end is missing, where that is known."""
    if upper is None:
        return "No misclassified image was found; that says nothing about how far one is."
    return "" if lower is not None else "Nothing was proved."
