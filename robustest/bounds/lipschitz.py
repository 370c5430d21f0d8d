"""Lipschitz constants of the margins that hold everywhere, or that somebody supplied.

* product: the norms of the layers multiplied along each path (sums at joins), the last layer taken per pair of
  classes; in any of L1, L2, Linf;
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
from robustest.bounds.ops import LinearOp
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


def product_constant(graph: BoundGraph, norm: InducedNorm) -> Lipschitz:
    """Norms of the layers multiplied along the paths of the graph."""
    rates = _node_rates(graph, norm)
    last = graph.nodes[-1]
    assert last.op is not None
    return Lipschitz(norm, _pairwise(last.op, norm) * (rates[last.parents[0]] * OUTWARD), "global product")


def _node_rates(graph: BoundGraph, norm: InducedNorm) -> list[float]:
    """Of every node but the last, how fast its output changes with the image."""
    rates: list[float] = []
    for index, node in enumerate(graph.nodes[:-1]):
        if node.kind == "input":
            rates.append(1.0)
        elif node.op is not None:
            rates.append(operator_norm(node.op, norm) * rates[node.parents[0]] * OUTWARD)
        elif node.activation is not None:
            steepest = 0.25 if node.activation.kind == "sigmoid" else 1.0
            rates.append(steepest * rates[node.parents[0]])
        else:
            rates.append(sum(rates[p] for p in graph.nodes[index].parents) * OUTWARD)
    return rates


def _pairwise(op: LinearOp, norm: InducedNorm) -> Tensor:
    """(K, K) dual norms of the differences of the last layer's rows."""
    weight = op.backward(torch.eye(op.n_out, dtype=torch.float64))
    gaps = weight[:, None] - weight[None]
    if norm == "l2":
        lengths: Tensor = gaps.norm(dim=-1) * OUTWARD
        return lengths
    return (gaps.abs().amax(-1) if norm == "l1" else gaps.abs().sum(-1)) * OUTWARD


def eclipse_constant(graph: BoundGraph) -> Lipschitz | None:
    """L2 constants of a chain by ECLipsE-Fast; None where the network is no chain or too wide to factorise."""
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
