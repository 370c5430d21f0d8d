"""The papers' own tables, rebuilt on networks that still exist: writes reports/paper_tables.md.

    python examples/paper_tables.py --zoo ../shared/zoo

Each table's figures are saved first, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study import ROOT, code_state, mean_interval, measured_by, reading

from robustest import AttackSettings, ImageSet, load_classifier, load_images
from robustest.baselines.compare import correct_images, parse_attacks, run_comparison
from robustest.baselines.comparison import Row
from robustest.classifiers.classifier import Classifier

ATTACKS = "game,cw-l0,jsma-f,jsma-z,jsma,sigma-zero,sparsefool"


@dataclass(frozen=True, slots=True)
class Table:
    """One network and what was published about one like it.

    label, target: images of this class alone, sent to that class; None for all images, any other class.
    published: what the papers give, as (row, mean L0, seconds).
    """

    title: str
    model: str
    data: str
    images: int
    note: str
    published: tuple[tuple[str, float, float | None], ...]
    attacks: str = ATTACKS
    label: int | None = None
    target: int | None = None


_FGBB_MNIST = (
    ("FGBB: CW", 8.5, None),
    ("FGBB: game", 14.1, None),
    ("FGBB: JSMA-F", 17.0, None),
    ("FGBB: JSMA-Z", 20.0, None),
)
_FGBB_CIFAR = (
    ("FGBB: CW", 5.8, None),
    ("FGBB: game", 9.0, None),
    ("FGBB: JSMA-F", 25.0, None),
    ("FGBB: JSMA-Z", 20.0, None),
)
_DG_MNIST = (
    ("DG: DeepGame", 6.11, 4.06),
    ("DG: CW", 7.07, 17.06),
    ("DG: L0-TRE", 10.85, 0.17),
    ("DG: DLV", 13.02, 180.8),
    ("DG: SafeCV", 27.96, 12.4),
    ("DG: JSMA", 33.86, 3.16),
)
_DG_CIFAR = (
    ("DG: DeepGame", 2.86, 5.12),
    ("DG: CW", 3.52, 15.61),
    ("DG: L0-TRE", 2.62, 0.25),
    ("DG: DLV", 3.52, 157.7),
    ("DG: SafeCV", 9.19, 26.3),
    ("DG: JSMA", 19.61, 0.79),
)
TABLES = (
    Table(
        "MNIST, FGBB's table 1",
        "mnist_safecv_cw",
        "mnist",
        30,
        "The network of FGBB's own notebook (an architecture of Carlini and Wagner, trained on raw 0..255, 88 % accurate, never answers 9); "
        "the paper's MNIST network of table 1 was not published. The paper stops after one minute, we after 1,000 queries.",
        _FGBB_MNIST,
    ),
    Table(
        "MNIST, DG's table",
        "mnist_deepgame",
        "mnist",
        30,
        "DG's own MNIST network. DG does not say which test images; ours are the first of the file that the network gets right.",
        _DG_MNIST,
    ),
    Table(
        "CIFAR-10, FGBB's table 1 and DG's",
        "cifar_onepixel_lenet",
        "cifar10",
        20,
        "Neither paper published its CIFAR-10 network; this one is a LeNet of 62 k parameters, 75 % accurate, about as weak as networks of 2018 were.",
        (*_FGBB_CIFAR, *_DG_CIFAR),
    ),
    Table(
        "Traffic lights",
        "nexar_safecv",
        "nexar",
        12,
        "The paper's own network and the frames of its repository, of which the network gets 9 right. The paper's 4.85 counts images that "
        "were wrong to begin with as 0; 5.79 is its mean over those that were right.",
        (("FGBB: game, right images", 5.79, 0.304),),
    ),
    Table(
        "Traffic lights, red to green",
        "nexar_safecv",
        "nexar",
        12,
        "Red frames that the network gets right, sent to green.",
        (("FGBB: game, to green", 3.23, 0.21),),
        label=1,
        target=2,
    ),
    Table(
        "Traffic signs",
        "gtsrb_keras_cnn",
        "gtsrb30",
        20,
        "Neither paper gives a mean for its GTSRB network, nor published it.",
        (),
    ),
    Table(
        "CIFAR-10, a stronger network",
        "cifar_resnet20",
        "cifar10",
        20,
        "ResNet-20, 91.7 % accurate, to see how far the tables depend on the network.",
        (*_FGBB_CIFAR, *_DG_CIFAR),
        "game,cw-l0,jsma-f,jsma-z,sigma-zero:300,sparsefool",
    ),
)
_HEAD = """# The papers' tables, rebuilt

FGBB: Wicker, Huang & Kwiatkowska, TACAS 2018, arXiv:1710.07859. DG: Wu, Wicker, Ruan, Huang & Kwiatkowska, TCS 2020, arXiv:1807.03571.

Command: `python examples/paper_tables.py --images {images}`. {measured} The published times are from other
machines and other networks and are no comparison of speed. Budget {queries} queries (or forward passes) an image unless the name says otherwise, seed {seed}.

What differs from the originals in every table: images that the network gets wrong are left out; every image counted was rounded to 8 bits and scored
again; a pixel is a place, all channels together (`L0`), and the number of changed channel values stands beside it (`dims`); means are over the images that were
flipped, whose number stands beside them, with the 95 % interval of the mean (t); where not every image was flipped a mean flatters. All attacks are our
own implementations from the papers. `game` is this project's search, not the papers' programs, which need Keras 2 and TensorFlow 1 and were not run.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=ROOT.parent / "shared" / "zoo")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=30, help="at most so many for each table")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "build" / "paper_tables", help="figures are kept here, by code state"
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "reports" / "paper_tables.md")
    parser.add_argument("--cached", action="store_true", help="run nothing; write what was measured before")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.cache = given.cache / code_state()
    given.cache.mkdir(parents=True, exist_ok=True)
    settings = AttackSettings(queries=given.queries, seed=given.seed)
    parts = []
    for number, table in enumerate(TABLES):
        cached = given.cache / f"{number}-{table.model}-{given.queries}-{given.seed}.json"
        if given.cached and not cached.exists():
            continue
        if not cached.exists():
            cached.write_text(json.dumps(run(table, given.zoo, settings, given.images)), encoding="utf-8")
            print(table.title, "done", flush=True)
        parts.append(section(table, json.loads(cached.read_text(encoding="utf-8"))))
    head = _HEAD.format(measured=measured_by(), queries=given.queries, seed=given.seed, images=given.images)
    given.output.write_text("\n".join([head, *parts]) + reading(given.output), encoding="utf-8")
    print("written:", given.output)


def run(table: Table, zoo: Path, settings: AttackSettings, most: int) -> dict[str, Any]:
    """The figures of one table."""
    classifier = load_classifier(zoo / "models" / f"{table.model}.onnx", threads=1)
    images = load_images(zoo / "data" / f"{table.data}.npz")
    if table.label is not None:
        images = images.take(np.flatnonzero(images.labels == table.label))
    attacked, skipped = correct_images(classifier, images, min(table.images, most))
    wanted = parse_attacks(table.attacks)
    comparison = run_comparison(classifier, attacked, wanted, replace(settings, target=table.target))
    return {
        "images": len(comparison),
        "wrong": skipped,
        "accuracy_here": accuracy(classifier, images),
        "rows": [figures(row) for row in comparison.rows],
    }


def accuracy(classifier: Classifier, images: ImageSet) -> str:
    """How many of all images of the file the network gets right."""
    right, wrong = correct_images(classifier, images, None)
    return f"{len(right)} of {len(right) + wrong}"


def figures(row: Row) -> dict[str, Any]:
    """One attack's numbers."""
    if not row.runs:
        return {"name": row.name, "note": row.note}
    results = row.runs[0].results
    flipped = [result for result in results if result.flipped]
    return {
        "name": row.name if row.runs[0].budget == 1000 else f"{row.name}:{row.runs[0].budget}",
        "access": row.access,
        "l0": [result.l0_pixels for result in flipped],
        "dims": [result.l0_dims for result in flipped],
        "of": len(results),
        "queries": float(np.mean([result.queries for result in results])),
        "seconds": row.runs[0].seconds / len(results),
    }


def section(table: Table, found: dict[str, Any]) -> str:
    """The Markdown of one table."""
    lines = [
        f"## {table.title}: {table.model}",
        "",
        f"{table.note} {found['images']} images; the network gets {found['accuracy_here']} of the file right.",
        "",
        "| attack | needs | mean L0 | median | dims | flipped | queries | CPU s an image |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["rows"]:
        if "note" in row:
            lines.append(f"| {row['name']} | {row['note']} | | | | | | |")
            continue
        median = f"{np.median(row['l0']):g}" if row["l0"] else "-"
        lines.append(
            f"| {row['name']} | {row['access']} | {mean_interval(row['l0'])} | {median} | {mean_interval(row['dims'])} "
            f"| {len(row['l0'])} of {row['of']} | {row['queries']:.0f} | {row['seconds']:.2f} |"
        )
    for name, mean, seconds in table.published:
        lines.append(
            f"| *{name}* | *as published* | *{mean:g}* | | | | | *{'-' if seconds is None else f'{seconds:g}'}* |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
