"""The few messages of the Open Inference Protocol's gRPC service, written and read by hand: no stubs, no protobuf.

Source: the protocol's `grpc_predict_v2.proto`; field numbers stand beside each message. Whatever a server sends is read
within its own length, and what does not parse is a `GarbledError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.served_transport import GarbledError, Signature, tensor_of, tensor_of_list

_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5
_REAL = {6: "<f4", 7: "<f8"}  # of InferTensorContents
_WHOLE = {2: 32, 3: 64, 4: 0, 5: 0}  # bits of the sign, 0 for none


def varint(value: int) -> bytes:
    """A whole number in base 128; negative ones as 64-bit two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, data: bytes) -> bytes:
    """One length-delimited field: text, bytes or a message."""
    return varint(number << 3 | _LEN) + varint(len(data)) + data


def metadata_request(model: str, version: str) -> bytes:
    """ModelMetadataRequest: name 1, version 2."""
    return field(1, model.encode()) + (field(2, version.encode()) if version else b"")


def infer_request(model: str, version: str, name: str, batch: NDArray[Any], signature: Signature) -> bytes:
    """ModelInferRequest: model_name 1, model_version 2, id 3, inputs 5 (name 1, datatype 2, shape 3), outputs 6 (name 1),
    raw_input_contents 7."""
    shape = b"".join(varint(side) for side in batch.shape)
    tensor = field(1, signature.input_name.encode()) + field(2, signature.datatype.encode()) + field(3, shape)
    raw = np.ascontiguousarray(batch, batch.dtype.newbyteorder("<")).tobytes()
    outputs = field(6, field(1, signature.output_name.encode())) if signature.output_name else b""
    return metadata_request(model, version) + field(3, name.encode()) + field(5, tensor) + outputs + field(7, raw)


def read_metadata(data: bytes) -> dict[str, Any]:
    """ModelMetadataResponse as the page that HTTP has: inputs 4 and outputs 5 (name 1, datatype 2, shape 3)."""
    page: dict[str, Any] = {"inputs": [], "outputs": []}
    for number, value in fields(data):
        if number in (4, 5) and isinstance(value, memoryview):
            page["inputs" if number == 4 else "outputs"].append(_tensor(value)[0])
    return page


def read_answer(data: bytes, signature: Signature) -> tuple[str, NDArray[Any]]:
    """ModelInferResponse: id 3, outputs 5 (name 1, datatype 2, shape 3, contents 5), raw_output_contents 6.

    Returns:
        The request's id, and the output asked for.
    """
    name = ""
    outputs: list[tuple[dict[str, Any], memoryview | None]] = []
    raw: list[memoryview] = []
    for number, value in fields(data):
        if not isinstance(value, memoryview):
            continue
        if number == 3:
            name = _text(value)
        elif number == 5:
            outputs.append(_tensor(value))
        elif number == 6:
            raw.append(value)
    for place, (tensor, contents) in enumerate(outputs):
        if signature.output_name is not None and tensor["name"] != signature.output_name:
            continue
        if place < len(raw):
            return name, tensor_of(bytes(raw[place]), tensor["datatype"], tensor["shape"])
        return name, tensor_of_list(_contents(contents), tensor["datatype"], tensor["shape"])
    raise GarbledError(f"the answer has no output {signature.output_name or ''}".rstrip())


def fields(data: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field: an int, or the bytes of a fixed-width or length-delimited one."""
    view = memoryview(data)
    at = 0
    while at < len(view):
        key, at = _varint(view, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(view, at)
            yield key >> 3, value
            continue
        if kind == _LEN:
            size, at = _varint(view, at)
        elif kind in (_I64, _I32):
            size = 8 if kind == _I64 else 4
        else:
            raise GarbledError(f"the answer is no protobuf message: wire type {kind}")
        if size > len(view) - at:
            raise GarbledError("the answer is no protobuf message: a field is longer than the answer")
        yield key >> 3, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            break
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), at
    raise GarbledError("the answer is no protobuf message: a number does not end")


def _text(view: memoryview) -> str:
    return bytes(view).decode("utf-8", "replace")


def _tensor(data: memoryview) -> tuple[dict[str, Any], memoryview | None]:
    """A tensor's name, type and shape, and its typed contents."""
    tensor: dict[str, Any] = {"name": "", "datatype": "", "shape": []}
    contents = None
    for number, value in fields(data):
        if number == 3:
            tensor["shape"] += _numbers(value, 64)
        elif isinstance(value, memoryview) and number in (1, 2):
            tensor["name" if number == 1 else "datatype"] = _text(value)
        elif isinstance(value, memoryview) and number == 5:
            contents = value
    return tensor, contents


def _contents(data: memoryview | None) -> list[Any]:
    """InferTensorContents: int 2, int64 3, uint 4, uint64 5, fp32 6, fp64 7; packed or not."""
    values: list[Any] = []
    for number, value in fields(data or b""):
        if number in _REAL and isinstance(value, memoryview):
            dtype = np.dtype(_REAL[number])
            if len(value) % dtype.itemsize:
                raise GarbledError("an output's contents are cut short")
            values += np.frombuffer(value, dtype).tolist()
        elif number in _WHOLE:
            values += _numbers(value, _WHOLE[number])
    return values


def _numbers(value: int | memoryview, sign: int) -> list[int]:
    """The whole numbers of a field, packed or not; `sign` bits wide where negative ones are meant."""
    found = [value] if isinstance(value, int) else []
    if isinstance(value, memoryview):
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            found.append(number)
    return [number - (1 << 64) if sign and number >> 63 else number for number in found]
