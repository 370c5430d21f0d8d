"""What this project promises about its classifier. Replace MODEL and DATA by your own files."""

from robustest.demo import IMAGES as DATA
from robustest.demo import MODELS

MODEL = MODELS["provable"]


def test_most_images_survive_one_pixel(robustness):
    estimate = robustness.audit(MODEL, DATA, queries=200, images=40, seed=7)
    assert estimate.survives(pixels=1) >= 0.40
    assert estimate.median_pixels >= 2


def test_small_changes_of_all_pixels_are_proven_harmless(robustness):
    assert robustness.certify(MODEL, DATA, norm="linf", images=20, seconds=2).share_at(0.02) >= 0.50


def test_no_worse_than_the_accepted_baseline(robustness):
    robustness.check("provable", MODEL, DATA, queries=200, images=40, seed=7)
