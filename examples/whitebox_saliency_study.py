"""Is a human-vision saliency a good guide to where a classifier flips? Writes reports/whitebox_saliency.md.

    python examples/whitebox_saliency_study.py --zoo ../shared/zoo

For each image every map is compared with what single pixels measurably do, and Sparse-RS is run with its pixels drawn
from the map in place of the uniform distribution. Each model's rows are saved first, so that a study goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from study import ROOT, code_state, mean_interval, measured_by, reading

from robustest import AttackSettings, load_classifier, load_images, saliency_of
from robustest.attack.find import iter_adversarials
from robustest.attack.task import Search, Task
from robustest.baselines.compare import correct_images
from robustest.baselines.sparse_rs import sparse_rs
from robustest.classifiers.classifier import Classifier
from robustest.classifiers.differentiable import NeedsGradients, differentiable_of
from robustest.images import ImageSet, as_unit
from robustest.randomness import stream
from robustest.saliency.blackbox_maps import Map, lime, occlusion, one_pixel_drops
from robustest.saliency.judging import as_distribution, deletion, rank_correlation, top_share
from robustest.saliency.whitebox import MAPS

PIXELS, QUERIES = 5, 500


@dataclass(frozen=True, slots=True)
class Study:
    """One model, its images, and how many of their pixels are measured (all for None)."""

    model: str
    data: str
    images: int
    pixels: int | None


STUDIES = (
    Study("mnist_deepgame", "mnist", 20, None),
    Study("cifar_resnet20", "cifar10", 10, 256),
    Study("gtsrb_keras_cnn", "gtsrb30", 20, 400),
    Study("nexar_safecv", "nexar", 9, 1000),
    Study("imagenet_mobilenet_v1_025_128", "imagenet128", 8, 400),
)
_HEAD = """# Is a human-vision saliency a good guide to where a classifier flips?

Command: `python examples/whitebox_saliency_study.py --images {images}`. {measured} The first images of each set that the model gets
right; where an image has more than some hundred pixels, as many as stated are drawn at random and measured.

* *rank*: Spearman's correlation between the map and how far the margin falls when that pixel alone goes to the worst corner of the colour
  cube; mean over images, 95 % interval of the mean (t). 1 would be a perfect guide, 0 knows nothing.
* *top 5 %*: share of the 5 % most harmful measured pixels that the map puts into its own top 5 %; 5 % by chance.
* *deletion*, *insertion*: area under the margin (as a share of the clean margin) while pixels are replaced by the mean colour, or come back, in the
  map's order. Good explanations have a low deletion and a high insertion; it is no measure of the few-pixel guide.
* *flipped*, *queries*: Sparse-RS with {pixels} pixels and {queries} queries, its pixels drawn from the map (90 %) and uniformly (10 %): images flipped, and
  mean queries to the first flip, {queries} where there is none. The images that a map itself takes to make are in *cost* and not in *queries*;
  *measured* is the yardstick itself, at 2^C queries for each pixel measured.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=ROOT.parent / "shared" / "zoo")
    parser.add_argument("--images", type=int, default=20, help="at most so many of each model")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "build" / "whitebox_saliency", help="figures are kept here, by code state"
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "reports" / "whitebox_saliency.md")
    parser.add_argument("--cached", action="store_true", help="run nothing; write what was measured before")
    given = parser.parse_args()
    given.cache = given.cache / code_state()
    given.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    parts = []
    for study in STUDIES:
        cached = given.cache / f"{study.model}.json"
        if given.cached and not cached.exists():
            continue
        if not cached.exists():
            classifier = load_classifier(given.zoo / "models" / f"{study.model}.onnx", threads=1)
            images, _ = correct_images(
                classifier, load_images(given.zoo / "data" / f"{study.data}.npz"), min(study.images, given.images)
            )
            cached.write_text(json.dumps(measured(classifier, images, study.pixels)), encoding="utf-8")
            print(study.model, "done", flush=True)
        parts.append(section(study, json.loads(cached.read_text(encoding="utf-8"))))
    head = _HEAD.format(measured=measured_by(), pixels=PIXELS, queries=QUERIES, images=given.images)
    given.output.write_text("\n".join([head, *parts]) + reading(given.output), encoding="utf-8")
    print("written:", given.output)


def guides(classifier: Classifier, images: ImageSet) -> Iterator[tuple[str, list[Map], float]]:
    """Each guide's name, its maps (H, W) of all images, and its cost in queries an image."""
    units, labels = as_unit(images.images), images.labels.tolist()
    shape = units.shape[1:3]
    yield "uniform", [np.ones(shape) for _ in units], 0
    yield "SIFT", [saliency_of(image).distribution for image in units], 0
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centre = np.exp(-((rows / shape[0] - 0.5) ** 2 + (columns / shape[1] - 0.5) ** 2) / (2 * 0.2**2))
    yield "centre", [centre for _ in units], 0
    try:
        white = differentiable_of(classifier, units[:8])
        for name, make in MAPS.items():
            before = white.queries
            maps = [make(white, torch.from_numpy(image), label) for image, label in zip(units, labels, strict=True)]
            yield name, maps, (white.queries - before) / len(units)
    except NeedsGradients as error:
        print(error)
    asked = [occlusion(classifier, image, label) for image, label in zip(units, labels, strict=True)]
    yield "occlusion", [a.values for a in asked], float(np.mean([a.queries for a in asked]))
    asked = [
        lime(classifier, image, label, rng=stream(0, digest, purpose="lime"))
        for image, label, digest in zip(units, labels, images.digests, strict=True)
    ]
    yield "LIME", [a.values for a in asked], float(np.mean([a.queries for a in asked]))


def measured(classifier: Classifier, images: ImageSet, pixels: int | None) -> list[dict[str, Any]]:
    """One row a guide: its figures for every image."""
    units, labels = as_unit(images.images), images.labels.tolist()
    count = units.shape[1] * units.shape[2]
    drops, chosen = [], []
    for image, label, digest in zip(units, labels, images.digests, strict=True):
        some = stream(0, digest, purpose="pixels").permutation(count)[: pixels or count]
        chosen.append(np.sort(some))
        drops.append(one_pixel_drops(classifier, image, label, pixels=some).values.reshape(-1)[chosen[-1]])
    rows = []
    known = list(guides(classifier, images))
    known.append(
        ("measured (one pixel)", [_filled(d, c, units.shape[1:3]) for d, c in zip(drops, chosen, strict=True)], 0)
    )
    for name, maps, cost in known:
        each = [m.reshape(-1)[c] for m, c in zip(maps, chosen, strict=True)]
        results = _searched(classifier, images, maps)
        rows.append(
            {
                "guide": name,
                "cost": cost,
                "rank": [rank_correlation(m, d) for m, d in zip(each, drops, strict=True)],
                "top": [top_share(m, d) if m.std() > 0 else None for m, d in zip(each, drops, strict=True)],
                "deletion": [deletion(classifier, x, y, m) for x, y, m in zip(units, labels, maps, strict=True)],
                "insertion": [
                    deletion(classifier, x, y, m, insert=True) for x, y, m in zip(units, labels, maps, strict=True)
                ],
                "first": [r.curve[0][0] if r.flipped else None for r in results],
            }
        )
    return rows


def _filled(drops: NDArray[np.float64], pixels: NDArray[np.int64], shape: tuple[int, ...]) -> Map:
    """What was measured as a map; pixels not measured get the mean."""
    values = np.full(shape[0] * shape[1], drops.mean())
    values[pixels] = drops
    return values.reshape(shape)


def _searched(classifier: Classifier, images: ImageSet, maps: list[Map]) -> list[Any]:
    """Sparse-RS with pixels drawn from each image's map."""
    by_image = {as_unit(image).tobytes(): as_distribution(m) for image, m in zip(images.images, maps, strict=True)}
    guide: Callable[[Task], Map] = lambda task: by_image[task.image.tobytes()]  # noqa: E731

    def strategy(task: Task, rng: np.random.Generator) -> Search:
        return sparse_rs(task, rng, k=PIXELS, guide=guide)

    settings = AttackSettings(queries=QUERIES, attack=f"sparse-rs@{PIXELS}")
    found = dict(iter_adversarials(classifier, images.images, images.labels, settings, batch=32, strategy=strategy))
    return [found[index] for index in range(len(images))]


def section(study: Study, rows: list[dict[str, Any]]) -> str:
    """The Markdown of one model."""
    lines = [
        f"## {study.model}, {len(rows[0]['first'])} images, {study.pixels or 'all'} pixels measured in each",
        "",
        "| guide | rank | top 5 % | deletion | insertion | flipped | queries | cost |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        first = [QUERIES if value is None else value for value in row["first"]]
        flipped = sum(value is not None for value in row["first"])
        cells = [
            row["guide"],
            mean_interval(row["rank"], "+.2f"),
            mean_interval(row["top"], ".2f"),
            mean_interval(row["deletion"], ".2f"),
            mean_interval(row["insertion"], ".2f"),
            f"{flipped} of {len(first)}",
            f"{np.mean(first):.0f}",
            "-" if row["guide"].startswith("measured") else f"{row['cost']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
