"""What every way to ask a served model has in common: its protocol, its failures, its bounds."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

LARGEST_ANSWER = 64 << 20  # bytes of one answer whose size is not known beforehand
_WORDS = 300  # of what a server says, in an error

DTYPES: dict[str, type[np.generic]] = {
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
}
INPUT_DTYPES = ("FP16", "FP32", "FP64", "UINT8")
_counter = itertools.count()


class TransientError(Exception):
    """The question may be sent again: no connection, no answer in time, busy.

    wait: seconds that the server asked for, None if it did not.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class RefusedError(Exception):
    """The server understood and refused; too_large: a smaller batch may do."""

    def __init__(self, message: str, status: int, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.status, self.too_large = status, too_large


class GarbledError(Exception):
    """The server answered, but not what was asked for."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a served model says of itself.

    input_name, output_name: of its tensors. datatype: of the input, a key of DTYPES.
    shape: (N, ., ., .) of the input, None where free. classes: how many scores an image, None if it does not say.
    """

    input_name: str
    output_name: str | None
    datatype: str
    shape: tuple[int | None, ...]
    classes: int | None


class Transport(Protocol):
    """One way to ask."""

    @property
    def name(self) -> str:
        """What to call it: `binary`, `grpc`, `json` or `template`."""

    def infer(self, batch: NDArray[Any], signature: Signature) -> NDArray[Any]:
        """The first output for a batch in the model's own layout and type; raises the errors above."""

    def close(self) -> None:
        """Close its connections."""


def request_id() -> str:
    """A name that no other request bears, so that a late answer to another one is not taken for this one's."""
    return f"{os.getpid()}-{next(_counter)}"


def answer_limit(count: int, signature: Signature) -> int:
    """Bytes that the answer for `count` images may have: 32 a score, more than any number needs, and 64 KiB beside."""
    if signature.classes is None:
        return LARGEST_ANSWER
    return min(LARGEST_ANSWER, (64 << 10) + 32 * count * signature.classes)


def tensor_of(data: bytes, datatype: Any, shape: Any) -> NDArray[Any]:
    """An array from raw little-endian bytes.

    Raises:
        GarbledError: unknown type, or a shape that is not the data's.
    """
    dtype = np.dtype(_dtype(datatype)).newbyteorder("<")
    sides = _sides(shape)
    if _size(sides) * dtype.itemsize != len(data):
        raise GarbledError(f"an output of type {datatype} and shape {list(sides)} came with {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(sides)


def tensor_of_list(data: Any, datatype: Any, shape: Any) -> NDArray[Any]:
    """An array from a list of numbers, flat or nested.

    Raises:
        GarbledError: not numbers, or a shape that is not the data's.
    """
    dtype, sides = _dtype(datatype), _sides(shape)
    try:
        values = np.asarray(data)
        if values.dtype.kind not in "fiu" or values.size != _size(sides):
            raise ValueError(f"{values.size} values of kind {values.dtype} came for the shape {list(sides)}")
        with np.errstate(over="ignore", invalid="raise"):
            return values.astype(dtype).reshape(sides)
    except (ValueError, TypeError, OverflowError, FloatingPointError) as error:
        raise GarbledError(f"an output's data are no array of numbers: {short(str(error))}") from None


def _dtype(datatype: Any) -> type[np.generic]:
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise GarbledError(f"an output has the type {short(repr(datatype))}, which is none of {', '.join(DTYPES)}")
    return DTYPES[datatype]


def _sides(shape: Any) -> tuple[int, ...]:
    if (
        not isinstance(shape, list)
        or len(shape) > 8
        or not all(isinstance(side, int) and not isinstance(side, bool) and 0 <= side < 1 << 32 for side in shape)
    ):
        raise GarbledError(f"an output has the shape {short(repr(shape))}, which is none")
    return tuple(shape)


def _size(sides: tuple[int, ...]) -> int:
    size = 1
    for side in sides:
        size *= side
    return size


def short(text: str) -> str:
    """What a server said, on one line, printable, cut."""
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in text[: 4 * _WORDS]).split())
    return text if len(text) <= _WORDS else text[: _WORDS - 3] + "..."
