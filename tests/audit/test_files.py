"""Files of a run folder: what is written, and what is said where it cannot be."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.audit.files import check_writable, storage, write_array, writing
from robustest.errors import EnvironmentFailure


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        np.arange(3, dtype=np.int64),
        np.zeros((0, 32), np.uint8),
    ],
    ids=["bytes", "transposed", "labels", "none"],
)
def test_an_array_is_written_as_numpy_writes_it(array: NDArray[np.generic]) -> None:
    theirs, ours = io.BytesIO(), io.BytesIO()
    np.save(theirs, np.ascontiguousarray(array))
    write_array(ours, array)
    assert ours.getvalue() == theirs.getvalue()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_array_that_does_not_fit_is_said_to_lack_space(tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentFailure, match="no space is left"),
        storage(tmp_path),
        open("/dev/full", "wb") as full,
    ):
        write_array(full, np.zeros(100_000, np.uint8))


def test_a_folder_that_can_be_written_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path)
    check_writable(tmp_path / "yet" / "to be made")
    monkeypatch.chdir(tmp_path)
    check_writable(Path())
    check_writable(Path("new"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(EnvironmentFailure, match=f"folder '{folder}' cannot be used: Not a directory"):
            check_writable(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_where_writing_is_refused_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-only file systems and folders of others; the superuser, as whom tests may run, is refused nothing else."""

    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("robustest.audit.files.tempfile.TemporaryFile", refuse)
    with pytest.raises(EnvironmentFailure, match=r"cannot be written: Read-only file system\. Choose another with -o"):
        check_writable(tmp_path)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_text("before")

    def fail() -> None:
        with writing(tmp_path / "a.npy") as handle:
            handle.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.npy", "before")]
