"""Shards placed by Dask and Ray, a worker killed in the middle: the result of a run in one process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from robustest.audit.engines import place
from robustest.audit.finish import finish_run, unfinished
from robustest.audit.plan import RESULT, Plan, plan_key
from robustest.audit.run import plan_run, run_audit
from robustest.audit.status import counted
from robustest.classifiers import load_classifier
from robustest.errors import EnvironmentFailure, InvalidSetting, MissingExtra
from robustest.settings import AttackSettings
from tests.audit.conftest import images_for

NAME = "robustest_linear:scores"
SETTINGS = AttackSettings(queries=40)


def planned(linear: ModuleType, folder: Path) -> Plan:
    """A run of 40 images in 8 shards."""
    images = images_for(linear, 40)
    return plan_run(folder, load_classifier(NAME), images, SETTINGS, origin=NAME, shards=8, command="")


def whole(linear: ModuleType, folder: Path) -> bytes:
    run_audit(NAME, images_for(linear, 40), None, SETTINGS, folder, command="")
    return (folder / RESULT).read_bytes()


@pytest.mark.parametrize("address", ["slurm://x", "dask://", "dask", "host:1"])
def test_an_address_of_no_known_engine_is_refused(linear: ModuleType, tmp_path: Path, address: str) -> None:
    planned(linear, tmp_path / "run")
    with pytest.raises(InvalidSetting, match="dask://host:port or ray://host:port"):
        place(address, tmp_path / "run")


@pytest.mark.parametrize(("address", "package"), [("dask://h:1", "distributed"), ("ray://h:1", "ray")])
def test_an_engine_that_is_not_installed_is_named_with_its_extra(
    linear: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, package: str
) -> None:
    planned(linear, tmp_path / "run")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=re.escape(f"robustest[{address.partition(':')[0]}]")):
        place(address, tmp_path / "run")


@contextmanager
def dask_cluster(linear: ModuleType) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers in processes of their own: its address, and the workers."""
    environment = {**os.environ, "PYTHONPATH": str(Path(str(linear.__file__)).parent), "LINEAR_WAIT": "0.005"}
    environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "10"
    scheduler = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert scheduler.stderr is not None
    address = ""
    for line in scheduler.stderr:
        found = re.search(r"Scheduler at:\s+tcp://(\S+)", line)
        if found:
            address = found[1]
            break
    threading.Thread(target=scheduler.stderr.read, daemon=True).start()
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "distributed.cli.dask_worker",
                address,
                "--nthreads",
                "1",
                "--no-nanny",
                "--no-dashboard",
            ],
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        for _ in range(2)
    ]
    try:
        yield address, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_dask_with_a_worker_killed_in_the_middle_gives_the_result_of_one_process(
    linear: ModuleType, tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason="needs the extra [dask]")
    expected = whole(linear, tmp_path / "whole")
    run = tmp_path / "run"
    plan = planned(linear, run)
    with dask_cluster(linear) as (address, workers):

        def kill() -> None:
            deadline = time.monotonic() + 120
            while counted(run, plan).done < 3 and time.monotonic() < deadline:
                time.sleep(0.02)
            workers[0].send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        place(f"dask://{address}", run)
        killer.join()
        assert workers[0].poll() == -signal.SIGKILL
    assert not unfinished(run, plan)
    finish_run(run, plan)
    assert (run / RESULT).read_bytes() == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_with_a_worker_killed_in_the_middle_gives_the_result_of_one_process(
    linear: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="needs the extra [ray]")
    expected = whole(linear, tmp_path / "whole")
    run = tmp_path / "run"
    plan = planned(linear, run)
    monkeypatch.setenv("PYTHONPATH", str(Path(str(linear.__file__)).parent))
    monkeypatch.setenv("LINEAR_WAIT", "0.005")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 120
        while counted(run, plan).done < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                title = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::work_on_shard"):
                killed.append(int(process.name))
                os.kill(int(process.name), signal.SIGKILL)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        place("ray://local", run)
    finally:
        killer.join()
        ray.shutdown()
    assert killed
    assert not unfinished(run, plan)
    finish_run(run, plan)
    assert (run / RESULT).read_bytes() == expected
    assert plan.key == plan_key(plan.settings, plan.model, plan.data)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_scheduler_that_is_not_there_is_named(linear: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs the extra [dask]")
    planned(linear, tmp_path / "run")
    with pytest.raises(EnvironmentFailure, match="cannot be reached"):
        place("dask://127.0.0.1:9", tmp_path / "run")
