"""Cones: what a few neurons of an early layer can see, as small matrices.

A neuron of a convolution depends on a small window of every earlier layer. The neurons of one place (its channels)
form a patch; linear forms on them are then pushed back through the patch's own small matrices and not through the
whole network. Works for any graph: windows are found by asking each operator which inputs it reads.
Knows nothing of bounds or regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustest.bounds.graph import BoundGraph
from robustest.bounds.ops import Conv, Gather, Scale

_LARGEST = 6_000_000
"""Matrix entries that a cone may hold."""
_DEAREST = 600_000_000
"""Entries that may be computed to find what one operator without windows reads."""


@dataclass(frozen=True, slots=True)
class Link:
    """How forms on a node become forms on one of its parents, inside each of P patches.

    matrix: (P, F_node, F_parent), or None where entries only move. magnitude: its absolute value.
    factor: (P, 1, 1, F_node) to multiply by before entries move, or None.
    place: (P, F_parent) the node's slot that each slot of the parent gets; F_node for none.
    """

    matrix: Tensor | None = None
    magnitude: Tensor | None = None
    factor: Tensor | None = None
    place: Tensor | None = None

    def backward(self, forms: Tensor, *, absolute: bool = False) -> Tensor:
        """(P, B, R, F_node) to (P, B, R, F_parent)."""
        if self.matrix is not None and self.magnitude is not None:
            patches, batch, rows, width = forms.shape
            flat = forms.reshape(patches, batch * rows, width) @ (self.magnitude if absolute else self.matrix)
            return flat.reshape(patches, batch, rows, -1)
        if self.factor is not None:
            forms = forms * (self.factor.abs() if absolute else self.factor)
        if self.place is None:
            return forms
        padded = torch.nn.functional.pad(forms, (0, 1))
        index = self.place[:, None, None, :].expand(*forms.shape[:3], -1)
        return padded.gather(-1, index)


@dataclass(frozen=True, slots=True)
class Cone:
    """Everything below one node that forms on it pass through.

    target: the node.
    order: its ancestors from late to early, itself first and the input (0) last.
    index: of each of them (P, F) entries, its size for an empty slot; of the input (P, W * channels), whole pixels.
    links: (node, parent) to how forms pass.
    pixels: (P, W) pixels of the input; their number for an empty slot.
    """

    target: int
    order: tuple[int, ...]
    index: dict[int, Tensor]
    links: dict[tuple[int, int], Link]
    pixels: Tensor

    @property
    def patches(self) -> int:
        """P."""
        return self.pixels.shape[0]

    def window(self, values: Tensor, node: int) -> Tensor:
        """(B, n) values of a node as (P, B, 1, F) seen by each patch, 0 in empty slots."""
        padded = torch.nn.functional.pad(values, (0, 1))
        return padded[:, self.index[node]].transpose(0, 1)[:, :, None]

    def scatter(self, values: Tensor, size: int) -> Tensor:
        """(P, B, R) values of the target's entries as (B, size)."""
        out = values.new_zeros(values.shape[1], size + 1)
        out[:, self.index[self.target].flatten()] = values.transpose(0, 1).flatten(1)
        return out[:, :size]


@dataclass(slots=True)
class _Windows:
    """The windows found so far while a cone is built.

    sets: of each node, per patch, its entries in rising order.
    blocks: (node, parent) to (entries of the parent read, matrix) per patch, for operators with a matrix.
    """

    sets: dict[int, list[Tensor]]
    blocks: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    entries: int = 0

    def read(self, parent: int, reads: Sequence[Tensor]) -> None:
        """The patches read these entries of a parent too."""
        known = self.sets.get(parent)
        both = reads if known is None else [torch.cat([a, b]) for a, b in zip(known, reads, strict=True)]
        self.sets[parent] = [torch.unique(s) for s in both]


def build_cone(graph: BoundGraph, target: int) -> Cone | None:
    """The cone of a node, or None where passes through the whole network are cheaper."""
    found = _Windows({target: _patches(graph.nodes[target].shape)})
    order = _ancestors(graph, target)
    for at in order[:-1]:
        node = graph.nodes[at]
        for parent in node.parents:
            if isinstance(node.op, Gather):
                reads = [node.op.index[s] for s in found.sets[at]]
                found.read(parent, [r[r >= 0] for r in reads])
            elif node.op is None or isinstance(node.op, Scale):
                found.read(parent, found.sets[at])
            else:
                if not isinstance(node.op, Conv) and sum(map(len, found.sets[at])) * node.op.n_in > _DEAREST:
                    return None
                blocks = []
                for rows in found.sets[at]:
                    blocks.append(_block(graph, at, rows))
                    found.entries += blocks[-1][1].numel()
                    if found.entries > _LARGEST:
                        return None
                found.blocks[at, parent] = blocks
                found.read(parent, [reads for reads, _ in blocks])
    count = graph.nodes[target].size
    whole_cost = count * sum(n.op.terms * n.op.n_out for n in (graph.nodes[at] for at in order) if n.op is not None)
    if found.entries * (count // len(found.sets[target])) > whole_cost:
        return None
    channels = graph.input_shape[2]
    pixels = _padded([torch.unique(s // channels) for s in found.sets[0]], graph.n_inputs // channels)
    whole = (pixels[:, :, None] * channels + torch.arange(channels)).flatten(1)
    index = {at: _padded(found.sets[at], graph.nodes[at].size) for at in order[:-1]}
    index[0] = whole.clamp_max(graph.n_inputs)
    links = {
        (at, parent): _link(graph, at, parent, index, found) for at in order[:-1] for parent in graph.nodes[at].parents
    }
    return Cone(target, order, index, links, pixels)


def _patches(shape: tuple[int, ...]) -> list[Tensor]:
    """The entries of each place of a (C, H, W) array; of any other array all entries together."""
    entries = torch.arange(torch.Size(shape).numel())
    if len(shape) != 3:
        return [entries]
    return list(entries.reshape(shape[0], -1).T.contiguous())


def _ancestors(graph: BoundGraph, target: int) -> tuple[int, ...]:
    """The node and everything before it, from late to early, the input last."""
    needed = {target, 0}
    for at in range(target, 0, -1):
        if at in needed:
            needed.update(graph.nodes[at].parents)
    return tuple(sorted(needed, reverse=True))


def _block(graph: BoundGraph, at: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which entries of its parent some rows of an operator read, and the matrix between them."""
    op = graph.nodes[at].op
    assert op is not None
    if isinstance(op, Conv):
        return op.rows_of(rows)
    chosen = torch.zeros(len(rows), op.n_out, dtype=torch.float64)
    chosen[torch.arange(len(rows)), rows] = 1.0
    matrix = op.backward(chosen)
    reads = (matrix != 0).any(0).nonzero()[:, 0]
    return reads, matrix[:, reads]


def _padded(sets: Sequence[Tensor], empty: int) -> Tensor:
    """(P, F) the sets as rows of equal length."""
    width = max(1, max(len(s) for s in sets))
    out = torch.full((len(sets), width), empty, dtype=torch.int64)
    for row, members in zip(out, sets, strict=True):
        row[: len(members)] = members
    return out


def _link(graph: BoundGraph, at: int, parent: int, index: dict[int, Tensor], found: _Windows) -> Link:
    """How forms pass from one node to one of its parents, in every patch."""
    node, here, there = graph.nodes[at], index[at], index[parent]
    patches, width = here.shape
    if (at, parent) in found.blocks:
        matrix = torch.zeros(patches, width, there.shape[1], dtype=torch.float64)
        for p, (reads, block) in enumerate(found.blocks[at, parent]):
            columns = _positions(there[p], graph.nodes[parent].size)[reads]
            matrix[p, : block.shape[0], columns] = block
        return Link(matrix=matrix, magnitude=matrix.abs())
    if isinstance(node.op, Gather):
        source = torch.nn.functional.pad(node.op.index, (0, 1), value=-1)[here]
        if bool((torch.bincount(node.op.index[node.op.index >= 0]) > 1).any()):
            # An entry that is read twice gets the sum of two forms: a matrix of zeros and ones.
            matrix = ((source[:, :, None] == there[:, None, :]) & (source[:, :, None] >= 0)).to(torch.float64)
            return Link(matrix=matrix, magnitude=matrix)
        place = torch.full(there.shape, width, dtype=torch.int64)
        for p in range(patches):
            slots = _positions(there[p], graph.nodes[parent].size)
            valid = source[p] >= 0
            place[p, slots[source[p][valid]]] = valid.nonzero()[:, 0]
        return Link(place=place)
    factor = None
    if isinstance(node.op, Scale):
        factor = torch.nn.functional.pad(node.op.factor, (0, 1))[here][:, None, None, :]
    if torch.equal(here, there) and graph.nodes[parent].size == node.size:
        return Link(factor=factor)
    place = torch.full(there.shape, width, dtype=torch.int64)
    for p in range(patches):
        slots = _positions(there[p], graph.nodes[parent].size)
        filled = here[p] < node.size
        place[p, slots[here[p][filled]]] = filled.nonzero()[:, 0]
    return Link(factor=factor, place=place)


def _positions(members: Tensor, size: int) -> Tensor:
    """(size + 1,) slot of each entry among the members; only those of members mean anything."""
    slots = torch.zeros(size + 1, dtype=torch.int64)
    slots[members] = torch.arange(len(members))
    return slots
