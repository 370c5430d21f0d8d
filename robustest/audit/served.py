"""A run on a served model: the model must stay the same from beginning to end, and what its server did is noted.

RUN/served/WORKER.json       what a worker sent to the server, and how answers to the same question differed
RUN/invalid.json             why the run is invalid, if it is; nothing is finished from then on

Models that are not served are left alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from robustest.audit.files import read_json, write_json
from robustest.classifiers.classifier import Classifier, Images
from robustest.errors import RunConflict, SwappedModelError

INVALID = "invalid.json"
_FOLDER = "served"


class ServedWatch:
    """One worker's eye on a served model.

    Args:
        run: the run folder. classifier: any. worker: the process's name.
    """

    def __init__(self, run: Path, classifier: Classifier, worker: str) -> None:
        self._run, self._worker = run, worker
        self._served: Any = classifier if hasattr(classifier, "begin_run") else None

    def begin(self, images: Images) -> None:
        """Score the probe set (P, H, W, C) with which the end will be compared."""
        if self._served is not None:
            self._served.begin_run(images)

    def check(self) -> None:
        """Score it again, before anything is sealed.

        Raises:
            SwappedModelError: another model answers now; the run is marked as invalid.
        """
        if self._served is None:
            return
        try:
            self._served.end_run()
        except SwappedModelError as error:
            write_json(self._run / INVALID, {"reason": str(error)})
            raise

    def note(self) -> None:
        """Write what this worker sent."""
        if self._served is not None:
            name = hashlib.sha256(self._worker.encode()).hexdigest()[:16]
            (self._run / _FOLDER).mkdir(exist_ok=True)
            how = {"worker": self._worker, "transport": self._served.transport, "notes": self._served.notes}
            write_json(self._run / _FOLDER / f"{name}.json", {**how, "counts": self._served.counts.as_json()})


def check_valid(run: Path) -> None:
    """Check that nobody found the run to be invalid.

    Raises:
        RunConflict: somebody did.
    """
    path = run / INVALID
    if path.is_file():
        raise RunConflict(f"the run {str(run)!r} is invalid: {read_json(path).get('reason', 'no reason is given')}")


def served_totals(run: Path) -> dict[str, int | float]:
    """What all workers sent, together; empty where the model is not served."""
    total: dict[str, int | float] = {}
    for path in sorted((run / _FOLDER).glob("*.json")):
        for name, value in read_json(path)["counts"].items():
            total[name] = max(total.get(name, 0), value) if name == "largest_difference" else total.get(name, 0) + value
    return total


def served_doubts(run: Path) -> tuple[str, ...]:
    """What a reader must know of the server's answers."""
    total = served_totals(run)
    if not total.get("differing"):
        return ()
    return (
        f"The server does not repeat: of {total['repeated']} images asked twice, {total['differing']} got other scores "
        f"(by up to {total['largest_difference']:g}) and {total['classes_changed']} another class. Another run may find others.",
    )
