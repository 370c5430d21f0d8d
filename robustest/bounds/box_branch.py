"""Branch and bound over a box of images with few free dimensions: a SIFT feature, an adversarial's pixels, a mask.

A box is bounded around its middle (`centred`); if that fails, the side that can take most from the margin is halved.
Complete in the limit, and for up to a dozen or so free dimensions in practice; with hundreds, use CROWN and branch over
the ReLUs. Each failing box has its linear part's least point scored by the classifier itself.
"""

from __future__ import annotations

import heapq
import itertools
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.bounds.centred import CentredBounds
from robustest.bounds.crown import rows_against
from robustest.bounds.decision import Answer, Decision
from robustest.bounds.grid_region import GridRegion
from robustest.bounds.guarantee import Scorer
from robustest.bounds.region import Region
from robustest.errors import InvalidSetting


def decide_box(
    bounds: CentredBounds,
    region: GridRegion,
    label: int,
    *,
    scorer: Scorer,
    target: int | None = None,
    seconds: float = 30.0,
    boxes: int = 1_000_000,
    batch: int = 16,
    record: bool = False,
) -> Answer:
    """Decide whether any image of a box is misclassified.

    Args:
        bounds: of the network.
        region: the image, its free dimensions and their values.
        label: the class to be kept.
        scorer: the classifier itself, for candidates.
        target: the one class that must not be reached; any other than the label where None.
        seconds: CPU seconds of this thread to spend. boxes: to bound at most. batch: bounded at once.
        record: whether to keep the tree for a certificate.

    Raises:
        InvalidSetting: the image does not fit the network, or label and target are not two of its classes.
    """
    graph = bounds.graph
    if region.image.shape != tuple(graph.input_shape):
        raise InvalidSetting(f"image must have shape {graph.input_shape}; got {region.image.shape}.")
    rows = rows_against(graph.n_classes, label, target)
    return _BoxSearch(bounds, region, rows, label, target, scorer).run(seconds, boxes, batch, record)


class _BoxSearch:
    """One box, split until it is decided."""

    def __init__(
        self,
        bounds: CentredBounds,
        region: GridRegion,
        rows: Tensor,
        label: int,
        target: int | None,
        scorer: Scorer,
    ) -> None:
        self.bounds, self.region, self.rows = bounds, region, rows
        self.label, self.target, self.scorer = label, target, scorer
        self.free = torch.from_numpy(region.dims)
        self.flat = torch.from_numpy(region.image.reshape(-1).astype(np.float64))

    def run(self, seconds: float, boxes: int, batch: int, record: bool) -> Answer:
        """Best first: the box with the lowest bound is split first."""
        started = time.thread_time()
        tree: dict[str, Any] = {}
        low, high = (torch.from_numpy(t.astype(np.float64)) for t in (self.region.lower, self.region.upper))
        heap: list[tuple[float, int, Tensor, Tensor, dict[str, Any]]] = [(-np.inf, 0, low, high, tree)]
        count = itertools.count(1)
        done = stuck = 0

        def answer(decision: Decision, witness: NDArray[np.float32] | None = None) -> Answer:
            kept = tree if record and decision is Decision.PROVED else None
            least = heap[0][0] if heap else None
            return Answer(decision, witness, done, len(heap), least, time.thread_time() - started, kept)

        while heap:
            if done >= boxes or time.thread_time() - started > seconds:
                return answer(Decision.OPEN)
            taken = [heapq.heappop(heap) for _ in range(min(batch, len(heap), boxes - done))]
            region = self._region(torch.stack([t[2] for t in taken]), torch.stack([t[3] for t in taken]))
            with torch.no_grad():
                found = self.bounds.bound(self.bounds.analyse(region), self.rows)
            done += len(taken)
            failing = ~(found.value > 0)
            witness = self._witness(region.argmin_linear(found.form)[failing])
            if witness is not None:
                return answer(Decision.FALSIFIED, witness)
            for b, (_, _, low, high, place) in enumerate(taken):
                if not bool(failing[b].any()):
                    place["leaf"] = True
                    continue
                worst = int(found.value[b].argmin())
                side = int((-found.gains[b, worst][self.free] + 1e-12 * (high - low)).argmax())
                middle = float(low[side] + high[side]) / 2
                if not float(low[side]) < middle < float(high[side]):
                    stuck += 1
                    continue
                place.update(split="value", dim=int(self.free[side]), at=middle, children=[{}, {}])
                below, above = high.clone(), low.clone()
                below[side] = above[side] = middle
                bound = float(found.value[b, worst])
                heapq.heappush(heap, (bound, next(count), low, below, place["children"][0]))
                heapq.heappush(heap, (bound, next(count), above, high, place["children"][1]))
                if not record:
                    place.clear()
        return answer(Decision.PROVED if stuck == 0 else Decision.OPEN)

    def _region(self, low: Tensor, high: Tensor) -> Region:
        lower = self.flat.repeat(len(low), 1)
        upper = lower.clone()
        lower[:, self.free], upper[:, self.free] = low, high
        return Region.box_of(lower, upper, channels=self.bounds.graph.input_shape[2])

    def _witness(self, points: Tensor) -> NDArray[np.float32] | None:
        """The first of some points that the classifier itself gets wrong, inside the box as float32."""
        points = points[points.isfinite().all(1)]
        if not len(points):
            return None
        images = points.to(torch.float32).numpy()
        images[:, self.region.dims] = np.clip(images[:, self.region.dims], self.region.lower, self.region.upper)
        images = images.reshape(-1, *self.region.image.shape)
        classes = np.asarray(self.scorer(images)).argmax(axis=1)
        wrong = np.flatnonzero(classes != self.label if self.target is None else classes == self.target)
        return images[wrong[0]].copy() if len(wrong) else None
