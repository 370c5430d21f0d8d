"""Certified curves counted by hand, and proofs that contradict what was found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from robustest.audit.summary import spec_json
from robustest.classifiers.spec import InputSpec
from robustest.errors import RunConflict
from robustest.report.html import report_page
from robustest.report.proofs import Proof, contradictions, proofs_of, proven_of, read_proofs
from tests.report.summaries import SURVIVOR, audit_of, flip

GIVEN = audit_of([SURVIVOR])[0].model.spec
FATES = [flip(0, 1, [1, 2, 3]), flip(0, 1, [4]), SURVIVOR, SURVIVOR]


def bracket(lower: float | None, upper: float | None) -> dict[str, object]:
    return {
        "lower": None if lower is None else {"value": lower, "claim": "Proved <so>."},
        "upper": None if upper is None else {"value": upper},
    }


def run_with(
    tmp_path: Path,
    brackets: list[dict[str, object] | None],
    *,
    model: str = "ab" * 32,
    spec: InputSpec = GIVEN,
) -> Path:
    """A run folder with proofs of the images of FATES, in their order."""
    summary = audit_of(FATES)[0]
    images = [
        {"name": r.name, "sha256": r.sha256, "label": 0, **({"excluded": "wrong"} if b is None else {"brackets": b})}
        for r, b in zip(summary.records, brackets, strict=True)
    ]
    told = {"model": {"sha256": model, "spec": spec_json(spec)}, "images": images}
    (tmp_path / "certify.json").write_text(json.dumps(told))
    return tmp_path / "certify.json"


def test_the_curves_count_proofs_and_the_nearest_of_all_that_was_found(tmp_path: Path) -> None:
    path = run_with(
        tmp_path,
        [{"l0": bracket(2, None)}, {"l0": bracket(1, 3)}, {"l0": bracket(None, 5)}, None],
    )
    summary = replace(audit_of(FATES)[0], path=tmp_path / "result.json")
    proven = proven_of(summary, proofs_of(summary))
    assert path.is_file()
    assert proven is not None
    (curve,) = proven.norms
    told = {row[0]: [cell.split(":")[0] for cell in row[1:]] for row in curve.table.rows}
    # proven: 2, 1, nothing. nearest: 3 by the attack, 1 by the attack (the proof's own was 3), 5 beside the proof
    assert told == {"0": ["2", "3"], "1": ["1", "2"], "2": ["0", "2"], "3": ["0", "1"], "5": ["0", "0"]}
    page = report_page(summary)
    assert 'id="proven"' in page
    assert "Proved &lt;so&gt;." in page


def test_a_proof_above_a_found_distance_is_the_first_reason_to_doubt(tmp_path: Path) -> None:
    run_with(tmp_path, [{"l0": bracket(4, None)}, {"l0": bracket(1, None)}, {"l2": bracket(2, 1)}, None])
    summary = replace(audit_of(FATES, doubts=("it does not repeat",))[0], path=tmp_path / "result.json")
    wrong = contradictions(summary, proofs_of(summary))
    assert [line.split(":")[0] for line in wrong] == ["image-0", "image-2"]
    assert "nearer than l0 4, yet an image at 3 is" in wrong[0]
    page = report_page(summary)
    assert page.index("nearer than l0 4") < page.index("it does not repeat") < page.index("To get this again")


def test_no_proofs_is_no_section() -> None:
    summary = audit_of(FATES)[0]
    assert proofs_of(summary) == ()
    assert proven_of(summary, [Proof("0" * 64, "l0", 1.0, None, "of another image")]) is None
    assert 'id="proven"' not in report_page(summary)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"model": {"sha256": "a"}, "images": 3}',
        '{"model": {"sha256": "a"}, "images": [{"brackets": 1}]}',
        "[" * 9999,
    ],
)
def test_a_damaged_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "certify.json").write_text(text)
    with pytest.raises(RunConflict, match="not what `robustest certify` writes"):
        read_proofs(tmp_path / "certify.json", None, GIVEN)


@pytest.mark.parametrize("ends", [(float("nan"), None), (-1.0, None), (0.0, float("inf"))])
def test_numbers_that_are_no_distances_are_refused(ends: tuple[float, float | None], tmp_path: Path) -> None:
    path = run_with(tmp_path, [{"l0": bracket(*ends)}, None, None, None])
    with pytest.raises(RunConflict, match="a bracket in 'l0'"):
        read_proofs(path, None, GIVEN)


def test_proofs_of_another_model_are_refused(tmp_path: Path) -> None:
    path = run_with(tmp_path, [{"l0": bracket(1, None)}, None, None, None], model="ee" * 32)
    with pytest.raises(RunConflict, match="another model"):
        read_proofs(path, "ab" * 32, GIVEN)


def test_proofs_of_the_model_with_another_input_are_refused(tmp_path: Path) -> None:
    run_with(tmp_path, [{"l0": bracket(1, None)}, None, None, None], spec=replace(GIVEN, mean=(0.5,)))
    summary = replace(audit_of(FATES)[0], path=tmp_path / "result.json")
    with pytest.raises(RunConflict, match=r"another input spec: mean \[0\.5\] there, \[0\.0\] in this run\."):
        proofs_of(summary)
