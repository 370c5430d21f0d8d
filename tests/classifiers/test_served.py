"""Served models: what the URL says, which transport is taken, what is counted, what is kept secret."""

from __future__ import annotations

import json
import pickle
import shutil
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from robustest.attack.find import find_adversarials
from robustest.classifiers import InputSpec, load_classifier
from robustest.classifiers.batching import choose_batch
from robustest.classifiers.served import SlowTransportWarning, open_served
from robustest.classifiers.served_settings import read_address, with_settings
from robustest.classifiers.served_v2 import numbers
from robustest.errors import EnvironmentFailure, InvalidSetting, InvalidSpec, ModelError
from robustest.results import Edits
from robustest.serving import Handler, InferenceServer, ServedModel, served_model
from tests.classifiers.faulty import FaultyServer, linear, small_model
from tests.classifiers.open_inference import grpc_server
from tests.models import write_linear_onnx

QUICK: dict[str, Any] = {"timeout": 60.0, "retries": 1, "patience": 60.0, "batch": 16}
SPEC = InputSpec("NHWC", "RGB")
IMAGES = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3)).astype(np.float32) / np.float32(255)
RIGHT = linear(SPEC.prepare(IMAGES))


def test_a_url_is_taken_apart_and_put_together_again() -> None:
    for url in (
        "v2+http://host:8000/model",
        "v2+https://host:443/model/7",
        "v2+grpc://[::1]:8001/a%20b",
        "http+json://host:80/predict?version=2",
        "v2+http://h:1/m#timeout=5.0&batch=3&shape=4x5x3&header.X-Route=blue&token_env=T",
    ):
        assert with_settings(*read_address(url)) == url
    address, settings = read_address("v2+http://h/m#timeout=5&retries=2", {"timeout": 9, "rate": 100})
    assert (address.port, settings.timeout, settings.retries, settings.rate) == (8000, 5.0, 2, 100.0)
    assert read_address("v2+https://h/m/2")[0].source == "v2+https://h:443/m/2"


@pytest.mark.parametrize(
    ("url", "table", "words"),
    [
        ("v2+http://host:8000/", {}, "model's name"),
        ("v2+http://host:8000/a/b/c", {}, "model's name"),
        ("v2+http://host:99999/m", {}, "Port out of range"),
        ("v2+http://user:hunter2@host/m", {}, "no user name or password"),
        ("http+json://host/p?api_key=hunter2", {}, "'api_key'"),
        ("v2+http://host/m#timeot=3", {}, "'timeot' is unknown"),
        ("v2+http://host/m#timeout=soon", {}, "timeout must be a number"),
        ("v2+http://host/m#timeout=0", {}, "timeout must be > 0"),
        ("v2+http://host/m#concurrent=0", {}, "concurrent must be 1 to"),
        ("v2+http://host/m#nonsense", {}, "#name=value"),
        ("v2+http://host/m", {"headers": {"Authorization": "Bearer hunter2"}}, "looks secret"),
        ("v2+http://host/m", {"headers": {"X Y": "a"}}, "no header's name"),
        ("v2+http://host/m", {"shape": [1, 2]}, "shape must be HEIGHTxWIDTHxCHANNELS"),
        ("v2+http://host/m", {"batch": True}, "batch must be a whole number"),
        ("v2+http://host/m", {"token_env": "A", "token_file": "b"}, "not both"),
        ("v2+http://host/m", {"transport": "carrier pigeon"}, "binary, grpc or json"),
    ],
)
def test_a_url_or_table_that_cannot_be_meant_is_refused_and_no_secret_repeated(
    url: str, table: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidSetting, match=words) as failure:
        read_address(url, table)
    assert "hunter2" not in str(failure.value)


def test_a_toml_file_says_input_and_server(tmp_path: Path) -> None:
    file = tmp_path / "model.toml"
    file.write_text('[input]\nlayout = "NHWC"\nscale = 1\n[server]\nbatch = 2\ntimeout = 3\n')
    with FaultyServer() as server:
        classifier = load_classifier(server.url, file)
        assert classifier.info.spec.scale == 1
        assert classifier.reference == f"{server.url}#timeout=3.0&batch=2"  # type: ignore[attr-defined]
        file.write_text("[server]\nbatch = 2\n")
        assert load_classifier(server.url, file).info.guessed[0].startswith("layout NHWC")
        file.write_text("server = 3\n")
        with pytest.raises(InvalidSpec, match=r"\[server\] must be a table"):
            load_classifier(server.url, file)
        file.write_text('[server]\nlayout = "NHWC"\n')
        with pytest.raises(InvalidSetting, match="'layout' is unknown"):
            load_classifier(server.url, file)


def test_scores_are_those_of_the_file_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    path = write_linear_onnx(
        tmp_path / "m.onnx", rng.normal(size=(48, 5)), rng.normal(size=5), shape=("n", 3, 4, 4), softmax=True
    )
    spec = InputSpec("NCHW", "BGR", 1 / 128, mean=(1.0, 0.9, 0.8), output="probabilities")
    local = load_classifier(path, spec, threads=1)
    with InferenceServer(served_model(path, threads=1)) as server:
        for url in (server.url, f"{server.url}/1"):
            served = load_classifier(f"{url}#batch=4", spec)
            assert (served(IMAGES) == local(IMAGES)).all()
            assert (served.info.image_shape, served.info.classes) == ((4, 4, 3), 5)
        guessed = load_classifier(server.url).info
    assert (guessed.spec.layout, guessed.output) == ("NCHW", "probabilities")


@pytest.mark.parametrize("pad", [False, True])
def test_a_canvas_draws_what_the_call_scores_and_pads_every_request(pad: bool) -> None:
    sizes: list[int] = []

    def run(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        sizes.append(len(batch))
        return linear(batch)

    with InferenceServer(small_model(run=run)) as server:
        classifier = open_served(server.url, SPEC, QUICK)
        canvas = classifier.canvas((4, 4, 3), slots=2, rows=3, pad=pad)
        canvas.place(0, IMAGES[0])
        canvas.place(1, IMAGES[1])
        edits = Edits.of([{0: (1.0, 0.0, 1.0)}, {}, {5: (0.0, 0.0, 0.0), 15: (1.0, 1.0, 1.0)}, {3: (0, 1, 0)}], 3)
        slots = np.array([0, 1, 1, 0])
        sizes.clear()
        scores = canvas.score(slots, edits)
        drawn = np.concatenate([edits.one(i).apply(IMAGES[slot]) for i, slot in enumerate(slots)])
        assert (scores == linear(SPEC.prepare(drawn))).all()
        assert set(sizes) == ({3} if pad else {2})


def json_alone(**changes: Any) -> type[Handler]:
    """A server that takes no binary tensors: it answers 500, or with wrong scores."""

    class JsonAlone(Handler):
        def answer(self, request: dict[str, Any], scores: np.ndarray[Any, Any], *, binary: bool) -> None:
            if binary and "status" in changes:
                self.reply(changes["status"], {"error": "no binary"})
            else:
                super().answer(request, scores + np.float32(changes.get("shift", 0)) * binary, binary=binary)

    return JsonAlone


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"status": 500}, "no binary"), ({"status": 400}, "no binary"), ({"shift": 1e-3}, "differ from JSON's")],
)
def test_binary_tensors_are_probed_not_trusted(changes: dict[str, Any], word: str) -> None:
    model = small_model(input_name="x", output_name="y")
    with InferenceServer(model, handler=json_alone(**changes)) as server:
        with pytest.warns(SlowTransportWarning, match=r"asked in JSON, \d+ images/s measured"):
            classifier = open_served(server.url, SPEC, QUICK)
        assert classifier.transport == "json"
        assert any(word in note for note in classifier.notes)
        assert (classifier(IMAGES) == RIGHT).all()
        with grpc_server() as (where, _):
            faster = open_served(f"{server.url}#grpc={where}", SPEC, QUICK)
            assert faster.transport == "grpc"
            assert (faster(IMAGES) == RIGHT).all()


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=1, max_dims=4),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    )
)
def test_numbers_in_json_come_back_to_the_last_bit(batch: np.ndarray[Any, Any]) -> None:
    assert (np.asarray(json.loads(numbers(batch)), np.float32) == batch.reshape(-1)).all()


def test_a_rounding_of_the_last_decimal_is_agreement() -> None:
    with InferenceServer(small_model(), handler=json_alone(shift=1e-7)) as server:
        assert open_served(server.url, SPEC, QUICK).transport == "binary"


def test_a_server_without_metadata_needs_the_input_said() -> None:
    class Silent(Handler):
        def reply(self, status: int, page: dict[str, Any], headers: dict[str, str] | None = None) -> None:
            super().reply(status, {**page, "inputs": [], "outputs": []} if "platform" in page else page, headers)

    with InferenceServer(small_model(), handler=Silent) as server:
        with pytest.raises(ModelError, match="does not say what input it takes"):
            open_served(server.url, SPEC, QUICK)
        said = open_served(f"{server.url}#input_name=input&shape=4x4x3", SPEC, QUICK)
        assert said.info.image_shape == (4, 4, 3)
        assert (said(IMAGES) == RIGHT).all()


@pytest.mark.parametrize(
    ("model", "kind", "word"),
    [
        (small_model(shape=(-1, 48)), ModelError, "4 axes"),
        (small_model(shape=(-1, 4, 4, 5)), InvalidSpec, "channels"),
        (small_model(datatype="INT64"), ModelError, "takes INT64"),
        (small_model(run=lambda batch: np.repeat(linear(batch)[:, :, None], 2, axis=2)), ModelError, "K >= 2"),
        (small_model(run=lambda batch: linear(batch) * np.nan), ModelError, "NaN"),
    ],
)
def test_a_model_that_is_no_image_classifier_is_refused(model: ServedModel, kind: type[Exception], word: str) -> None:
    with InferenceServer(model) as server, pytest.raises(kind, match=word):
        open_served(server.url, SPEC, QUICK)


@pytest.mark.parametrize(("datatype", "dtype"), [("FP64", np.float64), ("FP16", np.float16), ("UINT8", np.uint8)])
def test_inputs_of_other_types_are_converted(datatype: str, dtype: type) -> None:
    kinds: list[Any] = []

    def run(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        kinds.append(batch.dtype)
        return linear(batch)

    spec = InputSpec("NHWC", "RGB", scale=1.0)
    with InferenceServer(small_model(datatype=datatype, run=run)) as server:
        scores = open_served(server.url, spec, QUICK)(IMAGES)
    assert set(kinds) == {np.dtype(dtype)}
    assert (scores == linear(spec.prepare(IMAGES))).all()  # whole numbers to 255: exact in every type


def test_a_fixed_batch_is_filled_up_and_a_label_is_an_output() -> None:
    def label(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return linear(batch).argmax(axis=1)[:, None]

    with InferenceServer(small_model(shape=(4, 4, 4, 3), run=label, classes=1)) as server:
        classifier = open_served(server.url, InputSpec("NHWC", "RGB", output="label"), QUICK)
        assert classifier.info.fixed_batch == 4
        assert classifier.info.classes is None
        assert (classifier(IMAGES) == RIGHT.argmax(axis=1)).all()


def test_no_more_requests_than_allowed_are_in_flight_and_several_are() -> None:
    lock, state = threading.Lock(), {"now": 0, "most": 0}

    def run(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with lock:
            state["now"] += 1
            state["most"] = max(state["most"], state["now"])
        time.sleep(0.02)
        with lock:
            state["now"] -= 1
        return linear(batch)

    with InferenceServer(small_model(run=run)) as server:
        classifier = open_served(server.url, SPEC, {**QUICK, "batch": 1, "concurrent": 3})
        assert (classifier(IMAGES) == RIGHT).all()
        with ThreadPoolExecutor(8) as callers:  # each call alone is one request
            assert all((scores == RIGHT[:1]).all() for scores in callers.map(classifier, [IMAGES[:1]] * 16))
    assert state["most"] == 3


def test_the_rate_limit_is_kept() -> None:
    with InferenceServer(small_model()) as server:
        classifier = open_served(server.url, SPEC, {**QUICK, "rate": 100, "batch": 2})
        before, started = classifier.counts.sent, time.monotonic()
        for _ in range(5):
            classifier(IMAGES)
        sent = classifier.counts.sent - before
        assert time.monotonic() - started >= (sent - 4) / 100


def test_the_batch_is_measured_and_the_servers_limit_found() -> None:
    with InferenceServer(small_model(largest=11)) as server:
        classifier = open_served(server.url, SPEC, {"timeout": 60.0, "concurrent": 2})
        assert classifier.info.largest_batch is not None
        assert classifier.info.largest_batch <= 22
        many = np.concatenate([IMAGES] * 5)
        assert (classifier(many) == linear(SPEC.prepare(many))).all()
        assert not choose_batch(classifier, IMAGES).pad


def test_a_token_is_sent_and_stays_out_of_errors_pickles_and_references(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVED_TOKEN", "s3cr3t-one")
    (tmp_path / "token").write_text("s3cr3t-two\n")
    for key, source, value in (
        ("token_env", "SERVED_TOKEN", "s3cr3t-one"),
        ("token_file", str(tmp_path / "token"), "s3cr3t-two"),
    ):
        with FaultyServer() as server:
            server.begin(lambda place: None)
            classifier = open_served(server.url, SPEC, {**QUICK, key: source, "headers": {"X-Key": "env:SERVED_TOKEN"}})
            assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {value}"}
            assert {headers["X-Key"] for headers in server.headers} == {"s3cr3t-one"}
            shown = [
                classifier.reference,
                repr(classifier.info),
                repr(classifier.__dict__),
                repr(pickle.dumps(classifier)),
            ]
            server.begin(lambda place: "echo")
            with pytest.raises(ModelError, match="400") as failure:
                classifier(IMAGES[:1])
            shown += [str(failure.value), *capfd.readouterr()]
            assert "s3cr3t" not in " ".join(shown)
            assert "***" in str(failure.value)


@pytest.mark.parametrize("value", ["", "two\nlines", "tschüß"])
def test_a_token_that_cannot_be_a_header_is_refused_unseen(tmp_path: Path, value: str) -> None:
    (tmp_path / "token").write_text(value, encoding="utf-8")
    with pytest.raises(InvalidSetting, match="one line of printable ASCII") as failure:
        open_served("v2+http://127.0.0.1:9/m", SPEC, {"token_file": str(tmp_path / "token")})
    assert not value or value not in str(failure.value)
    with pytest.raises(InvalidSetting, match="'NOT_SET_ANYWHERE' is not set"):
        open_served("v2+http://127.0.0.1:9/m", SPEC, {"token_env": "NOT_SET_ANYWHERE"})


def test_a_pickled_classifier_opens_the_same_model_again() -> None:
    with InferenceServer(small_model()) as server:
        classifier = open_served(server.url, SPEC, QUICK)
        again = pickle.loads(pickle.dumps(classifier))
        assert again.reference == classifier.reference
        assert (again(IMAGES) == RIGHT).all()


def test_a_proxy_is_used_where_it_is_set_and_never_for_this_machine_by_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FaultyServer() as server:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert (open_served(server.url, SPEC, QUICK)(IMAGES) == RIGHT).all()
        with pytest.raises(EnvironmentFailure, match="cannot be asked"):
            open_served(f"{server.url}#proxy=http://127.0.0.1:9", SPEC, QUICK)
        server.begin(lambda place: None)
        through = f"v2+http://nowhere.invalid:80/m#proxy=http://127.0.0.1:{server.port}"
        with pytest.raises(
            EnvironmentFailure, match="does not show a model"
        ):  # the proxy got the whole URL as its path
            open_served(through, SPEC, QUICK)
        with pytest.raises(InvalidSetting, match="proxy must be"):
            open_served(f"{server.url}#proxy=ftp://127.0.0.1:9", SPEC, QUICK)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the command openssl, which is not here")
    folder = tmp_path_factory.mktemp("tls")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_tls_is_checked_against_the_given_certificates(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    server = InferenceServer(small_model())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)
    with server:
        url = f"v2+https://localhost:{server.port}/m"
        trusted = open_served(url, SPEC, {**QUICK, "ca_file": str(certificate[0])})
        assert (trusted(IMAGES) == RIGHT).all()
        trusted.close()
        with pytest.raises(EnvironmentFailure, match=r"TLS|certificate"):
            open_served(url, SPEC, QUICK)
        (tmp_path / "none.pem").write_text("no certificate")
        for file, words in ((tmp_path / "none.pem", "no certificates in PEM"), (tmp_path / "gone.pem", "No such file")):
            with pytest.raises(InvalidSetting, match=words):
                open_served(url, SPEC, {**QUICK, "ca_file": str(file)})


def test_an_attack_counts_the_same_queries_as_the_server() -> None:
    with InferenceServer(small_model()) as server:
        classifier = open_served(server.url, SPEC, QUICK)
        before = classifier.counts
        labels = RIGHT.argmax(axis=1)
        results = find_adversarials(classifier, IMAGES, labels, queries=50)
        asked = sum(result.queries + result.checks for result in results)
        after = classifier.counts
    alone = find_adversarials(lambda images: linear(SPEC.prepare(images)), IMAGES, labels, queries=50)
    assert [result.verdict for result in results] == [result.verdict for result in alone]
    assert after.sent == after.answered
    assert after.answered - before.answered - after.repeated >= asked
