"""The library in a few lines: attack images of the built-in classifier and say what was found.

python examples/library.py
"""

from __future__ import annotations

import robustest
from robustest.demo import IMAGES, MODELS


def main() -> None:
    """Attack five images with 300 queries each."""
    classifier = robustest.load_classifier(MODELS["plain"])
    images = robustest.load_images(IMAGES).take(range(5))
    results = robustest.find_adversarials(classifier, images.images, images.labels, queries=300, seed=1)
    for name, result in zip(images.names, results, strict=True):
        found = (
            ""
            if result.l0_pixels is None
            else f": class {result.label} -> {result.predicted} by {result.l0_pixels} pixels"
        )
        print(f"{name} {result.verdict.value}{found} ({result.queries} queries)")


if __name__ == "__main__":
    main()
