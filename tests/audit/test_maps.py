"""The file of saliency maps: numpy's own bytes, read a map at a time."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.audit.maps import read_maps, write_maps
from robustest.errors import RunConflict

Halves = NDArray[np.float16]


def _maps(count: int, shape: tuple[int, int]) -> list[tuple[int, Halves, Halves]]:
    rng = np.random.default_rng(0)
    draw = lambda: rng.random(shape).astype(np.float16)  # noqa: E731
    return [(3 * place, draw(), draw()) for place in range(count)]


def test_the_file_is_the_one_that_numpy_writes(tmp_path: Path) -> None:
    rows = _maps(7, (5, 4))
    write_maps(tmp_path / "ours.npz", lambda: iter(rows), (5, 4))
    with (tmp_path / "theirs.npz").open("wb") as handle:
        np.savez_compressed(
            handle,
            indices=np.array([index for index, _, _ in rows], np.int64),
            before=np.stack([before for _, before, _ in rows]),
            after=np.stack([after for _, _, after in rows]),
        )
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "theirs.npz").read_bytes()


def test_no_file_without_maps(tmp_path: Path) -> None:
    write_maps(tmp_path / "ours.npz", lambda: iter(()), (5, 4))
    assert list(tmp_path.iterdir()) == []


def test_wanted_maps_are_read_and_no_others(tmp_path: Path) -> None:
    rows = _maps(7, (5, 4))
    write_maps(tmp_path / "s.npz", lambda: iter(rows), (5, 4))
    found = read_maps(tmp_path / "s.npz", {0, 6, 7, 18}, (5, 4))
    assert sorted(found) == [0, 6, 18]
    for index, (before, after) in found.items():
        _, first, second = rows[index // 3]
        assert (before == first).all()
        assert (after == second).all()


def test_neither_side_holds_all_maps(tmp_path: Path) -> None:
    one = np.ones((64, 64), np.float16)  # 8 kB; 2,000 pairs are 33 MB

    def rows() -> Iterator[tuple[int, Halves, Halves]]:
        return ((index, one.copy(), one.copy()) for index in range(2000))

    tracemalloc.start()
    try:
        write_maps(tmp_path / "s.npz", rows, (64, 64))
        read_maps(tmp_path / "s.npz", {5}, (64, 64))
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["indices.npy", "before.npy", "after.npy"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.npz"
    write_maps(path, lambda: iter(_maps(7, (5, 4))), (5, 4))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name)
    middle = member.header_offset + 30 + len(name) + 20 + member.compress_size // 2  # 20: the extra field of zip64
    content[middle] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(RunConflict, match=r"s\.npz"):
        read_maps(path, {0}, (5, 4))


def test_maps_of_another_size_are_refused(tmp_path: Path) -> None:
    write_maps(tmp_path / "s.npz", lambda: iter(_maps(2, (5, 4))), (5, 4))
    with pytest.raises(RunConflict, match="another size"):
        read_maps(tmp_path / "s.npz", {0}, (4, 5))
