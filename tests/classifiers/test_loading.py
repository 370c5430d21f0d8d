"""From what a user names to a classifier, and the refusals on the way."""

from __future__ import annotations

import hashlib
import operator
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from robustest.classifiers import InputSpec, load_classifier
from robustest.classifiers.classifier import check_output
from robustest.classifiers.onnx_digest import model_digest
from robustest.errors import InvalidSetting, InvalidSpec, ModelError, UntrustedModel
from tests.models import write_linear_onnx

RNG = np.random.default_rng(0)
W, B = RNG.normal(size=(48, 3)).astype(np.float32), RNG.normal(size=3).astype(np.float32)


def test_onnx_scores_are_the_matrix_product(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 4, 4, 3))
    classifier = load_classifier(path)
    images = RNG.random((5, 4, 4, 3), dtype=np.float32)
    assert classifier(images) == pytest.approx(images.reshape(5, -1) @ W + B, abs=1e-4)
    assert classifier.info.spec == InputSpec("NHWC", "RGB", 1 / 255, output="logits")
    assert any("layout NHWC" in guess for guess in classifier.info.guessed)
    assert classifier.info.classes == 3


def test_probabilities_are_guessed_from_scores_that_sum_to_one(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 3, 4, 4), softmax=True)
    info = load_classifier(path).info
    assert (info.output, info.spec.layout) == ("probabilities", "NCHW")


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=(4, 4, 4, 3))
    images = RNG.random((6, 4, 4, 3), dtype=np.float32)
    assert load_classifier(path)(images) == pytest.approx(images.reshape(6, -1) @ W + B, abs=1e-4)


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 4, 4, 3))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match=r"m\.onnx cannot be loaded"):
        load_classifier(path)
    with pytest.raises(ModelError, match="does not exist"):
        load_classifier(tmp_path / "none.onnx")


def test_an_input_of_two_axes_is_no_image_classifier(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 48))
    with pytest.raises(ModelError, match="2 axes"):
        load_classifier(path)


def test_a_spec_that_contradicts_the_files_shape_is_refused(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 4, 4, 3))
    with pytest.raises(InvalidSpec, match="3 channels"):
        load_classifier(path, InputSpec("NHWC", "gray"))


class Boom:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".pt2", ".keras"])
def test_a_pickled_model_is_refused_before_a_byte_of_it_is_loaded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Boom()))
    with pytest.raises(UntrustedModel, match="--trust-model sha256:"):
        load_classifier(path)
    with pytest.raises(UntrustedModel):
        load_classifier(path, trust_model="sha256:00")


def test_a_trusted_module_loads_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval(), path)
    with pytest.raises(UntrustedModel) as refusal:
        load_classifier(path)
    digest = str(refusal.value).split("--trust-model ")[1]
    trusted = load_classifier(path, told={"output": "probabilities"}, trust_model=digest)
    assert trusted.info.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_classifier(path, trust_model=digest)(RNG.random((2, 4, 4, 3), dtype=np.float32)).shape == (2, 3)


def test_a_trusted_function_has_the_digest_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    torch.save(operator.itemgetter(0), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_classifier(path, trust_model=f"sha256:{digest}").info.digest == digest


def test_a_trusted_exported_program_is_its_trace_and_none_of_training(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3), torch.nn.Dropout())
    dynamic = ({0: torch.export.Dim("n")},)
    images = RNG.random((2, 3, 4, 4), dtype=np.float32)
    for training in (False, True):
        path = tmp_path / f"{training}.pt2"
        exported = torch.export.export(net.train(training), (torch.from_numpy(images),), dynamic_shapes=dynamic)
        torch.export.save(exported, path)
        digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        if training:
            with pytest.raises(ModelError, match=r"training mode.*\.eval\(\)"):
                load_classifier(path, trust_model=digest)
        else:
            scores = load_classifier(path, trust_model=digest)(images.transpose(0, 2, 3, 1))
            assert scores == pytest.approx(net(torch.from_numpy(images)).detach().numpy(), abs=1e-6)


def test_module_callable_may_be_a_function_or_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_model.py").write_text(
        "import numpy as np\ndef score(images): return images.reshape(len(images), -1)[:, :2]\ndef make(): return score\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    images = RNG.random((2, 4, 4, 3), dtype=np.float32)
    for name in ("my_own_model:score", "my_own_model:make"):
        assert load_classifier(name)(images) == pytest.approx(images.reshape(2, -1)[:, :2])
    with pytest.raises(ModelError, match="no attribute"):
        load_classifier("my_own_model:missing")
    with pytest.raises(ModelError, match="cannot be imported"):
        load_classifier("my_other_model:score")


def test_a_module_that_ends_the_program_and_a_files_name_for_a_modules_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_script.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="importing 'my_own_script' failed: SystemExit"):
        load_classifier("my_own_script:score")
    with pytest.raises(ModelError, match="not its file: my_other_script:score"):
        load_classifier("my_other_script.py:score")


def test_a_module_in_training_mode_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="eval"):
        load_classifier(torch.nn.Linear(2, 2))


def test_a_callables_own_exception_names_it() -> None:
    def broken(images: object) -> object:
        raise ValueError("no weights")

    with pytest.raises(ModelError, match=r"broken failed.*no weights"):
        load_classifier(broken)(np.zeros((1, 2, 2, 1), np.float32))


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (np.full((2, 3), np.nan), "NaN"),
        (np.zeros((2, 0)), "K >= 2"),
        (np.zeros((3, 3)), "N = 2"),
        (np.array([4, 7]), r'"label" \(--output label; in Python InputSpec\(output="label"\)\)'),
        ([["a", "b"], ["c", "d"]], "scores"),
    ],
)
def test_answers_that_are_no_scores_are_refused(answer: object, word: str) -> None:
    with pytest.raises(ModelError, match=word):
        load_classifier(lambda images: answer)(np.zeros((2, 2, 2, 1), np.float32))


def test_scores_must_be_what_was_declared() -> None:
    logits = np.array([[3.0, 1.0], [0.0, 5.0]], np.float32)
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    check_output(logits, "logits", source="m")
    check_output(probabilities, "probabilities", source="m")
    with pytest.raises(ModelError, match='output = "logits"'):
        check_output(logits, "probabilities", source="m")
    with pytest.raises(ModelError, match='output = "probabilities"'):
        check_output(probabilities, "logits", source="m")
    with pytest.raises(ModelError, match="same scores"):
        check_output(np.repeat(logits[:1], 2, axis=0), "logits", source="m")


def test_a_device_that_a_model_cannot_run_on_is_refused(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 4, 4, 3))
    with pytest.raises(InvalidSetting, match=r"device must be left away, or 'cpu', for m.onnx; got 'cuda:0'"):
        load_classifier(path, device="cuda:0")
    with pytest.raises(InvalidSetting, match="Only torch modules"):
        load_classifier(lambda images: images, device="cuda:9")
    load_classifier(path, device="cpu")


def _write_classes_onnx(path: Path, *outputs: str) -> Path:
    """The linear model on NCHW images that also gives the class: `scores`, `classes`, in the order named."""
    write_linear_onnx(path, W, B, shape=("n", 3, 4, 4))
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0))
    scores = model.graph.output.pop()
    classes = onnx.helper.make_tensor_value_info("classes", onnx.TensorProto.INT64, ["n"])
    model.graph.output.extend({"scores": scores, "classes": classes}[name] for name in outputs)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("told", [{}, {"output": "label"}])
def test_a_file_that_gives_class_numbers_is_label_only(tmp_path: Path, told: dict[str, str]) -> None:
    classifier = load_classifier(_write_classes_onnx(tmp_path / "m.onnx", "classes"), told=told)
    images = RNG.random((5, 4, 4, 3), dtype=np.float32)
    assert classifier.info.output == "label"
    assert any("output label" in guess for guess in classifier.info.guessed) == (not told)
    expected = (images.transpose(0, 3, 1, 2).reshape(5, -1) @ W + B).argmax(axis=1)
    assert (classifier(images) == expected).all()
    assert (pickle.loads(pickle.dumps(classifier))(images) == expected).all()


def test_of_several_outputs_the_scores_are_taken_and_it_is_said(tmp_path: Path) -> None:
    path = _write_classes_onnx(tmp_path / "m.onnx", "classes", "scores")
    images = RNG.random((5, 4, 4, 3), dtype=np.float32)
    classifier = load_classifier(path)
    assert classifier(images).shape == (5, 3)
    assert any("'logits'" in guess for guess in classifier.info.guessed)
    assert load_classifier(path, told={"output": "label"})(images).shape == (5,)
    first = load_classifier(_write_classes_onnx(tmp_path / "n.onnx", "scores", "classes"))
    assert not any("'logits'" in guess for guess in first.info.guessed)


def _write_typed_onnx(path: Path, kind: int) -> Path:
    write_linear_onnx(path, W, B, shape=("n", 4, 4, 3))
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = kind
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["input"], ["cast"], to=onnx.TensorProto.FLOAT))
    model.graph.node[1].input[0] = "cast"
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("kind", ["UINT8", "INT32", "INT64"])
def test_an_input_of_whole_numbers_gets_values_in_0_to_255(tmp_path: Path, kind: str) -> None:
    path = _write_typed_onnx(tmp_path / "m.onnx", getattr(onnx.TensorProto, kind))
    images = RNG.integers(0, 256, (5, 4, 4, 3)).astype(np.float32)
    classifier = load_classifier(path)
    assert classifier.info.spec.scale == 1
    assert classifier(images / 255) == pytest.approx(images.reshape(5, -1) @ W + B, rel=1e-4, abs=1e-2)
    for told in ({"scale": "1/255"}, {"mean": 0.5}, {"std": 255}):
        with pytest.raises(InvalidSpec, match=r"whole numbers in 0\.\.255"):
            load_classifier(path, told=told)
    with pytest.raises(InvalidSpec, match=r"whole numbers in 0\.\.255"):
        load_classifier(path, InputSpec("NHWC", "RGB", 1 / 255))


@pytest.mark.parametrize(("kind", "error"), [("FLOAT16", 1e-2), ("DOUBLE", 1e-4)])
def test_an_input_of_another_precision_gets_the_same_images(tmp_path: Path, kind: str, error: float) -> None:
    classifier = load_classifier(_write_typed_onnx(tmp_path / "m.onnx", getattr(onnx.TensorProto, kind)))
    images = RNG.random((5, 4, 4, 3), dtype=np.float32)
    assert classifier(images) == pytest.approx(images.reshape(5, -1) @ W + B, abs=error)
    with pytest.raises(ModelError, match=r"tensor\(bool\).*Export it"):
        load_classifier(_write_typed_onnx(tmp_path / "b.onnx", onnx.TensorProto.BOOL))


def test_scores_that_were_not_flattened_are_rows(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 4, 4, 3))
    model = onnx.load(str(path))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["logits", "shape"], ["scores"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 3, 1, 1]), "shape"))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", 3, 1, 1]))
    onnx.save(model, str(path))
    classifier = load_classifier(path)
    assert (classifier.info.classes, classifier.info.output) == (3, "logits")
    images = RNG.random((5, 4, 4, 3), dtype=np.float32)
    assert classifier(images) == pytest.approx(images.reshape(5, -1) @ W + B, abs=1e-4)
    net = torch.nn.Conv2d(3, 3, 4).eval()
    assert load_classifier(net)(images).shape == (5, 3)


def test_a_file_that_leaves_its_size_open_but_takes_one_alone_says_what_to_tell(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", "h", "w", 3))
    with pytest.raises(ModelError, match=r"leaves the size of its images open.*--output logits"):
        load_classifier(path)
    images = RNG.random((5, 4, 4, 3), dtype=np.float32)
    assert load_classifier(path, told={"output": "logits"})(images).shape == (5, 3)


def test_what_is_told_holds_and_the_rest_is_guessed_and_said(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 3, 4, 4))
    info = load_classifier(path, told={"mean": (0.1, 0.2, 0.3)}).info
    assert info.spec == InputSpec("NCHW", "RGB", 1 / 255, mean=(0.1, 0.2, 0.3))
    assert " ".join(info.guessed) == (
        "layout NCHW and channels RGB, from the input's shape ['n', 3, 4, 4] scale 1/255, std 1 "
        "output logits, because scores of noise do not sum to 1"
    )
    everything = {"layout": "NCHW", "channels": "BGR", "scale": 1, "mean": 0, "std": 1, "output": "logits"}
    assert load_classifier(path, told=everything).info.guessed == ()
    (tmp_path / "model.toml").write_text('layout = "NCHW"\nchannels = "BGR"\n')
    beside = load_classifier(path, told={"mean": 0.5}).info
    assert (beside.spec, beside.guessed) == (InputSpec("NCHW", "BGR", mean=(0.5,)), ())
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    assert load_classifier(net, told={"scale": 1}).info.spec == InputSpec("NCHW", "RGB", 1)


def test_the_digest_of_a_model_changes_with_the_weights_that_lie_beside_it(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 4, 4, 3))
    assert load_classifier(path).info.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    for weights in (W, W + 1):
        plain = onnx.load(str(write_linear_onnx(tmp_path / "plain.onnx", weights, B, shape=("n", 4, 4, 3))))
        (tmp_path / "m.onnx.data").unlink(missing_ok=True)
        onnx.save_model(plain, str(path), save_as_external_data=True, location="m.onnx.data", size_threshold=0)
        both = path.read_bytes() + (tmp_path / "m.onnx.data").read_bytes()
        assert load_classifier(path).info.digest == hashlib.sha256(both).hexdigest()


def test_weights_outside_the_models_folder_are_no_part_of_it(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 4, 4, 3))
    onnx.save_model(
        onnx.load(str(path)), str(path), save_as_external_data=True, location="m.onnx.data", size_threshold=0
    )
    model = onnx.load(str(path), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../m.onnx.data"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"'\.\./m\.onnx\.data'.*the model's own folder"):
        model_digest(path)
    with pytest.raises(ModelError, match=r"m\.onnx"):
        load_classifier(path)
