"""Every attack on the same images: writes reports/baselines.md.

    python examples/baselines_study.py --zoo ../shared/zoo

Each model's comparison is saved as JSON first, so that an interrupted study goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from robustest import AttackSettings, load_classifier, load_images
from robustest.baselines.compare import parse_attacks, run_comparison
from robustest.baselines.files import write_json
from robustest.baselines.table import markdown_of

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "robustest" / "demo" / "models" / "plain.onnx"
BLACK = "game,sparse-rs,brusle,random-corners,one-scan,pointwise,sparse-evo,one-pixel"
WHITE = "sigma-zero,cw-l0:300,fmn-l0,jsma,jsma-z,jsma-f,sparsefool,torchattacks.JSMA,torchattacks.SparseFool,torchattacks.OnePixel,torchattacks.Pixle"


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
    Study("cifar_resnet20", "cifar10", 30, f"{BLACK},sigma-zero:300,cw-l0:300,fmn-l0:300,jsma,sparsefool"),
    Study("nexar_safecv", "nexar", 9, f"{BLACK},sigma-zero,cw-l0,fmn-l0,jsma,sparsefool,torchattacks.JSMA"),
    Study("gtsrb_bnn48", "gtsrb48", 20, "game,sparse-rs@1/5/10,random-corners,sigma-zero,jsma"),
)
_HEAD = """# What every attack finds, on the same images

Command: `{command}`. Machine: {cores} cores, {machine}, no GPU. Budget: {queries} queries an image for every attack that asks for scores or labels
(a run, and a budget, for each k where the table says so), and the same number of forward passes for those with gradients; torchattacks keeps its own
settings. Seed {seed}. `name:N` has a budget of its own. Images: the first ones of each set that the model gets right. Every image
counted was rounded to 8 bits and scored again. k counts pixels (all channels); the corner attacks, ours among them, set whole pixels, so in colour
they are measured in what they minimise, while sigma-zero, FMN, SparseFool and JSMA count single channels. Percent of images flipped within k pixels,
Clopper-Pearson 95 % interval in brackets. `queries` is the mean for each image, all runs of a row together. What black-box attacks find is shrunk
by the driver with the queries left, theirs as ours.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=ROOT.parent / "shared" / "zoo")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "baselines")
    parser.add_argument("--images", type=int, default=50, help="at most so many of each model")
    parser.add_argument("--only", help="one model's name")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "reports" / "baselines.md")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    settings = AttackSettings(queries=given.queries, seed=given.seed)
    for study in STUDIES:
        part = given.cache / f"{study.model}-{given.queries}-{given.seed}.md"
        if part.exists() or given.only not in (None, study.model):
            continue
        path = DEMO if study.model == "demo_plain" else given.zoo / "models" / f"{study.model}.onnx"
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
    parts = [given.cache / f"{study.model}-{given.queries}-{given.seed}.md" for study in STUDIES]
    head = _HEAD.format(
        command=f"python examples/baselines_study.py --images {given.images}",
        cores=os.cpu_count(),
        machine=platform.machine(),
        queries=given.queries,
        seed=given.seed,
    )
    given.output.parent.mkdir(exist_ok=True)
    given.output.write_text(
        "\n".join([head, *(p.read_text(encoding="utf-8") for p in parts if p.exists())]), encoding="utf-8"
    )
    print(json.dumps({"written": str(given.output), "models": sum(p.exists() for p in parts)}))


if __name__ == "__main__":
    main()
