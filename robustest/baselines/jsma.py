"""JSMA: pairs of features whose change raises the target's score and lowers the others', by the forward derivative.

Source: Papernot, McDaniel, Jha, Fredrikson, Celik & Swami, EuroS&P 2016, arXiv:1511.07528. For a pair (p, q) with
`alpha` the sum of the target's derivatives and `beta` the sum over all other classes, the pair with the largest
`-alpha * beta` among those with `alpha > 0 > beta` is moved by theta; derivatives of the logits (Z) or of the softmax (F).
Departures: the sum over all other classes is the derivative of the sum of all scores less the target's, so two backward
passes serve any number of classes; the best pair is searched among the features that no two others beat in both alpha and
beta, which is exact and needs no table of all pairs; both directions can be open at once (a feature moves up or down);
untargeted, the class to be reached is the runner-up, or every class in turn and the fewest features are kept.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.classifiers.differentiable import Differentiable, margins, runner_up

Direction = Literal["increase", "decrease", "both"]
Floats = NDArray[np.float64]


def jsma(
    model: Differentiable,
    images: Tensor,
    labels: Tensor,
    target: int | None,
    *,
    steps: int,
    scores: Literal["Z", "F"] = "Z",
    direction: Direction = "both",
    theta: float = 1.0,
    every_class: bool = False,
) -> Tensor:
    """Images (N, H, W, C) in [0, 1] that JSMA ends at; unchanged where it does not reach the class.

    Args:
        steps: images sent forward for each image, at most.
        scores: logits (Z) or softmax (F). direction: whether features rise, fall or may do either.
        theta: how far a feature moves, in (0, 1]. every_class: try every class, where no target is given.
    """
    with torch.no_grad():
        logits = model.logits(images)
    if target is not None:
        goals = torch.full((len(images), 1), target)
    elif every_class:
        order = logits.argsort(dim=1, descending=True)
        goals = order[order != labels[:, None]].view(len(images), -1)
    else:
        goals = runner_up(logits, labels)[:, None]
    best, fewest = images.clone(), torch.full((len(images),), torch.inf)
    left = torch.full((len(images),), steps - 1)
    for column in range(goals.shape[1]):
        ended, spent = _towards(
            model,
            images,
            labels,
            goals[:, column],
            left,
            fewest,
            target,
            scores=scores,
            direction=direction,
            theta=theta,
        )
        left = left - spent
        features = (ended != images).flatten(1).sum(dim=1).float()
        better = (features > 0) & (features < fewest)
        best[better], fewest[better] = ended[better], features[better]
    return best


def _towards(
    model: Differentiable,
    images: Tensor,
    labels: Tensor,
    goals: Tensor,
    left: Tensor,
    fewest: Tensor,
    target: int | None,
    *,
    scores: Literal["Z", "F"],
    direction: Direction,
    theta: float,
) -> tuple[Tensor, Tensor]:
    """Images moved towards one class each (unchanged where it was not reached), and the queries each of them took."""
    current, ended = images.clone(), images.clone()
    spent = torch.zeros_like(left)
    open_up = np.ones((len(images), images[0].numel()), bool)
    active = torch.arange(len(images))
    while len(active := active[left[active] > spent[active]]):
        point = current[active].requires_grad_(True)
        logits = model.logits(point)
        spent[active] += 1
        flipped = margins(logits.detach(), labels[active], target) < 0
        ended[active[flipped]] = current[active[flipped]]
        # The logarithm's slope ranks features as the softmax's own does, a factor apart that all share and that underflows.
        values = torch.log_softmax(logits, dim=1) if scores == "F" else logits
        own = values[torch.arange(len(active)), goals[active]].sum()
        (rise,) = torch.autograd.grad(own, point, retain_graph=True)
        others = torch.autograd.grad(values.sum(), point)[0] - rise if scores == "Z" else -rise
        going = []
        for row, index in enumerate(active.tolist()):
            if bool(flipped[row]):
                continue
            flat = current[index].flatten()
            moves = _best_pair(rise[row], others[row], flat.numpy(), open_up[index], direction)
            used = int((flat != images[index].flatten()).sum())
            if len(moves) == 0 or used >= fewest[index]:
                continue
            for feature, sign in moves:
                flat[feature] = float(np.clip(float(flat[feature]) + sign * theta, 0, 1))
                open_up[index, feature] = theta < 1
            current[index] = flat.view_as(current[index])
            going.append(index)
        active = torch.tensor(going, dtype=torch.int64)
    return ended, spent


def _best_pair(
    rise: Tensor, others: Tensor, values: NDArray[np.float32], free: NDArray[np.bool_], direction: Direction
) -> list[tuple[int, int]]:
    """The (feature, sign) pair with the largest -alpha * beta; a single one where no pair is allowed; empty if none."""
    alpha, beta = (side.flatten().numpy().astype(np.float64) for side in (rise, others))
    features, signs, gains, losses = [], [], [], []
    for sign, allowed, room in ((1, direction != "decrease", values < 1), (-1, direction != "increase", values > 0)):
        if allowed:
            places = np.flatnonzero(free & room)
            features.append(places)
            signs.append(np.full(len(places), sign))
            gains.append(sign * alpha[places])
            losses.append(-sign * beta[places])
    feature, sign_of = np.concatenate(features), np.concatenate(signs)
    gain, loss = np.concatenate(gains), np.concatenate(losses)
    pair = best_pair(gain, loss, feature)
    if pair is None:
        good = np.flatnonzero((gain > 0) & (loss > 0))
        if not len(good):
            return []
        pair = (int(good[(gain * loss)[good].argmax()]),)
    return [(int(feature[i]), int(sign_of[i])) for i in pair]


def best_pair(gain: Floats, loss: Floats, feature: NDArray[np.int64]) -> tuple[int, ...] | None:
    """Indices of the two moves of different features with the largest `(gain_i + gain_j) * (loss_i + loss_j)`.

    Both sums must be > 0. If i is in the best pair with j, no move of a third feature beats i in both gain and loss; at
    most three moves of the two features can, so i is on one of the first four fronts of those not beaten.

    Args:
        gain, loss: (M,) how much a move raises the target's score, lowers the others'. feature: (M,) what it moves.
    """
    if len(gain) < 2:
        return None
    # What four moves beat in both is on none of these fronts: most of a photo's features go by that alone.
    anchors = np.argsort(-(gain / (gain.std() + 1e-300) + loss / (loss.std() + 1e-300)), kind="stable")[:4]
    beaten = (
        (gain < gain[anchors].min()) & (loss < loss[anchors].min()) if len(anchors) == 4 else np.zeros(len(gain), bool)
    )
    left = np.flatnonzero(~beaten)
    fronts = []
    for _ in range(4):
        front = _front(gain[left], loss[left])
        fronts.append(left[front])
        left = np.delete(left, front)
        if not len(left):
            break
    kept = np.concatenate(fronts)
    alpha, beta = gain[kept, None] + gain[kept], loss[kept, None] + loss[kept]
    worth = np.where((alpha > 0) & (beta > 0) & (feature[kept, None] != feature[kept]), alpha * beta, 0.0)
    first, second = np.unravel_index(int(worth.argmax()), worth.shape)
    return (int(kept[first]), int(kept[second])) if worth[first, second] > 0 else None


def _front(gain: Floats, loss: Floats) -> NDArray[np.int64]:
    """Indices of the points that no other beats in both coordinates (of equal points the first)."""
    order = np.lexsort((-loss, -gain))
    reached = np.maximum.accumulate(np.concatenate([[-np.inf], loss[order][:-1]]))
    return np.asarray(order[loss[order] > reached], dtype=np.int64)
