"""The pictures of one image in a report: what it was, where the search looked, what was changed.

Changed pixels are drawn as squares over the clean picture, exact to the pixel at any size, so that one picture a
image is enough; only changes of very many pixels become a picture of their own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.images import Pixels, as_eight_bit, as_unit
from robustest.report.png import data_uri, palette_png, picture_uri
from robustest.results import Edits
from robustest.saliency.colours import heat_levels, heat_palette

_MOST_SQUARES = 600  # changed pixels drawn as squares; more are drawn as a picture
_MOST_RINGS = 60  # changed pixels that get a ring; among more, rings would hide the image
_MAP_SIDE = 56  # longest side of a map of numbers, in cells
_LEVELS = 16


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a gallery card shows of one image, as data addresses and SVG path data.

    found: whether there is an adversarial image, which the rest is about.
    saliency, saliency_after: heat maps, empty where there is none.
    changed, difference: (colour, path) of the changed pixels' squares: their new colour; the change on mid-grey.
    rings: path of the outlines that mark changed pixels, or empty. adversarial: a picture in place of squares, or empty.
    """

    height: int
    width: int
    found: bool = False
    saliency: str = ""
    saliency_after: str = ""
    changed: tuple[tuple[str, str], ...] = ()
    difference: tuple[tuple[str, str], ...] = ()
    rings: str = ""
    adversarial: str = ""


def eight_bits(image: Pixels) -> NDArray[np.uint8]:
    """An image as a screen shows it."""
    return as_eight_bit(as_unit(image))


def heat_uri(values: NDArray[np.float64]) -> str:
    """A map of numbers >= 0 as a small picture, dark for 0 and bright for the largest."""
    return data_uri(palette_png(heat_levels(coarse(values), _LEVELS), heat_palette(_LEVELS)))


def ramp_uri() -> str:
    """The colours of `heat_uri` from little to much, as a strip."""
    return data_uri(palette_png(np.arange(64, dtype=np.uint8)[None], heat_palette(64)))


def coarse(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A map summed into at most 56 cells a side, so that a large image's map stays small and readable."""
    step = -(-max(values.shape) // _MAP_SIDE)
    if step == 1:
        return values
    height, width = values.shape
    padded = np.pad(values, ((0, -height % step), (0, -width % step)))
    cells = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    return np.asarray(cells.sum(axis=(1, 3)))


def pictures_of(
    clean: Pixels,
    changed: Pixels | None,
    before: NDArray[np.float64] | None = None,
    after: NDArray[np.float64] | None = None,
) -> Pictures:
    """The pictures of one image.

    Args:
        clean, changed: (H, W, C), the second None where no adversarial image was found.
        before, after: (H, W) saliency before and after the search, None where not known.
    """
    height, width = clean.shape[:2]
    first = heat_uri(before) if before is not None else ""
    second = heat_uri(after) if after is not None else ""
    if changed is None:
        return Pictures(height, width, False, first, second)
    was, now = as_unit(clean), as_unit(changed)
    edits = Edits.between(was, now)
    if len(edits.pixels) > _MOST_SQUARES:
        picture = picture_uri(eight_bits(changed))
        return Pictures(height, width, True, first, second, difference=_cells(was, now), adversarial=picture)
    gap = edits.values - was.reshape(-1, was.shape[2])[edits.pixels]
    return Pictures(
        height,
        width,
        True,
        first,
        second,
        changed=_squares(edits.pixels, np.rint(edits.values * 255).astype(np.uint8), width),
        difference=_squares(edits.pixels, np.rint(127.5 + 127.5 * gap).astype(np.uint8), width),
        rings=_rings(edits.pixels, height, width) if len(edits.pixels) <= _MOST_RINGS else "",
    )


def _squares(pixels: NDArray[np.int64], colours: NDArray[np.uint8], width: int) -> tuple[tuple[str, str], ...]:
    """Unit squares grouped by colour, as SVG path data."""
    groups: dict[str, list[str]] = defaultdict(list)
    for pixel, colour in zip(pixels.tolist(), colours.tolist(), strict=True):
        red, green, blue = colour * 3 if len(colour) == 1 else colour
        groups[f"#{red:02x}{green:02x}{blue:02x}"].append(_square(pixel, width))
    return tuple((colour, "".join(parts)) for colour, parts in sorted(groups.items()))


def _square(pixel: int, width: int) -> str:
    return f"M{pixel % width} {pixel // width}h1v1h-1z"


def _rings(pixels: NDArray[np.int64], height: int, width: int) -> str:
    """Square outlines around changed pixels, with room between so that the new colour stays visible."""
    room = round(max(0.7, 0.016 * max(height, width)), 1)
    side = 1 + 2 * room
    starts = ((pixel % width - room, pixel // width - room) for pixel in pixels.tolist())
    return "".join(f"M{x:g} {y:g}h{side:g}v{side:g}h-{side:g}z" for x, y in starts)


def _cells(was: NDArray[np.float32], now: NDArray[np.float32]) -> tuple[tuple[str, str], ...]:
    """Where very many pixels changed: the largest change in each of at most 28 x 28 cells, in 7 steps above mid-grey."""
    height, width = was.shape[:2]
    step = -(-max(height, width) // 28)
    gap = np.abs(now - was).max(axis=2)
    groups: dict[str, list[str]] = defaultdict(list)
    for row in range(0, height, step):
        for column in range(0, width, step):
            level = 128 + 18 * round(7 * float(gap[row : row + step, column : column + step].max() / gap.max()))
            tall, wide = min(step, height - row), min(step, width - column)
            if level > 128:
                groups[f"#{level:02x}{level:02x}{level:02x}"].append(f"M{column} {row}h{wide}v{tall}h-{wide}z")
    return tuple((colour, "".join(parts)) for colour, parts in groups.items())
