"""The palette: which colours each pixel may be given in a few-pixel search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.settings import Values

SEEN = np.float32(0.5 / 255)  # a change smaller than half an 8-bit step is none


class Palette:
    """V candidate colours for every pixel of one image.

    `corners`: the 2^C corners of the colour cube. `free`: these and the middles between them, 3^C; a smooth margin is
    seldom lowest inside, so finer steps cost more queries than they save. `tau`: a step up or down in every channel.

    Attributes:
        colours: (V, P, C) float32 in [0, 1], or (V, 1, C) where all pixels have the same; multiples of 1/255 where `eight_bit`.
        count: V.
        base: (P, C) float32, the image.
    """

    def __init__(self, image: NDArray[np.float32], values: Values, tau: float, *, eight_bit: bool) -> None:
        channels = image.shape[2]
        base = image.reshape(-1, channels)
        levels = 3 if values == "free" else 2
        digits = np.arange(levels**channels)[:, None] // levels ** np.arange(channels) % levels
        corners = (digits / (levels - 1)).astype(np.float32)[:, None, :]
        colours = np.clip(base + np.float32(tau) * (2 * corners - 1), 0, 1) if values == "tau" else corners
        if eight_bit:
            colours = np.rint(colours * 255).astype(np.float32) / np.float32(255)
        self.colours: NDArray[np.float32] = np.ascontiguousarray(colours, np.float32)
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
