"""The words of a result: edits, margins, verdicts, and the one result type of every attack.

Ours and every baseline give an `AttackResult`; comparison, statistics and reports know no attack by name.
Knows nothing of classifiers or search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Margins = NDArray[np.float64]


class Verdict(Enum):
    """What became of one image; the value is the word in result files."""

    FLIPPED = "flipped"
    SURVIVED = "survived"
    UNKNOWN = "unknown"
    EXCLUDED = "excluded"

    @property
    def sentence(self) -> str:
        """What the verdict means, as a sentence for people."""
        return _SENTENCES[self]


_SENTENCES = {
    Verdict.FLIPPED: "An adversarial image was found, rendered and scored once more to make sure.",
    Verdict.SURVIVED: "The whole budget was spent and no adversarial image was found; nothing is proven.",
    Verdict.UNKNOWN: "Not decided: an error or a time limit stopped the attack.",
    Verdict.EXCLUDED: "The classifier was wrong about the unchanged image, or it is of the target class already; there was nothing to attack.",
}


@dataclass(frozen=True, slots=True)
class Edits:
    """N images as sets of changed pixels against a base image, in compressed rows.

    Image i changes `pixels[offsets[i]:offsets[i + 1]]`, each to the colour in the same rows of `values`.
    A pixel occurs at most once in an image; a colour equal to the base's is no change and must not occur.

    pixels: (M,) int64, row * width + column.
    values: (M, C) float32 in [0, 1]; multiples of 1/255 where the input is 8-bit.
    offsets: (N + 1,) int64, from 0 to M, never falling.
    """

    pixels: NDArray[np.int64]
    values: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(N,) number of changed pixels of each image."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """(M,) which image each change belongs to."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def one(self, index: int) -> Edits:
        """The changes of one image alone, N = 1."""
        return self.part(index, index + 1)

    def part(self, start: int, stop: int) -> Edits:
        """The images from `start` up to but not including `stop`, without copying their changes."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        offsets = self.offsets[start : stop + 1] - first
        return Edits(self.pixels[first:last], self.values[first:last], offsets)

    def take(self, indices: NDArray[np.int64]) -> Edits:
        """The images at `indices`, in that order."""
        sizes = self.sizes[indices]
        offsets = np.zeros(len(indices) + 1, dtype=np.int64)
        np.cumsum(sizes, out=offsets[1:])
        where = np.repeat(self.offsets[indices] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return Edits(self.pixels[where], self.values[where], offsets)

    def items(self, index: int = 0) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The (pixel, colour) pairs of one image."""
        for at in range(self.offsets[index], self.offsets[index + 1]):
            yield int(self.pixels[at]), self.values[at]

    def apply(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Render all N images from one base image (H, W, C) in [0, 1]: (N, H, W, C)."""
        height, width, channels = image.shape
        out = np.broadcast_to(image.reshape(1, -1, channels), (len(self), height * width, channels)).copy()
        out[self.rows, self.pixels] = self.values
        return out.reshape(len(self), height, width, channels)

    @staticmethod
    def of(states: Sequence[dict[int, Any]], channels: int) -> Edits:
        """From one dict {pixel: colour (C,)} an image."""
        sizes = [len(state) for state in states]
        offsets = np.zeros(len(states) + 1, dtype=np.int64)
        np.cumsum(sizes, out=offsets[1:])
        pixels = np.fromiter((pixel for state in states for pixel in state), np.int64, int(offsets[-1]))
        colours = [np.asarray(colour, np.float32).reshape(channels) for s in states for colour in s.values()]
        values = np.stack(colours) if colours else np.zeros((0, channels), np.float32)
        return Edits(pixels, values, offsets)

    @staticmethod
    def joined(parts: Sequence[Edits]) -> Edits:
        """All images of several batches, one after the other."""
        every = np.diff(np.concatenate([part.offsets for part in parts]))
        counts = np.array([len(part.offsets) for part in parts])
        inside = np.ones(len(every), bool)
        inside[np.cumsum(counts)[:-1] - 1] = False  # from the end of a part to the beginning of the next
        offsets = np.zeros(len(every) - len(parts) + 2, np.int64)
        np.cumsum(every[inside], out=offsets[1:])
        return Edits(
            np.concatenate([part.pixels for part in parts]),
            np.concatenate([part.values for part in parts]),
            offsets,
        )

    @staticmethod
    def between(base: NDArray[np.float32], changed: NDArray[np.float32]) -> Edits:
        """What turns `base` (H, W, C) into `changed`, N = 1: every pixel any channel of which differs."""
        return Edits.between_each(base[None], changed[None])[0]

    @staticmethod
    def between_each(bases: NDArray[np.float32], changed: NDArray[np.float32]) -> list[Edits]:
        """`between` of each of N pairs of images (N, H, W, C)."""
        count, channels = len(bases), bases.shape[3]
        differs = np.logical_or.reduce(bases != changed, axis=3).reshape(count, -1)
        places = [np.flatnonzero(row).astype(np.int64, copy=False) for row in differs]
        return [
            Edits(pixels, after[pixels].astype(np.float32, copy=False), np.array([0, len(pixels)], dtype=np.int64))
            for pixels, after in zip(places, changed.reshape(count, -1, channels), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Distances:
    """How far one image is from another; all of it, whatever norm was minimised.

    l0_pixels: places where any channel differs. l0_dims: single channels that differ.
    l1, l2, linf: of the difference, images in [0, 1].
    """

    l0_pixels: int
    l0_dims: int
    l1: float
    l2: float
    linf: float


def distances_between(base: NDArray[np.float32], changed: NDArray[np.float32]) -> Distances:
    """Distances of two images (H, W, C) in [0, 1], computed in float64."""
    return distances_of_each(base[None], changed[None])[0]


def distances_of_each(bases: NDArray[np.float32], changed: NDArray[np.float32]) -> list[Distances]:
    """`distances_between` of each of N pairs of images (N, H, W, C)."""
    gaps = np.abs(changed.astype(np.float64) - bases.astype(np.float64))
    moved, flat = gaps > 0, gaps.reshape(len(bases), -1)
    columns = (
        np.logical_or.reduce(moved, axis=3).sum(axis=(1, 2)),
        moved.sum(axis=(1, 2, 3)),
        flat.sum(axis=1),
        np.sqrt((flat**2).sum(axis=1)),
        flat.max(axis=1, initial=0.0),
    )
    return [Distances(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


Map = NDArray[np.float64]


class SaliencyChange:
    """The mutable saliency distribution of one image: (H, W) maps, each summing to 1.

    before, after: the search. Of `later` they are computed when first looked at: most are never shown.
    """

    __slots__ = ("_make", "_maps")

    def __init__(self, before: Map, after: Map) -> None:
        self._maps: tuple[Map, Map] | None = (before, after)
        self._make: Callable[[], tuple[Map, Map]] | None = None

    @staticmethod
    def later(make: Callable[[], tuple[Map, Map]]) -> SaliencyChange:
        """The maps that a call will give."""
        change = SaliencyChange.__new__(SaliencyChange)
        change._maps, change._make = None, make
        return change

    @property
    def before(self) -> Map:
        """What the features alone say."""
        return self._both()[0]

    @property
    def after(self) -> Map:
        """The same, reweighted by what the search learned."""
        return self._both()[1]

    def _both(self) -> tuple[Map, Map]:
        if self._maps is None:
            assert self._make is not None
            self._maps, self._make = self._make(), None
        return self._maps

    def __reduce__(self) -> tuple[Any, ...]:
        return SaliencyChange, self._both()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """What one attack found on one image.

    verdict: what became of the image. reason: why, where the verdict is UNKNOWN or needs a word more.
    label: the class to be kept; target: the class to be reached, or None for any other.
    predicted: class of the adversarial image (or of the clean one where none was found; None if unknown).
    image: (H, W, C) the adversarial image, uint8 where the input is 8-bit, else float32 in [0, 1]; or None.
    edits: its changes against the clean image (N = 1), or None.
    l0_pixels .. linf: its distances, or None: what was not found has no distance.
    minimal: every single pixel was put back and the image was no longer adversarial; None where no image.
    queries: images sent to the classifier by the attack, the clean one included; above the budget only where
        `AttackSettings.minimal` asks for that.
    remembered: images asked for again and answered from memory. checks: images scored to re-check the answer.
    gradients: backward passes, 0 for a black-box attack.
    margin: the lowest margin of all images scored, < 0 if flipped; seldom that of `image`, which is the nearest flip.
    curve: (queries, distance in the norm attacked) at every improvement, rising in queries.
    seconds: time in this image's own search; not part of what is compared or repeated bit for bit.
    """

    verdict: Verdict
    attack: str
    norm: str
    label: int
    target: int | None
    seed: int
    budget: int
    reason: str = ""
    predicted: int | None = None
    image: NDArray[np.uint8] | NDArray[np.float32] | None = None
    edits: Edits | None = None
    l0_pixels: int | None = None
    l0_dims: int | None = None
    l1: float | None = None
    l2: float | None = None
    linf: float | None = None
    minimal: bool | None = None
    queries: int = 0
    remembered: int = 0
    checks: int = 0
    gradients: int = 0
    margin: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    saliency: SaliencyChange | None = None
    decision_only: bool = False
    seconds: float = 0.0

    @property
    def flipped(self) -> bool:
        """True where an adversarial image was found and re-scored."""
        return self.verdict is Verdict.FLIPPED


def rounded_down(value: float) -> str:
    """A proven distance >= 0 in six digits, never more than it: printed figures are claims, too."""
    text = f"{value:.6g}"
    return text if float(text) <= value else f"{value * (1 - 1e-5):.6g}"
