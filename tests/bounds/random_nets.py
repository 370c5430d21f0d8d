"""Random small networks with every layer that bounds cover, random regions of every norm, and points in them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from robustest.bounds.region import Region
from robustest.settings import Norm

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1", "l0", "l0_dims")


class Residual(nn.Module):
    """`relu(branch(x) + shortcut(x))`."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The sum, cut at 0."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def random_network(rng: np.random.Generator, shape: tuple[int, int, int], classes: int = 3) -> nn.Module:
    """A network on (C, H, W) images with stride, padding, dilation, groups, BatchNorm, pooling and residuals at random."""
    seed = int(rng.integers(2**31))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _build(rng, shape, classes).eval()


def _build(rng: np.random.Generator, shape: tuple[int, int, int], classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    probe = torch.zeros(1, *shape)

    def extend(*more: nn.Module) -> None:
        nonlocal probe
        layers.extend(more)
        with torch.no_grad():
            for layer in more:
                probe = layer.eval()(probe)

    for _ in range(int(rng.integers(0, 3))):
        if min(probe.shape[2:]) < 3:
            break
        channels = probe.shape[1]
        kind = rng.choice(["conv", "conv", "dilated", "grouped", "residual", "strided residual", "double"])
        if kind == "conv":
            size = int(rng.integers(1, 4))
            extend(
                nn.Conv2d(channels, int(rng.integers(1, 4)), size, int(rng.integers(1, 3)), int(rng.integers(0, size)))
            )
        elif kind == "dilated":
            extend(nn.Conv2d(channels, 2, 2, int(rng.integers(1, 3)), int(rng.integers(0, 2)), dilation=2))
        elif kind == "double":
            extend(nn.Conv2d(channels, 2, 3, 1, 1), nn.Conv2d(2, 2, 2, 1, 1))
        elif kind == "grouped":
            extend(nn.Conv2d(channels, 2 * channels, 2, 1, int(rng.integers(0, 2)), groups=channels))
        else:
            stride = 2 if kind == "strided residual" else 1
            wide = 2 if stride == 2 else channels
            branch = nn.Sequential(
                nn.Conv2d(channels, 2, 3, stride, 1), nn.ReLU(), nn.Conv2d(2, wide, 3, 1, 1), _norm(rng, wide)
            )
            shortcut = nn.Identity() if stride == 1 else nn.Conv2d(channels, wide, 1, stride, bias=False)
            extend(Residual(branch, shortcut))
        if rng.random() < 0.4:
            extend(_norm(rng, probe.shape[1]))
        extend(_activation(rng))
        if rng.random() < 0.4 and min(probe.shape[2:]) >= 3:
            pools = [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1)]
            extend(pools[int(rng.integers(len(pools)))])
    extend(nn.Flatten())
    for _ in range(int(rng.integers(0, 3))):
        extend(nn.Linear(probe.shape[1], int(rng.integers(2, 9))), _activation(rng))
    extend(nn.Linear(probe.shape[1], classes))
    model = nn.Sequential(*layers)
    scale = float(rng.choice([0.5, 1.0, 2.0]))
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(scale)
            if weights.dim() == 1:
                weights.add_(0.3 * torch.randn_like(weights))
    return model


def _norm(rng: np.random.Generator, channels: int) -> nn.Module:
    layer = nn.BatchNorm2d(channels)
    layer.running_mean = torch.from_numpy(rng.normal(size=channels)).float()
    layer.running_var = torch.from_numpy(rng.uniform(0.2, 2, size=channels)).float()
    return layer


def _activation(rng: np.random.Generator) -> nn.Module:
    kinds = [nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.LeakyReLU(0.1), nn.Sigmoid(), nn.Tanh(), nn.ReLU6()]
    return kinds[int(rng.integers(len(kinds)))]


def random_region(rng: np.random.Generator, images: Tensor, norm: Norm) -> Region:
    """A region around each (B, H, W, C) image, cut by [0, 1], with some dimensions held now and then."""
    _batch, height, width, channels = images.shape
    if norm in ("l0", "l0_dims"):
        eps = float(rng.integers(0, 4))
    else:
        size = {"linf": 0.3, "l2": 1.0, "l1": 3.0}[norm]
        eps = float(rng.uniform(0, size)) * float(rng.choice([0.01, 0.3, 1.0]))
    mask = None
    if rng.random() < 0.3:
        held = torch.from_numpy(rng.random(height * width) < 0.5)
        mask = held.repeat_interleave(channels)
    return Region.ball(images, norm, eps, mask=mask, channels=channels)


def points_of(rng: np.random.Generator, region: Region, count: int) -> Tensor:
    """(B, count, n) float32 points of a region, half of them at its corners; exactly inside it."""
    batch, n = region.centre.shape
    corner = torch.from_numpy(rng.random((batch, count, n)) < 0.5)
    inner = torch.from_numpy(rng.random((batch, count, n)))
    inner = torch.where(torch.from_numpy(rng.random((1, count, 1)) < 0.5), corner.double(), inner)
    points = region.lower[:, None] + inner * (region.upper - region.lower)[:, None]
    move = points - region.centre[:, None]
    eps = region.eps[:, None, None]
    if region.norm in ("l0", "l0_dims"):
        assert region.group is not None
        rank = torch.from_numpy(rng.random((batch, count, region.group.shape[1])))
        rank = torch.where((region.group >= 0)[:, None], rank, 2.0)
        order = rank.argsort(-1).argsort(-1)
        move = move * (order < eps).repeat_interleave(region.unit, -1)
    elif region.norm == "l2":
        move = move * (eps / move.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1) * (1 - 1e-6)
    elif region.norm == "l1":
        move = move * (eps / move.abs().sum(-1, keepdim=True).clamp_min(1e-12)).clamp_max(1) * (1 - 1e-6)
    points = (region.centre[:, None] + move).float()
    return inside(region, points)


def inside(region: Region, points: Tensor) -> Tensor:
    """(B, count, n) the points that rounding to float32 left in the region; the centre in place of the others."""
    exact = points.double()
    move = exact - region.centre[:, None]
    ok = ((exact >= region.lower[:, None]) & (exact <= region.upper[:, None])).all(-1)
    if region.norm == "linf":
        ok &= move.abs().amax(-1) <= region.eps[:, None]
    elif region.norm == "l2":
        ok &= move.square().sum(-1) <= region.eps[:, None] ** 2
    elif region.norm == "l1":
        ok &= move.abs().sum(-1) <= region.eps[:, None]
    else:
        moved = (move != 0).unflatten(-1, (-1, region.unit)).any(-1)
        ok &= moved.sum(-1) <= region.eps[:, None]
    return torch.where(ok[..., None], points, region.centre[:, None].float())
