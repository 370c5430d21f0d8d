"""Baselines beside other people's figures on the same networks. Slow: run by `make test-slow`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import robustest
from robustest.attack.find import find_adversarials
from robustest.audit.statistics import clopper_pearson
from robustest.baselines.compare import correct_images
from robustest.baselines.whitebox import run_white_box
from robustest.classifiers.loading import load_classifier
from robustest.images import load_images
from robustest.settings import AttackSettings

pytestmark = pytest.mark.slow


def flips(zoo: Path, model: str, data: str, count: int, attack: str, queries: int) -> list[int | None]:
    classifier = load_classifier(zoo / "models" / f"{model}.onnx", threads=1)
    images, _ = correct_images(classifier, load_images(zoo / "data" / f"{data}.npz"), count)
    settings = AttackSettings(queries=queries, attack=attack)
    return [r.l0_pixels for r in find_adversarials(classifier, images.images, images.labels, settings=settings)]


@pytest.mark.parametrize(
    ("model", "data", "count", "published"),
    [
        # trials of the same algorithm by others, 1,000 queries for each k: share flipped
        ("cifar_resnet20", "cifar10", 40, {1: 0.28, 2: 0.50, 5: 0.82, 10: 1.0}),
        ("mnist_deepgame", "mnist", 40, {5: 0.30, 10: 0.77, 20: 1.0}),
        ("gtsrb_keras_cnn", "gtsrb30", 40, {1: 0.25, 5: 0.80}),
    ],
)
def test_sparse_rs_flips_as_many_as_another_implementation(
    zoo: Path, model: str, data: str, count: int, published: dict[int, float]
) -> None:
    for k, share in published.items():
        found = sum(pixels is not None for pixels in flips(zoo, model, data, count, f"sparse-rs@{k}", 1000))
        low, high = clopper_pearson(found, count)
        assert low - 0.02 <= share <= high + 0.02, (k, found)


@pytest.mark.parametrize(("model", "published"), [("cifar_onepixel_lenet", 0.63), ("cifar_onepixel_resnet", 0.34)])
def test_one_pixel_flips_as_many_as_the_networks_authors(zoo: Path, model: str, published: float) -> None:
    # The authors of these two networks: population 400, at most 75 generations, 100 images, one pixel.
    found = sum(pixels is not None for pixels in flips(zoo, model, "cifar10", 30, "one-pixel@1", 30_400))
    low, high = clopper_pearson(found, 30)
    assert low <= published + 0.1
    assert high >= published - 0.1


@pytest.mark.parametrize(("attack", "most"), [("sigma-zero", 6), ("fmn-l0", 8), ("jsma-z", 34), ("sparsefool", 16)])
def test_white_box_attacks_need_no_more_pixels_than_published(zoo: Path, attack: str, most: float) -> None:
    # Others' runs of these attacks on a small Fashion-MNIST network: medians of 4.5, 7, 33 (theta 1) and 16 pixels.
    classifier = load_classifier(Path(robustest.__file__).parent / "demo" / "models" / "plain.onnx", threads=1)
    images, _ = correct_images(classifier, load_images(zoo / "data" / "fashion.npz"), 30)
    row = run_white_box(classifier, images, attack, AttackSettings(queries=1000, attack=attack))
    pixels = [np.inf if r.l0_pixels is None else r.l0_pixels for r in row.runs[0].results]
    assert float(np.median(pixels)) <= most


def test_one_scan_is_no_worse_than_the_published_greedy(zoo: Path, verify: Path) -> None:
    classifier = load_classifier(zoo / "models" / "mnist_deepgame.onnx", threads=1)
    with np.load(verify / "coverd" / "mnist100.npz") as data:
        images, labels = data["images"][:60].reshape(-1, 28, 28, 1), data["labels"][:60]
    settings = AttackSettings(queries=3000, attack="one-scan")
    pixels = [r.l0_pixels for r in find_adversarials(classifier, images, labels, settings=settings)]
    # Another one-pixel-at-a-time greedy: 9 15 5 7 3 4 3 6 4 10 on the first ten test images, 7.83 over the first 60.
    assert pixels[2:7] == [5, 7, 3, 4, 3]
    assert float(np.mean([p for p in pixels if p is not None])) <= 7.83
    settings = AttackSettings(queries=100_000, attack="greedy")
    patient = [r.l0_pixels for r in find_adversarials(classifier, images[:10], labels[:10], settings=settings)]
    assert all(
        a is not None and b is not None and a <= b
        for a, b in zip(patient, [9, 15, 5, 7, 3, 4, 3, 7, 4, 10], strict=True)
    )
