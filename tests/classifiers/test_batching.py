"""The number of images a call, chosen by what calls of each size take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from robustest.classifiers import batching, load_classifier
from robustest.classifiers.classifier import Classifier
from robustest.classifiers.spec import InputSpec
from robustest.errors import OutOfMemory
from robustest.results import Edits


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (
            lambda count: 1e-4 + 1e-4 * count,
            64,
        ),  # with 120 microseconds beside it 1.034 times an image; 512, with 1.004, is not 3 % better
        (lambda count: 1e-4 * count, 256),  # with these 1.005 times an image; 32 is 1.038
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


def counted(score: Callable[[int], NDArray[np.float32]]) -> Classifier:
    """Scores that depend on how many images are asked about, and on nothing of them but whether that fits."""

    def function(images: NDArray[np.float32]) -> NDArray[np.float32]:
        own = images.reshape(len(images), -1)[:, :2].astype(np.float32)
        return own + score(len(images))[:, None]

    return load_classifier(function)


@pytest.mark.parametrize("most", [1, 2, 4, 8, 16])
def test_a_call_has_so_few_images_that_their_places_do_not_matter(most: int) -> None:
    """Odd places of calls of more than so many images get another last bit, as with rows of a matrix at odd addresses."""

    def uneven(count: int) -> NDArray[np.float32]:
        return np.where(np.arange(count) % 2 == 1, 1e-3 if count > most else 0.0, 0.0).astype(np.float32)

    images = np.zeros((2, 4, 4, 1), np.float32)
    assert batching.choose_batch(counted(uneven), images) == batching.Batch(most, pad=True)


def test_a_classifier_that_never_repeats_is_not_asked_one_by_one() -> None:
    rng = np.random.default_rng(0)
    noisy = counted(lambda count: rng.random(count, dtype=np.float32))
    assert batching.choose_batch(noisy, np.zeros((2, 4, 4, 1), np.float32)) == batching.Batch(32, pad=True)


def test_a_call_has_no_more_images_than_fit_in_the_memory() -> None:
    def short(count: int) -> NDArray[np.float32]:
        if count > 11:
            raise MemoryError
        return np.zeros(count, np.float32)

    assert batching.choose_batch(counted(short), np.zeros((2, 4, 4, 1), np.float32)) == batching.Batch(8, pad=True)


@pytest.mark.parametrize(("side", "rows"), [(64, 32), (512, 32), (1024, 8)])
def test_large_images_go_in_smaller_calls_where_all_calls_must_be_of_one_size(side: int, rows: int) -> None:
    """At most 2^23 pixels a call; a device is busy with them, and more would keep the first answers waiting."""
    classifier = counted(lambda count: np.float32([1e-3 if count > 1 else 0.0]).repeat(count))
    assert batching.padded_batch(classifier, (side, side, 1), 32) == rows


def test_a_torch_module_that_is_too_large_for_the_memory_says_so() -> None:
    class Large(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.flatten(1) @ torch.ones(1 << 55)

    with pytest.raises(OutOfMemory, match=r"2 images of shape \(1, 4, 4\).*--workers"):
        load_classifier(Large().eval(), InputSpec(layout="NCHW", channels="gray"))(np.zeros((2, 4, 4, 1), np.float32))


def test_a_module_whose_rows_begin_at_odd_addresses_gives_an_image_the_same_bits_everywhere() -> None:
    """Layers of 250 neurons: 1,000 bytes a row, which kernels for aligned addresses treat in two ways."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(784, 250, bias=False), torch.nn.ReLU()]
    for _ in range(6):
        layers += [torch.nn.Linear(250, 250, bias=False), torch.nn.ReLU()]
    module = torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(250, 10)).eval()
    classifier = load_classifier(module, InputSpec(layout="NCHW", channels="gray"))
    images = np.random.default_rng(1).random((5, 28, 28, 1), dtype=np.float32)
    batch = batching.choose_batch(classifier, images)
    canvas = classifier.canvas((28, 28, 1), slots=5, rows=batch.rows, pad=batch.pad)
    for slot, image in enumerate(images):
        canvas.place(slot, image)
    slots = np.arange(64) % 5
    unchanged = Edits(np.zeros(0, np.int64), np.zeros((0, 1), np.float32), np.zeros(65, np.int64))
    scores = canvas.score(slots, unchanged)
    assert np.array_equal(scores, scores[:5][slots])


def test_a_call_held_up_by_a_failure_is_no_measure_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        """Takes 0.01 s; every second call fails first, which takes 0.2 s more."""

        clock, calls, failures = 0.0, 0, 0

        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            self.calls += 1
            failed = self.calls % 2 == 0
            self.failures += failed
            self.clock += 0.21 if failed else 0.01
            return images

    classifier = Failing()
    monkeypatch.setattr(batching.time, "perf_counter", lambda: classifier.clock)
    assert batching._seconds(classifier, np.zeros((1, 4, 4, 1), np.float32)) == pytest.approx(0.01)  # type: ignore[arg-type]
