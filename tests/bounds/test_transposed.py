"""Transposed convolution of many maps, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from robustest.bounds.transposed import suits, transposed


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [(3, 3), (4, 4), (1, 2)])
def test_it_is_torchs_transposed_convolution(
    stride: tuple[int, int], dilation: tuple[int, int], kernel: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    maps = torch.randn(70, 5, 4, 6, dtype=torch.float64)
    weight = torch.randn(5, 3, *kernel, dtype=torch.float64)
    right = functional.conv_transpose2d(maps, weight, stride=stride, dilation=dilation)
    assert suits(maps, weight)
    assert torch.allclose(transposed(maps, weight, stride, dilation), right, rtol=1e-13, atol=1e-13)


def test_many_maps_are_taken_in_parts() -> None:
    torch.manual_seed(1)
    maps = torch.randn(300, 4, 16, 16, dtype=torch.float64)
    weight = torch.randn(4, 8, 3, 3, dtype=torch.float64)
    right = functional.conv_transpose2d(maps, weight)
    assert torch.allclose(transposed(maps, weight, (1, 1), (1, 1)), right, rtol=1e-13, atol=1e-13)
    assert not suits(maps.requires_grad_(), weight)
    assert not suits(maps[:8].detach(), weight)
