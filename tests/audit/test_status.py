"""The status of a run in words."""

from __future__ import annotations

from robustest.audit.ledger import Tally
from robustest.audit.status import RunStatus, WorkerStatus


def rate_line(*rates: float, done: int = 0) -> str:
    workers = tuple(WorkerStatus(f"w{i}", "host", i, (0,), rate, "now") for i, rate in enumerate(rates))
    status = RunStatus(10, 1, 0, Tally(survived=done), workers, {}, finished=False)
    return next(line for line in status.lines("game") if line.startswith("rate"))


def test_the_time_left_is_told_where_somebody_works_and_has_finished_an_image() -> None:
    assert "nobody works on it now" in rate_line()
    assert "0 images/s, time left not known yet" in rate_line(0.0)
    assert "2 images/s, 4 s left" in rate_line(1.5, 0.5, done=2)
