"""The palette: which colours each pixel may be given in a few-pixel search."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from robustest.settings import Values

SEEN = np.float32(0.5 / 255)  # a change smaller than half an 8-bit step is none


@lru_cache(maxsize=8)
def _corners(levels: int, channels: int, eight_bit: bool) -> NDArray[np.float32]:
    """(levels^C, 1, C) the corners of the colour cube, and with three levels the middles between them, 128/255 in 8 bits."""
    digits = np.arange(levels**channels)[:, None] // levels ** np.arange(channels) % levels
    corners = (digits / (levels - 1)).astype(np.float32)[:, None, :]
    corners = _rounded(corners) if eight_bit else corners
    corners.setflags(write=False)  # all images share them
    return corners


def _rounded(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours as multiples of 1/255."""
    return np.rint(colours * 255).astype(np.float32) / np.float32(255)


class Palette:
    """V candidate colours for every pixel of one image.

    `corners`: the 2^C corners of the colour cube. `free`: every channel at an end or in the middle, 3^C, and no other colour; a
    smooth margin is seldom lowest inside, so finer steps cost more queries than they save. `tau`: a step up or down in every
    channel.

    Attributes:
        colours: (V, P, C) float32 in [0, 1], or (V, 1, C) where all pixels have the same; multiples of 1/255 where `eight_bit`.
        count: V.
        base: (P, C) float32, the image.
    """

    def __init__(self, image: NDArray[np.float32], values: Values, tau: float, *, eight_bit: bool) -> None:
        channels = image.shape[2]
        base = image.reshape(-1, channels)
        corners = _corners(3 if values == "free" else 2, channels, eight_bit and values != "tau")
        if values == "tau":
            corners = np.clip(base + np.float32(tau) * (2 * corners - 1), 0, 1)
            corners = _rounded(corners) if eight_bit else corners
        self.colours: NDArray[np.float32] = np.array(corners, np.float32, order="C")
        self.count = len(self.colours)
        self.base: NDArray[np.float32] = np.ascontiguousarray(base, np.float32)

    def change(self, colour: int) -> NDArray[np.float32]:
        """(P, C) difference that one of the colours makes to the image."""
        change: NDArray[np.float32] = self.colours[colour] - self.base
        change[np.abs(change) < SEEN] = 0
        return change

    def squares(self, colour: int) -> NDArray[np.float32]:
        """(P,) of `change`, the squares added up channel by channel, in this order."""
        total = np.zeros(len(self.base), np.float32)
        for channel in range(self.base.shape[1]):
            change = self.colours[colour, :, channel] - self.base[:, channel]
            total += np.where(np.abs(change) < SEEN, np.float32(0), np.square(change))
        return total

    def changes(self, colours: NDArray[np.int64], pixels: NDArray[np.int64], channel: int) -> NDArray[np.float32]:
        """One channel of the differences that edits make to their pixels."""
        rows = pixels if self.colours.shape[1] > 1 else 0
        change: NDArray[np.float32] = self.colours[colours, rows, channel] - self.base[pixels, channel]
        change[np.abs(change) < SEEN] = 0
        return change
