"""One number an image: classifiers of two classes that give the logit, or the probability, of class 1 alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.spec import Output
from robustest.errors import ModelError
from robustest.results import Scores

WORDS = "of class 1 of two"


def is_one_number(answer: NDArray[Any]) -> bool:
    """True for one float an image, (N,) or (N, 1)."""
    return answer.dtype.kind == "f" and (answer.ndim == 1 or (answer.ndim == 2 and answer.shape[1] == 1))


def guess_one_number(answer: NDArray[Any]) -> tuple[Output, str]:
    """What one number an image is, from the answer to images of noise, with the sentence that says so."""
    inside = bool(((answer >= 0) & (answer <= 1)).all())
    output: Output = "probabilities" if inside else "logits"
    kind = "probability" if inside else "logit"
    lie = "lie" if inside else "do not lie"
    return (
        output,
        f"output {output}: the {kind} {WORDS}, because it gives one number an image, and those of noise {lie} in [0, 1]",
    )


def as_two_classes(answer: NDArray[Any], output: Output, *, source: str) -> Scores:
    """Scores (N, 2) of one number an image: [0, z] of a logit z, whose softmax is [1 - p, p]; [1 - p, p] of a probability p.

    A tie (z = 0, p = 1/2) is class 0, as everywhere.

    Raises:
        ModelError: declared probabilities that are none.
    """
    ones = answer.reshape(len(answer)).astype(np.float32)
    if output != "probabilities":
        return np.stack([np.zeros_like(ones), ones], axis=1)
    if not ((ones >= 0) & (ones <= 1)).all() and np.isfinite(ones).all():
        raise ModelError(
            f"{source} is declared to give probabilities, one number an image, that {WORDS}; its numbers lie in "
            f'[{ones.min():g}, {ones.max():g}]. Declare output = "logits".'
        )
    return np.stack([1 - ones, ones], axis=1)


def check_logits(scores: Scores, *, source: str) -> None:
    """Check that what is read as logits of class 1 of two is no probability: all of it in [0, 1], on several images.

    Raises:
        ModelError: it looks like one; class 1 would be the answer to every image.
    """
    if (
        scores.shape[1] == 2
        and len(scores) >= 2
        and not scores[:, 0].any()
        and bool(((scores >= 0) & (scores <= 1)).all())
    ):
        raise ModelError(
            f"{source} is declared to give logits, one number an image, but all of {len(scores)} lie in [0, 1]: these are "
            f'probabilities {WORDS}. Declare output = "probabilities"; if they are logits after all, give two scores an image.'
        )
