"""A linear classifier with a known answer, as a module that worker processes can import, and images for it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.images import ImageSet
from robustest.settings import AttackSettings

SIDE, CLASSES = 6, 3

# Scores are summed image by image, so that they do not depend on the batch, bit for bit. An image whose first two
# pixels have the value 3 is a poison image: what it does stands in the environment.
SOURCE = """
import os, time
import numpy as np

WEIGHTS = np.random.default_rng(7).normal(size=(36, 3)).astype(np.float32)
LEFT = [0]

def scores(images):
    wait = float(os.environ.get("LINEAR_WAIT", "0"))
    if wait:
        time.sleep(wait * len(images))
    poison = os.environ.get("LINEAR_POISON", "")
    if poison and (images[:, 0, :2, 0] == np.float32(3) / np.float32(255)).all(axis=1).any():
        if poison == "abort":
            os.abort()
        if poison == "exit":
            os._exit(3)
        if poison == "fault":  # one that is not the model's
            import robustest.audit.work as work
            work.record_of = lambda *_, **__: [][0]
        if poison == "nan":
            return np.full((len(images), 3), np.nan, np.float32)
    return np.stack([np.array([(image.reshape(-1) * column).sum() for column in WEIGHTS.T]) for image in images])
"""


@pytest.fixture
def linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module `robustest_linear`, in a folder of its own that is on Python's path; `linear.scores` is the model."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "robustest_linear.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("robustest_linear", None)
    yield importlib.import_module("robustest_linear")
    sys.modules.pop("robustest_linear", None)


@pytest.fixture
def images(linear: ModuleType) -> ImageSet:
    """24 images of 6x6, gray; all but numbers 5 and 11 with the label that the model gives."""
    return images_for(linear, 24)


def images_for(linear: ModuleType, count: int) -> ImageSet:
    """Random images with the model's own labels, number 5 and 11 mislabelled; none is poison."""
    pixels = np.random.default_rng(3).integers(0, 255, size=(count, SIDE, SIDE, 1), dtype=np.uint8)
    labels = linear.scores(pixels.astype(np.float32) / np.float32(255)).argmax(axis=1)
    for wrong in (5, 11):
        if wrong < count:
            labels[wrong] = (labels[wrong] + 1) % CLASSES
    return ImageSet(pixels, labels.astype(np.int64), tuple(f"image {i}" for i in range(count)), source="random")


def nearest(linear: ModuleType, image: NDArray[np.uint8], label: int) -> int:
    """Fewest pixels whose change to black or white makes another class win: for each rival, the largest gains first."""
    flat = image.reshape(-1).astype(np.float64) / 255
    fewest = flat.size + 1
    for rival in range(CLASSES):
        if rival == label:
            continue
        slope = (linear.WEIGHTS[:, rival] - linear.WEIGHTS[:, label]).astype(np.float64)
        margin = -(flat @ slope)
        gains = np.sort(np.maximum(slope * (1 - flat), -slope * flat))[::-1]
        reached = np.flatnonzero(np.cumsum(gains) > margin)
        if len(reached):
            fewest = min(fewest, int(reached[0]) + 1)
    return fewest


@pytest.fixture
def settings() -> AttackSettings:
    """A small budget."""
    return AttackSettings(queries=80, seed=1)
