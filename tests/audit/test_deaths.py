"""Which images are suspected, isolated and condemned, from how their workers died."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from robustest.audit.deaths import Death, Suspicion, death_of, note_death, noted_death, suspect


@pytest.mark.parametrize(
    ("code", "weight", "how"),
    [
        (-signal.SIGSEGV, 6, "SIGSEGV"),
        (-signal.SIGABRT, 6, "SIGABRT"),
        (-signal.SIGKILL, 1, "SIGKILL"),
        (-signal.SIGTERM, 1, "SIGTERM"),
        (1, 6, "exit status 1"),
        (-200, 1, "signal 200"),
    ],
)
def test_a_death_by_the_workers_own_doing_weighs_more(code: int, weight: int, how: str) -> None:
    assert death_of(code) == Death(weight, how)


def test_an_image_that_crashes_the_model_is_retried_once_alone() -> None:
    first = suspect({}, [(7, False, Death(6, "SIGSEGV"))])[7]
    assert first.isolated
    assert not first.condemned
    second = suspect({7: first}, [(7, True, Death(6, "SIGSEGV"))])[7]
    assert second.condemned
    assert "SIGSEGV" in second.reason


def test_kill_9_isolates_after_three_deaths_and_condemns_after_six_more_alone() -> None:
    known: dict[int, Suspicion] = {}
    for place, by_itself in enumerate([False] * 3 + [True] * 6):
        assert not known.get(0, Suspicion()).condemned
        assert known.get(0, Suspicion()).isolated == (place >= 3)
        known.update(suspect(known, [(0, by_itself, Death(1, "SIGKILL"))]))
    assert known[0].condemned


def test_a_stop_in_good_order_is_held_against_nobody() -> None:
    assert suspect({}, [(1, False, Death(0, "stopped"))]) == {}


def test_a_noted_death_is_read_back_and_without_a_note_anybody_may_have_caused_it(tmp_path: Path) -> None:
    note_death(tmp_path, "worker", Death(6, "SIGBUS"))
    assert noted_death(tmp_path, "worker") == Death(6, "SIGBUS")
    assert noted_death(tmp_path, "another").weight == 1
    (tmp_path / "deaths" / "damaged.json").write_text("{")
    assert noted_death(tmp_path, "damaged").weight == 1
