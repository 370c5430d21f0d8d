"""A small reference server of the Open Inference Protocol over HTTP: binary tensors and JSON, on the standard library.

It is for trying things and for tests: one process, no batching across requests, no TLS, no login. It serves the model's
own input, as an inference server does: the client prepares images by the input spec.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from robustest import __version__
from robustest.classifiers.classifier import Classifier
from robustest.classifiers.loading import load_classifier
from robustest.classifiers.served_transport import DTYPES, GarbledError, tensor_of, tensor_of_list
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSetting, ModelError, RobustestError

MAX_REQUEST = 256 << 20  # bytes of a request
_TIMEOUT = 60.0  # seconds for a client to send its request
_HEAD = "Inference-Header-Content-Length"
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What is served.

    run: scores of a batch in the model's own layout. shape: of the input, -1 where free, the batch first.
    datatype: of the input. classes: how many scores an image, -1 if unknown. platform: what computes it.
    largest: images a request may have, None for any number.
    """

    name: str
    run: Callable[[NDArray[Any]], NDArray[Any]]
    shape: tuple[int, ...]
    datatype: str = "FP32"
    input_name: str = "input"
    output_name: str = "output"
    classes: int = -1
    platform: str = "robustest"
    largest: int | None = None

    def page(self) -> dict[str, Any]:
        """What the model says of itself."""
        return {
            "name": self.name,
            "versions": ["1"],
            "platform": self.platform,
            "inputs": [{"name": self.input_name, "datatype": self.datatype, "shape": list(self.shape)}],
            "outputs": [{"name": self.output_name, "datatype": "FP32", "shape": [-1, self.classes]}],
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):  # a client may leave when it likes
            super().handle_error(request, client_address)


class InferenceServer:
    """A server in threads of its own: `with InferenceServer(model) as server: ... server.url`.

    Args:
        model: what is served. host, port: where; port 0 for any that is free.
        handler: answers the requests; one of its own is for tests that need a faulty server.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self, model: ServedModel, host: str = "127.0.0.1", port: int = 0, handler: type[Handler] | None = None
    ) -> None:
        self.model = model
        bound = type("BoundHandler", (handler or Handler,), {"model": model})
        self._server = _Server((host, port), bound)
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """What `load_classifier` takes."""
        host = str(self._server.server_address[0])
        return f"v2+http://{f'[{host}]' if ':' in host else host}:{self.port}/{self.model.name}"

    def serve(self) -> None:
        """Serve until `close` is called from another thread, or an interrupt."""
        try:
            self._server.serve_forever(poll_interval=0.1)
        finally:
            self._server.server_close()

    def __enter__(self) -> InferenceServer:
        self._thread = threading.Thread(target=self.serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        if self._thread is not None:
            self._thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    model: ServedModel
    protocol_version = "HTTP/1.1"
    server_version = f"robustest/{__version__}"
    timeout = _TIMEOUT
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Health and metadata."""
        model = self.model
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/v2":
            page: dict[str, Any] = {"name": "robustest", "version": __version__, "extensions": ["binary_tensor_data"]}
            self.reply(200, page)
        elif path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{model.name}/ready"):
            self.reply(200, {"ready": True})
        elif self._model_path(path) == "":
            self.reply(200, model.page())
        else:
            self.reply(404, {"error": f"there is nothing at {path}; the model is {model.name}"})

    def do_POST(self) -> None:
        """Inference."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_REQUEST:
            self.close_connection = True
            self.reply(413, {"error": f"a request needs Content-Length of at most {MAX_REQUEST}"})
            return
        body = self.rfile.read(int(length))
        if self._model_path(self.path.partition("?")[0].rstrip("/")) != "/infer":
            self.reply(404, {"error": f"there is nothing at {self.path}"})
            return
        try:
            request, batch = self._request(body)
        except (GarbledError, ValueError, KeyError, TypeError, RecursionError) as error:
            self.reply(400, {"error": f"bad request: {error}"})
            return
        try:
            scores = np.ascontiguousarray(self.model.run(batch))
        except RobustestError as error:
            self.reply(500, {"error": str(error)})
            return
        self.answer(request, scores, binary=_binary_wanted(request))

    def answer(self, request: dict[str, Any], scores: NDArray[Any], *, binary: bool) -> None:
        """Send scores."""
        model = self.model
        output: dict[str, Any] = {
            "name": model.output_name,
            "datatype": _NAMES[scores.dtype],
            "shape": list(scores.shape),
        }
        page = {"model_name": model.name, "model_version": "1", "id": request.get("id", ""), "outputs": [output]}
        if not binary:
            output["data"] = scores.reshape(-1).tolist()
            self.reply(200, page)
            return
        raw = scores.astype(scores.dtype.newbyteorder("<")).tobytes()
        output["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps(page).encode()
        self.send(200, head + raw, {"Content-Type": "application/octet-stream", _HEAD: str(len(head))})

    def reply(self, status: int, page: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        """Send a page of JSON."""
        self.send(status, json.dumps(page).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send any answer."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _model_path(self, path: str) -> str | None:
        """What follows the model's own path, None where it is another."""
        for root in (f"/v2/models/{self.model.name}", f"/v2/models/{self.model.name}/versions/1"):
            rest = unquote(path).removeprefix(root)
            if unquote(path).startswith(root) and rest in ("", "/infer"):
                return rest
        return None

    def _request(self, body: bytes) -> tuple[dict[str, Any], NDArray[Any]]:
        """The request's head and its one tensor."""
        size = int(self.headers.get(_HEAD, len(body)))
        request = json.loads(body[:size])
        tensor = request["inputs"][0]
        model = self.model
        if tensor["datatype"] != model.datatype:
            raise ValueError(f"the input is {model.datatype}")
        raw = (tensor.get("parameters") or {}).get("binary_data_size")
        if raw is not None:
            batch = tensor_of(body[size : size + raw], tensor["datatype"], tensor["shape"])
        else:
            batch = tensor_of_list(tensor["data"], tensor["datatype"], tensor["shape"])
        wanted = model.shape
        if batch.ndim != len(wanted) or any(
            side not in (-1, got) for side, got in zip(wanted, batch.shape, strict=True)
        ):
            raise ValueError(f"the input's shape is {list(wanted)}; got {list(batch.shape)}")
        if model.largest is not None and len(batch) > model.largest:
            raise ValueError(f"a batch has at most {model.largest} images; got {len(batch)}")
        return request, batch


def _binary_wanted(request: dict[str, Any]) -> bool:
    outputs = request.get("outputs")
    if isinstance(outputs, list) and outputs:
        return any((output.get("parameters") or {}).get("binary_data", False) for output in outputs)
    return bool((request.get("parameters") or {}).get("binary_data_output", False))


def served_model(
    path_or_callable: Any,
    spec: InputSpec | str | Path | None = None,
    *,
    name: str = "model",
    threads: int | None = None,
    trust_model: str | None = None,
) -> ServedModel:
    """What to serve for a model that `load_classifier` takes.

    An ONNX file is served with its own input and type. Anything else takes NHWC float32 in [0, 1]: ask it with
    layout NHWC and scale 1/255.

    Args:
        name: that clients use. threads: of an ONNX model's own arithmetic. trust_model: see `load_classifier`.

    Raises:
        RobustestError: the model cannot be loaded. InvalidSetting: the name cannot stand in a URL.
    """
    if not name or "/" in name or not name.isprintable():
        raise InvalidSetting(f"name must be one word that can stand in a URL; got {name!r}.")
    classifier: Classifier = load_classifier(path_or_callable, spec, threads=threads, trust_model=trust_model)
    file = getattr(classifier, "path", None)
    if file is not None:
        return _onnx_model(file, name, classifier.info.classes, threads)
    height, width, channels = (-1 if side is None else side for side in classifier.info.image_shape)
    return ServedModel(
        name, classifier, (-1, height, width, channels), classes=classifier.info.classes or -1, platform="python"
    )


def _onnx_model(path: Path, name: str, classes: int | None, threads: int | None) -> ServedModel:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tensor, output = session.get_inputs()[0], session.get_outputs()[0]
    datatype = {"tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(uint8)": "UINT8"}[tensor.type]

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        try:
            return np.asarray(session.run([output.name], {tensor.name: batch})[0])
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            raise ModelError(f"{path.name} failed on an input of shape {batch.shape}: {error}") from error

    shape = tuple(side if isinstance(side, int) and side > 0 else -1 for side in tensor.shape)
    return ServedModel(name, run, shape, datatype, tensor.name, output.name, classes or -1, "onnxruntime")
