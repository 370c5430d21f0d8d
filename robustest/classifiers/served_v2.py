"""The Open Inference Protocol (v2, KServe) over HTTP: what a model says of itself, and tensors as bytes or as JSON.

Sources: Open Inference Protocol, REST; Triton's binary tensor data extension: the JSON head of a body is followed by
the tensors' raw bytes, its length in the header `Inference-Header-Content-Length`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.served_http import HttpClient, Reply
from robustest.classifiers.served_settings import Address, ServerSettings
from robustest.classifiers.served_transport import (
    DTYPES,
    GarbledError,
    RefusedError,
    Signature,
    TransientError,
    answer_limit,
    request_id,
    short,
    tensor_of,
    tensor_of_list,
)
from robustest.errors import ModelError

_HEAD = "Inference-Header-Content-Length"
_PAGE = 1 << 20  # bytes of a page of metadata


def model_path(address: Address, settings: ServerSettings) -> str:
    """Path of the model's page."""
    prefix = settings.prefix.strip("/")
    path = f"/{prefix}/v2" if prefix else "/v2"
    path += f"/models/{quote(address.model, safe='')}"
    return path + (f"/versions/{quote(address.version, safe='')}" if address.version else "")


def metadata(client: HttpClient, address: Address, settings: ServerSettings) -> dict[str, Any]:
    """What the server says of the model."""
    page = parsed(client.get(model_path(address, settings), _PAGE).body)
    return page if isinstance(page, dict) else {}


def extensions(client: HttpClient, settings: ServerSettings) -> tuple[str, ...]:
    """The protocol's extensions that the server names; empty where it has no such page."""
    prefix = settings.prefix.strip("/")
    try:
        page = parsed(client.get(f"/{prefix}/v2" if prefix else "/v2", _PAGE).body)
    except (RefusedError, GarbledError):
        return ()
    named = page.get("extensions") if isinstance(page, dict) else None
    return tuple(str(name) for name in named) if isinstance(named, list) else ()


def parsed(body: bytes) -> Any:
    """JSON from a server.

    Raises:
        GarbledError: it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise GarbledError(f"the answer is no JSON: {short(repr(body[:80]))}") from None


def signature_of(page: Mapping[str, Any], settings: ServerSettings, *, source: str) -> Signature:
    """The signature from a page of metadata, with what the settings say in its place.

    Raises:
        ModelError: not one image in and one tensor out, and the settings do not say it.
    """
    inputs, outputs = (_tensors(page.get(name)) for name in ("inputs", "outputs"))
    chosen = _named(inputs, settings.input_name, f"{source}: input", "input_name")
    if chosen is None and settings.shape is None:
        raise ModelError(
            f"{source} does not say what input it takes. Say it in the [server] table or after # in the URL: "
            "input_name=NAME&shape=HEIGHTxWIDTHxCHANNELS, and layout and channels in the input spec."
        )
    output = _named(outputs, settings.output_name, f"{source}: output", "output_name", first=True)
    datatype = settings.datatype or (chosen or {}).get("datatype") or "FP32"
    shape = _axes((chosen or {}).get("shape"))
    if shape and len(shape) == 3:
        shape = (None, *shape)  # some servers leave the batch out
    if shape and len(shape) != 4:
        raise ModelError(
            f"{source} takes an input of shape {list(shape)}; an image classifier takes 4 axes, the batch first."
        )
    answered = _axes((output or {}).get("shape"))
    return Signature(
        input_name=settings.input_name or str((chosen or {}).get("name") or "input"),
        output_name=settings.output_name or (str(output["name"]) if output and output.get("name") else None),
        datatype=str(datatype),
        shape=shape or (None,) * 4,
        classes=answered[-1] if answered and len(answered) <= 2 else None,
    )


def _tensors(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _axes(value: Any) -> tuple[int | None, ...]:
    if not isinstance(value, list):
        return ()
    try:
        return tuple(int(side) if 0 < int(side) < 1 << 31 else None for side in value)
    except (TypeError, ValueError, OverflowError):
        return ()


def _named(
    tensors: list[dict[str, Any]], name: str | None, what: str, key: str, *, first: bool = False
) -> dict[str, Any] | None:
    if name is not None:
        found = [tensor for tensor in tensors if tensor.get("name") == name]
        if tensors and not found:
            names = ", ".join(short(str(tensor.get("name"))) for tensor in tensors)
            raise ModelError(f"{what} {name!r} is unknown to the server; it has {names}. Correct {key}.")
        return found[0] if found else None
    if len(tensors) > 1 and not first:
        names = ", ".join(short(str(tensor.get("name"))) for tensor in tensors)
        raise ModelError(f"{what} must be one image tensor; the server has {names}.")
    return tensors[0] if tensors else None


class V2Http:
    """Inference over HTTP.

    Args:
        client: of the server. path: of the model. binary: raw tensors, or else JSON.
    """

    def __init__(self, client: HttpClient, path: str, *, binary: bool) -> None:
        self._client, self._path, self._binary = client, f"{path}/infer", binary
        self._echoes = False

    @property
    def name(self) -> str:
        """`binary` or `json`."""
        return "binary" if self._binary else "json"

    def infer(self, batch: NDArray[Any], signature: Signature) -> NDArray[Any]:
        """The first output for a batch."""
        name = request_id()
        body, headers = self._encoded(batch, signature, name)
        reply = self._client.exchange("POST", self._path, body, headers, answer_limit(len(batch), signature))
        head, raw = _parts(reply)
        if head.get("error"):
            raise RefusedError(f"error {short(str(head['error']))}", 200)
        answered = head.get("id")
        if answered == name:
            self._echoes = True
        elif self._echoes:
            raise TransientError("the answer is another request's")
        return _output(head, raw, signature)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _encoded(self, batch: NDArray[Any], signature: Signature, name: str) -> tuple[bytes, dict[str, str]]:
        tensor: dict[str, Any] = {
            "name": signature.input_name,
            "shape": list(batch.shape),
            "datatype": signature.datatype,
        }
        request: dict[str, Any] = {"id": name, "inputs": [tensor]}
        asked = {"name": signature.output_name} if signature.output_name else None
        if not self._binary:
            rest = json.dumps({"id": name, "outputs": [asked]} if asked else {"id": name})
            body = f'{rest[:-1]}, "inputs": [{json.dumps(tensor)[:-1]}, "data": {numbers(batch)}}}]}}'
            return body.encode(), {"Content-Type": "application/json"}
        raw = np.ascontiguousarray(batch, batch.dtype.newbyteorder("<")).tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        if asked:
            request["outputs"] = [{**asked, "parameters": {"binary_data": True}}]
        else:
            request["parameters"] = {"binary_data_output": True}
        head = json.dumps(request).encode()
        return head + raw, {"Content-Type": "application/octet-stream", _HEAD: str(len(head))}


def _parts(reply: Reply) -> tuple[dict[str, Any], memoryview]:
    """The JSON head of an answer and the bytes after it."""
    length = reply.headers.get(_HEAD)
    size = len(reply.body)
    if length is not None:
        if not length.isascii() or not length.isdigit() or len(length) > 12 or int(length) > size:
            raise GarbledError(f"the header {_HEAD} is {short(repr(length))} for an answer of {size} bytes")
        size = int(length)
    head = parsed(reply.body[:size])
    if not isinstance(head, dict):
        raise GarbledError("the answer is no JSON object")
    return head, memoryview(reply.body)[size:]


def _output(head: Mapping[str, Any], raw: memoryview, signature: Signature) -> NDArray[Any]:
    outputs = head.get("outputs")
    start = 0
    for output in outputs if isinstance(outputs, list) else []:
        if not isinstance(output, dict):
            break
        parameters = output.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is not None and (not isinstance(size, int) or not 0 <= size <= len(raw) - start):
            raise GarbledError(f"an output claims {short(repr(size))} bytes of the {len(raw) - start} that came")
        if signature.output_name is None or output.get("name") == signature.output_name:
            if size is not None:
                return tensor_of(bytes(raw[start : start + size]), output.get("datatype"), output.get("shape"))
            return tensor_of_list(output.get("data"), output.get("datatype"), output.get("shape"))
        start += size or 0
    raise GarbledError(f"the answer has no output {signature.output_name or ''}".rstrip())


def numbers(batch: NDArray[Any]) -> str:
    """The values as a flat JSON list. Images have few different values, so each is written out once."""
    values, places = np.unique(batch.reshape(-1), return_inverse=True)
    texts = [repr(value) for value in values.tolist()]
    return f"[{','.join([texts[place] for place in places.tolist()])}]"


def as_input(batch: NDArray[np.float32], datatype: str) -> NDArray[Any]:
    """A prepared batch in the type that the model takes; whole numbers are rounded."""
    if datatype == "FP32":
        return batch
    if datatype == "UINT8":
        return np.rint(np.clip(batch, 0, 255)).astype(np.uint8)
    return batch.astype(DTYPES[datatype])
