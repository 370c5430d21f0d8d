"""What the shape of a model's input says of its images, for model files and served models alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.binary import guess_one_number, is_one_number
from robustest.classifiers.spec import InputSpec, Layout, Output
from robustest.errors import InvalidSpec


def whole(axis: Any) -> int | None:
    """The axis where it is a number > 0; None where it is a name, or free."""
    return axis if isinstance(axis, int) and axis > 0 else None


def image_shape(shape: Sequence[Any], spec: InputSpec, name: str) -> tuple[int | None, int | None, int | None]:
    """(H, W, C) of a model's images, None where free.

    Args:
        shape: of the input, four axes, the batch first. spec: how they are to be read. name: the model's, for errors.

    Raises:
        InvalidSpec: the channels are not where or as many as the spec says.
    """
    axes = shape[1:] if spec.layout == "NHWC" else [shape[2], shape[3], shape[1]]
    height, width, channels = (whole(axis) for axis in axes)
    if channels is not None and channels != spec.channel_count:
        raise InvalidSpec(
            f"{name} takes input {list(shape)}, which has {channels} channels as {spec.layout}; the input spec says {spec.channels} "
            f"({spec.channel_count}). Correct 'layout' or 'channels'."
        )
    return height, width, spec.channel_count


def guess_spec(
    shape: Sequence[Any], told: Mapping[str, Any], *, whole_numbers: bool = False
) -> tuple[InputSpec, tuple[str, ...]]:
    """A spec from the input's shape and from what is told, with a sentence for each thing guessed.

    Args:
        shape: of the input, four axes, the batch first. told: fields of the spec that are known; they are not guessed.
        whole_numbers: the input is of integers in 0..255.

    Raises:
        InvalidSpec: no axis looks like channels, or what is told is no spec.
    """
    guesses: list[str] = []
    fields: dict[str, Any] = {}
    if "layout" not in told:
        fields["layout"] = _layout(shape)
    if "channels" not in told:
        fields["channels"] = "gray" if shape[1 if (fields | dict(told))["layout"] == "NCHW" else 3] == 1 else "RGB"
    if fields:
        said = " and ".join(f"{name} {value}" for name, value in fields.items())
        guesses.append(f"{said}, from the input's shape {list(shape)}")
    values = {"scale": 1.0 if whole_numbers else 1 / 255, "mean": 0.0, "std": 1.0}
    open_values = {name: value for name, value in values.items() if name not in told}
    if open_values:
        said = ", ".join(
            f"{name} {'1/255' if value == 1 / 255 else f'{value:g}'}" for name, value in open_values.items()
        )
        all_open = len(open_values) == len(values)
        guesses.append(f"values in {'0..255' if whole_numbers else '[0, 1]'} ({said})" if all_open else said)
    return InputSpec(**(fields | open_values | dict(told))), tuple(guesses)


def _layout(shape: Sequence[Any]) -> Layout:
    if shape[1] in (1, 3) and shape[3] not in (1, 3):
        return "NCHW"
    if shape[3] in (1, 3):
        return "NHWC"
    raise InvalidSpec(
        f"the model's input {list(shape)} does not show where its channels are. Write a model.toml beside it, for example: "
        'layout = "NCHW", channels = "RGB", scale = "1/255", output = "logits".'
    )


def guess_output(answer: NDArray[Any]) -> tuple[Output, str]:
    """What a model gives, from its answer to images of noise, with the sentence that says so: class numbers (N,) or
    (N, 1), or scores (N, K) that are logits or probabilities, or one number an image, of class 1 of two."""
    if answer.dtype.kind in "iu" and (answer.ndim == 1 or answer.shape[1:] == (1,)):
        return "label", "output label, because it gives one whole number an image"
    if is_one_number(answer):
        return guess_one_number(answer)
    sums = answer.sum(axis=-1, dtype=np.float64)
    sums_to_one = bool((answer >= 0).all() and (np.abs(sums - 1) < 1e-3).all())
    output: Output = "probabilities" if sums_to_one else "logits"
    return output, f"output {output}, because scores of noise {'sum' if sums_to_one else 'do not sum'} to 1"


def check_whole_numbers(spec: InputSpec, name: str) -> None:
    """Check that images are whole numbers in 0..255 where a model takes nothing else.

    Raises:
        InvalidSpec: with this scale, mean and std they are not, and rounding would leave little of an image.
    """
    grays = np.linspace(0, 1, 256, dtype=np.float32)[:, None].repeat(spec.channel_count, axis=1)
    values = spec.values(grays)
    if np.abs(values - np.rint(values)).max() > 1e-2 or values.min() < -0.5 or values.max() > 255.5:
        raise InvalidSpec(
            f"{name} takes whole numbers in 0..255 (uint8), but with this input spec an image's values lie in "
            f"[{values.min():g}, {values.max():g}]. Set scale = 1, mean = 0, std = 1."
        )
