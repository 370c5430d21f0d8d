"""`robustest attack` and `robustest saliency`: the files they write are what they say."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from robustest import load_classifier
from robustest.cli import run
from robustest.commands.shared import read_picture, side_by_side
from robustest.demo import IMAGES, MODELS
from robustest.errors import InvalidImage
from robustest.images import load_images, load_picture
from robustest.randomness import image_digest

PLAIN, FIRST = str(MODELS["plain"]), f"{IMAGES}[3]"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_written_image_flips_the_model_and_the_edits_lead_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["attack", PLAIN, FIRST, "--queries", "400", "-o", "out"]) == 0
    told = capsys.readouterr().out
    images = load_images(IMAGES)
    adversarial = load_picture("out/images-3-adversarial.png")
    content = json.loads(Path("out/images-3-edits.json").read_text())
    label = int(images.labels[3])
    answer = int(load_classifier(PLAIN)(adversarial[None] / np.float32(255)).argmax())
    assert answer != label
    assert (content["label"], content["predicted"]) == (label, answer)
    names = images.class_names
    assert f"{content['queries']} queries, smallest margin seen {content['margin']:.4g}." in told
    assert f"{names[label]} -> {names[answer]} by {content['distances']['l0_pixels']} changed pixels" in told
    rebuilt = images.images[3].copy()
    for edit in content["edits"]:
        assert rebuilt[edit["row"], edit["column"]].tolist() == edit["from"]
        rebuilt[edit["row"], edit["column"]] = edit["to"]
    assert np.array_equal(rebuilt, adversarial)
    assert content["image_sha256"] == image_digest(images.images[3])
    assert content["adversarial_sha256"] == image_digest(adversarial)
    assert len(content["edits"]) == content["distances"]["l0_pixels"]
    pair = load_picture("out/images-3-pair.png")
    assert pair.shape == (28 * 11, 2 * 28 * 11 + 8, 3)


def test_the_same_seed_gives_the_same_files_and_the_label_may_be_given() -> None:
    picture = load_images(IMAGES).images[3]
    cv2.imwrite("coat.png", picture)
    label = str(int(load_images(IMAGES).labels[3]))
    for out in ("a", "b"):
        assert run(["attack", PLAIN, "coat.png", "--label", label, "--queries", "200", "--seed", "4", "-o", out]) == 0
    files = sorted(path.name for path in Path("a").iterdir())
    assert files == ["coat-adversarial.png", "coat-edits.json", "coat-pair.png"]
    assert [Path("a", name).read_bytes() for name in files] == [Path("b", name).read_bytes() for name in files]


def test_what_another_attack_found_is_neither_lost_nor_left_to_be_taken_for_this_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["attack", PLAIN, FIRST, "-o", "out", "--queries"]
    assert run([*words, "400"]) == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert run([*words, "400"]) == 0  # the same attack: the same files
    with monkeypatch.context() as patch:
        patch.setattr("robustest.attack.find.find_adversarials", lambda *_, **__: pytest.fail("attacked"))
        capsys.readouterr()
        for other in (["3"], ["400", "--seed", "1"], ["400", "--values", "free"], ["400", "--mean", "0.1"]):
            assert run([*words, *other]) == 2
            said = capsys.readouterr().err
            assert "'out' holds images-3-edits.json, images-3-adversarial.png, images-3-pair.png already" in said
            assert "Choose another folder with -o" in said
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert (
        run(["attack", PLAIN, f"{IMAGES}[4]", "--queries", "3", "-o", "out"]) == 0
    )  # of another image there is nothing
    Path("out/images-3-edits.json").write_text("[]")  # not ours
    assert run([*words, "400"]) == 2
    assert Path("out/images-3-edits.json").read_text() == "[]"


def test_an_image_that_is_wrong_from_the_start_is_5_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = (int(load_images(IMAGES).labels[3]) + 1) % 10
    assert run(["attack", PLAIN, FIRST, "--label", str(wrong), "-o", "out"]) == 5
    assert "excluded" in capsys.readouterr().out
    assert not Path("out").exists()


@pytest.mark.parametrize("command", ["attack", "play"])
def test_a_label_that_is_no_class_is_named_as_it_was_given(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, PLAIN, FIRST, "--label", "10"]) == 2
    assert "--label 10 must be one of the classifier's 10 classes, 0 to 9." in capsys.readouterr().err
    images = load_images(IMAGES).images[:1]
    np.savez("far.npz", images=images, labels=[77])
    assert run([command, PLAIN, "far.npz[0]"]) == 2
    assert "the label of 'far.npz[0]', 77, must be one of" in capsys.readouterr().err


def test_a_survivor_is_no_failure_and_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["attack", PLAIN, FIRST, "--queries", "3", "-o", "out"]) == 0
    told = capsys.readouterr().out
    assert "survived" in told
    assert "nothing is proven" in told
    assert not Path("out").exists()


def test_saliency_writes_a_picture_and_says_where_half_of_it_lies(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["saliency", FIRST, "-o", "pictures/coat.png"]) == 0
    told = capsys.readouterr().out
    assert load_picture("pictures/coat.png").shape == (448, 2 * 448 + 16, 3)
    assert "features in images-3 (28 x 28); half of the probability lies on" in told


def test_saliency_of_a_blank_image_is_uniform(capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite("blank.png", np.full((10, 20), 7, np.uint8))
    assert run(["saliency", "blank.png"]) == 0
    assert "every pixel is as likely" in capsys.readouterr().out
    assert Path("blank-saliency.png").is_file()


def test_one_image_of_a_set_has_its_label() -> None:
    np.savez("a.b.npz", images=np.zeros((2, 4, 4), np.uint8), labels=[5, 7], class_names=[str(k) * 2 for k in range(8)])
    picture = read_picture("a.b.npz[1]")
    assert (picture.name, picture.label, picture.class_name(7), picture.class_name(9)) == ("a.b-1", 7, "77", "9")
    with pytest.raises(InvalidImage, match="numbered 0 to 1"):
        read_picture("a.b.npz[-1]")


def test_a_folder_is_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pictures").mkdir()
    assert run(["attack", PLAIN, "pictures", "--label", "0"]) == 2
    assert capsys.readouterr().err == "robustest: IMAGE 'pictures' is a folder; name one picture in it.\n"


@pytest.mark.parametrize(
    ("words", "work"),
    [
        (["attack", PLAIN, FIRST, "-o", "file/out"], "robustest.attack.find.find_adversarials"),
        (["play", PLAIN, FIRST, "-o", "file/play.html"], "robustest.attack.play.play_image"),
        (["compare", PLAIN, str(IMAGES), "-o", "file/out"], "robustest.baselines.compare.run_comparison"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(
    words: list[str], work: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    monkeypatch.setattr(work, lambda *_, **__: pytest.fail("worked"))
    assert run(words) == 4
    assert "cannot be used: Not a directory" in capsys.readouterr().err


def test_side_by_side_keeps_each_picture() -> None:
    gray, colour = np.full((2, 3, 1), 9, np.uint8), np.full((2, 3, 3), 200, np.uint8)
    both = side_by_side(gray, colour, gap=1)
    assert both[0].tolist() == [[9] * 3] * 3 + [[255] * 3] + [[200] * 3] * 3
