"""The number of images a call, chosen by what calls of each size take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.classifiers import batching, load_classifier
from robustest.classifiers.classifier import Classifier


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (lambda count: 1e-4 + 1e-4 * count, 256),  # 1.005 times the least; 32, with 1.04 times, is over 3 % slower
        (lambda count: 1e-2 * count, 1),  # nothing is gained by any larger one
        (lambda count: 1e-3 + 6e-3 * count + 1e-3 * max(count - 2, 0) ** 2, 2),  # what does not fit the cache is slower
        (lambda count: 0.1, 512),  # a server far away: it is the call that costs
    ],
)
def test_the_batch_is_the_smallest_that_is_nearly_as_fast_as_any(
    monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float], wanted: int
) -> None:
    def measured(classifier: Classifier, images: NDArray[np.float32]) -> float:
        return seconds(len(images))

    monkeypatch.setattr(batching, "_seconds", measured)
    classifier = load_classifier(lambda images: images.reshape(len(images), -1)[:, :2])
    assert batching.best_batch(classifier, (4, 4, 1)) == wanted
