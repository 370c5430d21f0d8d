"""Fixtures and profiles that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from robustest import compiled

pytest_plugins = ["pytester"]

_CALM = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, suppress_health_check=_CALM)
settings.register_profile("thorough", max_examples=1000, deadline=None, suppress_health_check=_CALM)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def zoo() -> Path:
    """Folder of real models and images; tests that need it skip where it is not."""
    return _folder("zoo", "manifest.json")


@pytest.fixture(scope="session")
def verify() -> Path:
    """Folder of networks with known answers; tests that need it skip where it is not."""
    return _folder("verify", "README.md")


def _folder(name: str, file: str) -> Path:
    folder = _SHARED / name
    if not (folder / file).is_file():
        pytest.skip(f"needs the folder {name}/ in shared/ beside the repository, which is not here")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A random stream of fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def loops_as_before() -> Iterator[None]:
    """Inner loops are compiled after a test where they were before it, and in numpy where they were in numpy."""
    before = compiled.fast()
    yield
    compiled.use(before)
