"""Short attacks on a stand-in that answers at once, so that compiled inner loops are loaded, or compiled and kept."""

from __future__ import annotations

import importlib

import numpy as np

from robustest import compiled
from robustest.attack.find import iter_adversarials
from robustest.classifiers.callables import CallableClassifier
from robustest.classifiers.classifier import Classifier, classes_of
from robustest.images import Pixels, as_unit
from robustest.settings import AttackSettings

_SHAPES = ((28, 28, 1), (28, 28, 3), (72, 72, 3))  # gray, in colour, large
_QUERIES = 600  # by then a search has come to swaps, and to a second class
_AHEAD = 20.0  # a pixel is worth two or three


def rehearse(images: Pixels, settings: AttackSettings) -> None:
    """Attack a few images with inner loops compiled; each whole attack comes to nearly every loop.

    Args:
        images: (N, H, W, C), uint8 or float32 in [0, 1]. settings: of the attack.
    """
    compiled.use(True)
    stand_in = _linear(images)
    labels = classes_of(stand_in(as_unit(images)), stand_in.info.output)
    list(iter_adversarials(stand_in, images, labels, settings))


def compile_loops() -> tuple[int, int]:
    """Compile the inner loops that no process on this machine has compiled yet; how many are kept, and how many there are.

    It takes a minute where none is kept. numba must be installed.
    """
    rng = np.random.default_rng(0)
    for shape in _SHAPES:
        images = rng.integers(0, 256, (4, *shape), np.uint8)
        rehearse(images, AttackSettings(queries=_QUERIES))
    return kept_loops()


def kept_loops() -> tuple[int, int]:
    """How many of the attack's inner loops are compiled and kept on this machine, and how many there are."""
    importlib.import_module("robustest.attack.search")
    return compiled.kept_loops()


def _linear(images: Pixels) -> Classifier:
    """A linear classifier of such images with weights that are drawn, whose first class is some ten pixels ahead."""
    weights = np.random.default_rng(0).standard_normal((images[0].size, 10), dtype=np.float32)
    ahead = np.zeros(10, np.float32)
    ahead[0] = images[0].size ** 0.5 + _AHEAD
    return CallableClassifier(lambda given: given.reshape(len(given), -1) @ weights + ahead)
