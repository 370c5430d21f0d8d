"""gRPC without stubs: the codec against Google's protobuf, and a server on loopback."""

from __future__ import annotations

import time
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustest.classifiers.served import open_served
from robustest.classifiers.served_protobuf import (
    fields,
    infer_request,
    metadata_request,
    read_answer,
    read_metadata,
    varint,
)
from robustest.classifiers.served_transport import GarbledError, Signature
from robustest.classifiers.spec import InputSpec
from robustest.errors import EnvironmentFailure, ModelError
from tests.classifiers.faulty import linear
from tests.classifiers.open_inference import MESSAGES, grpc_server, right_answer

QUICK = {"timeout": 1.5, "retries": 1, "patience": 20.0, "batch": 16}
SPEC = InputSpec("NHWC", "RGB")
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.float32) / np.float32(255)
RIGHT = linear(SPEC.prepare(IMAGES))
SIGNATURE = Signature("x", "y", "FP32", (None, 4, 4, 3), 3)


@given(st.integers(0, 2**64 - 1))
def test_numbers_in_base_128_come_back(value: int) -> None:
    assert list(fields(b"\x08" + varint(value))) == [(1, value)]


@given(
    model=st.text(max_size=20),
    version=st.text(max_size=5),
    name=st.text(max_size=20),
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
)
def test_protobuf_reads_our_requests_as_they_were_meant(model: str, version: str, name: str, shape: list[int]) -> None:
    batch = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    request = MESSAGES["ModelInferRequest"].FromString(infer_request(model, version, name, batch, SIGNATURE))
    assert (request.model_name, request.model_version, request.id) == (model, version, name)
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [("x", "FP32", shape)]
    assert [output.name for output in request.outputs] == ["y"]
    assert list(request.raw_input_contents) == [batch.tobytes()]
    about = MESSAGES["ModelMetadataRequest"].FromString(metadata_request(model, version))
    assert (about.name, about.version) == (model, version)


@pytest.mark.parametrize("typed", [False, True])
def test_answers_that_protobuf_wrote_are_read_raw_and_typed(typed: bool) -> None:
    request = MESSAGES["ModelInferRequest"].FromString(infer_request("m", "", "7", SPEC.prepare(IMAGES), SIGNATURE))
    name, scores = read_answer(right_answer(request, typed=typed), SIGNATURE)
    assert name == "7"
    assert (scores == RIGHT).all()


@pytest.mark.parametrize(
    ("datatype", "column", "values"),
    [
        ("INT64", "int64_contents", [-5, 2**62, 0, 1]),
        ("INT32", "int_contents", [-5, 7, 0, -(2**31)]),
        ("UINT64", "uint64_contents", [2**63 - 1, 1, 2, 3]),
        ("UINT8", "uint_contents", [255, 1, 2, 3]),
        ("FP64", "fp64_contents", [-0.1, 1e300, 2.0, 3.0]),
    ],
)
def test_typed_contents_of_every_kind_are_read(datatype: str, column: str, values: list[float]) -> None:
    reply = MESSAGES["ModelInferResponse"]()
    reply.outputs.add(name="other", datatype="FP32", shape=[1]).contents.fp32_contents.append(9.0)
    tensor = reply.outputs.add(name="y", datatype=datatype, shape=[2, 2])
    getattr(tensor.contents, column).extend(values)
    _, found = read_answer(reply.SerializeToString(), SIGNATURE)
    assert found.reshape(-1).tolist() == values


def test_metadata_that_protobuf_wrote_is_read() -> None:
    page = MESSAGES["ModelMetadataResponse"](name="m", versions=["1"], platform="p")
    page.inputs.add(name="x", datatype="FP32", shape=[-1, 3, 32, 32])
    page.outputs.add(name="y", datatype="FP32", shape=[-1, 10])
    assert read_metadata(page.SerializeToString()) == {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 32, 32]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
    }


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_read_or_refused(data: bytes) -> None:
    for read in (lambda: read_metadata(data), lambda: read_answer(data, SIGNATURE)):
        try:
            read()
        except GarbledError:
            continue


@given(st.data())
def test_a_message_with_bytes_changed_is_read_or_refused(data: st.DataObject) -> None:
    request = MESSAGES["ModelInferRequest"].FromString(infer_request("m", "", "7", SPEC.prepare(IMAGES), SIGNATURE))
    answer = bytearray(right_answer(request, typed=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 5))):
        answer[data.draw(st.integers(0, len(answer) - 1))] = data.draw(st.integers(0, 255))
    try:
        _, scores = read_answer(bytes(answer[: data.draw(st.integers(0, len(answer)))]), SIGNATURE)
    except GarbledError:
        return
    assert scores.size <= len(answer)


@pytest.mark.parametrize("data", [b"\x1a\x05abc", b"\x1a", b"\x1a" + b"\xff" * 11, b"\x0b", b"\x0d\x00\x00"])
def test_a_field_that_does_not_end_within_the_message_is_refused(data: bytes) -> None:
    with pytest.raises(GarbledError, match="no protobuf message"):
        list(fields(data))


def test_scores_over_grpc_are_the_models() -> None:
    with grpc_server() as (where, _):
        classifier = open_served(f"v2+grpc://{where}/m", SPEC, QUICK)
        assert classifier.transport == "grpc"
        assert classifier.info.image_shape == (4, 4, 3)
        assert classifier.info.classes == 3
        assert (classifier(IMAGES) == RIGHT).all()
        classifier.close()


def test_a_token_travels_as_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVED_TOKEN", "s3cr3t-value")

    def refuse(request: Any, context: Any) -> bytes:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, f"bad login {dict(context.invocation_metadata())}")
        raise AssertionError

    with grpc_server(refuse) as (where, seen):
        with pytest.raises(ModelError, match="UNAUTHENTICATED") as failure:
            open_served(f"v2+grpc://{where}/m#token_env=SERVED_TOKEN", SPEC, QUICK)
        assert seen[0]["authorization"] == "Bearer s3cr3t-value"
        assert "s3cr3t" not in str(failure.value)


def hang(request: Any, context: Any) -> bytes:
    time.sleep(4.0)
    return right_answer(request)


def busy(request: Any, context: Any) -> bytes:
    context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
    raise AssertionError


@pytest.mark.parametrize(
    ("infer", "kind", "words"),
    [
        (hang, EnvironmentFailure, "within 1.5 s"),
        (busy, EnvironmentFailure, "UNAVAILABLE: busy"),
        (lambda request, context: b"\xff" * 50, ModelError, "no protobuf message"),
        (lambda request, context: b"", ModelError, "no output y"),
        (lambda request, context: right_answer(request, name="another"), EnvironmentFailure, "another request's"),
    ],
)
def test_faults_over_grpc_are_clear_errors_in_bounded_time(infer: Any, kind: type[Exception], words: str) -> None:
    with grpc_server(infer) as (where, _):
        started = time.monotonic()
        with pytest.raises(kind, match=words):
            open_served(f"v2+grpc://{where}/m", SPEC, QUICK)
        assert time.monotonic() - started < 20


def test_a_fault_that_passes_is_retried_over_grpc() -> None:
    calls: list[int] = []

    def once(request: Any, context: Any) -> bytes:
        calls.append(1)
        return busy(request, context) if len(calls) == 1 else right_answer(request)

    with grpc_server(once) as (where, _):
        classifier = open_served(f"v2+grpc://{where}/m", SPEC, QUICK)
        assert (classifier(IMAGES) == RIGHT).all()
        assert classifier.counts.retried == 4


def test_a_batch_that_the_server_refuses_is_halved_over_grpc() -> None:
    def small(request: Any, context: Any) -> bytes:
        if request.inputs[0].shape[0] > 2:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "batch-size must be <= 2")
        return right_answer(request)

    with grpc_server(small) as (where, _):
        assert (open_served(f"v2+grpc://{where}/m", SPEC, QUICK)(IMAGES) == RIGHT).all()


def test_a_model_or_a_server_that_is_not_there_is_named() -> None:
    with grpc_server() as (where, _), pytest.raises(EnvironmentFailure, match="does not show a model 'other'"):
        open_served(f"v2+grpc://{where}/other", SPEC, QUICK)
    with pytest.raises(EnvironmentFailure, match="cannot be asked"):
        open_served("v2+grpc://127.0.0.1:9/m", SPEC, QUICK)
