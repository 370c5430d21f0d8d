"""The digest of an ONNX model: of its file, and of the files beside it that hold its weights, where there are any.

Exporters put weights into such files (`model.onnx.data`), and the model's own file then stays the same, to the byte, when the
model is trained anew. Read by hand, as `onnx` is no dependency of an audit; field numbers are those of `onnx.proto`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from robustest.classifiers.served_protobuf import fields
from robustest.classifiers.served_transport import GarbledError
from robustest.errors import ModelError

# Of each message the fields that lead to tensors: the number, and the message that stands there.
_PATHS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
_BLOCK = 1 << 20


def model_digest(path: Path, content: bytes | None = None) -> str:
    """sha256 of a file followed by those that hold its weights, in the order of their names: what
    `cat model.onnx weights.data | sha256sum` gives.

    Args:
        path: of the ONNX file. content: its bytes, where they are read already.

    Raises:
        ModelError: a file of weights is missing, or lies outside the model's folder.
    """
    content = path.read_bytes() if content is None else content
    whole = hashlib.sha256(content)
    try:
        names = sorted(set(_locations(memoryview(content), "model")))
    except GarbledError:
        names = []  # no ONNX file; whoever loads it says so
    folder = path.resolve().parent
    for name in names:
        file = (folder / name).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            raise ModelError(
                f"model {path.name} has weights in {name!r}; that must be a file in the model's own folder."
            )
        with file.open("rb") as handle:
            while block := handle.read(_BLOCK):
                whole.update(block)
    return whole.hexdigest()


def _locations(data: memoryview, message: str) -> Iterator[str]:
    """Names of the files that tensors in a message are kept in."""
    for number, value in fields(data):
        inner = _PATHS[message].get(number)
        if inner is None or not isinstance(value, memoryview):
            continue
        if inner != "external":
            yield from _locations(value, inner)
            continue
        entry = {
            at: bytes(text).decode("utf-8", "replace") for at, text in fields(value) if isinstance(text, memoryview)
        }
        if entry.get(1) == "location":
            yield entry.get(2, "")
