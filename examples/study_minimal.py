"""What `--minimal` takes and brings: writes reports/minimal.md. python examples/study_minimal.py --zoo ../shared/zoo

The same images are attacked without and with it; then every image returned is read back from a PNG and scored, as it is
and with each of its pixels put back.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from study import ROOT, measured_by, reading
from study_search import MODELS, checked, correct

from robustest.attack.find import find_adversarials
from robustest.classifiers import load_classifier
from robustest.images import load_images
from robustest.results import AttackResult
from robustest.settings import AttackSettings

# Model, images, queries allowed: where the search leaves most finds unchecked.
RUNS = (
    ("gtsrb_bnn48", 100, 200),
    ("gtsrb_bnn48", 100, 1000),
    ("mnist_deepgame", 100, 200),
    ("cifar_resnet20", 100, 1000),
    ("imagenet_mobilenet_v1_025_128", 50, 200),
    ("imagenet_mobilenet_v1_025_128", 50, 1000),
    ("imagenet_efficientnet_lite0", 16, 1000),
)
_HEAD = """# Finds that are checked beyond the budget

Command: `python examples/study_minimal.py --zoo ../shared/zoo`. {measured}

The same images without and with `--minimal`: queries an image in the mean, of which the further ones are counted as any other;
pixels of the finds; how many finds were checked to need each pixel; and what scoring again shows: how many are wrong when read
back from a PNG, and how many can lose a pixel, each of them tried (without `--minimal` not where more than 300 pixels were left unchecked).

| model | images | queries allowed | `--minimal` | queries, mean (most) | pixels, median (mean) | found | checked | wrong from PNG | can lose a pixel |
| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def row(zoo: Path, model: str, count: int, settings: AttackSettings) -> str:
    """A line of the table."""
    box = load_classifier(str(zoo / "models" / f"{model}.onnx"), threads=1)
    images = correct(box, load_images(zoo / "data" / f"{MODELS[model][0]}.npz"), count)
    results = find_adversarials(box, images.images, images.labels, settings=settings)
    found = [result for result in results if result.flipped]
    counts = checked(box, images, results)
    queries, pixels = _numbers(results, "queries"), _numbers(found, "l0_pixels")
    loose = counts["a_pixel_could_be_put_back"] + counts["of_these_a_pixel_could_be_put_back"]
    cells = (
        model,
        len(results),
        f"{settings.queries:,}",
        "yes" if settings.minimal else "no",
        f"{queries.mean():,.0f} ({queries.max():,.0f})",
        f"{np.median(pixels):g} ({pixels.mean():.1f})",
        len(found),
        len(found) - counts["not_checked_within_the_budget"],
        counts["still_wrong_from_png"],
        loose,
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def _numbers(results: list[AttackResult], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([getattr(result, name) for result in results], np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, default=ROOT.parent / "shared" / "zoo")
    chosen = parser.parse_args()
    target = ROOT / "reports" / "minimal.md"
    text = _HEAD.format(measured=measured_by())
    for model, count, queries in RUNS:
        within = AttackSettings(queries=queries)
        for settings in (within, replace(within, minimal=True)):
            line = row(chosen.zoo, model, count, settings)
            print(line, end="", flush=True)
            text += line
    target.write_text(text + reading(target), encoding="utf-8")


if __name__ == "__main__":
    main()
