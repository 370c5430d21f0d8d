"""`robustest compare` as a user runs it, and where flips lie when masks are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robustest.baselines.objects import load_masks
from robustest.cli import run
from robustest.errors import InvalidImage
from robustest.images import load_images
from tests.models import write_linear_onnx

SIDE = 6


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Class 1 where the upper half's sum reaches 1.5: two white pixels there flip a black image, one does not."""
    weights = np.zeros((SIDE * SIDE, 2), np.float32)
    weights[: SIDE * SIDE // 2, 1] = 1.0
    write_linear_onnx(tmp_path / "m.onnx", weights, np.array([1.5, 0.0], np.float32), shape=("n", SIDE, SIDE, 1))
    return tmp_path / "m.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = np.zeros((4, SIDE, SIDE), np.uint8)
    images[:, 0, 0] = np.arange(4)  # different images give different scores
    masks = np.zeros((4, SIDE, SIDE), np.uint8)
    masks[:, : SIDE // 2] = 255
    np.savez(
        tmp_path / "data.npz", images=images, labels=np.array([0, 0, 1, 0]), masks=masks, class_names=["dark", "light"]
    )
    return tmp_path / "data.npz"


def test_the_command_writes_and_prints_the_comparison(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--queries", "150", "--images", "3", "--pixels", "1,2", "--seed", "2", "--threads", "1"]
    attacks = "one-scan,sparse-rs@2,sigma-zero"
    code = run(["compare", str(model), str(data), "--attacks", attacks, *options, "-o", str(out)])
    assert code == 0
    shown = capsys.readouterr().out
    assert "one-scan" in shown
    assert "0 (0-71)" in shown
    assert "100 (29-100)" in shown
    assert "on the object" in shown
    content = json.loads((out / "comparison.json").read_text())
    assert content["images"]["names"] == ["data[0]", "data[1]", "data[3]"]  # data[2] is black and labelled light
    assert content["images"]["skipped_as_misclassified"] == 1
    by_name = {attack["name"]: attack for attack in content["attacks"]}
    assert [point["flipped"] for point in by_name["one-scan"]["success_at_pixels"]] == [0, 3]
    assert [point["flipped"] for point in by_name["sparse-rs"]["success_at_pixels"]] == [3]
    assert by_name["sigma-zero"]["runs"][0]["results"][0]["gradients"] == 150
    assert (out / "comparison.html").stat().st_size > 1000
    assert (out / "adversarial.npz").is_file()


@pytest.mark.parametrize(
    "wrong",
    [["--attacks", "nothing"], ["--images", "0"], ["--pixels", "x"], ["--queries", "0"], ["--attacks", "game,game"]],
)
def test_misuse_ends_with_2_and_a_sentence(
    model: Path, data: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", str(model), str(data), *wrong]) == 2
    assert "robustest:" in capsys.readouterr().err


def test_flips_lie_where_the_classifier_looks(model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", str(model), str(data), "--attacks", "one-scan", "--queries", "150", "--threads", "1"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "dark" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["one-scan", "dark", "3", "6", "0", "100%", "50%"]  # only the upper half counts, which is the mask


def test_masks_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    images = load_images(data)
    assert set(load_masks(data, images) or {}) == set(images.digests)
    np.savez(tmp_path / "none.npz", images=images.images, labels=images.labels)
    assert load_masks(tmp_path / "none.npz", images) is None
    assert load_masks(tmp_path, images) is None
    np.savez(tmp_path / "bad.npz", images=images.images, labels=images.labels, masks=np.zeros((4, 3, 3), np.uint8))
    with pytest.raises(InvalidImage, match="masks"):
        load_masks(tmp_path / "bad.npz", images)
