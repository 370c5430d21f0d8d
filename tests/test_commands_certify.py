"""`robustest certify`: what it writes, and that nothing of it is lost when it is stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from robustest.audit.summary import spec_json
from robustest.bounds.checker import Checker
from robustest.classifiers import load_classifier
from robustest.cli import run
from robustest.demo import IMAGES, MODELS
from robustest.images import as_unit
from tests.bounds.onnx_nets import OnnxWriter
from tests.models import write_linear_onnx

WORDS = ["certify", str(MODELS["plain"]), str(IMAGES), "--norms", "linf", "--images", "3", "--seconds", "0.2", "-o"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine would use up the seconds of a proof."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_certify_that_was_stopped_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "proofs"
    bracket = Checker.bracket
    asked: list[int] = []

    def stopped(self: Checker, *given: Any, **more: Any) -> Any:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return bracket(self, *given, **more)

    monkeypatch.setattr(Checker, "bracket", stopped)
    assert run([*WORDS, str(out)]) == 130
    before = capsys.readouterr()
    assert "again to go on from here" in before.err
    kept = sorted((out / "certificates").iterdir())
    assert len(kept) == 2
    assert not (out / "certify.json").exists()
    kept[1].unlink()  # and that image is proved again
    assert run([*WORDS, str(out)]) == 0
    assert len(asked) == 5
    after = capsys.readouterr().out.splitlines()
    assert after[1] == before.out.splitlines()[1]
    content = json.loads((out / "certify.json").read_text())
    assert [len(entry["brackets"]) for entry in content["images"]] == [1, 1, 1]
    assert content["model"]["spec"] == spec_json(load_classifier(MODELS["plain"]).info.spec)
    assert run([*WORDS, str(out)]) == 0
    assert len(asked) == 5
    other = [word if word != "0.2" else "0.3" for word in WORDS]
    assert run([*other, str(out)]) == 0
    assert len(asked) == 8


def test_several_certificates_are_rechecked_and_the_worst_is_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*WORDS, str(tmp_path)]) == 0
    good = sorted(str(path) for path in (tmp_path / "certificates").iterdir())[:2]
    capsys.readouterr()
    assert run(["recheck", *good]) == 0
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()[::2]] == good
    wide, torn = tmp_path / "certificates" / "wide.json", tmp_path / "certificates" / "torn.json"
    content = json.loads(Path(good[0]).read_text())
    wide.write_text(json.dumps(content | {"claim": content["claim"] | {"radius": 1.0}}))  # too wide for any proof
    torn.write_text(json.dumps(content | {"claim": content["claim"] | {"norm": "none"}}))
    assert run(["recheck", good[0], str(wide)]) == 3
    assert run(["recheck", str(torn), str(wide), good[0]]) == 1
    told = capsys.readouterr().out
    assert all(f"{path}: " in told for path in (torn, wide, good[0]))
    assert run(["recheck", good[0], str(tmp_path / "none.json")]) == 2
    told, said = capsys.readouterr()
    assert (told, "none.json' does not exist" in said) == ("", True)  # before any is checked
    assert run(["recheck"]) == 2
    assert "name one certificate or more" in capsys.readouterr().err


def test_an_audit_with_proofs_says_what_it_guessed_and_left_out_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]], np.float32)
    write_linear_onnx(tmp_path / "m.onnx", weights.T, np.array([0.1, 0.0], np.float32), shape=("n", 2, 2, 1))
    for name in ("0/a.png", "0/b.png", "odd.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(tmp_path / "images" / name), np.full((2, 2), 9 + len(name), np.uint8))
    words = [
        "audit",
        str(tmp_path / "m.onnx"),
        str(tmp_path / "images"),
        "-o",
        str(tmp_path / "run"),
        "--queries",
        "20",
    ]
    assert run([*words, "--certify", "linf", "--certify-seconds", "0.2"]) == 0
    said = capsys.readouterr().err
    assert "proven lower" in said
    assert said.count("guessed of m.onnx") == 1
    assert said.count("odd.png") == 1
    entries = json.loads((tmp_path / "run" / "certify.json").read_text())["images"]
    assert [entry["name"] for entry in entries] == ["0/a.png", "0/b.png"]


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Checker, "bracket", lambda *_, **__: pytest.fail("asked"))
    (tmp_path / "file").write_text("")
    assert run([*WORDS, str(tmp_path / "file" / "proofs")]) == 4
    assert "cannot be used: Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("operator", "said"),
    [("Relu", ""), ("Sigmoid", "cannot confirm these certificates: layer"), ("MaxPool", "less tightly")],
)
def test_what_recheck_cannot_confirm_is_said_with_the_certificates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], operator: str, said: str
) -> None:
    rng = np.random.default_rng(0)
    net = OnnxWriter((1, 6, 6))
    net.conv(rng.normal(size=(2, 1, 3, 3)), rng.normal(size=2), stride=1, pad=1)
    if operator == "MaxPool":
        net.add("MaxPool", shape=(2, 3, 3), kernel_shape=[2, 2], strides=[2, 2])
    else:
        net.add(operator)
    net.add("Flatten", shape=(18 if operator == "MaxPool" else 72,))
    net.dense(rng.normal(size=(3, 18 if operator == "MaxPool" else 72)), rng.normal(size=3))
    path = net.save(tmp_path / "net.onnx")
    images = rng.integers(0, 256, (1, 6, 6, 1), dtype=np.uint8)
    scores = load_classifier(path, told={"output": "logits"})(as_unit(images))
    np.savez(tmp_path / "images.npz", images=images, labels=scores.argmax(axis=1))
    words = [
        "certify",
        str(path),
        str(tmp_path / "images.npz"),
        "--norms",
        "linf",
        "--seconds",
        "1",
        "--output",
        "logits",
    ]
    assert run([*words, "-o", str(tmp_path / "proofs")]) == 0
    assert list((tmp_path / "proofs" / "certificates").iterdir())
    told = capsys.readouterr().err
    assert said in told if said else "recheck" not in told
