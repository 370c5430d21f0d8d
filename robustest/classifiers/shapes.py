"""What the shape of a model's input says of its images, for model files and served models alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from robustest.classifiers.spec import InputSpec, Output
from robustest.errors import InvalidSpec
from robustest.results import Scores


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


def guess_spec(shape: Sequence[Any]) -> tuple[InputSpec, tuple[str, ...]]:
    """A spec from the input's shape (four axes, the batch first), with a sentence for each thing guessed.

    Raises:
        InvalidSpec: no axis looks like channels.
    """
    if shape[1] in (1, 3) and shape[3] not in (1, 3):
        layout, count = "NCHW", shape[1]
    elif shape[3] in (1, 3):
        layout, count = "NHWC", shape[3]
    else:
        raise InvalidSpec(
            f"the model's input {list(shape)} does not show where its channels are. Write a model.toml beside it, for example: "
            'layout = "NCHW", channels = "RGB", scale = "1/255", output = "logits".'
        )
    channels = "gray" if count == 1 else "RGB"
    spec = InputSpec(layout=layout, channels=channels)  # type: ignore[arg-type]
    return spec, (
        f"layout {layout} and channels {channels}, from the input's shape {list(shape)}",
        "values in [0, 1] (scale 1/255, mean 0, std 1)",
    )


def guess_output(scores: Scores) -> tuple[Output, str]:
    """Logits or probabilities, from the scores (N, K) of noise, with the sentence that says so."""
    sums_to_one = bool((scores >= 0).all() and (np.abs(scores.sum(axis=1) - 1) < 1e-3).all())
    output: Output = "probabilities" if sums_to_one else "logits"
    return output, f"output {output}, because scores of noise {'sum' if sums_to_one else 'do not sum'} to 1"
