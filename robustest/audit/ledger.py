"""The ledger of one shard: an SQLite file with one row an image, each in a transaction of its own.

Journal: WAL, where a row that was acknowledged survives kill -9; on a network file system, where WAL is not safe, a
rollback journal. Every write checks that this process still owns the shard, inside the transaction: a process that
was stopped, lost its lease and wakes up cannot write. Numbers in blobs are little-endian.

    image(idx, sha256, label, verdict, reason, predicted, pixels, colours, l0_pixels, ..., curve, seconds)   finished
    play(idx, worker, alone) images in play now; what is left here when nobody works was interrupted
    deaths(idx, together, alone, how)   how heavily an image is suspected of killing workers (see `deaths`)
    saliency(idx, before, after)   float16 maps of some images
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustest.audit.deaths import Suspicion
from robustest.audit.leases import LeaseLostError
from robustest.audit.records import ImageRecord, Values
from robustest.errors import RobustestError, RunConflict
from robustest.results import Distances, SaliencyChange, Verdict

FILE = "ledger.sqlite"
APPLICATION_ID = 0x52425354  # "RBST"
USER_VERSION = 1
_NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ceph",
    "lustre",
    "gpfs",
    "glusterfs",
    "fuse.sshfs",
    "9p",
    "afs",
    "beegfs",
)

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE image (
    idx INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, label INTEGER NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL,
    predicted INTEGER, pixels BLOB, colours BLOB, l0_pixels INTEGER, l0_dims INTEGER, l1 REAL, l2 REAL, linf REAL,
    distance REAL, queries INTEGER NOT NULL, remembered INTEGER NOT NULL, checks INTEGER NOT NULL, minimal INTEGER,
    margin REAL, curve BLOB NOT NULL, seconds REAL NOT NULL
) STRICT;
CREATE TABLE play (idx INTEGER PRIMARY KEY, worker TEXT NOT NULL, alone INTEGER NOT NULL) STRICT;
CREATE TABLE deaths (idx INTEGER PRIMARY KEY, together INTEGER NOT NULL, alone INTEGER NOT NULL, how TEXT NOT NULL) STRICT;
CREATE TABLE saliency (idx INTEGER PRIMARY KEY, before BLOB NOT NULL, after BLOB NOT NULL) STRICT;
"""
_COLUMNS = (
    "idx, sha256, label, verdict, reason, predicted, pixels, colours, l0_pixels, l0_dims, l1, l2, linf, distance, queries, "
    "remembered, checks, minimal, margin, curve, seconds"
)
_CURVE = np.dtype([("queries", "<i8"), ("distance", "<f8")])


@dataclass(frozen=True, slots=True)
class Tally:
    """What a ledger holds, counted: images by verdict, queries, images in play."""

    flipped: int = 0
    survived: int = 0
    unknown: int = 0
    excluded: int = 0
    queries: int = 0
    playing: int = 0

    @property
    def done(self) -> int:
        """Images finished."""
        return self.flipped + self.survived + self.unknown + self.excluded

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Mark:
    """An image left in play by a worker; `alone` where nothing else was in play there."""

    index: int
    worker: str
    alone: bool


class Ledger:
    """One shard's ledger, open for writing by the process that holds the shard's lease.

    Args:
        path: of the SQLite file; made if missing.
        key: of the plan; a ledger of another plan is refused.
        owner: number of the lease; a higher one has taken over.
        worker: name of this process, left at images in play.
        durable: also survive a loss of power, at the cost of a disk flush for every image.

    Raises:
        RunConflict: the file is no ledger, damaged, or of another plan. LeaseLostError: a higher owner has it.
    """

    def __init__(self, path: Path, *, key: str, owner: int, worker: str, durable: bool = False) -> None:
        self.path, self._owner, self._worker = path, owner, worker
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
        try:
            self._open(key, durable)
        except sqlite3.DatabaseError as error:
            self._db.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise damaged(path, error) from error
        except (KeyError, ValueError) as error:
            self._db.close()
            raise damaged(path, error) from error
        except (RobustestError, LeaseLostError):
            self._db.close()
            raise

    def _open(self, key: str, durable: bool) -> None:
        db = self._db
        mode = "DELETE" if on_network(self.path.parent) else "WAL"
        db.execute(f"PRAGMA journal_mode = {mode}")
        db.execute(f"PRAGMA synchronous = {'FULL' if durable or mode == 'DELETE' else 'NORMAL'}")
        db.execute("BEGIN IMMEDIATE")
        found = (db.execute("PRAGMA application_id").fetchone()[0], db.execute("PRAGMA user_version").fetchone()[0])
        if found == (0, 0) and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {USER_VERSION}")
            db.execute("INSERT INTO meta VALUES ('key', ?), ('owner', ?)", (key, str(self._owner)))
        elif found != (APPLICATION_ID, USER_VERSION):
            db.execute("ROLLBACK")
            raise RunConflict(f"{str(self.path)!r} is no ledger of this version of robustest. Choose another folder.")
        meta = dict(db.execute("SELECT key, value FROM meta"))
        if meta["key"] != key:
            db.execute("ROLLBACK")
            raise RunConflict(f"ledger {str(self.path)!r} belongs to another audit. Choose another folder.")
        if int(meta["owner"]) > self._owner:
            db.execute("ROLLBACK")
            raise LeaseLostError
        db.execute("UPDATE meta SET value = ? WHERE key = 'owner'", (str(self._owner),))
        db.execute("COMMIT")

    def close(self) -> None:
        """Close the file; what was acknowledged is in it."""
        self._db.close()

    def seal(self) -> None:
        """Fold the journal in, so that the file is complete alone."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with suppress(sqlite3.OperationalError):  # somebody reads it just now: it stays as it is, which is as safe
            self._db.execute("PRAGMA journal_mode = DELETE")

    def _begin(self) -> sqlite3.Connection:
        """Begin a transaction that holds only while the shard is still this process's own."""
        self._db.execute("BEGIN IMMEDIATE")
        owner = int(self._db.execute("SELECT value FROM meta WHERE key = 'owner'").fetchone()[0])
        if owner != self._owner:
            self._db.execute("ROLLBACK")
            raise LeaseLostError
        return self._db

    def finished(self) -> set[int]:
        """Indices of the images that have their row."""
        return {int(row[0]) for row in self._db.execute("SELECT idx FROM image")}

    def start(self, index: int, *, alone: bool = False) -> None:
        """Mark an image as in play, with others or alone."""
        db = self._begin()
        db.execute("INSERT OR REPLACE INTO play VALUES (?, ?, ?)", (index, self._worker, int(alone)))
        db.execute("COMMIT")

    def stop(self) -> None:
        """Take back the marks of this process's images in play: it leaves them in good order."""
        db = self._begin()
        db.execute("DELETE FROM play WHERE worker = ?", (self._worker,))
        db.execute("COMMIT")

    def left_behind(self) -> list[Mark]:
        """Images in play when their worker ended."""
        rows = self._db.execute("SELECT idx, worker, alone FROM play ORDER BY idx")
        return [Mark(int(index), str(worker), bool(alone)) for index, worker, alone in rows]

    def suspicions(self) -> dict[int, Suspicion]:
        """The images that were in play when workers died."""
        rows = self._db.execute("SELECT idx, together, alone, how FROM deaths")
        return {int(index): Suspicion(int(a), int(b), str(how)) for index, a, b, how in rows}

    def bury(self, suspicions: dict[int, Suspicion]) -> None:
        """Take away all marks of images in play and set suspicions, in one transaction."""
        db = self._begin()
        db.execute("DELETE FROM play")
        rows = [(index, s.together, s.alone, s.how) for index, s in suspicions.items()]
        db.executemany("INSERT OR REPLACE INTO deaths VALUES (?, ?, ?, ?)", rows)
        db.execute("COMMIT")

    def record(
        self, record: ImageRecord, *, distance: float | None, seconds: float, saliency: SaliencyChange | None = None
    ) -> None:
        """Write an image's row and take away its mark; when this returns, the row survives kill -9."""
        db = self._begin()
        db.execute(f"INSERT OR REPLACE INTO image VALUES ({', '.join('?' * 21)})", _row(record, distance, seconds))
        db.execute("DELETE FROM play WHERE idx = ?", (record.index,))
        if saliency is not None:
            maps = (saliency.before.astype("<f2").tobytes(), saliency.after.astype("<f2").tobytes())
            db.execute("INSERT OR REPLACE INTO saliency VALUES (?, ?, ?)", (record.index, *maps))
        db.execute("COMMIT")


def _row(record: ImageRecord, distance: float | None, seconds: float) -> tuple[object, ...]:
    gap = record.distances
    pixels = colours = None
    if record.pixels is not None and record.values is not None:
        pixels = record.pixels.astype("<i4").tobytes()
        colours = record.values.astype(record.values.dtype.newbyteorder("<")).tobytes()
    curve = np.array(list(record.curve), dtype=_CURVE).tobytes()
    return (
        record.index,
        record.sha256,
        record.label,
        record.verdict.value,
        record.reason,
        record.predicted,
        pixels,
        colours,
        *((gap.l0_pixels, gap.l0_dims, gap.l1, gap.l2, gap.linf) if gap else (None,) * 5),
        distance,
        record.queries,
        record.remembered,
        record.checks,
        None if record.minimal is None else int(record.minimal),
        record.margin,
        curve,
        seconds,
    )


def damaged(path: Path, error: Exception) -> RunConflict:
    """The error that says that a ledger does not hold what it must."""
    return RunConflict(f"ledger {str(path)!r} is damaged: {error}. Remove its folder; its images are played again.")


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A ledger for reading, also while another process writes it.

    Raises:
        RunConflict: what is read is damaged. sqlite3.OperationalError: it cannot be read now, or not yet.
    """
    db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, timeout=30, isolation_level=None)
    try:
        yield db
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise damaged(path, error) from error
    finally:
        db.close()


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def read_records(path: Path, *, channels: int, eight_bit: bool, names: tuple[str, ...]) -> Iterator[ImageRecord]:
    """The rows of a ledger in the order of the images."""
    with reading(path) as db:
        try:
            for row in db.execute(f"SELECT {_COLUMNS} FROM image ORDER BY idx"):
                yield _record(row, channels, eight_bit, names)
        except (ValueError, IndexError, AssertionError) as error:
            raise damaged(path, error) from error


def _record(row: tuple[object, ...], channels: int, eight_bit: bool, names: tuple[str, ...]) -> ImageRecord:
    (index, sha256, label, verdict, reason, predicted, pixel_bytes, colours, *gaps) = row
    l0_pixels, l0_dims, l1, l2, linf, _, queries, remembered, checks, minimal, margin, curve, _ = gaps
    pixels: NDArray[np.int64] | None = None
    values: Values | None = None
    distances: Distances | None = None
    if isinstance(pixel_bytes, bytes) and isinstance(colours, bytes):
        pixels = np.frombuffer(pixel_bytes, "<i4").astype(np.int64)
        values = np.frombuffer(colours, np.uint8) if eight_bit else np.frombuffer(colours, "<f4").astype(np.float32)
        values = values.reshape(-1, channels)
        distances = Distances(l0_pixels, l0_dims, l1, l2, linf)  # type: ignore[arg-type]
    assert isinstance(index, int)
    assert isinstance(curve, bytes)
    return ImageRecord(
        index=index,
        name=names[index],
        sha256=str(sha256),
        label=label,  # type: ignore[arg-type]
        verdict=Verdict(verdict),
        reason=str(reason),
        predicted=predicted,  # type: ignore[arg-type]
        pixels=pixels,
        values=values,
        distances=distances,
        queries=queries,  # type: ignore[arg-type]
        remembered=remembered,  # type: ignore[arg-type]
        checks=checks,  # type: ignore[arg-type]
        minimal=None if minimal is None else bool(minimal),
        margin=margin,  # type: ignore[arg-type]
        curve=tuple((int(q), float(d)) for q, d in np.frombuffer(curve, _CURVE).tolist()),
    )


def read_saliency(path: Path, shape: tuple[int, int]) -> Iterator[tuple[int, NDArray[np.float16], NDArray[np.float16]]]:
    """The saliency maps a ledger holds: (index, before, after), (H, W) each, in the order of the images."""
    with reading(path) as db:
        for index, before, after in db.execute("SELECT idx, before, after FROM saliency ORDER BY idx"):
            yield int(index), np.frombuffer(before, "<f2").reshape(shape), np.frombuffer(after, "<f2").reshape(shape)


def tally(path: Path) -> Tally:
    """Count what a ledger holds now."""
    with reading(path) as db:
        counts = {
            str(verdict): (int(n), int(queries))
            for verdict, n, queries in db.execute("SELECT verdict, count(*), sum(queries) FROM image GROUP BY verdict")
        }
        playing = int(db.execute("SELECT count(*) FROM play").fetchone()[0])
    numbers = {kind.value: counts.get(kind.value, (0, 0))[0] for kind in Verdict}
    return Tally(**numbers, queries=sum(queries for _, queries in counts.values()), playing=playing)


def seconds_of(path: Path) -> float:
    """Seconds spent in the searches of a ledger's images."""
    with reading(path) as db:
        return float(db.execute("SELECT total(seconds) FROM image").fetchone()[0])


def on_network(folder: Path) -> bool:
    """True where the folder lies on a network file system, as far as Linux's table of mounts says."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    where = os.path.realpath(folder)
    best, kind = "", ""
    for line in lines:
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        mount = parts[1].replace("\\040", " ")
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, parts[2]
    return kind in _NETWORK
