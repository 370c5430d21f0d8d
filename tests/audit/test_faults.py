"""Faults: nothing acknowledged is lost, nothing is half-written, and the final result is the uninterrupted one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
import pytest

from robustest.audit import files, finish
from robustest.audit import supervise as supervise_module
from robustest.audit.deaths import Death
from robustest.audit.plan import PLAN, RESULT, load_plan
from robustest.audit.run import run_audit
from robustest.audit.status import counted, run_status
from robustest.errors import EnvironmentFailure
from robustest.images import ImageSet
from robustest.results import Verdict
from robustest.settings import AttackSettings
from tests.audit.conftest import images_for

NAME = "robustest_linear:scores"
QUERIES = 40


@pytest.fixture
def data(linear: ModuleType, tmp_path: Path) -> Path:
    """30 images as an .npz file."""
    images = images_for(linear, 30)
    path = tmp_path / "images.npz"
    np.savez(path, images=images.images, labels=images.labels)
    return path


@pytest.fixture
def whole(data: Path, tmp_path: Path) -> bytes:
    """The result of the same audit, never interrupted."""
    from robustest.images import load_images

    settings = AttackSettings(queries=QUERIES)
    run_audit(NAME, load_images(data), None, settings, tmp_path / "whole", command=command_of())
    return (tmp_path / "whole" / RESULT).read_bytes()


def command_of() -> str:
    return f"robustest audit {NAME} images.npz -o DIR --queries {QUERIES}"


def start(linear: ModuleType, data: Path, run: Path, *more: str, wait: float = 0.0) -> subprocess.Popen[str]:
    """`robustest audit` in a process of its own, slowed down by `wait` seconds an image scored."""
    folder = str(Path(str(linear.__file__)).parent)
    environment = {**os.environ, "PYTHONPATH": folder, "LINEAR_WAIT": str(wait)}
    words = ["audit", NAME, str(data), "-o", str(run), "--queries", str(QUERIES), *more]
    # Whoever runs the tests in the background may ignore Ctrl-C, and would pass that on.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    return subprocess.Popen(
        [sys.executable, "-c", f"{heeding}; from robustest.cli import main; main()", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(run: Path) -> int:
    """Images that have their row."""
    return counted(run, load_plan(run)).done if (run / PLAN).is_file() else 0


def until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_kill_9_in_the_middle_then_again_gives_the_uninterrupted_result(
    linear: ModuleType, data: Path, whole: bytes, tmp_path: Path, workers: int
) -> None:
    run = tmp_path / "run"
    with start(linear, data, run, "--workers", str(workers), wait=0.01) as process:
        until(lambda: rows(run) >= 3)
        process.send_signal(signal.SIGKILL)
    kept = rows(run)
    assert 3 <= kept < 30
    with start(linear, data, run, "--workers", str(workers)) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert (run / RESULT).read_bytes() == whole


def test_kill_9_of_the_workers_alone_does_not_end_the_run(
    linear: ModuleType, data: Path, whole: bytes, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with start(linear, data, run, "--workers", "2", wait=0.005) as process:
        for kill in range(3):
            until(lambda kill=kill: rows(run) >= 2 * kill + 1)
            workers = run_status(run, load_plan(run)).workers
            if workers:
                os.kill(workers[0].pid, signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert (run / RESULT).read_bytes() == whole
    assert run_status(run, load_plan(run)).failures.get("SIGKILL", 0) >= 1


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_resumable_run_and_130(
    linear: ModuleType, data: Path, whole: bytes, tmp_path: Path, sign: signal.Signals
) -> None:
    run = tmp_path / "run"
    with start(linear, data, run, wait=0.01) as process:
        until(lambda: rows(run) >= 2)
        process.send_signal(sign)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Run the same command again" in said
    assert "Traceback" not in said
    plan = load_plan(run)
    now = run_status(run, plan)
    assert (now.workers, now.counted.playing, now.failures) == ((), 0, {})
    with start(linear, data, run) as process:
        process.communicate(timeout=120)
    assert (run / RESULT).read_bytes() == whole


def test_two_processes_on_one_folder_both_end_with_the_result(
    linear: ModuleType, data: Path, whole: bytes, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with start(linear, data, run, wait=0.003) as one, start(linear, data, run, wait=0.003) as two:
        for process in (one, two):
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
    assert (run / RESULT).read_bytes() == whole


@pytest.mark.parametrize(
    ("poison", "how"), [("abort", "SIGABRT"), ("exit", "exit status 3"), ("fault", "IndexError: list index")]
)
def test_a_poison_image_is_retried_alone_then_unknown_and_the_run_ends(
    linear: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: str, how: str
) -> None:
    monkeypatch.setenv("LINEAR_POISON", poison)
    images = images_for(linear, 30)
    pixels = images.images.copy()
    pixels[13, 0, :2] = 3
    settings = AttackSettings(queries=12, attack="one-scan")
    marked = ImageSet(pixels, images.labels, images.names)
    results = set()
    for workers in (1, 2):
        run = tmp_path / str(workers)
        summary = run_audit(NAME, marked, None, settings, run, workers=workers, isolate=True)
        record = summary.records[13]
        assert record.verdict is Verdict.UNKNOWN
        assert how in record.reason
        assert summary.counts.unknown == 1
        assert sum(run_status(run, load_plan(run)).failures.values()) == 2
        results.add((run / RESULT).read_bytes())
    assert len(results) == 1


def test_who_takes_a_shard_over_waits_for_word_of_how_its_owner_died(
    linear: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINEAR_POISON", "abort")
    note = supervise_module.note_death

    def late(run: Path, worker: str, death: Death) -> None:
        time.sleep(1.0)  # the other worker has looked for a shard three times by then
        note(run, worker, death)

    monkeypatch.setattr(supervise_module, "note_death", late)
    images = images_for(linear, 30)
    pixels = images.images.copy()
    pixels[13, 0, :2] = 3
    marked = ImageSet(pixels, images.labels, images.names)
    settings = AttackSettings(queries=12, attack="one-scan")
    run_audit(NAME, marked, None, settings, tmp_path / "run", workers=2, isolate=True)
    assert run_status(tmp_path / "run", load_plan(tmp_path / "run")).failures == {"SIGABRT": 2}


def test_workers_that_die_before_they_begin_end_the_run_with_a_reason(
    linear: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_for(linear, 12)
    pixels = images.images.copy()
    pixels[:, 0, :2] = 3
    labels = linear.scores(pixels.astype(np.float32) / np.float32(255)).argmax(axis=1)
    monkeypatch.setattr("robustest.audit.run.work_here", lambda *_, **__: None)
    with pytest.raises(Exception, match="not finished"):
        run_audit(NAME, pixels, labels, AttackSettings(queries=5), tmp_path / "run", isolate=True)
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(Path(str(linear.__file__)).parent))
    monkeypatch.setenv("LINEAR_POISON", "abort")
    from robustest.audit.supervise import supervise

    with pytest.raises(EnvironmentFailure, match="die before they begin an image"):
        supervise(tmp_path / "run", workers=1)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many kB at `folder`; skips where this user may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("size", [8, 150])
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(
    linear: ModuleType, data: Path, whole: bytes, tmp_path: Path, size: int
) -> None:
    with small_disk(tmp_path / "disk", size):
        run = tmp_path / "disk" / "run"
        with start(linear, data, run) as process:
            _, said = process.communicate(timeout=120)
        assert process.returncode == 4, said
        assert "no space is left" in said
        assert "Traceback" not in said
        assert not (run / RESULT).exists()
        assert not list(run.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=20m", str(tmp_path / "disk")], check=True)
        with start(linear, data, run) as process:
            _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert (run / RESULT).read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_named(linear: ModuleType, data: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1000):
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        with start(linear, data, tmp_path / "disk" / "run") as process:
            _, said = process.communicate(timeout=60)
        assert process.returncode == 4
        assert "cannot be written" in said


def test_a_disk_that_fills_while_the_result_is_written_leaves_no_half_of_it(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_audit(linear.scores, images, None, settings, tmp_path / "whole")
    written = 0

    def full(path: Path, *, sync: bool = True) -> Any:
        class Limited:
            def __init__(self, handle: IO[bytes]) -> None:
                self.handle = handle

            def write(self, part: bytes) -> int:
                nonlocal written
                written += len(part)
                if path.name == RESULT and written > 4000:
                    raise OSError(errno.ENOSPC, "No space left on device", str(path))
                return self.handle.write(part)

        @contextmanager
        def limited() -> Iterator[Any]:
            with files.writing(path, sync=sync) as handle:
                yield Limited(handle) if path.name == RESULT else handle

        return limited()

    monkeypatch.setattr(finish, "writing", full)
    with pytest.raises(EnvironmentFailure, match="no space is left"):
        run_audit(linear.scores, images, None, settings, tmp_path / "run")
    assert not (tmp_path / "run" / RESULT).exists()
    assert not list((tmp_path / "run").glob(".*.tmp"))
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(Path(str(linear.__file__)).parent))
    run_audit(linear.scores, images, None, settings, tmp_path / "run")
    assert (tmp_path / "run" / RESULT).read_bytes() == (tmp_path / "whole" / RESULT).read_bytes()
