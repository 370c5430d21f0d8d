"""Images that kill their worker: told from images that were only there, retried alone, and given up for good.

A worker that dies leaves its images in play marked in the ledger. Whoever watches it notes how it died. A death by the
worker's own doing (a segmentation fault, an abort, a call of exit) weighs 6; one that anybody may have caused (kill -9,
the out-of-memory killer, a machine that went away) weighs 1; a stop in good order weighs nothing. An image suspected
with a weight of 3 or more is played alone; once the deaths while it was alone weigh 6, it is recorded as unknown. So
an image that crashes the model is retried once alone, and kill -9 at random moments condemns none: it would have to
strike six times while that one image is played.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from robustest.audit.files import write_json

_TO_ISOLATE = 3
_TO_CONDEMN = 6
_OWN = 6
_ANYBODY = 1
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP}


@dataclass(frozen=True, slots=True)
class Suspicion:
    """The weights of the deaths an image was there for, with others and alone; how the last of them was."""

    together: int = 0
    alone: int = 0
    how: str = ""

    @property
    def condemned(self) -> bool:
        """True where the image is not to be played again."""
        return self.alone >= _TO_CONDEMN

    @property
    def isolated(self) -> bool:
        """True where the image is to be played alone."""
        return self.together >= _TO_ISOLATE or self.alone > 0

    @property
    def reason(self) -> str:
        """Why the image was given up."""
        return f"the process that played it alone died ({self.how}); the image was not played again"


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended: a weight and words."""

    weight: int
    how: str


def death_of(code: int) -> Death:
    """How a process ended, by its return code as `subprocess` gives it (negative: a signal)."""
    if code >= 0:
        return own_death(f"exit status {code}")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return Death(_OWN if -code in _CRASHES else _ANYBODY, name)


def own_death(how: str) -> Death:
    """A death by the worker's own doing, in words."""
    return Death(_OWN, how)


def note_death(run: Path, worker: str, death: Death) -> None:
    """Leave word of how a worker ended, for whoever takes its shards over."""
    path = _path(run, worker)
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"weight": death.weight, "how": death.how})


def death_noted(run: Path, worker: str) -> bool:
    """True where there is word of how a worker ended."""
    return _path(run, worker).is_file()


def noted_death(run: Path, worker: str) -> Death:
    """How a worker ended; without word of it, as anybody may have caused."""
    try:
        table = json.loads(_path(run, worker).read_text(encoding="utf-8"))
        return Death(int(table["weight"]), str(table["how"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Death(_ANYBODY, "killed, or its machine went away")


def _path(run: Path, worker: str) -> Path:
    return run / "deaths" / f"{worker}.json"


def suspect(known: dict[int, Suspicion], left: Iterable[tuple[int, bool, Death]]) -> dict[int, Suspicion]:
    """The suspicions that change by new deaths.

    Args:
        known: suspicions before. left: (index, was it alone, how its worker died) of each image left in play.
    """
    changed: dict[int, Suspicion] = {}
    for index, alone, death in left:
        if death.weight == 0:
            continue
        before = known.get(index, Suspicion())
        changed[index] = Suspicion(
            before.together + (0 if alone else death.weight), before.alone + (death.weight if alone else 0), death.how
        )
    return changed
