"""A canvas in the computer's main memory, for any classifier that takes arrays.

Rows of one buffer are reused from call to call: a row that keeps its base image gets its last edits undone and the new
ones drawn, so that a query costs as many bytes as it changes, not as many as the image has.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.spec import InputSpec
from robustest.results import Edits, Scores


class HostCanvas:
    """Draws edits into a reused buffer that has the model's own layout and value range.

    Args:
        run: scores a batch in the model's own layout, (N, H, W, C) or (N, C, H, W) float32.
        spec: the model's layout, channel order and value range; None where it takes NHWC RGB in [0, 1].
        shape: (H, W, C) of the images.
        slots: base images held. rows: images a call to `run`, >= 1.
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
        pad: bool = False,
    ) -> None:
        height, width, channels = shape
        self._run, self._spec, self._pad = run, spec, pad
        self._shape = shape
        self._first = spec is not None and spec.layout == "NCHW"
        self._flip = spec is not None and spec.channels == "BGR"
        inner = (channels, height * width) if self._first else (height * width, channels)
        self._bases = np.zeros((slots, *inner), np.float32)
        self._buffer = np.zeros((rows, *inner), np.float32)
        self._slot_of_row = np.full(rows, -1, np.int64)
        self._dirty: tuple[NDArray[np.int64], NDArray[np.int64]] = (np.zeros(0, np.int64), np.zeros(0, np.int64))

    @property
    def rows(self) -> int:
        """Images a call to the model."""
        return len(self._buffer)

    def place(self, slot: int, image: NDArray[np.float32]) -> None:
        """Put a base image (H, W, C) in [0, 1] into a slot."""
        colours = self._model_values(image.reshape(-1, image.shape[2]))
        self._bases[slot] = colours.T if self._first else colours
        self._slot_of_row[self._slot_of_row == slot] = -1

    def score(self, slots: NDArray[np.int64], edits: Edits) -> Scores:
        """Scores of base `slots[i]` with the i-th edits, for all i."""
        rows = self.rows
        if len(edits) <= rows:
            return self._score_part(slots, edits)
        starts = range(0, len(edits), rows)
        parts = [np.arange(start, min(start + rows, len(edits))) for start in starts]
        return np.concatenate([self._score_part(slots[part], edits.take(part)) for part in parts])

    def _score_part(self, slots: NDArray[np.int64], edits: Edits) -> Scores:
        count = len(edits)
        dirty_rows, dirty_pixels = self._dirty
        owners = self._slot_of_row[dirty_rows]
        live = owners >= 0
        self._draw(dirty_rows[live], dirty_pixels[live], self._pixels_of(owners[live], dirty_pixels[live]))
        changed = np.flatnonzero(self._slot_of_row[:count] != slots)
        self._buffer[changed] = self._bases[slots[changed]]
        self._slot_of_row[changed] = slots[changed]
        rows = edits.rows
        self._draw(rows, edits.pixels, self._model_values(edits.values))
        self._dirty = (rows, edits.pixels)
        scores = self._run(self._batch(self.rows if self._pad else count))
        return scores[:count]

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
