"""FMN, the L0 version: steps along the gradient, projected to a number of features that shrinks and grows.

Source: Pintor, Roli, Brendel & Biggio, NeurIPS 2021, arXiv:2102.12827: the step's length and the rate at which the number
changes are annealed by a cosine; the number falls below the best found while the image is adversarial.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustest.classifiers.differentiable import Differentiable, margins

_STEP, _LAST_STEP, _RATE, _LAST_RATE = 1.0, 0.01, 0.05, 0.001


def fmn_l0(model: Differentiable, images: Tensor, labels: Tensor, target: int | None, *, steps: int) -> Tensor:
    """The images (N, H, W, C) with the fewest changed features that were seen; unchanged where none was adversarial.

    Args:
        steps: forward and backward passes for each image, >= 1.
    """
    size = images[0].numel()
    delta = torch.zeros_like(images)
    allowed = torch.full((len(images),), float(size))
    best, fewest = images.clone(), torch.full((len(images),), torch.inf)
    for step in range(steps):
        anneal = (1 + math.cos(math.pi * step / steps)) / 2
        length, rate = _LAST_STEP + (_STEP - _LAST_STEP) * anneal, _LAST_RATE + (_RATE - _LAST_RATE) * anneal
        moved = delta.requires_grad_(True)
        gaps = margins(model.logits(images + moved), labels, target)
        (gradient,) = torch.autograd.grad(gaps.sum(), moved)
        delta, adversarial = delta.detach(), gaps.detach() < 0
        features = (delta != 0).flatten(1).sum(dim=1).float()
        better = adversarial & (features < fewest)
        best[better], fewest[better] = (images + delta)[better], features[better]
        fewer = torch.minimum(torch.minimum(allowed - 1, torch.floor(allowed * (1 - rate))), fewest)
        more = torch.maximum(allowed + 1, torch.floor(allowed * (1 + rate)))
        allowed = torch.where(adversarial, fewer, torch.where(fewest.isfinite(), torch.minimum(more, fewest - 1), more))
        allowed = allowed.clamp(1, size)
        norms = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
        delta = _largest(delta - length * gradient / norms, allowed)
        delta = (images + delta).clamp(0, 1) - images
    return best


def _largest(delta: Tensor, allowed: Tensor) -> Tensor:
    """The `allowed` largest entries of each row; the others are 0."""
    flat = delta.flatten(1)
    ranks = flat.abs().argsort(dim=1, descending=True).argsort(dim=1)
    return torch.where(ranks < allowed[:, None], flat, 0.0).view_as(delta)
