"""`robustest compare` as a user runs it, and where flips lie when masks are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustest.baselines import compare
from robustest.baselines.objects import load_masks
from robustest.baselines.saved import load_row, save_row
from robustest.classifiers.loading import load_classifier
from robustest.cli import run
from robustest.errors import InvalidImage
from robustest.images import load_images
from robustest.settings import AttackSettings
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


def test_where_no_paired_test_shows_a_difference_that_is_said(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--attacks", "game,one-scan", "--queries", "1", "--pixels", "1,2", "--threads", "1"]
    assert run(["compare", str(model), str(data), *options]) == 0
    assert (
        "none of 2 tests, each at 0.05, not corrected for their number, shows a difference" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "wrong",
    [["--attacks", "nothing"], ["--images", "0"], ["--pixels", "x"], ["--queries", "0"], ["--attacks", "game,game"]],
)
def test_misuse_ends_with_2_and_a_sentence(
    model: Path, data: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", str(model), str(data), *wrong]) == 2
    assert "robustest:" in capsys.readouterr().err


@pytest.mark.parametrize("chosen", [["--norm", "l2"], ["--values", "free"]])
def test_the_attacks_of_a_comparison_that_names_none_follow_its_norm_and_values(
    model: Path, data: Path, tmp_path: Path, chosen: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--queries", "60", "--threads", "1", "--pixels", "1,2", "-o", str(tmp_path / "out")]
    assert run(["compare", str(model), str(data), *chosen, *options]) == 0
    shown = capsys.readouterr()
    assert "of game,sparse-rs,brusle,random-corners, game alone follows" in shown.err
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [attack["name"] for attack in content["attacks"]] == ["game"]
    assert ("median l2" in shown.out) == (content["norm"] == "l2")


@pytest.mark.parametrize("chosen", [["--norm", "l2"], ["--values", "free"]])
def test_an_attack_that_cannot_follow_is_refused_before_any_attack_and_told_the_ways_out(
    model: Path, data: Path, chosen: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "_row", lambda *_, **__: pytest.fail("attacked"))
    assert run(["compare", str(model), str(data), "--attacks", "game,sparse-rs", *chosen]) == 2
    told = capsys.readouterr().err
    assert "'sparse-rs'" in told
    assert "--attacks game" in told
    assert "Take --norm l0," in told or "Take --values corners," in told


def test_flags_say_how_the_model_wants_its_input(model: Path, data: Path, tmp_path: Path) -> None:
    """Fed 0..255, one white pixel is enough, and the images with a 2 in the upper half are light from the start."""
    out = tmp_path / "out"
    options = ["--attacks", "one-scan", "--queries", "150", "--pixels", "1,2", "--threads", "1", "--scale", "1"]
    assert run(["compare", str(model), str(data), *options, "--out", str(out)]) == 0
    content = json.loads((out / "comparison.json").read_text())
    assert content["images"]["names"] == ["data[0]", "data[1]", "data[2]"]
    assert [point["flipped"] for point in content["attacks"][0]["success_at_pixels"]] == [3, 3]


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


def test_an_interrupted_comparison_goes_on_where_it_was(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", str(model), str(data), "--queries", "100", "--threads", "1", "-o"]
    whole, torn = str(tmp_path / "whole"), str(tmp_path / "torn")
    assert run([*command, whole, "--attacks", "one-scan,random-corners,sigma-zero"]) == 0
    real, asked = compare._results, []

    def stopped(*arguments: object, **options: object) -> object:
        asked.append(arguments[2].attack)  # type: ignore[attr-defined]
        if asked == ["one-scan", "random-corners"]:
            raise KeyboardInterrupt
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(compare, "_results", stopped)
    assert run([*command, torn, "--attacks", "one-scan,random-corners,sigma-zero"]) == 130
    assert run([*command, torn, "--attacks", "one-scan,random-corners,sigma-zero"]) == 0
    assert asked == ["one-scan", "random-corners", "random-corners"]  # what was finished was not asked again
    contents = [json.loads((Path(folder) / "comparison.json").read_text()) for folder in (whole, torn)]
    for content in contents:
        del content["command"]
        for attack in content["attacks"]:
            for part in attack["runs"]:
                del part["processor_seconds"]
    assert contents[0] == contents[1]
    with np.load(Path(whole) / "adversarial.npz") as first, np.load(Path(torn) / "adversarial.npz") as second:
        assert all((first[name] == second[name]).all() for name in first.files)
    assert run([*command, torn, "--attacks", "one-scan", "--seed", "1"]) == 0
    assert asked[-1] == "one-scan"  # another seed is another row
    for path in (tmp_path / "torn" / "rows").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:50])
    assert run([*command, torn, "--attacks", "one-scan"]) == 0  # a torn row is run again
    assert asked[-1] == "one-scan"
    capsys.readouterr()


def test_a_saved_row_is_what_was_saved(model: Path, data: Path, tmp_path: Path) -> None:
    classifier, images = load_classifier(model, threads=1), load_images(data).take([0, 1])
    found = compare.run_comparison(
        classifier, images, compare.parse_attacks("one-scan,sparse-rs@1/2"), AttackSettings(queries=60)
    )
    for row in found.rows:
        save_row(tmp_path, "key", row)
        again = load_row(tmp_path, "key", images)
        assert again is not None
        assert (again.name, again.access, again.note) == (row.name, row.access, row.note)
        for one, other in zip(row.runs, again.runs, strict=True):
            for a, b in zip(one.results, other.results, strict=True):
                assert replace(a, image=None, edits=None) == replace(b, image=None, edits=None)
                assert (a.image is None) == (b.image is None)
                if a.image is not None and b.image is not None and a.edits is not None and b.edits is not None:
                    assert (a.image == b.image).all()
                    assert a.edits.pixels.tolist() == b.edits.pixels.tolist()
                    assert (a.edits.values == b.edits.values).all()
