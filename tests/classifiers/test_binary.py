"""One number an image is a classifier of two classes: its scores have known answers, and its twin of two scores the same audit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustest.audit.run import run_audit
from robustest.bounds.check import checker_of
from robustest.bounds.errors import UnsupportedLayer
from robustest.classifiers import InputSpec, load_classifier
from robustest.classifiers.classifier import Images, check_output, check_scores, classes_of
from robustest.classifiers.differentiable import differentiable_of
from robustest.errors import ModelError
from robustest.results import Scores
from robustest.settings import AttackSettings
from tests.models import write_linear_onnx

RNG = np.random.default_rng(5)
W = RNG.normal(size=(48, 1)).astype(np.float32)
B = -W.sum(axis=0) / 2  # so that images of both classes are as likely
IMAGES = RNG.integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)


def logit(images: Images) -> Scores:
    # Image by image, so that a score does not depend on the batch, bit for bit.
    return np.array([(image.reshape(-1) * W[:, 0]).sum() + B[0] for image in images], dtype=np.float32)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_a_logit_and_a_probability_are_scores_of_two_classes(shape: tuple[int, ...]) -> None:
    logits = np.array([-2.0, 0.0, 1.0, 3.0], np.float32).reshape(shape)
    scores = check_scores(logits, 4, "logits", source="m")
    assert scores.tolist() == [[0, -2], [0, 0], [0, 1], [0, 3]]
    assert classes_of(scores, "logits").tolist() == [0, 0, 1, 1]
    share = np.array([0.0, 0.25, 0.75, 1.0], np.float32).reshape(shape)
    scores = check_scores(share, 4, "probabilities", source="m")
    assert scores.tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    assert classes_of(scores, "probabilities").tolist() == [0, 0, 1, 1]


def test_what_one_number_is_not_is_refused_with_the_declaration_that_fits() -> None:
    with pytest.raises(ModelError, match='output = "logits"'):
        check_scores(np.array([0.5, 1.5], np.float32), 2, "probabilities", source="m")
    shares = check_scores(np.array([0.5, 0.7], np.float32), 2, "logits", source="m")
    with pytest.raises(ModelError, match='output = "probabilities"'):
        check_output(shares, "logits", source="m")
    check_output(check_scores(np.array([0.5, -0.7], np.float32), 2, "logits", source="m"), "logits", source="m")
    with pytest.raises(ModelError, match="NaN"):
        check_scores(np.array([0.5, np.nan], np.float32), 2, "probabilities", source="m")


def test_a_file_with_one_output_says_how_it_is_read_and_has_two_classes(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 4, 4, 3))
    classifier = load_classifier(path)
    assert classifier.info.classes == 2
    assert any("the logit of class 1 of two" in guess for guess in classifier.info.guessed)
    unit = IMAGES.astype(np.float32) / 255
    assert classifier(unit)[:, 1] == pytest.approx(logit(unit), abs=1e-4)
    assert not classifier(unit)[:, 0].any()


def test_an_audit_of_one_logit_is_that_of_two_scores(tmp_path: Path) -> None:
    def two(images: Images) -> Scores:
        ones = logit(images)
        return np.stack([np.zeros_like(ones), ones], axis=1)

    labels = (logit(IMAGES.astype(np.float32) / np.float32(255)) > 0).astype(np.int64)
    assert 0 < labels.sum() < len(labels)
    found = [
        run_audit(function, IMAGES, labels, AttackSettings(queries=60), tmp_path / function.__name__)
        for function in (logit, two)
    ]
    ours, twins = ([(r.verdict, r.predicted, r.distances, r.curve) for r in summary.records] for summary in found)
    assert ours == twins
    assert all(record.label + (record.predicted or 0) == 1 for record in found[0].records if record.flipped)


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_gradients_are_of_two_scores(output: str) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 1))
    if output == "probabilities":
        net.append(torch.nn.Sigmoid())
    classifier = load_classifier(net.eval(), InputSpec("NHWC", output=output))  # type: ignore[arg-type]
    white = differentiable_of(classifier, IMAGES[:3].astype(np.float32) / 255)
    assert white.logits(torch.zeros(2, 4, 4, 3)).shape == (2, 2)


def test_proofs_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = write_linear_onnx(tmp_path / "m.onnx", W, B, shape=("n", 4, 4, 3))
    with pytest.raises(UnsupportedLayer, match=r"one number an image.*Export it with two"):
        checker_of(load_classifier(path), image_shape=(4, 4, 3))
