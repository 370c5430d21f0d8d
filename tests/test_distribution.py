"""Wheel and sdist: built from this checkout, installed into an empty environment, and used there without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import robustest

ROOT = Path(robustest.__file__).resolve().parents[1]


def call(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed; what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    return folder


def test_the_wheel_holds_both_packages_their_data_and_the_licences_and_nothing_of_the_tests(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for wanted in (
        "games/__init__.py",
        "robustest/py.typed",
        "robustest/demo/models/plain.onnx",
        "robustest/demo/models/provable.safetensors",
        "robustest/demo/images.npz",
        "robustest/demo/LICENSE-fashion-mnist",
        "robustest/audit/result.schema.json",
        "robustest/report/templates/report.html.j2",
    ):
        assert wanted in names, wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "examples/", "reports/"))]


def test_the_sdist_can_be_built_from_and_holds_the_tests(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    top = names[0].split("/")[0]
    assert f"{top}/tests/conftest.py" in names
    assert f"{top}/pyproject.toml" in names


def test_the_bare_wheel_works_in_an_empty_environment_without_torch(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    call(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints" / "cpu.txt", wheel, cwd=tmp_path)
    script = tmp_path / "env" / "bin" / "robustest"
    assert "audit" in call(script, "--help", cwd=tmp_path)
    call(
        python,
        "-c",
        "import importlib.util as u; assert u.find_spec('torch') is None; from robustest.demo import MODELS, IMAGES; "
        "import robustest; r = robustest.run_audit(str(MODELS['plain']), robustest.load_images(IMAGES).take(range(3)), "
        "settings=robustest.AttackSettings(queries=60), out='run'); assert r.counts.images == 3",
        cwd=tmp_path,
    )
    assert (tmp_path / "run" / "result.json").is_file()
