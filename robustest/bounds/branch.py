"""Proves one region safe: a relaxation first, then branching that suits the region and the network."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from robustest.bounds.alpha import optimise, tighten
from robustest.bounds.branch_compact import CompactForm
from robustest.bounds.branch_layers import prove_layers
from robustest.bounds.branch_relu import Attack, BranchAnswer, ReluBranch
from robustest.bounds.crown import margin_bounds
from robustest.bounds.cuts import prove_by_cuts
from robustest.bounds.graph import BoundGraph
from robustest.bounds.ops import Conv
from robustest.bounds.region import Region

_CUTTING = 0.1
"""Share of the time after which no further cut is tried before slopes and branching."""
_SMALL = 3000
"""Neurons up to which the intervals of every domain are tightened again."""


def _is_flat(graph: BoundGraph) -> bool:
    """Whether no layer is a convolution: of those, domains with windows prove more in the same time."""
    return not any(isinstance(node.op, Conv) for node in graph.nodes)


def prove_region(
    graph: BoundGraph,
    region: Region,
    label: int,
    *,
    seconds: float,
    domains: int = 1_000_000,
    root_steps: int = 30,
    executed: bool = True,
    attack: Attack | None = None,
) -> BranchAnswer:
    """Prove that every image of one region has class `label`, or report how far the proof got.

    Args:
        graph: the network. region: one set of images. label: the class to be proved.
        seconds: CPU time to spend. domains: to bound at most; 0 for no branching.
        root_steps: of slope optimisation before branching.
        executed: for the network as executed.
        attack: tried on the points at which domains are bounded worst.
    """
    begin = time.thread_time()
    labels = torch.tensor([label])
    with torch.no_grad():
        first = margin_bounds(graph, region, labels, executed=executed)
    if bool(first.proved[0]):
        return BranchAnswer(True, float(first.lower.min()), 1, 0, time.thread_time() - begin)
    if graph.jumps is not None or not any(
        node.activation is not None and node.activation.kind == "relu" for node in graph.nodes
    ):
        # There is nothing to optimise or to branch on.
        return BranchAnswer(False, float(first.lower.min()), 1, 1, time.thread_time() - begin)
    is_box = region.norm == "linf" and region.batch == 1
    if is_box and prove_by_cuts(graph, region, label, first, executed=executed, seconds=_CUTTING * seconds):
        return BranchAnswer(True, 0.0, 1, 0, time.thread_time() - begin)
    intervals, middle = tighten(graph, region, first.intervals, executed=executed, seconds=seconds / 4)
    root = optimise(
        graph, region, labels, steps=root_steps, executed=executed, known=intervals, fixed=True, seconds=seconds / 4
    )
    if bool(root.proved[0]):
        return BranchAnswer(True, float(root.lower.min()), 1, 0, time.thread_time() - begin)
    if domains == 0:
        return BranchAnswer(False, float(root.lower.min()), 1, 1, time.thread_time() - begin)
    left = seconds - (time.thread_time() - begin)
    if _is_flat(graph) and CompactForm.suits(graph, region):
        found = prove_layers(
            graph, region, label, root.intervals, seconds=left, most=domains, executed=executed, look=attack
        )
        lower = float(torch.maximum(found.lower, root.lower[0]).min())
        return BranchAnswer(found.proved, lower, found.nodes, found.open, time.thread_time() - begin, found.found)
    again = middle if graph.n_neurons <= _SMALL else None
    tree = ReluBranch(graph, region, label, root, middle=again, executed=executed)
    answer = tree.run(seconds=left, most=domains, attack=attack)
    return replace(answer, seconds=time.thread_time() - begin)
