"""Three small Fashion-MNIST classifiers to measure bounds on: plain, adversarially trained, and 1-Lipschitz.

    python examples/small_networks.py NETS --data /usr/share/datasets/fashion-mnist

writes `plain.pt`, `adversarial.pt` and `lipschitz.pt` (state dicts) into the folder NETS and prints their accuracy on
the 10,000 test images. The first two are Conv8 4x4 s2 p1 - Conv16 4x4 s2 p1 - FC100 - FC10 with ReLU, 2,452 neurons;
`adversarial` is trained on single gradient steps from random starts of size 0.1 (Wong et al. 2020, arXiv:2001.03994).
`lipschitz` is an orthogonal matrix 784 to 256, three residual blocks `x - c W' relu(W x + b)` with `c |W|^2 <= 2`,
which no distance grows through (Meunier et al. 2022, arXiv:2110.12690), and ten scores. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

KINDS = ("plain", "adversarial", "lipschitz")
EPS = 0.1
WIDTH = 256
GAP = 0.35
"""Margin in L2 that the 1-Lipschitz network is trained towards."""


class Potential(nn.Module):
    """`x + down(relu(up(x)))`; 1-Lipschitz in L2 for `down = -c up'` with `c |up|^2 <= 2`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The step along the gradient of a convex function."""
        step: Tensor = self.down(torch.relu(self.up(x)))
        return x + step


def convolutional() -> nn.Module:
    """The network of `plain` and `adversarial`, on (N, 1, 28, 28) in [0, 1]."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def lipschitz() -> nn.Module:
    """The network of `lipschitz`, on (N, 1, 28, 28) in [0, 1]."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, WIDTH),
        Potential(WIDTH),
        Potential(WIDTH),
        Potential(WIDTH),
        nn.Linear(WIDTH, 10),
    )


def load(folder: Path, kind: str) -> nn.Module:
    """A network that `main` has written, ready to be asked."""
    network = lipschitz() if kind == "lipschitz" else convolutional()
    network.load_state_dict(torch.load(folder / f"{kind}.pt", weights_only=True))
    return network.eval()


def images_of(folder: Path, part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(N, 28, 28, 1) images in [0, 1] and labels of `train` or `t10k`."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return pixels.astype(np.float32) / np.float32(255), labels


def attacked(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One gradient step from a random start, inside the Linf ball."""
    move = ((torch.rand_like(x) * 2 - 1) * EPS).requires_grad_()
    (slope,) = torch.autograd.grad(functional.cross_entropy(network(x + move), y), move)
    return (x + (move + 1.25 * EPS * slope.sign()).clamp(-EPS, EPS)).clamp(0, 1).detach()


def bound_norms(network: nn.Module) -> None:
    """Put the 1-Lipschitz network's weights back on what its constant needs; in place."""
    with torch.no_grad():
        for block in network.children():
            if isinstance(block, Potential):
                top = torch.linalg.matrix_norm(block.up.weight, 2)
                block.down.weight.copy_(-(2 * (1 - 1e-6) / top**2) * block.up.weight.T)
            elif isinstance(block, nn.Linear) and block.out_features == WIDTH:
                left, _, right = torch.linalg.svd(block.weight, full_matrices=False)
                block.weight.copy_(left @ right)
            elif isinstance(block, nn.Linear):
                # No two rows are further apart than the square root of 2.
                gaps = torch.cdist(block.weight, block.weight)
                block.weight.mul_((2**0.5 / gaps.max()).clamp_max(1.0))


def train(kind: str, images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """Train one network; the same seed gives the same weights on the same machine and versions."""
    torch.manual_seed(0)
    network = lipschitz() if kind == "lipschitz" else convolutional()
    if kind == "lipschitz":
        bound_norms(network)
    held = [p for n, p in network.named_parameters() if not n.endswith("down.weight")]
    descent = torch.optim.Adam(held, 2e-3)
    highest = 1e-3 if kind == "lipschitz" else 4e-3
    schedule = torch.optim.lr_scheduler.OneCycleLR(descent, highest, total_steps=epochs * (len(images) // 100))
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).chunk(len(images) // 100):
            x, y = images[rows], labels[rows]
            if kind == "adversarial":
                x = attacked(network, x, y)
            scores = network(x)
            if kind == "lipschitz":
                scores = (scores - GAP * functional.one_hot(y, 10)) * 12.0
            loss = functional.cross_entropy(scores, y)
            descent.zero_grad()
            torch.autograd.backward(loss)
            descent.step()
            schedule.step()
            if kind == "lipschitz":
                bound_norms(network)
    return network.eval()


def main() -> int:
    """Train and save all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", type=Path)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--images", type=int, default=24_000, help="training images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.nets.mkdir(parents=True, exist_ok=True)
    train_images, train_labels = images_of(options.data, "train")
    test_images, test_labels = images_of(options.data, "t10k")
    x = torch.from_numpy(train_images[: options.images]).permute(0, 3, 1, 2)
    y = torch.from_numpy(train_labels[: options.images])
    for kind in options.kinds.split(","):
        network = train(kind, x, y, options.epochs)
        torch.save(network.state_dict(), options.nets / f"{kind}.pt")
        with torch.no_grad():
            answers = network(torch.from_numpy(test_images).permute(0, 3, 1, 2)).argmax(1).numpy()
        print(f"{kind}: {(answers == test_labels).mean():.1%} of 10,000 test images right", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
