"""Brackets on the distance to misclassification, as tables.

    python examples/bracket_table.py ZOO [--verify VERIFY] [--nets NETS] [--images 8] [--seconds 6] [--models a,b:20]

A model is an id of ZOO (`manifest.json`, `models/`, `data/`), `demo:plain` or `demo:provable` (they ship with the
package), `coverd:NAME` (VERIFY/coverd/NAME.onnx) or `small:KIND` (NETS as `examples/small_networks.py` wrote it); a
number after a colon is its CPU seconds an image. The first images that it gets right are bracketed in L0 (pixels), L1, L2
and Linf: the lower end is proved for the float32 network as executed, the upper end is an image that the classifier
itself scored. `--unbranched` does the same with one relaxation of each region and no branch and bound. `--execution` gives
what a proof for the executed network costs of the Linf radius that holds in exact arithmetic, by CROWN. `--accuracy
MODEL:EPS:N` counts on how many of the first N images the class is proved on the whole Linf ball of that radius (wrong
images count against it).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from small_networks import images_of, load
from verify_l0 import SPEC

from robustest.bounds.branch import prove_region
from robustest.bounds.check import checker_of
from robustest.bounds.checker import Checker
from robustest.bounds.crown import margin_bounds
from robustest.bounds.radius import largest_radius
from robustest.bounds.reading import graph_of
from robustest.bounds.region import Region
from robustest.classifiers.onnx_file import OnnxClassifier
from robustest.demo import MODELS as MODELS_SHIPPED
from robustest.demo import demo_images
from robustest.images import as_unit
from robustest.settings import Norm

MODELS = "mnist_wk_eps01,mnist_colt_eps01,cifar_cnn_a_adv,cifar_resnet2b_adv:20,gtsrb_bnn48:20,demo:plain,demo:provable"
NORMS: tuple[Norm, ...] = ("l0", "l1", "l2", "linf")


@dataclass(frozen=True, slots=True)
class Sources:
    """Folders that models and images come from; see the text above."""

    zoo: Path
    verify: Path | None = None
    nets: Path | None = None
    data: Path | None = None


def opened(zoo: Path, name: str) -> tuple[OnnxClassifier, NDArray[np.float32], list[int]]:
    """A model of the zoo with its images (N, H, W, C) in [0, 1] and labels."""
    entries = json.loads((zoo / "manifest.json").read_text())["models"]
    entry: dict[str, Any] = next(m for m in entries if m["id"] == name)
    data = np.load(zoo / entry["data"])
    images = data["images"].astype(np.float32) / np.float32(255)
    images = images if images.ndim == 4 else images[..., None]
    return OnnxClassifier(zoo / entry["file"], threads=1), images, data["labels"].tolist()


def found_in(sources: Sources, name: str) -> tuple[Checker, NDArray[np.float32], list[int]]:
    """A checker of any model, its images (N, H, W, C) in [0, 1] and their labels."""
    kind, _, rest = name.rpartition(":")
    if not kind:
        classifier, images, labels = opened(sources.zoo, name)
        return checker_of(classifier, image_shape=images.shape[1:]), images, labels
    if kind == "demo":
        sample = demo_images()
        units = as_unit(sample.images)
        checker = checker_of(OnnxClassifier(MODELS_SHIPPED[rest], threads=1), image_shape=units.shape[1:])
        return checker, units, sample.labels.tolist()
    if kind == "coverd":
        if sources.verify is None:
            sys.exit(f"{name}: give the folder VERIFY by --verify.")
        with np.load(sources.verify / "coverd" / "mnist100.npz") as data:
            units, numbers = as_unit(data["images"]), data["labels"].tolist()
        path = sources.verify / "coverd" / f"{rest}.onnx"
        return checker_of(OnnxClassifier(path, SPEC, threads=1), image_shape=units.shape[1:]), units, numbers
    if sources.nets is None or sources.data is None:
        sys.exit(f"{name}: give the folders NETS by --nets and that of Fashion-MNIST by --data.")
    images, labels_ = images_of(sources.data, "t10k")
    return checker_of(load(sources.nets, rest), image_shape=(28, 28, 1)), images, labels_.tolist()


def right_ones(
    checker: Checker, images: NDArray[np.float32], labels: list[int], count: int
) -> list[tuple[NDArray[np.float32], int]]:
    """The first images that the classifier gets right, and their classes."""
    chosen: list[tuple[NDArray[np.float32], int]] = []
    for image, label in zip(images, labels, strict=True):
        if len(chosen) == count:
            break
        if int(np.asarray(checker.scorer(image[None])).argmax()) == label:
            chosen.append((image, int(label)))
    return chosen


def brackets_of(sources: Sources, name: str, count: int, seconds: float, *, branch: bool) -> list[str]:
    """Rows of the table for one model."""
    checker, images, labels = found_in(sources, name)
    found: dict[Norm, list[tuple[float, float | None, str]]] = {norm: [] for norm in NORMS}
    spent = []
    # What is computed once a model is not any image's.
    for norm in NORMS:
        checker.constants(norm)
    for image, label in right_ones(checker, images, labels, count):
        begin = time.thread_time()
        brackets = checker.bracket(image, label, norms=NORMS, seconds=seconds, branch=branch)
        spent.append(time.thread_time() - begin)
        for norm, bracket in brackets.items():
            assert bracket.lower is not None
            upper = None if bracket.upper is None else bracket.upper.value
            found[norm].append((bracket.lower.value, upper, bracket.lower.method))
    rows = []
    for norm, ends in found.items():
        lower = statistics.median(low for low, _, _ in ends)
        uppers = [up for _, up, _ in ends if up is not None]
        ratios = [up / low for low, up, _ in ends if up is not None and low > 0]
        nearest = f"{statistics.median(uppers):.4g} ({len(uppers)}/{len(ends)})" if uppers else "none found"
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else ""
        proved = sum(low > 0 for low, _, _ in ends)
        methods = sorted({m for _, _, m in ends}, key=lambda m: -sum(x == m for _, _, x in ends))
        rows.append(
            f"| {name} | {norm} | {proved}/{len(ends)} | {lower:.4g} | {nearest} | {ratio} | {', '.join(methods)} | "
            f"{statistics.median(spent):.1f} ({max(spent):.1f}) |"
        )
        print(rows[-1], flush=True)
    return rows


def execution_cost(sources: Sources, name: str, count: int) -> str:
    """Median and largest share of the Linf radius by CROWN that accounting for execution costs, over some images."""
    checker, images, labels = found_in(sources, name)
    shares = []
    for image, label in right_ones(checker, images, labels, count):
        point = torch.from_numpy(image)[None]

        def radius(executed: bool, point: torch.Tensor = point, label: int = label) -> float:
            def gap(eps: float) -> float:
                with torch.no_grad():
                    ball = Region.ball(point, "linf", eps, channels=point.shape[3])
                    return float(margin_bounds(checker.graph, ball, label, executed=executed).lower.min())

            return largest_radius(gap, 0.5, gap(0.0), first=0.1, tolerance=1e-5)

        real, executed = radius(False), radius(True)
        if real > 0:
            shares.append(1 - executed / real)
    row = f"| {name} | {len(shares)} | {statistics.median(shares):.3%} | {max(shares):.3%} |"
    print(row, flush=True)
    return row


def proven_share(zoo: Path, name: str, eps: float, count: int, seconds: float) -> str:
    """How many of the first images are proved on their Linf ball, with an exact 95 % interval."""
    classifier, images, labels = opened(zoo, name)
    graph = graph_of(classifier)
    right = proved = 0
    begin = time.thread_time()
    for image, label in zip(images[:count], labels, strict=False):
        if int(np.asarray(classifier(image[None])).argmax()) != label:
            continue
        right += 1
        region = Region.ball(torch.from_numpy(image)[None], "linf", eps, channels=image.shape[2])
        with torch.no_grad():
            ok = bool(margin_bounds(graph, region, label).proved[0])
        proved += ok or (seconds > 0 and prove_region(graph, region, label, seconds=seconds).proved)
    low = 0.0 if proved == 0 else float(betaincinv(proved, count - proved + 1, 0.025))
    high = 1.0 if proved == count else float(betaincinv(proved + 1, count - proved, 0.975))
    return (
        f"* {name}, Linf {eps:g}: proved on {proved} of {count} images = {proved / count:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}); right on {right}; "
        f"{(time.thread_time() - begin) / count:.2f} CPU seconds an image."
    )


def main() -> int:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--verify", type=Path)
    parser.add_argument("--nets", type=Path)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=6.0, help="CPU seconds an image")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--unbranched", default="", help="models bracketed without branch and bound too")
    parser.add_argument("--execution", default="", help="models of which the cost of execution is measured")
    parser.add_argument("--accuracy", action="append", default=[], help="MODEL:EPS:N")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = Sources(options.zoo, options.verify, options.nets, options.data)
    shares = []
    for wish in options.accuracy:
        name, eps, count = wish.split(":")
        shares.append(proven_share(options.zoo, name, float(eps), int(count), options.seconds))
        print(shares[-1], flush=True)
    rows: dict[bool, list[str]] = {True: [], False: []}
    for branch, names in ((True, options.models), (False, options.unbranched)):
        for name in filter(None, names.split(",")):
            head, _, tail = name.rpartition(":")
            own = tail.replace(".", "").isdigit()
            model, seconds = (head, float(tail)) if own else (name, options.seconds)
            rows[branch] += brackets_of(sources, model, options.images, seconds, branch=branch)
    costs = [execution_cost(sources, name, options.images) for name in filter(None, options.execution.split(","))]
    given = [Path(a).name.upper() if Path(a).is_dir() else a for a in sys.argv[1:]]
    head = [
        "| model | norm | proved > 0 | proved (median) | found (median) | ratio (range) | methods | CPU s an image (most) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    text = [
        "# Brackets on the distance to the nearest misclassified image",
        "",
        f"`python examples/bracket_table.py {' '.join(given)}`, one thread of a 2-core CPU. Lower ends are proved for the "
        "float32 network as executed; upper ends are images that the classifier scored again. Medians over the first "
        "images that the model gets right; the ratio is upper over lower, with its range. L0 counts pixels. Pixels may take "
        "any value in [0, 1], not only multiples of 1/255.",
        "",
        *head,
        *rows[True],
        "",
    ]
    if rows[False]:
        text += ["Without branch and bound:", "", *head, *rows[False], ""]
    if costs:
        text += [
            "What a proof for the executed network costs of the Linf radius that CROWN proves in exact arithmetic:",
            "",
            "| model | images | median | largest |",
            "|---|---|---|---|",
            *costs,
            "",
        ]
    if shares:
        text += ["Proved accuracy:", "", *shares, ""]
    if options.out is not None:
        options.out.write_text("\n".join(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
