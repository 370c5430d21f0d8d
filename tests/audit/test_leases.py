"""Leases: one owner at a time, no clock of another machine believed, nobody waited for who is known to be gone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from robustest.audit.leases import Heart, Watch, Worker, claim, newest_lease


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def elsewhere() -> Worker:
    """A worker on a machine that this one cannot look into."""
    return replace(Worker.here(), place="another machine")


def test_of_many_that_claim_at_once_one_gets_the_shard(tmp_path: Path) -> None:
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        barrier = threading.Barrier(8)
        won: list[int] = []

        def run(who: int, folder: Path = folder, barrier: threading.Barrier = barrier, won: list[int] = won) -> None:
            barrier.wait()
            if claim(folder, Worker.here(), Watch()) is not None:
                won.append(who)

        threads = [threading.Thread(target=run, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1


def test_who_saw_a_free_shard_too_late_does_not_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claim(tmp_path, elsewhere(), Watch())
    assert first is not None
    owned = first.path.read_bytes()
    monkeypatch.setattr("robustest.audit.leases.newest_lease", lambda _: None)  # as it was read before the first claim
    assert claim(tmp_path, elsewhere(), Watch()) is None
    assert first.path.read_bytes() == owned


def test_a_shard_is_taken_over_when_its_count_stands_still_on_the_watchers_own_clock(tmp_path: Path) -> None:
    clock = Clock()
    watch = Watch(expiry=30, clock=clock)
    first = claim(tmp_path, elsewhere(), watch)
    assert first is not None
    assert claim(tmp_path, elsewhere(), watch) is None
    clock.now += 29
    assert claim(tmp_path, elsewhere(), watch) is None
    first.beat(1, 0.0)
    clock.now += 29
    assert claim(tmp_path, elsewhere(), watch) is None
    clock.now += 30
    second = claim(tmp_path, elsewhere(), watch)
    assert second is not None
    assert second.number == 1
    assert not first.beat(2, 0.0)
    assert second.beat(1, 0.0)


@pytest.mark.parametrize("stamp", ["1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
def test_a_clock_that_is_wrong_or_set_changes_nothing(tmp_path: Path, stamp: str) -> None:
    clock = Clock()
    watch = Watch(expiry=30, clock=clock)
    first = claim(tmp_path, elsewhere(), watch)
    assert first is not None
    for beat in range(10):
        table = json.loads(first.path.read_bytes())
        first.path.write_text(json.dumps({**table, "beat": beat, "time": stamp}))
        assert claim(tmp_path, elsewhere(), watch) is None
        clock.now += 29


def test_an_owner_that_has_ended_on_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    code = "import sys; from robustest.audit.leases import *; from pathlib import Path; claim(Path(sys.argv[1]), Worker.here(), Watch())"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    current = newest_lease(tmp_path)
    assert current is not None
    assert current.owner is not None
    assert current.owner.gone()
    taken = claim(tmp_path, Worker.here(), Watch(expiry=1e9))
    assert taken is not None
    assert taken.number == 1


def test_a_supervised_owner_that_has_ended_is_replaced_once_its_supervisor_has_noted_how(tmp_path: Path) -> None:
    code = "import sys; from robustest.audit.leases import *; from pathlib import Path; claim(Path(sys.argv[1]), Worker.here(supervised=True), Watch())"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)  # this process is its supervisor
    noted: set[str] = set()
    clock = Clock()
    watch = Watch(expiry=30, clock=clock, noted=noted.__contains__)
    current = newest_lease(tmp_path)
    assert current is not None
    assert current.owner is not None
    assert current.owner.gone()
    assert current.owner.supervised()
    assert claim(tmp_path, Worker.here(), watch) is None
    noted.add(current.owner.name)
    assert claim(tmp_path, Worker.here(), watch) is not None


def test_a_supervisor_that_is_gone_or_silent_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    here = Worker.here(supervised=True)
    gone = replace(here, born=here.born - 1)
    clock = Clock()
    watch = Watch(expiry=30, clock=clock, noted=lambda _: False)
    assert claim(tmp_path, gone, watch) is not None
    assert claim(tmp_path, here, watch) is None
    clock.now += 31
    assert claim(tmp_path, replace(gone, parent_born=here.parent_born - 1), watch) is not None
    assert claim(tmp_path, here, watch) is not None


def test_a_process_id_that_was_given_to_another_process_is_not_the_owner() -> None:
    here = Worker.here()
    assert not here.gone()
    assert replace(here, born=here.born - 1).gone()
    assert not replace(here, born=here.born - 1, place="another machine").gone()


def test_a_released_shard_is_free_at_once_and_its_next_owner_has_a_higher_number(tmp_path: Path) -> None:
    watch = Watch(expiry=1e9)
    first = claim(tmp_path, elsewhere(), watch)
    assert first is not None
    first.release()
    second = claim(tmp_path, elsewhere(), watch)
    assert second is not None
    assert second.number == 1
    second.retire()
    assert newest_lease(tmp_path) is None


def test_a_lease_that_cannot_be_read_is_judged_by_whether_it_changes(tmp_path: Path) -> None:
    (tmp_path / "lease.0").write_bytes(b'{"worker": "cut o')
    clock = Clock()
    watch = Watch(expiry=30, clock=clock)
    assert claim(tmp_path, elsewhere(), watch) is None
    clock.now += 31
    assert claim(tmp_path, elsewhere(), watch) is not None


def test_the_heart_beats_and_tells_of_a_takeover(tmp_path: Path) -> None:
    lease = claim(tmp_path, elsewhere(), Watch())
    assert lease is not None
    with Heart(interval=0.01) as heart:
        heart.add(lease)
        before = lease.path.read_bytes()
        for _ in range(500):
            if lease.path.read_bytes() != before:
                break
            threading.Event().wait(0.01)
        assert json.loads(lease.path.read_bytes())["beat"] >= 1
        (tmp_path / "lease.1").write_bytes(b"{}")
        for _ in range(500):
            if heart.lost(lease):
                break
            threading.Event().wait(0.01)
        assert heart.lost(lease)
