"""White-box saliency maps, to compare with: what explains a classifier to people, tried as a guide to where it flips.

Gradient, SmoothGrad, integrated gradients and Grad-CAM are Captum's; NormGrad and LRP are written from their papers, since
Captum has no NormGrad, and its LRP knows no network read from an ONNX file. All explain the margin between the label and
the class that is second, which is what a flip has to bring below zero.
Sources: Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034; Smilkov et al. 2017, arXiv:1706.03825; Sundararajan, Taly & Yan,
ICML 2017, arXiv:1703.01365; Selvaraju et al., ICCV 2017, arXiv:1610.02391; Rebuffi, Fong, Ji & Vedaldi, CVPR 2020,
arXiv:2004.02866; Bach et al. 2015 with the gamma rule of Montavon et al. 2019. Search never uses any of them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from robustest.classifiers.differentiable import GradientClassifier, NeedsGradients, runner_up
from robustest.errors import MissingExtra

Map = NDArray[np.float64]

_NOISE, _SAMPLES, _STEPS = 0.15, 25, 32
_GAMMA, _TINY = 0.25, 1e-6


def gradient_map(model: GradientClassifier, image: Tensor, label: int, *, seed: int = 0) -> Map:
    """(H, W) size of the margin's gradient, the largest over channels."""
    saliency = _captum().Saliency(_margin(model, image, label))
    return _largest(saliency.attribute(_point(image), abs=True))


def smoothgrad_map(model: GradientClassifier, image: Tensor, label: int, *, seed: int = 0) -> Map:
    """(H, W) the gradient's size averaged over 25 noisy copies of the image, standard deviation 0.15."""
    captum = _captum()
    tunnel = captum.NoiseTunnel(captum.Saliency(_margin(model, image, label)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        values = tunnel.attribute(
            _point(image), nt_type="smoothgrad", nt_samples=_SAMPLES, nt_samples_batch_size=5, stdevs=_NOISE
        )
    return _largest(values.abs())


def integrated_map(model: GradientClassifier, image: Tensor, label: int, *, seed: int = 0) -> Map:
    """(H, W) size of the integrated gradients from a black image, summed over channels; 32 steps."""
    method = _captum().IntegratedGradients(_margin(model, image, label))
    return _summed(method.attribute(_point(image), n_steps=_STEPS, internal_batch_size=8))


def gradcam_map(model: GradientClassifier, image: Tensor, label: int, *, seed: int = 0) -> Map:
    """(H, W) Grad-CAM of the last convolution that still has more than one place, enlarged; where a class's evidence is."""
    method = _captum().LayerGradCam(_margin(model, image, label), _last_with_places(model, image))
    return _enlarged(method.attribute(_point(image), relu_attributions=True).detach(), image)


def normgrad_map(model: GradientClassifier, image: Tensor, label: int, *, seed: int = 0) -> Map:
    """(H, W) geometric mean over the convolutions of the norm of activation times the norm of its gradient, at each place."""
    seen: list[Tensor] = []
    margin = _margin(model, image, label)
    with _hooked(_convolutions(model), lambda module, inputs, output: seen.append(output)):
        score = margin(_point(image))
        gradients = torch.autograd.grad(score.sum(), seen)
    maps = [
        _enlarged((a.detach().norm(dim=1) * g.norm(dim=1))[:, None], image)
        for a, g in zip(seen, gradients, strict=True)
    ]
    logs = [np.log(values / max(values.max(), 1e-300) + _TINY) for values in maps]
    return np.asarray(np.exp(np.mean(logs, axis=0)))


def lrp_map(model: GradientClassifier, image: Tensor, label: int, *, seed: int = 0) -> Map:
    """(H, W) size of the relevance of each pixel by the gamma rule (gamma 0.25), summed over channels."""
    return np.asarray(np.abs(lrp_relevance(model, image, label)).sum(axis=-1), np.float64)


def lrp_relevance(model: GradientClassifier, image: Tensor, label: int, *, gamma: float = _GAMMA) -> Map:
    """Signed relevance in the model's own input, (H, W, C); it sums to the margin where the network has no biases.

    Each layer's output is replaced by an equal one whose gradient, times the input, is the rule's relevance.
    """
    layers = [layer for layer in model.module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    raised = {id(layer): _raised(layer, gamma) for layer in layers}

    def rule(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shaped: Tensor = raised[id(module)](inputs[0])
        stable = shaped + _TINY * torch.where(shaped >= 0, 1.0, -1.0)
        return shaped * (output / stable).detach()

    others = _rival(model, image, label)
    point = model.prepared(image[None]).detach().requires_grad_(True)
    with _hooked(layers, rule):
        logits = model.module(point)
        (slope,) = torch.autograd.grad(logits[0, label] - logits[0, others], point)
    relevance = (point.detach() * slope)[0]
    if relevance.shape != image.shape:
        relevance = relevance.permute(1, 2, 0)
    return relevance.numpy().astype(np.float64)


MAPS: dict[str, Callable[..., Map]] = {
    "gradient": gradient_map,
    "smoothgrad": smoothgrad_map,
    "integrated gradients": integrated_map,
    "grad-cam": gradcam_map,
    "normgrad": normgrad_map,
    "lrp": lrp_map,
}


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise MissingExtra("captum", "compare", "white-box saliency maps") from error
    return captum.attr


def _point(image: Tensor) -> Tensor:
    return image[None].detach().clone().requires_grad_(True)


def _rival(model: GradientClassifier, image: Tensor, label: int) -> int:
    with torch.no_grad():
        return int(runner_up(model.logits(image[None]), torch.tensor([label]))[0])


def _margin(model: GradientClassifier, image: Tensor, label: int) -> Callable[[Tensor], Tensor]:
    """The margin against the class that is second for the clean image, (N, H, W, C) -> (N,)."""
    rival = _rival(model, image, label)

    def margin(images: Tensor) -> Tensor:
        logits = model.logits(images)
        return logits[:, label] - logits[:, rival]

    return margin


def _last_with_places(model: GradientClassifier, image: Tensor) -> nn.Module:
    """The last convolution whose output is more than 1x1: after global pooling, convolutions are linear layers in disguise."""
    spread: list[nn.Module] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.shape[2] * output.shape[3] > 1:
            spread.append(module)

    convolutions = _convolutions(model)
    with torch.no_grad(), _hooked(convolutions, note):
        model.logits(image[None])
    return spread[-1] if spread else convolutions[-1]


def _convolutions(model: GradientClassifier) -> list[nn.Module]:
    found: list[nn.Module] = [module for module in model.module.modules() if isinstance(module, nn.Conv2d)]
    if not found:
        raise NeedsGradients("Grad-CAM and NormGrad need a network with convolutions; this one has none")
    return found


@contextlib.contextmanager
def _hooked(modules: list[Any], hook: Callable[..., Any]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _raised(layer: nn.Module, gamma: float) -> nn.Module:
    """A copy of a layer whose positive weights count 1 + gamma times."""
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(gamma * parameter.clamp_min(0))
    return other


def _largest(values: Tensor) -> Map:
    return np.asarray(values.detach()[0].amax(dim=-1).numpy(), np.float64)


def _summed(values: Tensor) -> Map:
    return np.asarray(values.detach()[0].sum(dim=-1).abs().numpy(), np.float64)


def _enlarged(values: Tensor, image: Tensor) -> Map:
    """(1, 1, h, w) enlarged to the image's size, >= 0."""
    large = functional.interpolate(values, size=tuple(image.shape[:2]), mode="bilinear", align_corners=False)
    return np.asarray(large[0, 0].clamp_min(0).numpy(), np.float64)
