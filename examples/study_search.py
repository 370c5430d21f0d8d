"""How few pixels the search needs, beside Sparse-RS, and what its guide is worth: writes reports/search.md.

    python examples/study_search.py --zoo ../shared/zoo

Every run is kept as JSON as soon as it is done, so that an interrupted study goes on where it was, and
`--report-only` writes the report of the runs there are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from robustest import AttackSettings, load_classifier, load_images
from robustest.attack.find import iter_adversarials
from robustest.attack.task import Strategy
from robustest.audit.statistics import clopper_pearson
from robustest.baselines.sparse_rs import sparse_rs
from robustest.classifiers.classifier import Classifier, classes_of
from robustest.images import ImageSet, as_unit

ROOT = Path(__file__).resolve().parent.parent
LADDER = (1, 2, 3, 5, 10, 20)
_SEEDS = "nexar-seeds.json"


@dataclass(frozen=True, slots=True)
class Run:
    """One attack on one model. attack: `game` with one of its guides, or `sparse-rs` (a run, and a budget, for each k)."""

    model: str
    data: str
    images: int
    queries: int
    attack: str

    @property
    def name(self) -> str:
        return f"{self.model}-{self.images}-{self.queries}-{self.attack}"


MODELS = (
    ("mnist_deepgame", "mnist", 60),
    ("mnist_lenet5_clean", "mnist", 50),
    ("mnist_lenet5_adv", "mnist", 50),
    ("cifar_resnet2b_adv", "cifar10", 100),
    ("nexar_safecv", "nexar", 9),
    ("imagenet_mobilenet_v1_025_128", "imagenet128", 20),
    ("gtsrb_bnn48", "gtsrb48", 30),
    ("cifar_resnet20", "cifar10", 25),
    ("gtsrb_stn", "gtsrb32", 20),
    ("imagenet_efficientnet_lite0", "imagenet224", 5),
)
_SLOWEST = ("gtsrb_bnn48", "gtsrb_stn", "cifar_resnet20", "imagenet_efficientnet_lite0")
FAST = ("mnist_lenet5_adv", "cifar_resnet2b_adv", "nexar_safecv", "mnist_lenet5_clean", "mnist_deepgame")


def runs() -> list[Run]:
    """All runs, what matters most first."""
    cheap = [model for model in MODELS if model[0] in FAST]
    plan = [Run(*model, 1000, "sift") for model in MODELS[:-1]]
    plan += [Run(*model, 1000, "uniform") for model in [*cheap, *MODELS] if model[0] not in _SLOWEST]
    plan += [Run(*model, 1000, attack) for model in cheap[::-1] for attack in ("sparse-rs", "grid")]
    plan += [Run(*model, queries, "sift") for model in cheap for queries in (200, 5000)]
    plan += [Run(*model, 1000, attack) for model in MODELS[:-1] for attack in ("sparse-rs", "uniform", "grid")]
    plan += [Run(*MODELS[-1], 1000, attack) for attack in ("sift", "uniform", "sparse-rs")]
    return list(dict.fromkeys(plan))


def correct(box: Classifier, images: ImageSet, count: int) -> ImageSet:
    """The first `count` images that the model gets right."""
    right: list[int] = []
    for start in range(0, len(images), 50):
        part = np.arange(start, min(start + 50, len(images)))
        answers = classes_of(box(as_unit(images.images[part])), box.info.output)
        right += part[answers == images.labels[part]].tolist()
        if len(right) >= count:
            break
    return images.take(right[:count])


def png(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The image as it comes back from a PNG file, in [0, 1]."""
    _, kept = cv2.imencode(".png", image)
    back = np.asarray(cv2.imdecode(kept, cv2.IMREAD_UNCHANGED), np.uint8).reshape(image.shape)
    return back.astype(np.float32) / np.float32(255)


def play_game(run: Run, box: Classifier, images: ImageSet) -> dict[str, Any]:
    """One anytime run an image; each image found is read back from a PNG, alone and with each pixel put back."""
    settings = AttackSettings(queries=run.queries, guide=cast("Any", run.attack))
    found = dict(iter_adversarials(box, images.images, images.labels, settings))
    fewest: list[int | None] = []
    still, droppable, unchecked = 0, 0, 0
    for index in range(len(images)):
        result = found[index]
        fewest.append(result.l0_pixels)
        if result.image is None:
            continue
        clean = images.images[index].reshape(-1, images.images.shape[3])
        changed = np.asarray(result.image, np.uint8)
        flat = changed.reshape(clean.shape)
        variants = [changed]
        for pixel in np.flatnonzero((flat != clean).any(axis=1)):
            fewer = flat.copy()
            fewer[pixel] = clean[pixel]
            variants.append(fewer.reshape(changed.shape))
        answers = classes_of(box(np.stack([png(variant) for variant in variants])), box.info.output)
        wrong = answers != images.labels[index]
        still += int(wrong[0])
        droppable += int(wrong[1:].any())
        unchecked += int(not result.minimal)
    return {
        "fewest": fewest,
        "queries": [found[index].queries for index in range(len(images))],
        "curves": [list(found[index].curve) for index in range(len(images))],
        "still_wrong_from_png": still,
        "a_pixel_could_be_put_back": droppable,
        "not_checked_within_the_budget": unchecked,
    }


def play_sparse_rs(run: Run, box: Classifier, images: ImageSet) -> dict[str, Any]:
    """A run for each k, each with the whole budget."""
    fewest = np.full(len(images), 0)
    queries = np.zeros(len(images), np.int64)
    settings = AttackSettings(queries=run.queries, attack="sparse-rs")
    for k in LADDER:
        strategy = cast("Strategy", partial(sparse_rs, k=k))
        for index, result in iter_adversarials(box, images.images, images.labels, settings, strategy=strategy):
            queries[index] += result.queries
            if result.flipped and not fewest[index]:
                fewest[index] = k
    return {"fewest": [int(k) or None for k in fewest], "queries": queries.tolist()}


def within(outcome: dict[str, Any], k: int) -> int:
    """Images flipped with at most k pixels."""
    return sum(fewest is not None and fewest <= k for fewest in outcome["fewest"])


def report(folder: Path, command: str) -> str:
    """The tables of all runs that are there."""
    kept = {run: json.loads(path.read_text()) for run in runs() if (path := folder / f"{run.name}.json").exists()}
    parts = [_HEAD.format(command=command, cores=os.cpu_count(), machine=platform.machine())]
    parts.append(
        "| model (images) | queries | attack | "
        + " | ".join(f"@{k}" for k in LADDER)
        + " | mean over k | mean L0 found | queries used |"
    )
    parts.append("| --- | --- | --- |" + " --- |" * (len(LADDER) + 3))
    for run in sorted(kept, key=lambda run: ([m[0] for m in MODELS].index(run.model), run.queries, run.attack)):
        outcome = kept[run]
        count = len(outcome["fewest"])
        shares = []
        for k in LADDER:
            low, high = clopper_pearson(within(outcome, k), count)
            shares.append(f"{100 * within(outcome, k) / count:.0f} [{100 * low:.0f}, {100 * high:.0f}]")
        mean = np.mean([within(outcome, k) / count for k in LADDER])
        found = [fewest for fewest in outcome["fewest"] if fewest is not None]
        distance = f"{np.mean(found):.2f} ({len(found)})" if found and run.attack != "sparse-rs" else "-"
        parts.append(
            f"| {run.model} ({count}) | {run.queries} | {run.attack} | {' | '.join(shares)} | {100 * mean:.1f} "
            f"| {distance} | {np.mean(outcome['queries']):.0f} |"
        )
    parts.append("\n## Guides: paired on the same images\n")
    parts.append(_GUIDES)
    parts.append(
        "| model (images) | against | SIFT needs fewer / as many / more pixels | difference in mean log2 L0 [95 %] | queries to the same first flips, SIFT : other |"
    )
    parts.append("| --- | --- | --- | --- | --- |")
    for run in kept:
        if run.attack in ("uniform", "grid"):
            sift = Run(run.model, run.data, run.images, run.queries, "sift")
            if sift in kept:
                parts.append(_paired(run, kept[sift], kept[run]))
    games = [outcome for run, outcome in kept.items() if run.attack != "sparse-rs"]
    found_all = sum(fewest is not None for outcome in games for fewest in outcome["fewest"])
    parts.append(
        f"\n## The images themselves\n\nOf {found_all} adversarial images of the runs above, written to PNG and read back, "
        f"{sum(o['still_wrong_from_png'] for o in games)} are still misclassified; in {sum(o['a_pixel_could_be_put_back'] for o in games)} "
        f"a single pixel can be put back ({sum(o['not_checked_within_the_budget'] for o in games)} were found too late in the budget "
        "to be checked, and are marked `minimal: false` in the results).\n"
    )
    if (path := folder / _SEEDS).exists():
        parts.append(
            "## Nexar, ten seeds\n\nMean pixels and mean queries of the 9 frames, 1,000 queries, seeds 0 to 9; not flipped counts as 100 pixels.\n"
        )
        parts.append("| guide | mean L0 of each seed | mean of all | queries |\n| --- | --- | --- | --- |")
        for guide, (pixels, queries) in json.loads(path.read_text()).items():
            each = ", ".join(f"{mean:.2f}" for mean in pixels)
            parts.append(f"| {guide} | {each} | {np.mean(pixels):.2f} | {np.mean(queries):.0f} |")
    return "\n".join([*parts, _READING])


def play_seeds(box: Classifier, images: ImageSet) -> dict[str, tuple[list[float], list[float]]]:
    """Ten seeds with each guide: mean pixels and mean queries of each seed."""
    outcome: dict[str, tuple[list[float], list[float]]] = {}
    for guide in ("sift", "grid", "uniform"):
        pixels, queries = [], []
        for seed in range(10):
            settings = AttackSettings(queries=1000, guide=cast("Any", guide), seed=seed)
            found = [result for _, result in iter_adversarials(box, images.images, images.labels, settings)]
            pixels.append(float(np.mean([result.l0_pixels or 100 for result in found])))
            queries.append(float(np.mean([result.queries for result in found])))
        outcome[guide] = pixels, queries
    return outcome


def _paired(run: Run, sift: dict[str, Any], other: dict[str, Any]) -> str:
    """One line: SIFT against another guide, image by image; an image not flipped counts as 100 pixels and all queries."""
    ours = np.array([fewest or 100 for fewest in sift["fewest"]], float)
    theirs = np.array([fewest or 100 for fewest in other["fewest"]], float)
    gaps = np.log2(ours) - np.log2(theirs)
    rng = np.random.default_rng(0)
    means = np.sort(gaps[rng.integers(len(gaps), size=(4000, len(gaps)))].mean(axis=1))
    first = [np.mean([c[0][0] if c else run.queries for c in o["curves"]]) for o in (sift, other)]
    return (
        f"| {run.model} ({len(ours)}) | {run.attack} | {(ours < theirs).sum()} / {(ours == theirs).sum()} / {(ours > theirs).sum()} "
        f"| {gaps.mean():+.3f} [{means[100]:+.3f}, {means[3899]:+.3f}] | {first[0]:.0f} : {first[1]:.0f} |"
    )


_HEAD = """# The few-pixel search

Command: `{command}`. Machine: {cores} cores, {machine}, no GPU. Images: the first of each set that the model gets right. Percent of images flipped
with at most k pixels, Clopper-Pearson 95 % interval in brackets. `sift`, `grid` and `uniform` are this tool's search with that guide: **one** run of
that many queries gives the whole row. `sparse-rs` was given that many queries **for each k**, and its row says what the best of its six runs found up
to k. Images are few where the model is slow; one seed. The search was tuned on other images (from number 500 on in MNIST, CIFAR-10 and GTSRB), but on the
same ones for Nexar (12 frames exist) and the ImageNet photos (100 exist).
"""
_READING = """
## Where it falls short

* mnist_deepgame: the mean L0 of the first 60 images is 5.48 at 1,000 queries, short of the 5.4 aimed for. One seed.
* Nexar: the rows above are of seed 0, which is the luckiest of ten; see the table of seeds. Over ten seeds the mean is 1.28 pixels, short of the 1.12 aimed
  for, and neither SIFT nor the grid is shown to be better than one region there.
* With SIFT regions (commit 3c423e0) mnist_deepgame needed 5.93 pixels in the mean, with one region 5.48 (60 images; SIFT fewer on 4, more on 15). So SIFT is not
  trusted up to 64 pixels a side, where `sift` and `uniform` are now the same search; that rule was chosen on these images. On the photos SIFT is level with one
  region. That SIFT saves queries is shown nowhere here, twice fewer at 224x224 least of all.
* Not run yet: what has no row above (EfficientNet, most of 200 and 5,000 queries, BruSLe), and measured saliency as a guide. The same command goes on with them.
"""
_GUIDES = """The same search, the same seed; only player I's regions differ: cut by SIFT features, a grid of squares, or the image as one
region. Negative: SIFT needs fewer pixels; an image not flipped counts as 100 pixels. Interval by bootstrap over images.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=ROOT.parent / "shared" / "zoo")
    parser.add_argument("--kept", type=Path, default=ROOT / "reports" / "search")
    parser.add_argument("--report-only", action="store_true")
    chosen = parser.parse_args()
    chosen.kept.mkdir(parents=True, exist_ok=True)
    seeds = chosen.kept / _SEEDS
    if not chosen.report_only and not seeds.exists():
        box = load_classifier(str(chosen.zoo / "models" / "nexar_safecv.onnx"))
        seeds.write_text(json.dumps(play_seeds(box, correct(box, load_images(chosen.zoo / "data" / "nexar.npz"), 9))))
    for run in [] if chosen.report_only else runs():
        path = chosen.kept / f"{run.name}.json"
        if path.exists():
            continue
        box = load_classifier(str(chosen.zoo / "models" / f"{run.model}.onnx"))
        images = correct(box, load_images(chosen.zoo / "data" / f"{run.data}.npz"), run.images)
        outcome = (play_sparse_rs if run.attack == "sparse-rs" else play_game)(run, box, images)
        path.write_text(json.dumps(outcome))
        count = len(images)
        print(
            run.name,
            *(f"@{k} {within(outcome, k) / count:.2f}" for k in LADDER),
            f"{np.mean(outcome['queries']):.0f} queries",
            flush=True,
        )
    command = "python examples/study_search.py --zoo ../shared/zoo"
    (ROOT / "reports" / "search.md").write_text(report(chosen.kept, command))


if __name__ == "__main__":
    main()
