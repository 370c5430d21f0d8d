"""Files of a run folder: written whole or not at all, with errors that name the folder, the cause and the way out."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from robustest.errors import EnvironmentFailure, RunConflict

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def storage(folder: Path) -> Iterator[None]:
    """Turn what the file system or SQLite raise inside into an `EnvironmentFailure` about `folder`.

    Raises:
        EnvironmentFailure: the disk is full, the folder cannot be written, or another failure of storage.
    """
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(_sentence(folder, error.errno or 0, error.strerror or str(error))) from error
    except sqlite3.Error as error:
        text = str(error)
        code = errno.ENOSPC if "full" in text else errno.EROFS if "readonly" in text or "unable to open" in text else 0
        raise EnvironmentFailure(_sentence(folder, code, text)) from error


def check_writable(folder: Path) -> None:
    """Check, before work whose result is to go into a folder, that a file can be written there; leaves nothing behind.

    Args:
        folder: there already, or yet to be made.

    Raises:
        EnvironmentFailure: it cannot.
    """
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    with storage(folder), tempfile.TemporaryFile(dir=there):
        pass


def write_array(handle: IO[bytes], array: NDArray[Any]) -> None:
    """What `np.save` writes; a full disk is an error with its number here, which numpy leaves out."""
    whole = np.ascontiguousarray(array)
    npy.write_array_header_1_0(handle, npy.header_data_from_array_1_0(whole))
    handle.write(whole.data)


def _sentence(folder: Path, code: int, text: str) -> str:
    if code in _FULL:
        return (
            f"no space is left for {str(folder)!r} ({_free(folder)} free): {text}. Make room and run the same command "
            "again: it goes on from what was saved."
        )
    if code in _REFUSED:
        return (
            f"the folder {str(folder)!r} cannot be written: {text}. Choose another with -o, or change its permissions."
        )
    return (
        f"the folder {str(folder)!r} cannot be used: {text}. What was saved stays; run the same command again, or choose "
        "another folder with -o."
    )


def _free(folder: Path) -> str:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB"
    except OSError:
        return "an unknown amount"


@contextmanager
def writing(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """A file under a temporary name beside `path`; renamed to it when all is written (and on the disk), else removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with temporary.open("xb") as handle:
            yield handle
            handle.flush()
            if sync:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any, *, exclusive: bool = False) -> bool:
    """Write JSON whole or not at all.

    Args:
        exclusive: leave a file that is there already as it is.

    Returns:
        True if this call wrote it.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    if not exclusive:
        with writing(path) as handle:
            handle.write(text.encode())
        return True
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            with path.open("x", encoding="utf-8") as handle:  # a file system without hard links
                handle.write(text)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def read_json(path: Path) -> Any:
    """Read JSON that this package wrote.

    Raises:
        RunConflict: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunConflict(f"{str(path)!r} is damaged: {error}. Remove it, or choose another folder.") from error
