"""Drawing edits on a canvas scores the same images as rendering each one whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustest import compiled
from robustest.classifiers.canvas import HostCanvas
from robustest.classifiers.spec import InputSpec
from robustest.classifiers.torch_module import TorchClassifier
from robustest.results import Edits

needs_numba = pytest.mark.skipif(not compiled.installed(), reason="numba (extra `fast`) is not installed")
SPECS = [
    None,
    InputSpec("NHWC", "RGB", 1.0, (3.0,), (2.0,)),
    InputSpec("NCHW", "BGR", 1 / 255, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
]


def some_edits(rng: np.random.Generator, count: int, pixels: int, channels: int) -> Edits:
    states = []
    for _ in range(count):
        chosen = rng.choice(pixels, rng.integers(0, 4), replace=False)
        states.append({int(p): rng.random(channels, dtype=np.float32) for p in chosen})
    return Edits.of(states, channels)


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=needs_numba)])
@given(seed=st.integers(0, 10_000), which=st.integers(0, 2), rows=st.integers(1, 7), pad=st.booleans())
def test_every_call_scores_exactly_the_edited_images(fast: bool, seed: int, which: int, rows: int, pad: bool) -> None:
    before = compiled.use(fast)
    rng = np.random.default_rng(seed)
    spec, shape = SPECS[which], (3, 4, 3)
    calls: list[int] = []

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(batch))
        return batch.reshape(len(batch), -1).copy()

    canvas = HostCanvas(run, spec, shape, slots=3, rows=rows, most=rows + rows // 2, pad=pad)
    bases = rng.random((3, *shape), dtype=np.float32)
    for slot in range(3):
        canvas.place(slot, bases[slot])
    for step in range(4):
        count = int(rng.integers(1, 10))
        slots, edits = rng.integers(0, 3, count), some_edits(rng, count, 12, 3)
        wanted = np.concatenate([edits.one(i).apply(bases[slot]) for i, slot in enumerate(slots)])
        prepared = wanted if spec is None else spec.prepare(wanted)
        assert (canvas.score(slots, edits) == prepared.reshape(count, -1)).all()
        if step == 1:
            bases[1] = rng.random(shape, dtype=np.float32)
            canvas.place(1, bases[1])
    assert max(calls) <= (rows if pad else rows + rows // 2)
    assert not pad or set(calls) == {rows}
    compiled.use(before)


@pytest.mark.parametrize("spec", SPECS[1:])
def test_the_torch_canvas_scores_what_the_module_scores_on_whole_images(spec: InputSpec) -> None:
    rng = np.random.default_rng(1)
    torch.manual_seed(0)
    classifier = TorchClassifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4)).eval(), spec)
    bases = rng.random((2, 3, 4, 3), dtype=np.float32)
    canvas = classifier.canvas((3, 4, 3), slots=2, rows=4, pad=False)
    for slot in range(2):
        canvas.place(slot, bases[slot])
    slots, edits = rng.integers(0, 2, 9), some_edits(rng, 9, 12, 3)
    whole = np.concatenate([edits.one(i).apply(bases[slot]) for i, slot in enumerate(slots)])
    assert canvas.score(slots, edits) == pytest.approx(classifier(whole), abs=1e-5)


@pytest.mark.parametrize("steady", [True, False])
def test_few_images_go_in_a_smaller_batch_where_that_gives_the_same_bits(steady: bool) -> None:
    """A module that tells how many images it was given, or keeps that to itself."""
    calls: list[int] = []

    class Telling(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            calls.append(len(images))
            sums = images.flatten(1).sum(1)
            return torch.stack([sums, sums * 0 if steady else torch.full_like(sums, len(images))], 1)

    canvas = TorchClassifier(Telling().eval(), InputSpec("NCHW", "gray")).canvas((6, 6, 1), slots=1, rows=32, pad=True)
    rng = np.random.default_rng(0)
    canvas.place(0, rng.random((6, 6, 1), dtype=np.float32))
    for count in (20, 20, 20, 18, 20, 5, 40):
        edits = some_edits(rng, count, 36, 1)
        scores = canvas.score(np.zeros(count, np.int64), edits)
        assert scores.shape == (count, 2)
        assert (scores[:, 1] == (0 if steady else 32)).all()
    # A size is tried once filling up in its place has cost as much as that, and used by itself after two tries.
    if steady:
        assert calls == [32, 32, 20, 32, 32, 32, 20, 20, 5, 32, 20, 8]
    else:
        assert calls == [32, 32, 20, 32, 32, 32, 21, 32, 5, 32, 32, 8]


def test_a_small_batch_is_used_by_itself_only_after_many_scores_were_the_same() -> None:
    """One image, two scores each: chance could make so few the same, so 32 are compared, in 16 tries."""
    calls: list[int] = []

    class Summing(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            calls.append(len(images))
            return images.flatten(1)[:, :2]

    canvas = TorchClassifier(Summing().eval(), InputSpec("NCHW", "gray")).canvas((6, 6, 1), slots=1, rows=4, pad=True)
    canvas.place(0, np.zeros((6, 6, 1), np.float32))
    for _ in range(18):
        canvas.score(np.zeros(1, np.int64), some_edits(np.random.default_rng(0), 1, 36, 1))
    assert calls == [4, 1] * 16 + [1, 1]
