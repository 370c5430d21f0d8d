"""Leases: which process works on which shard, by files alone, on any file system that several machines share.

A shard's lease number g is the file `lease.g`, made with O_CREAT|O_EXCL, so exactly one process gets it; the highest
number owns the shard. Its owner writes a rising count into it every few seconds. A watcher that sees the same count
for long enough *on its own monotonic clock* takes the shard over by making `lease.(g+1)`: clocks of machines are never
compared, so no clock that is wrong or set matters. An owner that is gone from this very machine is known at once from
its process id and start time. The ledger refuses writes of an owner that was taken over.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustest.audit.files import writing

HEARTBEAT = 3.0  # seconds between two signs of life
EXPIRY = 30.0  # seconds without one after which a lease is taken over
_RELEASED = b'{"released": true}'


class LeaseLostError(Exception):
    """Another process has taken the shard over; what this one still had in play is no longer its own to write."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that works on shards.

    name: unique. host, pid: where it is, for people. place: names the boot and process table in which `pid` and
    `born`, the process's start in clock ticks, mean something. parent, parent_born: likewise of the process that
    notes how this one ends; 0 where nobody does.
    """

    name: str
    host: str
    pid: int
    place: str
    born: int
    parent: int = 0
    parent_born: int = 0

    @staticmethod
    def here(*, supervised: bool = False) -> Worker:
        """This process, under a new name. supervised: the process that started it will note how it ended."""
        pid = os.getpid()
        parent = os.getppid() if supervised else 0
        return Worker(
            f"{socket.gethostname()}-{pid}-{os.urandom(4).hex()}",
            socket.gethostname(),
            pid,
            _place(),
            _born(pid),
            parent,
            _born(parent) if parent else 0,
        )

    def gone(self) -> bool:
        """True where it is certain that the process has ended: it was started here and is here no more."""
        return bool(self.place) and self.place == _place() and self.born > 0 and _born(self.pid) != self.born

    def supervised(self) -> bool:
        """True where the process that is to note how this one ended is itself alive, on this machine."""
        return self.parent_born > 0 and self.place == _place() and _born(self.parent) == self.parent_born


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> int:
    """Start of a process in clock ticks since boot; 0 where there is no such process, or it has ended, or no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


@dataclass(frozen=True, slots=True)
class LeaseFile:
    """The newest lease of a shard, as read: its number, its owner, and the raw content, which changes with every beat."""

    number: int
    owner: Worker | None
    content: bytes

    @property
    def table(self) -> dict[str, Any]:
        """What the owner says of itself: host, pid, beat, rate, time."""
        try:
            table: dict[str, Any] = json.loads(self.content)
        except ValueError:
            return {}
        return table

    @property
    def released(self) -> bool:
        """True where its owner has given the shard back."""
        return self.content == _RELEASED


def newest_lease(folder: Path) -> LeaseFile | None:
    """The lease that owns a shard now, or None."""
    numbers = [int(name.name[6:]) for name in folder.glob("lease.*") if name.name[6:].isdigit()]
    if not numbers:
        return None
    number = max(numbers)
    try:
        content = (folder / f"lease.{number}").read_bytes()
    except FileNotFoundError:
        return None
    try:
        table = json.loads(content)
        owner = Worker(
            str(table["worker"]),
            str(table["host"]),
            int(table["pid"]),
            str(table["place"]),
            int(table["born"]),
            int(table["parent"]),
            int(table["parent_born"]),
        )
    except (ValueError, KeyError, TypeError):
        owner = None  # being written just now, or damaged: judged by whether it changes
    return LeaseFile(number, owner, content)


class Watch:
    """How long each shard's lease has been without a sign of life, seen from here.

    `noted` tells by a worker's name whether word of how it ended is there. An owner that is gone from this machine is
    replaced at once, unless its supervisor lives and has yet to leave that word: the successor must know what killed it.
    """

    def __init__(
        self,
        expiry: float = EXPIRY,
        clock: Callable[[], float] = time.monotonic,
        noted: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._expiry, self._clock, self._noted = expiry, clock, noted
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def expired(self, folder: Path, lease: LeaseFile) -> bool:
        """True where the lease's owner is gone, or was not heard of for long enough since this watch first looked."""
        owner = lease.owner
        if lease.released or (
            owner is not None and owner.gone() and (not owner.supervised() or self._noted(owner.name))
        ):
            return True
        mark = str(lease.number).encode() + lease.content
        now = self._clock()
        known = self._seen.get(folder)
        if known is None or known[0] != mark:
            self._seen[folder] = (mark, now)
            return False
        return now - known[1] >= self._expiry


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that this process holds."""

    folder: Path
    number: int
    worker: Worker

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / f"lease.{self.number}"

    def beat(self, count: int, rate: float) -> bool:
        """Give a sign of life; False where another process has taken over."""
        if (self.folder / f"lease.{self.number + 1}").exists() or not self.path.exists():
            return False
        with writing(self.path, sync=False) as handle:
            handle.write(_content(self.worker, count, rate))
        return True

    def release(self) -> None:
        """Give the shard back. The file stays, so that the next owner's number is higher; those before it go."""
        with writing(self.path, sync=False) as handle:
            handle.write(_RELEASED)
        for number in range(self.number):
            (self.folder / f"lease.{number}").unlink(missing_ok=True)

    def retire(self) -> None:
        """Take away all lease files of a shard that is finished and has its mark."""
        for number in range(self.number + 1):
            (self.folder / f"lease.{number}").unlink(missing_ok=True)


def _content(worker: Worker, count: int, rate: float) -> bytes:
    table = {
        "worker": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "place": worker.place,
        "born": worker.born,
        "parent": worker.parent,
        "parent_born": worker.parent_born,
        "beat": count,
        "rate": round(rate, 4),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return json.dumps(table).encode()


def claim(folder: Path, worker: Worker, watch: Watch) -> Lease | None:
    """Take a shard that nobody holds, or whose owner is gone; None where it is held.

    The number after the highest is taken by O_EXCL: of any that try at once, one gets it.
    """
    current = newest_lease(folder)
    if current is not None and not watch.expired(folder, current):
        return None
    lease = Lease(folder, 0 if current is None else current.number + 1, worker)
    try:
        with lease.path.open("xb") as handle:
            handle.write(_content(worker, 0, 0.0))
    except FileExistsError:
        return None
    return lease


class Heart:
    """A thread that keeps leases alive; a context manager. `rate` gives the images a second that it tells with each beat."""

    def __init__(self, interval: float = HEARTBEAT) -> None:
        self._interval = interval
        self.rate: Callable[[], float] = lambda: 0.0
        self._leases: dict[Path, Lease] = {}
        self._lost: set[Path] = set()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="robustest-heart", daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def add(self, lease: Lease) -> None:
        """Keep a lease alive from now on."""
        with self._lock:
            self._leases[lease.folder] = lease

    def drop(self, lease: Lease) -> None:
        """Let a lease be; after this no beat of it is on its way."""
        with self._lock:
            self._leases.pop(lease.folder, None)
            self._lost.discard(lease.folder)

    def lost(self, lease: Lease) -> bool:
        """True where another process has taken the shard over."""
        return lease.folder in self._lost

    def _run(self) -> None:
        count = 0
        while not self._end.wait(self._interval):
            count += 1
            with self._lock:
                for lease in list(self._leases.values()):
                    try:
                        alive = lease.beat(count, self.rate())
                    except OSError:
                        continue  # a full or vanished disk: the ledger's own write will say so
                    if not alive:
                        self._lost.add(lease.folder)
                        del self._leases[lease.folder]
