"""How few pixels the search needs, beside what others find on the same images: writes reports/search.md.

    python examples/study_search.py --zoo ../shared/zoo

A unit of work is one attack on a few images of one model; it is kept as JSON as soon as it is done, in a folder named after
the state of the code, so that an interrupted study goes on where it was and no table mixes what different code measured.
What others' attacks find does not depend on this tool's search, and has a folder of its own. Units are ordered so that every
model has its main comparison first, and more images and more attacks as time allows; `--only ours` or `--only others` does
one half, `--minutes` says when no other unit is begun, and `--report-only` writes the report of the units there are.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from study import ROOT, code_state
from study_search_report import report
from study_search_rows import CHECKS, GUIDES, LADDER, PER_K

from robustest import AttackSettings, load_classifier, load_images
from robustest.attack.driver import Job, play
from robustest.attack.find import iter_adversarials, strategy_named
from robustest.attack.task import Notes, Search, Task
from robustest.baselines.whitebox import run_white_box
from robustest.classifiers.batching import choose_batch
from robustest.classifiers.classifier import Classifier, classes_of, margins_of
from robustest.images import ImageSet, as_unit
from robustest.randomness import image_digest
from robustest.results import AttackResult

_AT_ONCE = 64  # images checked in one call
_HUGE = 300  # pixels: of a find of more that is marked `minimal: false`, it is not tried which could be put back
UNLIMITED = 200_000  # queries of `greedy`, which never spends them
LARGE = ("nexar_safecv", "imagenet_mobilenet_v1_025_128", "imagenet_efficientnet_lite0")

# model: data, and how many images each round adds. The first four are the fast ones.
MODELS = {
    "mnist_deepgame": ("mnist", (20, 40, 40)),
    "mnist_lenet5_clean": ("mnist", (20, 30, 50)),
    "mnist_lenet5_adv": ("mnist", (20, 30, 50)),
    "cifar_resnet2b_adv": ("cifar10", (20, 30, 50)),
    "nexar_safecv": ("nexar", (9,)),
    "gtsrb_bnn48": ("gtsrb48", (20, 30, 50)),
    "cifar_resnet20": ("cifar10", (20, 30, 50)),
    "gtsrb_stn": ("gtsrb32", (20, 30, 50)),
    "imagenet_mobilenet_v1_025_128": ("imagenet128", (10, 10, 30)),
    "imagenet_efficientnet_lite0": ("imagenet224", (4, 4, 8, 6, 6, 6, 6, 6, 4)),
}
WITHOUT_GRADIENTS = ("gtsrb_bnn48",)


@dataclass(frozen=True, slots=True)
class Unit:
    """One attack on the images `start` to `start + count` of those that a model gets right."""

    model: str
    start: int
    count: int
    queries: int
    attack: str
    seed: int = 0

    @property
    def name(self) -> str:
        """The file that it is kept in, without its suffix."""
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.model}-{self.attack}-{self.queries}-{self.start:03}-{self.count}{seed}"


def units() -> list[Unit]:
    """All units, what matters most first."""

    def of(model: str, part: int, queries: int, attack: str) -> list[Unit]:
        counts = MODELS[model][1]
        return [Unit(model, sum(counts[:part]), counts[part], queries, attack)] if part < len(counts) else []

    def main(model: str, part: int) -> list[Unit]:
        return [unit for attack in ("sift", *PER_K) for unit in of(model, part, 1000, attack)]

    small = [model for model in MODELS if model not in LARGE]
    quick = [model for model in MODELS if model != LARGE[-1]]
    sloped = [model for model in MODELS if model not in WITHOUT_GRADIENTS]
    plan: list[Unit] = []
    for part in range(3):
        plan += [unit for model in quick for unit in main(model, part)]
        plan += [unit for model in small for unit in of(model, part, 5000, "sift")]
        plan += [unit for model in sloped if model in quick for unit in of(model, part, 1000, "sigma-zero")]
        plan += [unit for model in small for unit in of(model, part, 200, "sift")]
        plan += main(LARGE[-1], part)
        if part < 2:
            plan += [unit for model in small for unit in of(model, part, UNLIMITED, "greedy")]
            plan += [unit for model in small for q in (1000, 200, 5000) for unit in of(model, part, q, "uniform")]
            plan += [
                unit for model in LARGE for q in (1000, 200, 5000) for a in GUIDES for unit in of(model, part, q, a)
            ]
        if part == 0:
            plan += [Unit("nexar_safecv", 0, 9, 1000, attack, seed) for seed in range(1, 10) for attack in GUIDES]
    plan += [unit for part in range(3) for unit in of(LARGE[-1], part, 1000, "sigma-zero")]
    plan += [unit for attack in GUIDES for unit in of(LARGE[-1], 2, 5000, attack)]
    plan += [unit for part in range(3, len(MODELS[LARGE[-1]][1])) for unit in main(LARGE[-1], part)]
    plan += [unit for model in LARGE for attack in GUIDES for unit in of(model, 2, 1000, attack)]
    plan += [unit for model in small for unit in of(model, 2, UNLIMITED, "greedy")]
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


def checked(box: Classifier, images: ImageSet, found: list[AttackResult]) -> dict[str, int]:
    """What each image found is when read back from a PNG, as it is and with each pixel put back.

    An image counts as wrong where another class has a higher score than its own; where two have the same, it is a tie.
    """
    counts = dict.fromkeys(CHECKS, 0)
    for index, result in enumerate(found):
        if result.image is None:
            continue
        clean = images.images[index].reshape(-1, images.images.shape[3])
        changed = np.asarray(result.image, np.uint8)
        flat = changed.reshape(clean.shape)
        variants = [changed]
        pixels = np.flatnonzero((flat != clean).any(axis=1))
        for pixel in pixels if result.minimal or len(pixels) <= _HUGE else ():
            fewer = flat.copy()
            fewer[pixel] = clean[pixel]
            variants.append(fewer.reshape(changed.shape))
        parts = [variants[start : start + _AT_ONCE] for start in range(0, len(variants), _AT_ONCE)]
        scores = np.concatenate([box(np.stack([png(variant) for variant in part])) for part in parts])
        labels = np.full(len(scores), images.labels[index])
        margins = margins_of(scores, labels, np.full(len(scores), -1), box.info.output)
        fewer_do = bool((margins[1:] < 0).any())
        counts["still_wrong_from_png"] += int(margins[0] < 0)
        counts["a_pixel_could_be_put_back"] += int(result.minimal is True and fewer_do)
        counts["a_tie_with_a_pixel_less"] += int(result.minimal is True and bool((margins[1:] == 0).any()))
        counts["not_checked_within_the_budget"] += int(not result.minimal)
        counts["of_these_a_pixel_could_be_put_back"] += int(not result.minimal and fewer_do)
    return counts


def play_once(unit: Unit, box: Classifier, images: ImageSet) -> dict[str, Any]:
    """One run of an attack on every image."""
    if unit.attack == "sigma-zero":
        (run,) = run_white_box(box, images, unit.attack, AttackSettings(queries=unit.queries)).runs
        found = list(run.results)
    else:
        ours = unit.attack in GUIDES
        settings = AttackSettings(
            queries=unit.queries,
            seed=unit.seed,
            guide=cast("Any", unit.attack) if ours else "uniform",
            attack="game" if ours else unit.attack,
        )
        answers = dict(iter_adversarials(box, images.images, images.labels, settings))
        found = [answers[index] for index in range(len(images))]
    return {
        "fewest": [result.l0_pixels for result in found],
        "queries": [result.queries for result in found],
        "curves": [list(result.curve) for result in found] if unit.attack in GUIDES else [],
        **(checked(box, images, found) if unit.attack in GUIDES else {}),
    }


def play_per_k(unit: Unit, box: Classifier, images: ImageSet) -> dict[str, Any]:
    """A run for each k, all side by side, each with the whole budget; what the driver shrinks the finds of larger k to is
    not counted."""
    attack = cast("Any", strategy_named(unit.attack))
    settings = AttackSettings(queries=unit.queries, seed=unit.seed, attack=unit.attack)
    tasks = [
        Task(
            image=as_unit(image),
            eight_bit=True,
            label=int(label),
            target=None,
            decision_only=False,
            clean_margin=float("nan"),
            settings=settings,
            notes=Notes(),
        )
        for image, label in zip(images.images, images.labels, strict=True)
        for _ in LADDER
    ]
    sizes = {id(task.notes): LADDER[place % len(LADDER)] for place, task in enumerate(tasks)}

    def strategy(task: Task, rng: np.random.Generator) -> Search:
        return cast("Search", attack(task, rng, k=sizes[id(task.notes)]))

    jobs = [Job(place, task, image_digest(images.images[place // len(LADDER)])) for place, task in enumerate(tasks)]
    shape = cast("tuple[int, int, int]", images.images.shape[1:])
    found = dict(play(box, jobs, strategy, shape=shape, batch=choose_batch(box, as_unit(images.images[:4]), rows=None)))
    each = [[found[place * len(LADDER) + step] for step in range(len(LADDER))] for place in range(len(images))]
    return {
        "fewest": [next((k for k, run in zip(LADDER, runs, strict=True) if run.flipped), None) for runs in each],
        "queries": [sum(run.queries for run in runs) for runs in each],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=ROOT.parent / "shared" / "zoo")
    parser.add_argument("--kept", type=Path, default=None, help="of ours; default: reports/search/STATE_OF_THE_CODE")
    parser.add_argument("--kept-others", type=Path, default=None, help="of the others; default: the same of their code")
    parser.add_argument("--only", choices=("ours", "others"), default=None)
    parser.add_argument("--models", default=",".join(MODELS), help="separated by commas")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--report-only", action="store_true")
    chosen = parser.parse_args()
    kept = ROOT / "reports" / "search"
    folders = (chosen.kept or kept / code_state(), chosen.kept_others or kept / code_state(search=False))
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    for unit in [] if chosen.report_only else units():
        ours = unit.attack in GUIDES
        path = folders[0 if ours else 1] / f"{unit.name}.json"
        if path.exists() or unit.model not in chosen.models.split(",") or chosen.only == ("others" if ours else "ours"):
            continue
        if time.monotonic() - begun > 60 * chosen.minutes:
            break
        box = load_classifier(str(chosen.zoo / "models" / f"{unit.model}.onnx"), threads=1)
        images = correct(
            box, load_images(chosen.zoo / "data" / f"{MODELS[unit.model][0]}.npz"), unit.start + unit.count
        )
        images = images.take(np.arange(unit.start, len(images)))
        spent = time.process_time()
        outcome = (play_per_k if unit.attack in PER_K else play_once)(unit, box, images)
        outcome |= {
            "model": unit.model,
            "attack": unit.attack,
            "budget": unit.queries,
            "start": unit.start,
            "seed": unit.seed,
            "cpu_seconds": round(time.process_time() - spent, 1),
        }
        path.write_text(json.dumps(outcome))
        found = [fewest for fewest in outcome["fewest"] if fewest is not None]
        print(
            unit.name, f"{len(found)} of {len(images)}", f"{np.mean(found):.2f} px", outcome["cpu_seconds"], flush=True
        )
    command = "python examples/study_search.py --zoo ../shared/zoo"
    target = ROOT / "reports" / "search.md"
    target.write_text(report(folders, list(MODELS), command, target), encoding="utf-8")


if __name__ == "__main__":
    main()
