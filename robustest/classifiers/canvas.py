"""A canvas in the computer's main memory, for any classifier that takes arrays.

Rows of one buffer are reused from call to call: a row that keeps its base image gets its last edits undone and the new
ones drawn, so that a query costs as many bytes as it changes, not as many as the image has.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers import drawing
from robustest.classifiers.spec import InputSpec
from robustest.compiled import fast
from robustest.results import Edits, Scores

_MANY = 64  # images a call that were chosen for what each call costs: half as many again save every third call


class HostCanvas:
    """Draws edits into a reused buffer that has the model's own layout and value range.

    Args:
        run: scores a batch in the model's own layout, (N, H, W, C) or (N, C, H, W) float32.
        spec: the model's layout, channel order and value range; None where it takes NHWC RGB in [0, 1].
        shape: (H, W, C) of the images.
        slots: base images held. rows: images a call to `run`, >= 1.
        most: images a call where that saves a call, >= rows; None for `rows`.
        pad: always call `run` with exactly `rows` images (the last repeated), for a model whose answer may depend on it.
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.float32]], Scores],
        spec: InputSpec | None,
        shape: tuple[int, int, int],
        *,
        slots: int,
        rows: int,
        most: int | None = None,
        pad: bool = False,
    ) -> None:
        height, width, channels = shape
        self._run, self._spec, self._pad = run, spec, pad
        self._shape = shape
        self._first = spec is not None and spec.layout == "NCHW"
        self._flip = spec is not None and spec.channels == "BGR"
        inner = (channels, height * width) if self._first else (height * width, channels)
        self._bases = np.zeros((slots, *inner), np.float32)
        room = rows if pad or most is None else most
        self._rows = rows
        self._buffer = np.zeros((room, *inner), np.float32)
        self._slot_of_row = np.full(room, -1, np.int64)
        self._drawn = Edits(np.zeros(0, np.int64), np.zeros((0, channels), np.float32), np.zeros(1, np.int64))
        self._affine = np.stack(spec.affine()) if spec is not None else np.zeros((0, channels), np.float32)
        pixel, channel = (1, height * width) if self._first else (channels, 1)
        self._steps = (pixel, -channel, channel * (channels - 1)) if self._flip else (pixel, channel, 0)

    def place(self, slot: int, image: NDArray[np.float32]) -> None:
        """Put a base image (H, W, C) in [0, 1] into a slot."""
        colours = self._model_values(image.reshape(-1, image.shape[2]))
        self._bases[slot] = colours.T if self._first else colours
        self._slot_of_row[self._slot_of_row == slot] = -1

    def score(self, slots: NDArray[np.int64], edits: Edits) -> Scores:
        """Scores of base `slots[i]` with the i-th edits, for all i."""
        count = len(edits)
        if count <= len(self._buffer):
            return self._score_part(slots, edits)
        calls = -(-count // (len(self._buffer) if self._rows >= _MANY else self._rows))
        bounds = [min(call * self._rows, count) if self._pad else call * count // calls for call in range(calls + 1)]
        return np.concatenate(
            [self._score_part(slots[start:stop], edits.part(start, stop)) for start, stop in pairwise(bounds)]
        )

    def _score_part(self, slots: NDArray[np.int64], edits: Edits) -> Scores:
        count = len(edits)
        if fast():
            self._redraw_compiled(slots, edits)
        else:
            self._redraw(slots, edits)
        self._drawn = edits
        scores = self._run(self._batch(self._rows if self._pad else count))
        return scores[:count]

    def _redraw(self, slots: NDArray[np.int64], edits: Edits) -> None:
        """Undo the last edits, bring in another base image where it changes, and draw the new edits."""
        dirty_rows, dirty_pixels = self._drawn.rows, self._drawn.pixels
        owners = self._slot_of_row[dirty_rows]
        live = owners >= 0
        self._draw(dirty_rows[live], dirty_pixels[live], self._pixels_of(owners[live], dirty_pixels[live]))
        changed = np.flatnonzero(self._slot_of_row[: len(edits)] != slots)
        self._buffer[changed] = self._bases[slots[changed]]
        self._slot_of_row[changed] = slots[changed]
        self._draw(edits.rows, edits.pixels, self._model_values(edits.values))

    def _redraw_compiled(self, slots: NDArray[np.int64], edits: Edits) -> None:
        drawing.redraw(
            self._buffer.reshape(len(self._buffer), -1),
            self._bases.reshape(len(self._bases), -1),
            self._slot_of_row,
            self._drawn.pixels,
            self._drawn.offsets,
            slots,
            edits.pixels,
            edits.offsets,
            edits.values,
            self._affine,
            self._steps,
        )

    def _batch(self, count: int) -> NDArray[np.float32]:
        height, width, channels = self._shape
        batch = self._buffer[:count]
        if self._first:
            return batch.reshape(count, channels, height, width)
        return batch.reshape(count, height, width, channels)

    def _model_values(self, colours: NDArray[np.float32]) -> NDArray[np.float32]:
        values = colours if self._spec is None else self._spec.values(colours)
        return values[:, ::-1] if self._flip else values

    def _pixels_of(self, slots: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._bases[slots, :, pixels] if self._first else self._bases[slots, pixels]

    def _draw(self, rows: NDArray[np.int64], pixels: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        if self._first:
            self._buffer[rows, :, pixels] = values
        else:
            self._buffer[rows, pixels] = values
