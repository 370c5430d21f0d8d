"""Worker processes of one machine: started, watched, started again when they die, stopped in good order.

A worker is a process of its own, so that an image that kills it ends neither the run nor the program that asked for it.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import robustest.errors
from robustest.audit.child import Order
from robustest.audit.deaths import Death, death_noted, death_of, note_death
from robustest.audit.files import storage
from robustest.audit.leases import EXPIRY, HEARTBEAT
from robustest.audit.work import Event
from robustest.audit.workers import usable_cores
from robustest.classifiers.classifier import Classifier
from robustest.errors import EnvironmentFailure, InvalidSetting, RobustestError
from robustest.results import Verdict

_PACKAGE_ROOT = str(Path(robustest.errors.__file__).parents[1])
_FRUITLESS = 3  # deaths in a row of workers that had not begun any image
_PATIENCE = 5.0  # seconds for a worker to stop in good order


@dataclass(slots=True, eq=False)
class _Child:
    process: subprocess.Popen[bytes]
    place: int
    name: str = ""
    begun: bool = False
    ended: bool = False
    failure: RobustestError | None = None
    reader: threading.Thread | None = None


def pickled(classifier: Classifier) -> bytes:
    """A classifier by value, for a process of this machine.

    Raises:
        InvalidSetting: it cannot be pickled.
    """
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(classifier))
    except Exception as error:  # whatever the user's object raises when it is pickled
        raise InvalidSetting(
            f"the classifier {classifier.info.source} cannot be sent to another process ({type(error).__name__}: {error}). "
            "Use workers=1, or name it as module:callable."
        ) from error


def supervise(
    run: Path,
    *,
    workers: int,
    classifier: bytes | None = None,
    model: str | None = None,
    devices: Sequence[str] = (),
    only: Sequence[int] | None = None,
    wait: bool = True,
    durable: bool = False,
    notify: Callable[[Event], None] | None = None,
    heartbeat: float = HEARTBEAT,
    expiry: float = EXPIRY,
) -> None:
    """Have worker processes work on a run until nothing is left for them.

    Args:
        run: the run folder, planned. workers: how many processes. classifier: pickled, or None to load what the plan
        names. model, only, wait, durable, heartbeat, expiry: as in `open_planned` and `work_on`.
        devices: given to the workers in turn.
        notify: told of what happens, in this thread.

    Raises:
        RobustestError: what a worker raised. EnvironmentFailure: workers die before they begin.
    """
    threads = max(1, usable_cores() // workers)

    def order(place: int) -> Order:
        return Order(
            run=str(run.resolve()),
            path=tuple(sys.path),
            classifier=classifier,
            model=model,
            device=devices[place % len(devices)] if devices else None,
            threads=threads,
            only=None if only is None else tuple(only),
            workers=workers,
            wait=wait,
            durable=durable,
            heartbeat=heartbeat,
            expiry=expiry,
        )

    inbox: queue.SimpleQueue[tuple[_Child, dict[str, Any] | None]] = queue.SimpleQueue()
    children = [_start(order(place), place, threads, inbox) for place in range(workers)]
    fruitless = 0
    try:
        while children:
            child, words = inbox.get()
            if words is not None:
                _hear(child, words, notify)
                continue
            code = child.process.wait()
            children.remove(child)
            _close(child)
            if child.failure is not None:
                raise child.failure
            if child.ended:
                continue
            death = death_of(code)
            with storage(run):
                if not (child.name and death_noted(run, child.name)):  # else it said itself what it died of
                    note_death(run, child.name or "unnamed", death)
            fruitless = 0 if child.begun else fruitless + 1
            if fruitless >= _FRUITLESS:
                raise EnvironmentFailure(
                    f"worker processes die before they begin an image ({death.how}, {fruitless} times in a row). See what they "
                    "wrote to standard error; too little memory for so many workers is a usual cause."
                )
            children.append(_start(order(child.place), child.place, threads, inbox))
    finally:
        _stop(run, children)


def _start(order: Order, place: int, threads: int, inbox: queue.SimpleQueue[Any]) -> _Child:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    paths = [_PACKAGE_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    process = subprocess.Popen(
        [sys.executable, "-m", "robustest.audit.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        process_group=0,  # Ctrl-C is the parent's alone
    )
    child = _Child(process, place)
    header, payload = json.dumps(list(order.path)).encode(), pickle.dumps(order)
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once: its reader says so
        process.stdin.write(len(header).to_bytes(8, "big") + len(payload).to_bytes(8, "big") + header + payload)
        process.stdin.flush()
    child.reader = threading.Thread(target=_read, args=(child, inbox), daemon=True)
    child.reader.start()
    return child


def _read(child: _Child, inbox: queue.SimpleQueue[Any]) -> None:
    assert child.process.stdout is not None
    for line in child.process.stdout:
        with suppress(ValueError):  # a line cut off by the worker's death
            inbox.put((child, json.loads(line)))
    inbox.put((child, None))


def _hear(child: _Child, words: dict[str, Any], notify: Callable[[Event], None] | None) -> None:
    if "worker" in words:
        child.name = str(words["worker"])
    elif "started" in words:
        child.begun = True
        if notify is not None:
            notify(Event(int(words["started"])))
    elif "done" in words:
        child.begun = True
        if notify is not None:
            notify(Event(int(words["done"]), Verdict(words["verdict"]), int(words["queries"])))
    elif "error" in words:
        kind = getattr(robustest.errors, str(words["error"]), EnvironmentFailure)
        child.failure = _raised(kind, str(words["message"]))
    elif "end" in words:
        child.ended = True


def _raised(kind: type[RobustestError], message: str) -> RobustestError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


def _stop(run: Path, children: list[_Child]) -> None:
    """Have the workers that are left stop in good order, or else end them; what they had in play is not held against it."""
    for child in children:
        child.process.terminate()
    for child in children:
        try:
            child.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
            with suppress(OSError):
                note_death(run, child.name or "unnamed", Death(0, "stopped"))
        _close(child)


def _close(child: _Child) -> None:
    if child.reader is not None:
        child.reader.join(_PATIENCE)
    for stream in (child.process.stdin, child.process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
