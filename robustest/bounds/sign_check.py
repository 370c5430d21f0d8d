"""Compares a network of signs with the graph that was read from it, where rounding may turn a sign.

A network that jumps cannot be compared up to a tolerance: one sign near 0 that rounding turns changes scores by whole
numbers. So every pattern of signs that rounding allows is worked out at the image, and the model must give the scores of
one of them, up to the rounding behind the last sign. Images that allow too many patterns are drawn again.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from robustest.bounds.errors import GraphMismatch
from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import Scorer
from robustest.bounds.sign_cells import score_cells

_ENOUGH, _DRAWN = 8, 64
"""Images that must be compared, and those that are drawn for it at most."""
_SOFTMAX = 2.0**-14
"""What a float32 softmax's logarithms may be off by, beyond what its inputs are."""


def check_signs(graph: BoundGraph, scores: Scorer, *, seed: int = 0) -> None:
    """Compare with the model on random images; refuse the graph where no pattern of signs gives its scores.

    Args:
        graph: the network, with a layer that jumps.
        scores: the model itself, (N, H, W, C) float32 in [0, 1] to (N, K).
        seed: of the random images.

    Raises:
        GraphMismatch: the graph is not the model, or too few images could be compared.
    """
    rng = np.random.default_rng(seed)
    compared = 0
    for place in range(_DRAWN):
        image = rng.random(graph.input_shape).astype(np.float32)
        if place % 2:
            # Values of files, some of them of few shades: such as the network was made for.
            image = (np.round(image * 255) / 255).astype(np.float32) if place % 4 == 1 else np.round(image)
        cells = score_cells(graph, torch.from_numpy(image).reshape(1, -1).double())
        if cells is None:
            continue
        theirs = np.asarray(scores(image[None]), dtype=np.float64).reshape(-1)
        if theirs.shape != (graph.n_classes,):
            raise GraphMismatch(f"the model gives {len(theirs)} scores, the graph {graph.n_classes}.")
        off = _distance(graph.softmax, theirs, *cells)
        if not off <= 0:
            raise GraphMismatch(
                f"the graph differs from the model by {off:g} more than rounding explains on a random image, whichever "
                f"way it turns the signs of {graph.jumps}. Check the input spec; no bound is given for another network."
            )
        compared += 1
        if compared == _ENOUGH:
            return
    raise GraphMismatch(
        f"the graph cannot be compared with the model: on {_DRAWN - compared} of {_DRAWN} random images rounding leaves "
        f"too many signs of layers like {graph.jumps} open. No bound is given for a network that may be another."
    )


def _distance(
    softmax: bool, theirs: NDArray[np.float64], middle: NDArray[np.float64], half: NDArray[np.float64]
) -> float:
    """By how much the model's scores lie outside those of the nearest pattern; middle and half are (K, P)."""
    if not softmax:
        return float((np.abs(theirs[:, None] - middle) - half).max(axis=0).min())
    # Logarithms of probabilities show small ones too; those that underflow to 0 show nothing.
    top = middle.max(axis=0)
    ours = middle - (top + np.log(np.exp(middle - top).sum(axis=0)))
    seen = theirs > 2.0**-100
    gap = np.abs(np.log(theirs[seen])[:, None] - ours[seen])
    return float((gap - 2 * half.max(axis=0) - _SOFTMAX).max(axis=0).min())
