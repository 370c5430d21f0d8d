"""The black box: what a classifier is to the rest of robustest, and how its scores become margins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.binary import as_two_classes, check_logits, is_one_number
from robustest.classifiers.spec import InputSpec, Output
from robustest.errors import InvalidImage, ModelError
from robustest.results import Edits, Margins, Scores

Images = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ClassifierInfo:
    """What is known of a classifier without asking it.

    source: file, URL or name, for reports. digest: of the file and of weights that lie beside it (`model_digest`), or None.
    spec: how it wants its input. output: what it gives.
    image_shape: (H, W, C); None where free or unknown. classes: how many, None if unknown.
    guessed: one sentence for each thing that was guessed rather than told.
    fixed_batch: the only number of images a call takes, None for any. largest_batch: None if unbounded.
    steady: an image's scores are claimed not to depend, to the last bit, on the batch it is in; a probe checks that.
    padded_batch: images in every call where they do depend on it.
    beside: it scores elsewhere than on the caller's core (other cores, a device, a server), so that the caller can
        work meanwhile.
    """

    source: str
    spec: InputSpec
    digest: str | None = None
    image_shape: tuple[int | None, int | None, int | None] = (None, None, None)
    classes: int | None = None
    guessed: tuple[str, ...] = ()
    fixed_batch: int | None = None
    largest_batch: int | None = None
    steady: bool = False
    padded_batch: int = 32
    beside: bool = True

    @property
    def output(self) -> Output:
        """What the classifier gives: logits, probabilities or label."""
        return self.spec.output


class Canvas(Protocol):
    """Base images held where the model lives; batches of edits are drawn on them and scored there."""

    def place(self, slot: int, image: Images) -> None:
        """Put a base image (H, W, C) in [0, 1] into a slot, in place of what was there."""

    def score(self, slots: NDArray[np.int64], edits: Edits) -> Scores:
        """Scores (N, K) of N images: base `slots[i]` with the i-th edits; (N,) class numbers for a label-only model."""


class Classifier(Protocol):
    """The black box: scores images, and nothing else is known of it."""

    @property
    def info(self) -> ClassifierInfo:
        """What is known without asking."""

    def __call__(self, images: Images, /) -> Scores:
        """Score images (N, H, W, C) in [0, 1]: (N, K) scores, the largest is the class; (N,) labels if label-only."""

    def canvas(self, shape: tuple[int, int, int], *, slots: int, rows: int, pad: bool) -> Canvas:
        """A canvas for base images of `shape` (H, W, C): `slots` of them, at most `rows` images a call, always
        exactly `rows` where `pad`."""


def margins_of(scores: Scores, labels: NDArray[np.int64], targets: NDArray[np.int64], output: Output) -> Margins:
    """How far each image is from counting as adversarial; < 0 means it is one.

    Untargeted (target -1): score of the label minus the best other. Targeted: best other minus the target's score.
    Probabilities are compared as logarithms. A label-only classifier gives +1 or -1. A tie is not adversarial.

    Args:
        scores: (N, K), or (N,) class numbers where `output` is "label".
        labels, targets: (N,) class to be kept; class to be reached or -1.
        output: what the scores are.

    Returns:
        (N,) float64 margins.

    Raises:
        InvalidImage: there are fewer classes than a label or a target says.
    """
    aims = np.where(targets >= 0, targets, labels)
    signs = np.where(targets >= 0, -1.0, 1.0)
    if output == "label":
        answered = np.asarray(scores, dtype=np.int64)
        return np.where(answered == aims, 1.0, -1.0) * signs
    values = comparable(scores, output)
    rows = np.arange(len(values))
    try:
        own = values[rows, aims]
    except IndexError as error:
        raise InvalidImage(
            f"labels and targets must be below {values.shape[1]}, the number of scores an image that the classifier gives; "
            f"got {aims.max()}. Is this the data set the model was trained on?"
        ) from error
    values[rows, aims] = -np.inf
    return np.asarray(signs * (own - values.max(axis=1)), dtype=np.float64)


def comparable(scores: Scores, output: Output) -> NDArray[np.float64]:
    """(N, K) float64 scores whose differences are margins: logits, or logarithms of probabilities."""
    values = scores.astype(np.float64)
    return np.log(np.maximum(values, 1e-38)) if output == "probabilities" else values


def classes_of(scores: Scores, output: Output) -> NDArray[np.int64]:
    """(N,) class of each image: the largest score, the first of equals."""
    if output == "label":
        return np.asarray(scores, dtype=np.int64)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def as_rows(answer: NDArray[Any]) -> NDArray[Any]:
    """Scores (N, K, 1, 1), as networks without a last flattening give them, as (N, K); whatever else as it is."""
    return answer.reshape(answer.shape[:2]) if answer.ndim > 2 and set(answer.shape[2:]) == {1} else answer


def check_scores(scores: object, count: int, output: Output, *, source: str) -> Scores:
    """Check what a classifier returned for `count` images; one float an image is of class 1 of two, see `binary`.

    Raises:
        ModelError: wrong shape, NaN, or not what `output` declares.
    """
    array = np.asarray(scores)
    if output == "label":
        if array.shape == (count, 1):
            array = array[:, 0]
        if (
            array.shape != (count,)
            or array.dtype.kind not in "iuf"
            or (array.dtype.kind == "f" and (array % 1 != 0).any())
        ):
            raise ModelError(
                f"{source} must return one class number an image, ({count},), because its output is declared as "
                f"'label'; got {array.dtype} of shape {array.shape}. Otherwise declare "
                'output = "logits" or "probabilities" (--output logits; in Python InputSpec(output="logits")).'
            )
        return array.astype(np.int64)
    array = as_rows(array)
    if len(array.shape) and len(array) == count and is_one_number(array):
        array = as_two_classes(array, output, source=source)
    if array.ndim != 2 or array.shape[0] != count or array.shape[1] < 2 or array.dtype.kind not in "fiu":
        numbers = array.shape in ((count,), (count, 1)) and array.dtype.kind in "iu"
        way = (
            'Where these are class numbers, declare output = "label" (--output label; in Python InputSpec(output="label")).'
            if numbers
            else "Wrap it in a function that gives a score for each class."
        )
        raise ModelError(
            f"{source} must return scores (N, K) with K >= 2 classes for N = {count} images; got {array.dtype} of shape "
            f"{array.shape}. {way}"
        )
    if not np.logical_and.reduce(np.isfinite(array), axis=None):  # sooner than `all`, and asked after every call
        raise ModelError(
            f"{source} returned NaN or infinite scores for {int((~np.isfinite(array)).any(axis=1).sum())} of {count} "
            "images. Check the input spec (scale, mean, std) and the model's weights."
        )
    return array.astype(np.float32, copy=False)


def check_output(scores: Scores, output: Output, *, source: str, constant: bool = False) -> None:
    """Check on real images that the scores are what was declared, and that they depend on the image at all.

    Args:
        scores: of different images, of different classes.
        output: what is declared. source: the classifier's name.
        constant: allow all of them to be the same, as saturated probabilities of one class can be.

    Raises:
        ModelError: declared probabilities that are none, declared logits that are probabilities, constant scores.
    """
    if output == "label":
        return
    sums = scores.astype(np.float64).sum(axis=1)
    looks = bool((scores >= 0).all() and (scores <= 1).all() and (np.abs(sums - 1) < 1e-3).all())
    if output == "probabilities" and not looks:
        worst = int(np.abs(sums - 1).argmax())
        raise ModelError(
            f"{source} is declared to give probabilities, but its scores lie in [{scores.min():g}, {scores.max():g}] and "
            f'sum to {sums[worst]:g} for image {worst}. Declare output = "logits" (--output logits).'
        )
    if output == "logits" and looks and len(scores) >= 2:
        raise ModelError(
            f"{source} is taken to give logits, but every row of its scores is in [0, 1] and sums to 1: these are "
            'probabilities. Declare output = "probabilities" (--output probabilities).'
        )
    if output == "logits":
        check_logits(scores, source=source)
    if not constant and len(scores) >= 2 and (scores == scores[0]).all():
        raise ModelError(
            f"{source} gives the same scores for all of {len(scores)} different images. Check the input spec: with a wrong scale or "
            "mean a network can saturate."
        )


def failures_of(classifier: Classifier) -> int:
    """Questions so far that a server failed on and that were sent again: a call meanwhile took longer than it needs."""
    return int(getattr(classifier, "failures", 0))


def check_fit(info: ClassifierInfo, shape: tuple[int, int, int]) -> None:
    """Check that images of `shape` (H, W, C) fit the classifier.

    Raises:
        InvalidImage: another size or number of channels.
    """
    height, width, channels = shape
    wanted_h, wanted_w, wanted_c = info.image_shape
    for wanted, got, what in ((wanted_h, height, "height"), (wanted_w, width, "width")):
        if wanted is not None and wanted != got:
            raise InvalidImage(
                f"{info.source} takes images of {what} {wanted}; these are {width}x{height} (width x height). "
                "Resize them, or use the images the model was made for."
            )
    if wanted_c is not None and wanted_c != channels:
        have = "gray" if channels == 1 else "RGB"
        need = "gray (1 channel)" if wanted_c == 1 else f"{wanted_c}-channel"
        say = f'channels = "{have}" (--channels {have})'
        raise InvalidImage(
            f"{info.source} takes {need} images; these are {have}. Convert them, or declare {say} where that is what it takes."
        )
