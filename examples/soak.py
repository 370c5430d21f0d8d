"""Faults at random moments of an audit, over and over, and what was lost.

    python examples/soak.py --kills 200 --out /tmp/soak --seed 0

Runs `robustest work` on planned audits and hits it: kill -9 of the supervising process, of a worker, of all of them at
once; Ctrl-C; SIGTERM; a worker stopped for longer than its lease and woken up again; a disk that is full; two processes
on one folder. Before each blow the rows that the ledgers hold are noted; afterwards each must be there unchanged. At the
end `result.json` must be that of an audit that was never disturbed, bit for bit. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robustest.audit.finish import finish_run, unfinished
from robustest.audit.ledger import reading
from robustest.audit.plan import RESULT, Plan, load_plan
from robustest.audit.run import plan_run, run_audit
from robustest.audit.status import run_status
from robustest.audit.work import work_on
from robustest.classifiers import load_classifier
from robustest.images import ImageSet
from robustest.settings import AttackSettings

MODEL = """
import os, time
import numpy as np
WEIGHTS = np.random.default_rng(7).normal(size=(36, 3)).astype(np.float32)

def scores(images):
    time.sleep(float(os.environ.get("SOAK_WAIT", "0")) * len(images))
    return np.stack([np.array([(image.reshape(-1) * column).sum() for column in WEIGHTS.T]) for image in images])
"""
NAME = "robustest_soak_model:scores"
IMAGES = 300
BLOWS = {
    "kill -9 supervisor": 4,
    "kill -9 worker": 4,
    "kill -9 all": 4,
    "Ctrl-C": 1,
    "SIGTERM": 1,
    "stopped worker": 1,
    "full disk": 1,
}  # with their weights
FORKED = "kill -9 forked worker"


@dataclass
class Outcome:
    """What happened, by kind of fault."""

    blows: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    audits: int = 0
    codes: Counter[str] = field(default_factory=Counter)


def images() -> ImageSet:
    """300 small images with the model's own labels."""
    import robustest_soak_model as model  # type: ignore[import-not-found]

    pixels = np.random.default_rng(3).integers(0, 255, size=(IMAGES, 6, 6, 1), dtype=np.uint8)
    labels = model.scores(pixels.astype(np.float32) / np.float32(255)).argmax(axis=1)
    return ImageSet(pixels, labels.astype(np.int64), tuple(str(place) for place in range(IMAGES)))


def rows(run: Path) -> set[tuple[object, ...]]:
    """Every row that any ledger of the run holds."""
    found: set[tuple[object, ...]] = set()
    for path in run.rglob("ledger.sqlite"):
        with suppress(sqlite3.Error), reading(path) as db:
            found |= set(db.execute("SELECT idx, verdict, queries, pixels, colours, curve FROM image"))
    return found


def start(run: Path, workers: int) -> subprocess.Popen[bytes]:
    """`robustest work` in a process group of its own."""
    words = ["work", str(run), "--workers", str(workers), "--expiry", "6"]
    return subprocess.Popen(
        [sys.executable, "-c", "from robustest.cli import main; main()", *words],
        env={**os.environ, "SOAK_WAIT": "0.003"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def worker_pids(run: Path) -> list[int]:
    """The processes that hold leases."""
    return [worker.pid for worker in run_status(run, load_plan(run)).workers]


def until_working(run: Path, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until somebody holds a lease, the process has ended, or so many seconds are over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None and not worker_pids(run):
        time.sleep(0.05)


def strike(kind: str, run: Path, process: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """One blow; False where it could not be dealt, because nobody worked just then."""
    if kind == "kill -9 supervisor":
        process.kill()
    elif kind in ("Ctrl-C", "SIGTERM"):
        process.send_signal(signal.SIGINT if kind == "Ctrl-C" else signal.SIGTERM)
    elif kind == "full disk":
        filler = run.parent / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as handle:
            while True:
                handle.write(bytes(4096))
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        filler.unlink()
    else:
        pids = worker_pids(run)
        if not pids:
            return False
        pids = [process.pid, *pids] if kind == "kill -9 all" else [rng.choice(pids)]
        with suppress(ProcessLookupError):
            for pid in pids:
                os.kill(pid, signal.SIGSTOP if kind == "stopped worker" else signal.SIGKILL)
            if kind == "stopped worker":
                time.sleep(9)  # longer than the lease: another worker may take the shard over
                os.kill(pids[0], signal.SIGCONT)
    return True


def one_audit(folder: Path, data: ImageSet, outcome: Outcome, rng: random.Random, most: int, kinds: list[str]) -> bytes:
    """An audit, struck until it is done or has had enough, then finished."""
    run = folder / "run"
    settings = AttackSettings(queries=40, seed=outcome.audits)
    plan = plan_run(
        run, load_classifier(NAME), data, settings, origin=NAME, shards=rng.choice([1, 3, 8, 20]), command=""
    )
    struck = 0
    while unfinished(run, plan):
        workers = rng.choice([1, 2, 3])
        process = start(run, workers)
        second = start(run, 1) if rng.random() < 0.1 else None
        outcome.blows["two processes on one folder"] += second is not None
        while struck < most and process.poll() is None:
            early = rng.random() < 0.2  # while the process starts; else while images are played
            until_working(run, process, 0.0 if early else 60.0)
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.0, 2.0))
            kind = rng.choices(kinds, [BLOWS[kind] for kind in kinds])[0]
            before = rows(run)
            if process.poll() is not None or not strike(kind, run, process, rng):
                continue  # done, or nobody works just now
            struck += 1
            outcome.blows[kind] += 1
            if kind != "kill -9 worker" and kind != "stopped worker":
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
            outcome.lost[kind] += len(before - rows(run))
            if kind in ("Ctrl-C", "SIGTERM", "full disk") and process.poll() is not None:
                outcome.codes[f"{kind}: exit {process.returncode}"] += 1
        for each in (process, second):
            if each is not None:
                each.wait(300)
    finish_run(run, plan)
    return (run / RESULT).read_bytes()


def forked(run: Path, plan: Plan) -> int:
    """A worker as a fork of this process, which starts in no time; its process id."""
    child = os.fork()
    if child == 0:
        try:
            work_on(run, plan, load_classifier(NAME), workers=2)
        finally:
            os._exit(0)
    return child


def one_forked_audit(folder: Path, data: ImageSet, outcome: Outcome, rng: random.Random) -> bytes:
    """An audit by two forked workers, one of which is killed again and again until all shards are done."""
    run = folder / "run"
    settings = AttackSettings(queries=40, seed=outcome.audits)
    plan = plan_run(
        run, load_classifier(NAME), data, settings, origin=NAME, shards=rng.choice([1, 3, 8, 20]), command=""
    )
    os.environ["SOAK_WAIT"] = "0.001"
    children = [forked(run, plan), forked(run, plan)]
    while unfinished(run, plan):
        time.sleep(rng.uniform(0.1, 1.5))
        before = rows(run)
        victim = rng.randrange(2)
        os.kill(children[victim], signal.SIGKILL)
        os.waitpid(children[victim], 0)
        outcome.blows[FORKED] += 1
        outcome.lost[FORKED] += len(before - rows(run))
        children[victim] = forked(run, plan)
    for child in children:
        os.waitpid(child, 0)
    os.environ["SOAK_WAIT"] = "0"
    finish_run(run, plan)
    return (run / RESULT).read_bytes()


def main() -> None:
    """Strike until there were enough blows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--forked", action="store_true", help="only forked workers, which start quickly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "robustest_soak_model.py").write_text(MODEL)
    sys.path.insert(0, str(out))
    os.environ["PYTHONPATH"] = str(out)
    data, rng, outcome = images(), random.Random(arguments.seed), Outcome()
    started = time.monotonic()
    disk = out / "disk"
    disk.mkdir(exist_ok=True)
    mounted = not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=False).returncode
    kinds = [kind for kind in BLOWS if mounted or kind != "full disk"]
    try:
        while sum(n for kind, n in outcome.blows.items() if kind.startswith("kill")) < arguments.kills:
            run_audit(NAME, data, None, AttackSettings(queries=40, seed=outcome.audits), out / "whole", command="")
            expected = (out / "whole" / RESULT).read_bytes()
            light = arguments.forked or outcome.audits % 2
            found = (
                one_forked_audit(disk, data, outcome, rng) if light else one_audit(disk, data, outcome, rng, 25, kinds)
            )
            outcome.wrong += found != expected
            outcome.audits += 1
            if found != expected:
                shutil.copytree(disk / "run", out / f"wrong-{outcome.audits}")
                shutil.copytree(out / "whole", out / f"right-{outcome.audits}")
            shutil.rmtree(out / "whole")
            shutil.rmtree(disk / "run")
            print(outcome.audits, dict(outcome.blows), dict(outcome.lost), outcome.wrong, file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("stopped; so far:", file=sys.stderr)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    print("| fault | times | rows lost |\n| --- | --- | --- |")
    for kind, times in sorted(outcome.blows.items()):
        print(f"| {kind} | {times} | {outcome.lost[kind]} |")
    print(
        f"\n{outcome.audits} audits of {IMAGES} images, {outcome.wrong} with another result than the undisturbed one; "
    )
    print(f"{time.monotonic() - started:.0f} s. Exit codes: {dict(outcome.codes)}.")


if __name__ == "__main__":
    main()
