"""A network as a small graph that bounds can be computed on: affine operators, activations and sums, in float64.

Everything a network holds is brought to four kinds of node (input, linear, activation, add). Max pooling becomes
`max(a, b) = b + relu(a - b)`, ReLU6 a difference of two ReLUs: exact rewritings, marked as such, so that no rounding
is charged to what the executed network does not compute. What cannot be brought to that is refused by name.
Images come as (H, W, C) in [0, 1], flattened pixel-major; `forward` gives scores. Reads no file and no torch module:
see `graph_torch` and `graph_onnx`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robustest.bounds.errors import GraphMismatch, UnsupportedLayer
from robustest.bounds.guarantee import Scorer
from robustest.bounds.ops import Conv, Dense, Gather, LinearOp, Scale, Shape
from robustest.bounds.rounding import FLUSH32, OUTWARD, SOFTMAX_TIE32, SOFTMAX_TIE64, U32, U64, gamma, gammas

_SPARE = 8
"""Roundings that every operator is charged beyond its summands: of its products, and of weights that were folded."""

_LARGEST32, _LARGEST64 = 2.0**127, 2.0**1000
"""Sizes that sums in float32 and in float64 stay below without overflow, whatever they round."""
_SEEN = 2.0**-10
"""Most that a model may differ from what was read of it, relative to the largest number in the network."""

_WHOLE32, _WHOLE64 = 2.0**24, 2.0**53
"""Up to these, sums of whole numbers are whole numbers that float32 and float64 hold: nothing is rounded."""

ActivationKind = Literal["relu", "sigmoid", "tanh", "sign"]


class _StraightThrough(torch.autograd.Function):
    """The sign itself, with the derivative of a sigmoid as wide as its inputs: attacks need a direction, bounds none."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, zero: float) -> Tensor:
        """-1, `zero` or 1."""
        ctx.save_for_backward(z)
        return torch.where(z == 0, zero, z.sign())

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        """The derivative of `tanh(z / mean |z|)`."""
        (z,) = ctx.saved_tensors
        width = z.abs().mean(-1, keepdim=True).clamp_min(1e-12)
        return given[0] * (1 - torch.tanh(z / width).square()) / width, None


@dataclass(frozen=True, slots=True)
class Activation:
    """A function of one number.

    slope: of `relu`, in [0, 1], its slope below zero (leaky). zero: of `sign`, -1, 0 or 1, its value at zero.
    """

    kind: ActivationKind
    slope: float = 0.0
    zero: float = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        """The function itself, in exact arithmetic as far as float64 goes."""
        if self.kind == "relu":
            return torch.where(z >= 0, z, self.slope * z) if self.slope else z.clamp_min(0)
        if self.kind == "sign":
            value: Tensor = _StraightThrough.apply(z, self.zero)  # type: ignore[no-untyped-call]
            return value
        return torch.sigmoid(z) if self.kind == "sigmoid" else torch.tanh(z)

    @property
    def error32(self) -> float:
        """What its float32 execution may err by, absolutely, on outputs of size 1 (relative for leaky ReLU)."""
        if self.kind == "relu":
            return gamma(3, U32) if self.slope else 0.0
        return 0.0 if self.kind == "sign" else 2.0**-20

    def interval(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Ends of the values on [low, high], its own rounding aside.

        A sign is decided only where the whole interval has one. Where an end is not finite the executed input may be
        NaN, of which the sign is NaN too: nothing is known of it then.
        """
        lower, upper = self(low), self(high)
        if self.kind != "sign":
            return lower, upper
        known = torch.isfinite(low) & torch.isfinite(high)
        return torch.where(known, lower, -math.inf), torch.where(known, upper, math.inf)

    def carried(self, z: Tensor, error: Tensor) -> Tensor:
        """What an error of the input, at most `error` >= 0, can change of the value at z: it jumps where it holds zero."""
        if self.kind != "sign":
            return error
        low, high = self.interval(z - error, z + error)
        return torch.where(torch.isfinite(high - low), high - low, math.inf)


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
    def jumps(self) -> str | None:
        """Name of the first layer that jumps (a sign), after which no derivative and no Lipschitz constant holds."""
        return next((n.name for n in self.nodes if n.activation is not None and n.activation.kind == "sign"), None)

    def need_continuous(self, method: str) -> None:
        """Refuse a method that rests on derivatives or on rates of change.

        Raises:
            UnsupportedLayer: a layer jumps.
        """
        if self.jumps is not None:
            raise UnsupportedLayer(
                f"{method} needs a network whose scores change gradually; layer {self.jumps} jumps at 0, where no "
                "derivative bounds it. Use bounds by intervals, CROWN or sign patterns, as `certify` does."
            )

    @cached_property
    def whole(self) -> tuple[bool, ...]:
        """Of each node, whether every value that it can take is a whole number: signs, and whole sums of those."""
        found: list[bool] = []
        for node in self.nodes:
            read = bool(node.parents) and all(found[p] for p in node.parents)
            if node.activation is not None:
                kept = node.activation.kind == "relu" and node.activation.slope in (0.0, 1.0)
                found.append(node.activation.kind == "sign" or (kept and read))
            elif isinstance(node.op, Scale):
                found.append(False)
            else:
                found.append(read and (node.op is None or node.op.is_whole))
        return tuple(found)

    @cached_property
    def _unrounded(self) -> tuple[bool, ...]:
        """Of each node, whether it sums whole numbers, in a sum that no runtime makes one with that of a neighbour."""

        def alone(at: int) -> bool:
            while isinstance(self.nodes[at].op, Gather):
                at = self.nodes[at].parents[0]
            return self.nodes[at].exact or self.nodes[at].activation is not None

        return tuple(
            whole
            and all(alone(p) for p in self.nodes[at].parents)
            and all(self.nodes[c].exact or self.nodes[c].activation is not None for c in self.children[at])
            for at, whole in enumerate(self.whole)
        )

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

        What a matrix or a convolution rounds grows with the number of its summands; inputs that are 0 wherever the
        intervals hold (ReLUs that never open) are exact zeros in whatever order a sum is taken, and are not counted.

        Args:
            index: of the node.
            reach: per parent (N, size) bound on the absolute values.
            unit: roundoff of the execution; 0 for exact arithmetic.
        """
        node = self.nodes[index]
        magnitude = node.op.magnitude(reach[0]) if node.op is not None else torch.stack(list(reach)).sum(0)
        own, executed, absolute = self._rates(index, unit)
        rate: float | Tensor = (own + executed) * OUTWARD
        if executed and isinstance(node.op, Conv | Dense):
            rate = (own + gammas(node.op.live_terms(reach[0]) + _SPARE, unit)) * OUTWARD
        if executed and self._unrounded[index] and bool((magnitude <= (_WHOLE32 if unit >= U32 else _WHOLE64)).all()):
            rate, absolute = own * OUTWARD, 0.0  # no sum of some of the terms is larger
        error = magnitude * rate + (absolute + self._tied(index, unit))
        if not executed:
            return error
        # A sum that may overflow on the way can come out as anything.
        return torch.where(magnitude < (_LARGEST32 if unit >= U32 or node.single else _LARGEST64), error, math.inf)

    def error_rate(self, index: int, *, unit: float) -> tuple[float, float]:
        """What a node rounds at most: a part relative to the summed magnitudes of its terms, and an absolute one."""
        own, executed, absolute = self._rates(index, unit)
        return (own + executed) * OUTWARD, absolute + self._tied(index, unit)

    def _tied(self, index: int, unit: float) -> float:
        """What a score is charged for an executed softmax behind it, which gives scores that hardly differ the same value."""
        if not (unit and self.softmax and index == len(self.nodes) - 1):
            return 0.0
        return (SOFTMAX_TIE32 if unit >= U32 else SOFTMAX_TIE64) / 2

    def _rates(self, index: int, unit: float) -> tuple[float, float, float]:
        """Relative errors of this program's own use of a node and of its execution; the absolute error of either."""
        node = self.nodes[index]
        terms = (node.op.terms if node.op is not None else len(node.parents)) + self._fused_terms(index)
        if node.activation is not None:
            # Monotone functions of one number: their float64 value errs by less than 8 units.
            rate = node.activation.error32 if unit else 0.0
            if node.activation.kind == "sign":
                return 0.0, 0.0, 0.0
            return (8 * U64, rate, 0.0) if node.activation.kind == "relu" else (0.0, 0.0, rate + 2.0**-48)
        own = gamma(node.size + terms + 4 * len(self.nodes) + 64, U64)
        if unit and node.single:
            unit = U32
        executed = 0.0 if node.exact or isinstance(node.op, Gather) else gamma(terms + _SPARE, unit)
        return own, executed, (terms + _SPARE) * FLUSH32 if executed else 0.0

    def _fused_terms(self, index: int) -> int:
        """Summands that a runtime may sum up together with a scale's or a sum's own.

        onnxruntime folds a BatchNorm, a factor or a constant into the weights of the convolution or matrix before it, in
        float32, and starts a convolution's sum with the other branch of a residual. Folded weights are off by at most
        six roundings relative to theirs, less than the eight that every operator is charged beyond its terms; the folded
        constant (or other branch) takes part in the whole sum, so its node is charged with the terms of that sum
        too. What the layers before it are charged covers the rest, whichever way the network is run.
        """
        node = self.nodes[index]
        if node.exact or not (node.kind == "add" or isinstance(node.op, Scale)):
            return 0
        total = 0
        for parent in node.parents:
            before = self.nodes[parent]
            while before.op is not None and not before.single:
                total += 0 if isinstance(before.op, Gather) else before.op.terms
                before = self.nodes[before.parents[0]]
        return total

    def check_against(self, scores: Scorer, *, images: int = 16, seed: int = 0) -> None:
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
        values = self.forward_all(point)
        ours = values[-1].numpy()
        largest = torch.stack([v.abs().amax(1) for v in values]).amax(0)[:, None].numpy()
        if theirs.shape != ours.shape:
            raise GraphMismatch(f"the model gives {theirs.shape[1]} scores, the graph {ours.shape[1]}.")
        # In deep networks the worst case of rounding explains anything; none was seen to round more than the second.
        allowed = np.minimum(self.execution_error(point).numpy(), _SEEN * (1 + largest))
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
                error = self.carried(index, values, errors) * OUTWARD + self.node_error(index, reach, unit=self.unit)
            values.append(value)
            errors.append(error)
        return errors[-1]

    def carried(self, index: int, values: Sequence[Tensor], errors: Sequence[Tensor]) -> Tensor:
        """(N, size) what errors of a node's parents, at most `errors` around `values`, can change of its own value."""
        node = self.nodes[index]
        before = [errors[p] for p in node.parents]
        if node.op is not None:
            return node.op.forward(before[0], absolute=True)
        if node.activation is not None:
            return node.activation.carried(values[node.parents[0]], before[0])
        return torch.stack(before).sum(0)
