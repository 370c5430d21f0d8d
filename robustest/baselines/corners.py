"""The corners of the colour cube, as edits: what most few-pixel attacks draw their colours from.

Knows nothing of any attack.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack.task import Task
from robustest.errors import InvalidSetting
from robustest.results import Edits
from robustest.settings import AttackSettings

ANY_COLOUR = ("one-pixel", "sparse-evo")  # attacks on pixels that draw other colours than corners

Ints = NDArray[np.int64]


class Corners:
    """The 2^C corner colours against one image.

    Attributes:
        base: (P, C) colours of the clean image. colours: (V, C) the corners, V = 2^C.
        changes: (V, P) True where giving that pixel that colour changes it.
    """

    def __init__(self, image: NDArray[np.float32]) -> None:
        channels = image.shape[2]
        self.base = image.reshape(-1, channels)
        bits = (np.arange(2**channels)[:, None] >> np.arange(channels)) & 1
        self.colours: NDArray[np.float32] = bits.astype(np.float32)
        self.changes = (self.base[None] != self.colours[:, None]).any(axis=2)

    @property
    def pixels(self) -> int:
        """Pixels of the image."""
        return len(self.base)

    @property
    def count(self) -> int:
        """Corner colours, 2^C."""
        return len(self.colours)

    def edits(self, pixels: Ints, codes: Ints) -> Edits:
        """N images that all change k pixels: (N, k) pixels and corner numbers; what changes nothing is left out."""
        seen = self.changes[codes, pixels]
        offsets = np.zeros(len(pixels) + 1, np.int64)
        np.cumsum(seen.sum(axis=1), out=offsets[1:])
        return Edits(pixels[seen], self.colours[codes[seen]], offsets)

    def edit(self, pixels: Ints, codes: Ints) -> Edits:
        """One image that changes k pixels: (k,) pixels and corner numbers; what changes nothing is left out."""
        seen = self.changes[codes, pixels]
        changed = pixels[seen]
        return Edits(changed, self.colours[codes[seen]], np.array([0, len(changed)]))

    def drawn(self, sizes: list[int], rng: np.random.Generator) -> Edits:
        """Images of so many random distinct pixels at random corners; what changes nothing is left out."""
        pixels = np.concatenate([rng.choice(self.pixels, size, replace=False) for size in sizes])
        codes = rng.integers(self.count, size=len(pixels))
        seen = self.changes[codes, pixels]
        ends = np.concatenate([[0], np.cumsum(seen)])[np.cumsum([0, *sizes])]
        return Edits(pixels[seen], self.colours[codes[seen]], ends.astype(np.int64))

    def singles(self) -> tuple[Ints, Ints]:
        """Every (pixel, corner) that changes the image, in the order of the pixels."""
        pixels, codes = np.nonzero(self.changes.T)
        return pixels.astype(np.int64), codes.astype(np.int64)


def check_settings(settings: AttackSettings, attack: str) -> None:
    """Refuse settings that an attack on pixels cannot follow.

    Raises:
        InvalidSetting: another norm than l0 or l0_dims, or other values than corners where the attack draws corners.
    """
    game = "the attack game (--attack game, in robustest compare --attacks game)"
    if settings.norm not in ("l0", "l0_dims"):
        raise InvalidSetting(
            f"attack {attack!r} changes few pixels: norm must be l0 or l0_dims; got {settings.norm!r}. Take --norm l0, or {game}, "
            "which knows every norm."
        )
    if attack not in ANY_COLOUR and settings.values != "corners":
        raise InvalidSetting(
            f"attack {attack!r} draws corners of the colour cube: values must be corners; got {settings.values!r}. Take "
            f"--values corners, or {game}, which knows other colours."
        )


def check_task(task: Task, attack: str) -> None:
    """Refuse a task whose settings an attack on pixels cannot follow, as `check_settings` does."""
    check_settings(task.settings, attack)


def check_pixels(attack: str, k: int, most: int) -> int:
    """The number of pixels `k` an attack may change, no more than the image has.

    Raises:
        InvalidSetting: below 1.
    """
    if k < 1:
        raise InvalidSetting(f"attack {attack!r}: the number of pixels k must be >= 1; got {k}.")
    return min(k, most)
