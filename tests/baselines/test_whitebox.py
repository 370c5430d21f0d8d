"""White-box attacks on linear classifiers, whose best answers are formulas, and against brute force."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustest.baselines.comparison import Row
from robustest.baselines.jsma import best_pair, jsma
from robustest.baselines.torchattacks_adapter import (
    AttackFailed,
    check_torchattacks,
    torchattacks_attack,
    torchattacks_names,
)
from robustest.baselines.whitebox import WHITE_BOX, check_white_box, run_white_box
from robustest.classifiers.callables import CallableClassifier
from robustest.classifiers.differentiable import (
    GradientClassifier,
    NeedsGradients,
    differentiable_of,
    margins,
    runner_up,
)
from robustest.classifiers.loading import load_classifier
from robustest.classifiers.onnx_module import OnnxModule, UnsupportedOperator
from robustest.classifiers.spec import InputSpec
from robustest.classifiers.torch_module import TorchClassifier
from robustest.errors import InvalidSetting, MissingExtra
from robustest.images import ImageSet, load_images
from robustest.results import Verdict
from robustest.settings import AttackSettings

SIDE = 6
INSTALLED = importlib.util.find_spec("torchattacks") is not None
needs_torchattacks = pytest.mark.skipif(not INSTALLED, reason="torchattacks is not installed; it is by hand, --no-deps")


class Linear(torch.nn.Module):
    """Class 1 gains half of the weighted sum less a limit, class 0 loses it; the other classes are far below."""

    def __init__(self, weights: NDArray[np.float32], limit: float, *, classes: int = 2) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.from_numpy(weights))
        self.limit, self.classes = limit, classes

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        gap = batch.flatten(1) @ self.weights - self.limit
        others = [torch.full_like(gap, -50.0) for _ in range(self.classes - 2)]
        return torch.stack([-gap / 2, gap / 2, *others], dim=1)


def linear(weights: NDArray[np.float32], limit: float, *, classes: int = 2) -> TorchClassifier:
    return TorchClassifier(Linear(weights, limit, classes=classes).eval(), InputSpec(layout="NCHW", channels="gray"))


def black(count: int = 3) -> ImageSet:
    images = np.zeros((count, SIDE, SIDE, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return ImageSet(images, np.zeros(count, np.int64), tuple(str(i) for i in range(count)))


def run(
    classifier: object, name: str, images: ImageSet | None = None, *, queries: int = 400, target: int | None = None
) -> Row:
    settings = AttackSettings(queries=queries, attack=name, target=target)
    return run_white_box(classifier, images or black(), name, settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "slack"),
    [("jsma", 1), ("jsma-z", 1), ("jsma-f", 1), ("sigma-zero", 1), ("fmn-l0", 1), ("sparsefool", 7), ("cw-l0", 1)],
)
def test_an_attack_comes_near_the_fewest_pixels_of_a_linear_classifier(name: str, slack: int) -> None:
    weights = np.linspace(0.1, 1.0, SIDE * SIDE, dtype=np.float32)
    # Three white pixels of the largest weights are just not enough: four are the fewest. SparseFool goes three times as
    # far as the boundary (its lambda): the ten largest weights sum to less than that, eleven to more.
    row = run(linear(weights, float(weights[-3:].sum()) + 0.05), name, black(1 if name == "cw-l0" else 3), queries=1000)
    for result in row.runs[0].results:
        assert result.verdict is Verdict.FLIPPED
        assert result.l0_pixels is not None
        assert 4 <= result.l0_pixels <= 4 + slack
        assert result.image is not None
        assert float((result.image.reshape(-1) / 255.0) @ weights) > float(weights[-3:].sum()) + 0.05 - 1e-5


@pytest.mark.parametrize("name", list(WHITE_BOX))
def test_what_cannot_be_flipped_survives(name: str) -> None:
    row = run(linear(np.full(SIDE * SIDE, 0.5, np.float32), 19.0), name, queries=100)  # all white reaches 18
    for result in row.runs[0].results:
        assert result.verdict is Verdict.SURVIVED
        assert result.l0_pixels is None
        assert result.image is None
        assert result.queries <= 100


@pytest.mark.parametrize("name", ["sigma-zero", "fmn-l0"])
def test_steps_are_counted_forward_and_backward(name: str) -> None:
    row = run(linear(np.ones(SIDE * SIDE, np.float32), 2.5), name, queries=50)
    assert [(r.queries, r.gradients) for r in row.runs[0].results] == [(50, 50)] * 3


def test_a_flip_that_rounding_undoes_is_no_flip() -> None:
    weights = np.zeros(SIDE * SIDE, np.float32)
    weights[5] = 1.0
    # The flip lies at 0.4 of an 8-bit step: an attack that stops there has nothing when it is stored.
    row = run(linear(weights, 0.4 / 255), "sparsefool")
    for result in row.runs[0].results:
        assert result.verdict is Verdict.SURVIVED or (result.image is not None and result.image.reshape(-1)[5] >= 1)


def test_a_target_is_reached_or_nothing_is_claimed() -> None:
    rows = [np.full(SIDE * SIDE, -1.0), np.linspace(0.1, 1, SIDE * SIDE), np.linspace(1, 0.1, SIDE * SIDE)]
    layer = torch.nn.Linear(SIDE * SIDE, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.stack(rows), dtype=torch.float32))
        layer.bias.copy_(torch.tensor([4.0, 0.0, 0.0]))
    classifier = TorchClassifier(
        torch.nn.Sequential(torch.nn.Flatten(), layer).eval(), InputSpec(layout="NCHW", channels="gray")
    )
    for name in ("jsma", "sigma-zero", "fmn-l0", "sparsefool"):
        for target in (1, 2):
            for result in run(classifier, name, target=target).runs[0].results:
                assert result.verdict is Verdict.FLIPPED
                assert result.predicted == target


@given(data=st.data())
def test_best_pair_agrees_with_trying_all_pairs(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    numbers = st.floats(-3, 3, width=16)
    gain = np.array(data.draw(st.lists(numbers, min_size=count, max_size=count)), np.float64)
    loss = np.array(data.draw(st.lists(numbers, min_size=count, max_size=count)), np.float64)
    both = data.draw(st.booleans())
    feature = np.tile(np.arange(count), 2) if both else np.arange(count)
    if both:
        gain, loss = np.concatenate([gain, -gain]), np.concatenate([loss, -loss])
    worth = 0.0
    for i in range(len(gain)):
        for j in range(len(gain)):
            alpha, beta = gain[i] + gain[j], loss[i] + loss[j]
            if feature[i] != feature[j] and alpha > 0 and beta > 0:
                worth = max(worth, alpha * beta)
    pair = best_pair(gain, loss, feature)
    if pair is None:
        assert worth == 0
    else:
        first, second = pair
        assert feature[first] != feature[second]
        assert (gain[first] + gain[second]) * (loss[first] + loss[second]) == pytest.approx(worth)


def test_jsma_takes_the_pair_of_the_papers_map() -> None:
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(3, 9)).astype(np.float32)
    layer = torch.nn.Linear(9, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
    model = GradientClassifier(
        torch.nn.Sequential(torch.nn.Flatten(), layer).eval(), InputSpec(layout="NCHW", channels="gray")
    )
    image = torch.full((1, 3, 3, 1), 0.2)
    label = int(model.logits(image).argmax())
    goal = int(runner_up(model.logits(image), torch.tensor([label]))[0])
    # The map by its definition: all pairs, target's derivatives and the sum of all others'.
    worth = {}
    for p in range(9):
        for q in range(p + 1, 9):
            alpha = weights[goal, p] + weights[goal, q]
            beta = sum(weights[j, p] + weights[j, q] for j in range(3) if j != goal)
            worth[p, q] = -alpha * beta if alpha > 0 > beta else 0.0
    expected = max(worth, key=lambda pair: worth[pair])
    changed = jsma(model, image, torch.tensor([label]), None, steps=50, direction="increase")
    places = set(np.flatnonzero((changed != image).numpy().reshape(-1)).tolist())
    assert worth[expected] > 0
    assert set(expected) <= places


def test_jsma_needs_no_table_of_pairs_for_a_photo() -> None:
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.normal(size=(5, 224 * 224 * 3)).astype(np.float32))
    layer = torch.nn.Linear(1, 1)  # a parameter to find the device by

    class Big(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.flatten(1) @ weights.T

    model = GradientClassifier(Big().eval(), InputSpec(layout="NCHW"))
    image = torch.full((1, 224, 224, 3), 0.5)
    label = model.logits(image).argmax(dim=1)
    changed = jsma(model, image, label, None, steps=15)
    assert int((changed != image).sum()) <= 30  # a table of all pairs would take 84 GiB


def test_every_image_and_backward_pass_is_counted() -> None:
    model = differentiable_of(linear(np.ones(SIDE * SIDE, np.float32), 2.5), np.zeros((1, SIDE, SIDE, 1), np.float32))
    assert (model.queries, model.gradients) == (0, 0)
    point = torch.zeros(5, SIDE, SIDE, 1, requires_grad=True)
    logits = model.logits(point)
    torch.autograd.grad(logits[:, 0].sum(), point, retain_graph=True)
    torch.autograd.grad(logits[:, 1].sum(), point)
    assert (model.queries, model.gradients) == (5, 10)


def test_margins_are_those_of_the_black_box() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 1.0]])
    labels = torch.tensor([0, 0])
    assert margins(logits, labels, None).tolist() == [0.5, -4.0]
    assert margins(logits, labels, 1).tolist() == [2.0, -3.0]


@pytest.mark.parametrize(
    ("classifier", "why"),
    [
        (CallableClassifier(lambda x: np.stack([x.sum((1, 2, 3)), 0 * x.sum((1, 2, 3))], 1)), "asked for scores"),
        (CallableClassifier(lambda x: np.zeros(len(x), np.int64), InputSpec(output="label")), "label alone"),
        (
            TorchClassifier(
                Linear(np.zeros(SIDE * SIDE, np.float32), 1.0).eval(), InputSpec(layout="NCHW", channels="gray")
            ),
            "zero everywhere",
        ),
    ],
)
def test_a_classifier_without_gradients_gets_a_row_that_says_so(classifier: object, why: str) -> None:
    row = run(classifier, "sigma-zero")
    assert row.runs == ()
    assert "needs gradients" in row.note
    assert why in row.note


def test_a_differentiable_copy_that_disagrees_is_refused() -> None:
    class Two(TorchClassifier):
        def __call__(self, images: NDArray[np.float32], /) -> NDArray[np.float32]:
            return super().__call__(images) * np.float32(1.1)

    classifier = Two(Linear(np.ones(SIDE * SIDE, np.float32), 2.5).eval(), InputSpec(layout="NCHW", channels="gray"))
    with pytest.raises(NeedsGradients, match="differs"):
        differentiable_of(classifier, np.zeros((1, SIDE, SIDE, 1), np.float32))


@needs_torchattacks
@pytest.mark.parametrize("name", ["nothing", "torchattacks.Nothing", "torchattacks.MultiAttack"])
def test_an_unknown_attack_is_refused(name: str) -> None:
    with pytest.raises(InvalidSetting, match="attack must be one of"):
        check_white_box(name)


@needs_torchattacks
def test_torchattacks_has_its_37_attacks() -> None:
    names = torchattacks_names()
    assert len(names) == 37
    assert check_torchattacks("torchattacks.JSMA") == "JSMA"


@needs_torchattacks
@pytest.mark.parametrize(
    "name", ["FGSM", "PGD", "JSMA", "Pixle", "SparseFool", "OnePixel", "DeepFool", "CW", "APGDT", "FAB"]
)
def test_torchattacks_leaves_the_process_as_it_was_and_repeats(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    weights = np.linspace(0.1, 1.0, SIDE * SIDE, dtype=np.float32)
    classifier = linear(weights, 2.5, classes=4)
    image = torch.full((SIDE, SIDE, 1), 0.05)

    def attacked() -> torch.Tensor:
        model = differentiable_of(classifier, image.numpy()[None])
        return torchattacks_attack(name, model, image, 0, None, seed=7)

    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = attacked()
    drawn = (float(torch.rand(1)), random.random(), float(np.random.random()))  # noqa: NPY002
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert drawn == (float(torch.rand(1)), random.random(), float(np.random.random()))  # noqa: NPY002
    assert torch.equal(first, attacked())
    assert first.shape == image.shape
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", torchattacks_names() if INSTALLED else ())
def test_each_attack_of_torchattacks_runs_on_a_network_of_seven_classes(name: str) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 256, 7)
    )
    classifier = TorchClassifier(network.eval(), InputSpec(layout="NCHW"))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    labels = classifier(pictures.astype(np.float32) / 255).argmax(axis=1)
    row = run(classifier, f"torchattacks.{name}", ImageSet(pictures, labels, ("a", "b")))
    for result in row.runs[0].results:
        assert result.verdict is not Verdict.UNKNOWN, result.reason
        assert result.queries > 0 or name == "VANILA"
    assert row.access == ("gradients" if any(result.gradients for result in row.runs[0].results) else "scores")


@needs_torchattacks
@pytest.mark.parametrize("name", ["OnePixel", "Pixle", "Square"])
def test_an_attack_without_gradients_needs_scores_alone(name: str) -> None:
    """The same images are found of a classifier that gives gradients and of one that only answers."""
    weights = np.linspace(0.1, 1.0, SIDE * SIDE, dtype=np.float32)

    def answers(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        gap = batch.reshape(len(batch), -1) @ weights - np.float32(0.05)
        return np.stack([-gap / 2, gap / 2], axis=1)

    white = run(linear(weights, 0.05), f"torchattacks.{name}")
    black = run(load_classifier(answers), f"torchattacks.{name}")
    assert white.access == black.access == "scores"
    for one, other in zip(white.runs[0].results, black.runs[0].results, strict=True):
        assert (one.verdict, one.queries, one.gradients) == (other.verdict, other.queries, 0)
        assert one.l0_pixels == other.l0_pixels
    flipped = any(result.verdict is Verdict.FLIPPED for result in black.runs[0].results)
    assert flipped != (name == "Pixle")  # it moves pixels about, and these images are black


@needs_torchattacks
def test_an_attack_on_scores_is_not_run_on_labels() -> None:
    def labels(batch: NDArray[np.float32]) -> NDArray[np.int64]:
        return (batch.reshape(len(batch), -1).sum(1) > 3).astype(np.int64)

    row = run(CallableClassifier(labels, InputSpec(channels="gray", output="label")), "torchattacks.OnePixel")
    assert (row.runs, row.access) == ((), "scores")
    assert row.note.startswith("needs scores:")


@needs_torchattacks
def test_torchattacks_jsma_is_aimed_at_the_runner_up_for_any_number_of_classes() -> None:
    weights = np.linspace(0.1, 1.0, SIDE * SIDE, dtype=np.float32)
    # Four classes, and the label + 1 of its default is the one that flips here; class 3's default would be class 4 of 4.
    row = run(linear(weights, 1.5, classes=4), "torchattacks.JSMA")
    assert all(result.flipped for result in row.runs[0].results)
    assert all(result.gradients > 0 and result.queries > 0 for result in row.runs[0].results)


@needs_torchattacks
def test_torchattacks_jsma_is_not_run_beyond_memory() -> None:
    model = differentiable_of(linear(np.ones(SIDE * SIDE, np.float32), 2.5), np.zeros((1, SIDE, SIDE, 1), np.float32))
    with pytest.raises(AttackFailed, match="84 GiB"):
        torchattacks_attack("JSMA", model, torch.zeros(224, 224, 3), 0, None, seed=0)


@needs_torchattacks
def test_an_attack_of_others_that_fails_on_an_image_leaves_it_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> torch.Tensor:
        raise AttackFailed("torchattacks.FGSM failed: for the test")

    monkeypatch.setattr("robustest.baselines.torchattacks_adapter.torchattacks_attack", broken)
    row = run(linear(np.ones(SIDE * SIDE, np.float32), 2.5), "torchattacks.FGSM")
    assert [result.verdict for result in row.runs[0].results] == [Verdict.UNKNOWN] * 3
    assert row.note == "torchattacks.FGSM failed: for the test"


@pytest.mark.parametrize(
    "model",
    [
        "mnist_deepgame",
        "mnist_colt_eps01",
        "cifar_resnet20",
        "cifar_onepixel_resnet",
        "cifar_vit_pgd",
        "gtsrb_stn",
        "nexar_safecv",
        "imagenet_mobilenet_v1_025_128",
    ],
)
def test_an_onnx_file_as_a_module_gives_the_scores_of_onnxruntime(zoo: Path, model: str) -> None:
    classifier = load_classifier(zoo / "models" / f"{model}.onnx", threads=1)
    data = {"mnist": "mnist", "cifar": "cifar10", "gtsrb": "gtsrb32", "nexar": "nexar", "imagenet": "imagenet128"}[
        model.split("_")[0]
    ]
    images = load_images(zoo / "data" / f"{data}.npz").images[:3].astype(np.float32) / 255
    white = differentiable_of(classifier, images)  # it refuses margins that differ by more than 1e-3
    point = torch.from_numpy(images).requires_grad_(True)
    logits = white.logits(point)
    # The gradient is the slope: half a step along it changes the score by what it says.
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), point)
    step = 1e-3 / float(gradient.norm())
    moved = (
        white.logits(point.detach() + step * gradient)[:, 1].sum()
        - white.logits(point.detach() - step * gradient)[:, 1].sum()
    )
    assert float(moved) == pytest.approx(2 * step * float(gradient.square().sum()), rel=0.05)


def test_an_onnx_file_of_sign_functions_says_that_it_has_no_gradients(zoo: Path) -> None:
    classifier = load_classifier(zoo / "models" / "gtsrb_bnn48.onnx", threads=1)
    images = load_images(zoo / "data" / "gtsrb48.npz").images[:2].astype(np.float32) / 255
    with pytest.raises(NeedsGradients, match="zero everywhere"):
        differentiable_of(classifier, images)


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Hardmax", ["input"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(tmp_path / "h.onnx")
    )
    with pytest.raises(UnsupportedOperator, match="'Hardmax'"):
        OnnxModule(tmp_path / "h.onnx")


def test_without_torchattacks_the_way_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(MissingExtra, match="pip install --no-deps torchattacks"):
        check_white_box("torchattacks.JSMA")


def test_jsma_on_a_saturated_softmax_takes_the_steepest_pair() -> None:
    weights = np.linspace(1.0, 100.0, SIDE * SIDE, dtype=np.float32)
    # The label leads by 900: its softmax is 1 and the other's 0 in float32, slopes and all.
    row = run(linear(weights, 450.0 + 1e-3), "jsma-f", black(1))
    (result,) = row.runs[0].results
    assert result.l0_pixels == 6  # 100 + 97.2 + ... : five of the largest weights reach 471.7, and pixels come in pairs
