"""Outside answers: the MNIST networks of VNN-COMP 2022, decided by five tools that nobody here made."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from robustest.bounds.branch import prove_region
from robustest.bounds.crown import margin_bounds
from robustest.bounds.graph import BoundGraph
from robustest.bounds.reading import read_file
from robustest.bounds.region import Region


def network(path: Path) -> BoundGraph:
    """One of the networks, checked against onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def scores(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([session.run(None, {name: i.reshape(1, 784, 1)})[0].reshape(1, -1) for i in images])

    return read_file(path, None, (28, 28, 1), scores)


def questions(verify: Path) -> list[tuple[str, Region, int, str]]:
    """Network, box, class and the known answer of all 90 questions."""
    folder = verify / "mnist_fc"
    boxes = np.load(folder / "boxes.npz")
    place = {(int(image), round(float(eps), 6)): i for i, (image, eps) in enumerate(boxes["key"])}
    found = []
    with open(folder / "answers.csv", newline="") as file:
        for row in csv.DictReader(file):
            at = place[int(row["image"]), round(float(row["eps"]), 6)]
            ends = [torch.from_numpy(boxes[side][at].astype(np.float64))[None] for side in ("lower", "upper")]
            found.append((row["net"], Region.box_of(*ends), int(row["label"]), row["verdict"]))
    return found


def test_no_answer_is_contradicted_and_many_are_proved_by_one_relaxation(verify: Path) -> None:
    """CROWN alone: 32 of the 66 safe questions were proved by it in the study; none of the 18 unsafe ones may be."""
    graphs: dict[str, BoundGraph] = {}
    proved: Counter[str] = Counter()
    for net, region, label, verdict in questions(verify):
        if net not in graphs:
            graphs[net] = network(verify / "mnist_fc" / net)
        with torch.no_grad():
            proved[verdict] += bool(margin_bounds(graphs[net], region, label).proved[0])
    assert proved["sat"] == 0
    assert proved["unsat"] >= 30


@pytest.mark.slow
def test_branching_contradicts_no_answer(verify: Path) -> None:
    graphs: dict[str, BoundGraph] = {}
    for net, region, label, verdict in questions(verify):
        if "256x2" not in net:
            continue
        if net not in graphs:
            graphs[net] = network(verify / "mnist_fc" / net)
        answer = prove_region(graphs[net], region, label, seconds=10 if verdict == "unsat" else 3)
        assert answer.proved == (verdict == "unsat")
