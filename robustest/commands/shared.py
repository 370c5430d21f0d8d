"""What several commands need: pictures and images by name, what was guessed of a model, what the user typed."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.classifier import Classifier, classes_of
from robustest.errors import InvalidImage, InvalidSetting
from robustest.images import ImageSet, Pixels, as_unit, load_images, load_picture

_MEMBER = re.compile(r"(?P<file>.+\.npz)\[(?P<place>-?\d+)\]")
_NAMED = 10  # pictures left out that are named


@dataclass(frozen=True, slots=True)
class Picture:
    """One image that a user named.

    image: (H, W, C) uint8 or float32 in [0, 1]. name: for reports and file names. label: its class, where its source
    tells it. class_names: or empty.
    """

    image: Pixels
    name: str
    label: int | None = None
    class_names: tuple[str, ...] = ()

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where no name is known."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else str(label)


def read_images(path: Path) -> ImageSet:
    """The images that a user named; what of a folder is left out is said on standard error."""
    images = load_images(path)
    if images.left_out:
        count = len(images.left_out)
        print(
            f"robustest: {count} of {count + len(images)} pictures in {path} are left out, because no labels.csv row or class folder "
            f"names them, or their format is not read: {_first(images.left_out)}",
            file=sys.stderr,
        )
    if images.runs:
        print(
            f"robustest: not looked into for images, because robustest wrote there: {_first(images.runs)} in {path}",
            file=sys.stderr,
        )
    return images


def _first(names: tuple[str, ...]) -> str:
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{rest}"


def read_picture(name: str) -> Picture:
    """A picture file, or one image of a set as `images.npz[7]`.

    Raises:
        InvalidImage: missing, unreadable, or not that many images in the set.
    """
    member = _MEMBER.fullmatch(name)
    if member is None:
        if name.endswith(".npz"):
            raise InvalidImage(f"IMAGE {name!r} is a set of images; name one of them, such as '{name}[0]'.")
        if Path(name).is_dir():
            raise InvalidImage(f"IMAGE {name!r} is a folder; name one picture in it.")
        return Picture(load_picture(name), Path(name).stem)
    images = load_images(member["file"])
    place = int(member["place"])
    if not 0 <= place < len(images):
        raise InvalidImage(
            f"IMAGE {name!r}: {member['file']} holds {len(images)} images, numbered 0 to {len(images) - 1}."
        )
    stem = f"{Path(member['file']).stem}-{place}"
    return Picture(images.images[place], stem, int(images.labels[place]), images.class_names)


def tell_guesses(classifier: Classifier) -> None:
    """Say on standard error what was guessed of a model rather than told."""
    info = classifier.info
    if info.guessed:
        print(
            f"robustest: guessed of {info.source}: {'; '.join(info.guessed)}. --input SPEC.toml says otherwise.",
            file=sys.stderr,
        )


def answer_of(classifier: Classifier, image: Pixels) -> int:
    """The class that a classifier gives one image."""
    scores = classifier(as_unit(image)[None])
    return int(classes_of(scores, classifier.info.output)[0])


def known_label(picture: Picture, name: str, label: int | None, classifier: Classifier) -> int:
    """The class of a picture: the one given, else its source's.

    Args:
        name: of the picture, as the user wrote it. label: as given, or None.

    Raises:
        InvalidSetting: neither tells it; the message says what the classifier answers. Or it is no class of the classifier.
    """
    known, classes = picture.label if label is None else label, classifier.info.classes
    if known is None:
        answer = answer_of(classifier, picture.image)
        raise InvalidSetting(
            f"--label is missing: the class of {name!r}. The classifier says {picture.class_name(answer)}; if that is right, "
            f"add --label {answer}."
        )
    if known < 0 or (classes is not None and known >= classes):
        what = f"the label of {name!r}, {known}," if label is None else f"--label {label}"
        number = (
            "a class number >= 0"
            if classes is None
            else f"one of the classifier's {classes} classes, 0 to {classes - 1}"
        )
        raise InvalidSetting(
            f"{what} must be {number}. The classifier says {picture.class_name(answer_of(classifier, picture.image))}."
        )
    return known


def typed() -> str:
    """What the user typed, without the folder of the program."""
    return shlex.join(["robustest", *sys.argv[1:]])


def side_by_side(*pictures: NDArray[np.uint8], gap: int = 8) -> NDArray[np.uint8]:
    """Pictures (H, W, C) of one size in a row, as RGB on white."""
    colour = [np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture for picture in pictures]
    white = np.full((colour[0].shape[0], gap, 3), 255, np.uint8)
    parts = [part for picture in colour for part in (white, picture)][1:]
    return np.concatenate(parts, axis=1)
