"""The benchmark: its figures fit together, whoever does the work."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import robustest
from robustest.attack.driver import Clock
from robustest.bench import Turn, measure, shares_of
from robustest.classifiers import load_classifier
from robustest.cli import run
from robustest.errors import EnvironmentFailure
from robustest.images import ImageSet, load_images
from robustest.settings import AttackSettings

DEMO = Path(robustest.__file__).parent / "demo"


def opened(path: Path, threads: int) -> object:
    return load_classifier(path, threads=threads)


@pytest.mark.parametrize("workers", [1, 2])
def test_queries_rates_and_shares_fit_together(workers: int) -> None:
    images = load_images(DEMO / "images.npz").take(range(4))
    path = DEMO / "models" / "plain.onnx"
    speed = measure(
        load_classifier(path),
        images,
        AttackSettings(queries=40),
        turns=2,
        workers=workers,
        opener=functools.partial(opened, path),  # type: ignore[arg-type]
    )
    assert speed.workers == workers
    assert speed.queries <= 2 * 4 * 40
    assert len(speed.ratios) == 2
    assert speed.ratio == pytest.approx(np.median(speed.ratios))
    assert speed.audit_per_second > 0
    assert speed.raw_per_second >= speed.raw_one_process_per_second
    assert speed.peak_memory_bytes > 10 << 20
    assert {"tree", "merge", "wait", "rest"} <= set(speed.shares)
    for shares in (speed.shares, speed.shares_beside):
        assert all(share >= -1e-9 for share in shares.values())
        assert not shares or sum(shares.values()) == pytest.approx(1)
    assert {"model", "render"} <= set(speed.shares_beside or speed.shares)
    assert {"raw_per_second", "audit_per_second", "ratio", "peak_memory_bytes", "shares"} <= set(speed.as_json())


@pytest.mark.parametrize("model", [3.0, 9.0])
def test_shares_add_up_to_one_for_each_thread(model: float) -> None:
    """Two processes of 10 s each, scoring for 3 s each; a raw rate measured too low would have the model take 9 s of these 6."""
    within = Turn(1, 10.0, Clock(score=3.0, search=4.0, merge=1.0, wait=0.0), 0, beside=False)
    used = min(model, 6.0) / 20
    assert shares_of([within] * 2, model) == (
        pytest.approx({"model": used, "render": 0.3 - used, "tree": 0.4, "merge": 0.1, "wait": 0.0, "rest": 0.2}),
        {},
    )
    beside = Turn(1, 10.0, Clock(score=3.0, search=6.0, merge=1.0, wait=2.0), 0, beside=True)
    assert shares_of([beside] * 2, model) == (
        pytest.approx({"tree": 0.6, "merge": 0.1, "wait": 0.2, "rest": 0.1}),
        pytest.approx({"model": used, "render": 0.3 - used, "idle": 0.7}),
    )


def test_speed_does_not_depend_on_who_is_right() -> None:
    """Labels are wrong for both images, and each is attacked nevertheless: one query each would be all otherwise."""
    images = ImageSet(
        images=np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1), labels=np.zeros(2, int), names=("a", "b")
    )
    wrong = load_classifier(
        lambda batch: np.stack([batch.sum(axis=(1, 2, 3)) - 1e3, batch.max(axis=(1, 2, 3))], axis=1)
    )
    speed = measure(wrong, images, AttackSettings(queries=5), turns=1)
    assert (speed.images, speed.right, speed.queries) == (2, 0, 10)


def killed(path: Path, threads: int) -> object:
    os._exit(1)


def test_a_process_that_dies_is_an_error_and_no_hang() -> None:
    path = DEMO / "models" / "plain.onnx"
    with pytest.raises(EnvironmentFailure, match="2 processes died"):
        measure(
            load_classifier(path),
            load_images(DEMO / "images.npz").take(range(4)),
            AttackSettings(queries=5),
            turns=1,
            workers=2,
            opener=functools.partial(killed, path),  # type: ignore[arg-type]
        )


def test_the_figures_go_to_a_folder_that_is_made_and_a_place_that_cannot_be_is_said_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(DEMO / "models" / "plain.onnx"), str(DEMO / "images.npz"), "--queries", "20", "--images", "2"]
    words += ["--turns", "1", "--workers", "1", "--json"]
    assert run([*words, str(tmp_path / "new" / "bench.json")]) == 0
    assert json.loads((tmp_path / "new" / "bench.json").read_text())["queries"] == 40
    capsys.readouterr()
    monkeypatch.setattr("robustest.bench.measure", lambda *_, **__: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    assert run([*words, str(tmp_path / "file" / "bench.json")]) == 4
    assert "cannot be used" in capsys.readouterr().err


def test_what_was_guessed_is_said_once_however_many_processes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "alone.onnx"
    shutil.copy(DEMO / "models" / "plain.onnx", model)
    words = ["bench", str(model), str(DEMO / "images.npz"), "--queries", "20", "--images", "2", "--turns", "1"]
    assert run([*words, "--workers", "2"]) == 0
    assert capfd.readouterr().err.count("guessed of alone.onnx") == 1
