"""What an audit doubts of its images and labels, and images of the target class, on a classifier with known answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from robustest.audit.run import run_audit
from robustest.audit.summary import load_summary
from robustest.errors import InvalidImage, NothingToTest
from robustest.images import ImageSet, as_unit
from robustest.settings import AttackSettings, Norm, Values
from tests.audit.conftest import CLASSES, SIDE

QUICK = AttackSettings(queries=400)
MINIMAL = AttackSettings(queries=400, minimal=True)


@pytest.fixture
def balanced(linear: ModuleType) -> ImageSet:
    """24 images with the model's own labels, 8 of each class, class after class: what has a positive weight is bright."""
    rng = np.random.default_rng(0)
    own = linear.WEIGHTS.T.reshape(CLASSES, 1, SIDE, SIDE, 1)
    dark = rng.integers(0, 40, (CLASSES, 8, SIDE, SIDE, 1))
    images = np.where(own == own.max(axis=0), 255 - dark, dark).astype(np.uint8).reshape(-1, SIDE, SIDE, 1)
    labels = np.repeat(np.arange(CLASSES), 8)
    assert (linear.scores(as_unit(images)).argmax(axis=1) == labels).all()
    return ImageSet(images, labels, tuple(map(str, range(24))))


def test_labels_numbered_from_one_are_recognised(linear: ModuleType, balanced: ImageSet, tmp_path: Path) -> None:
    some = balanced.take(range(16))
    with pytest.raises(NothingToTest):
        run_audit(linear.scores, replace(some, labels=some.labels + 1), None, QUICK, tmp_path / "run")
    told = "Of 16 images asked first, it gives 16 the class before that of the label: are the labels numbered from 1?"
    assert told in load_summary(tmp_path / "run").doubts[0]
    with pytest.raises(InvalidImage, match="subtract 1"):
        run_audit(linear.scores, replace(balanced, labels=balanced.labels + 1), None, QUICK, tmp_path / "all")
    otherwise = replace(some, labels=(some.labels + 2) % 3)
    with pytest.raises(NothingToTest):
        run_audit(linear.scores, otherwise, None, QUICK, tmp_path / "otherwise")
    assert "numbered from 1" not in load_summary(tmp_path / "otherwise").doubts[0]


def test_copies_among_the_images_are_a_reason_to_doubt(linear: ModuleType, balanced: ImageSet, tmp_path: Path) -> None:
    twice = balanced.take([*range(24), 3, 4, 4])
    doubts = run_audit(linear.scores, twice, None, QUICK, tmp_path / "twice").doubts
    assert "3 of 27 images are copies of others. Intervals take" in doubts[0]
    assert run_audit(linear.scores, balanced, None, MINIMAL, tmp_path / "once").doubts == ()


@pytest.mark.parametrize(("count", "told"), [(7, ""), (8, "one class alone, of 3 that the model has"), (9, "")])
def test_images_of_few_of_the_classes_are_a_reason_to_doubt(
    count: int, told: str, linear: ModuleType, balanced: ImageSet, tmp_path: Path
) -> None:
    doubts = run_audit(linear.scores, balanced.take(range(count)), None, MINIMAL, tmp_path / "run").doubts
    assert [told in doubt for doubt in doubts] == [True] * bool(told)


@pytest.mark.parametrize(
    ("norm", "values", "tau", "told"),
    [
        ("linf", "corners", 0.1, "the end of its range, which makes Linf about as large as it can be"),
        ("linf", "free", 0.1, "an end or the middle of its range, which makes Linf about as large as it can be"),
        ("linf", "tau", 1.0, "the end of its range, which makes Linf about as large as it can be"),
        ("linf", "tau", 0.1, None),
        ("l2", "corners", 0.1, "the end of its range, which makes L2 large"),
        ("l2", "tau", 0.1, None),
        ("l0", "corners", 0.1, None),
        ("l1", "corners", 0.1, None),
    ],
)
def test_distances_of_colours_far_away_are_a_reason_to_doubt(
    norm: Norm, values: Values, tau: float, told: str | None, linear: ModuleType, balanced: ImageSet, tmp_path: Path
) -> None:
    settings = replace(QUICK, norm=norm, values=values, tau=tau)
    doubts = run_audit(linear.scores, balanced, None, settings, tmp_path / "run").doubts
    found = [doubt for doubt in doubts if doubt.startswith("Each changed value")]
    way = "--values tau with a small --tau asks about small changes."
    assert found == ([] if told is None else [f"Each changed value moved to {told}: {way}"])


def test_images_of_the_target_class_are_not_attacked_and_are_no_mistakes_of_the_model(
    linear: ModuleType, balanced: ImageSet, tmp_path: Path
) -> None:
    labels = balanced.labels.copy()
    labels[[0, 8]] = 2  # two mistakes: one image of class 0, one of class 1
    settings = AttackSettings(queries=100, target=1)
    summary = run_audit(linear.scores, replace(balanced, labels=labels), None, settings, tmp_path / "run")
    assert (summary.counts.of_target, summary.counts.wrong, summary.counts.excluded) == (7, 2, 9)
    assert (summary.clean_accuracy.count, summary.clean_accuracy.of) == (22, 24)
    totals = json.loads((tmp_path / "run" / "result.json").read_text())["totals"]
    assert (totals["of_target"], totals["excluded"], totals["clean_accuracy"]["count"]) == (7, 9, 22)
    assert load_summary(tmp_path / "run").counts == summary.counts

    with pytest.raises(NothingToTest, match="8 of 8 are of the target class 1 already"):
        run_audit(linear.scores, balanced.take(range(8, 16)), None, settings, tmp_path / "only")
    assert load_summary(tmp_path / "only").clean_accuracy.share == 1
