"""The white box: a classifier that gives gradients, apart from the black box so that no claim can lean on them by accident.

Nothing outside of `compare` and the white-box maps asks for it. Every image and every backward pass is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustest.classifiers.classifier import Classifier, margins_of
from robustest.classifiers.spec import InputSpec
from robustest.errors import EnvironmentFailure

if TYPE_CHECKING:
    from robustest.results import Margins

_LEAST_PROBABILITY = 1e-38
_TOLERANCE = 1e-3  # of margins, beside the black box's own


class NeedsGradients(EnvironmentFailure):
    """Gradients were asked of a classifier that has none to give."""


class Differentiable(Protocol):
    """A classifier whose scores can be differentiated.

    queries, gradients: images sent forward and backward so far.
    """

    queries: int
    gradients: int

    def logits(self, images: Tensor, /) -> Tensor:
        """Scores (N, K) of images (N, H, W, C) in [0, 1], before any softmax; differentiable in the images."""


class _Counted(torch.autograd.Function):
    """The identity, telling how many rows pass forward and backward."""

    @staticmethod
    def forward(context: Any, images: Tensor, owner: Differentiable) -> Tensor:
        context.owner, context.rows = owner, len(images)
        owner.queries += len(images)
        return images.view_as(images)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        context.owner.gradients += context.rows
        return gradients[0], None


class GradientClassifier:
    """A torch module with its input spec, counted.

    Args:
        module: in eval mode; takes the layout and values of `spec`.
        spec: how the module wants its images.
        logits: whether the module gives logits; probabilities are turned into logarithms otherwise.
    """

    def __init__(self, module: nn.Module, spec: InputSpec, *, logits: bool = True) -> None:
        self.module = module
        self.queries = 0
        self.gradients = 0
        self._spec, self._logits = spec, logits
        tensor = next(iter(module.parameters()), None)
        self.device = tensor.device if tensor is not None else torch.device("cpu")
        self._affine = tuple(torch.from_numpy(array).to(self.device) for array in spec.affine())

    def logits(self, images: Tensor, /) -> Tensor:
        """Scores (N, K) of images (N, H, W, C) in [0, 1], before any softmax; differentiable in the images."""
        counted = cast("Tensor", _Counted.apply(images, self))  # type: ignore[no-untyped-call]
        scores = cast("Tensor", self.module(self.prepared(counted)))
        if scores.ndim == 1 or scores.shape[1] == 1:  # of class 1 of two, as `binary` reads it
            ones = scores.reshape(-1)
            scores = torch.stack([torch.zeros_like(ones) if self._logits else 1 - ones, ones], dim=1)
        return scores if self._logits else scores.clamp_min(_LEAST_PROBABILITY).log()

    def prepared(self, images: Tensor) -> Tensor:
        """Images (N, H, W, C) in [0, 1] as the module wants them."""
        scale, mean, std = self._affine
        values = (images * 255 * scale - mean) / std
        if self._spec.channels == "BGR":
            values = values.flip(-1)
        return values.permute(0, 3, 1, 2).contiguous() if self._spec.layout == "NCHW" else values.contiguous()


class ScoredClassifier:
    """Any classifier as a source of scores for attacks written for torch that take no gradients, counted.

    Args:
        classifier: gives logits or probabilities; the latter are turned into logarithms.
    """

    device = torch.device("cpu")

    def __init__(self, classifier: Classifier) -> None:
        self.queries = 0
        self.gradients = 0
        self._classifier = classifier

    def logits(self, images: Tensor, /) -> Tensor:
        """Scores (N, K) of images (N, H, W, C) in [0, 1], before any softmax; they know nothing of the images."""
        self.queries += len(images)
        scores = torch.from_numpy(np.array(self._classifier(images.detach().cpu().numpy()), np.float32))
        return scores if self._classifier.info.output == "logits" else scores.clamp_min(_LEAST_PROBABILITY).log()


def differentiable_of(classifier: Classifier, images: NDArray[np.float32]) -> GradientClassifier:
    """The white box of a classifier, compared with the black box on some images first.

    Args:
        classifier: a torch module's, or an ONNX file's whose operators are known.
        images: (N, H, W, C) in [0, 1], N >= 1: a few of those to be attacked.

    Raises:
        NeedsGradients: it gives none: another kind of classifier, an operator that is not known, gradients that vanish
            everywhere, or scores that differ from the black box's.
    """
    white = _opened(classifier)
    batch = torch.from_numpy(images).to(white.device).requires_grad_(True)
    logits = white.logits(batch)
    (gradient,) = torch.autograd.grad(logits.square().sum(), batch)
    if not bool(gradient.any()):
        raise NeedsGradients(f"needs gradients: those of {classifier.info.source} are zero everywhere")
    black = _margins(np.asarray(classifier(images)), classifier.info.output)
    ours = _margins(logits.detach().cpu().numpy(), "logits")
    # Log-probabilities below float32's range are cut off on one side only.
    gap = np.abs(np.minimum(ours, 80) - np.minimum(black, 80)).max()
    if gap > _TOLERANCE * max(1.0, float(np.abs(ours).max())):
        raise NeedsGradients(f"needs gradients: the differentiable copy of {classifier.info.source} differs by {gap:g}")
    white.queries = white.gradients = 0
    return white


def _margins(scores: NDArray[np.float32], output: Any) -> Margins:
    labels = scores.argmax(axis=1)
    return margins_of(scores, labels, np.full(len(scores), -1), output)


def _opened(classifier: Classifier) -> GradientClassifier:
    spec = classifier.info.spec
    if spec.output == "label":
        raise NeedsGradients(f"needs gradients: {classifier.info.source} gives the label alone")
    module = getattr(classifier, "module", None)
    if isinstance(module, nn.Module):
        return GradientClassifier(module, spec, logits=spec.output == "logits")
    path = getattr(classifier, "path", None)
    if path is None:
        raise NeedsGradients(f"needs gradients: {classifier.info.source} can only be asked for scores")
    from robustest.classifiers.onnx_module import OnnxModule, UnsupportedOperator

    try:
        graph = OnnxModule(path)
    except UnsupportedOperator as error:
        raise NeedsGradients(f"needs gradients: {error}") from error
    return GradientClassifier(graph, spec, logits=spec.output == "logits" or graph.softmax)


def runner_up(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) the class with the highest score other than the label."""
    hidden = logits.detach().clone()
    hidden[torch.arange(len(hidden)), labels] = -torch.inf
    return hidden.argmax(dim=1)


def margins(logits: Tensor, labels: Tensor, target: int | None) -> Tensor:
    """(N,) differentiable margins, < 0 if adversarial: the label's score less the best other, or best less the target's."""
    aims = labels if target is None else torch.full_like(labels, target)
    rows = torch.arange(len(logits))
    own = logits[rows, aims]
    others = logits.clone()
    others[rows, aims] = -torch.inf
    gap = own - others.amax(dim=1)
    return gap if target is None else -gap
