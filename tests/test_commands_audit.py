"""The commands audit, plan, work, status and finish, as a user types them: files written, words printed, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from robustest.cli import run
from tests.audit.conftest import images_for, linear
from tests.models import write_linear_onnx

__all__ = ["linear"]

NAME = "robustest_linear:scores"


@pytest.fixture
def data(linear: ModuleType, tmp_path: Path) -> str:
    """16 images as an .npz file."""
    images = images_for(linear, 16)
    np.savez(tmp_path / "images.npz", images=images.images, labels=images.labels)
    return str(tmp_path / "images.npz")


def test_audit_writes_what_it_says_and_again_shows_the_same(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", NAME, data, "-o", str(tmp_path / "run"), "--queries", "60", "--seed", "3"]
    assert run(words) == 0
    first = capsys.readouterr()
    assert "progress" not in first.err
    content = json.loads((tmp_path / "run" / "result.json").read_text())
    assert content["command"] == f"robustest audit {NAME} images.npz -o DIR --queries 60 --seed 3"
    assert content["totals"]["images"] == 16
    for name in ("report.html", "summary.md", "timing.json"):
        assert (tmp_path / "run" / name).is_file()
    before = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    assert run(words) == 0
    second = capsys.readouterr()
    assert "finished already" in second.err
    assert second.out == first.out
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == before


def test_the_command_of_a_result_has_the_flags_of_the_input_spec_and_gives_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(6) % 3)
    weights = np.random.default_rng(2).normal(size=(48, 3)).astype(np.float32)
    write_linear_onnx(tmp_path / "m.onnx", weights, np.zeros(3, np.float32), shape=("n", 4, 4, 3))
    flags = [
        "--mean",
        "0.5,-0.25,1/8",
        "--std",
        "0.5",
        "--std",
        "0.25",
        "--std",
        "1",
        "--scale",
        "1/127.5",
        "--output",
        "logits",
    ]
    assert run(["audit", "m.onnx", "images.npz", "-o", "run", "--queries", "20", *flags]) == 0
    spec = json.loads(Path("run", "result.json").read_text())["model"]["spec"]
    assert (spec["mean"], spec["std"], spec["scale"]) == ([0.5, -0.25, 0.125], [0.5, 0.25, 1.0], 1 / 127.5)
    command = json.loads(Path("run", "result.json").read_text())["command"].split()
    assert command[0] == "robustest"
    again = ["again" if word == "DIR" else word for word in command[1:]]
    assert run(again) == 0
    assert Path("again", "result.json").read_bytes() == Path("run", "result.json").read_bytes()


def test_numbers_without_commas_between_them_are_told_how_they_go(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", NAME, data, "-o", str(tmp_path / "run"), "--mean", "0.1", "0.2", "0.3"]) == 2
    assert "go with commas: --mean 0.485,0.456,0.406" in capsys.readouterr().err
    assert run(["audit", NAME, data, "-o", str(tmp_path / "run"), "more"]) == 2
    assert "commas" not in capsys.readouterr().err


def test_what_a_model_prints_is_not_in_the_way_of_the_json(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "robustest_talks.py").write_text(
        "from robustest_linear import scores as quiet\nprint('loaded')\n"
        "def scores(images):\n    print(len(images), 'images')\n    return quiet(images)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [
        "audit",
        "robustest_talks:scores",
        data,
        "-o",
        str(tmp_path / "run"),
        "--queries",
        "20",
        "--format",
        "json",
    ]
    assert run(words) == 0
    told = capfd.readouterr()
    assert json.loads(told.out)["totals"]["images"] == 16
    assert "loaded" in told.err
    assert "images" in told.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--certify", "l7"], "--certify must be a list of l0, l0_dims, l1, l2, linf; got 'l7'"),
        (["--certify", "linf", "--certify-seconds", "0"], "--certify-seconds must be > 0; got 0"),
    ],
)
def test_proofs_that_cannot_be_asked_for_are_refused_before_the_attack(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert run(["audit", NAME, data, "-o", str(tmp_path / "run"), "--queries", "20", *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_pictures_left_out_are_counted_and_named(
    linear: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    images = images_for(linear, 20)
    for place, image in enumerate(images.images):
        assert cv2.imwrite(str(folder / f"{place:02}.png"), image)
    rows = [f"{place:02}.png,{label}" for place, label in enumerate(images.labels[:3])]
    (folder / "labels.csv").write_text("\n".join(rows))
    assert run(["audit", NAME, str(folder), "-o", str(tmp_path / "run"), "--queries", "20"]) == 0
    said = capsys.readouterr().err
    assert "17 of 20 pictures" in said
    assert "03.png, 04.png, " in said
    assert "12.png and 7 more" in said


def test_a_run_inside_the_folder_of_images_is_said_once_and_shown_again_by_the_same_command(
    linear: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, data = images_for(linear, 6), tmp_path / "set"
    for place, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        (data / str(label)).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(data / str(label) / f"{place}.png"), image)
    words = ["audit", NAME, str(data), "-o", str(data / "run"), "--queries", "40"]
    assert run(words) == 0
    assert "looked into" not in capsys.readouterr().err
    result = (data / "run" / "result.json").read_bytes()
    assert list((data / "run" / "adversarial").glob("*.png"))
    assert run(words) == 0
    said = capsys.readouterr().err
    assert said.count("not looked into for images, because robustest wrote there: run in ") == 1
    assert "left out" not in said
    assert (data / "run" / "result.json").read_bytes() == result


def test_a_single_shard_is_said_as_one(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = str(tmp_path / "run")
    assert run(["plan", NAME, data, "-o", planned, "--queries", "40", "--shards", "1"]) == 0
    assert "16 images in 1 shard." in capsys.readouterr().out
    monkeypatch.setattr("robustest.audit.supervise.supervise", lambda *_, **__: None)  # somebody else holds it
    assert run(["work", planned, "--no-wait"]) == 0
    assert "0 of 1 shard done" in capsys.readouterr().out
    assert run(["finish", planned]) == 2
    assert "its one shard is left" in capsys.readouterr().err


def test_plan_work_status_finish_give_the_result_of_audit(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, many = str(tmp_path / "one"), str(tmp_path / "many")
    assert run(["audit", NAME, data, "-o", one, "--queries", "40"]) == 0
    assert run(["plan", NAME, data, "-o", many, "--queries", "40", "--shards", "4"]) == 0
    assert "16 images in 4 shards" in capsys.readouterr().out
    assert run(["finish", many]) == 2
    assert "4 of 4 shards are left" in capsys.readouterr().err
    assert run(["work", many, "--shard", "1", "--shard", "3"]) == 0
    capsys.readouterr()
    assert run(["status", many, "--format", "json"]) == 0
    now = json.loads(capsys.readouterr().out)
    assert (now["done"], now["shards"], now["counted"]["done"], now["images"]) == (2, 4, 8, 16)
    assert run(["work", many]) == 0
    assert "all 4 shards are done" in capsys.readouterr().out
    assert run(["status", many]) == 0
    assert "16 of 16 done (100.0%)" in capsys.readouterr().out
    assert run(["finish", many, "--require", "1:0.5"]) == 0
    for name in ("result.json", "report.html", "summary.md"):
        assert (tmp_path / "many" / name).is_file()
    assert (tmp_path / "many" / "result.json").read_bytes() == (tmp_path / "one" / "result.json").read_bytes()


def test_the_exit_code_is_that_of_the_requirement(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["audit", NAME, data, "-o", str(tmp_path / "run"), "--queries", "300"]
    assert run([*words, "--require", "1:0.5"]) == 0
    assert "shown" in capsys.readouterr().out
    assert run([*words, "--require", "36:0.6"]) == 1
    assert "refuted" in capsys.readouterr().out
    assert run([*words, "--require", "8:0.5"]) == 3
    assert "inconclusive" in capsys.readouterr().out


def test_formats_for_machines(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["audit", NAME, data, "-o", str(tmp_path / "run"), "--queries", "300", "--require", "36:0.6"]
    assert run([*words, "--format", "json"]) == 1
    table = json.loads(capsys.readouterr().out)
    assert table["exit_code"] == 1
    assert table["requirements"] == [{"distance": 36.0, "share": 0.6, "answer": "refuted"}]
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    assert run([*words, "--format", "github"]) == 1
    assert "::error title=robustest::" in capsys.readouterr().out
    assert (tmp_path / "step.md").read_text()
    assert run([*words, "--format", "junit"]) == 1
    suite = ElementTree.parse(capsys.readouterr().out.strip()).getroot()
    assert suite.find(".//failure") is not None


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--queries", "0"], 2, "queries must be a whole number >= 1; got 0"),
        (["--images", "0"], 2, "images must be >= 1"),
        (["--workers", "0"], 2, "workers must be >= 1"),
        (["--require", "3"], 2, "distance:share"),
        (["--require", "3:0.99"], 2, "cannot be shown"),
        (["--require", "3:1"], 2, "below 1"),
        (["--attack", "magic"], 2, "attack must be one of"),
        (["--target", "9"], 2, "target must be below 3"),
        (["--channels", "gray", "--output", "probabilities"], 4, "declared to give probabilities"),
        (["--scale", "zero"], 2, "scale must be a number"),
        (["--input", "missing.toml"], 2, "missing.toml"),
    ],
)
def test_misuse_is_said_in_a_sentence_and_nothing_is_written(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, said: str
) -> None:
    assert run(["audit", NAME, data, "-o", str(tmp_path / "run"), *more]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_missing_things_are_named(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert run(["audit", NAME, "nowhere", "-o", out]) == 2
    assert "'nowhere' does not exist" in capsys.readouterr().err
    assert run(["audit", "no.onnx", data, "-o", out]) == 4
    assert "no.onnx" in capsys.readouterr().err
    assert run(["audit", NAME, data]) == 2
    for command in (["work", out], ["status", out], ["finish", out]):
        assert run(command) == 2
        assert "no planned audit" in capsys.readouterr().err
    assert run(["plan", NAME, data]) == 2
    assert "-o RUN is missing" in capsys.readouterr().err


def test_a_run_without_a_name_for_its_model_cannot_be_worked_on_elsewhere(
    data: str,
    linear: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from robustest.audit.run import plan_run
    from robustest.classifiers import load_classifier
    from robustest.images import load_images
    from robustest.settings import AttackSettings

    plan_run(
        tmp_path / "run", load_classifier(linear.scores), load_images(data), AttackSettings(queries=5), origin=None
    )
    assert run(["work", str(tmp_path / "run")]) == 2
    assert "exists only in the process that planned it" in capsys.readouterr().err
    assert run(["work", str(tmp_path / "run"), "--shard", "99"]) == 2
    assert run(["work", str(tmp_path / "run"), "--expiry", "1"]) == 2
    assert run(["work", str(tmp_path / "run"), "--model", NAME]) == 0


def test_all_images_wrong_is_5_with_a_report(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = np.load(data)
    np.savez(tmp_path / "wrong.npz", images=arrays["images"], labels=(arrays["labels"] + 1) % 3)
    keep = arrays["labels"] == np.bincount(arrays["labels"]).argmax()
    np.savez(tmp_path / "wrong.npz", images=arrays["images"][keep], labels=(arrays["labels"][keep] + 1) % 3)
    code = run(["audit", NAME, str(tmp_path / "wrong.npz"), "-o", str(tmp_path / "run"), "--queries", "5"])
    said = capsys.readouterr().err
    assert code == 5, said
    assert "clean accuracy" in said
    assert (tmp_path / "run" / "report.html").is_file()


def test_dry_run_says_what_it_will_cost_and_writes_nothing(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert run(["plan", NAME, data, "--dry-run", "--queries", "50"]) == 0
    said = capsys.readouterr().out
    assert "images      16" in said
    assert "queries     about" in said
    assert "time        about" in said
    assert "beyond" not in said
    assert run(["plan", NAME, data, "--dry-run", "--queries", "50", "--minimal"]) == 0
    assert "at most, and what checking finds takes beyond that" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


def test_help_tells_what_an_audit_does(capsys: pytest.CaptureFixture[str]) -> None:
    for command, word in (
        ("audit", "resum"),
        ("plan", "shards"),
        ("work", "taken over"),
        ("status", "share done"),
        ("finish", "same bytes"),
    ):
        run([command, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert word in said or command == "audit", command
        assert "--empty" not in said
