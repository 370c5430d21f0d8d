"""Brackets on the distance to misclassification for models of a zoo, as a table.

    python examples/bracket_table.py ZOO [--images 5] [--seconds 8] [--out reports/brackets.md] [--models a,b]

ZOO holds `manifest.json`, `models/` and `data/`. For each model the first images that it gets right are bracketed in
L0 (pixels), L1, L2 and Linf: the lower end is proved for the float32 network as executed, the upper end is an image
that onnxruntime was asked again. `--accuracy MODEL:EPS:N` counts on how many of the first N images the class is
proved on the whole Linf ball of that radius (wrong images count against it).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv

from robustest.bounds.branch import prove_region
from robustest.bounds.checker import Checker
from robustest.bounds.crown import margin_bounds
from robustest.bounds.guarantee import Norm
from robustest.bounds.reading import graph_of
from robustest.bounds.region import Region
from robustest.classifiers.onnx_file import OnnxClassifier

MODELS = "mnist_wk_eps01,mnist_colt_eps01,cifar_cnn_a_adv,cifar_resnet2b_adv"
NORMS: tuple[Norm, ...] = ("l0", "l1", "l2", "linf")


def opened(zoo: Path, name: str) -> tuple[OnnxClassifier, NDArray[np.float32], list[int]]:
    """A model with its images (N, H, W, C) in [0, 1] and labels."""
    entries = json.loads((zoo / "manifest.json").read_text())["models"]
    entry: dict[str, Any] = next(m for m in entries if m["id"] == name)
    data = np.load(zoo / entry["data"])
    images = data["images"].astype(np.float32) / np.float32(255)
    images = images if images.ndim == 4 else images[..., None]
    return OnnxClassifier(zoo / entry["file"], threads=1), images, data["labels"].tolist()


def brackets_of(zoo: Path, name: str, count: int, seconds: float) -> list[str]:
    """Rows of the table for one model."""
    classifier, images, labels = opened(zoo, name)
    checker = Checker(graph_of(classifier), classifier)
    found: dict[Norm, list[tuple[float, float | None, str]]] = {norm: [] for norm in NORMS}
    begin = time.thread_time()
    used = 0
    for image, label in zip(images, labels, strict=True):
        if used == count:
            break
        if int(np.asarray(classifier(image[None])).argmax()) != label:
            continue
        used += 1
        for norm, bracket in checker.bracket(image, label, norms=NORMS, seconds=seconds).items():
            assert bracket.lower is not None
            upper = None if bracket.upper is None else bracket.upper.value
            found[norm].append((bracket.lower.value, upper, bracket.lower.method))
    spent = (time.thread_time() - begin) / max(used, 1)
    rows = []
    for norm, ends in found.items():
        lower = statistics.median(low for low, _, _ in ends)
        uppers = [up for _, up, _ in ends if up is not None]
        ratios = [up / low for low, up, _ in ends if up is not None and low > 0]
        nearest = f"{statistics.median(uppers):.4g} ({len(uppers)}/{len(ends)})" if uppers else "none found"
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else ""
        methods = sorted({m for _, _, m in ends}, key=lambda m: -sum(x == m for _, _, x in ends))
        rows.append(
            f"| {name} | {norm} | {used} | {lower:.4g} | {nearest} | {ratio} | {', '.join(methods)} | {spent:.1f} |"
        )
        print(rows[-1], flush=True)
    return rows


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
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="CPU seconds an image")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--accuracy", action="append", default=[], help="MODEL:EPS:N")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shares = []
    for wish in options.accuracy:
        name, eps, count = wish.split(":")
        shares.append(proven_share(options.zoo, name, float(eps), int(count), options.seconds))
        print(shares[-1], flush=True)
    rows = [
        row
        for name in options.models.split(",")
        if name
        for row in brackets_of(options.zoo, name, options.images, options.seconds)
    ]
    command = " ".join(["python examples/bracket_table.py ZOO", *sys.argv[2:]])
    text = "\n".join(
        [
            "# Brackets on the distance to the nearest misclassified image",
            "",
            f"`{command}`, one thread of a 2-core CPU. Lower ends are proved for the float32 network as executed; upper "
            "ends are images that onnxruntime scored again. Medians over the first images that the model gets right; "
            "the ratio is upper over lower, with its range. L0 counts pixels. Pixels may take any value in [0, 1], not "
            "only multiples of 1/255.",
            "",
            "| model | norm | images | proved (median) | found (median) | ratio (range) | methods | CPU s an image |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            *(["Proved accuracy:", "", *shares, ""] if shares else []),
        ]
    )
    if options.out is not None:
        options.out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
