"""Arrays by their address in memory, in compiled code: so one call can work on what many games hold, each in its own arrays.

Who writes an address down holds the array, too, as long as the address may be used: a `search_turns.Desk` does. Nobody may put
another array in its place meanwhile; what plain code does between such turns may, so desks look everything up anew after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.compiled import compiled, prepares

Ints = NDArray[np.int64]

_carray: Any = None  # numba's
_pointer: Any = None


@prepares
def _import() -> None:
    global _carray, _pointer  # what compiled code calls must be a name of its module
    from numba import carray, types  # type: ignore[attr-defined,unused-ignore]
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator,unused-ignore]
    def pointer(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

        return types.voidptr(types.int64), generate

    _carray, _pointer = carray, pointer


def address_of(array: NDArray[Any]) -> int:
    """Where a contiguous array lies."""
    assert array.flags.c_contiguous
    address: int = array.ctypes.data
    return address


@compiled
def words_at(address: int, count: int) -> NDArray[np.uint64]:
    """(count,) at an address."""
    array: NDArray[np.uint64] = _carray(_pointer(address), count, np.uint64)
    return array


@compiled
def ints_at(address: int, count: int) -> NDArray[np.int64]:
    """(count,) at an address."""
    array: NDArray[np.int64] = _carray(_pointer(address), count, np.int64)
    return array


@compiled
def doubles_at(address: int, count: int) -> NDArray[np.float64]:
    """(count,) at an address."""
    array: NDArray[np.float64] = _carray(_pointer(address), count, np.float64)
    return array


@compiled
def int_rows_at(address: int, rows: int, columns: int) -> NDArray[np.int64]:
    """(rows, columns) at an address."""
    array: NDArray[np.int64] = _carray(_pointer(address), (rows, columns), np.int64)
    return array


@compiled
def float_rows_at(address: int, rows: int, columns: int) -> NDArray[np.float32]:
    """(rows, columns) at an address."""
    array: NDArray[np.float32] = _carray(_pointer(address), (rows, columns), np.float32)
    return array


@compiled
def double_rows_at(address: int, rows: int, columns: int) -> NDArray[np.float64]:
    """(rows, columns) at an address."""
    array: NDArray[np.float64] = _carray(_pointer(address), (rows, columns), np.float64)
    return array


@compiled
def mask_rows_at(address: int, rows: int, columns: int) -> NDArray[np.bool_]:
    """(rows, columns) at an address."""
    array: NDArray[np.bool_] = _carray(_pointer(address), (rows, columns), np.bool_)
    return array


@compiled
def sign_rows_at(address: int, rows: int, columns: int) -> NDArray[np.int8]:
    """(rows, columns) at an address."""
    array: NDArray[np.int8] = _carray(_pointer(address), (rows, columns), np.int8)
    return array


@compiled
def bytes_at(address: int, count: int) -> NDArray[np.uint8]:
    """(count,) at an address."""
    array: NDArray[np.uint8] = _carray(_pointer(address), count, np.uint8)
    return array


@compiled
def small_ints_at(address: int, count: int) -> NDArray[np.int32]:
    """(count,) at an address."""
    array: NDArray[np.int32] = _carray(_pointer(address), count, np.int32)
    return array


@compiled
def float_blocks_at(address: int, blocks: int, rows: int, columns: int) -> NDArray[np.float32]:
    """(blocks, rows, columns) at an address."""
    array: NDArray[np.float32] = _carray(_pointer(address), (blocks, rows, columns), np.float32)
    return array
