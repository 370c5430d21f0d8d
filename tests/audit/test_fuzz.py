"""Files of a run that anybody may have changed: a clear error or an answer, never a crash."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustest.audit.plan import load_plan
from robustest.audit.run import run_audit
from robustest.audit.summary import load_summary
from robustest.errors import RobustestError
from robustest.images import ImageSet
from robustest.settings import AttackSettings

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(way for key, child in inner for way in places(child, (*path, key)))]


@pytest.mark.parametrize(
    ("name", "way", "new"),
    [
        ("result.json", ("images", 0, "queries"), 2**70),
        ("result.json", ("images", 0, "queries"), float("inf")),
        ("plan.json", ("rows",), float("inf")),
        ("plan.json", ("shard",), float("nan")),
    ],
)
def test_numbers_beyond_all_bounds_are_refused(
    linear: ModuleType, images: ImageSet, tmp_path: Path, name: str, way: tuple[Any, ...], new: Any
) -> None:
    run_audit(linear.scores, images.take(range(6)), None, AttackSettings(queries=10), tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_text(json.dumps(changed(json.loads(path.read_text()), way, new)))
    with pytest.raises(RobustestError):
        load_summary(path) if name == "result.json" else load_plan(path.parent)


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with one place changed."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize(
    ("name", "load"), [("result.json", load_summary), ("plan.json", lambda p: load_plan(p.parent))]
)
def test_a_file_with_one_place_changed_is_read_or_refused(
    linear: ModuleType, images: ImageSet, tmp_path: Path, name: str, load: Callable[[Path], object]
) -> None:
    run_audit(linear.scores, images.take(range(6)), None, AttackSettings(queries=60, seed=1), tmp_path / "run")
    path = tmp_path / "run" / name
    text = path.read_text()
    content = json.loads(text)
    ways = places(content)

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(ways), anything)
    def holds(way: tuple[Any, ...], new: Any) -> None:
        path.write_text(json.dumps(changed(content, way, new)))
        with suppress(RobustestError):
            load(path)

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(text)), st.integers(0, 20), st.binary(max_size=6))
    def holds_for_bytes(start: int, gone: int, new: bytes) -> None:
        raw = text.encode()
        path.write_bytes(raw[:start] + new + raw[start + gone :])
        with suppress(RobustestError):
            load(path)

    holds()
    holds_for_bytes()
