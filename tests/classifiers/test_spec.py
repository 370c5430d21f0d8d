"""The input spec: the zoo's formula, its files, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robustest.classifiers.spec import InputSpec, read_spec, spec_beside
from robustest.errors import InvalidSpec


def test_prepare_is_image_times_scale_minus_mean_over_std_in_the_models_order() -> None:
    image8 = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    spec = InputSpec("NCHW", "BGR", "1/255", (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))  # type: ignore[arg-type]
    wanted = (image8[..., ::-1] * np.float32(1 / 255) - np.float32([0.1, 0.2, 0.3])) / np.float32([0.5, 0.6, 0.7])
    got = spec.prepare(image8.astype(np.float32) / np.float32(255))
    assert got == pytest.approx(wanted.transpose(0, 3, 1, 2), abs=1e-6)


def test_numbers_may_be_fractions_of_decimal_numbers() -> None:
    spec = InputSpec("NHWC", "RGB", "1/127.5", "0.5/0.5", ("1", "2.5/5", 2))  # type: ignore[arg-type]
    assert (spec.scale, spec.mean, spec.std) == (1 / 127.5, (1.0,), (1.0, 0.5, 2.0))


def test_a_model_that_takes_eight_bits_gets_whole_numbers() -> None:
    image8 = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    got = InputSpec("NHWC", "gray", 1.0).prepare(image8.astype(np.float32) / np.float32(255))
    assert (got == image8).all()


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"layout": "CHW"}, "NHWC, NCHW"),
        ({"channels": "rgb"}, "RGB, BGR, gray"),
        ({"scale": "1/0"}, "fraction"),
        ({"scale": "1/2/3"}, "fraction"),
        ({"scale": "/255"}, "fraction"),
        ({"scale": 0}, "> 0"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
        ({"mean": (1.0, 0.0)}, "3 channels"),
        ({"output": "scores"}, "logits"),
        ({"mean": (float("nan"),)}, "finite"),
    ],
)
def test_bad_values_say_what_they_must_be(keys: dict[str, object], word: str) -> None:
    with pytest.raises(InvalidSpec, match=word):
        InputSpec(**keys)  # type: ignore[arg-type]


def test_toml_beside_the_model_is_found_before_a_manifest(tmp_path: Path) -> None:
    entry = {
        "file": "models/a.onnx",
        "input": {"layout": "NHWC", "channels": "gray", "scale": "1"},
        "output": {"kind": "label"},
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"models": [entry]}))
    model = tmp_path / "models" / "a.onnx"
    model.parent.mkdir()
    found = spec_beside(model)
    assert found is not None
    assert found == (InputSpec("NHWC", "gray", 1.0, output="label"), "manifest.json")
    (model.parent / "model.toml").write_text('layout = "NCHW"\nmean = [0.1, 0.2, 0.3]\n')
    found = spec_beside(model)
    assert found is not None
    assert found[0].mean == (0.1, 0.2, 0.3)


def test_a_misspelt_key_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text('[input]\nlayuot = "NCHW"\n')
    with pytest.raises(InvalidSpec, match="layuot"):
        read_spec(tmp_path / "spec.toml")
    (tmp_path / "spec.toml").write_text("layout = NCHW")
    with pytest.raises(InvalidSpec, match="not TOML"):
        read_spec(tmp_path / "spec.toml")
