"""Audits of a served model: the in-process result, a model swapped in between, an outage, a token, real servers."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustest.audit.progress import Progress
from robustest.audit.run import run_audit
from robustest.classifiers import InputSpec, load_classifier
from robustest.cli import run
from robustest.demo import FOLDER
from robustest.errors import EnvironmentFailure, RunConflict, SwappedModelError
from robustest.images import ImageSet, load_images
from robustest.serving import InferenceServer, served_model
from robustest.settings import AttackSettings
from tests.classifiers.faulty import FaultyServer, linear

SPEC = InputSpec("NHWC", "RGB")
SETTINGS = AttackSettings(queries=60)
QUICK = "#timeout=3&retries=1&batch=16"


def small_images(count: int = 12) -> ImageSet:
    pixels = np.random.default_rng(1).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    labels = linear(SPEC.prepare(pixels / np.float32(255))).argmax(axis=1)
    return ImageSet(pixels, labels, tuple(f"image {i}" for i in range(count)))


def result_of(folder: Path) -> dict[str, Any]:
    """What was found, without what names the model and the software that scored it."""
    result = json.loads((folder / "result.json").read_text())
    for name in ("source", "sha256", "guessed"):
        del result["model"][name]
    del result["command"], result["versions"]
    return dict(result)


def test_an_audit_of_the_served_file_has_the_files_result_with_any_number_of_workers(tmp_path: Path) -> None:
    model = FOLDER / "models" / "plain.onnx"
    images = load_images(FOLDER / "images.npz").take(range(10))
    run_audit(load_classifier(model, threads=1), images, None, SETTINGS, tmp_path / "file")
    spec = load_classifier(model).info.spec
    with InferenceServer(served_model(model, threads=1)) as server:
        run_audit(server.url, images, None, SETTINGS, tmp_path / "served", spec=spec)
        run_audit(f"{server.url}#batch=8", images, None, SETTINGS, tmp_path / "two", spec=spec, workers=2)
    assert result_of(tmp_path / "served") == result_of(tmp_path / "file")
    assert result_of(tmp_path / "two") == result_of(tmp_path / "file")
    for folder in ("served", "two"):
        served = json.loads((tmp_path / folder / "timing.json").read_text())["served"]
        queries = sum(image["queries"] + image["checks"] for image in result_of(tmp_path / folder)["images"])
        assert served["answered"] - served["repeated"] - served["probes"] >= queries
        assert served["differing"] == 0


def test_a_model_swapped_in_between_makes_the_run_invalid_for_good(tmp_path: Path) -> None:
    images = small_images()

    def swap_after_the_first(progress: Progress) -> None:
        if progress.done:
            server.begin(lambda place: "other")

    with FaultyServer() as server:
        with pytest.raises(SwappedModelError, match=r"differ by up to 0\.5.*The run is invalid"):
            run_audit(
                server.url + QUICK,
                images,
                None,
                SETTINGS,
                tmp_path / "run",
                spec=SPEC,
                progress=swap_after_the_first,
            )
        server.begin(lambda place: None)
        with pytest.raises(RunConflict, match="is invalid"):
            run_audit(server.url + QUICK, images, None, SETTINGS, tmp_path / "run", spec=SPEC)
    assert not (tmp_path / "run" / "result.json").exists()


def test_an_outage_ends_the_run_and_the_same_call_goes_on_where_it_was(tmp_path: Path) -> None:
    images = small_images()
    with FaultyServer() as server:
        run_audit(server.url + QUICK, images, None, SETTINGS, tmp_path / "whole", spec=SPEC)
        server.begin(lambda place: "status:503" if place >= 60 else None)
        with pytest.raises(EnvironmentFailure, match="503"):
            run_audit(server.url + QUICK, images, None, SETTINGS, tmp_path / "run", spec=SPEC)
        server.begin(lambda place: None)
        run_audit(server.url + QUICK, images, None, SETTINGS, tmp_path / "run", spec=SPEC)
    assert result_of(tmp_path / "run") == result_of(tmp_path / "whole")


def test_faults_that_pass_do_not_change_the_result(tmp_path: Path) -> None:
    faults = ("drop", "status:503", "cut", "retry:429:0", "stale", "garbage", "twice", "late:0.1", "hang")
    images = small_images()
    with FaultyServer() as server:
        run_audit(server.url + QUICK, images, None, SETTINGS, tmp_path / "whole", spec=SPEC)
        server.begin(lambda place: faults[place // 7 % len(faults)] if place % 7 == 6 else None)
        often = QUICK.replace("retries=1", "retries=20") + "&patience=20"  # where a retry lands depends on the load
        run_audit(server.url + often, images, None, SETTINGS, tmp_path / "run", spec=SPEC)
        assert {kind for _, kind in server.requests} >= set(faults)
    assert result_of(tmp_path / "run") == result_of(tmp_path / "whole")
    served = json.loads((tmp_path / "run" / "timing.json").read_text())["served"]
    assert served["retried"] > 0
    assert served["sent"] == served["answered"] + served["retried"]
    assert served["differing"] == 0


def test_answers_that_differ_are_a_doubt_in_the_result(tmp_path: Path) -> None:
    with FaultyServer() as server:
        classifier = load_classifier(server.url + QUICK, SPEC)
        server.begin(lambda place: "other" if place == 1 else None)  # the second answer of the first question
        summary = run_audit(classifier, small_images(4), None, SETTINGS, tmp_path / "run")
    assert any("The server does not repeat" in doubt and "by up to 0.5" in doubt for doubt in summary.doubts)


def test_a_token_is_nowhere_in_a_run_folder_though_its_workers_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVED_TOKEN", "s3cr3t-value")
    images = small_images(4)
    np.savez(tmp_path / "images.npz", images=images.images, labels=images.labels)
    (tmp_path / "m.toml").write_text(
        '[input]\nlayout = "NHWC"\n[server]\ntoken_env = "SERVED_TOKEN"\nbatch = 8\nheaders = {X-Key = "env:SERVED_TOKEN"}\n'
    )
    with FaultyServer() as server:
        server.begin(lambda place: None)
        flags = ["--input", str(tmp_path / "m.toml"), "--queries", "30", "-o", str(tmp_path / "run")]
        assert run(["audit", server.url, str(tmp_path / "images.npz"), *flags]) == 0
        assert len(server.headers) > 20
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer s3cr3t-value"}
    assert "token_env=SERVED_TOKEN" in (tmp_path / "run" / "plan.json").read_text()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if b"s3cr3t" in path.read_bytes()]
    assert "s3cr3t" not in "".join(capfd.readouterr())


def test_serve_is_a_command_that_says_how_to_audit_it(tmp_path: Path) -> None:
    import subprocess

    program = "from robustest.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", str(FOLDER / "models" / "plain.onnx"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(word for line in process.stdout for word in line.split() if word.startswith("v2+http://"))
        info = load_classifier(url).info
        process.terminate()
    assert (info.image_shape, info.classes, info.spec.layout) == ((28, 28, 1), 10, "NCHW")


def real_servers() -> Any:
    path = Path(__file__).resolve().parents[2] / "examples" / "real_servers.py"
    spec = importlib.util.spec_from_file_location("real_servers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["real_servers"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["triton", "mlserver"])
def test_an_audit_behind_a_real_server_has_the_files_result(kind: str, tmp_path: Path) -> None:
    servers = real_servers()
    kept = Path(os.environ.get("ROBUSTEST_SERVERS", Path(tempfile.gettempdir()) / "robustest-servers"))
    model = FOLDER / "models" / "plain.onnx"
    images = load_images(FOLDER / "images.npz").take(range(10))
    local = load_classifier(model, threads=1)
    run_audit(local, images, None, SETTINGS, tmp_path / "file")
    try:
        with servers.running(kind, model, folder=kept) as server:
            urls = {"http": server.http, "grpc": server.grpc} if kind == "triton" else {"grpc": server.grpc}
            for name, url in urls.items():
                run_audit(url, images, None, SETTINGS, tmp_path / name, spec=local.info.spec)
                assert result_of(tmp_path / name) == result_of(tmp_path / "file")
    except servers.NotToBeHad as error:
        pytest.skip(str(error))
