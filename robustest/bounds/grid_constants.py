"""Constants for the tau-grid from a network's weights: local ones over the region, or a global one.

A local constant is the interval Jacobian over exactly the images of the region, per free dimension; it holds for the
network's scores before a final softmax, and what float32 execution can add is subtracted from every margin. Imports
torch; `taugrid` itself does not.
"""

from __future__ import annotations

import numpy as np
import torch

from robustest.bounds.crown import margin_rows, propagate
from robustest.bounds.graph import BoundGraph
from robustest.bounds.grid_region import GridConstants, GridRegion
from robustest.bounds.guarantee import Guarantee, Scorer
from robustest.bounds.jacobian import gradient_intervals
from robustest.bounds.lipschitz import Lipschitz
from robustest.bounds.region import Region
from robustest.bounds.rounding import OUTWARD, U32


def local_constants(
    graph: BoundGraph, region: GridRegion, label: int, *, scorer: Scorer, target: int | None = None
) -> GridConstants:
    """How fast each margin can fall along each free dimension, anywhere in the region.

    Args:
        graph: the network.
        scorer: the classifier that the grid will ask; it must give the graph's scores, which is checked.
        region: images with few free dimensions.
        label: the class to be kept. target: the one class that must not be reached; any where None.

    Raises:
        UnsupportedLayer: a layer jumps.
        GraphMismatch: the scorer gives something else, probabilities where the graph gives logits for instance.
    """
    graph.need_continuous("the tau-grid's Lipschitz constant")
    graph.check_against(scorer, images=4)
    free = torch.from_numpy(region.dims)
    flat = torch.from_numpy(region.image.reshape(1, -1).astype(np.float64))
    low, high = flat.clone(), flat.clone()
    low[0, free] = torch.from_numpy(region.lower.astype(np.float64))
    high[0, free] = torch.from_numpy(region.upper.astype(np.float64))
    labels = torch.tensor([label])
    with torch.no_grad():
        intervals = propagate(graph, Region.box_of(low, high, channels=graph.input_shape[2]))
        rows, rivals = margin_rows(graph.n_classes, labels, None if target is None else torch.tensor([[target]]))
        down, up, moved = gradient_intervals(graph, intervals, rows)
    rate = torch.maximum(down.abs(), up.abs())[0][:, free] * OUTWARD
    guarantee = Guarantee.PROOF_EXEC if graph.unit >= U32 else Guarantee.PROOF_REAL
    return GridConstants(
        rivals[0].numpy(),
        rate.numpy(),
        None,
        2 * OUTWARD * moved[0].numpy(),
        guarantee,
        "tau-grid, interval Jacobian over the region",
        graph.assumptions,
    )


def global_constants(
    graph: BoundGraph,
    constant: Lipschitz,
    region: GridRegion,
    label: int,
    *,
    scorer: Scorer,
    target: int | None = None,
) -> GridConstants:
    """The same from a constant of the whole network, in its norm."""
    local = local_constants(graph, region, label, scorer=scorer, target=target)
    rate = constant.constant[label].numpy()[local.rivals][:, None]
    return GridConstants(
        local.rivals,
        rate,
        constant.norm,
        local.slack,
        constant.guarantee if constant.guarantee is Guarantee.PROOF_GIVEN_L else local.guarantee,
        f"tau-grid, {constant.method}",
        graph.assumptions,
    )
