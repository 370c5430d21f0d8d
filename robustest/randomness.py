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


def skip_draws(rng: np.random.Generator, count: int) -> None:
    """Go on in a stream of `stream` as if so many 64-bit numbers had been drawn."""
    source = rng.bit_generator
    assert isinstance(source, np.random.PCG64)
    before = source.state
    source.advance(count)
    # `advance` forgets half a number that a 32-bit draw left over; a 64-bit draw would have kept it.
    source.state = {**source.state, "has_uint32": before["has_uint32"], "uinteger": before["uinteger"]}
