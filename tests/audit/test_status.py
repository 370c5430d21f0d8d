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


def test_a_finished_run_has_no_rate_any_more() -> None:
    status = RunStatus(10, 1, 1, Tally(survived=10), (), {}, finished=True)
    lines = status.lines("game")
    assert lines[-1] == "finished    the result is written"
    assert not any(line.startswith("rate") for line in lines)


def test_one_shard_and_one_death_are_said_as_one() -> None:
    workers = tuple(WorkerStatus(f"w{count}", "host", count, tuple(range(count)), 1.0, "now") for count in (1, 2))
    status = RunStatus(10, 3, 0, Tally(), workers, {"killed": 1, "out of memory": 2}, finished=False)
    lines = status.lines("game")
    assert [line.split(": ")[1].split(",")[0] for line in lines if line.startswith("worker ")] == [
        "1 shard",
        "2 shards",
    ]
    assert [line for line in lines if line.startswith("failures")] == [
        "failures    1 worker died: killed",
        "failures    2 workers died: out of memory",
    ]
