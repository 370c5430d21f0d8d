"""Mistakes as people make them: one sentence that names the thing, its value and the way out; the right exit code;
nothing half-written."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.cli import run
from tests.models import write_linear_onnx

Gray = NDArray[np.uint8]
WEIGHTS = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
WEIGHTS -= WEIGHTS.mean(axis=0)  # so that no class wins whatever the image
IMAGES = np.random.default_rng(1).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
LABELS = (IMAGES.reshape(6, -1) / 255 @ WEIGHTS).argmax(axis=1)
BLACK = np.zeros((8, 8), np.uint8)
SPEC = 'layout = "NCHW"\nchannels = "gray"\n'


def model(weights: NDArray[np.float32] = WEIGHTS, *, shape: tuple[object, ...] = ("N", 1, 8, 8), **more: bool) -> Path:
    bias = np.arange(weights.shape[1], dtype=np.float32) * float((weights == 0).all())
    return write_linear_onnx(Path("m.onnx"), weights, bias, shape=shape, **more)


def pictures(**files: Gray) -> None:
    """Pictures of a folder `set`; a name such as a__b is b in the subfolder a."""
    for name, array in files.items():
        path = Path("set", *name.split("__")).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), array)


def stored(images: NDArray[np.generic] = IMAGES, **arrays: object) -> None:
    np.savez("i.npz", images=images, **{"labels": np.zeros(len(images), np.int64), **arrays})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a model, its spec, and six images that it gets right."""
    monkeypatch.chdir(tmp_path)
    model()
    Path("m.toml").write_text(SPEC)
    np.savez("i.npz", images=IMAGES, labels=LABELS)
    return tmp_path


AUDIT = ["audit", "m.onnx", "i.npz", "-o", "run"]


def with_pictures(**files: Gray) -> Callable[[], None]:
    return lambda: pictures(**files)


def cut(path: str, keep: float) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * keep)])


def cut_picture() -> None:
    pictures(**{"0__a": np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)})
    cut("set/0/a.png", 0.5)


def csv(text: str) -> Callable[[], None]:
    def prepare() -> None:
        pictures(a=BLACK)
        Path("set/labels.csv").write_text(text)

    return prepare


SET = ["audit", "m.onnx", "set", "-o", "run"]

# what was done wrong: how it came about, what was typed, the exit code, and words that the message must have
MISTAKES: dict[str, tuple[Callable[[], object], list[str], int, list[str]]] = {
    "no such model": (
        lambda: None,
        ["audit", "x.onnx", "i.npz", "-o", "run"],
        4,
        ["'x.onnx'", "does not exist", ".onnx"],
    ),
    "no such images": (
        lambda: None,
        ["audit", "m.onnx", "x.npz", "-o", "run"],
        2,
        ["'x.npz'", "does not exist", "folder"],
    ),
    "model cut short": (lambda: cut("m.onnx", 0.4), AUDIT, 4, ["m.onnx", "cut short"]),
    "empty model": (lambda: cut("m.onnx", 0), AUDIT, 4, ["m.onnx", "is empty"]),
    "model of vectors": (lambda: model(shape=("N", 64)), AUDIT, 4, ["m.onnx", "2 axes", "takes 4"]),
    "one output, more classes": (
        lambda: (model(WEIGHTS[:, :1]), stored(labels=np.arange(len(IMAGES)) % 3)),
        AUDIT,
        2,
        ["below 2", "got 2", "trained on"],
    ),
    "one output, a declaration that does not fit": (
        lambda: (model(WEIGHTS[:, :1]), stored()),
        [*AUDIT, "--output", "probabilities"],
        4,
        ["m.onnx", "one number an image", 'output = "logits"'],
    ),
    "another size": (
        lambda: stored(np.zeros((4, 9, 8, 1), np.uint8)),
        AUDIT,
        2,
        ["m.onnx", "height 8", "8x9", "Resize"],
    ),
    "colour for gray": (
        lambda: stored(np.zeros((4, 8, 8, 3), np.uint8)),
        AUDIT,
        2,
        ["gray", "RGB", "Convert", "--channels RGB"],
    ),
    "gray for colour": (
        lambda: (model(np.tile(WEIGHTS, (3, 1)), shape=("N", 3, 8, 8)), Path("m.toml").write_text('layout = "NCHW"')),
        AUDIT,
        2,
        ["3-channel", "gray", "Convert", "--channels gray"],
    ),
    "spec of other channels": (
        lambda: Path("m.toml").write_text('layout = "NCHW"'),
        AUDIT,
        2,
        ["m.onnx", "'channels'"],
    ),
    "misspelt spec": (lambda: Path("m.toml").write_text("scal = 1"), AUDIT, 2, ["m.toml", "'scal'", "scale"]),
    "NaN scores": (lambda: model(WEIGHTS * np.float32("nan")), AUDIT, 4, ["m.onnx", "NaN", "input spec"]),
    "constant scores": (lambda: model(WEIGHTS * 0), AUDIT, 4, ["m.onnx", "same scores", "input spec"]),
    "probabilities as logits": (
        lambda: model(WEIGHTS / 9, softmax=True),
        AUDIT,
        4,
        ["logits", 'output = "probabilities"'],
    ),
    "logits as probabilities": (
        lambda: None,
        [*AUDIT, "--output", "probabilities"],
        4,
        ["probabilities", 'output = "logits"'],
    ),
    "mixed sizes": (
        with_pictures(**{"0__a": BLACK, "1__b": np.zeros((9, 9), np.uint8)}),
        SET,
        2,
        ["a.png is 8x8", "b.png is 9x9", "Resize"],
    ),
    "16-bit picture": (with_pictures(**{"0__a": BLACK.astype(np.uint16)}), SET, 2, ["a.png", "uint16", "8 bits"]),  # type: ignore[dict-item]
    "16-bit array": (lambda: stored(IMAGES.astype(np.uint16) * 257), AUDIT, 2, ["uint16", "value // 257"]),
    "8-bit values as int64": (lambda: stored(IMAGES.astype(np.int64)), AUDIT, 2, ["int64", "astype('uint8')"]),
    "0..255 as floats": (lambda: stored(IMAGES.astype(np.float32)), AUDIT, 2, ["[0, 1]", "Divide", "255"]),
    "NCHW images": (
        lambda: stored(np.zeros((4, 3, 8, 8), np.uint8)),
        AUDIT,
        2,
        ["(4, 3, 8, 8)", "transpose(0, 2, 3, 1)"],
    ),
    "corrupt picture": (cut_picture, SET, 2, ["a.png", "cut short", "Remove it"]),
    "corrupt npz": (lambda: cut("i.npz", 0.5), AUDIT, 2, ["'i.npz'", "cannot be read"]),
    "no labels in a folder": (with_pictures(a=BLACK), SET, 2, ["labels are missing", "'a.png'", "labels.csv"]),
    "no labels in an npz": (lambda: np.savez("i.npz", images=IMAGES), AUDIT, 2, ["'labels'", "it holds images"]),
    "label out of range": (lambda: stored(labels=[0, 1, 2, 0, 1, 99]), AUDIT, 2, ["below 3", "got 99 for image 5"]),
    "negative label": (lambda: stored(labels=[0, 1, 2, 0, -1, 0]), AUDIT, 2, [">= 0", "-1 for image 4"]),
    "too few labels": (lambda: stored(labels=[0, 1]), AUDIT, 2, ["6 in all", "(2,)"]),
    "unknown file in labels.csv": (csv("file,label\na.png,0\nb.png,1\n"), SET, 2, ["row 2", "'b.png'", "not in 'set'"]),
    "file outside in labels.csv": (csv("file,label\n../i.npz,0\n"), SET, 2, ["row 1", "'../i.npz'", "outside"]),
    "row without label in labels.csv": (csv("file,label\na.png\n"), SET, 2, ["row 1", "file,label"]),
    "empty folder": (lambda: Path("set").mkdir(), SET, 5, ["'set'", "no picture", ".png"]),
    "empty npz": (lambda: stored(IMAGES[:0]), AUDIT, 5, ["'i.npz'", "no image"]),
    "no queries": (lambda: None, [*AUDIT, "--queries", "0"], 2, ["queries", ">= 1", "got 0"]),
    "negative seed": (lambda: None, [*AUDIT, "--seed", "-1"], 2, ["seed", "-1"]),
    "no workers": (lambda: None, [*AUDIT, "--workers", "0"], 2, ["workers", ">= 1", "got 0"]),
    "no images wanted": (lambda: None, [*AUDIT, "--images", "0"], 2, ["images", ">= 1", "got 0"]),
    "unknown attack": (lambda: None, [*AUDIT, "--attack", "gam"], 2, ["'gam'", "game", "sparse-rs"]),
    "target out of range": (lambda: None, [*AUDIT, "--target", "9"], 2, ["target", "below 3", "got 9"]),
    "unreachable requirement": (
        lambda: None,
        [*AUDIT, "--require", "3:0.99"],
        2,
        ["3:0.99", "6 images", "cannot show"],
    ),
    "malformed requirement": (lambda: None, [*AUDIT, "--require", "three"], 2, ["'three'", "distance:share", "3:0.6"]),
    "a file where the folder goes": (lambda: Path("run").write_text("x"), AUDIT, 2, ["'run' is a file", "-o"]),
    "a folder of other things": (
        lambda: (Path("run").mkdir(), Path("run/diary.txt").write_text("x")),
        AUDIT,
        2,
        ["'run'", "-o"],
    ),
    "pickled model": (
        lambda: Path("m.pt").write_bytes(b"\x80\x04K\x01."),
        ["audit", "m.pt", "i.npz", "-o", "run"],
        2,
        ["'m.pt'", "refused", "runs code", "--trust-model sha256:"],
    ),
    "a model of another kind": (
        lambda: Path("m.bin").write_bytes(b"x"),
        ["audit", "m.bin", "i.npz", "-o", "run"],
        2,
        ["'m.bin'", ".bin is not known", "ONNX"],
    ),
    "no such module": (
        lambda: None,
        ["audit", "no_such_module:f", "i.npz", "-o", "run"],
        4,
        ["no_such_module", "imported"],
    ),
    "a function of something else": (
        lambda: None,
        ["audit", "json:loads", "i.npz", "-o", "run"],
        4,
        ["json:loads", "failed", "TypeError"],
    ),
    "attack on no such picture": (lambda: None, ["attack", "m.onnx", "x.png", "--label", "0"], 2, ["'x.png'"]),
    "attack beyond the set": (lambda: None, ["attack", "m.onnx", "i.npz[6]"], 2, ["6 images", "0 to 5"]),
    "attack on a whole set": (lambda: None, ["attack", "m.onnx", "i.npz"], 2, ["'i.npz[0]'"]),
    "attack without a label": (
        with_pictures(a=BLACK),
        ["attack", "m.onnx", "set/a.png"],
        2,
        ["--label is missing", "The classifier says", "add --label"],
    ),
    "attack with a label out of range": (
        lambda: None,
        ["attack", "m.onnx", "i.npz[0]", "--label", "3"],
        2,
        ["--label 3", "3 classes, 0 to 2"],
    ),
    "saliency of nothing": (lambda: None, ["saliency", "x.png"], 2, ["'x.png'", "does not exist"]),
    "saliency without a uniform part": (lambda: None, ["saliency", "i.npz[0]", "--uniform-part", "0"], 2, ["(0, 1]"]),
    "report of no run": (lambda: Path("run").mkdir(), ["report", "run"], 2, ["'run", "robustest audit"]),
    "report of something else": (lambda: Path("r.json").write_text("[1]"), ["report", "r.json"], 2, ["r.json"]),
    "demo of too many": (lambda: None, ["demo", "--images", "201"], 2, ["1 to 200", "got 201"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_sentence_and_leaves_nothing(
    mistake: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, typed, code, words = MISTAKES[mistake]
    prepare()
    before = sorted(workplace.rglob("*"))
    assert run(typed) == code
    told = capsys.readouterr()
    (message,) = [line for line in told.err.splitlines() if line.startswith("robustest: ") and "guessed of" not in line]
    assert [word for word in words if word not in message] == []
    assert "Traceback" not in told.err
    assert told.out == ""
    assert sorted(workplace.rglob("*")) == before


def test_when_all_images_are_wrong_the_count_is_told_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    stored(labels=(LABELS + 1) % 3)
    assert run(AUDIT) == 5
    told = capsys.readouterr()
    assert "m.onnx is wrong about 6 of 6 unchanged images" in told.err
    assert "Check the input spec" in told.err
    assert "Nothing was attacked" in Path("run/report.html").read_text()


def test_a_folder_that_holds_another_audit_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*AUDIT, "--queries", "20"]) == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run([*AUDIT, "--queries", "21"]) == 2
    message = capsys.readouterr().err
    assert "holds another audit: queries 20 there, 21 here" in message
    assert "-o" in message
    assert run([*AUDIT, "--queries", "20", "--std", "0.5"]) == 2
    assert "holds another audit: std [1.0] there, [0.5] here." in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
