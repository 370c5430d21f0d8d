"""Where flips happen, on images whose salient part is known."""

import numpy as np

from robustest.report.places import places_of
from robustest.saliency.mixture import saliency_of
from tests.report.summaries import SURVIVOR, audit_of, flip


def test_positions_are_counted_over_images() -> None:
    places = places_of(audit_of([flip(0, 1, [9, 10]), flip(0, 1, [9]), SURVIVOR])[0], None)
    assert places is not None
    assert places.table.rows == (("1", "1", "2"), ("1", "2", "1"))  # pixels 9 and 10 of 8 x 8
    assert places.note == "3 pixels were changed in 2 flipped images."


def test_a_flip_at_the_most_salient_pixel_is_a_hit_and_one_at_the_least_is_not(rng: np.random.Generator) -> None:
    images = np.zeros((2, 40, 40, 1), np.uint8)
    images[:, 10:14, 25:29] = 255
    ranked = np.argsort(saliency_of(images[0]).distribution, axis=None)
    summary, _ = audit_of([flip(0, 1, ranked[-2:].tolist()), flip(0, 1, [int(ranked[0])])], images=images)
    places = places_of(summary, images)
    assert places is not None
    assert "Of 3 changed pixels, 2 (66.7\u00a0%) lie on the tenth" in places.note
    assert [m.name for m in places.maps] == ["changed pixels", "their mean saliency"]


def test_large_images_are_counted_in_cells() -> None:
    images = np.zeros((1, 112, 112, 1), np.uint8)
    places = places_of(audit_of([flip(0, 1, [0, 1, 112, 113, 5])], images=images)[0], None)
    assert places is not None
    assert places.table.caption == "Most frequent cells of 2 x 2 pixels in 1 flipped image"
    assert places.table.rows == (("0-1", "0-1", "4"), ("0-1", "4-5", "1"))


def test_changes_of_nearly_all_pixels_have_no_place() -> None:
    assert places_of(audit_of([flip(0, 1, range(64))])[0], None) is None
    assert places_of(audit_of([SURVIVOR])[0], None) is None
