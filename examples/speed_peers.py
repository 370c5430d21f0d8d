"""Time for the same number of queries, beside other people's attacks on the same torch module, in one run.

    python examples/speed_peers.py MODEL.onnx IMAGES.npz [--sparse-rs FOLDER] [--images 32] [--queries 300] [--turns 3]

MODEL is turned into a torch module, so that all attack the very same one. A wrapper counts the images that it scores and
ends an attack at images x queries; where an attack is done sooner, its time is taken for what it asked. Sparse-RS in the
original is used where FOLDER holds it (github.com/fra31/sparse-rs); foolbox and torchattacks where they are installed;
what is missing is said and left out. Each attack is run in turns; the table gives medians and, in brackets, the range.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustest.attack.find import iter_adversarials
from robustest.classifiers import load_classifier
from robustest.classifiers.onnx_module import OnnxModule
from robustest.classifiers.spec import InputSpec
from robustest.classifiers.torch_module import TorchClassifier
from robustest.images import ImageSet, load_images
from robustest.settings import AttackSettings


class Enough(Exception):
    """The queries allowed were asked."""


class Counted(torch.nn.Module):
    """A module on images (N, C, H, W) in [0, 1] that counts them and its own seconds, and stops at `most` images."""

    def __init__(self, module: torch.nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.module, self.first = module, spec.layout == "NCHW"
        factor, mean, std = spec.affine()
        self.factor = torch.from_numpy(255 * factor)[:, None, None]
        self.mean, self.std = torch.from_numpy(mean)[:, None, None], torch.from_numpy(std)[:, None, None]
        self.flip = spec.channels == "BGR"
        self.images, self.seconds, self.most = 0, 0.0, sys.maxsize

    def begin(self, most: int) -> None:
        """Count anew."""
        self.images, self.seconds, self.most = 0, 0.0, most

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, K) scores."""
        if self.images >= self.most:
            raise Enough
        started = time.perf_counter()
        values = (images * self.factor - self.mean) / self.std
        values = values.flip(1) if self.flip else values
        scores: torch.Tensor = self.module(values if self.first else values.permute(0, 2, 3, 1))
        self.images += len(images)
        self.seconds += time.perf_counter() - started
        return scores


Attack = Callable[[], int | None]  # runs, and returns the queries answered where it counts them itself


def ours(module: Counted, data: ImageSet, settings: AttackSettings) -> Attack:
    """An attack of this package; what is scored only to fill a batch is no query."""
    classifier = TorchClassifier(
        module.eval(), InputSpec(layout="NCHW", channels="gray" if data.images.shape[3] == 1 else "RGB")
    )

    def run() -> int:
        return sum(result.queries for _, result in iter_adversarials(classifier, data.images, data.labels, settings))

    return run


def originals(
    module: Counted, images: torch.Tensor, labels: torch.Tensor, queries: int, folder: Path | None
) -> dict[str, Attack]:
    """Sparse-RS as its authors published it."""
    if folder is None or not (folder / "rs_attacks.py").is_file():
        print("Sparse-RS in the original is left out: give its folder by --sparse-rs.")
        return {}
    sys.path.insert(0, str(folder))
    make = importlib.import_module("rs_attacks").RSAttack
    options = {"norm": "L0", "n_queries": queries, "eps": 5, "seed": 0, "verbose": False, "device": "cpu"}

    def run() -> None:
        make(module, **options).perturb(images, labels)

    return {"Sparse-RS, original, k=5": run}


def from_foolbox(module: Counted, images: torch.Tensor, labels: torch.Tensor, queries: int) -> dict[str, Attack]:
    """Attacks of foolbox that ask for decisions or scores only."""
    if importlib.util.find_spec("foolbox") is None:
        print("foolbox is left out: it is not installed (pip install foolbox).")
        return {}
    foolbox: Any = importlib.import_module("foolbox")
    model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    noise = foolbox.attacks.SaltAndPepperNoiseAttack(steps=queries)
    made = {
        "foolbox SaltAndPepperNoise": noise,
        "foolbox Pointwise": foolbox.attacks.PointwiseAttack(
            init_attack=foolbox.attacks.SaltAndPepperNoiseAttack(steps=200)
        ),
        "foolbox Boundary": foolbox.attacks.BoundaryAttack(
            init_attack=foolbox.attacks.SaltAndPepperNoiseAttack(steps=200), steps=queries
        ),
    }
    aim = foolbox.criteria.Misclassification(labels)
    return {name: partial(discarding, partial(attack.run, model, images, aim)) for name, attack in made.items()}


def discarding(call: Callable[[], Any]) -> None:
    """Run an attack whose answer is of no interest here."""
    call()


def from_torchattacks(module: Counted, images: torch.Tensor, labels: torch.Tensor, queries: int) -> dict[str, Attack]:
    """Attacks of torchattacks that ask for scores only."""
    if importlib.util.find_spec("torchattacks") is None:
        print("torchattacks is left out: it is not installed (pip install --no-deps torchattacks==3.5.1).")
        return {}
    torchattacks: Any = importlib.import_module("torchattacks")
    steps = max(queries // 40, 1)
    made = {
        "torchattacks OnePixel": torchattacks.OnePixel(module, pixels=5, steps=steps, popsize=40, inf_batch=128),
        "torchattacks Pixle": torchattacks.Pixle(module, restarts=max(queries // 20, 1), max_iterations=20),
        "torchattacks Square": torchattacks.Square(module, norm="Linf", eps=1e-3, n_queries=queries, seed=0),
    }
    return {name: partial(discarding, partial(attack, images, labels)) for name, attack in made.items()}


def timed(module: Counted, attack: Attack, most: int) -> tuple[int, float, float]:
    """Queries, seconds, and seconds within the module, of one run that is ended at so many images."""
    module.begin(most)
    torch.manual_seed(0)
    answered = None
    started = time.perf_counter()
    with suppress(Enough):
        answered = attack()
    return answered or module.images, time.perf_counter() - started, module.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sparse-rs", type=Path)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of other people's code
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_grad_enabled(False)
    data = load_images(given.data)
    data = data.take(range(min(4 * given.images, len(data))))
    spec = load_classifier(given.model).info.spec
    module = Counted(OnnxModule(given.model), spec).eval()
    unit = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2)).astype(np.float32) / 255)
    right = np.flatnonzero(module(unit).argmax(1).numpy() == data.labels)[: given.images]
    data, images = data.take(right), unit[right]
    labels = torch.from_numpy(np.asarray(data.labels, np.int64))
    attacks: dict[str, Attack] = {
        "robustest game": ours(module, data, AttackSettings(queries=given.queries)),
        "robustest sparse-rs@5": ours(module, data, AttackSettings(queries=given.queries, attack="sparse-rs@5")),
        **originals(module, images, labels, given.queries, given.sparse_rs),
        **from_foolbox(module, images, labels, given.queries),
        **from_torchattacks(module, images, labels, given.queries),
    }
    runs: dict[str, list[tuple[int, float, float]]] = {name: [] for name in attacks}
    for _ in range(given.turns):
        for name, attack in attacks.items():
            own = name.startswith("robustest")
            runs[name].append(timed(module, attack, sys.maxsize if own else len(data) * given.queries))
    cores = len(os.sched_getaffinity(0))
    print(f"{given.model.name}, {len(data)} images x {given.queries} queries, {given.turns} turns, {cores} cores\n")
    print("| attack | queries | s per 10,000 queries | times ours | share in the model |")
    print("| --- | --- | --- | --- | --- |")
    base = float(np.median([seconds / queries for queries, seconds, _ in runs["robustest game"]]))
    for name, rows in runs.items():
        each = np.array([seconds / queries for queries, seconds, _ in rows])
        inside = np.median([within / seconds for _, seconds, within in rows])
        queries = int(np.median([queries for queries, _, _ in rows]))
        spread = f"{1e4 * np.median(each):.2f} ({1e4 * each.min():.2f} to {1e4 * each.max():.2f})"
        print(f"| {name} | {queries} | {spread} | {np.median(each) / base:.2f} | {inside:.0%} |")


if __name__ == "__main__":
    main()
