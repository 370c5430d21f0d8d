"""Compiled inner loops give the bits of the numpy code that they stand in for, and are loaded when they pay."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustest import compiled, rehearsal
from robustest.attack.memory import Memory
from robustest.attack.record import rounded_to_eight_bit, state_keys
from robustest.results import Edits

pytestmark = pytest.mark.usefixtures("loops_as_before")
needs_numba = pytest.mark.skipif(not compiled.installed(), reason="numba (extra `fast`) is not installed")


def random_edits(rng: np.random.Generator, count: int, channels: int) -> Edits:
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 6, count))]).astype(np.int64)
    values = rng.random((int(offsets[-1]), channels), dtype=np.float32)
    return Edits(rng.integers(0, 1 << 20, len(values)), values, offsets)


@needs_numba
@given(seed=st.integers(0, 1000), count=st.integers(1, 20), channels=st.sampled_from([1, 3]))
def test_keys_and_rounding_are_the_same_bits(seed: int, count: int, channels: int) -> None:
    edits = random_edits(np.random.default_rng(seed), count, channels)
    compiled.use(False)
    keys, rounded = state_keys(edits), rounded_to_eight_bit(edits.values)
    compiled.use(True)
    assert (state_keys(edits) == keys).all()
    assert (rounded_to_eight_bit(edits.values) == rounded).all()


@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=needs_numba)])
@given(
    steps=st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=30),
    # Keys that collide in every table: equal in their lowest bits.
    shift=st.sampled_from([0, 20, 58]),
)
def test_a_memory_answers_like_a_dict(fast: bool, steps: list[list[int]], shift: int) -> None:
    compiled.use(fast)
    memory, wanted = Memory(), dict[int, float]()
    for step in steps:
        keys = np.array([key << shift for key in step], np.uint64)
        out = np.empty(len(keys))
        assert memory.find(keys, out) == sum(key not in wanted for key in step)
        assert out.tolist() == pytest.approx([wanted.get(key, np.nan) for key in step], nan_ok=True)
        memory.add(keys, np.array([key / 7 for key in step]))
        wanted |= {key: key / 7 for key in step}
        assert len(memory) == len(wanted)


@needs_numba
def test_a_memory_goes_over_to_a_table_with_all_it_knows() -> None:
    compiled.use(False)
    memory, keys = Memory(), np.arange(1000, dtype=np.uint64)
    memory.add(keys[:500], keys[:500] / 2)
    compiled.use(True)
    memory.add(keys[500:], keys[500:] / 2)
    out = np.empty(1000)
    assert (memory.find(keys, out), len(memory)) == (0, 1000)
    assert (out == keys / 2).all()


@needs_numba
@pytest.mark.parametrize(("kept", "enough"), [(100, 20_000), (98, 29_600), (50, 260_000), (0, 500_000)])
def test_compiled_loops_come_after_enough_queries_and_not_before(
    monkeypatch: pytest.MonkeyPatch, kept: int, enough: int
) -> None:
    """Enough to read compiled code that is kept from before; the more, the more of it must be compiled first."""
    monkeypatch.setattr(compiled, "_gate", compiled._Gate())
    monkeypatch.setattr(compiled, "kept_loops", lambda: (kept, 100))
    compiled.worked(enough - 1)
    assert not compiled.fast()
    compiled.worked(1)
    assert compiled.fast()


@needs_numba
def test_compiled_loops_come_at_once_where_half_of_the_queries_allowed_would_be_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled, "_gate", compiled._Gate())
    monkeypatch.setattr(compiled, "kept_loops", lambda: (100, 100))
    compiled.worked(1_000)
    compiled.expect(37_999)  # half of them are 18,999, and 1,000 were scored before
    assert not compiled.fast()
    compiled.expect(38_000)
    assert compiled.fast()


def test_without_numba_nothing_is_compiled_however_much_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_gate", compiled._Gate())
    monkeypatch.setattr(compiled, "installed", lambda: False)
    compiled.expect(10_000_000)
    compiled.worked(10_000_000)
    assert not compiled.fast()
    compiled.use(True)
    assert not compiled.fast()


@needs_numba
def test_a_loop_is_kept_where_code_of_this_very_version_lies(tmp_path: Path) -> None:
    def loop() -> None:
        """Stands where it stands in this module."""

    line = loop.__code__.co_firstlineno
    kernel = SimpleNamespace(__name__="loop", py_func=loop, stats=SimpleNamespace(cache_path=str(tmp_path)))
    assert not compiled._is_kept(kernel)
    (tmp_path / f"test_compiled.loop-{line + 1}.py311.1.nbc").touch()  # of a version that stood a line below
    (tmp_path / f"other.loop-{line}.py311.1.nbc").touch()
    assert not compiled._is_kept(kernel)
    (tmp_path / f"test_compiled.loop-{line}.py311.1.nbc").touch()
    assert compiled._is_kept(kernel)
    kernel.stats.cache_path = None  # no folder that a cache could be written to
    assert not compiled._is_kept(kernel)


@needs_numba
def test_a_rehearsal_compiles_what_a_run_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """All loops but those that hand over from numpy, and what it keeps opens the gate where reading it pays."""
    kept, count = rehearsal.compile_loops()
    assert 0 < count - 2 <= kept <= count
    monkeypatch.setattr(compiled, "_gate", compiled._Gate())
    compiled.worked(30_000)
    assert compiled.fast()
