"""Draws in compiled code are numpy's, bit for bit, and leave the stream where numpy would have left it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustest import compiled
from robustest.attack import draws

pytestmark = pytest.mark.usefixtures("loops_as_before")
needs_numba = pytest.mark.skipif(not compiled.installed(), reason="numba (extra `fast`) is not installed")

DRAWS = ["double", "single", "below", "normal"]  # the last one by numpy, in between


@needs_numba
@given(
    seed=st.integers(0, 1000),
    kinds=st.lists(st.tuples(st.sampled_from(DRAWS), st.integers(1, 1 << 31)), max_size=60),
)
def test_a_stream_is_shared_with_numpy(seed: int, kinds: list[tuple[str, int]]) -> None:
    compiled.use(True)
    numpys, ours = np.random.default_rng(seed), np.random.default_rng(seed)
    found = draws.words(ours)
    assert found is not None
    words, rest = found
    for kind, bound in kinds:
        if kind == "double":
            assert numpys.random() == draws.unit(words)
        elif kind == "single":
            assert numpys.random(dtype=np.float32) == draws.small_unit(words, rest)
        elif kind == "below":
            assert numpys.integers(bound) == draws.below(words, rest, bound)
        else:
            assert numpys.standard_normal() == ours.standard_normal()
    assert numpys.random(4).tolist() == ours.random(4).tolist()
    assert numpys.random(dtype=np.float32) == ours.random(dtype=np.float32)


@needs_numba
def test_bounds_that_make_many_draws_fail() -> None:
    """Half of all 32-bit draws are thrown away for a bound just above 2^31; here those just below, and 1, which draws nothing."""
    compiled.use(True)
    numpys, ours = np.random.default_rng(5), np.random.default_rng(5)
    words, rest = draws.words(ours) or pytest.fail("PCG64 is not laid out as known")
    for bound in [1, 3 << 29, (1 << 31) - 1, 1, 5] * 40:
        assert numpys.integers(bound) == draws.below(words, rest, bound)
    assert numpys.random() == ours.random()


def test_other_generators_are_left_to_numpy() -> None:
    assert draws.words(np.random.Generator(np.random.MT19937(1))) is None
