"""Every attack on the same images: writes reports/baselines.md.

    python examples/baselines_study.py --zoo ../shared/zoo

Each model's comparison is saved as JSON first, so that an interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study import ROOT, code_state, measured_by, reading

from robustest import AttackSettings, load_classifier, load_images
from robustest.baselines.compare import correct_images, parse_attacks, run_comparison
from robustest.baselines.files import write_json
from robustest.baselines.jsma import jsma
from robustest.baselines.table import markdown_of
from robustest.baselines.torchattacks_adapter import torchattacks_attack
from robustest.classifiers.differentiable import differentiable_of
from robustest.images import as_unit

DEMO = ROOT / "robustest" / "demo" / "models" / "plain.onnx"
BLACK = "game,sparse-rs,brusle,random-corners,one-scan,pointwise,sparse-evo,one-pixel"
WHITE = "sigma-zero,cw-l0,fmn-l0,jsma,jsma-z,jsma-f,sparsefool,torchattacks.JSMA,torchattacks.SparseFool,torchattacks.OnePixel,torchattacks.Pixle"


@dataclass(frozen=True, slots=True)
class Study:
    """One model, its images, and what is run on them."""

    model: str
    data: str
    images: int
    attacks: str


STUDIES = (
    Study("demo_plain", "fashion", 50, f"{BLACK},greedy:50000,{WHITE}"),
    Study("mnist_deepgame", "mnist", 50, f"{BLACK},greedy:50000,{WHITE}"),
    Study("cifar_resnet20", "cifar10", 30, f"{BLACK},sigma-zero:300,fmn-l0:300,jsma,sparsefool"),
    Study("nexar_safecv", "nexar", 9, f"{BLACK},sigma-zero,cw-l0,fmn-l0,jsma,sparsefool,torchattacks.JSMA"),
    Study("gtsrb_bnn48", "gtsrb48", 20, "game,sparse-rs@1/5/10,random-corners,sigma-zero,jsma"),
)
_HEAD = """# What every attack finds, on the same images

Command: `{command}`. {measured} Budget: {queries} queries an image for every attack that asks for scores or labels
(a run, and a budget, for each k where the table says so), and the same number of forward passes for those with gradients; torchattacks keeps its own
settings. Seed {seed}. `name:N` has a budget of its own. Images: the first ones of each set that the model gets right. Every image
counted was rounded to 8 bits and scored again. k counts pixels (all channels); the corner attacks, ours among them, set whole pixels, so in colour
they are measured in what they minimise, while sigma-zero, FMN, SparseFool and JSMA count single channels. Percent of images flipped within k pixels,
Clopper-Pearson 95 % interval in brackets. `queries` is the mean for each image, all runs of a row together. What black-box attacks find is shrunk
by the driver with the queries left, theirs as ours.
"""


_JSMA = """## JSMA, setting by setting

The published settings of other libraries and ours, on the same images, answers rounded to 8 bits and scored again; the median counts images that
were not flipped as farthest. `theta 0.1` and `theta 1`, rising, runner-up are the settings of ART's SaliencyMapMethod (default, and the one that
saturates), run in our implementation; torchattacks' are its own code.
"""
_JSMA_MODELS = (("demo_plain", "fashion", 50), ("mnist_deepgame", "mnist", 50), ("cifar_onepixel_lenet", "cifar10", 30))
_JSMA_TABLE = """### {model}, {count} images

| setting | flipped | median px | within 5 | within 10 | within 20 | forward | backward |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""
_JSMA_SETTINGS: dict[str, dict[str, Any]] = {
    "ART-like: Z, rising, theta 0.1, runner-up": {"direction": "increase", "theta": 0.1},
    "ART-like: Z, rising, theta 1, runner-up (`jsma-z`)": {"direction": "increase"},
    "ours: F, rising, runner-up (`jsma-f`)": {"direction": "increase", "scores": "F"},
    "ours: F, falling, runner-up": {"direction": "decrease", "scores": "F"},
    "ours: Z, both directions, runner-up": {},
    "ours: F, both directions, runner-up": {"scores": "F"},
    "ours: Z, both directions, every class": {"every_class": True},
    "ours: F, both directions, every class (`jsma`)": {"scores": "F", "every_class": True},
}


def jsma_table(model: str, path: Path, data: Path, count: int) -> str:
    """JSMA's published settings beside ours on the same images of one model, as Markdown."""
    classifier = load_classifier(path, threads=1)
    images, _ = correct_images(classifier, load_images(data), count)
    units, labels = as_unit(images.images), images.labels
    white = differentiable_of(classifier, units[:8])
    lines = []

    def add(name: str, answers: list[Any], forward: int, backward: int) -> None:
        stored = np.rint(np.stack([answer.numpy() for answer in answers]) * 255).astype(np.float32) / np.float32(255)
        flipped = classifier(stored).argmax(axis=1) != labels
        pixels = np.where(flipped, (stored != units).any(axis=-1).sum(axis=(1, 2)), np.inf)
        shares = [f"{(pixels <= k).sum()} of {len(units)}" for k in (5, 10, 20)]
        cells = [name, f"{flipped.sum()} of {len(units)}", f"{np.median(pixels):g}", *shares]
        lines.append("| " + " | ".join([*cells, f"{forward / len(units):.0f}", f"{backward / len(units):.0f}"]) + " |")

    batch, classes = torch.from_numpy(units), torch.from_numpy(labels)
    count_of_classes = classifier(units[:1]).shape[1]
    for name, shift in (("torchattacks, default: label + 1", 1), ("torchattacks, aimed at the runner-up", None)):
        before = white.queries, white.gradients
        aims = [None if shift is None else (int(label) + shift) % count_of_classes for label in labels]
        answers = [
            torchattacks_attack("JSMA", white, x, int(y), aim, seed=0)
            for x, y, aim in zip(batch, labels, aims, strict=True)
        ]
        add(name, answers, white.queries - before[0], white.gradients - before[1])
    for name, options in _JSMA_SETTINGS.items():
        before = white.queries, white.gradients
        answers = list(jsma(white, batch, classes, None, steps=1000, **options))
        add(name, answers, white.queries - before[0], white.gradients - before[1])
    return _JSMA_TABLE.format(model=model, count=len(units)) + "\n".join(lines) + "\n"


def model_path(zoo: Path, model: str) -> Path:
    """Where a model of the study lies."""
    return DEMO if model == "demo_plain" else zoo / "models" / f"{model}.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=ROOT.parent / "shared" / "zoo")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "build" / "baselines", help="figures are kept here, by code state"
    )
    parser.add_argument("--images", type=int, default=50, help="at most so many of each model")
    parser.add_argument("--only", help="one model's name, or jsma")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "reports" / "baselines.md")
    parser.add_argument("--cached", action="store_true", help="run nothing; write what was measured before")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.cache = given.cache / code_state()
    given.cache.mkdir(parents=True, exist_ok=True)
    settings = AttackSettings(queries=given.queries, seed=given.seed)
    for study in STUDIES:
        part = given.cache / f"{study.model}-{given.queries}-{given.seed}.md"
        if part.exists() or given.cached or given.only not in (None, study.model):
            continue
        path = model_path(given.zoo, study.model)
        images = load_images(given.zoo / "data" / f"{study.data}.npz")
        comparison = run_comparison(
            load_classifier(path, threads=1),
            images,
            parse_attacks(study.attacks),
            settings,
            count=min(study.images, given.images),
            progress=lambda attack, done, of: print(attack, done, "of", of, flush=True) if done == of else None,
        )
        write_json(comparison, part.with_suffix(".json"))
        part.write_text(f"## {study.model}, {len(comparison)} images\n\n{markdown_of(comparison)}", encoding="utf-8")
    tables = []
    for model, data, count in _JSMA_MODELS:
        tables.append(given.cache / f"jsma-{model}.md")
        if not tables[-1].exists() and not given.cached and given.only in (None, "jsma"):
            made = jsma_table(
                model, model_path(given.zoo, model), given.zoo / "data" / f"{data}.npz", min(count, given.images)
            )
            tables[-1].write_text(made, encoding="utf-8")
    parts = [given.cache / f"{study.model}-{given.queries}-{given.seed}.md" for study in STUDIES]
    head = _HEAD.format(
        command=f"python examples/baselines_study.py --images {given.images}",
        measured=measured_by(),
        queries=given.queries,
        seed=given.seed,
    )
    given.output.parent.mkdir(exist_ok=True)
    given.output.write_text(
        "\n".join([head, *texts(parts), _JSMA, *texts(tables)]) + reading(given.output),
        encoding="utf-8",
    )
    print(json.dumps({"written": str(given.output), "parts": len(texts(parts + tables))}))


def texts(paths: list[Path]) -> list[str]:
    """The parts that there are."""
    return [path.read_text(encoding="utf-8") for path in paths if path.exists()]


if __name__ == "__main__":
    main()
