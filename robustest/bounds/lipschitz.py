"""Lipschitz constants of the margins that hold everywhere, or that somebody supplied.

* product: the norms of the layers multiplied along each path (sums at joins), the last layer taken per pair of
  classes; in any of L1, L2, Linf; in L2 a residual step along the gradient of a convex function is known to stretch
  nothing (Meunier et al. 2022, arXiv:2110.12690);
* ECLipsE-Fast (Xu & Sivaranjani 2024, arXiv:2404.04375) for chains in L2: for every layer a matrix P with
  `|da|^2_{P^-1} <= |dx|^2`, which the slopes in [0, 1] of the activations let shrink by a factor of about 2 a layer;
  here every step is an upper bound with its rounding, whatever the numerics did;
* supplied: used as it is, and every statement says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import Guarantee
from robustest.bounds.norms import InducedNorm, operator_norm, positive_definite, spectral_norm
from robustest.bounds.ops import Conv, Dense, LinearOp, Scale
from robustest.bounds.rounding import OUTWARD, U64, gamma
from robustest.errors import InvalidSetting

_LARGEST = 1600


@dataclass(frozen=True, slots=True)
class Lipschitz:
    """A constant for each margin `score[a] - score[b]`, in one norm.

    constant: (K, K) float64; entry (a, b) bounds how fast that margin changes; the diagonal is 0.
    """

    norm: InducedNorm
    constant: Tensor
    method: str
    guarantee: Guarantee = Guarantee.PROOF_REAL

    def radius(self, scores: Tensor, label: int, error: float = 0.0) -> float:
        """Distance within which the class cannot change, from scores (K,) that are right up to `error` each."""
        gaps = (scores[label] - scores) - 2 * error * OUTWARD
        rates = self.constant[label].clamp_min(1e-300)
        ratios = torch.cat([(gaps / rates)[:label], (gaps / rates)[label + 1 :]])
        return max(0.0, float(ratios.min()) * (1 - 8 * U64))


def supplied(constant: float, norm: InducedNorm, classes: int) -> Lipschitz:
    """A constant of every margin that the user vouches for; what rests on it is `PROOF_GIVEN_L`."""
    if not constant > 0 or not math.isfinite(constant):
        raise InvalidSetting(f"constant must be a number > 0; got {constant}.")
    matrix = torch.full((classes, classes), float(constant), dtype=torch.float64)
    return Lipschitz(norm, matrix, "supplied constant", Guarantee.PROOF_GIVEN_L)


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast the nodes of a network change with the image, in one norm.

    layer: per node, how fast it changes with its parents (each of them). image: per node but the last, with the image.
    blocks: sums that are steps along the gradient of a convex function: node to (source, rate in the source).
    """

    layer: tuple[float, ...]
    image: tuple[float, ...]
    blocks: dict[int, tuple[int, float]]


def rates_of(graph: BoundGraph, norm: InducedNorm) -> Rates:
    """Norms of the layers, multiplied along the paths of the graph; a layer that jumps is refused by name."""
    graph.need_continuous("a Lipschitz constant")
    layer: list[float] = []
    image: list[float] = []
    blocks: dict[int, tuple[int, float]] = {}
    for index, node in enumerate(graph.nodes[:-1]):
        rate = 1.0
        if node.op is not None:
            rate = operator_norm(node.op, norm) * OUTWARD
        elif node.activation is not None and node.activation.kind == "sigmoid":
            rate = 0.25
        total = rate * sum(image[p] for p in node.parents) * OUTWARD if node.parents else 1.0
        if node.kind == "add" and norm == "l2":
            step = _descent_rate(graph, index, layer)
            if step is not None and step[1] * image[step[0]] * OUTWARD < total:
                blocks[index], total = step, step[1] * image[step[0]] * OUTWARD
        layer.append(rate)
        image.append(total)
    return Rates(tuple(layer), tuple(image), blocks)


def product_constant(graph: BoundGraph, norm: InducedNorm, rates: Rates | None = None) -> Lipschitz:
    """Norms of the layers multiplied along the paths of the graph; `rates` if they are known already."""
    graph.need_continuous("a Lipschitz constant")
    known = rates if rates is not None else rates_of(graph, norm)
    last = graph.nodes[-1]
    assert last.op is not None
    constant = pairwise(last.op, norm) * (known.image[last.parents[0]] * OUTWARD)
    return Lipschitz(norm, constant, "global product")


def _descent_rate(graph: BoundGraph, index: int, norms: list[float]) -> tuple[int, float] | None:
    """For a sum `x + B f(A x + a) + b` with f a monotone activation: the node of x and the sum's L2 rate in it.

    Write `B = -c A' + E` with any `c >= 0`. Between two points `f(A x + a)` changes by `D A dx` with D diagonal and in
    [0, 1], so the sum changes by `(I - c A' D A + E D A) dx`. `c A' D A` is symmetric with eigenvalues in
    `[0, c |A|^2]`; so the rate is at most `max(1, c |A|^2 - 1) + |E| |A|`. MaxMin (sorting pairs) is of this form too,
    with rows `e_i - e_j` and `c = 1`. None for other sums. `norms` are those of the layers.
    """
    parents = graph.nodes[index].parents
    if len(parents) != 2:
        return None
    for source, branch in (parents, parents[::-1]):
        after = graph.nodes[branch]
        if not isinstance(after.op, Dense):
            continue
        bent = graph.nodes[after.parents[0]]
        if bent.activation is None:
            continue
        before = graph.nodes[bent.parents[0]]
        if not isinstance(before.op, Dense) or before.parents != (source,):
            continue
        first, second = before.op.weight, after.op.weight
        square = float(first.square().sum())
        share = max(0.0, -float((second * first.T).sum()) / square) if square > 0 else 0.0
        rest = second + share * first.T
        # What the entries of `rest` were rounded by, in Frobenius norm.
        slip = 4 * U64 * (float(second.norm()) + share * math.sqrt(square)) * OUTWARD
        stretch = norms[bent.parents[0]]
        most = (share * stretch * stretch - 1) * OUTWARD
        return source, (max(1.0, most) + (float(rest.norm()) * OUTWARD + slip) * stretch) * OUTWARD
    return None


def least_rate(graph: BoundGraph) -> float:
    """About the least that any product of L2 norms can be, at the cost of one small matrix a layer: an estimate.

    Each convolution counts with the norm of its kernel's sum over places, which constant maps reach up to their edges,
    and a join with its fastest branch. Says only whether a product of true norms is worth computing.
    """
    rates: list[float] = []
    for node in graph.nodes:
        rate = 1.0
        if isinstance(node.op, Conv):
            blocks = node.op.weight.sum((2, 3)).reshape(node.op.groups, -1, node.op.weight.shape[1])
            rate = float(torch.linalg.matrix_norm(blocks, 2).max()) / math.sqrt(math.prod(node.op.stride))
        elif isinstance(node.op, Dense):
            rate = float(torch.linalg.matrix_norm(node.op.weight, 2))
        elif isinstance(node.op, Scale):
            rate = float(node.op.factor.abs().max())
        elif node.activation is not None and node.activation.kind == "sigmoid":
            rate = 0.25
        rates.append(rate * max((rates[p] for p in node.parents), default=1.0))
    return rates[-1]


def pairwise(op: LinearOp, norm: InducedNorm) -> Tensor:
    """(K, K) dual norms of the differences of the last layer's rows."""
    weight = op.backward(torch.eye(op.n_out, dtype=torch.float64))
    gaps = weight[:, None] - weight[None]
    if norm == "l2":
        lengths: Tensor = gaps.norm(dim=-1) * OUTWARD
        return lengths
    return (gaps.abs().amax(-1) if norm == "l1" else gaps.abs().sum(-1)) * OUTWARD


def eclipse_constant(graph: BoundGraph) -> Lipschitz | None:
    """L2 constants of a chain by ECLipsE-Fast; None where the network is no chain or too wide to factorise.

    Raises:
        UnsupportedLayer: a layer jumps.
    """
    graph.need_continuous("a Lipschitz constant")
    if graph.n_inputs > _LARGEST or any(
        node.parents != (index - 1,) or node.size > _LARGEST for index, node in enumerate(graph.nodes) if index
    ):
        return None
    shape = torch.eye(graph.n_inputs, dtype=torch.float64)
    for index, node in enumerate(graph.nodes[:-1]):
        if node.op is None:
            continue  # the input, or an activation: its slopes in [0, 1] are used with the matrix before it
        weight = node.op.backward(torch.eye(node.op.n_out, dtype=torch.float64))
        if graph.nodes[index + 1].activation is not None:
            found = _through_layer(weight, shape)
            if found is None:
                return None
            shape = found
        else:
            shape = _through_matrix(weight, shape)
    last = graph.nodes[-1].op
    assert last is not None
    weight = last.backward(torch.eye(last.n_out, dtype=torch.float64))
    gaps = (weight[:, None] - weight[None]).flatten(0, 1)
    square = ((gaps @ shape) * gaps).sum(-1)
    terms = gamma(2 * weight.shape[1] + 8, U64)
    slack = terms * (gaps.norm(dim=-1).square() * float(shape.norm())) * OUTWARD
    constant = ((square + slack).clamp_min(0).sqrt() * OUTWARD).reshape(len(weight), len(weight))
    return Lipschitz("l2", constant, "ECLipsE-Fast")


def _through_matrix(weight: Tensor, shape: Tensor) -> Tensor:
    """Upper bound of `W P W'` in the order of symmetric matrices."""
    product = (weight @ shape) @ weight.T
    terms = gamma(weight.shape[1] * 2 + 8, U64)
    error = terms * float(weight.norm()) ** 2 * float(shape.norm()) * OUTWARD
    found: Tensor = (product + product.T) / 2 + error * torch.eye(weight.shape[0], dtype=torch.float64)
    return found


def _through_layer(weight: Tensor, shape: Tensor) -> Tensor | None:
    """The shape matrix after `relu(weight .)`, from one before it; None where rounding defeats it.

    With `M >= W P W'` and `l = 2 / |M|`: `X = l I - l^2/4 M` is positive definite, and `|da|^2_X <= |du|^2_{P^-1}`.
    Returns an upper bound of `X^-1`.
    """
    width = weight.shape[0]
    eye = torch.eye(width, dtype=torch.float64)
    upper = _through_matrix(weight, shape)
    top = spectral_norm(upper)
    if top == 0:
        return torch.zeros_like(eye)
    rate = 2.0 / top * (1 - 8 * U64)
    solved = rate * eye - (rate * rate / 4) * upper
    slip = 8 * U64 * (rate + rate * rate / 4 * top)
    inverse = torch.linalg.inv(solved)
    inverse = (inverse + inverse.T) / 2
    residual = float((eye - solved @ inverse).norm())
    residual += gamma(width + 4, U64) * float(solved.norm()) * float(inverse.norm()) + slip * float(inverse.norm())
    residual *= OUTWARD
    if residual >= 0.5 or not positive_definite(inverse):
        return None
    found: Tensor = inverse + (float(inverse.norm()) * residual / (1 - residual) * OUTWARD) * eye
    return found
