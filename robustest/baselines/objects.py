"""Where flips happen when it is known where the object is: does the classifier hang on the background?

Masks come in the `.npz` of the images, as `masks`: uint8 (N, H, W), above 0 on the object.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustest.baselines.comparison import Comparison, Row
from robustest.errors import InvalidImage
from robustest.images import ImageSet
from robustest.saliency.judging import flips_on_object


@dataclass(frozen=True, slots=True)
class ObjectShare:
    """Flips of one class by one attack.

    images: flipped. on, off: their changed pixels on the object and off it.
    area: mean share of those images that the object covers: what `on / (on + off)` would be if place did not matter.
    """

    attack: str
    label: int
    images: int
    on: int
    off: int
    area: float

    @property
    def share(self) -> float:
        """Share of the changed pixels that lie on the object."""
        return self.on / (self.on + self.off)


def load_masks(path: Path, images: ImageSet) -> dict[str, NDArray[np.uint8]] | None:
    """Object masks by image digest; None where the images come without.

    Raises:
        InvalidImage: masks of another shape or type than the images need.
    """
    if path.suffix.lower() != ".npz":
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            if "masks" not in data.files:
                return None
            masks = data["masks"]
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise InvalidImage(f"'masks' in {path.name} cannot be read: {error}.") from error
    if masks.shape != images.images.shape[:3] or masks.dtype != np.uint8:
        raise InvalidImage(
            f"'masks' in {path.name} must be uint8 of shape {images.images.shape[:3]}, one (H, W) an image; got {masks.dtype} of "
            f"shape {masks.shape}."
        )
    return dict(zip(images.digests, masks, strict=True))


def object_shares(comparison: Comparison, masks: dict[str, NDArray[np.uint8]]) -> list[ObjectShare]:
    """One entry for each attack and class of which an image was flipped; a fixed-pixel attack by its largest run."""
    return [share for row in comparison.rows if row.runs for share in _of_row(comparison, row, masks)]


def _of_row(comparison: Comparison, row: Row, masks: dict[str, NDArray[np.uint8]]) -> list[ObjectShare]:
    counts: dict[int, list[tuple[int, int, float]]] = {}
    for result, digest in zip(row.runs[-1].results, comparison.image_digests, strict=True):
        split = flips_on_object(result, masks[digest])
        if split is not None:
            counts.setdefault(result.label, []).append((*split, float((masks[digest] > 0).mean())))
    return [
        ObjectShare(
            attack=row.runs[-1].attack,
            label=label,
            images=len(found),
            on=sum(on for on, _, _ in found),
            off=sum(off for _, off, _ in found),
            area=float(np.mean([area for _, _, area in found])),
        )
        for label, found in sorted(counts.items())
    ]
