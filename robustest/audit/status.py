"""How far a planned run is, read from its files by anybody who can see the folder, while others work on it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustest.audit.files import read_json
from robustest.audit.leases import newest_lease
from robustest.audit.ledger import FILE, Tally, tally
from robustest.audit.plan import RESULT, Plan, shard_folder
from robustest.audit.progress import duration
from robustest.audit.work import DONE
from robustest.errors import RunConflict


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One process that holds shards: its name, host and process id, its shards, its images a second, its last beat."""

    name: str
    host: str
    pid: int
    shards: tuple[int, ...]
    rate: float
    beat: str


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How far a run is.

    images: in all. shards, done: shards in all, finished. counted: images finished, by verdict.
    workers: processes that hold leases. failures: how workers died, in words, with how often.
    finished: the result is written.
    """

    images: int
    shards: int
    done: int
    counted: Tally
    workers: tuple[WorkerStatus, ...]
    failures: dict[str, int]
    finished: bool

    @property
    def rate(self) -> float:
        """Images a second of all workers together, as they say themselves."""
        return sum(worker.rate for worker in self.workers)

    @property
    def seconds_left(self) -> float | None:
        """At that rate; None where nobody works."""
        left = self.images - self.counted.done
        return left / self.rate if self.rate > 0 else (0.0 if left == 0 else None)

    def lines(self, attack: str) -> list[str]:
        """The status for people."""
        count = self.counted
        tested = count.done - count.excluded
        left = self.seconds_left
        ahead = "nobody works on it now" if not self.workers else "time left not known yet"
        flipped = f"{count.flipped} of {tested} tested ({count.flipped / tested:.1%})" if tested else "none tested yet"
        lines = [
            f"images      {count.done} of {self.images} done ({count.done / self.images:.1%}), {count.playing} in play",
            f"shards      {self.done} of {self.shards} done",
            f"flipped     {flipped} so far by {attack}; {count.survived} survived, {count.unknown} unknown, {count.excluded} excluded",
            f"queries     {count.queries:,}",
        ]
        if not self.finished:
            lines.append(f"rate        {self.rate:.3g} images/s, {ahead if left is None else duration(left) + ' left'}")
        lines += [
            f"worker      {w.host} process {w.pid}: {len(w.shards)} shard{'s' * (len(w.shards) > 1)}, "
            f"{w.rate:.3g} images/s, last heard {w.beat}"
            for w in self.workers
        ]
        lines += [f"failures    {times} worker{'s' * (times > 1)} died: {how}" for how, times in self.failures.items()]
        if self.finished:
            lines.append("finished    the result is written")
        return lines


def counted(run: Path, plan: Plan) -> Tally:
    """What all ledgers of a run hold now."""
    total = Tally()
    for number in range(plan.shards):
        total = total + _shard_tally(shard_folder(run, number))
    return total


def _shard_tally(folder: Path) -> Tally:
    mark = _mark(folder)
    if mark is not None:
        return Tally(**{name: int(mark[name]) for name in ("flipped", "survived", "unknown", "excluded", "queries")})
    if not (folder / FILE).is_file():
        return Tally()
    try:
        return tally(folder / FILE)
    except (sqlite3.Error, RunConflict):
        return Tally()  # being made just now, or damaged, which whoever works on it says


def _mark(folder: Path) -> dict[str, Any] | None:
    if not (folder / DONE).is_file():
        return None
    table: dict[str, Any] = read_json(folder / DONE)
    return table


def run_status(run: Path, plan: Plan) -> RunStatus:
    """Read how far a run is; takes well under a second for a thousand shards."""
    total, done = Tally(), 0
    held: dict[str, list[int]] = {}
    beats: dict[str, dict[str, Any]] = {}
    for number in range(plan.shards):
        folder = shard_folder(run, number)
        if not folder.is_dir():
            continue
        total = total + _shard_tally(folder)
        if (folder / DONE).is_file():
            done += 1
            continue
        lease = newest_lease(folder)
        if lease is not None and lease.owner is not None and not lease.owner.gone():
            held.setdefault(lease.owner.name, []).append(number)
            beats[lease.owner.name] = lease.table
    workers = tuple(
        WorkerStatus(
            name=name,
            host=str(beats[name].get("host", "")),
            pid=int(beats[name].get("pid", 0)),
            shards=tuple(shards),
            rate=float(beats[name].get("rate", 0.0)),
            beat=str(beats[name].get("time", "")),
        )
        for name, shards in sorted(held.items())
    )
    failures: dict[str, int] = {}
    for path in sorted((run / "deaths").glob("*.json")):
        try:
            death = read_json(path)
        except (RunConflict, OSError):
            continue
        if death.get("weight"):
            failures[str(death.get("how"))] = failures.get(str(death.get("how")), 0) + 1
    return RunStatus(
        images=plan.data.count,
        shards=plan.shards,
        done=done,
        counted=total,
        workers=workers,
        failures=failures,
        finished=(run / RESULT).is_file(),
    )
