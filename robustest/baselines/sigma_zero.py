"""sigma-zero: gradient descent on a smooth count of the changed features.

Source: Cina, Villani, Pintor, Schonherr, Biggio & Pelillo, ICLR 2025, arXiv:2402.01879: the hinge of the margin plus
`sum(delta^2 / (delta^2 + sigma)) / d`, its gradient divided by its largest entry, Adam with cosine annealing, and small
entries cut off below a threshold that rises while the image is adversarial and falls while it is not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustest.classifiers.differentiable import Differentiable, margins

_SIGMA, _RATE, _LAST_RATE, _THRESHOLD, _THRESHOLD_STEP = 1e-3, 1.0, 0.1, 0.3, 0.01
_BETAS, _TINY = (0.9, 0.999), 1e-8


def sigma_zero(model: Differentiable, images: Tensor, labels: Tensor, target: int | None, *, steps: int) -> Tensor:
    """The images (N, H, W, C) with the fewest changed features that were seen; unchanged where none was adversarial.

    Args:
        steps: forward and backward passes for each image, >= 1.
    """
    count, size = len(images), images[0].numel()
    delta = torch.zeros_like(images)
    first, second = torch.zeros_like(images), torch.zeros_like(images)
    threshold = torch.full((count, 1, 1, 1), _THRESHOLD)
    best, fewest = images.clone(), torch.full((count,), torch.inf)
    for step in range(steps):
        rate = _LAST_RATE + (_RATE - _LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
        moved = delta.requires_grad_(True)
        gaps = margins(model.logits(images + moved), labels, target)
        loss = gaps.clamp_min(0).sum() + (moved.square() / (moved.square() + _SIGMA)).sum() / size
        (gradient,) = torch.autograd.grad(loss, moved)
        delta, adversarial = delta.detach(), gaps.detach() < 0
        features = (delta != 0).flatten(1).sum(dim=1).float()
        better = adversarial & (features < fewest)
        best[better], fewest[better] = (images + delta)[better], features[better]
        gradient = gradient / gradient.flatten(1).abs().amax(dim=1).clamp_min(1e-12)[:, None, None, None]
        first = _BETAS[0] * first + (1 - _BETAS[0]) * gradient
        second = _BETAS[1] * second + (1 - _BETAS[1]) * gradient.square()
        mean, spread = first / (1 - _BETAS[0] ** (step + 1)), second / (1 - _BETAS[1] ** (step + 1))
        delta = delta - rate * mean / (spread.sqrt() + _TINY)
        delta = (images + delta).clamp(0, 1) - images
        sign = torch.where(adversarial, 1.0, -1.0)[:, None, None, None]
        threshold = (threshold + sign * _THRESHOLD_STEP * rate).clamp(0, 1)
        delta = torch.where(delta.abs() < threshold, 0.0, delta)
    return best
