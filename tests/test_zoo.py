"""Facts about real models that nobody in this project made: known logits, known adversarial images, known accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.classifiers import load_classifier
from robustest.classifiers.batching import batch_invariant
from robustest.classifiers.classifier import classes_of
from robustest.images import as_unit, load_images
from robustest.results import Edits

# mnist_deepgame: index in MNIST's whole test set, pixels (row, column) set to 1, class before, class after, L2 length
CHANGES = [
    (67, [(12, 15), (8, 16)], 4, 9, 1.4142),
    (4, [(6, 15), (6, 16), (6, 17)], None, 9, 1.7321),
    (6, [(6, 16), (6, 17), (6, 18)], None, 9, None),
    (18, [(15, 8), (15, 9), (15, 10)], None, 8, None),
    (24, [(7, 13), (7, 14), (6, 13)], None, 9, None),
]
LOGITS = [-31.592, -14.594, -15.788, -18.439, -20.125, -27.334, -48.029, 32.481, -31.153, -10.890]


def digit(verify: Path, index: int) -> tuple[NDArray[np.float32], int]:
    """One of the first hundred images of MNIST's test set, in [0, 1], and its class."""
    images = load_images(verify / "coverd" / "mnist100.npz")
    return as_unit(images.images[index]), int(images.labels[index])


def entries(zoo: Path) -> list[dict[str, object]]:
    return list(json.loads((zoo / "manifest.json").read_text())["models"])


@pytest.mark.parametrize(("index", "pixels", "before", "after", "length"), CHANGES)
def test_published_few_pixel_changes_flip_the_digit(
    zoo: Path,
    verify: Path,
    index: int,
    pixels: list[tuple[int, int]],
    before: int | None,
    after: int,
    length: float | None,
) -> None:
    classifier = load_classifier(zoo / "models" / "mnist_deepgame.onnx")
    base, label = digit(verify, index)
    changed = Edits.of([{row * 28 + column: 1.0 for row, column in pixels}], 1).apply(base)
    scores = classifier(np.concatenate([base[None], changed]))
    predicted = classes_of(scores, classifier.info.output)
    assert predicted[0] == (label if before is None else before)
    assert predicted[1] == after
    if length is not None:
        assert np.linalg.norm((changed[0] - base).astype(np.float64)) <= length + 5e-5


def test_logits_of_the_first_digit_up_to_their_common_constant(zoo: Path, verify: Path) -> None:
    """The file gives probabilities: differences of their logarithms are differences of logits where float32 holds them."""
    classifier = load_classifier(zoo / "models" / "mnist_deepgame.onnx")
    base, _ = digit(verify, 0)
    logs = np.log(np.maximum(classifier(base[None])[0].astype(np.float64), 1e-45))
    wanted = np.array(LOGITS) - LOGITS[7]
    held = wanted > -85
    assert held.sum() >= 9
    assert (logs - logs[7])[held] == pytest.approx(wanted[held], abs=5e-3)


def test_every_model_reads_its_own_images_and_has_the_accuracy_that_its_makers_state(zoo: Path) -> None:
    """100 images a model (all there are, where fewer): within four standard errors of the accuracy in the manifest."""
    for entry in entries(zoo):
        classifier = load_classifier(zoo / str(entry["file"]))
        images = load_images(zoo / str(entry["data"]))
        count = min(100 if "imagenet" not in str(entry["id"]) else 20, len(images))
        predicted = classes_of(classifier(as_unit(images.images[:count])), classifier.info.output)
        right = float((predicted == images.labels[:count]).mean())
        stated = float(entry["accuracy"]["shared_images"]["accuracy"])  # type: ignore[index]
        assert abs(right - stated) <= 4 * (max(stated * (1 - stated), 0.01) / count) ** 0.5, entry["id"]
        assert not classifier.info.guessed, entry["id"]


@pytest.mark.parametrize(
    "name", ["mnist_deepgame", "mnist_mlp_point", "cifar_resnet20", "gtsrb_bnn48", "cifar_vit_pgd"]
)
def test_scores_under_onnxruntime_do_not_depend_on_the_batch_to_the_last_bit(zoo: Path, name: str) -> None:
    entry = next(entry for entry in entries(zoo) if entry["id"] == name)
    images = as_unit(load_images(zoo / str(entry["data"])).images[:4])
    assert batch_invariant(load_classifier(zoo / str(entry["file"])), images)
