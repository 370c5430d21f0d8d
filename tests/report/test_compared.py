"""The page of a comparison: counted by hand."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from robustest.baselines.comparison import Access, Comparison, Row, Run
from robustest.report.compared import compared_headline, success_table, write_comparison
from tests.baselines.results import result


def row(
    name: str, found: list[int | None], *, pixels: int | None = None, access: Access = "scores", note: str = ""
) -> Row:
    results = tuple(result(p, *([] if p is None else [(50, float(p))]), queries=50) for p in found)
    run = Run(attack=name, pixels=pixels, budget=100, results=results, seconds=1.5)
    return Row(name=name, access=access, runs=(run,), note=note)


def comparison(*rows: Row, images: int = 4, **more: object) -> Comparison:
    values = {
        "classifier": "model.onnx",
        "digest": "ab" * 32,
        "source": "images.npz",
        "shape": (8, 8, 1),
        "names": tuple(f"image-{i}" for i in range(images)),
        "labels": (0,) * images,
        "image_digests": ("0" * 64,) * images,
        "skipped": 1,
        "norm": "l0",
        "pixels": (1, 5),
        "queries": 100,
        "seed": 0,
        "rows": rows,
        "version": "0.1.0",
        "command": "robustest compare model.onnx images.npz",
    }
    return Comparison(**{**values, **more})  # type: ignore[arg-type]


OURS, THEIRS = row("game", [1, 3, 5, None]), row("other", [1, 9, None, None])


def test_in_another_norm_the_median_is_told_in_it_and_no_distance_is_taken_for_pixels(tmp_path: Path) -> None:
    """Curves hold distances in the norm: three flips at L2 of 1, 2 and 3, each of 40 pixels, are none within 5 pixels."""
    found = [replace(result(40, (50, distance)), l2=distance) for distance in (1.0, 2.0, 3.0)]
    ours = Row(
        name="game",
        access="scores",
        runs=(Run(attack="game", pixels=None, budget=100, results=(*found, result(None)), seconds=1.0),),
    )
    table = success_table(comparison(ours, norm="l2"))
    assert table.heads[-4:-2] == ("median pixels", "median l2")
    assert table.rows[0][4:6] == ("40", "2")
    assert all(cell.startswith("0.0") for cell in table.rows[0][2:4])
    page = write_comparison(comparison(ours, norm="l2"), tmp_path / "page.html").read_text()
    assert "Share flipped, by queries spent on each image" in page
    assert "within 5 pixels, by queries" in write_comparison(comparison(OURS), tmp_path / "page.html").read_text()


def test_the_headline_names_who_flips_most() -> None:
    assert compared_headline(comparison(OURS, THEIRS)) == "game flips most within 5 pixels: 3 of 4 images."
    twin = row("twin", [2, 2, 2, None])
    assert (
        compared_headline(comparison(OURS, twin, THEIRS)) == "game and twin flip most within 5 pixels: 3 of 4 images."
    )
    absent = Row(name="absent", access="gradients", runs=(), note="needs gradients")
    assert compared_headline(comparison(absent)) == "None of the attacks could be run."


def test_the_headline_counts_attacks_that_tie_in_place_of_listing_them() -> None:
    equal = [row(name, [1, 2, 3, None]) for name in "abcd"]
    assert compared_headline(comparison(*equal[:2])) == "Both attacks flip as many within 5 pixels: 3 of 4 images."
    assert compared_headline(comparison(*equal)) == "All 4 attacks flip as many within 5 pixels: 3 of 4 images."
    assert compared_headline(comparison(*equal, THEIRS)) == (
        "4 of 5 attacks share the most flips within 5 pixels: 3 of 4 images."
    )
    nothing = [row(name, [None, 9, None, None]) for name in "ab"]
    assert compared_headline(comparison(*nothing)) == "No attack flips any of 4 images within 5 pixels."


def test_success_is_counted_at_each_number_of_pixels() -> None:
    rows = success_table(comparison(OURS, THEIRS)).rows
    assert [cell.split("\n")[0] for cell in rows[0][2:4]] == ["25.0\u00a0%", "75.0\u00a0%"]
    assert [cell.split("\n")[0] for cell in rows[1][2:4]] == ["25.0\u00a0%", "25.0\u00a0%"]
    assert rows[0][4:] == ("3", "50", "1.5")  # 1, 3, 5, never: half within 3
    assert rows[1][4] == "9"


def test_the_page_has_curves_pairs_and_every_image(tmp_path: Path) -> None:
    page = write_comparison(comparison(OURS, THEIRS), tmp_path / "comparison.html").read_text()
    assert page.count('<svg class="chart"') == 2
    assert "game against each other attack" in page
    assert [re.sub(r"<[^>]*>", " ", line).split() for line in page.splitlines() if "image-1" in line] == [
        ["image-1", "3", "9"]
    ]


def test_an_attack_that_could_not_be_run_says_why_and_markup_stays_text(tmp_path: Path) -> None:
    absent = Row(name="<b>jsma", access="gradients", runs=(), note="needs <gradients>")
    page = write_comparison(comparison(OURS, absent), tmp_path / "comparison.html").read_text()
    assert "&lt;b&gt;jsma: needs &lt;gradients&gt;" in page
    assert "<b>jsma" not in page


def test_a_white_box_attack_that_finds_less_is_a_reason_to_doubt(tmp_path: Path) -> None:
    weak = row("jsma", [None] * 4, access="gradients")
    page = write_comparison(comparison(OURS, weak), tmp_path / "comparison.html").read_text()
    assert page.index("reasons to doubt") < page.index("To get this again")
    assert "the white-box side is not the worst case here" in page


@pytest.mark.parametrize("images", [0, 1])
def test_few_images_can_be_drawn(images: int, tmp_path: Path) -> None:
    rows = (row("game", [1] * images), row("other", [None] * images))
    assert write_comparison(comparison(*rows, images=images), tmp_path / "c.html").is_file()
