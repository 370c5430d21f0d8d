"""The two models, the images and the licence that ship inside the package, and the script that makes them."""

import gzip
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from robustest.classifiers.spec import spec_beside

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "robustest" / "demo"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
NAMES = ("plain", "provable")
Array = NDArray[np.float64]

MANIFEST = json.loads((DEMO / "models" / "manifest.json").read_text())
ENTRIES = {entry["id"]: entry for entry in MANIFEST["models"]}
each_model = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def shipped() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The shipped images (200, 1, 28, 28) in [0, 1] and their labels."""
    with np.load(DEMO / "images.npz") as arrays:
        return arrays["images"].transpose(0, 3, 1, 2) / np.float32(255), arrays["labels"]


def run_onnx(name: str, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(DEMO / "models" / f"{name}.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": np.ascontiguousarray(images, dtype=np.float32)})
    return np.asarray(logits)


def weights(name: str) -> dict[str, Array]:
    numpy_files = pytest.importorskip("safetensors.numpy")
    loaded = numpy_files.load_file(DEMO / "models" / f"{name}.safetensors")
    return {key: value.astype(np.float64) for key, value in loaded.items()}


def convolve(x: Array, kernel: Array) -> Array:
    """A 4x4 convolution, stride 2, padding 1, as a sum over windows."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = sliding_window_view(padded, (4, 4), axis=(2, 3))[:, :, ::2, ::2]
    return np.einsum("nchwij,ocij->nohw", windows, kernel, optimize=True)


def forward(w: dict[str, Array], x: Array) -> Array:
    x = np.maximum(convolve(x, w["0.weight"]) + w["0.bias"][:, None, None], 0)
    x = np.maximum(convolve(x, w["2.weight"]) + w["2.bias"][:, None, None], 0)
    x = np.maximum(x.reshape(len(x), -1) @ w["5.weight"].T + w["5.bias"], 0)
    return x @ w["7.weight"].T + w["7.bias"]


def certified_by_corners(w: dict[str, Array], x: Array, labels: NDArray[np.int64], epsilon: float) -> NDArray[np.bool_]:
    """Interval bounds written the other way: low and high ends, weights split by sign."""
    low, high = np.clip(x - epsilon, 0, 1), np.clip(x + epsilon, 0, 1)
    for key, layer in (("0", convolve), ("2", convolve), ("5", lambda v, k: v.reshape(len(v), -1) @ k.T)):
        up, down = np.maximum(w[f"{key}.weight"], 0), np.minimum(w[f"{key}.weight"], 0)
        bias = w[f"{key}.bias"][:, None, None] if key != "5" else w["5.bias"]
        low, high = (
            np.maximum(layer(low, up) + layer(high, down) + bias, 0),
            np.maximum(layer(high, up) + layer(low, down) + bias, 0),
        )
    slope = w["7.weight"][labels][:, None] - w["7.weight"]
    least = np.einsum("nkh,nh->nk", np.maximum(slope, 0), low) + np.einsum("nkh,nh->nk", np.minimum(slope, 0), high)
    least += w["7.bias"][labels][:, None] - w["7.bias"]
    least[np.arange(len(labels)), labels] = np.inf
    return np.asarray(least.min(axis=1) > 0)


@each_model
def test_files_are_small_and_as_the_manifest_says(name: str) -> None:
    for described in (ENTRIES[name], ENTRIES[name]["state_dict"]):
        content = (DEMO / "models" / described["file"]).read_bytes()
        assert len(content) == described["bytes"] <= 300_000
        assert hashlib.sha256(content).hexdigest() == described["sha256"]


def test_images_are_as_the_manifest_says() -> None:
    (described,) = MANIFEST["data"]
    path = DEMO / "models" / described["file"]
    assert path.resolve() == (DEMO / "images.npz").resolve()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == described["sha256"]
    with np.load(path) as arrays:
        images, labels, index = arrays["images"], arrays["labels"], arrays["index"]
    assert images.shape == (200, 28, 28, 1)
    assert images.dtype == np.uint8
    assert labels.tolist() == list(range(10)) * 20  # interleaved, so that any first n are balanced
    assert len(set(index.tolist())) == 200
    assert described["classes"][9] == "Ankle boot"
    assert len(described["classes"]) == described["n_classes"] == 10


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="dataset-fashion-mnist (Debian) is not installed")
def test_images_are_those_of_the_test_set_at_their_index() -> None:
    content = gzip.decompress((DEBIAN / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((DEBIAN / "t10k-labels-idx1-ubyte.gz").read_bytes())
    with np.load(DEMO / "images.npz") as arrays:
        for image, label, at in zip(arrays["images"], arrays["labels"], arrays["index"], strict=True):
            assert image.tobytes() == content[16 + 784 * at : 16 + 784 * (at + 1)]
            assert label == labels[8 + at]


def test_licence_of_the_images_is_shipped() -> None:
    words = " ".join((DEMO / "LICENSE-fashion-mnist").read_text().split())
    assert "Copyright (c) 2017 Zalando SE" in words
    assert "The above copyright notice and this permission notice shall be included" in words


@each_model
def test_graph_has_only_the_layers_that_bounds_can_read(name: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(DEMO / "models" / f"{name}.onnx")
    assert {node.op_type for node in model.graph.node} == {"Conv", "Gemm", "Relu", "Flatten"}
    assert 13 <= model.opset_import[0].version <= 17
    (source,), (sink,) = model.graph.input, model.graph.output
    assert (source.name, sink.name) == ("input", "logits")
    assert [side.dim_param or side.dim_value for side in source.type.tensor_type.shape.dim] == ["batch", 1, 28, 28]


@each_model
def test_spec_is_found_beside_the_model(name: str) -> None:
    found = spec_beside(DEMO / "models" / f"{name}.onnx")
    assert found is not None
    spec, where = found
    assert where == "manifest.json"
    assert (spec.layout, spec.channels, spec.output) == ("NCHW", "gray", "logits")
    assert spec.scale == pytest.approx(1 / 255)


@each_model
def test_onnx_gives_what_the_weights_give(name: str, shipped: tuple[NDArray[np.float32], Any]) -> None:
    images, _ = shipped
    logits = run_onnx(name, images)
    np.testing.assert_allclose(logits, forward(weights(name), images.astype(np.float64)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run_onnx(name, images[:1]), logits[:1], rtol=1e-5, atol=1e-5)


@each_model
def test_onnx_gives_what_torch_gives(name: str, shipped: tuple[NDArray[np.float32], Any], script: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    model = script.build()
    model.load_state_dict({key: torch.tensor(value) for key, value in weights(name).items()})
    with torch.no_grad():
        logits = model(torch.tensor(shipped[0])).numpy()
    np.testing.assert_allclose(run_onnx(name, shipped[0]), logits, rtol=0, atol=1e-5)


@each_model
def test_accuracy_is_as_recorded(name: str, shipped: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    images, labels = shipped
    recorded = ENTRIES[name]["accuracy"]
    assert (run_onnx(name, images).argmax(axis=1) == labels).sum() == recorded["shared_images"]["count"]
    assert recorded["full_test_set"]["n"] == 10_000
    assert recorded["full_test_set"]["accuracy"] >= {"plain": 0.90, "provable": 0.75}[name]


@each_model
def test_certified_shares_lie_below_what_survives_an_attack(name: str) -> None:
    entry = ENTRIES[name]
    shares = [row["full_test_set"]["share"] for row in entry["certified"]]
    assert [row["eps"] for row in entry["certified"]] == [row["eps"] for row in entry["pgd"]] == [0.02, 0.05, 0.1]
    assert shares == sorted(shares, reverse=True)
    for share, attacked in zip(shares, entry["pgd"], strict=True):
        assert share <= attacked["robust_acc"] <= attacked["clean"] == entry["accuracy"]["full_test_set"]["accuracy"]
    assert name == "plain" or shares[-1] >= 0.5


@each_model
@pytest.mark.parametrize("row", range(3))
def test_certified_images_are_those_of_another_way_to_bound(
    name: str, row: int, shipped: tuple[NDArray[np.float32], NDArray[np.int64]]
) -> None:
    images, labels = shipped
    recorded = ENTRIES[name]["certified"][row]
    # From the 8-bit values: the certificate is about image / 255 in double precision.
    found = certified_by_corners(weights(name), np.rint(images * 255.0) / 255, labels, recorded["eps"])
    assert found.sum() == recorded["shared_images"]["count"]


def test_no_corner_of_a_certified_ball_flips(shipped: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    images, labels = shipped
    found = certified_by_corners(weights("provable"), images.astype(np.float64), labels, 0.1)
    signs = np.random.default_rng(0).choice(np.float32([-0.0999, 0.0999]), (20, *images.shape))
    for step in signs:
        flipped = run_onnx("provable", np.clip(images + step, 0, 1)).argmax(axis=1) != labels
        assert not (flipped & found).any()


@pytest.fixture
def script() -> Iterator[ModuleType]:
    """The training script as a module; torch's number of threads is put back."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    pytest.importorskip("safetensors")
    threads = torch.get_num_threads()
    spec = importlib.util.spec_from_file_location("train_demo_models", ROOT / "examples" / "train_demo_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_demo_models"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["train_demo_models"]
    torch.set_num_threads(threads)


def write_data(folder: Path, *, images: int = 220) -> Path:
    """A data set in the IDX format: class k is a bright row 2k + 4 on noise."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name in ("train", "t10k"):
        labels = np.arange(images, dtype=np.uint8) % 10
        pixels = rng.integers(0, 60, (images, 28, 28), dtype=np.uint8)
        pixels[np.arange(images), 2 * labels + 4] = 255
        header = bytes([0, 0, 8, 3]) + np.array([images, 28, 28], dtype=">u4").tobytes()
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
        header = bytes([0, 0, 8, 1]) + np.array([images], dtype=">u4").tobytes()
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))
    return folder


def test_training_again_gives_the_same_files(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PGD_STEPS", 1)  # for speed
    data = write_data(tmp_path / "data", images=200)
    torch, digests = pytest.importorskip("torch"), []
    for run, seed in enumerate((3, 3, 4)):
        out = tmp_path / str(run) / "models"
        settings = ["--data", str(data), "--out", str(out), "--seed", str(seed), "--epochs", "1", "--batch", "50"]
        torch.rand(1)  # what others draw must not matter
        assert script.main(settings) == 0
        files = [*(path for path in sorted(out.iterdir())), out.parent / "images.npz"]
        assert [path.name for path in files] == [
            "manifest.json", "plain.onnx", "plain.safetensors", "provable.onnx", "provable.safetensors", "images.npz",
        ]  # fmt: skip
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
        with np.load(files[-1]) as arrays:
            assert arrays["labels"].tolist() == list(range(10)) * 20
            assert arrays["index"].tolist() == list(range(200))
    assert digests[0] == digests[1]
    assert digests[0][-1] == digests[2][-1]
    assert not set(digests[0][:-1]) & set(digests[2][:-1])


def test_training_learns(script: ModuleType, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    train, test = script.read_split(data, "train"), script.read_split(data, "t10k")
    model = script.train(script.RECIPES[0], train, epochs=15, batch=20, seed=0)
    assert script.correct(model, test).mean() > 0.9  # chance is 0.1


def test_margin_bounds_of_a_linear_model_are_its_minimum_over_the_box(script: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2))
    model[1].weight.data = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    model[1].bias.data = torch.tensor([1.0, 0.0])
    image, label = torch.tensor([[[[0.5, 0.95]]]]), torch.tensor([0])
    # The margin is 3x - 4y + 1; over [.4, .6] x [.85, 1] it is least at (.4, 1): 1.2 - 4 + 1.
    found = script.margin_bounds(model, image, label, 0.1)[0].tolist()
    assert found == pytest.approx([0.0, -1.8], abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.02, 0.1])
def test_script_certifies_what_another_way_to_bound_does(
    script: ModuleType, shipped: tuple[NDArray[np.float32], NDArray[np.int64]], epsilon: float
) -> None:
    torch = pytest.importorskip("torch")
    pixels, labels = np.rint(shipped[0] * 255.0), shipped[1]
    model = script.build()
    model.load_state_dict({key: torch.tensor(value) for key, value in weights("provable").items()})
    split = script.Split(torch.tensor(pixels.astype(np.uint8)), torch.tensor(labels))
    found = script.certified(model.requires_grad_(False), split, epsilon)
    np.testing.assert_array_equal(found, certified_by_corners(weights("provable"), pixels / 255, labels, epsilon))
    assert 0 < found.sum() < len(found)


def test_margin_bounds_of_radius_zero_are_the_margins(script: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    model = script.build()
    images, labels = torch.rand(4, 1, 28, 28), torch.tensor([0, 3, 9, 3])
    with torch.no_grad():
        scores = model(images)
        margins = scores.gather(1, labels[:, None]) - scores
        found = script.margin_bounds(model, images, labels, 0.0)
    np.testing.assert_allclose(found.numpy(), margins.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [([], "apt-get install dataset-fashion-mnist"), (["--batch", "0"], "--batch must be 1 or more; got 0")],
)
def test_misuse_says_the_way_out(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], words: str
) -> None:
    asked = ["--data", str(tmp_path / "none"), "--out", str(tmp_path / "out"), *settings]
    assert script.main(asked) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [-10, 30])
def test_a_damaged_data_set_is_refused(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: int
) -> None:
    data = write_data(tmp_path / "data")
    path = data / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    path.write_bytes(content[:keep] if keep < 0 else gzip.compress(gzip.decompress(content)[:keep]))
    assert script.main(["--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert path.name in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
