"""What the gallery shows, what it leaves out, and that it says so."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustest.errors import RunConflict
from robustest.report.gallery import _spread, gallery_of, saliency_maps
from robustest.results import SaliencyChange, Verdict
from tests.report.summaries import SURVIVOR, Fate, audit_of, flip


@given(st.integers(0, 300))
def test_the_spread_names_each_place_once_and_the_ends_first(count: int) -> None:
    places = list(_spread(count))
    assert sorted(places) == list(range(count))
    assert places[:2] == [0, count - 1][: len(places)] or count == 1


def test_a_short_gallery_shows_the_fewest_and_the_most_changes_and_survivors() -> None:
    fates = [flip(0, 1, range(n + 1)) for n in range(20)] + [SURVIVOR] * 5
    summary, images = audit_of(fates)
    gallery = gallery_of(summary, images, most_cards=6)
    assert [card.index for card in gallery.cards] == [0, 5, 10, 14, 19, 20]
    assert "6 of 25 attacked images are drawn, spread evenly" in gallery.note
    assert [row.carded for row in gallery.rows].count(True) == 6
    assert len(gallery.sprite) == 25  # every row has its thumbnail


def test_images_that_were_wrong_from_the_start_are_rows_but_not_cards() -> None:
    summary, images = audit_of([flip(0, 1, [1]), Fate(0, Verdict.EXCLUDED, predicted=1)])
    gallery = gallery_of(summary, images)
    assert [card.index for card in gallery.cards] == [0]
    assert [row.verdict for row in gallery.rows] == ["flipped", "excluded"]
    assert "1 image was wrong from the start" in gallery.note


def test_without_the_images_there_is_a_table_that_says_so() -> None:
    gallery = gallery_of(audit_of([flip(0, 1, [1])])[0], None)
    assert gallery.cards == ()
    assert gallery.rows[0].distance == "1"
    assert "not in the run folder" in gallery.note


def test_saliency_before_and_after_are_drawn_where_the_run_kept_them() -> None:
    summary, images = audit_of([flip(0, 1, [1]), flip(0, 1, [2])])
    flat, peak = np.full((8, 8), 1 / 64), np.eye(8) / 8
    cards = gallery_of(summary, images, maps={1: SaliencyChange(flat, peak)}).cards
    assert cards[0].pictures.saliency_after == ""
    assert cards[1].pictures.saliency_after not in ("", cards[1].pictures.saliency)


def test_saliency_maps_are_read_from_the_run_folder(tmp_path: Path) -> None:
    from dataclasses import replace

    summary = replace(audit_of([flip(0, 1, [1])])[0], path=tmp_path / "result.json")
    assert saliency_maps(summary) == {}
    maps = np.full((1, 8, 8), 1 / 64, np.float16)
    np.savez(tmp_path / "saliency.npz", indices=np.array([0]), before=maps, after=maps)
    assert saliency_maps(summary)[0].after.shape == (8, 8)
    np.savez(tmp_path / "saliency.npz", indices=np.array([0]), before=maps[:, :4], after=maps)
    with pytest.raises(RunConflict, match="another size"):
        saliency_maps(summary)
    (tmp_path / "saliency.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(RunConflict, match=r"saliency.npz.* is damaged"):
        saliency_maps(summary)
