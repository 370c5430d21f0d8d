"""Branch and bound for L0: is there a misclassified image with at most k changed pixels?

A node says: of each of these disjoint groups of pixels at most so many change; a group of one pixel also says in what
interval its values lie. Its bound is that of `centred`, exact in the choice of the pixels. If the bound fails, the
group that matters most is cut into a hot and a cold part (one child for each way to share its budget), and once every
group is one pixel, a pixel's values are halved. The children cover the parent, so a tree whose leaves are all bounded
is a proof; the linear part's least point is scored by the classifier itself at every node, so a witness is found on
the way. Nodes are taken worst bound first.

Own algorithm; complete in the limit. `l0` counts pixels (all channels of a place), `l0_dims` single channels.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.bounds.centred import CentredBounds
from robustest.bounds.crown import rows_against
from robustest.bounds.decision import Answer, Decision
from robustest.bounds.guarantee import Scorer
from robustest.bounds.region import Region
from robustest.bounds.sparse_attack import few_pixel_witness
from robustest.errors import InvalidSetting

L0Norm = Literal["l0", "l0_dims"]
_HOT = 0.6
"""Share of a group's influence that its hot part takes when it is cut."""


@dataclass(frozen=True, slots=True)
class _Node:
    """Groups of units with budgets, and intervals of the values of dimensions of single units.

    groups: (units, budget), disjoint; a group of one unit is a box.
    values: dimension to (low, high), where narrower than all legal values.
    record: where this node's split is written down.
    known: bounds of neurons that were proved of its parent.
    """

    groups: tuple[tuple[Tensor, int], ...]
    values: dict[int, tuple[float, float]]
    record: dict[str, Any]
    known: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


def decide_sparse(
    bounds: CentredBounds,
    image: NDArray[np.float32],
    label: int,
    units: int,
    *,
    scorer: Scorer,
    norm: L0Norm = "l0",
    target: int | None = None,
    mask: NDArray[np.bool_] | None = None,
    seconds: float = 30.0,
    nodes: int = 1_000_000,
    batch: int = 2,
    record: bool = False,
) -> Answer:
    """Decide whether changing at most `units` pixels (or dimensions) can change the class.

    Args:
        bounds: of the network.
        image: (H, W, C) in [0, 1].
        label: the class to be kept; the classifier must give it to the image.
        units: how many may change, >= 1; each to any value in [0, 1].
        scorer: the classifier itself, for candidates: (N, H, W, C) float32 in [0, 1] to (N, K) scores.
        norm: whether pixels or dimensions are counted.
        target: the one class that must not be reached; any other than the label where None.
        mask: (H, W) pixels (or (H, W, C) dimensions) that may change; all where None.
        seconds: CPU seconds of this thread to spend.
        nodes: to bound at most.
        batch: nodes bounded at once.
        record: whether to keep the tree for a certificate.
    """
    search = _SparseSearch(bounds, image, label, norm, target, scorer)
    if units < 1:
        raise InvalidSetting(f"units must be >= 1; got {units}. With 0 the image itself is the region.")
    free = torch.arange(search.n_units)
    if mask is not None:
        kept = torch.from_numpy(np.ascontiguousarray(mask).reshape(-1))
        if kept.numel() != search.n_units:
            raise InvalidSetting(
                f"mask must have one entry for each of the {search.n_units} units of {norm}; got {kept.numel()}."
            )
        free = free[kept]
    return search.run(free, units, seconds=seconds, nodes=nodes, batch=batch, record=record)


@dataclass(frozen=True, slots=True)
class SparseDistance:
    """A bracket on how many units must change.

    lower: no image with fewer changed units is misclassified; 1 where nothing but the image itself was decided.
    upper: units that `witness` changes, or None. witness: (H, W, C) float32, misclassified when scored, or None.
    answers: one for each number of units tried, from 1 on.
    """

    lower: int
    upper: int | None
    witness: NDArray[np.float32] | None
    answers: tuple[Answer, ...]


def sparse_distance(
    bounds: CentredBounds,
    image: NDArray[np.float32],
    label: int,
    *,
    scorer: Scorer,
    norm: L0Norm = "l0",
    seconds: float = 30.0,
    given: NDArray[np.float32] | None = None,
    record: bool = False,
    nodes: int = 1_000_000,
) -> SparseDistance:
    """How few pixels change the class: prove 1, 2, 3, ... pixels harmless until a witness or the time ends it.

    Args:
        bounds, image, label, scorer, norm: as for `decide_sparse`.
        seconds: CPU seconds in all; a third of them at most for a search with gradients.
        given: a misclassified image that is known.
        record: whether to keep the trees for a certificate.
        nodes: to bound at most for each number of units.
    """
    unit = image.shape[2] if norm == "l0" else 1

    def changed(witness: NDArray[np.float32]) -> int:
        return int((witness != image).reshape(-1, unit).any(axis=1).sum())

    begin = time.thread_time()
    mine = few_pixel_witness(bounds.graph, scorer, image, label, unit=unit, seconds=seconds / 3)
    best = min((w for w in (given, mine) if w is not None), key=changed, default=None)
    answers: list[Answer] = []
    proved, left = 0, seconds - (time.thread_time() - begin)
    while left > 0 and proved < image.size // unit and (best is None or proved + 1 < changed(best)):
        answer = decide_sparse(
            bounds, image, label, proved + 1, scorer=scorer, norm=norm, seconds=left, nodes=nodes, record=record
        )
        answers.append(answer)
        left -= answer.seconds
        if answer.decision is not Decision.PROVED:
            best = best if answer.witness is None else answer.witness
            break
        proved += 1
    return SparseDistance(proved + 1, None if best is None else changed(best), best, tuple(answers))


class _SparseSearch:
    """One image, one class to keep."""

    def __init__(
        self,
        bounds: CentredBounds,
        image: NDArray[np.float32],
        label: int,
        norm: L0Norm,
        target: int | None,
        scorer: Scorer,
    ) -> None:
        graph = bounds.graph
        if tuple(image.shape) != tuple(graph.input_shape):
            raise InvalidSetting(
                f"image must have shape {graph.input_shape} like the model's input; got {image.shape}."
            )
        self.bounds, self.label, self.norm, self.target, self.scorer = bounds, label, norm, target, scorer
        self.image = image.astype(np.float32)
        self.x = torch.from_numpy(self.image.reshape(-1).astype(np.float64))
        self.channels = graph.input_shape[2]
        self.unit = 1 if norm == "l0_dims" else self.channels
        self.n_units = graph.n_inputs // self.unit
        self.rows = rows_against(graph.n_classes, label, target)

    def run(self, free: Tensor, units: int, *, seconds: float, nodes: int, batch: int, record: bool) -> Answer:
        """Branch until proved, falsified or out of time."""
        started = time.thread_time()
        root = self.root(free, units)
        heap: list[tuple[float, int, _Node]] = [(-np.inf, 0, root)]
        done = made = stuck = 0

        def answer(decision: Decision, witness: NDArray[np.float32] | None = None) -> Answer:
            proved = decision is Decision.PROVED
            return Answer(
                decision,
                witness,
                done,
                len(heap),
                None if not heap else heap[0][0],
                time.thread_time() - started,
                root.record if record and proved else None,
            )

        while heap:
            if done >= nodes or time.thread_time() - started > seconds:
                return answer(Decision.OPEN)
            taken = [heapq.heappop(heap)[2] for _ in range(min(batch, len(heap), nodes - done))]
            region = self._region(taken)
            known = {
                at: (
                    torch.stack([node.known[at][0] for node in taken]),
                    torch.stack([node.known[at][1] for node in taken]),
                )
                for at in taken[0].known
            }
            state = self.bounds.analyse(region, known)
            found = self.bounds.bound(state, self.rows)
            won = self.bounds.hard_won(state)
            done += len(taken)
            failing = ~(found.value > 0)
            witness = self._witness(region.argmin_linear(found.form)[failing])
            for b, node in enumerate(taken):
                if not bool(failing[b].any()):
                    node.record["leaf"] = True
                    continue
                worst = int(found.value[b].argmin())
                bound = float(found.value[b, worst])
                held = {at: (low[b], high[b]) for at, (low, high) in won.items()}
                children = self._split(node, -found.gains[b, worst])
                stuck += not children
                for child in children:
                    made += 1
                    heapq.heappush(heap, (bound, made, replace(child, known=held)))
                if not record:
                    node.record.clear()
            if witness is not None:
                return answer(Decision.FALSIFIED, witness)
        return answer(Decision.PROVED if stuck == 0 else Decision.OPEN)

    def root(self, free: Tensor, units: int) -> _Node:
        """All of the region: at most `units` of the free ones change."""
        return _Node(tuple(_single(free, min(units, len(free)))), {}, {})

    def _region(self, nodes: list[_Node]) -> Region:
        """The nodes as a batch of regions; a single unit stands in the middle of its interval."""
        batch = len(nodes)
        centre, n = self.x.repeat(batch, 1), len(self.x)
        group = torch.full((batch, self.n_units), -1, dtype=torch.int64)
        budget = torch.zeros(batch, max(len(node.groups) for node in nodes), dtype=torch.int64)
        lower, upper = centre.clone(), centre.clone()
        for b, node in enumerate(nodes):
            for g, (units, count) in enumerate(node.groups):
                group[b, units], budget[b, g] = g, count
                dims = (units[:, None] * self.unit + torch.arange(self.unit)).flatten()
                lower[b, dims], upper[b, dims] = 0.0, 1.0
                if len(units) == 1:
                    for dim in dims.tolist():
                        low, high = node.values.get(dim, (0.0, 1.0))
                        lower[b, dim], upper[b, dim], centre[b, dim] = low, high, (low + high) / 2
        assert centre.shape == (batch, n)
        return Region(
            norm=self.norm,
            centre=centre,
            lower=lower,
            upper=upper,
            eps=budget.sum(1).to(torch.float64),
            channels=self.channels,
            group=group,
            budget=budget,
        )

    def _witness(self, points: Tensor) -> NDArray[np.float32] | None:
        """The first of some points that the classifier itself gets wrong."""
        points = points[points.isfinite().all(1)]
        if not len(points):
            return None
        images = points.to(torch.float32).numpy().reshape(-1, *self.image.shape)
        classes = np.asarray(self.scorer(images)).argmax(axis=1)
        wrong = np.flatnonzero(classes != self.label if self.target is None else classes == self.target)
        return images[wrong[0]].copy() if len(wrong) else None

    def _split(self, node: _Node, influence: Tensor) -> list[_Node]:
        """Children that cover the node, none if it cannot be cut any further; `influence` (n,) is what each dimension can take from the margin, >= 0."""
        per_unit = influence.reshape(self.n_units, self.unit).sum(1)
        wide = [g for g, (units, _) in enumerate(node.groups) if len(units) > 1]
        if not wide:
            return self._halve(node, influence)
        worst = max(wide, key=lambda g: float(per_unit[node.groups[g][0]].topk(node.groups[g][1])[0].sum()))
        units, budget = node.groups[worst]
        rest = node.groups[:worst] + node.groups[worst + 1 :]
        ordered = units[per_unit[units].argsort(descending=True, stable=True)]
        share = per_unit[ordered].cumsum(0)
        cut = min(max(1, int((share < _HOT * share[-1]).sum())), len(ordered) - 1)
        hot, cold = ordered[:cut], ordered[cut:]
        node.record.update(split="group", hot=hot.tolist(), cold=cold.tolist(), children=[])
        children = []
        for count in range(max(0, budget - len(cold)), min(budget, len(hot)) + 1):
            groups = (*rest, *_single(hot, count), *_single(cold, budget - count))
            record: dict[str, Any] = {}
            node.record["children"].append(record)
            children.append(_Node(groups, node.values, record))
        return children

    def _halve(self, node: _Node, influence: Tensor) -> list[_Node]:
        """Two children with halves of the interval that matters most."""
        dims = [int(u) * self.unit + c for units, _ in node.groups for u in units.tolist() for c in range(self.unit)]
        if not dims:
            return []
        dim = max(dims, key=lambda d: (float(influence[d]), -d))
        low, high = node.values.get(dim, (0.0, 1.0))
        middle = (low + high) / 2
        if not low < middle < high:
            return []
        node.record.update(split="value", dim=dim, at=middle, children=[{}, {}])
        return [
            _Node(node.groups, {**node.values, dim: part}, record)
            for part, record in zip(((low, middle), (middle, high)), node.record["children"], strict=True)
        ]


def _single(units: Tensor, budget: int) -> list[tuple[Tensor, int]]:
    """A group as groups: none without a budget, single units where all of them may change."""
    if budget == 0:
        return []
    if budget >= len(units):
        return [(unit, 1) for unit in units[:, None]]
    return [(units, budget)]
