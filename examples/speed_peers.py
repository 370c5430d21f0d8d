"""Time for the same number of queries, beside other people's attacks on the same torch module.

    python examples/speed_peers.py MODEL.onnx IMAGES.npz [--sparse-rs FOLDER] [--images 32] [--queries 300] [--turns 3]
        [--workers 1] [--keep FILE] [--only PART ...]

MODEL is turned into a torch module, so that all attack the very same one; one row attacks the ONNX file itself, as an audit of
it would. Each attack runs in processes of its own, as its users run it, so that none profits from what another left behind:
`--workers` of them, each with its share of the images and of the cores. The clock begins when all have loaded everything.
A wrapper counts the images that the module scores and ends an attack at images x queries; where an attack is done sooner, its
time is taken for what it asked. Sparse-RS in the original is used where FOLDER holds it (github.com/fra31/sparse-rs); foolbox
and torchattacks where they are installed; what is missing is said and left out. The attacks are run in turns; the table gives
medians and, in brackets, the range, of all turns that FILE keeps. On Linux this package has the C library keep what a torch
layer frees; MALLOC_MMAP_THRESHOLD_=536870912 MALLOC_TRIM_THRESHOLD_=536870912 in the environment does so for all.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustest.attack.find import iter_adversarials
from robustest.classifiers import load_classifier
from robustest.classifiers.onnx_file import OnnxClassifier
from robustest.classifiers.onnx_module import OnnxModule
from robustest.classifiers.spec import InputSpec
from robustest.classifiers.torch_module import TorchClassifier
from robustest.images import ImageSet, load_images
from robustest.settings import AttackSettings

ON_FILE = "robustest game, ONNX file"


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
Made = Callable[[], Attack]


def ours(module: Counted, data: ImageSet, settings: AttackSettings) -> Attack:
    """An attack of this package; what is scored only to fill a batch is no query."""
    classifier = TorchClassifier(
        module.eval(), InputSpec(layout="NCHW", channels="gray" if data.images.shape[3] == 1 else "RGB")
    )

    def run() -> int:
        return sum(result.queries for _, result in iter_adversarials(classifier, data.images, data.labels, settings))

    return run


def ours_on_file(path: Path, data: ImageSet, settings: AttackSettings, threads: int) -> Attack:
    """The same on the ONNX file, by onnxruntime."""
    classifier = OnnxClassifier(path, threads=threads)

    def run() -> int:
        return sum(result.queries for _, result in iter_adversarials(classifier, data.images, data.labels, settings))

    return run


def originals(
    module: Counted, images: torch.Tensor, labels: torch.Tensor, queries: int, folder: Path | None
) -> dict[str, Made]:
    """Sparse-RS as its authors published it."""
    if folder is None:
        return {}

    def made() -> Attack:
        sys.path.insert(0, str(folder))
        make = importlib.import_module("rs_attacks").RSAttack
        options = {"norm": "L0", "n_queries": queries, "eps": 5, "seed": 0, "verbose": False, "device": "cpu"}
        return partial(discarding, lambda: make(module, **options).perturb(images, labels))

    return {"Sparse-RS, original, k=5": made}


def from_foolbox(module: Counted, images: torch.Tensor, labels: torch.Tensor, queries: int) -> dict[str, Made]:
    """Attacks of foolbox that ask for decisions or scores only."""
    if importlib.util.find_spec("foolbox") is None:
        return {}

    def made(name: str, **options: Any) -> Attack:
        foolbox: Any = importlib.import_module("foolbox")
        if name != "SaltAndPepperNoise":
            options["init_attack"] = foolbox.attacks.SaltAndPepperNoiseAttack(steps=200)
        attack = getattr(foolbox.attacks, f"{name}Attack")(**options)
        model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
        return partial(discarding, partial(attack.run, model, images, foolbox.criteria.Misclassification(labels)))

    return {
        "foolbox SaltAndPepperNoise": partial(made, "SaltAndPepperNoise", steps=queries),
        "foolbox Pointwise": partial(made, "Pointwise"),
        "foolbox Boundary": partial(made, "Boundary", steps=queries),
    }


def discarding(call: Callable[[], Any]) -> None:
    """Run an attack whose answer is of no interest here."""
    call()


def from_torchattacks(module: Counted, images: torch.Tensor, labels: torch.Tensor, queries: int) -> dict[str, Made]:
    """Attacks of torchattacks that ask for scores only."""
    if importlib.util.find_spec("torchattacks") is None:
        return {}
    steps = max(queries // 40, 1)

    def made(name: str, **options: Any) -> Attack:
        attack = getattr(importlib.import_module("torchattacks"), name)(module, **options)
        return partial(discarding, partial(attack, images, labels))

    return {
        "torchattacks OnePixel": partial(made, "OnePixel", pixels=5, steps=steps, popsize=40, inf_batch=128),
        "torchattacks Pixle": partial(made, "Pixle", restarts=max(queries // 20, 1), max_iterations=20),
        "torchattacks Square": partial(made, "Square", norm="Linf", eps=1e-3, n_queries=queries, seed=0),
    }


@dataclass(frozen=True)
class Wanted:
    """What is measured: the model's file, (N, H, W, C) images that it gets right, queries an image, Sparse-RS's folder."""

    model: Path
    data: ImageSet
    queries: int
    sparse_rs: Path | None


def attacks_of(wanted: Wanted, module: Counted, threads: int) -> dict[str, Made]:
    """What makes each attack there is, by name: nothing of one is made, or set in this process, for another."""
    data, queries = wanted.data, wanted.queries
    images = as_tensor(data)
    labels = torch.from_numpy(np.asarray(data.labels, np.int64))
    game = AttackSettings(queries=queries)
    return {
        "robustest game": partial(ours, module, data, game),
        "robustest sparse-rs@5": partial(ours, module, data, replace(game, attack="sparse-rs@5")),
        ON_FILE: partial(ours_on_file, wanted.model, data, game, threads),
        **originals(module, images, labels, queries, wanted.sparse_rs),
        **from_foolbox(module, images, labels, queries),
        **from_torchattacks(module, images, labels, queries),
    }


def as_tensor(data: ImageSet) -> torch.Tensor:
    """(N, C, H, W) images in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2)).astype(np.float32) / 255)


def prepared(model: Path, threads: int) -> Counted:
    """The module, and torch told of its threads."""
    warnings.simplefilter("ignore")  # of other people's code
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return Counted(OnnxModule(model), load_classifier(model).info.spec).eval()


def work(pipe: Connection, wanted: Wanted, name: str, threads: int) -> None:
    """Load everything, say so, and attack when told: sends queries, and seconds within the module, NaN where not known."""
    module = prepared(wanted.model, threads)
    attack = attacks_of(wanted, module, threads)[name]()
    module(as_tensor(wanted.data))
    pipe.send("ready")
    pipe.recv()
    module.begin(sys.maxsize if name.startswith("robustest") else len(wanted.data) * wanted.queries)
    torch.manual_seed(0)
    answered = None
    with suppress(Enough):
        answered = attack()
    pipe.send((answered or module.images, module.seconds if name != ON_FILE else float("nan")))


def timed(wanted: Wanted, name: str, workers: int) -> tuple[int, float, float]:
    """Queries, seconds, and each worker's mean seconds within the module, of one attack."""
    context = multiprocessing.get_context("spawn")
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    pipes, processes = [], []
    for place in range(workers):
        mine, theirs = context.Pipe()
        share = replace(wanted, data=wanted.data.take(range(place, len(wanted.data), workers)))
        processes.append(context.Process(target=work, args=(theirs, share, name, threads), daemon=True))
        processes[-1].start()
        theirs.close()
        pipes.append(mine)
    for pipe in pipes:
        pipe.recv()
    started = time.perf_counter()
    for pipe in pipes:
        pipe.send("go")
    answers = [pipe.recv() for pipe in pipes]
    spent = time.perf_counter() - started
    for process in processes:
        process.join()
    return sum(queries for queries, _ in answers), spent, sum(inside for _, inside in answers) / workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sparse-rs", type=Path)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="file that runs are added to and read from, one a line")
    parser.add_argument("--only", nargs="+", default=[""], help="attacks whose names hold one of these")
    given = parser.parse_args()
    folder = given.sparse_rs if given.sparse_rs and (given.sparse_rs / "rs_attacks.py").is_file() else None
    for missing, hint in (
        (folder is None, "Sparse-RS in the original is left out: give its folder by --sparse-rs."),
        (importlib.util.find_spec("foolbox") is None, "foolbox is left out: it is not installed."),
        (importlib.util.find_spec("torchattacks") is None, "torchattacks is left out: it is not installed."),
    ):
        if missing:
            print(hint)
    module = prepared(given.model, 1)
    data = load_images(given.data)
    data = data.take(range(min(4 * given.images, len(data))))
    data = data.take(np.flatnonzero(module(as_tensor(data)).argmax(1).numpy() == data.labels)[: given.images])
    wanted = Wanted(given.model, data, given.queries, folder)
    names = [name for name in attacks_of(wanted, module, 1) if any(part in name for part in given.only)]
    kept = given.keep.read_text().splitlines() if given.keep is not None and given.keep.is_file() else []
    runs: dict[str, list[tuple[int, float, float]]] = {name: [] for name in names}
    for line in kept:
        name, *run = json.loads(line)
        runs.setdefault(name, []).append((run[0], run[1], run[2]))
    for _ in range(given.turns):
        for name in names:
            run = timed(wanted, name, given.workers)
            runs[name].append(run)
            if given.keep is not None:
                with given.keep.open("a") as file:
                    file.write(json.dumps([name, *run]) + "\n")
    turns = max(map(len, runs.values()))
    cores = len(os.sched_getaffinity(0))
    print(
        f"{given.model.name}, {len(data)} images x {given.queries} queries, {turns} turns, {cores} cores, {given.workers} processes\n"
    )
    print("| attack | queries | s per 10,000 queries | times ours | share in the model |")
    print("| --- | --- | --- | --- | --- |")
    base = float(np.median([seconds / queries for queries, seconds, _ in next(iter(runs.values()))]))
    for name, rows in runs.items():
        each = np.array([seconds / queries for queries, seconds, _ in rows])
        inside = float(np.median([within / seconds for _, seconds, within in rows]))
        queries = int(np.median([queries for queries, _, _ in rows]))
        spread = f"{1e4 * np.median(each):.2f} ({1e4 * each.min():.2f} to {1e4 * each.max():.2f})"
        share = "" if np.isnan(inside) else f"{inside:.0%}"
        print(f"| {name} | {queries} | {spread} | {np.median(each) / base:.2f} | {share} |")


if __name__ == "__main__":
    main()
