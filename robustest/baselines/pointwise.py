"""Pointwise: salt-and-pepper noise, then every pixel put back that can be. Needs the label alone.

Source: Schott, Rauber, Bethge & Brendel, ICLR 2019, arXiv:1805.09190: start from the sparsest salt-and-pepper image that
is misclassified, put pixels back one by one in random order while it stays so, until a whole round changes nothing;
repeat from new noise and keep the best. Departures: a pixel (all channels) is put back, not a single channel; no final
line search towards the clean value, which leaves images that vanish when rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from robustest.attack.shrink import keeping
from robustest.attack.task import Search, Task
from robustest.baselines.corners import Corners, check_task
from robustest.results import Edits, Margins

_NOISE_TRIES = 30  # noise images tried before the pixels of the sparsest are put back


def pointwise(task: Task, rng: np.random.Generator) -> Search:
    """Noise, then put back; again from new noise until the queries are spent."""
    check_task(task, "pointwise")
    corners = Corners(task.image)
    while True:
        state = yield from _sparse_noise(corners, rng)
        changed = state is not None
        while changed and state is not None:
            changed = False
            for pixel in rng.permutation(state.pixels).tolist():
                if len(state.pixels) == 1:
                    break
                candidate = keeping(state, (state.pixels != pixel)[None])
                if (yield candidate)[0] < 0:
                    state, changed = candidate, True


def _sparse_noise(corners: Corners, rng: np.random.Generator) -> Generator[Edits, Margins, Edits | None]:
    """The sparsest misclassified of some salt-and-pepper images, their density halved in on; None if none was."""
    lower, upper = 0.0, 1.0
    best: Edits | None = None
    for _ in range(_NOISE_TRIES):
        density = (lower + upper) / 2
        pixels = np.flatnonzero(rng.random(corners.pixels) < density)
        if not len(pixels):
            break
        # Salt and pepper: a pixel goes to white or to black as a whole.
        codes = np.where(rng.random(len(pixels)) < 0.5, 0, corners.count - 1)
        state = corners.edits(pixels[None], codes[None])
        if (yield state)[0] < 0:
            upper = density
            if best is None or len(state.pixels) < len(best.pixels):
                best = state
        else:
            lower = density
        if upper - lower < 1 / corners.pixels:
            break
    return best
