"""CW-L0: Carlini and Wagner's L2 attack on ever fewer pixels.

Source: Carlini & Wagner, S&P 2017, arXiv:1608.04644: minimise `||delta||^2 + c * max(margin, 0)` over the pixels still
allowed, c doubled until it succeeds; then forbid the pixels with the least `gradient * delta` (up to 0.3 sqrt(n) at once,
as in the authors' runs) and start again from where it was, until it fails. Departures: Adam's steps are clipped to [0, 1]
instead of taken in `arctanh`, whose slope vanishes at black and white; no confidence; each minimisation stops at its first
success; the queries given to it end it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustest.classifiers.differentiable import Differentiable, margins

_INNER_STEPS, _RATE = 60, 0.05
_FIRST_C, _LARGEST_C = 1.0, 2e6


def cw_l0(model: Differentiable, images: Tensor, labels: Tensor, target: int | None, *, steps: int) -> Tensor:
    """Images (N, H, W, C) in [0, 1] with the fewest changed pixels that were seen; unchanged where none was adversarial.

    Args:
        steps: images sent forward for each image, at most.
    """
    return torch.stack([_one(model, x, int(y), target, steps) for x, y in zip(images, labels, strict=True)])


def _one(model: Differentiable, image: Tensor, label: int, target: int | None, steps: int) -> Tensor:
    end = model.queries + steps
    allowed = torch.ones(image.shape[:2], dtype=torch.bool)
    best, current, weight = image, image, _FIRST_C
    while model.queries < end:
        found, gradient, weight = _l2(model, image, current, allowed, label, target, weight, end)
        if found is None or gradient is None:
            break
        moved = (found != image).any(dim=-1)
        best = current = found
        importance = torch.where(moved, (gradient * (found - image)).abs().sum(dim=-1), torch.inf)
        allowed = allowed & moved
        count = int(allowed.sum())
        if count <= 1:
            break
        drop = importance.flatten().argsort()[: max(1, int(0.3 * count**0.5))]
        allowed.view(-1)[drop] = False
    return best


def _l2(
    model: Differentiable,
    image: Tensor,
    start: Tensor,
    allowed: Tensor,
    label: int,
    target: int | None,
    weight: float,
    end: int,
) -> tuple[Tensor | None, Tensor | None, float]:
    """An adversarial image that changes the allowed pixels alone, the margin's gradient there, and the weight used."""
    labels = torch.tensor([label])
    mask = allowed[..., None]
    first = torch.where(mask, start, image)
    while weight <= _LARGEST_C and model.queries < end:
        point = first.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([point], lr=_RATE)
        for _ in range(_INNER_STEPS):
            if model.queries >= end:
                break
            gap = margins(model.logits(point[None]), labels, target)[0]
            if float(gap.detach()) < 0:
                (gradient,) = torch.autograd.grad(gap, point)
                found = point.detach()
                shown = torch.where((found - image).abs() > 0.5 / 255, found, image)
                return _kept(model, shown, found, labels, target, end), gradient, weight
            loss = (point - image).square().sum() + weight * gap.clamp_min(0)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                point.copy_(torch.where(mask, point, image).clamp_(0, 1))
        weight *= 2
    return None, None, weight


def _kept(model: Differentiable, shown: Tensor, point: Tensor, labels: Tensor, target: int | None, end: int) -> Tensor:
    """The image without its invisible changes (below half an 8-bit step) if that is still adversarial, else as it is."""
    if model.queries >= end:
        return point
    with torch.no_grad():
        return shown if bool(margins(model.logits(shown[None]), labels, target)[0] < 0) else point
