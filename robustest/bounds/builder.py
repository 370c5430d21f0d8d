"""Builds a `BoundGraph` node by node: what the readers of ONNX files and torch modules share.

Chains of picks and transpositions melt into one, scales move in front of transpositions, reshapes vanish. Weights that
are not finite are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from robustest.bounds.errors import UnsupportedLayer, UnsupportedNumerics
from robustest.bounds.graph import Activation, BoundGraph, Node
from robustest.bounds.ops import Conv, Dense, Gather, LinearOp, Scale, Shape


class GraphBuilder:
    """Collects nodes; every method takes and returns the index of a node."""

    def __init__(self, input_shape: Shape) -> None:
        """Start with the image, (H, W, C)."""
        self.nodes: list[Node] = [Node("input", (), input_shape, name="image")]
        self.input_shape = input_shape
        self.assumptions: list[str] = []
        self.softmax: int | None = None

    def end_in_softmax(self, node: int) -> None:
        """Note that the model takes the softmax of this node; `build` refuses anything after it."""
        self.softmax = node
        self.assumptions.append(
            "The last Softmax is left out; what its rounding cannot tell apart is charged to the scores before it."
        )

    def shape(self, node: int) -> Shape:
        """Of a node's output."""
        return self.nodes[node].shape

    def _add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def linear(self, parent: int, op: LinearOp, name: str, *, exact: bool = False, single: bool = False) -> int:
        """Any operator; refused where a weight is not finite."""
        if not op.is_finite:
            raise UnsupportedNumerics(f"layer {name} holds weights that are not finite; nothing can be proved.")
        return self._add(Node("linear", (parent,), op.out_shape, op=op, exact=exact, name=name, single=single))

    def dense(self, parent: int, weight: Tensor, bias: Tensor | None, name: str) -> int:
        """Matrix (n_out, n_in) on the last axis; every earlier axis must have length 1."""
        shape = self.shape(parent)
        if prod(shape) != weight.shape[1]:
            raise UnsupportedLayer(
                f"layer {name} multiplies the last axis of an array of shape {shape} by {tuple(weight.shape)}; "
                "only flat arrays are supported. Flatten first."
            )
        constant = torch.zeros(weight.shape[0], dtype=torch.float64) if bias is None else bias.double()
        out = (*shape[:-1], weight.shape[0])
        return self.linear(parent, Dense(weight.double(), constant, shape, out), name)

    def conv(
        self,
        parent: int,
        weight: Tensor,
        bias: Tensor | None,
        name: str,
        *,
        stride: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        exact: bool = False,
    ) -> int:
        """Convolution; pads are top, left, bottom, right, of which the last two may be negative: they crop."""
        shape = self.shape(parent)
        if min(pads[:2]) < 0:
            raise UnsupportedLayer(
                f"layer {name}: a convolution with pads {pads}; none may be negative at the top or left."
            )
        if len(shape) != 3 or weight.dim() != 4 or weight.shape[1] * groups != shape[0]:
            raise UnsupportedLayer(
                f"layer {name}: a convolution with weights {tuple(weight.shape)} in {groups} groups on an array of "
                f"shape {shape}; only two-dimensional convolution is supported."
            )
        constant = torch.zeros(weight.shape[0], dtype=torch.float64) if bias is None else bias.double()
        op = Conv(weight.double(), constant, shape, stride, pads, dilation, groups)
        return self.linear(parent, op, name, exact=exact)

    def scale(
        self,
        parent: int,
        factor: Tensor,
        constant: Tensor,
        name: str,
        mass: Tensor | None = None,
        *,
        single: bool = False,
    ) -> int:
        """Multiply and add, numbers that broadcast against the shape from the right."""
        shape = self.shape(parent)
        mass = constant.abs() if mass is None else mass
        for values in (factor, constant):
            sides = zip(reversed(values.shape), reversed(shape), strict=False)
            if values.dim() > len(shape) or any(mine not in (1, there) for mine, there in sides):
                raise UnsupportedLayer(
                    f"layer {name} combines an array of shape {shape} with a constant of shape {tuple(values.shape)}; only "
                    "constants that leave the array's shape as it is are supported."
                )
        flat = [torch.broadcast_to(t.double(), shape).flatten() for t in (factor, constant, mass)]
        return self.linear(parent, Scale(flat[0], flat[1], shape, flat[2]), name, single=single)

    def gather(self, parent: int, index: Tensor, out_shape: Shape, name: str, constant: Tensor | None = None) -> int:
        """Pick entries by flat index, -1 for the constant; chains of these become one, and no-ops none."""
        node = self.nodes[parent]
        index = index.flatten()
        fill = torch.zeros(index.numel(), dtype=torch.float64) if constant is None else constant
        if isinstance(node.op, Gather):
            before, where = node.op, index.clamp_min(0)
            fill = torch.where(index >= 0, before.constant[where], fill)
            index = torch.where(index >= 0, before.index[where], -1)
            parent, node = node.parents[0], self.nodes[node.parents[0]]
        if torch.equal(index, torch.arange(node.size)):
            return self.reshape(parent, out_shape)
        op = Gather(index, fill, node.shape, out_shape)
        if node.activation is not None and node.activation.kind == "sign" and op.is_permutation:
            # Reorder first, then take signs: binarised networks transpose around each, and the two then melt.
            return self.activate(self.gather(node.parents[0], index, out_shape, name), node.activation, node.name)
        if isinstance(node.op, Scale) and op.is_permutation:
            # Reorder first, then scale: so a normalisation stands on the (C, H, W) side of a transposition.
            old = node.op
            moved = self.gather(node.parents[0], index, out_shape, name)
            return self.linear(
                moved,
                Scale(old.factor[index], old.constant[index], out_shape, old.mass[index]),
                node.name,
                single=node.single,
            )
        return self.linear(parent, op, name)

    def reshape(self, parent: int, shape: Shape) -> int:
        """Same entries in the same order under another shape: costs nothing later."""
        node = self.nodes[parent]
        if prod(shape) != node.size:
            raise UnsupportedLayer(f"cannot reshape {node.shape} to {shape}.")
        if shape == node.shape:
            return parent
        if isinstance(node.op, Scale):
            return self.linear(
                node.parents[0], replace(node.op, in_shape=shape), node.name, exact=node.exact, single=node.single
            )
        index = torch.arange(node.size)
        zero = torch.zeros(node.size, dtype=torch.float64)
        return self._add(
            Node("linear", (parent,), shape, op=Gather(index, zero, node.shape, shape), exact=True, name="reshape")
        )

    def permute(self, parent: int, axes: Sequence[int], name: str) -> int:
        """Transpose; axes do not count the batch axis."""
        shape = self.shape(parent)
        if sorted(axes) != list(range(len(shape))):
            raise UnsupportedLayer(f"layer {name} orders the axes of an array of shape {shape} as {list(axes)}.")
        index = torch.arange(prod(shape)).reshape(shape).permute(*axes)
        return self.gather(parent, index.flatten(), tuple(index.shape), name)

    def pad(self, parent: int, before: Sequence[int], after: Sequence[int], value: float, name: str) -> int:
        """Constant padding of each axis; negative numbers crop."""
        shape = self.shape(parent)
        index = torch.arange(prod(shape)).reshape(shape)
        flat = [n for pair in reversed(list(zip(before, after, strict=True))) for n in pair]
        index = torch.nn.functional.pad(index, flat, value=-1)
        constant = torch.where(index.flatten() < 0, float(value), 0.0).double()
        return self.gather(parent, index.flatten(), tuple(index.shape), name, constant)

    def add(self, parents: Sequence[int], name: str, *, exact: bool = False) -> int:
        """Sum of arrays of one shape."""
        shapes = {self.shape(p) for p in parents}
        if len(shapes) != 1:
            raise UnsupportedLayer(f"layer {name} adds arrays of shapes {sorted(shapes)}; they must be equal.")
        return self._add(Node("add", tuple(parents), shapes.pop(), exact=exact, name=name))

    def activate(self, parent: int, activation: Activation, name: str) -> int:
        """An activation function."""
        if activation.kind == "relu" and not 0 <= activation.slope <= 1:
            raise UnsupportedLayer(f"layer {name}: a leaky ReLU of slope {activation.slope}; it must be in [0, 1].")
        if activation.kind == "sign":
            zero = self._sign_of_sign(parent)
            if zero is not None:
                before = self.nodes[self.nodes[parent].parents[0]]
                return self.activate(before.parents[0], Activation("sign", zero=zero), name)
        return self._add(Node("activation", (parent,), self.shape(parent), activation=activation, name=name))

    def _sign_of_sign(self, scaled: int) -> float | None:
        """What `sign(factor * sign(z) + constant)` is at z = 0, where it is the sign of z elsewhere; else None.

        Exporters write a sign that is never 0 so: `sign(sign(z) + 0.1)`. Its three values are far from 0 for any rounding.
        """
        op = self.nodes[scaled].op
        if not isinstance(op, Scale):
            return None
        inner = self.nodes[self.nodes[scaled].parents[0]].activation
        if inner is None or inner.kind != "sign":
            return None
        size = 2.0**-10 * (op.factor.abs() + op.mass)
        values = [op.factor * v + op.constant for v in (-1.0, inner.zero, 1.0)]
        signs = [v.sign() for v in values]
        clear = all(bool((v.abs() > size).all()) for v in values)
        if not clear or bool((signs[0] != -1).any() | (signs[2] != 1).any() | (signs[1] != signs[1][0]).any()):
            return None
        return float(signs[1][0])

    def build(self, output: int, *, unit: float, digest: str = "") -> BoundGraph:
        """Finish: drop what the output does not need, melt reshapes into their neighbours."""
        if self.softmax is not None and self.softmax != output:
            raise UnsupportedLayer("layer Softmax is supported at the end of a network only.")
        nodes, output = self._without_reshapes(output)
        needed = {output}
        for index in range(output, -1, -1):
            if index in needed:
                needed.update(nodes[index].parents)
        needed.add(0)
        order = sorted(needed)
        place = {old: new for new, old in enumerate(order)}
        kept = [replace(nodes[i], parents=tuple(place[p] for p in nodes[i].parents)) for i in order]
        if kept[-1].kind != "linear":
            # Bounds start at an affine node; an identity costs nothing and rounds nothing.
            last = kept[-1]
            ones, zero = torch.ones(last.size).double(), torch.zeros(last.size).double()
            kept.append(
                Node("linear", (len(kept) - 1,), last.shape, Scale(ones, zero, last.shape, zero), None, True, "out")
            )
        return BoundGraph(
            tuple(kept), self.input_shape, unit, tuple(self.assumptions), self.softmax is not None, digest
        )

    def _without_reshapes(self, output: int) -> tuple[list[Node], int]:
        """Flattened arrays do not know their shape, so reshapes only redirect their readers."""
        target = list(range(len(self.nodes)))
        nodes: list[Node] = []
        for index, node in enumerate(self.nodes):
            moved = replace(node, parents=tuple(target[p] for p in node.parents))
            if isinstance(node.op, Gather) and node.name == "reshape":
                target[index] = target[node.parents[0]]
            nodes.append(moved)
        return nodes, target[output]
