"""Time for the same number of queries, beside other people's attacks on the same torch module.

    python examples/speed_peers.py MODEL.onnx IMAGES.npz [--sparse-rs FOLDER] [--corner-search FOLDER] [--images 32]
        [--queries 300] [--turns 3] [--workers 1] [--threads N] [--keep FILE] [--only PART ...]

MODEL is turned into a torch module, so that all attack the very same one; one row attacks the ONNX file itself, as an audit of
it would. Each attack runs in processes of its own, as its users run it, so that none profits from what another left behind:
`--workers` of them, each with its share of the images and of the cores. The clock begins when all have loaded everything.
A wrapper counts the images that the module scores and ends an attack at images x queries; where an attack is done sooner, its
time is taken for what it asked. Sparse-RS and CornerSearch in the original are used where their FOLDER holds them
(github.com/fra31/sparse-rs, github.com/fra31/sparse-imperceivable-attacks); foolbox, torchattacks and ART
(adversarial-robustness-toolbox) where they are installed; what is missing is said and left out. The attacks are run in
turns; the table gives medians and, in brackets, the range, of all turns that FILE keeps; "times ours" is taken within each
turn. On Linux this package has the C library keep what a torch layer frees; MALLOC_MMAP_THRESHOLD_=536870912
MALLOC_TRIM_THRESHOLD_=536870912 in the environment does so for all.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import astuple, dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
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
    module: Counted, images: torch.Tensor, labels: torch.Tensor, queries: int, folders: dict[str, Path]
) -> dict[str, Made]:
    """Attacks as their authors published them."""

    def sparse_rs() -> Attack:
        sys.path.insert(0, str(folders["rs_attacks.py"]))
        make = importlib.import_module("rs_attacks").RSAttack
        options = {"norm": "L0", "n_queries": queries, "eps": 5, "seed": 0, "verbose": False, "device": "cpu"}
        return partial(discarding, lambda: make(module, **options).perturb(images, labels))

    def corner_search() -> Attack:
        sys.path.insert(0, str(folders["cornersearch_attacks_pt.py"]))
        helpers: Any = ModuleType("utils_pt")  # theirs takes CUDA and torchvision for granted
        helpers.get_logits = by_channel
        helpers.get_predictions = lambda model, x, y: by_channel(model, x).argmax(1) == y
        sys.modules["utils_pt"] = helpers
        library: Any = importlib.import_module("cornersearch_attacks_pt")
        options = {"type_attack": "L0", "n_iter": 1000, "n_max": 100, "epsilon": -1, "kappa": -1, "sparsity": 10}
        attack = library.CSattack(module, options | {"size_incr": 1})
        return partial(quietly, lambda: attack.perturb(images.permute(0, 2, 3, 1).numpy(), labels.numpy()))

    made = {"rs_attacks.py": ("Sparse-RS, original, k=5", sparse_rs)}
    made["cornersearch_attacks_pt.py"] = ("CornerSearch, original", corner_search)
    return {name: make for file, (name, make) in made.items() if file in folders}


def by_channel(module: Counted, images: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """(N, K) scores of images (N, H, W, C) in [0, 1]."""
    scores: np.ndarray[Any, np.dtype[Any]] = module(
        torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32))
    ).numpy()
    return scores


def quietly(call: Callable[[], Any]) -> None:
    """Run an attack without what it prints."""
    with redirect_stdout(io.StringIO()):
        call()


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


def from_art(module: Counted, images: torch.Tensor, labels: torch.Tensor, queries: int) -> dict[str, Made]:
    """Attacks of ART on few pixels that ask for scores only."""
    if importlib.util.find_spec("art") is None:
        return {}

    def made(name: str, **options: Any) -> Attack:
        evasion: Any = importlib.import_module("art.attacks.evasion")
        estimators: Any = importlib.import_module("art.estimators.classification")
        wrapped = estimators.PyTorchClassifier(
            torch.nn.Sequential(module, torch.nn.Softmax(1)),
            loss=None,
            input_shape=images.shape[1:],
            nb_classes=10,
            clip_values=(0, 1),
            device_type="cpu",
        )
        attack = getattr(evasion, name)(wrapped, verbose=False, **options)
        return partial(discarding, lambda: attack.generate(images.numpy(), np.eye(10)[labels.numpy()]))

    return {
        "ART PixelAttack, th=5": partial(made, "PixelAttack", th=5, es=0, max_iter=100),
        "ART SimBA, pixels": partial(made, "SimBA", attack="px", max_iter=queries, epsilon=1.0),
    }


@dataclass(frozen=True)
class Wanted:
    """What is measured: the model's file, (N, H, W, C) images that it gets right, queries an image, others' files by folder."""

    model: Path
    data: ImageSet
    queries: int
    folders: dict[str, Path]


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
        **originals(module, images, labels, queries, wanted.folders),
        **from_foolbox(module, images, labels, queries),
        **from_torchattacks(module, images, labels, queries),
        **from_art(module, images, labels, queries),
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


@dataclass(frozen=True)
class Run:
    """One attack, once. queries: asked. seconds: on the clock. processor: of all threads and processes. inside: the module."""

    queries: int
    seconds: float
    processor: float
    inside: float

    def of(self, what: str) -> float:
        """Seconds of a kind for 10,000 queries."""
        spent: float = getattr(self, what)
        return 1e4 * spent / self.queries


def work(pipe: Connection, wanted: Wanted, name: str, threads: int) -> None:
    """Load everything, say so, and attack when told: sends a `Run`, whose `inside` is NaN where not known."""
    module = prepared(wanted.model, threads)
    attack = attacks_of(wanted, module, threads)[name]()
    module(as_tensor(wanted.data))
    pipe.send("ready")
    pipe.recv()
    module.begin(sys.maxsize if name.startswith("robustest") else len(wanted.data) * wanted.queries)
    torch.manual_seed(0)
    answered = None
    started, before = time.perf_counter(), time.process_time()
    with suppress(Enough):
        answered = attack()
    spent, processor = time.perf_counter() - started, time.process_time() - before
    pipe.send(Run(answered or module.images, spent, processor, module.seconds if name != ON_FILE else float("nan")))


def timed(wanted: Wanted, name: str, workers: int, threads: int) -> Run:
    """One attack by so many processes at once: the clock's seconds from the first's start to the last's end."""
    context = multiprocessing.get_context("spawn")
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
    runs: list[Run] = [pipe.recv() for pipe in pipes]
    spent = time.perf_counter() - started
    for process in processes:
        process.join()
    return Run(
        sum(run.queries for run in runs),
        spent,
        sum(run.processor for run in runs),
        sum(run.inside for run in runs) / workers,
    )


def print_table(runs: dict[str, list[Run]]) -> None:
    """Medians and ranges of all turns; the first attack is ours."""
    print(
        "| attack | queries | s per 10,000 queries | times ours | CPU s per 10,000 | times ours | share in the model |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    base = next(iter(runs.values()))
    for name, rows in runs.items():
        cells = []
        for what in ("seconds", "processor"):
            cells.append(spread([run.of(what) for run in rows], 2))
            cells.append(spread([run.of(what) / one.of(what) for run, one in zip(rows, base, strict=False)], 3))
        inside = float(np.median([run.inside / run.seconds for run in rows]))
        share = "" if np.isnan(inside) else f"{inside:.0%}"
        print(f"| {name} | {int(np.median([run.queries for run in rows]))} | {' | '.join(cells)} | {share} |")


def spread(values: list[float], digits: int) -> str:
    """Median and, of several, the range."""
    middle = f"{np.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def found(folders: list[Path | None]) -> dict[str, Path]:
    """The folders that hold what is published in them, by file."""
    files = ("rs_attacks.py", "cornersearch_attacks_pt.py")
    return {
        file: folder
        for file, folder in zip(files, folders, strict=True)
        if folder is not None and (folder / file).is_file()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sparse-rs", type=Path)
    parser.add_argument("--corner-search", type=Path)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--turns", type=int, default=3, help="0 to print what FILE keeps")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of each process; without, the cores are shared out")
    parser.add_argument("--keep", type=Path, help="file that runs are added to and read from, one a line")
    parser.add_argument("--only", nargs="+", default=[""], help="attacks whose names hold one of these")
    given = parser.parse_args()
    folders = found([given.sparse_rs, given.corner_search])
    for missing, hint in (
        (len(folders) < 2, "Sparse-RS or CornerSearch in the original is left out: give its folder."),
        (importlib.util.find_spec("foolbox") is None, "foolbox is left out: it is not installed."),
        (importlib.util.find_spec("torchattacks") is None, "torchattacks is left out: it is not installed."),
        (importlib.util.find_spec("art") is None, "ART is left out: it is not installed."),
    ):
        if missing:
            print(hint)
    module = prepared(given.model, 1)
    data = load_images(given.data)
    data = data.take(range(min(4 * given.images, len(data))))
    data = data.take(np.flatnonzero(module(as_tensor(data)).argmax(1).numpy() == data.labels)[: given.images])
    wanted = Wanted(given.model, data, given.queries, folders)
    names = [name for name in attacks_of(wanted, module, 1) if any(part in name for part in given.only)]
    kept = given.keep.read_text().splitlines() if given.keep is not None and given.keep.is_file() else []
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for line in kept:
        name, *run = json.loads(line)
        runs.setdefault(name, []).append(Run(*run))
    threads = given.threads or max(1, len(os.sched_getaffinity(0)) // given.workers)
    for _ in range(given.turns):
        for name in names:
            run = timed(wanted, name, given.workers, threads)
            runs[name].append(run)
            if given.keep is not None:
                with given.keep.open("a") as file:
                    file.write(json.dumps([name, *astuple(run)]) + "\n")
    turns = max(map(len, runs.values()))
    print(
        f"{given.model.name}, {len(data)} images x {given.queries} queries, {turns} turns, {given.workers} processes of "
        f"{threads} threads\n"
    )
    print_table({name: rows for name, rows in runs.items() if rows})


if __name__ == "__main__":
    main()
