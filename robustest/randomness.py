"""One random stream an image: the same in any order, on any number of workers, after any interruption."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def image_digest(image: NDArray[np.uint8] | NDArray[np.float32]) -> str:
    """sha256 of an image's type, shape and bytes, in hexadecimal."""
    header = f"{image.dtype.str}{image.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(image).tobytes()).hexdigest()


def stream(seed: int, image_id: str, *, purpose: str = "") -> np.random.Generator:
    """The random stream of one image.

    Args:
        seed: of the whole run, >= 0.
        image_id: any text that names the image, here its digest: never its place in a batch.
        purpose: a word for further independent streams of the same image.
    """
    digest = hashlib.blake2b(f"{purpose}:{image_id}".encode(), digest_size=16).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")])
