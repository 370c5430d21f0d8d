"""Sentences that claim no more than was shown."""

import pytest

from robustest.report.html import facts, lede, tiles
from robustest.report.words import (
    bare_distance,
    distance_words,
    headline,
    median_interval,
    median_words,
    outcome,
    percent,
    plural,
    shortened,
)
from robustest.results import Verdict
from robustest.settings import AttackSettings
from tests.report.summaries import SURVIVOR, Fate, audit_of, flip

WRONG = Fate(0, Verdict.EXCLUDED, predicted=1)


@pytest.mark.parametrize(
    ("fates", "says"),
    [
        ([flip(0, 1, [1])] * 3, "All 3 images are flipped by this attack at this budget."),
        ([flip(0, 1, [1])], "The one image is flipped by this attack at this budget."),
        ([flip(0, 1, [1]), SURVIVOR], "1 of 2 images survives this attack at this budget."),
        ([SURVIVOR, SURVIVOR, WRONG], "2 of 2 images survive this attack at this budget."),
        ([flip(0, 1, [1]), Fate(0, Verdict.UNKNOWN)], "0 of 2 images survive this attack at this budget."),
        ([WRONG, WRONG], "Nothing was attacked: the classifier is wrong about all 2 images."),
    ],
)
def test_headlines(fates: list[Fate], says: str) -> None:
    assert headline(audit_of(fates)[0]) == says


def test_no_report_says_robust() -> None:
    for fates in ([SURVIVOR] * 40, [flip(0, 1, [1])], [WRONG]):
        summary = audit_of(fates)[0]
        told = " ".join([headline(summary), lede(summary), *(f"{t.name} {t.more}" for t in tiles(summary))])
        assert " robust" not in told.lower()
        assert "not proven safe" in lede(summary)


def test_a_median_that_was_not_reached_is_no_number() -> None:
    summary = audit_of([flip(0, 1, [1]), SURVIVOR, SURVIVOR])[0]
    assert "no median" in median_words(summary)
    assert next(t.figure for t in tiles(summary) if t.name.startswith("median")) == "not reached"


def test_each_end_of_the_medians_interval_that_is_open_is_said() -> None:
    """Of 20 images at most 14 may lie below the median, and at least 6 must (sign test at 95 %)."""
    for flipped, says in (
        (20, "95 % interval 1 to 1"),
        (14, "95 % interval 1 to no upper end"),
        (6, "95 % interval 1 to no upper end"),
        (5, "95 % interval above all distances found"),
        (0, "95 % interval above all distances found"),
    ):
        summary = audit_of([flip(0, 1, [1])] * flipped + [SURVIVOR] * (20 - flipped))[0]
        assert median_interval(summary) == says
        assert next(t.more for t in tiles(summary) if t.name.startswith("median")) == says


def test_only_the_game_is_said_to_be_guided() -> None:
    told = [
        dict(facts(audit_of([SURVIVOR], settings=AttackSettings(attack=a))[0]))["attack"] for a in ("game", "greedy")
    ]
    assert told == ["game, norm l0, values corners, guided by sift", "greedy, norm l0, values corners"]


def test_tiles_have_counts_and_intervals() -> None:
    told = {tile.name: tile for tile in tiles(audit_of([flip(0, 1, [1]), flip(0, 1, [1, 2]), SURVIVOR, WRONG])[0])}
    assert (told["flipped"].figure, told["flipped"].of) == ("2", "of 3")
    assert (told["flipped by a single pixel"].figure, told["flipped by a single pixel"].of) == ("1", "of 3")
    assert (told["right on the unchanged image"].figure, told["right on the unchanged image"].of) == ("3", "of 4")
    assert all("95 % interval" in told[name].more for name in told if name != "queries")


def test_facts_are_enough_to_run_it_again() -> None:
    told = dict(facts(audit_of([SURVIVOR], settings=AttackSettings(queries=77, seed=5, values="tau", tau=0.25))[0]))
    assert told["seed"] == "5"
    assert told["queries allowed"] == "77 an image"
    assert told["tau"] == "0.25"
    assert told["model sha256"] == "ab" * 32
    assert told["robustest version"] == "0.1.0"


def test_distances_and_plurals() -> None:
    assert [distance_words(d, "l0") for d in (1, 3, None)] == ["1 pixel", "3 pixels", "-"]
    assert distance_words(0.123456, "l2") == "L2 0.123"
    assert distance_words(1, "l0_dims") == "1 channel"
    assert bare_distance(None, "l0") == ""
    assert [plural(n, "query") for n in (1, 2, 1000)] == ["1 query", "2 queries", "1,000 queries"]
    assert percent(None) == "-"
    assert shortened("a" * 40, 10) == "a" * 9 + "…"


def test_outcomes_in_a_sentence() -> None:
    fates = [flip(0, 1, [1, 2], queries=7), SURVIVOR, Fate(0, Verdict.UNKNOWN, reason="time limit")]
    summary = audit_of(fates, class_names=("cat", "dog"))[0]
    assert [outcome(record, summary) for record in summary.records] == [
        "cat → dog by 2 pixels, 7 queries",
        "cat: no flip found in 100 queries",
        "cat: time limit",
    ]
