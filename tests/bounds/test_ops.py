"""Operators: rows as small matrices, and how many summands of an output can differ from 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustest.bounds.errors import GraphMismatch
from robustest.bounds.graph import BoundGraph, Node
from robustest.bounds.ops import Conv, Dense
from robustest.bounds.reading import graph_of
from robustest.bounds.rounding import U32
from robustest.classifiers.spec import InputSpec


def random_conv(rng: np.random.Generator) -> Conv:
    """With stride, padding (cropping too, as pooling does), dilation and groups at random."""
    groups = int(rng.integers(1, 4))
    inputs, outputs = groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 4))
    weight = torch.from_numpy(rng.normal(size=(outputs, inputs // groups, *rng.integers(1, 4, 2))))
    pads = (*(int(p) for p in rng.integers(0, 3, 2)), *(int(p) for p in rng.integers(-1, 3, 2)))
    stride, dilation = (int(rng.integers(1, 4)), int(rng.integers(1, 4))), (int(rng.integers(1, 3)),) * 2
    bias = torch.zeros(outputs, dtype=torch.float64)
    return Conv(weight, bias, (inputs, 8, 9), stride, (pads[0], pads[1], pads[2], pads[3]), dilation, groups)


@pytest.mark.parametrize("seed", range(40))
def test_rows_and_live_terms_of_a_convolution_are_those_of_its_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    op = random_conv(rng)
    matrix = op.backward(torch.eye(op.n_out, dtype=torch.float64))
    rows = torch.from_numpy(rng.permutation(op.n_out)[:7])
    reads, values = op.rows_of(rows)
    filled = torch.zeros(len(rows), op.n_in, dtype=torch.float64)
    filled[:, reads] = values
    assert torch.equal(filled, matrix[rows])
    reach = torch.from_numpy(rng.random((3, op.n_in)) * (rng.random((3, op.n_in)) < 0.4))
    assert torch.equal(op.live_terms(reach), (reach > 0).double() @ (matrix != 0).double().T + 1)


def summing(weight: torch.Tensor) -> BoundGraph:
    """One matrix in float32."""
    op = Dense(weight, torch.zeros(len(weight), dtype=torch.float64), (weight.shape[1],), (len(weight),))
    return BoundGraph((Node("input", (), (1, 1, op.n_in)), Node("linear", (0,), op.out_shape, op)), (1, 1, op.n_in))


def test_zeros_add_no_rounding_and_every_other_summand_does() -> None:
    """1 + 2^-24 + 2^-24 + ... in float32 stays 1: the error is one unit for each live summand, whatever zeros do."""
    rng = np.random.default_rng(0)
    weight = torch.full((1, 4000), 2.0**-24, dtype=torch.float64)
    weight[0, 0] = 1.0
    live = np.zeros(4000)
    live[0] = 1.0
    live[rng.choice(np.arange(1, 4000), 600, replace=False)] = 1.0
    total = np.float32(0)
    for value in (weight[0].numpy() * live).astype(np.float32):
        total = np.float32(total + value)
    error = 1.0 + 600 * 2.0**-24 - float(total)
    charged = float(summing(weight).node_error(1, [torch.from_numpy(live)[None]], unit=U32))
    everything = float(summing(weight).node_error(1, [torch.ones(1, 4000, dtype=torch.float64)], unit=U32))
    assert error == 600 * 2.0**-24
    # A charge that counted one summand in fifty less would be too small.
    assert 0.98 * charged < error <= charged < everything / 5


@pytest.mark.parametrize("seed", range(5))
def test_sums_with_zeros_in_any_order_stay_inside_the_charge(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(3, 500)).astype(np.float32) * np.float32(10.0) ** rng.integers(-4, 5, (3, 500))
    values = (rng.random(500) * (rng.random(500) < 0.2)).astype(np.float32)
    charged = summing(torch.from_numpy(weight.astype(np.float64))).node_error(
        1, [torch.from_numpy(values.astype(np.float64))[None]], unit=U32
    )[0]
    exact = weight.astype(np.float64) @ values.astype(np.float64)
    products = weight * values
    for order in (
        np.arange(500),
        np.argsort(-np.abs(products[0])),
        np.argsort(np.abs(products[0])),
        rng.permutation(500),
    ):
        in_line = np.cumsum(products[:, order], axis=1, dtype=np.float32)[:, -1]
        halves = products[:, order].reshape(3, 4, 125).sum(axis=2, dtype=np.float32).sum(axis=1, dtype=np.float32)
        for got in (in_line, halves):
            assert (np.abs(got.astype(np.float64) - exact) <= charged.numpy()).all()


def test_a_deep_network_read_wrongly_is_refused_where_the_worst_rounding_would_explain_anything() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        deep = nn.Sequential(*(layer for _ in range(12) for layer in (nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU())))
        model = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), deep, nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(2.0)
    graph = graph_of(model, InputSpec("NCHW", "gray"), image_shape=(6, 6, 1))
    noise = graph.execution_error(torch.full((1, 36), 0.5)).max()
    largest = max(float(v.abs().max()) for v in graph.forward_all(torch.full((1, 36), 0.5)))
    assert noise > 0.01 * largest  # the worst case of rounding would let an error of 1 % of the largest number pass

    def off(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(model(torch.from_numpy(images.transpose(0, 3, 1, 2)))) + np.float32(0.01 * largest)

    with pytest.raises(GraphMismatch, match="differs"):
        graph.check_against(off)
