"""Images and labels as the tool knows them, and how they are read.

An 8-bit image stays uint8 until it is rendered for a classifier; attacks see NHWC in [0, 1]. Sources: a `.npz` with
`images` and `labels`, a folder with one subfolder a class, or a folder with a `labels.csv` (file,label).
Knows nothing of classifiers.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustest.errors import InvalidImage, NothingToTest
from robustest.folders import DIGITS, SUFFIXES, list_folder
from robustest.randomness import image_digest

Pixels = NDArray[np.uint8] | NDArray[np.float32]

MAX_SET_BYTES = 16 << 30  # of one array inside an .npz: a bound on what data can make us take
MAX_PICTURE_PIXELS = 1 << 27  # of one decoded picture, at most 8 bytes each

# OpenCV reads this when it is first imported; its own bound is 2^30 pixels, 8 GiB.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PICTURE_PIXELS))


@dataclass(frozen=True)
class ImageSet:
    """Images of one size with their labels.

    images: (N, H, W, C) uint8, or float32 in [0, 1]. C is 1 (gray) or 3 (RGB).
    labels: (N,) int64 class of each image, >= 0.
    names: N file names or positions, for reports; any text.
    class_names: name of each class, or empty where not known.
    source: where they came from, for reports.
    left_out: names of pictures that lie there and are not in the set, because nothing says their class.
    runs: names of folders that lie there and were not looked into, because they hold what we wrote about a run.
    """

    images: Pixels
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    source: str = "arrays"
    left_out: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def eight_bit(self) -> bool:
        """True where the images are uint8, so that adversarial images must be too."""
        return self.images.dtype == np.uint8

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """sha256 of each image: its name in random streams, ledgers and baselines."""
        return tuple(image_digest(image) for image in self.images)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageSet:
        """The images at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            names=tuple(self.names[int(i)] for i in chosen),
        )

    def class_name(self, label: int) -> str:
        """The name of a class, or its number where no name is known."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else str(label)


def as_unit(images: Pixels) -> NDArray[np.float32]:
    """Images as float32 in [0, 1]: 8-bit values divided by 255, floats as they are."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32, copy=False)


def as_eight_bit(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round an image in [0, 1] to 8 bits, as a PNG would hold it."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def check_images(images: NDArray[np.generic], *, argument: str = "images") -> Pixels:
    """Check (N, H, W, C) images once, where they enter; gray (N, H, W) gains its channel.

    Raises:
        InvalidImage: not uint8 or floats in [0, 1], wrong rank, channels other than 1 or 3, NaN.
    """
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4:
        raise InvalidImage(
            f"{argument} must be (N, H, W, C), or (N, H, W) for gray; got shape {np.shape(images)}. "
            "Add the missing axis."
        )
    if array.shape[3] not in (1, 3):
        hint = " These look like NCHW: transpose(0, 2, 3, 1)." if array.shape[1] in (1, 3) else ""
        raise InvalidImage(f"{argument} must have 1 (gray) or 3 (RGB) channels last; got shape {array.shape}.{hint}")
    if 0 in array.shape[1:]:
        raise InvalidImage(f"{argument} must have at least one pixel; got shape {array.shape}.")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        if len(array) and not np.isfinite(array).all():
            raise InvalidImage(f"{argument} must be finite; got NaN or infinity.")
        if len(array) and (array.min() < 0 or array.max() > 1):
            way = (
                "Divide an 8-bit image by 255."
                if array.min() >= 0
                else "Give images as they were before a mean was subtracted: the input spec does that (mean, std)."
            )
            raise InvalidImage(
                f"{argument} must be uint8, or floats in [0, 1]; got floats in [{array.min():g}, {array.max():g}]. {way}"
            )
        return array.astype(np.float32)
    raise InvalidImage(f"{argument} must be uint8, or floats in [0, 1]; got {array.dtype}. {_way_to_eight_bits(array)}")


def _way_to_eight_bits(array: NDArray[np.generic]) -> str:
    """How to convert images of another type, judged by their values: an int64 array often holds 0..255."""
    if array.dtype.kind == "b":
        return "Make them black and white: images.astype('uint8') * 255."
    if array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255:
        return "The values lie in 0..255: images.astype('uint8') keeps them."
    return "Convert 16-bit images to 8 bits (value // 257), or to floats (value / 65535)."


def check_labels(labels: NDArray[np.generic] | Sequence[int], count: int, classes: int | None) -> NDArray[np.int64]:
    """Check one class number an image.

    Raises:
        InvalidImage: wrong number, not whole, negative, or not below `classes` where that is known.
    """
    array = np.asarray(labels)
    if array.shape != (count,):
        raise InvalidImage(
            f"labels must be one number an image, {count} in all; got shape {array.shape}.{_way(array, count)}"
        )
    if array.dtype.kind not in "iu" and not (
        array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.rint(array)).all()
    ):
        way = "Number the classes as the model does; their names can stand in 'class_names'."
        raise InvalidImage(f"labels must be whole numbers; got {array.dtype}. {way}")
    if count and array.max() >= 10**DIGITS:
        raise InvalidImage(
            f"labels must be class numbers below 10^{DIGITS}; got {array.max()} for image {int(array.argmax())}."
        )
    array = array.astype(np.int64)
    if count and array.min() < 0:
        raise InvalidImage(f"labels must be >= 0; got {array.min()} for image {int(array.argmin())}.")
    if count and classes is not None and array.max() >= classes:
        raise InvalidImage(
            f"labels must be below {classes}, the classifier's number of classes; got {array.max()} for image "
            f"{int(array.argmax())}. {_way_to_classes(array, classes)}"
        )
    return array


def _way_to_classes(labels: NDArray[np.int64], classes: int) -> str:
    """What may be meant by labels beyond the classes."""
    if labels.min() >= 1 and labels.max() == classes:
        return "Classes are numbered from 0: where these are numbered from 1, subtract 1."
    return "Is this the data set the model was trained on?"


def _way(labels: NDArray[np.generic], count: int) -> str:
    """How labels of another shape become one number an image, where their shape shows it."""
    if labels.shape == (count, 1):
        return " Take labels[:, 0]."
    if labels.ndim == 2 and len(labels) == count:
        return " Where these are one-hot rows, take labels.argmax(axis=1)."
    return ""


def load_images(path: str | Path) -> ImageSet:
    """Read images and labels.

    Args:
        path: an `.npz` file with `images` (uint8 NHWC) and `labels`, and optionally `class_names` and `name`; a folder
            with one subfolder of pictures a class; or a folder of pictures with a `labels.csv` of two columns,
            file and label (a class number, or a name listed in order of first appearance after sorting).

    Raises:
        InvalidImage: nothing there, unreadable, mixed sizes, 16-bit, or labels missing.
        NothingToTest: the folder or file holds no image.
    """
    where = Path(path)
    if not where.exists():
        raise InvalidImage(f"IMAGES {str(path)!r} does not exist. Give a folder of pictures or an .npz file.")
    if where.is_dir():
        return _from_folder(where)
    if where.suffix.lower() == ".npz":
        return _from_npz(where)
    raise InvalidImage(
        f"IMAGES {str(path)!r} must be a folder or an .npz file with 'images' and 'labels'; got a {where.suffix or 'plain'} "
        "file. Put single pictures into a folder with a subfolder for each class."
    )


def load_picture(path: str | Path) -> NDArray[np.uint8]:
    """Read one picture file as (H, W, C) uint8, C = 1 for gray and 3 for RGB, as it is stored: a camera's note (EXIF)
    that it is to be turned is not followed.

    Raises:
        InvalidImage: missing, corrupt, 16-bit, or with an alpha channel that is not opaque.
    """
    import cv2

    where = Path(path)
    if not where.is_file():
        raise InvalidImage(f"picture {str(path)!r} does not exist.")
    data = np.fromfile(where, dtype=np.uint8)
    try:
        array = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    except cv2.error as error:
        raise InvalidImage(f"picture {str(path)!r} cannot be decoded: {error.err}.") from error
    if array is None:
        raise InvalidImage(
            f"picture {str(path)!r} cannot be decoded: it is empty, cut short or no picture. Remove it or save it anew."
        )
    if array.dtype != np.uint8:
        raise InvalidImage(
            f"picture {str(path)!r} must have 8 bits a channel; got {array.dtype}. Convert it to 8 bits first."
        )
    if array.ndim == 2:
        return np.asarray(array[..., None], dtype=np.uint8)
    if array.shape[2] == 4:
        if (array[..., 3] != 255).any():
            raise InvalidImage(f"picture {str(path)!r} has transparent pixels; flatten it to RGB first.")
        array = array[..., :3]
    return np.ascontiguousarray(array[..., ::-1], dtype=np.uint8)


def _class_names_beside(where: Path) -> tuple[str, ...]:
    """Class names from a `manifest.json` in the file's folder or the one above, where it lists this file."""
    for manifest in (where.parent / "manifest.json", where.parent.parent / "manifest.json"):
        if not manifest.is_file():
            continue
        try:
            entries = json.loads(manifest.read_text())["data"]
            for entry in entries:
                if Path(entry["file"]).name == where.name:
                    return tuple(str(name) for name in entry.get("class_names") or entry.get("classes") or ())
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # a manifest of another kind: no names then
    return ()


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Check that an array is no larger than what it is unpacked from: numpy makes room for what the head claims."""
    with archive.open(member) as handle:
        version = np.lib.format.read_magic(handle)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(handle)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > member.file_size:
        raise InvalidImage(
            f"{member.filename!r} in {archive.filename!r} claims shape {shape}, {claimed} bytes, and holds {member.file_size}. "
            "Save it anew."
        )


def _from_npz(where: Path) -> ImageSet:
    try:
        with zipfile.ZipFile(where) as archive:
            for member in archive.infolist():
                if member.file_size > MAX_SET_BYTES:
                    raise InvalidImage(
                        f"IMAGES {str(where)!r}: {member.filename!r} unpacks to {member.file_size} bytes, above the "
                        f"limit of {MAX_SET_BYTES}. Split the set."
                    )
                if member.filename.endswith(".npy"):
                    _check_member(archive, member)
        with np.load(where, allow_pickle=False) as data:
            keys = list(data.files)
            if "images" not in keys or "labels" not in keys:
                raise InvalidImage(
                    f"IMAGES {str(where)!r} must hold arrays 'images' and 'labels'; it holds {', '.join(keys) or 'none'}. "
                    "Write a file with these names: numpy.savez(FILE, images=..., labels=...)."
                )
            images, labels = data["images"], data["labels"]
            names = data["name"] if "name" in keys else None
            classes = data["class_names"] if "class_names" in keys else None
    except InvalidImage:
        raise
    except Exception as error:  # a damaged file makes zipfile, zlib and numpy raise classes that share no base
        raise InvalidImage(f"IMAGES {str(where)!r} cannot be read as an .npz file: {error}.") from error
    checked = check_images(images, argument=f"'images' in {where.name}")
    if not len(checked):
        raise NothingToTest(f"IMAGES {str(where)!r} holds no image.")
    count = len(checked)
    texts = [str(name) for name in names] if names is not None and np.shape(names) == (count,) else None
    return ImageSet(
        images=checked,
        labels=check_labels(labels, count, None),
        names=tuple(texts or (f"{where.stem}[{i}]" for i in range(count))),
        class_names=tuple(map(str, np.ravel(classes))) if classes is not None else _class_names_beside(where),
        source=where.name,
    )


def _from_folder(where: Path) -> ImageSet:
    listing = list_folder(where)
    if not listing.files:
        raise NothingToTest(
            f"IMAGES {str(where)!r} holds no picture ({', '.join(SUFFIXES)}), neither in subfolders, one a class, nor "
            "beside a labels.csv."
        )
    pictures: list[NDArray[np.uint8]] = []
    for file in listing.files:
        picture = load_picture(file)
        if pictures and picture.shape != pictures[0].shape:
            raise InvalidImage(
                f"all images must have one size and the same channels; {listing.files[0].name} is {_side(pictures[0])}, "
                f"{file.name} is {_side(picture)}. Resize or convert them first."
            )
        pictures.append(picture)
    return ImageSet(
        images=np.stack(pictures),
        labels=np.array(listing.labels, dtype=np.int64),
        names=tuple(str(file.relative_to(where)) for file in listing.files),
        class_names=listing.class_names,
        source=where.name,
        left_out=listing.left_out,
        runs=listing.runs,
    )


def _side(picture: NDArray[np.uint8]) -> str:
    height, width, channels = picture.shape
    return f"{width}x{height} {'gray' if channels == 1 else 'RGB'}"
