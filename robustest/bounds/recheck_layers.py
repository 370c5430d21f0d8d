"""The layers of a network as the recheck of certificates knows them: sparse matrices, bends, maxima and sums on flat arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layer:
    """One step on flattened arrays.

    inputs: earlier layers, by index; layer 0 is the image.
    matrix, bias: of an affine layer, else None. leak: slope below zero of a ReLU, else None. zero: value at zero of a
    sign, else None. taps: (size, k) entries of the input whose maximum is taken, -1 for none, else None. None of them: a sum.
    mass: what the bias was computed from, for its rounding; its own size where empty.
    terms: roundings of one output of the executed layer at most.
    sums: each output is one sum of products, so that entries of the matrix that meet an exact 0 round nothing.
    whole: and a sum of whole numbers, with no neighbour that a runtime would join it with: it rounds nothing up to 2**24.
    """

    inputs: tuple[int, ...]
    size: int
    matrix: Any = None
    bias: Array = field(default_factory=lambda: np.zeros(0))
    mass: Array = field(default_factory=lambda: np.zeros(0))
    leak: float | None = None
    zero: float | None = None
    taps: NDArray[np.int64] | None = None
    terms: int = 1
    sums: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """Layers in order, the last gives the scores.

    digest: of the file and of weights beside it (`model_digest`). tie: margins up to this may be a tie, by the rounding of a softmax behind the scores.
    """

    layers: tuple[Layer, ...]
    digest: str
    tie: float = 0.0

    def values(self, image: Array) -> list[Array]:
        """Of every layer, for one flattened image."""
        found: list[Array] = [image]
        for layer in self.layers[1:]:
            inputs = [found[i] for i in layer.inputs]
            if layer.matrix is not None:
                found.append(layer.matrix @ inputs[0] + layer.bias)
            elif layer.leak is not None:
                found.append(np.where(inputs[0] > 0, inputs[0], layer.leak * inputs[0]))
            elif layer.zero is not None:
                found.append(np.where(inputs[0] == 0, layer.zero, np.sign(inputs[0])))
            elif layer.taps is not None:
                found.append(picked(inputs[0], layer.taps).max(axis=1))
            else:
                found.append(np.sum(inputs, axis=0))
        return found


def picked(values: Array, taps: NDArray[np.int64]) -> Array:
    """(R, k, ...) entries of (n, ...) values, -inf where there is none."""
    found = values[np.maximum(taps, 0)]
    return np.where((taps < 0).reshape(taps.shape + (1,) * (values.ndim - 1)), -np.inf, found)


def read_by(layers: list[Layer], last: int) -> list[Layer]:
    """Those layers that one of them depends on, that one at the end."""
    needed = {0, last}
    for at in range(last, 0, -1):
        if at in needed:
            needed.update(layers[at].inputs)
    place = {old: new for new, old in enumerate(sorted(needed))}
    return [replace(layers[old], inputs=tuple(place[i] for i in layers[old].inputs)) for old in place]


def marked(layers: list[Layer]) -> list[Layer]:
    """The same layers, with those marked that sum whole numbers and nothing else."""
    whole: list[bool] = []
    for layer in layers:
        kept = bool(layer.inputs) and all(whole[i] for i in layer.inputs)
        if layer.matrix is not None:
            kept = kept and bool((layer.matrix.data % 1 == 0).all() and (layer.bias % 1 == 0).all())
        elif layer.leak is not None:
            kept = kept and layer.leak == 0
        whole.append(kept or layer.zero is not None)
    bends = [layer.leak is not None or layer.zero is not None or layer.taps is not None for layer in layers]
    alone = [all(bends[i] for i in layer.inputs) for layer in layers]
    for at, layer in enumerate(layers):
        for i in layer.inputs:
            alone[i] = alone[i] and bends[at]
    return [
        replace(layer, whole=layer.sums and fits and single)
        for layer, fits, single in zip(layers, whole, alone, strict=True)
    ]
