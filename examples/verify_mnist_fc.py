"""Verify the MNIST fully connected benchmark of VNN-COMP 2022 and compare every answer with the competition's.

    python examples/verify_mnist_fc.py FOLDER [--seconds 60] [--out reports/verify_mnist_fc.md] [--only NET]

FOLDER holds `mnist-net_256x{2,4,6}.onnx`, `boxes.npz` and `answers.csv`. A question is "does every image of this box
have this class?": `unsat` is proved for the float32 network as executed, `sat` is an image inside the box, exactly,
that onnxruntime gives another class. Exits with 1 if an answer contradicts the competition's.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from robustest.bounds.branch import prove_region
from robustest.bounds.graph import BoundGraph
from robustest.bounds.reading import read_file
from robustest.bounds.region import Region
from robustest.bounds.witness import find_in_box

SHAPE = (28, 28, 1)


def load(path: Path) -> tuple[BoundGraph, Callable[[NDArray[np.float32]], NDArray[Any]]]:
    """A network that takes [1, 784, 1] and its own scores."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def scores(images: NDArray[np.float32]) -> NDArray[Any]:
        flat = images.reshape(-1, 1, 784, 1).astype(np.float32)
        return np.concatenate([session.run(None, {name: image})[0].reshape(1, -1) for image in flat])

    return read_file(path, None, SHAPE, scores), scores


def main() -> int:
    """Answer every question and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds a question")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="part of a network's name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    boxes = np.load(options.folder / "boxes.npz")
    place = {(int(image), round(float(eps), 6)): i for i, (image, eps) in enumerate(boxes["key"])}
    networks: dict[str, tuple[BoundGraph, Callable[[NDArray[np.float32]], NDArray[Any]]]] = {}
    lines, totals, wrong = [], dict[str, list[int]](), 0
    with open(options.folder / "answers.csv", newline="") as file:
        questions = [q for q in csv.DictReader(file) if options.only in q["net"]]
    for question in questions:
        if question["net"] not in networks:
            networks[question["net"]] = load(options.folder / question["net"])
        graph, scores = networks[question["net"]]
        row, label = place[int(question["image"]), round(float(question["eps"]), 6)], int(question["label"])
        lower, upper = (torch.from_numpy(boxes[side][row].astype(np.float64)) for side in ("lower", "upper"))
        begin = time.thread_time()
        region = Region.box_of(lower[None], upper[None])
        rng = np.random.default_rng(row)
        quick = prove_region(graph, region, label, seconds=options.seconds, domains=0)
        answer, how = ("unsat", "no branching") if quick.proved else ("open", "")
        if answer == "open":
            # Attacks come before branching: they are cheap, and what they find ends the question.
            found = find_in_box(graph, scores, lower, upper, label, rng=rng)
            if found is not None:
                answer, how = "sat", "gradient attack"
        if answer == "open":

            def attack(
                starts: torch.Tensor,
                graph: BoundGraph = graph,
                scores: Callable[[NDArray[np.float32]], NDArray[Any]] = scores,
                box: tuple[torch.Tensor, torch.Tensor] = (lower, upper),
                label: int = label,
                rng: np.random.Generator = rng,
            ) -> NDArray[np.float32] | None:
                return find_in_box(graph, scores, *box, label, rng=rng, restarts=1, steps=40, starts=starts)

            left = options.seconds - (time.thread_time() - begin)
            tree = prove_region(graph, region, label, seconds=left, attack=attack)
            if tree.witness is not None:
                answer, how = "sat", "attack from leaves"
            else:
                left_over = ("open", f"bound {tree.lower:.2g}, {tree.domains} nodes")
                answer, how = ("unsat", f"{tree.domains} nodes") if tree.proved else left_over
        seconds = time.thread_time() - begin
        known = question["verdict"]
        contradiction = {answer, known} == {"sat", "unsat"}
        wrong += contradiction
        count = totals.setdefault(known, [0, 0, 0])
        count[0] += 1
        count[1] += answer == known
        count[2] += answer == known and how == "no branching"
        mark = " **contradiction**" if contradiction else ""
        lines.append(
            f"| {question['net'][10:-5]} | {question['image']} | {question['eps']} | {known} | {answer}{mark} | {how} "
            f"| {seconds:.1f} |"
        )
        print(lines[-1], flush=True)
    summary = []
    for known, (total, right, direct) in sorted(totals.items()):
        if known == "open":
            # Nobody's answer is known, so ours cannot be compared.
            summary.append(f"* known to nobody: {total - right} of {total} answered.")
            continue
        extra = f", {direct} without branching" if known == "unsat" else ""
        summary.append(f"* known {known}: {right} of {total} answered the same{extra}.")
    text = "\n".join(
        [
            "# MNIST fully connected networks of VNN-COMP 2022",
            "",
            f"`python examples/verify_mnist_fc.py FOLDER --seconds {options.seconds:g}`, one thread of a CPU; the "
            "seconds are CPU seconds. `unsat`: proved for the float32 network as executed; `sat`: an image exactly "
            "inside the box, scored by onnxruntime. Known: what the competition's tools answered.",
            "",
            *summary,
            f"* contradictions: {wrong}.",
            "",
            "| network | image | eps | known | answer | how | CPU s |",
            "|---|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )
    print("\n".join(summary), f"\ncontradictions: {wrong}")
    if options.out is not None:
        options.out.write_text(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
