"""Curves of audits made by hand: each point counted on the fingers."""

import pytest

from robustest.report.curves import convergence_of, curve_within, survival_of
from robustest.results import Verdict
from robustest.settings import AttackSettings
from tests.report.summaries import SURVIVOR, Fate, audit_of, flip

FOUR = [flip(0, 1, [5], at=10), flip(0, 1, [1, 2], at=40), flip(1, 0, range(7), at=60), SURVIVOR]


def test_survival_is_counted_at_each_distance() -> None:
    survival = survival_of(audit_of(FOUR)[0])
    assert survival is not None
    shares = {row[0]: row[1:3] for row in survival.table.rows}
    assert shares["0"] == ("4 of 4", "100.0\u00a0%")
    assert shares["1"] == ("3 of 4", "75.0\u00a0%")
    assert shares["5"] == ("2 of 4", "50.0\u00a0%")
    assert shares["10"] == ("1 of 4", "25.0\u00a0%")
    # 1 of 4 by Clopper and Pearson's tables: 0.63 % to 80.59 %
    assert dict((row[0], row[3]) for row in survival.table.rows)["10"] == "0.6 to 80.6\u00a0%"


def test_an_unknown_image_is_said_to_count_on_both_sides() -> None:
    survival = survival_of(audit_of([*FOUR, Fate(0, Verdict.UNKNOWN, reason="time limit")])[0])
    assert survival is not None
    assert "1 unknown image counted as flipped at the lower end" in survival.note


def test_nothing_attacked_has_no_curve() -> None:
    summary = audit_of([Fate(0, Verdict.EXCLUDED, predicted=1)])[0]
    assert survival_of(summary) is None
    assert convergence_of(summary) is None


def test_a_distance_that_is_no_count_has_a_short_and_a_long_table() -> None:
    fates = [flip(0, 1, range(n + 1), at=5) for n in range(12)]
    survival = survival_of(audit_of(fates, settings=AttackSettings(queries=100, norm="l2"))[0])
    assert survival is not None
    assert survival.more is not None
    assert len(survival.table.rows) == 8
    assert len(survival.more.rows) == 13  # 0 and each of 12 distances


def test_convergence_counts_first_flips_and_the_median_of_all_attacked() -> None:
    fates = [
        flip(0, 1, [1], at=10, curve=((10, 5.0), (20, 1.0))),
        flip(0, 1, [1, 2, 3], at=50, curve=((50, 3.0),)),
        flip(0, 1, [1, 2], at=90, curve=((90, 2.0),)),
        SURVIVOR,
    ]
    convergence = convergence_of(audit_of(fates)[0])
    assert convergence is not None
    assert [row[:2] for row in convergence.found_table.rows] == [
        ("10", "1 of 4"),
        ("20", "1 of 4"),
        ("50", "2 of 4"),
        ("100", "3 of 4"),
    ]
    # half of four are flipped from query 50 on, that query included: the second smallest of 1, 3 is 3; of 1, 2, 3 it is 2
    assert [row[1] for row in convergence.best_table.rows] == ["fewer than half flipped"] * 2 + ["3", "2"]
    assert convergence.note.startswith("1 of 3 flips were first found in the second half of the budget of 100 queries.")


def test_what_was_put_back_beyond_the_budget_is_not_drawn() -> None:
    fate = flip(0, 1, [1], at=10, curve=((10, 5.0), (60, 4.0), (130, 1.0)))
    settings = AttackSettings(queries=100, minimal=True)
    assert curve_within(fate.curve, 100) == ((10.0, 5.0), (60.0, 4.0), (100.0, 4.0))
    convergence = convergence_of(audit_of([fate], settings=settings)[0])
    assert convergence is not None
    assert [row[1] for row in convergence.best_table.rows] == ["5", "5", "5", "4"]
    assert convergence.note.endswith("beyond the budget is not shown here.")


@pytest.mark.parametrize("budget", [1, 2, 9, 10, 31, 100, 12_345])
def test_any_budget_can_be_drawn(budget: int) -> None:
    summary = audit_of([flip(0, 1, [3], at=1)], settings=AttackSettings(queries=budget))[0]
    convergence = convergence_of(summary)
    assert convergence is not None
    assert convergence.found_table.rows[-1][:2] == (f"{budget:,}", "1 of 1")


def test_of_an_odd_number_of_images_the_middle_one_is_the_median() -> None:
    fates = [flip(0, 1, range(n), at=10, curve=((10, float(n)),)) for n in (1, 4, 9)]
    convergence = convergence_of(audit_of(fates)[0])
    assert convergence is not None
    assert {row[1] for row in convergence.best_table.rows} == {"4"}
