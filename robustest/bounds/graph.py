"""A network as a small graph that bounds can be computed on: affine operators, activations and sums, in float64.

Everything a network holds is brought to four kinds of node (input, linear, activation, add). Max pooling becomes
`max(a, b) = b + relu(a - b)`, ReLU6 a difference of two ReLUs: exact rewritings, marked as such, so that no rounding
is charged to what the executed network does not compute. What cannot be brought to that is refused by name.
Images come as (H, W, C) in [0, 1], flattened pixel-major; `forward` gives scores. Reads no file and no torch module:
see `graph_torch` and `graph_onnx`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robustest.bounds.errors import GraphMismatch, UnsupportedLayer, UnsupportedNumerics
from robustest.bounds.ops import Conv, Dense, Gather, LinearOp, Scale, Shape
from robustest.bounds.rounding import FLUSH32, OUTWARD, U32, U64, gamma

ActivationKind = Literal["relu", "sigmoid", "tanh"]


@dataclass(frozen=True, slots=True)
class Activation:
    """A function of one number; for `relu`, `slope` in [0, 1] is its slope below zero (leaky)."""

    kind: ActivationKind
    slope: float = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        """The function itself, in exact arithmetic as far as float64 goes."""
        if self.kind == "relu":
            return torch.where(z >= 0, z, self.slope * z) if self.slope else z.clamp_min(0)
        return torch.sigmoid(z) if self.kind == "sigmoid" else torch.tanh(z)

    @property
    def error32(self) -> float:
        """What its float32 execution may err by, absolutely, on outputs of size 1 (relative for leaky ReLU)."""
        if self.kind == "relu":
            return gamma(1, U32) if self.slope else 0.0
        return 2.0**-20


@dataclass(frozen=True, slots=True)
class Node:
    """One step of the network.

    parents: indices of earlier nodes; one for linear and activation, two or more for add.
    shape: of the output, without the batch axis.
    exact: the executed network gets this value without rounding (a rewriting of something exact).
    name: of the layer it came from.
    single: computed in float32 whatever the rest of the network runs in (the preparation of images).
    """

    kind: Literal["input", "linear", "activation", "add"]
    parents: tuple[int, ...]
    shape: Shape
    op: LinearOp | None = None
    activation: Activation | None = None
    exact: bool = False
    name: str = ""
    single: bool = False

    @property
    def size(self) -> int:
        """Entries of the output."""
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class BoundGraph:
    """A network in a form that bounds can be computed on.

    nodes: in topological order; the first is the input, the last gives the scores.
    input_shape: (H, W, C) of an image.
    unit: unit roundoff of the arithmetic that the network runs in: 2**-24 for float32, 2**-53 for float64.
    assumptions: what was taken for granted in reading it, as sentences.
    softmax: the model itself ends in a softmax, which is left out here: scores are what it takes.
    digest: sha256 of the model file, or of the weights.
    """

    nodes: tuple[Node, ...]
    input_shape: Shape
    unit: float = U32
    assumptions: tuple[str, ...] = ()
    softmax: bool = False
    digest: str = ""

    @property
    def n_inputs(self) -> int:
        """Dimensions of an image."""
        return prod(self.input_shape)

    @property
    def n_classes(self) -> int:
        """Scores given."""
        return self.nodes[-1].size

    @property
    def n_neurons(self) -> int:
        """Entries that go through an activation."""
        return sum(node.size for node in self.nodes if node.kind == "activation")

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Of each node, who reads it (a node that reads it twice stands twice)."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for parent in node.parents:
                found[parent].append(index)
        return tuple(tuple(c) for c in found)

    def forward_all(self, images: Tensor) -> list[Tensor]:
        """(N, size) values of every node for (N, ...) images, in float64."""
        values: list[Tensor] = []
        for node in self.nodes:
            values.append(self.evaluate(node, [values[p] for p in node.parents], images))
        return values

    def forward(self, images: Tensor) -> Tensor:
        """(N, K) scores of (N, ...) images in [0, 1], in float64."""
        waiting = [len(c) for c in self.children]
        values: dict[int, Tensor] = {}
        for index, node in enumerate(self.nodes):
            values[index] = self.evaluate(node, [values[p] for p in node.parents], images)
            for parent in node.parents:
                waiting[parent] -= 1
                if waiting[parent] == 0:
                    del values[parent]
        return values[len(self.nodes) - 1]

    @staticmethod
    def evaluate(node: Node, inputs: Sequence[Tensor], images: Tensor) -> Tensor:
        """(N, size) value of one node from those of its parents."""
        if node.kind == "input":
            return images.reshape(images.shape[0], -1).to(torch.float64)
        if node.op is not None:
            return node.op.forward(inputs[0]) + node.op.constant
        if node.activation is not None:
            return node.activation(inputs[0])
        return torch.stack(list(inputs)).sum(0)

    def node_error(self, index: int, reach: Sequence[Tensor], *, unit: float) -> Tensor:
        """(N, size) most that a node's execution and this program's use of it can round away.

        Args:
            index: of the node.
            reach: per parent (N, size) bound on the absolute values.
            unit: roundoff of the execution; 0 for exact arithmetic.
        """
        node = self.nodes[index]
        if node.op is not None:
            magnitude = node.op.magnitude(reach[0])
            terms = node.op.terms
        else:
            magnitude = torch.stack(list(reach)).sum(0)
            terms = len(node.parents)
        if node.activation is not None:
            # Monotone functions of one number: their float64 value errs by less than 8 units.
            rate = node.activation.error32 if unit else 0.0
            if node.activation.kind != "relu":
                return torch.full_like(magnitude, rate + 2.0**-48)
            return magnitude * (rate + 8 * U64)
        own = gamma(node.size + terms + 4 * len(self.nodes) + 64, U64)
        if unit and node.single:
            unit = U32
        executed = 0.0 if node.exact or isinstance(node.op, Gather) else gamma(terms + 8, unit)
        flush = (terms + 8) * FLUSH32 if executed else 0.0
        return magnitude * ((own + executed) * OUTWARD) + flush

    def check_against(self, scores: Callable[[np.ndarray], np.ndarray], *, images: int = 16, seed: int = 0) -> None:
        """Compare with the model on random images; refuse the graph where they differ by more than rounding.

        Args:
            scores: the model itself, (N, H, W, C) float32 in [0, 1] to (N, K).
            images: how many.
            seed: of the random images.

        Raises:
            GraphMismatch: the graph is not the model.
        """
        rng = np.random.default_rng(seed)
        batch = rng.random((images, *self.input_shape)).astype(np.float32)
        batch[0], batch[-1] = 0.0, 1.0
        theirs = np.asarray(scores(batch), dtype=np.float64).reshape(images, -1)
        point = torch.from_numpy(batch)
        ours = self.forward(point).numpy()
        if theirs.shape != ours.shape:
            raise GraphMismatch(f"the model gives {theirs.shape[1]} scores, the graph {ours.shape[1]}.")
        allowed = self.execution_error(point).numpy()
        if self.softmax:
            # Logarithms of probabilities show small ones too; those that underflow to 0 show nothing.
            ours = torch.log_softmax(torch.from_numpy(ours), 1).numpy()
            allowed = 2 * allowed.max(axis=1, keepdims=True) + 2.0**-14
            seen = theirs > 2.0**-100
            theirs, ours = np.log(theirs[seen]), ours[seen]
            allowed = np.broadcast_to(allowed, seen.shape)[seen]
        worst = np.abs(theirs - ours) - allowed
        if not bool((worst <= 0).all()):
            raise GraphMismatch(
                f"the graph differs from the model by {np.abs(theirs - ours).max():g} on random images, of which "
                f"rounding explains {allowed.max():g}. Check the input spec; no bound is given for another network."
            )

    def execution_error(self, images: Tensor) -> Tensor:
        """(N, K) bound on |executed scores - exact scores| of single images, any order of summation."""
        values: list[Tensor] = []
        errors: list[Tensor] = []
        for index, node in enumerate(self.nodes):
            value = self.evaluate(node, [values[p] for p in node.parents], images)
            if node.kind == "input":
                error = torch.zeros_like(value)
            else:
                reach = [values[p].abs() + errors[p] for p in node.parents]
                if node.op is not None:
                    error = node.op.forward(errors[node.parents[0]], absolute=True)
                else:
                    error = torch.stack([errors[p] for p in node.parents]).sum(0)
                error = error * OUTWARD + self.node_error(index, reach, unit=self.unit)
            values.append(value)
            errors.append(error)
        return errors[-1]


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
            "The last Softmax is left out: in exact arithmetic it does not change which class is largest."
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
        """Convolution; pads are top, left, bottom, right."""
        shape = self.shape(parent)
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
        return self._add(Node("activation", (parent,), self.shape(parent), activation=activation, name=name))

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
