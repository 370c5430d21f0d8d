"""How many processes share an audit on this machine, where the user does not say.

A process of its own for each core does more than one process with a thread for each: a small model's layers are too short
to be shared by threads, and the search's own work is shared, too. It costs a start of a second or two and its own memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustest.attack.driver import usual_games
from robustest.audit.plan import Plan
from robustest.classifiers.batching import Batch
from robustest.classifiers.classifier import Classifier
from robustest.classifiers.onnx_file import OnnxClassifier

_WORTH = 5.0  # seconds of work that a process must have: a few times what its start takes
_SEARCH = 2e-5  # seconds a query of the search's own work, about
_PROCESS_BYTES, _GAME_BYTES = 400 << 20, 600  # of a process with its libraries; of a pixel of a game
_COPIES = 4  # of a model's file, that a session holds at most
_MEMORY_SHARE = 0.5  # of what is free


def usual_workers(
    classifier: Classifier, plan: Plan, *, left: int, devices: Sequence[str] = (), cores: int | None = None
) -> int:
    """Processes for what is left of a run: one a device where several are given, one a core for an ONNX file on the CPU
    where each has enough to do and memory allows, else one.

    Args:
        classifier: the one that was planned; asked about a few images, to see how long it takes.
        left: images not yet finished. devices: that the user gave. cores: of this machine; None to look.
    """
    if devices:
        return len(devices)
    if not isinstance(classifier, OnnxClassifier):
        return 1
    most = min(cores or usable_cores(), -(-left // plan.shard))
    if most < 2:
        return 1
    seconds = left * plan.settings.queries * (_seconds_each(classifier, plan) + _SEARCH)
    return max(1, min(most, int(seconds / _WORTH), _that_fit(classifier, plan, -(-left // most))))


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seconds_each(classifier: Classifier, plan: Plan) -> float:
    """Seconds an image, on all cores, of noise like the run's images at its batch."""
    images = np.random.default_rng(0).random((plan.rows, *plan.data.shape), dtype=np.float32)
    classifier(images)  # the first call of a size allocates
    started = time.perf_counter()
    classifier(images)
    return (time.perf_counter() - started) / plan.rows


def _that_fit(classifier: OnnxClassifier, plan: Plan, images: int) -> int:
    """How many processes there is memory for, with so many images each."""
    free = free_memory()
    height, width, _ = plan.data.shape
    games = min(images, usual_games(Batch(plan.rows), plan.data.shape))
    each = _PROCESS_BYTES + _COPIES * classifier.path.stat().st_size + games * _GAME_BYTES * height * width
    return 1 if free is None else int(_MEMORY_SHARE * free / each)


def free_memory(system: Path = Path("/")) -> int | None:
    """Bytes that processes may still take, by the kernel and by the control group this one is in; None where neither says.

    Args:
        system: root of the file system, which holds `proc` and `sys`.
    """
    found: list[int] = []
    try:
        lines = (system / "proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass  # not Linux
    group = system / "sys/fs/cgroup"
    for most, now in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(max(0, int((group / most).read_text()) - int((group / now).read_text())))
        except (OSError, ValueError):
            continue  # no such group, or no limit: "max"
    return min(found, default=None)
