"""The ledger: what was acknowledged is there after kill -9, and only the owner of the shard can write."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustest.audit.deaths import Suspicion
from robustest.audit.leases import LeaseLostError
from robustest.audit.ledger import Ledger, Mark, on_network, read_records, read_saliency, tally
from robustest.audit.records import ImageRecord, from_json, to_json
from robustest.audit.schema import check_entry
from robustest.errors import RunConflict
from robustest.results import Distances, SaliencyChange, Verdict

WIDTH = 8
finite = st.floats(0, 1e6)


@st.composite
def records(draw: st.DrawFn, eight_bit: bool, channels: int) -> ImageRecord:
    """Any record, flipped or not."""
    flipped = draw(st.booleans())
    pixels = values = distances = None
    if flipped:
        pixels = np.array(sorted(draw(st.sets(st.integers(0, WIDTH * WIDTH - 1), min_size=1))), dtype=np.int64)
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        colours = rng.random((len(pixels), channels), dtype=np.float32)
        values = np.rint(colours * 255).astype(np.uint8) if eight_bit else colours
        distances = Distances(len(pixels), len(pixels) * channels, draw(finite), draw(finite), draw(st.floats(0, 1)))
    return ImageRecord(
        index=draw(st.integers(0, 9)),
        name="name",
        sha256="ab" * 32,
        label=draw(st.integers(0, 999)),
        verdict=Verdict.FLIPPED if flipped else draw(st.sampled_from([v for v in Verdict if v is not Verdict.FLIPPED])),
        reason=draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
        predicted=draw(st.none() | st.integers(0, 999)),
        pixels=pixels,
        values=values,
        distances=distances,
        queries=draw(st.integers(0, 10**9)),
        remembered=draw(st.integers(0, 99)),
        checks=draw(st.integers(0, 2)),
        minimal=draw(st.none() | st.booleans()),
        margin=draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        curve=tuple(draw(st.lists(st.tuples(st.integers(1, 10**6), finite), max_size=5))),
    )


def same(first: ImageRecord, second: ImageRecord) -> bool:
    arrays = ("pixels", "values")
    for name in ImageRecord.__slots__:
        one, two = getattr(first, name), getattr(second, name)
        if name in arrays and one is not None:
            if two is None or one.dtype != two.dtype or not np.array_equal(one, two):
                return False
        elif one != two:
            return False
    return True


@pytest.mark.parametrize("eight_bit", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_record_survives_the_ledger_and_json_unchanged(
    tmp_path_factory: pytest.TempPathFactory, eight_bit: bool, channels: int
) -> None:
    @settings(max_examples=25)
    @given(records(eight_bit, channels))
    def holds(record: ImageRecord) -> None:
        path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
        ledger = Ledger(path, key="k", owner=0, worker="w")
        ledger.record(record, distance=record.distance("l2"), seconds=0.5)
        ledger.close()
        (back,) = read_records(path, channels=channels, eight_bit=eight_bit, names=("name",) * 10)
        assert same(back, record)
        entry = to_json(record, WIDTH)
        check_entry(entry, "entry")
        assert same(from_json(entry, WIDTH, eight_bit=eight_bit), record)

    holds()


def a_record(index: int, verdict: Verdict = Verdict.SURVIVED) -> ImageRecord:
    return ImageRecord(index=index, name="", sha256="0" * 64, label=0, verdict=verdict, queries=10)


def test_an_image_is_in_play_from_its_start_to_its_record(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path, key="k", owner=0, worker="w")
    ledger.start(3)
    ledger.start(4, alone=True)
    assert ledger.left_behind() == [Mark(3, "w", False), Mark(4, "w", True)]
    ledger.record(a_record(3), distance=None, seconds=1.0)
    assert (tally(path).survived, tally(path).playing, tally(path).queries) == (1, 1, 10)
    assert ledger.finished() == {3}
    ledger.stop()
    assert ledger.left_behind() == []
    ledger.close()


@pytest.mark.parametrize(
    ("durable", "network", "synchronous", "journal"),
    [(False, False, 1, "wal"), (True, False, 2, "wal"), (False, True, 2, "delete")],
)
def test_rows_reach_the_disk_as_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, network: bool, synchronous: int, journal: str
) -> None:
    monkeypatch.setattr("robustest.audit.ledger.on_network", lambda _: network)
    ledger = Ledger(tmp_path / "l", key="k", owner=0, worker="w", durable=durable)
    # SQLite's documentation: 1 is NORMAL, which in WAL mode survives a crash of the process, 2 is FULL.
    assert ledger._db.execute("PRAGMA synchronous").fetchone()[0] == synchronous
    assert ledger._db.execute("PRAGMA journal_mode").fetchone()[0] == journal
    ledger.close()


def test_suspicions_are_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l", key="k", owner=0, worker="w")
    ledger.start(1)
    ledger.bury({1: Suspicion(3, 0, "SIGSEGV")})
    assert ledger.left_behind() == []
    assert ledger.suspicions() == {1: Suspicion(3, 0, "SIGSEGV")}
    ledger.close()


def test_an_owner_that_was_taken_over_cannot_write(tmp_path: Path) -> None:
    old = Ledger(tmp_path / "l", key="k", owner=0, worker="old")
    old.start(0)
    new = Ledger(tmp_path / "l", key="k", owner=1, worker="new")
    for write in (lambda: old.start(1), lambda: old.record(a_record(0), distance=None, seconds=0), old.stop):
        with pytest.raises(LeaseLostError):
            write()
    with pytest.raises(LeaseLostError):
        Ledger(tmp_path / "l", key="k", owner=0, worker="old")
    assert new.left_behind() == [Mark(0, "old", False)]
    assert new.finished() == set()
    old.close()
    new.close()


def test_a_ledger_of_another_audit_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path / "l", key="one", owner=0, worker="w").close()
    with pytest.raises(RunConflict, match="belongs to another audit"):
        Ledger(tmp_path / "l", key="two", owner=0, worker="w")


def test_what_is_no_ledger_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"no database" * 100)
    with pytest.raises(RunConflict, match="damaged"):
        Ledger(text, key="k", owner=0, worker="w")
    assert text.read_bytes() == b"no database" * 100
    other = tmp_path / "other"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(RunConflict, match="no ledger of this version"):
        Ledger(other, key="k", owner=0, worker="w")


@settings(max_examples=25)
@given(st.binary(min_size=1, max_size=300), st.integers(0, 8000))
def test_damage_is_named_and_never_believed(tmp_path_factory: pytest.TempPathFactory, noise: bytes, where: int) -> None:
    path = tmp_path_factory.mktemp("damage") / "ledger.sqlite"
    ledger = Ledger(path, key="k", owner=0, worker="w")
    for index in range(5):
        ledger.record(a_record(index), distance=None, seconds=0)
    ledger.seal()
    ledger.close()
    content = bytearray(path.read_bytes())
    content[where : where + len(noise)] = noise
    path.write_bytes(content)
    try:
        ledger = Ledger(path, key="k", owner=1, worker="w")
        ledger.finished()
        ledger.close()
    except (RunConflict, LeaseLostError, sqlite3.Error):
        pass


def test_saliency_maps_are_kept_as_half_floats(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l", key="k", owner=0, worker="w")
    before, after = np.full((2, 3), 0.25), np.eye(2, 3)
    ledger.record(a_record(4), distance=None, seconds=0, saliency=SaliencyChange(before, after))
    ledger.close()
    ((index, first, second),) = read_saliency(tmp_path / "l", (2, 3))
    assert index == 4
    assert np.array_equal(first, before)
    assert np.array_equal(second, after)


def test_a_network_file_system_is_told_from_the_table_of_mounts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = os.path.realpath(tmp_path)
    lines = f"/dev/sda / ext4 rw 0 0\nserver:/x {place} nfs4 rw 0 0\n/dev/sdb {place}/local ext4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: lines)
    assert on_network(tmp_path / "run")
    assert not on_network(tmp_path / "local")
    assert not on_network(Path("/somewhere"))


WRITER = """
import sys
from pathlib import Path
from robustest.audit.ledger import Ledger
from robustest.audit.records import ImageRecord
from robustest.results import Verdict
ledger = Ledger(Path(sys.argv[1]), key="k", owner=int(sys.argv[2]), worker="w")
for index in range(int(sys.argv[3]), 10**6):
    ledger.record(ImageRecord(index=index, name="", sha256="0" * 64, label=0, verdict=Verdict.SURVIVED), distance=None, seconds=0)
    print(index, flush=True)
"""


def test_no_acknowledged_row_is_lost_to_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    acknowledged = -1
    for owner in range(4):
        command = [sys.executable, "-c", WRITER, str(path), str(owner), str(acknowledged + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(20 + 13 * owner):
                acknowledged = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
        ledger = Ledger(path, key="k", owner=owner, worker="w")
        assert set(range(acknowledged + 1)) <= ledger.finished()
        ledger.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    db.close()
