"""`saliency.npz`: the saliency before and after the search of a run's first images, written and read a map at a time.

The file is what `numpy.savez_compressed` would write of `indices` (M,), `before` and `after` (M, H, W) float16, byte for
byte; neither side holds more of it than it was asked for.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from robustest.audit.files import writing
from robustest.errors import RunConflict

Halves = NDArray[np.float16]

_HALF: np.dtype[np.float16] = np.dtype("<f2")


def write_maps(path: Path, rows: Callable[[], Iterable[tuple[int, Halves, Halves]]], shape: tuple[int, int]) -> None:
    """Write the maps of some images; no file where there is none.

    Args:
        path: the file; it appears whole or not at all.
        rows: gives each image's index and its maps (H, W) before and after, the same each time that it is called.
        shape: (H, W).
    """
    indices = np.array([index for index, _, _ in rows()], dtype=np.int64)
    if not len(indices):
        return
    with writing(path) as handle, zipfile.ZipFile(handle, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        with archive.open("indices.npy", "w", force_zip64=True) as member:
            npy.write_array(member, indices, allow_pickle=False)
        for place, name in enumerate(("before", "after"), start=1):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {
                    "descr": npy.dtype_to_descr(_HALF),
                    "fortran_order": False,
                    "shape": (len(indices), *shape),
                }
                npy.write_array_header_1_0(member, header)
                for row in rows():
                    member.write(np.asarray(row[place], _HALF).tobytes())


def read_maps(path: Path, wanted: Collection[int], shape: tuple[int, int]) -> dict[int, tuple[Halves, Halves]]:
    """The maps before and after, (H, W) each, of those of the wanted images that the file has.

    Raises:
        RunConflict: it is damaged, or holds maps of another size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open("indices.npy") as member:
                indices = npy.read_array(member, allow_pickle=False).tolist()
            before, after = (_rows(archive, name, indices, wanted, shape) for name in ("before.npy", "after.npy"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunConflict(f"{str(path)!r} is damaged: {error}. Remove it, or finish the run again.") from error
    return {index: (before[index], after[index]) for index in before}


def _rows(
    archive: zipfile.ZipFile, name: str, indices: list[int], wanted: Collection[int], shape: tuple[int, int]
) -> dict[int, Halves]:
    found: dict[int, Halves] = {}
    with archive.open(name) as member:
        if npy.read_magic(member) != (1, 0):
            raise ValueError(f"{name} is of another version")
        claimed, by_columns, dtype = npy.read_array_header_1_0(member)
        if claimed != (len(indices), *shape) or by_columns or dtype != _HALF:
            raise RunConflict(f"{archive.filename!r} holds maps of another size than the images; remove it.")
        for index in indices:
            row = member.read(_HALF.itemsize * shape[0] * shape[1])
            if index in wanted:
                found[index] = np.frombuffer(row, _HALF).reshape(shape)
        if len(row) < _HALF.itemsize * shape[0] * shape[1] or member.read(1):
            raise EOFError(f"{name} is not as long as it says")
    return found
