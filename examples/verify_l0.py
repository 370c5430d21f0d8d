"""Few-pixel robustness of two networks on which it was verified before: decided exactly, pixel by pixel.

    python examples/verify_l0.py --folder ../shared/verify/coverd --out reports/l0.md

Reads `NAME.onnx` and `mnist100.npz` (images (N, 28, 28, 1) uint8, labels) of the folder. For every image that the
network gets right and k = 1, 2, 3 it asks whether changing at most k pixels, each to any value in [0, 1], can change the
class; each answer is a proof for the float32 network as executed or an image that was scored again. Every row is
written when it is done, so the run can be stopped and taken up again.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustest.audit.statistics import clopper_pearson
from robustest.bounds.centred import CentredBounds
from robustest.bounds.decision import Decision
from robustest.bounds.guarantee import Scorer
from robustest.bounds.reading import graph_of
from robustest.bounds.sparse_attack import few_pixel_witness
from robustest.bounds.sparse_branch import decide_sparse
from robustest.classifiers.onnx_file import OnnxClassifier
from robustest.classifiers.spec import InputSpec

MODELS = ("MNIST_ConvSmall", "MNIST_ConvSmallPGD")
SPEC = InputSpec("NCHW", "gray", scale=1 / 255, mean=(0.1307,), std=(0.3081,))
LIMITS = {1: 5.0, 2: 30.0, 3: 300.0}
"""CPU seconds of one thread for each number of pixels."""
WANTED = {1: 0.95, 2: 0.80, 3: 0.50}


def main() -> None:
    """Decide what is not decided yet, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("../shared/verify/coverd"))
    parser.add_argument("--out", type=Path, default=Path("reports/l0.md"))
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--images", type=int, default=100, help="the first so many images")
    parser.add_argument("--seconds-beyond", type=float, default=0.0, help="CPU seconds for each k above 3")
    parser.add_argument("--seconds-three", type=float, default=LIMITS[3], help="CPU seconds for k = 3")
    arguments = parser.parse_args()
    LIMITS[3] = arguments.seconds_three
    torch.set_num_threads(1)
    rows_file = arguments.out.with_suffix(".jsonl")
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.exists() else []
    done = {(row["model"], row["image"]) for row in rows}
    with np.load(arguments.folder / "mnist100.npz") as data:
        images, labels = data["images"], data["labels"]
    for name in arguments.models:
        classifier = OnnxClassifier(arguments.folder / f"{name}.onnx", SPEC)
        bounds = CentredBounds(graph_of(classifier, image_shape=(28, 28, 1)))
        for index in range(min(arguments.images, len(images))):
            if (name, index) in done:
                continue
            image = images[index].astype(np.float32) / np.float32(255)
            row = {"model": name, "image": index, "label": int(labels[index])}
            row |= decide(bounds, image, int(labels[index]), classifier, arguments.seconds_beyond)
            rows.append(row)
            with rows_file.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(name, index, row.get("lower"), row.get("upper"), [a["decision"] for a in row["answers"]], flush=True)
    arguments.out.write_text(report(rows, arguments))


def decide(
    bounds: CentredBounds, image: NDArray[np.float32], label: int, scorer: Scorer, beyond: float
) -> dict[str, Any]:
    """One image: the answer for every number of pixels, and a bracket on how few change the class."""
    if int(np.asarray(scorer(image[None])).argmax()) != label:
        return {"right": False, "answers": []}
    lower, answers, units = 1, [], 0
    witness = few_pixel_witness(bounds.graph, scorer, image, label, unit=1)
    few = 784 if witness is None else int((witness != image).sum())
    while lower == units + 1 and lower < few and (lower in LIMITS or beyond > 0):
        units += 1
        answer = decide_sparse(bounds, image, label, units, scorer=scorer, seconds=LIMITS.get(units, beyond))
        if answer.decision is Decision.PROVED:
            lower = units + 1
        if answer.witness is not None:
            witness = answer.witness
        answers.append({"k": units, "decision": answer.decision.name, "seconds": answer.seconds, "nodes": answer.nodes})
    row: dict[str, Any] = {"right": True, "lower": lower, "upper": None, "answers": answers}
    if witness is not None:
        eight_bit = (np.round(witness * 255) / 255).astype(np.float32)
        row["upper"] = int((witness != image).any(-1).sum())
        row["survives_8_bit"] = bool(int(np.asarray(scorer(eight_bit[None])).argmax()) != label)
    return row


def report(rows: Iterable[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The tables, in Markdown."""
    lines = [
        "# Few-pixel robustness, decided",
        "",
        f"`python examples/verify_l0.py --seconds-beyond {arguments.seconds_beyond:g}` makes this page again (networks and "
        f"images: YuvShap/CoVerD, Apache-2.0, not part of this repository). One thread, CPU seconds, {platform.machine()}, 2 cores shared with other work. A proof "
        "holds for the float32 network as executed and for every pixel value in [0, 1], not only 8-bit ones; a witness "
        "was scored again by onnxruntime. Intervals are Clopper-Pearson at 95 %.",
        "",
        "| network | k | images | proved | falsified | open | decided (interval) | wanted | median s | slowest s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = list(rows)
    for name in arguments.models:
        right = [row for row in rows if row["model"] == name and row["right"]]
        for k, limit in LIMITS.items():
            lines.append(_line(name, k, limit, right))
    lines += [
        "",
        "A witness is looked for before the proofs; where one with k or fewer pixels is known, k takes no time.",
        "",
    ]
    for name in arguments.models:
        lines += _distances(name, [row for row in rows if row["model"] == name and row["right"]])
    return "\n".join(lines) + "\n"


def _line(name: str, k: int, limit: float, right: list[dict[str, Any]]) -> str:
    counts: Counter[str] = Counter()
    seconds = []
    for row in right:
        own = [a for a in row["answers"] if a["k"] == k]
        if row["upper"] is not None and row["upper"] <= k:
            counts["FALSIFIED"] += 1
        else:
            counts[own[0]["decision"] if own else "OPEN"] += 1
        seconds.append(own[0]["seconds"] if own else 0.0)
    decided = counts["PROVED"] + counts["FALSIFIED"]
    low, high = clopper_pearson(decided, len(right))
    return (
        f"| {name} | {k} | {len(right)} | {counts['PROVED']} | {counts['FALSIFIED']} | {counts['OPEN']} | "
        f"{decided / len(right):.1%} ({low:.1%} to {high:.1%}) in {limit:g} s | {WANTED[k]:.0%} | "
        f"{np.median(seconds):.2f} | {max(seconds):.1f} |"
    )


def _distances(name: str, right: list[dict[str, Any]]) -> list[str]:
    exact = Counter(row["lower"] for row in right if row["lower"] == row["upper"])
    others = Counter((row["lower"], row["upper"]) for row in right if row["lower"] != row["upper"])
    rounded = sum(row.get("survives_8_bit", False) for row in right)
    found = sum(row["upper"] is not None for row in right)
    left = [
        f"image {row['image']}, k = {a['k']}, after {a['seconds']:.0f} s"
        for row in right
        for a in row["answers"]
        if a["decision"] == "OPEN" and a["k"] in LIMITS
    ]
    return [
        f"**{name}**: left open: {'; '.join(left) or 'nothing'}.",
        "",
        f"**{name}**: the smallest number of pixels that changes the class is known exactly for "
        f"{sum(exact.values())} of {len(right)} images: "
        + ", ".join(f"{value} pixels on {count}" for value, count in sorted(exact.items()))
        + ". Elsewhere a bracket [lower, upper]: "
        + ", ".join(f"[{low}, {high}] on {count}" for (low, high), count in sorted(others.items(), key=str))
        + f". Of {found} witnesses, {rounded} stay misclassified when their values are rounded to 8 bits.",
        "",
    ]


if __name__ == "__main__":
    main()
