"""Real inference servers from PyPI, each in a virtual environment of its own: Triton (nvidia-pytriton) and MLServer.

`with running("triton", onnx_file, name="plain") as server: load_classifier(server.http, spec)`. No docker, CPU only.
The first call installs a server (Triton: 120 MB to download), which takes minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

# pytriton 0.7 is compiled against numpy 1. onnxruntime is pinned to the version in use here, so that both sides compute alike.
PACKAGES = {
    "triton": ("nvidia-pytriton==0.7.0", "numpy<2"),
    "mlserver": ("mlserver==1.7.1",),
}
_READY = 120.0  # seconds for a server to start

_TRITON = """
import sys
import numpy as np, onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
path, name, http, grpc, metrics, largest = sys.argv[1:7]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
one, out = session.get_inputs()[0], session.get_outputs()[0]

@batch
def infer(**inputs):
    return [session.run([out.name], {one.name: inputs[one.name]})[0]]

config = TritonConfig(http_address="127.0.0.1", grpc_address="127.0.0.1", metrics_address="127.0.0.1", http_port=int(http),
                      grpc_port=int(grpc), metrics_port=int(metrics))
with Triton(config=config) as triton:
    triton.bind(model_name=name, infer_func=infer,
                inputs=[Tensor(name=one.name, dtype=np.float32, shape=tuple(one.shape[1:]))],
                outputs=[Tensor(name=out.name, dtype=np.float32, shape=tuple(out.shape[1:]))],
                config=ModelConfig(max_batch_size=int(largest)))
    triton.serve()
"""

_MLSERVER = """
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class OnnxModel(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        self.one, self.out = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        return True

    async def predict(self, payload):
        batch = NumpyCodec.decode_input(payload.inputs[0])
        scores = self.session.run([self.out], {self.one: batch})[0]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output(self.out, scores)])
"""


class NotToBeHad(Exception):
    """The server cannot be installed or started here; the message says why."""


@dataclass(frozen=True)
class Server:
    """A server that runs, with its URLs for `load_classifier`; `process` is the one that was started."""

    kind: str
    version: str
    http: str
    grpc: str
    process: subprocess.Popen[bytes]


def environment(kind: str, folder: Path) -> Path:
    """The server's own Python, installed if it is not there.

    Args:
        kind: a key of PACKAGES. folder: where the virtual environments are kept.

    Raises:
        NotToBeHad: it cannot be installed.
    """
    home = folder / kind
    python = home / "bin" / "python"
    if (home / "ready").is_file():
        return python
    shutil.rmtree(home, ignore_errors=True)
    import onnxruntime

    for command in (
        [sys.executable, "-m", "venv", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", *PACKAGES[kind], f"onnxruntime=={onnxruntime.__version__}"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise NotToBeHad(f"{kind} cannot be installed: {last}")
    (home / "ready").touch()
    return python


@contextmanager
def running(kind: str, model: Path, *, folder: Path, name: str = "model", largest: int = 256) -> Iterator[Server]:
    """Start a server for an ONNX model and stop it in the end.

    Args:
        model: ONNX file with one float input of which only the batch is free. folder: of the virtual environments.
        name: of the model. largest: images a request, where the server has such a limit.

    Raises:
        NotToBeHad: it cannot be installed, or does not start.
    """
    python = environment(kind, folder)
    ports = _free_ports(3)
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "log").open("wb") as log:
        work = Path(scratch)
        command = _command(kind, python, work, model.resolve(), name, ports, largest)
        # Triton's Python backend loads libpython by name and would find the system's, another build of it.
        library = os.pathsep.join(filter(None, [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]))
        process = subprocess.Popen(
            command, cwd=work, stdout=log, stderr=log, env={**os.environ, "LD_LIBRARY_PATH": library}
        )
        try:
            root = f"http://127.0.0.1:{ports[0]}"
            _wait(process, f"{root}/v2/models/{name}/ready", work / "log", kind)
            with urllib.request.urlopen(f"{root}/v2", timeout=10) as page:
                version = json.load(page)["version"]
            yield Server(
                kind,
                version,
                f"v2+http://127.0.0.1:{ports[0]}/{name}",
                f"v2+grpc://127.0.0.1:{ports[1]}/{name}",
                process,
            )
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _command(kind: str, python: Path, work: Path, model: Path, name: str, ports: list[int], largest: int) -> list[str]:
    if kind == "triton":
        (work / "serve.py").write_text(_TRITON)
        return [str(python), "serve.py", str(model), name, *map(str, ports), str(largest)]
    (work / "runtime.py").write_text(_MLSERVER)
    graph = onnx.load(str(model)).graph
    settings = {
        "host": "127.0.0.1",
        "http_port": ports[0],
        "grpc_port": ports[1],
        "metrics_port": ports[2],
        "parallel_workers": 0,
        "grpc_max_message_length": 1 << 28,
    }
    tensors = {
        side: [{"name": value.name, "datatype": "FP32", "shape": _axes(value)} for value in values]
        for side, values in (("inputs", graph.input), ("outputs", graph.output))
    }
    about = {"name": name, "implementation": "runtime.OnnxModel", "parameters": {"uri": str(model)}, **tensors}
    (work / "settings.json").write_text(json.dumps(settings))
    (work / "model-settings.json").write_text(json.dumps(about))
    return [str(python.with_name("mlserver")), "start", "."]


def _axes(value: onnx.ValueInfoProto) -> list[int]:
    return [axis.dim_value or -1 for axis in value.type.tensor_type.shape.dim]


def _wait(process: subprocess.Popen[bytes], page: str, log: Path, kind: str) -> None:
    began = time.monotonic()
    while time.monotonic() - began < _READY:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(page, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    last = log.read_text(errors="replace").strip().splitlines()[-3:]
    raise NotToBeHad(f"{kind} does not start: {' / '.join(last)}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
