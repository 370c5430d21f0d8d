"""The images of a run, kept in the run folder so that it is complete in itself and read without loading all of it.

    images/<digest>.pixels.npy     (N, H, W, C) uint8 or float32, read through a memory map
    images/<digest>.labels.npy     (N,) int64
    images/<digest>.digests.npy    (N, 32) uint8, sha256 of each image
    images/<digest>.names.json     N names

The digest is that of all images and labels, so that two processes that plan at once write the same files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from robustest.audit.files import write_array, writing
from robustest.audit.records import Values
from robustest.errors import RunConflict
from robustest.images import ImageSet


def set_digest(images: ImageSet) -> str:
    """sha256 of all images' digests and labels, in order."""
    whole = hashlib.sha256()
    for digest, label in zip(images.digests, images.labels.tolist(), strict=True):
        whole.update(f"{digest} {label}\n".encode())
    return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class StoredImages:
    """Images of a run, mapped from its folder.

    pixels: (N, H, W, C). labels: (N,). digests: (N, 32) sha256 of each. names: N.
    """

    pixels: Values
    labels: NDArray[np.int64]
    digests: NDArray[np.uint8]
    names: tuple[str, ...]

    def sha256(self, index: int) -> str:
        """Digest of one image, in hexadecimal."""
        return bytes(self.digests[index]).hex()


def store_images(folder: Path, images: ImageSet, digest: str) -> None:
    """Write the images into a run folder; files that are there already are the same and stay."""
    place = folder / "images"
    place.mkdir(parents=True, exist_ok=True)
    digests = np.frombuffer(bytes.fromhex("".join(images.digests)), np.uint8).reshape(-1, 32)
    for name, array in (("pixels", images.images), ("labels", images.labels), ("digests", digests)):
        path = place / f"{digest[:16]}.{name}.npy"
        if not path.exists():
            with writing(path) as handle:
                write_array(handle, array)
    names = place / f"{digest[:16]}.names.json"
    if not names.exists():
        with writing(names) as handle:
            handle.write(json.dumps(list(images.names)).encode())


def open_images(folder: Path, digest: str) -> StoredImages:
    """The images of a run.

    Raises:
        RunConflict: they are not there, or damaged.
    """
    place = folder / "images"
    try:
        pixels = np.load(place / f"{digest[:16]}.pixels.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(place / f"{digest[:16]}.labels.npy", allow_pickle=False)
        digests = np.load(place / f"{digest[:16]}.digests.npy", allow_pickle=False)
        names = tuple(str(name) for name in json.loads((place / f"{digest[:16]}.names.json").read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise RunConflict(
            f"the images of the run {str(folder)!r} cannot be read: {error}. Plan the run again in another folder."
        ) from error
    if not len(pixels) == len(labels) == len(digests) == len(names):
        raise RunConflict(f"the images of the run {str(folder)!r} are damaged: their files differ in length.")
    return StoredImages(cast("Values", pixels), labels, digests, names)


def stored_images(folder: Path, digest: str) -> Values | None:
    """(N, H, W, C) the images of a run, not read until used; None where the folder does not hold them."""
    if not (folder / "images" / f"{digest[:16]}.pixels.npy").is_file():
        return None
    return open_images(folder, digest).pixels
