"""Images that `certify` is done with, on disk, so that the same command goes on where it was stopped.

A row's name is a digest of everything that its proofs depend on but the machine's speed: model file, input spec, image, label,
norms, seconds, version. It holds the image's entry of `certify.json` and the lines that were printed of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustest import __version__
from robustest.audit.files import storage, writing
from robustest.classifiers.classifier import ClassifierInfo


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one command.

    folder: where they lie, or None to keep none. info: of the classifier; without a digest none are kept either, since
    nobody can know whether it is the same.
    """

    folder: Path | None
    info: ClassifierInfo
    norms: Sequence[str]
    seconds: float

    def _path(self, place: int, digest: str, label: int) -> Path | None:
        if self.folder is None or self.info.digest is None:
            return None
        parts = [__version__, self.info.digest, repr(self.info.spec), place, digest, label, *self.norms, self.seconds]
        return self.folder / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.json"

    def load(self, place: int, digest: str, label: int) -> tuple[dict[str, Any], list[str]] | None:
        """The entry and the lines of the image at `place`; None where it is not done, or where not all is there."""
        path = self._path(place, digest, label)
        if path is None:
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            whole = all((path.parent.parent / name).is_file() for name in content["files"])
            return (dict(content["entry"]), [str(line) for line in content["lines"]]) if whole else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there, or damaged: the image is proved again, which overwrites it

    def save(
        self, place: int, digest: str, label: int, entry: dict[str, Any], lines: list[str], files: list[str]
    ) -> None:
        """Keep an image's entry, its lines and the names of its files beside the rows; it appears whole or not at all."""
        path = self._path(place, digest, label)
        if path is None:
            return
        with storage(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            with writing(path) as handle:
                handle.write((json.dumps({"entry": entry, "lines": lines, "files": files}) + "\n").encode())
