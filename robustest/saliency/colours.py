"""Colours for maps of numbers: from dark (little) to bright (much), readable in gray print and by the colour-blind.

Knows nothing of classifiers, games or search.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Lightness rises all the way, so that the order survives a gray print; hue runs from blue over red to yellow, which
# people with any of the usual colour deficiencies tell apart.
_STOPS = np.array(
    [
        (10, 10, 32),
        (46, 18, 94),
        (104, 26, 118),
        (162, 42, 104),
        (214, 68, 72),
        (244, 118, 42),
        (252, 182, 56),
        (252, 246, 180),
    ],
    dtype=np.float64,
)


def heat_palette(levels: int = 256) -> NDArray[np.uint8]:
    """(levels, 3) colours from little to much."""
    places = np.linspace(0, len(_STOPS) - 1, levels)
    columns = [np.interp(places, np.arange(len(_STOPS)), _STOPS[:, channel]) for channel in range(3)]
    return np.rint(np.stack(columns, axis=1)).astype(np.uint8)


def heat_levels(values: NDArray[np.float64], levels: int = 256) -> NDArray[np.uint8]:
    """(H, W) place of each value >= 0 in the palette: 0 is 0 and the largest value is the last colour."""
    top = float(values.max(initial=0.0))
    if top <= 0:
        return np.zeros(values.shape, np.uint8)
    return np.rint(np.clip(values / top, 0, 1) * (levels - 1)).astype(np.uint8)
