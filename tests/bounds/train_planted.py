"""Train the networks of `data/planted.npz`: each hides one misclassified image where attacks do not look.

    python -m tests.bounds.train_planted

In the manner of SoundnessBench (arXiv:2412.03154), for regions of few pixels and for Linf boxes: a network learns to keep
class 0 on the worst of many images of a region around one image, and class 1 at one planted image in it whose
changed values lie inside (0, 1). A checker that proves the region is wrong.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

DATA = Path(__file__).parent / "data" / "planted.npz"
SIDE = 6
KINDS = ("l0", "l0", "l0", "linf", "linf", "linf")
UNITS, RADIUS = 2, 0.2
_KEYS = ("1.weight", "1.bias", "4.weight", "4.bias", "6.weight", "6.bias")


def network() -> nn.Sequential:
    """A convolution and two dense layers on 6x6 images, flattened in between."""
    return nn.Sequential(
        nn.Identity(), nn.Conv2d(1, 8, 3, 1, 0), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 16, 24), nn.ReLU(), nn.Linear(24, 2),
    )  # fmt: skip


def near(x: Tensor, kind: str, count: int, generator: torch.Generator) -> Tensor:
    """Random images of the region, half of them at its corners."""
    noise = torch.rand(count, x.numel(), generator=generator)
    noise = torch.where(torch.rand(count, 1, generator=generator) < 0.5, noise.round(), noise)
    if kind == "linf":
        return (x + RADIUS * (2 * noise - 1)).clamp(0, 1)
    rank = torch.rand(count, x.numel(), generator=generator).argsort(1).argsort(1)
    return torch.where(rank < UNITS, noise, x)


def train(seed: int, kind: str) -> tuple[nn.Sequential, Tensor, Tensor]:
    """The network, its image and the planted one."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    x = torch.rand(SIDE * SIDE, generator=generator)
    hidden = x.clone()
    if kind == "l0":
        where = torch.randperm(SIDE * SIDE, generator=generator)[:UNITS]
        hidden[where] = torch.where(x[where] > 0.5, 0.2, 0.8)
    else:
        hidden = (x + RADIUS * (2 * torch.rand(SIDE * SIDE, generator=generator) - 1) * 0.98).clamp(0, 1)
    model = network()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(2500):
        tries = torch.cat([x[None], near(x, kind, 1500, generator)])
        tries = tries[(tries - hidden).abs().amax(1) > 0.12] if kind == "l0" else tries
        with torch.no_grad():
            scores = model(tries.reshape(-1, 1, SIDE, SIDE))
            worst = (scores[:, 0] - scores[:, 1]).argsort()[:128]
        scores = model(torch.cat([hidden[None], tries[worst]]).reshape(-1, 1, SIDE, SIDE))
        gap = scores[:, 0] - scores[:, 1]
        loss = torch.relu(0.3 - gap[1:]).mean() + torch.relu(gap[0] + 0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step > 300 and loss.item() == 0:
            break
    return model.eval(), x, hidden


def main() -> None:
    """Train them all and write what tests need."""
    torch.set_num_threads(1)
    out: dict[str, np.ndarray] = {}
    seed = 0
    for index, kind in enumerate(KINDS):
        while True:
            seed += 1
            model, x, hidden = train(seed, kind)
            with torch.no_grad():
                clean, planted = (model(t.reshape(1, 1, SIDE, SIDE))[0] for t in (x, hidden))
            if clean[0] > clean[1] and planted[1] > planted[0]:
                break
        state = model.state_dict()
        out |= {f"{index}.{key}": state[key].numpy() for key in _KEYS}
        out |= {f"{index}.image": x.numpy(), f"{index}.planted": hidden.numpy()}
        print(index, kind, seed, (planted[0] - planted[1]).item())  # noqa: T201  (a script)
    DATA.parent.mkdir(exist_ok=True)
    np.savez_compressed(DATA, **out)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
