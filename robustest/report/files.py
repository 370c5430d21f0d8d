"""Writing a report so that it is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

from robustest.audit.files import storage, writing


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file under another name and move it into its place; folders above it are made.

    Raises:
        EnvironmentFailure: the disk is full or the folder cannot be written; what was there before is still there.
    """
    where = Path(path)
    with storage(where.parent):
        where.parent.mkdir(parents=True, exist_ok=True)
        with writing(where, sync=False) as handle:
            handle.write(content)
    return where


def write_text(path: str | Path, content: str) -> Path:
    """As `write_bytes`, of UTF-8 text."""
    return write_bytes(path, content.encode("utf-8"))
