"""What the README and the examples say runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import robustest

ROOT = Path(robustest.__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder that looks like the repository's root to the README's commands, but can be written to."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "robustest" / "demo").mkdir(parents=True)
    for name in ("models", "images.npz"):
        (folder / "robustest" / "demo" / name).symlink_to(ROOT / "robustest" / "demo" / name)
    return folder


def run(command: list[str], desk: Path) -> subprocess.CompletedProcess[str]:
    """Run in the folder, with this interpreter's scripts first on the path and this checkout importable."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=desk, env=environment, timeout=280, check=False)


def test_the_readmes_commands_run_one_after_the_other(desk: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    assert len(lines) >= 6
    for line in lines:
        done = run(["bash", "-c", line.replace("robustest ", f"{sys.executable} -P -m robustest ", 1)], desk)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (desk / "plain-run" / "report.html").is_file()


def test_the_readmes_library_code_runs_and_its_tests_compile(desk: Path) -> None:
    for block in blocks("python"):
        compile(block, "README.md", "exec")
        if block.startswith("import robustest"):
            done = run([sys.executable, "-P", "-c", block], desk)
            assert done.returncode == 0, done.stderr
            assert "Verdict.FLIPPED" in done.stdout


def test_the_readmes_spec_is_one(tmp_path: Path) -> None:
    from robustest.classifiers.spec import read_spec

    (tmp_path / "model.toml").write_text(blocks("toml")[0])
    assert read_spec(tmp_path / "model.toml").scale == pytest.approx(1 / 255)


def test_every_public_name_and_every_command_is_in_the_readme() -> None:
    from robustest.cli import COMMANDS

    for name in [*robustest.__all__, *COMMANDS]:
        assert f"`{name}`" in README or f"robustest {name}" in README, name


@pytest.mark.parametrize(
    "command",
    [
        ["examples/library.py"],
        ["examples/pretend_gpu.py", "--side", "32", "--images", "4", "--queries", "60", "--turns", "1"],
        [
            "examples/safety_case.py",
            "--out",
            "case",
            "--images",
            "20",
            "--certified",
            "12",
            "--queries",
            "100",
            "--draft",
        ],
    ],
)
def test_examples_run(command: list[str], desk: Path) -> None:
    done = run([sys.executable, str(ROOT / command[0]), *command[1:]], desk)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: so few images can be inconclusive


def test_the_example_project_passes_its_own_tests(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(
        ROOT / "examples" / "pytest_project", tmp_path / "project", ignore=shutil.ignore_patterns(".robustest")
    )
    done = run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not harmless"],
        tmp_path / "project",
    )
    assert done.returncode == 0, done.stdout + done.stderr
