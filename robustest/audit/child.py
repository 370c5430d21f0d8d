"""A worker process of `supervise`: `python -m robustest.audit.child`.

Standard input brings one pickled order, and its end means that the parent is gone: the worker then stops. What happens
goes to the standard output it was started with, one JSON object a line; whatever the model prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

_GRACE = 10.0  # seconds to leave in good order when the parent is gone


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do; see `work_on`.

    classifier: pickled by value, or None to load what the plan names. path: of Python's modules, as in the parent.
    """

    run: str
    path: tuple[str, ...]
    classifier: bytes | None
    model: str | None
    device: str | None
    threads: int | None
    only: tuple[int, ...] | None
    workers: int
    wait: bool
    durable: bool
    heartbeat: float
    expiry: float


def main() -> int:
    """Read the order and work."""
    talk = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _interrupt)
    lock = threading.Lock()

    def say(**words: Any) -> None:
        with lock:
            talk.write(json.dumps(words) + "\n")

    try:
        header, payload = _received()
        sys.path[:] = [entry for entry in header if entry not in sys.path] + sys.path
        threading.Thread(target=_watch, daemon=True).start()
        return _work(pickle.loads(payload), say)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 130


def _received() -> tuple[list[str], bytes]:
    """The module path, which unpickling needs first, and the order."""
    first, second = (int.from_bytes(_exactly(8), "big") for _ in range(2))
    return json.loads(_exactly(first)), _exactly(second)


def _exactly(count: int) -> bytes:
    """So many bytes of standard input; from its descriptor, since a reader that holds a lock would hinder the exit."""
    parts = []
    while count > 0:
        part = os.read(0, min(count, 1 << 20))
        if not part:
            raise KeyboardInterrupt
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _work(order: Order, say: Any) -> int:
    from robustest.audit.leases import Worker
    from robustest.audit.plan import load_plan
    from robustest.audit.reference import open_planned
    from robustest.audit.work import Event, work_on
    from robustest.errors import RobustestError

    worker = Worker.here(supervised=True)
    say(worker=worker.name)

    def notify(event: Event) -> None:
        if event.verdict is None:
            say(started=event.index)
        else:
            say(done=event.index, verdict=event.verdict.value, queries=event.queries)

    try:
        run = Path(order.run)
        plan = load_plan(run)
        if order.classifier is not None:
            classifier = pickle.loads(order.classifier)
        else:
            classifier = open_planned(run, plan, model=order.model, device=order.device, threads=order.threads)
        work_on(
            run,
            plan,
            classifier,
            only=order.only,
            workers=order.workers,
            wait=order.wait,
            notify=notify,
            durable=order.durable,
            worker=worker,
            heartbeat=order.heartbeat,
            expiry=order.expiry,
        )
    except RobustestError as error:
        say(error=type(error).__name__, message=str(error))
        return 1
    say(end=True)
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _watch() -> None:
    """Stop this process when the parent is gone."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
