"""How good a guide a map is: does it rank the pixels that can flip the image first?

Deletion and insertion: Petsiuk, Das & Saenko, BMVC 2018, arXiv:1806.07421, on the margin instead of a probability.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from robustest.classifiers.classifier import Classifier
from robustest.errors import InvalidSetting
from robustest.results import AttackResult
from robustest.saliency.blackbox_maps import Map, margins_asked

_CURVE_POINTS = 33


def rank_correlation(first: Map, second: Map) -> float | None:
    """Spearman's rank correlation of two maps over all pixels, ties given their mean rank; None where one is constant."""
    a, b = (rankdata(values.reshape(-1)) for values in (first, second))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 0 else None


def top_share(guide: Map, drops: Map, *, share: float = 0.05) -> float:
    """Share of the most harmful pixels that the guide ranks among as many of its own; `share` if it knows nothing.

    Args:
        drops: what each pixel does when changed. share: of the pixels that count as most harmful, in (0, 1].
    """
    count = max(1, int(share * guide.size))
    chosen = np.argsort(-guide.reshape(-1), kind="stable")[:count]
    harmful = np.argsort(-drops.reshape(-1), kind="stable")[:count]
    return len(np.intersect1d(chosen, harmful)) / count


def deletion(
    classifier: Classifier, image: NDArray[np.float32], label: int, guide: Map, *, insert: bool = False
) -> float:
    """Area under the margin, as a share of the clean image's, while pixels go (or come back) in the guide's order.

    Pixels are replaced by the image's mean colour. For deletion lower is better, for insertion (`insert`) higher.
    """
    flat = image.reshape(-1, image.shape[2])
    mean = flat.mean(axis=0)
    order = np.argsort(-guide.reshape(-1), kind="stable")
    batch = []
    for count in np.linspace(0, len(order), _CURVE_POINTS).round().astype(int):
        changed = np.broadcast_to(mean, flat.shape).copy() if insert else flat.copy()
        changed[order[:count]] = flat[order[:count]] if insert else mean
        batch.append(changed.reshape(image.shape))
    margins = margins_asked(classifier, np.stack(batch).astype(np.float32), label)
    clean = margins[-1] if insert else margins[0]
    return float(np.trapezoid(margins, dx=1 / (len(margins) - 1)) / clean)


def as_distribution(values: Map, *, uniform_part: float = 0.1) -> Map:
    """A map as a distribution over pixels: proportional to it, plus a uniform part so that every pixel can be reached."""
    if not 0 < uniform_part <= 1:
        raise InvalidSetting(f"uniform_part must be in (0, 1]; got {uniform_part:g}.")
    total = float(values.sum())
    even = np.full(values.shape, 1 / values.size)
    return even if not total > 0 else (1 - uniform_part) * values / total + uniform_part * even


def flips_on_object(result: AttackResult, mask: NDArray[np.uint8]) -> tuple[int, int] | None:
    """(on the object, off it): changed pixels of an adversarial image by the object's mask (H, W), > 0 on it; None if none."""
    if result.edits is None:
        return None
    on = int((mask.reshape(-1)[result.edits.pixels] > 0).sum())
    return on, len(result.edits.pixels) - on
