"""A softmax computed in float32 gives scores that hardly differ the same probability: proofs must stop before that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustest.bounds.certificate import Certificate, ball_claim
from robustest.bounds.check import certify
from robustest.bounds.guarantee import Guarantee
from robustest.bounds.recheck import recheck
from robustest.bounds.recheck_model import read_model
from robustest.classifiers.onnx_file import OnnxClassifier
from robustest.classifiers.spec import InputSpec

from .onnx_nets import OnnxWriter

SPEC = InputSpec("NCHW", "gray", output="probabilities")
IMAGE = np.full((2, 2, 1), 0.9, np.float32)


def brightness(path: Path, scale: float) -> OnnxClassifier:
    """Class 1 wins where four pixels sum to more than 1, by `scale` times what is above; class 0 wins a tie."""
    net = OnnxWriter((1, 2, 2))
    net.add("Flatten", shape=(4,))
    net.dense(scale * np.array([[0.0] * 4, [1.0] * 4]), scale * np.array([0.0, -1.0]))
    net.add("Softmax", axis=1)
    return OnnxClassifier(net.save(path), SPEC)


def first_change(classifier: OnnxClassifier) -> float:
    """The smallest tried change of all pixels that the model itself answers with class 0."""
    radii = np.linspace(0, 0.65, 5001, dtype=np.float32)
    answers = classifier(IMAGE[None] - radii[:, None, None, None])
    return float(radii[answers.argmax(1) == 0][0])


@pytest.mark.parametrize("scale", [1e-4, 1e-6, 3e-7])
def test_no_proof_reaches_where_probabilities_tie(tmp_path: Path, scale: float) -> None:
    classifier = brightness(tmp_path / "net.onnx", scale)
    ties = first_change(classifier)
    assert ties < 0.65  # where the scores before the softmax would change, were nothing rounded
    found = certify(classifier, IMAGE, 1, norms=("linf",), seconds=1)["linf"]
    assert found.lower is None or found.lower.value < ties


def test_no_proof_is_lost_where_probabilities_differ(tmp_path: Path) -> None:
    found = certify(brightness(tmp_path / "net.onnx", 1.0), IMAGE, 1, norms=("linf",), seconds=1)["linf"]
    assert found.lower is not None
    assert 0.6499 < found.lower.value < 0.65


@pytest.mark.parametrize(("scale", "radius", "proved"), [(1e-6, 0.645, False), (1.0, 0.645, True)])
def test_the_second_program_stops_before_ties_too(tmp_path: Path, scale: float, radius: float, proved: bool) -> None:
    classifier = brightness(tmp_path / "net.onnx", scale)
    assert (first_change(classifier) > radius) is proved
    table = {key: getattr(SPEC, key) for key in ("layout", "channels", "scale", "mean", "std")}
    digest = read_model(tmp_path / "net.onnx", table, (2, 2, 1)).digest
    Certificate(digest, SPEC, IMAGE, 1, None, ball_claim("linf", radius), Guarantee.PROOF_EXEC, "-").save(
        tmp_path / "c.json"
    )
    assert recheck(tmp_path / "c.json", tmp_path / "net.onnx").confirmed is proved
