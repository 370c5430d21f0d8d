"""What the host can keep busy: an audit of a device that is not there.

    python examples/pretend_gpu.py [--side 224] [--per-second 3000] [--operations 170] [--images 64] [--queries 1000] [--turns 3]

The classifier is a stand-in for a network on a GPU. A call runs so many small torch operations, which let other threads
run as launches of kernels do, and then sleeps for as long as a device of that rate would take for the batch; its scores
are linear in the image, and looked up. So the ratio that is printed is an upper end of what `robustest bench` can reach with a
network of that rate: drawing and transfers cost nothing here. 170 operations are about those of a ResNet-50, 75 those of a
ResNet-20.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from robustest.bench import measure
from robustest.classifiers.classifier import ClassifierInfo, Images
from robustest.classifiers.spec import InputSpec
from robustest.images import ImageSet
from robustest.results import Edits, Scores
from robustest.settings import AttackSettings

_BLOCK = 8  # pixels that weights and images are constant over, along each side
_MARGIN = 1.0


class PretendDevice:
    """Two classes, linear in the first channel; takes batches of 256, or fewer of large images.

    Args:
        side: of the images, in pixels. per_second: images that it scores. operations: launched in a call.
    """

    def __init__(self, side: int, *, per_second: float, operations: int) -> None:
        spec = InputSpec(layout="NHWC")
        self._info = ClassifierInfo("a device that is not there", spec, image_shape=(side, side, 3), classes=2)
        self._info = replace(self._info, padded_batch=256, beside=True)
        rng = np.random.default_rng(5)
        self.weights = _blocks(rng.standard_normal((1, -(-side // _BLOCK), -(-side // _BLOCK))), side).reshape(-1)
        self.weights *= rng.random(side * side) ** 3 / 5
        self.per_second, self.operations = per_second, operations

    @property
    def info(self) -> ClassifierInfo:
        """What is known without asking."""
        return self._info

    def __call__(self, images: Images, /) -> Scores:
        """Score images (N, H, W, C) in [0, 1]."""
        return self.scored(images[..., 0].reshape(len(images), -1) @ self.weights)

    def canvas(self, shape: tuple[int, int, int], *, slots: int, rows: int, pad: bool = False) -> PretendCanvas:
        """A canvas of this device."""
        return PretendCanvas(self, slots, rows)

    def scored(self, sums: NDArray[np.float64]) -> Scores:
        """(N, 2) logits of weighted sums (N,)."""
        return np.stack([_MARGIN + sums, np.zeros(len(sums))], axis=1).astype(np.float32)

    def work(self, count: int) -> None:
        """Take as long as so many images take."""
        value = torch.ones(4)
        for _ in range(self.operations):
            value = torch.relu(value)
        time.sleep(count / self.per_second)


class PretendCanvas:
    """Weighted sums of base images, to which edits add theirs."""

    def __init__(self, device: PretendDevice, slots: int, rows: int) -> None:
        self._device, self._rows = device, rows
        self._light = np.zeros((slots, len(device.weights)), np.float32)
        self._sums = np.zeros(slots)

    def place(self, slot: int, image: Images) -> None:
        self._light[slot] = image[..., 0].reshape(-1)
        self._sums[slot] = self._light[slot] @ self._device.weights

    def score(self, slots: NDArray[np.int64], edits: Edits) -> Scores:
        starts = range(0, max(len(edits), 1), self._rows)
        parts = [(start, min(start + self._rows, len(edits))) for start in starts]
        return np.concatenate([self._score_part(slots[start:stop], edits.part(start, stop)) for start, stop in parts])

    def _score_part(self, slots: NDArray[np.int64], edits: Edits) -> Scores:
        change = edits.values[:, 0] - self._light[slots[edits.rows], edits.pixels]
        sums = self._sums[slots] + np.bincount(edits.rows, change * self._device.weights[edits.pixels], len(slots))
        self._device.work(self._rows)
        return self._device.scored(sums)


def _blocks(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """(N, side, side) of N grids of values, each held over a block."""
    return values.repeat(_BLOCK, axis=1).repeat(_BLOCK, axis=2)[:, :side, :side]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Audit a device that is not there: what the host can keep busy.")
    parser.add_argument("--side", type=int, default=224, help="pixels of an image, along each side")
    parser.add_argument("--per-second", type=float, default=3000, help="images that the device scores")
    parser.add_argument("--operations", type=int, default=170, help="launched in a call")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--queries", type=int, default=1000, help="of each image")
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    device = PretendDevice(asked.side, per_second=asked.per_second, operations=asked.operations)
    rng = np.random.default_rng(0)
    grids = rng.random((3 * asked.images, -(-asked.side // _BLOCK), -(-asked.side // _BLOCK)))
    light = _blocks(grids, asked.side).reshape(asked.images, 3, asked.side, asked.side)
    images = (255 * light).astype(np.uint8).transpose(0, 2, 3, 1).copy()
    names = tuple(map(str, range(asked.images)))
    labels = np.zeros(asked.images, np.int64)
    settings = AttackSettings(queries=asked.queries)
    speed = measure(device, ImageSet(images, labels, names), settings, turns=asked.turns)
    low, high = min(speed.ratios), max(speed.ratios)
    print(
        f"{asked.images} images of {asked.side}x{asked.side}, {speed.queries} queries in {speed.seconds:.1f} s, batch {speed.batch}"
    )
    print(f"  device alone  {speed.raw_per_second:10.1f} images/s")
    print(f"  audit         {speed.audit_per_second:10.1f} queries/s")
    print(f"  ratio         {speed.ratio:10.3f}  ({low:.3f} to {high:.3f})")
    print("  " + ", ".join(f"{name} {100 * share:.0f}%" for name, share in speed.shares.items()))
    print("  beside: " + ", ".join(f"{name} {100 * share:.0f}%" for name, share in speed.shares_beside.items()))


if __name__ == "__main__":
    main()
