"""Small pictures for reports: lossless PNG written here, so that a report looks the same whatever is installed.

Source: PNG specification, third edition (W3C 2025): signature, IHDR, PLTE, tRNS, IDAT, IEND.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LARGEST_EXACT = 64 * 64  # pixels; larger pictures are photographs, where a lossless file would fill the report


def png_of(image: NDArray[np.uint8]) -> bytes:
    """A gray (H, W) or (H, W, 1), or an RGB (H, W, 3) picture as a PNG file, by its palette where that is shorter."""
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 2:
        return _file(image.shape, 0, b"", image)
    colours, places = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)
    plain = _file(image.shape, 2, b"", image.reshape(len(image), -1))
    if len(colours) > 256:
        return plain
    paletted = palette_png(places.reshape(image.shape[:2]).astype(np.uint8), colours)
    return min(plain, paletted, key=len)


def palette_png(places: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """A picture (H, W) of places in a palette (up to 256, 3) as a PNG file, four bits a pixel where that is enough."""
    plte = _chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if len(palette) > 16:
        return _file(places.shape, 3, plte, places)
    height, width = places.shape
    even = np.zeros((height, width + width % 2), np.uint8)
    even[:, :width] = places
    return _file((height, width), 3, plte, (even[:, ::2] * 16 + even[:, 1::2]).astype(np.uint8), depth=4)


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A picture file as a `data:` address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture_uri(image: NDArray[np.uint8]) -> str:
    """A picture (H, W, C) for a report: exact up to 64x64, above that as WebP of good quality."""
    if image.shape[0] * image.shape[1] <= _LARGEST_EXACT:
        return data_uri(png_of(image))
    import cv2

    swapped = image[..., 0] if image.shape[2] == 1 else np.ascontiguousarray(image[..., ::-1])
    good, coded = cv2.imencode(".webp", swapped, [cv2.IMWRITE_WEBP_QUALITY, 80])
    return data_uri(coded.tobytes(), "image/webp") if good else data_uri(png_of(image))


def _file(shape: tuple[int, ...], colour: int, plte: bytes, rows: NDArray[np.uint8], depth: int = 8) -> bytes:
    height, width = shape[:2]
    lines = np.zeros((height, rows.shape[1] + 1), np.uint8)  # each line is led by its filter, 0: none
    lines[:, 1:] = rows
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 9)
    return _SIGNATURE + _chunk(b"IHDR", header) + plte + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
