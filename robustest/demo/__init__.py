"""What ships inside the package: two small Fashion-MNIST classifiers, 200 images, and the licence of the images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from robustest.images import ImageSet, load_images

FOLDER = Path(__file__).parent
IMAGES = FOLDER / "images.npz"
MODELS = {"plain": FOLDER / "models" / "plain.onnx", "provable": FOLDER / "models" / "provable.onnx"}
CLASS_NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def demo_images() -> ImageSet:
    """The 200 images of Fashion-MNIST's test set that ship with the package, with the names of their classes."""
    return replace(load_images(IMAGES), class_names=CLASS_NAMES, source="Fashion-MNIST, 200 test images")
