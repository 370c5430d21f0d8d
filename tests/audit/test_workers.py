"""How many processes an audit is given where the user does not say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustest.audit import workers
from robustest.audit.plan import Plan
from robustest.audit.run import plan_run, run_audit
from robustest.audit.workers import free_memory, usable_cores, usual_workers
from robustest.classifiers import load_classifier
from robustest.classifiers.onnx_file import OnnxClassifier
from robustest.images import ImageSet, load_images
from robustest.settings import AttackSettings
from tests.models import linear_scores

DEMO = Path(workers.__file__).parents[1] / "demo"


@pytest.fixture
def model() -> OnnxClassifier:
    return OnnxClassifier(DEMO / "models/plain.onnx")


@pytest.fixture
def plan(model: OnnxClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """1,000 queries an image at a millisecond each, and 20 microseconds beside it; memory for all."""
    monkeypatch.setattr(workers, "_seconds_each", lambda classifier, plan: 1e-3)
    monkeypatch.setattr(workers, "free_memory", lambda: 1 << 40)
    images = load_images(DEMO / "images.npz").take(range(32))
    return plan_run(tmp_path / "run", model, images, AttackSettings(queries=1000), origin=None, shards=16)


def test_one_a_core_where_each_has_five_seconds_of_work(model: OnnxClassifier, plan: Plan) -> None:
    assert usual_workers(model, plan, left=32, cores=4) == 4
    assert usual_workers(model, plan, left=32, cores=64) == 6  # 32.6 s of work
    assert usual_workers(model, plan, left=10, cores=4) == 2  # 10.2 s
    assert usual_workers(model, plan, left=9, cores=4) == 1
    assert usual_workers(model, plan, left=0, cores=4) == 1
    assert usual_workers(model, plan, left=32, cores=1) == 1


def test_no_more_than_there_are_shards(model: OnnxClassifier, plan: Plan) -> None:
    assert usual_workers(model, replace(plan, shard=16), left=32, cores=8) == 2


def test_as_many_as_there_is_memory_for(model: OnnxClassifier, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    each = 400 << 20  # the model and its games are small beside it
    for gigabytes, found in ((0, 1), (1, 1), (2, 2), (100, 6)):
        monkeypatch.setattr(workers, "free_memory", lambda gigabytes=gigabytes: 2.1 * gigabytes * each)
        assert usual_workers(model, plan, left=32, cores=8) == found
    monkeypatch.setattr(workers, "free_memory", lambda: None)
    assert usual_workers(model, plan, left=32, cores=8) == 1


def test_one_a_device_and_one_for_any_other_classifier(plan: Plan, model: OnnxClassifier) -> None:
    scores = load_classifier(linear_scores(np.ones((32 * 32 * 3, 2), np.float32), np.zeros(2, np.float32)))
    assert usual_workers(scores, plan, left=32, cores=8) == 1
    assert usual_workers(scores, plan, left=32, devices=["cuda:0", "cuda:1"], cores=8) == 2
    assert usual_workers(model, plan, left=32, devices=["cpu"], cores=8) == 1


def test_free_memory_is_what_the_kernel_and_the_control_group_leave(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    4000 kB\n")
    assert free_memory(tmp_path) == 4_096_000
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("100\n")
    assert free_memory(tmp_path) == 4_096_000
    (group / "memory.max").write_text("1100\n")
    assert free_memory(tmp_path) == 1000


def test_this_machine_has_a_core() -> None:
    assert usable_cores() >= 1


def test_an_audit_without_a_number_of_workers_gives_the_same_result(
    model: OnnxClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: ImageSet = load_images(DEMO / "images.npz").take(range(4))
    results = []
    for count in (1, 2):
        monkeypatch.setattr("robustest.audit.run.usual_workers", lambda *_, count=count, **__: count)
        run = tmp_path / str(count)
        run_audit(model, images, settings=AttackSettings(queries=30), out=run, workers=None, shards=4)
        results.append((run / "result.json").read_bytes())
    assert results[0] == results[1]


def test_a_short_audit_stays_in_one_process(model: OnnxClassifier, tmp_path: Path) -> None:
    images = load_images(DEMO / "images.npz").take(range(10))
    plan = plan_run(tmp_path / "run", model, images, AttackSettings(queries=10), origin=None)
    assert usual_workers(model, plan, left=10, cores=8) == 1
