"""Upper ends of brackets: misclassified images near an original, each scored again by the classifier itself.

A minimum-norm attack follows the gradients of the network's graph with a radius that shrinks after each success and
grows by the first-order estimate of the distance to the boundary otherwise, against the nearest rivals side by side;
what it finds is pulled back towards the original as far as the classifier still errs. Distances are computed in
float64 from the float32 images that were scored.

Source: the radius schedule follows Pintor et al. 2021 (fast minimum-norm attacks), arXiv:2102.12827. Departure: one
start per rival, and a line search at the end on the real classifier.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import Scorer, Witness
from robustest.settings import Norm


def distance(image: NDArray[np.floating], other: NDArray[np.floating], norm: Norm) -> float:
    """Distance of two (H, W, C) images in float64; `l0` counts pixels, `l0_dims` channels of pixels."""
    gap = np.abs(image.astype(np.float64) - other.astype(np.float64))
    if norm == "l0":
        return float((gap > 0).any(axis=-1).sum())
    if norm == "l0_dims":
        return float((gap > 0).sum())
    if norm == "l1":
        return float(gap.sum())
    return float(np.sqrt(np.square(gap).sum())) if norm == "l2" else float(gap.max())


def rescore(
    scorer: Scorer,
    image: NDArray[np.float32],
    label: int,
    candidates: NDArray[np.float32],
    norm: Norm,
    method: str,
) -> Witness | None:
    """The nearest of (N, H, W, C) candidates that the classifier gives another class than `label`; None if none."""
    if len(candidates) == 0:
        return None
    classes = np.asarray(scorer(candidates)).argmax(axis=1)
    wrong = np.flatnonzero(classes != label)
    if len(wrong) == 0:
        return None
    lengths = [distance(candidates[i], image, norm) for i in wrong]
    best = int(wrong[int(np.argmin(lengths))])
    return Witness(candidates[best].copy(), min(lengths), int(classes[best]), method)


def nearest_of(*found: Witness | None) -> Witness | None:
    """The nearest of several witnesses in one norm; the first of equals."""
    present = [w for w in found if w is not None]
    return min(present, key=lambda w: w.value) if present else None


def find_witness(
    graph: BoundGraph,
    scorer: Scorer,
    image: NDArray[np.float32],
    label: int,
    norm: Norm,
    *,
    steps: int = 100,
    rivals: int = 4,
    starts: Sequence[NDArray[np.float32]] = (),
    deadline: float = math.inf,
) -> Witness | None:
    """A near misclassified image in L1, L2 or Linf, or None.

    Args:
        graph: the network, for its gradients.
        scorer: the classifier, which has the last word.
        image: (H, W, C) in [0, 1]. label: its class.
        norm: `l1`, `l2` or `linf`.
        steps: gradient steps.
        rivals: how many of the likeliest classes to aim at, each on its own.
        starts: images that are misclassified already, to begin from as well.
        deadline: of this thread's CPU time, after which no further step is taken.
    """
    origin = torch.from_numpy(np.ascontiguousarray(image)).reshape(1, -1).double()
    scores = graph.forward(origin)[0].clone()
    scores[label] = -math.inf
    targets = scores.topk(min(rivals, len(scores) - 1))[1]
    begin = [torch.zeros_like(origin[0])] * (len(targets) + 1)
    aims = [*targets.tolist(), -1]
    for start in starts:
        begin.append(torch.from_numpy(np.ascontiguousarray(start)).reshape(-1).double() - origin[0])
        aims.append(-1)
    found = _descend(graph, origin, label, torch.stack(begin), torch.tensor(aims), norm, steps, deadline)
    images = found.reshape(-1, *image.shape).numpy().astype(np.float32)
    return pull_back(scorer, image, label, np.clip(images, 0, 1), norm, "gradient attack")


def _descend(
    graph: BoundGraph, origin: Tensor, label: int, move: Tensor, aims: Tensor, norm: Norm, steps: int, deadline: float
) -> Tensor:
    """(S', n) nearest misclassified images that each of S starts passed."""
    count = len(aims)
    best = torch.full((count,), math.inf, dtype=torch.float64)
    best_image = origin.expand(count, -1).clone()
    radius = torch.full((count,), math.inf, dtype=torch.float64)
    seen = torch.zeros(count, dtype=torch.bool)
    for step in range(steps):
        if time.thread_time() > deadline:
            break
        fraction = (1 + math.cos(math.pi * step / steps)) / 2
        point = (origin + move).requires_grad_()
        scores = graph.forward(point)
        others = scores.clone()
        others[:, label] = -math.inf
        rival = torch.where(aims >= 0, aims, others.argmax(1))
        gap = scores[:, label] - scores.gather(1, rival[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(gap.sum(), point)
        with torch.no_grad():
            wrong = others.amax(1) > scores[:, label]
            length = _length(move, norm)
            better = wrong & (length < best)
            best = torch.where(better, length, best)
            best_image = torch.where(better[:, None], point.detach(), best_image)
            seen |= wrong
            shrink = 0.05 * fraction + 1e-3
            dual = _length(gradient, {"l1": "linf", "l2": "l2", "linf": "l1"}[norm]).clamp_min(1e-12)
            ahead = length + gap.detach().abs() / dual
            radius = torch.where(
                wrong,
                torch.minimum(radius, best) * (1 - shrink),
                torch.where(seen, radius * (1 + shrink), 1.05 * ahead),
            )
            stride = torch.where(torch.isfinite(best), best, ahead) * (fraction * 0.5 + 0.01)
            move = move - _steepest(gradient, norm) * stride[:, None]
            move = (origin + move).clamp(0, 1) - origin
            move = _project(move, radius, norm)
            move = (origin + move).clamp(0, 1) - origin
    return best_image[seen]


def _length(moves: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return moves.abs().amax(1)
    return moves.abs().sum(1) if norm == "l1" else moves.norm(dim=1)


def _steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """(S, n) direction of unit length in the norm; L1 spreads over the steepest fiftieth of the coordinates."""
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        length: Tensor = gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return gradient / length
    few = max(1, gradient.shape[1] // 50)
    threshold = gradient.abs().topk(few, 1)[0][:, -1:]
    top = torch.where(gradient.abs() >= threshold, gradient, 0.0)
    direction: Tensor = top / top.abs().sum(1, keepdim=True).clamp_min(1e-12)
    return direction


def _project(moves: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    size = radius[:, None]
    if norm == "linf":
        return torch.minimum(torch.maximum(moves, -size), size)
    if norm == "l2":
        share: Tensor = (size / moves.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
        return moves * share
    # Euclidean projection on an L1 ball: soft threshold found by sorting.
    ordered = moves.abs().sort(1, descending=True)[0]
    excess = ordered.cumsum(1) - size
    place = torch.arange(1, moves.shape[1] + 1)
    kept = (ordered * place > excess).sum(1, keepdim=True).clamp_min(1)
    threshold = (excess.gather(1, kept - 1) / kept).clamp_min(0)
    shrunk = moves.sign() * (moves.abs() - threshold).clamp_min(0)
    return torch.where(moves.abs().sum(1, keepdim=True) > size, shrunk, moves)


def pull_back(
    scorer: Scorer,
    image: NDArray[np.float32],
    label: int,
    found: NDArray[np.float32],
    norm: Norm,
    method: str,
) -> Witness | None:
    """The nearest misclassified image on the segments from the original to each of those found."""
    best = rescore(scorer, image, label, found, norm, method)
    if best is None or norm in ("l0", "l0_dims"):
        return best
    low, high = 0.0, 1.0
    gap = best.image.astype(np.float64) - image
    for _ in range(3):
        shares = np.linspace(low, high, 17)[1:]
        line = np.clip(image + shares[:, None, None, None] * gap, 0, 1).astype(np.float32)
        wrong = np.flatnonzero(np.asarray(scorer(line)).argmax(axis=1) != label)
        if len(wrong) == 0:
            break
        high = float(shares[wrong[0]])
        low = float(shares[wrong[0] - 1]) if wrong[0] else low
        best = nearest_of(best, rescore(scorer, image, label, line[wrong[:1]], norm, method)) or best
    return best


def find_in_box(
    graph: BoundGraph,
    scorer: Scorer,
    lower: Tensor,
    upper: Tensor,
    label: int,
    *,
    rng: np.random.Generator,
    restarts: int = 20,
    steps: int = 60,
    starts: Tensor | None = None,
) -> NDArray[np.float32] | None:
    """A misclassified float32 image exactly inside a box, or None: projected gradients against every rival.

    Args:
        graph: the network. scorer: the classifier, which has the last word.
        lower, upper: (n,) float64 ends of the box.
        label: the class to be left.
        rng: of the random starts.
        restarts: rounds; each starts once per rival class. steps: per round.
        starts: (S, n) points for the first round, such as relaxations' own minimisers.
    """
    tiny = np.float32(np.inf)
    low = lower.numpy().astype(np.float32)
    low = np.where(low.astype(np.float64) < lower.numpy(), np.nextafter(low, tiny), low)
    high = upper.numpy().astype(np.float32)
    high = np.where(high.astype(np.float64) > upper.numpy(), np.nextafter(high, -tiny), high)
    ends = torch.from_numpy(low).double(), torch.from_numpy(high).double()
    rivals = torch.tensor([c for c in range(graph.n_classes) if c != label])
    for round_ in range(restarts):
        share = torch.from_numpy(rng.random((len(rivals), graph.n_inputs)))
        if round_ == 0:
            share = torch.full_like(share, 0.5)
        point = ends[0] + share * (ends[1] - ends[0])
        aims = rivals
        if round_ == 0 and starts is not None:
            point, aims = starts, torch.full((len(starts),), -1)
        for step in range(steps):
            point = point.detach().requires_grad_()
            scores = graph.forward(point)
            others = scores.detach().clone()
            others[:, label] = -math.inf
            rival = torch.where(aims >= 0, aims, others.argmax(1))
            (gradient,) = torch.autograd.grad((scores[:, label] - scores.gather(1, rival[:, None])[:, 0]).sum(), point)
            with torch.no_grad():
                size = (ends[1] - ends[0]) * (0.5 * (1 - step / steps) ** 1.5 + 0.005)
                point = torch.minimum(torch.maximum(point - gradient.sign() * size, ends[0]), ends[1])
                close = (others.amax(1) > scores[:, label] - 0.05).any()
            if bool(close) or step == steps - 1:
                images = np.clip(point.numpy().astype(np.float32), low, high).reshape(-1, *graph.input_shape)
                wrong = np.flatnonzero(np.asarray(scorer(images)).argmax(axis=1) != label)
                if len(wrong):
                    return np.ascontiguousarray(images[wrong[0]])
    return None
