"""SparseFool: DeepFool finds the boundary, a linear program's greedy solution crosses it with few features.

Source: Modas, Moosavi-Dezfooli & Frossard, CVPR 2019, arXiv:1811.02248, with lambda = 3; DeepFool is Moosavi-Dezfooli,
Fawzi & Frossard, CVPR 2016, with overshoot 0.02 and the ten best classes. One image at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustest.classifiers.differentiable import Differentiable, margins

_LAMBDA, _OVERSHOOT, _CLASSES, _DEEPFOOL_STEPS = 3.0, 0.02, 10, 50


def sparsefool(model: Differentiable, images: Tensor, labels: Tensor, target: int | None, *, steps: int) -> Tensor:
    """Images (N, H, W, C) in [0, 1] that SparseFool ends at, adversarial or not.

    Args:
        steps: images sent forward for each image, at most.
    """
    return torch.stack([_one(model, x, int(y), target, steps) for x, y in zip(images, labels, strict=True)])


def _one(model: Differentiable, image: Tensor, label: int, target: int | None, steps: int) -> Tensor:
    start = model.queries
    current = image.clone()
    labels = torch.tensor([label])
    while model.queries - start < steps:
        with torch.no_grad():
            if bool(margins(model.logits(current[None]), labels, target)[0] < 0):
                return current
        if model.queries - start >= steps:
            break
        boundary, normal = _deepfool(model, current, label, target, start + steps - model.queries)
        if not bool(normal.any()):
            return current
        goal = image + _LAMBDA * (boundary - image)
        current = _crossed(current, normal, goal)
    return current


def _deepfool(
    model: Differentiable, image: Tensor, label: int, target: int | None, budget: int
) -> tuple[Tensor, Tensor]:
    """The nearest boundary's point, and its normal there (towards the other side)."""
    total = torch.zeros_like(image)
    end = model.queries + budget
    normal = torch.zeros_like(image)
    for _ in range(_DEEPFOOL_STEPS):
        if model.queries >= end:
            break
        point = (image + (1 + _OVERSHOOT) * total)[None].requires_grad_(True)
        logits = model.logits(point)[0]
        order = [int(c) for c in logits.argsort(descending=True)[: _CLASSES + 1] if int(c) != label]
        others = [target] if target is not None else order[:_CLASSES]
        gaps = [logits[c] - logits[label] for c in others]
        if max(float(gap.detach()) for gap in gaps) > 0:
            break
        slopes = [torch.autograd.grad(gap, point, retain_graph=True)[0][0] for gap in gaps]
        lengths = [float(slope.norm().clamp_min(1e-12)) for slope in slopes]
        nearest = min(range(len(others)), key=lambda i: abs(float(gaps[i].detach())) / lengths[i])
        normal = slopes[nearest]
        total = total + (abs(float(gaps[nearest].detach())) + 1e-4) * normal / lengths[nearest] ** 2
    return image + total, normal


def _crossed(current: Tensor, normal: Tensor, goal: Tensor) -> Tensor:
    """Move single features, steepest first, each as far as it may, until the goal's side of the hyperplane is reached."""
    flat, slope = current.flatten().clone(), normal.flatten()
    missing = float((slope * (goal.flatten() - flat)).sum())
    for feature in slope.abs().argsort(descending=True).tolist():
        rate = float(slope[feature])
        if missing <= 0 or rate == 0:
            break
        before = float(flat[feature])
        after = min(1.0, max(0.0, before + missing / rate))
        flat[feature] = after
        missing -= rate * (after - before)
    return flat.view_as(current)
