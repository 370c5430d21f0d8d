"""`certify`: brackets of whatever a user has, by a `Checker` of its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustest.bounds.checker import Checker
from robustest.bounds.guarantee import Bracket
from robustest.bounds.reading import graph_of, scorer_of
from robustest.classifiers.onnx_file import OnnxClassifier
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSetting
from robustest.images import as_unit, check_images
from robustest.settings import Norm


def certify(
    classifier: Any,
    image: NDArray[np.float32] | NDArray[np.uint8],
    label: int,
    *,
    norms: Sequence[Norm] = ("l0", "l1", "l2", "linf"),
    seconds: float = 10.0,
    spec: InputSpec | None = None,
    witnesses: Mapping[Norm, Sequence[NDArray[np.float32]]] | None = None,
) -> dict[Norm, Bracket]:
    """Brackets on the distance of one image to the nearest misclassified one.

    Args:
        classifier: a loaded classifier, an ONNX file's path or a torch module.
        image: (H, W, C) or (H, W), uint8 or floats in [0, 1].
        label: its class.
        norms: which distances.
        seconds: CPU time for all norms together.
        spec: how the model wants its images, where the classifier does not say.
        witnesses: misclassified images that others found, per norm.

    Raises:
        UnsupportedLayer: the network cannot be looked into, or holds what no bound covers.
        SoundnessViolation: a bug of the checker showed itself.
    """
    unit = as_unit(check_images(np.asarray(image)[None], argument="image"))[0]
    checker = checker_of(classifier, image_shape=unit.shape, spec=spec)
    return checker.bracket(unit, label, norms=norms, seconds=seconds, witnesses=witnesses)


def checker_of(
    classifier: Any, *, image_shape: tuple[int, ...], spec: InputSpec | None = None, executed: bool = True
) -> Checker:
    """A checker of a classifier for images of one shape (H, W, C)."""
    if len(image_shape) != 3:
        raise InvalidSetting(f"image_shape must be (H, W, C); got {image_shape}.")
    shape = (int(image_shape[0]), int(image_shape[1]), int(image_shape[2]))
    if spec is None and isinstance(classifier, torch.nn.Module):
        spec = InputSpec("NCHW", "gray" if shape[2] == 1 else "RGB")
    graph = graph_of(classifier, spec, image_shape=shape)
    scorer = scorer_of(classifier, spec)
    known = scorer.info.spec if isinstance(scorer, OnnxClassifier) else None
    return Checker(graph, scorer, executed=executed, spec=known)
