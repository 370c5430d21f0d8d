"""Audits side by side: counted by hand, and refused where they cannot be compared."""

from dataclasses import replace
from pathlib import Path

import pytest

from robustest.errors import InvalidSetting
from robustest.report.several import Proven, check_same_images, figures, paired_sentences, write_several
from robustest.results import Verdict
from tests.report.summaries import SURVIVOR, Fate, audit_of, flip

FIRST = [flip(0, 1, [1]), flip(0, 1, [1, 2]), flip(1, 0, [1, 2, 3]), SURVIVOR, Fate(0, Verdict.EXCLUDED, predicted=1)]
SECOND = [flip(0, 1, [1, 2, 3]), flip(0, 1, [3, 4]), SURVIVOR, SURVIVOR, flip(0, 1, [1])]


def test_each_pair_is_counted_on_the_images_that_both_get_right() -> None:
    (sentence,) = paired_sentences({"a": audit_of(FIRST)[0], "b": audit_of(SECOND)[0]})
    assert sentence.startswith("Of 4 images that both get right, a is flipped by less on 2, b on 0, and 2 are equal;")
    assert "probability 0.5 (" in sentence  # two of two on one side: 2 * (1/2)^2


def test_figures_have_a_column_for_each_audit() -> None:
    table = figures({"a": audit_of(FIRST)[0], "b": audit_of(SECOND)[0]}, {"a": Proven("Linf 0.1", 0, 4, "Proved.")})
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["flipped"][0].startswith("3 of 4: 75.0")
    assert rows["flipped"][1].startswith("3 of 5: 60.0")
    assert rows["survive 1 pixel"][0].startswith("75.0")
    assert rows["proven: none misclassified within Linf 0.1"] == ("0 of 4: 0.0\u00a0% (0.0 to 60.2\u00a0%)", "-")


def test_the_page_shows_what_both_get_right(tmp_path: Path) -> None:
    first, images = audit_of(FIRST, class_names=("<b>cat", "dog"))
    page = write_several(
        {"a": first, "b": audit_of(SECOND)[0]},
        tmp_path / "report.html",
        title="a <i>and</i> b",
        images=images,
        proven={"a": Proven("Linf 0.1", 1, 4, "Proved so.")},
        links={"a": "a/report.html"},
    ).read_text()
    assert page.count('<h3 title="image-') == 3  # not the one both survive, nor the one that a gets wrong
    assert "<b>cat" not in page
    assert "a &lt;i&gt;and&lt;/i&gt; b" in page
    assert "Within Linf 0.1: Proved so." in page
    assert '<a href="a/report.html">' in page
    assert page.count("robustest audit model.onnx images.npz -o DIR") == 1


def test_audits_that_cannot_be_compared_are_refused() -> None:
    first = audit_of(FIRST)[0]
    with pytest.raises(InvalidSetting, match="at least two"):
        check_same_images({"a": first})
    other = replace(first, data=replace(first.data, sha256="0" * 64))
    with pytest.raises(InvalidSetting, match="the same images"):
        check_same_images({"a": first, "b": other})
    with pytest.raises(InvalidSetting, match="the same norm"):
        check_same_images({"a": first, "b": replace(first, settings=replace(first.settings, norm="l2"))})
