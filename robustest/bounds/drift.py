"""How far a network's execution can drift from exact arithmetic around one image, in L2.

What turns a global Lipschitz constant, which speaks of exact arithmetic, into a statement about the network as
executed. Interval bounds of the rounding over a whole box are far too wide for that in networks of many dense layers;
here every layer's rounding is bounded as a vector and carried on by the layers' norms. For an image x' within R of x:

* `spread`: a node's exact value differs from that at x by at most its rate times R;
* `drift`: its executed value differs from its exact one by at most the parents' drift times the layer's norm, plus what
  the layer itself rounds: `rate * (|| |W| |z(x)| + |b| || + || |W| || (spread + drift of the parent))`.

All norms are L2. Along a residual step on the gradient of a convex function the drift of the source grows by the
step's own rate, and only what is rounded inside the step goes through its layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustest.bounds.graph import BoundGraph
from robustest.bounds.lipschitz import Rates, pairwise
from robustest.bounds.ops import LinearOp
from robustest.bounds.rounding import OUTWARD


def _absolute_norm(op: LinearOp) -> float:
    """Upper bound of the spectral norm of `|A|`: the root of its largest row sum times its largest column sum."""
    rows = op.forward(torch.ones(1, op.n_in, dtype=torch.float64), absolute=True)
    columns = op.backward(torch.ones(1, op.n_out, dtype=torch.float64), absolute=True)
    return math.sqrt(float(rows.max()) * float(columns.max())) * OUTWARD


class ExecutionDrift:
    """One network; `rates` are those of its nodes in L2."""

    def __init__(self, graph: BoundGraph, rates: Rates) -> None:
        self.graph = graph
        self.rates = rates
        self.absolute = [0.0 if node.op is None else _absolute_norm(node.op) for node in graph.nodes]

    def margins(self, point: Tensor, label: int, radius: float) -> Tensor:
        """(K,) most by which an executed margin `score[label] - score[other]` can fall short of its exact value.

        Args:
            point: (1, n) float64 the image x. label: the class.
            radius: of the L2 ball around x on which it holds.
        """
        graph, rates = self.graph, self.rates
        base = graph.forward_all(point)
        drift = [0.0]
        made = [0.0]
        for at in range(1, len(graph.nodes)):
            node = graph.nodes[at]
            relative, absolute = graph.error_rate(at, unit=graph.unit)
            reach = [base[p].abs() for p in node.parents]
            # Twice: `base` itself was worked out with rounding, which is charged in `drift` too.
            beyond = [rates.image[p] * radius + 2 * drift[p] for p in node.parents]
            if node.op is not None:
                size = float(node.op.magnitude(reach[0]).norm()) + self.absolute[at] * beyond[0]
            else:
                size = float(torch.stack(reach).sum(0).norm()) + sum(beyond)
            made.append((size * relative + absolute * math.sqrt(node.size)) * OUTWARD)
            if at == len(graph.nodes) - 1:
                break
            carried = rates.layer[at] * sum(drift[p] for p in node.parents)
            if at in rates.blocks:
                carried = min(carried, self._through_block(at, drift, made))
            drift.append((carried + made[at]) * OUTWARD)
        last = graph.nodes[-1]
        assert last.op is not None
        most: Tensor = (pairwise(last.op, "l2")[label] * drift[last.parents[0]] + 2 * made[-1]) * OUTWARD
        return most

    def _through_block(self, at: int, drift: list[float], made: list[float]) -> float:
        """Drift that reaches a residual step's sum, without what the sum itself rounds."""
        source, rate = self.rates.blocks[at]
        branch = next(p for p in self.graph.nodes[at].parents if p != source)
        bent = self.graph.nodes[branch].parents[0]
        before = self.graph.nodes[bent].parents[0]
        inside = self.rates.layer[bent] * made[before] + made[bent]
        return rate * drift[source] + self.rates.layer[branch] * inside + made[branch]
