"""The Open Inference Protocol's gRPC service by Google's own protobuf: a second opinion on the codec, and a server to test with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.classifiers.faulty import linear

_TEXT, _INT64, _BYTES, _MESSAGE, _FLOAT, _DOUBLE, _INT32, _UINT32, _UINT64, _BOOL = 9, 3, 12, 11, 2, 1, 5, 13, 4, 8
_MESSAGES: dict[str, list[tuple[str, int, int, bool, str]]] = {
    "ModelMetadataRequest": [("name", 1, _TEXT, False, ""), ("version", 2, _TEXT, False, "")],
    "TensorMetadata": [
        ("name", 1, _TEXT, False, ""),
        ("datatype", 2, _TEXT, False, ""),
        ("shape", 3, _INT64, True, ""),
    ],
    "ModelMetadataResponse": [
        ("name", 1, _TEXT, False, ""),
        ("versions", 2, _TEXT, True, ""),
        ("platform", 3, _TEXT, False, ""),
        ("inputs", 4, _MESSAGE, True, "TensorMetadata"),
        ("outputs", 5, _MESSAGE, True, "TensorMetadata"),
    ],
    "InferTensorContents": [
        ("bool_contents", 1, _BOOL, True, ""),
        ("int_contents", 2, _INT32, True, ""),
        ("int64_contents", 3, _INT64, True, ""),
        ("uint_contents", 4, _UINT32, True, ""),
        ("uint64_contents", 5, _UINT64, True, ""),
        ("fp32_contents", 6, _FLOAT, True, ""),
        ("fp64_contents", 7, _DOUBLE, True, ""),
        ("bytes_contents", 8, _BYTES, True, ""),
    ],
    "InferTensor": [
        ("name", 1, _TEXT, False, ""),
        ("datatype", 2, _TEXT, False, ""),
        ("shape", 3, _INT64, True, ""),
        ("contents", 5, _MESSAGE, False, "InferTensorContents"),
    ],
    "RequestedOutput": [("name", 1, _TEXT, False, "")],
    "ModelInferRequest": [
        ("model_name", 1, _TEXT, False, ""),
        ("model_version", 2, _TEXT, False, ""),
        ("id", 3, _TEXT, False, ""),
        ("inputs", 5, _MESSAGE, True, "InferTensor"),
        ("outputs", 6, _MESSAGE, True, "RequestedOutput"),
        ("raw_input_contents", 7, _BYTES, True, ""),
    ],
    "ModelInferResponse": [
        ("model_name", 1, _TEXT, False, ""),
        ("model_version", 2, _TEXT, False, ""),
        ("id", 3, _TEXT, False, ""),
        ("outputs", 5, _MESSAGE, True, "InferTensor"),
        ("raw_output_contents", 6, _BYTES, True, ""),
    ],
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="oip_test.proto", package="oip_test", syntax="proto3")
    for name, columns in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated, of in columns:
            message.field.add(
                name=field,
                number=number,
                type=kind,
                label=3 if repeated else 1,
                type_name=f".oip_test.{of}" if of else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"oip_test.{name}")) for name in _MESSAGES}


MESSAGES = _classes()


@contextmanager
def grpc_server(
    infer: Callable[[Any, Any], bytes] | None = None, *, credentials: Any = None, shape: tuple[int, ...] = (-1, 4, 4, 3)
) -> Iterator[tuple[str, list[Any]]]:
    """A server of the linear model; yields HOST:PORT and the requests' metadata.

    Args:
        infer: answers a parsed request in place of the model; gets the context too.
    """
    seen: list[Any] = []

    def about(data: bytes, context: Any) -> bytes:
        if MESSAGES["ModelMetadataRequest"].FromString(data).name != "m":
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        page = MESSAGES["ModelMetadataResponse"](name="m")
        page.inputs.add(name="x", datatype="FP32", shape=shape)
        page.outputs.add(name="y", datatype="FP32", shape=[-1, 3])
        return bytes(page.SerializeToString())

    def answer(data: bytes, context: Any) -> bytes:
        seen.append(dict(context.invocation_metadata()))
        request = MESSAGES["ModelInferRequest"].FromString(data)
        return (infer or right_answer)(request, context)

    rows = {"ModelInfer": answer, "ModelMetadata": about}
    handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in rows.items()}
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("localhost:0", credentials)
    server.start()
    try:
        yield f"{'127.0.0.1' if credentials is None else 'localhost'}:{port}", seen
    finally:
        server.stop(None).wait()


def scores_of(request: Any) -> np.ndarray[Any, Any]:
    """What the linear model scores for a parsed request."""
    (tensor,) = request.inputs
    batch = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tuple(tensor.shape))
    return linear(batch)


def right_answer(request: Any, context: Any = None, *, typed: bool = False, name: str | None = None) -> bytes:
    """The right answer, as raw bytes or as typed contents."""
    scores = scores_of(request)
    reply = MESSAGES["ModelInferResponse"](model_name="m", id=request.id if name is None else name)
    tensor = reply.outputs.add(name="y", datatype="FP32", shape=list(scores.shape))
    if typed:
        tensor.contents.fp32_contents.extend(scores.reshape(-1).tolist())
    else:
        reply.raw_output_contents.append(scores.astype("<f4").tobytes())
    return bytes(reply.SerializeToString())
