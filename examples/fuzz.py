"""Fuzz what robustest reads, for as long as you like: pictures, archives, lists, specs, ONNX files, server answers.

    python examples/fuzz.py --seconds 60 --out fuzz-findings

Each target runs in a process of its own whose memory is limited, with an alarm for every input. Anything but a value or a
`RobustestError` is a finding: the input is kept in the folder. With `--engine atheris` (Linux, `pip install atheris`) the
inputs are guided by coverage; otherwise good files are damaged at random.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np

from robustest.classifiers import load_classifier
from robustest.classifiers.served_http import Reply
from robustest.classifiers.served_protobuf import read_answer, read_metadata
from robustest.classifiers.served_settings import ServerSettings
from robustest.classifiers.served_transport import GarbledError, RefusedError, Signature, TransientError
from robustest.classifiers.served_v2 import V2Http, parsed, signature_of
from robustest.classifiers.spec import read_spec
from robustest.errors import RobustestError
from robustest.images import load_images, load_picture

MEMORY = 4 << 30  # bytes of address space of a target's process
ALARM = 10  # seconds for one input
EXPECTED = (RobustestError, GarbledError, RefusedError, TransientError)
SIGNATURE = Signature("x", None, "FP32", (None, 2, 2, 3), None)


class _Canned:
    """A client that answers every request alike."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    def exchange(self, *_: Any) -> Reply:
        return self.reply


def picture(path: Path, data: bytes) -> None:
    """A picture file."""
    path.write_bytes(data)
    load_picture(path)


def archive(path: Path, data: bytes) -> None:
    """An .npz file."""
    path = path.with_suffix(".npz")
    path.write_bytes(data)
    load_images(path)


def labels(path: Path, data: bytes) -> None:
    """A labels.csv beside one picture."""
    folder = path.with_suffix(".folder")
    folder.mkdir(exist_ok=True)
    if not (folder / "a.png").exists():
        cv2.imwrite(str(folder / "a.png"), np.zeros((2, 2, 3), np.uint8))
    (folder / "labels.csv").write_bytes(data)
    load_images(folder)


def spec(path: Path, data: bytes) -> None:
    """An input spec."""
    path.write_bytes(data)
    read_spec(path)


def onnx(path: Path, data: bytes) -> None:
    """An ONNX file, loaded and asked."""
    path = path.with_suffix(".onnx")
    path.write_bytes(data)
    classifier = load_classifier(path, threads=1)
    height, width, channels = (side or 4 for side in classifier.info.image_shape)
    if height * width <= 1 << 16:
        classifier(np.zeros((1, height, width, channels), np.float32))


def answer(path: Path, data: bytes) -> None:
    """What a server answers: HTTP with JSON and raw tensors, a page of metadata, gRPC."""
    batch = np.zeros((1, 2, 2, 3), np.float32)
    head = {"Inference-Header-Content-Length": str(data.find(b"}]}") + 3)} if data[:1] == b"{" else {}

    def about() -> object:
        page = parsed(data)
        return signature_of(page if isinstance(page, dict) else {}, ServerSettings(), source="s")

    asks: tuple[Callable[[], object], ...] = (
        lambda: V2Http(_Canned(Reply(200, head, data)), "/m", binary=True).infer(batch, SIGNATURE),  # type: ignore[arg-type]
        about,
        lambda: read_metadata(data),
        lambda: read_answer(data, SIGNATURE),
    )
    for ask in asks:
        try:
            ask()
        except EXPECTED:
            continue


def _seeds() -> dict[str, list[bytes]]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    packed = io.BytesIO()
    np.savez(packed, images=image[None], labels=[1], class_names=["a", "b"])
    squeezed = io.BytesIO()
    np.savez_compressed(squeezed, images=image[None], labels=[1])
    tensor = {"name": "y", "datatype": "FP32", "shape": [1, 2]}
    about = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2, 2, 3]}], "outputs": [tensor]}
    raw = json.dumps({"outputs": [{**tensor, "parameters": {"binary_data_size": 8}}]}).encode()
    return {
        "picture": [bytes(cv2.imencode(kind, image)[1]) for kind in (".png", ".jpg", ".bmp", ".ppm", ".tiff", ".webp")],
        "archive": [packed.getvalue(), squeezed.getvalue()],
        "labels": [b"file,label\na.png,3\n", b'a.png,"stop, sign"\n'],
        "spec": [b'[input]\nlayout = "NCHW"\nscale = "1/255"\nmean = [0.1, 0.2, 0.3]\n', b"scale = 1\nstd = 2.5\n"],
        "onnx": [_small_onnx()],
        "answer": [
            json.dumps({"outputs": [{**tensor, "data": [1.5, 2.5]}]}).encode(),
            json.dumps(about).encode(),
            raw + b"\0" * 8,
            b"\x2a\x0f\x0a\x01y\x12\x04FP32\x1a\x02\x01\x02\x32\x08" + b"\0" * 8,
        ],
    }


def _small_onnx() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((12, 2), np.float32), "w")
    nodes = [helper.make_node("Flatten", ["x"], ["f"], axis=1), helper.make_node("MatMul", ["f", "w"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


TARGETS: dict[str, Callable[[Path, bytes], None]] = {
    "picture": picture,
    "archive": archive,
    "labels": labels,
    "spec": spec,
    "onnx": onnx,
    "answer": answer,
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The data with bits flipped, bytes put in, taken out, repeated or cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            del out[at : at + rng.randrange(1, 17)]
        elif kind == 4:
            out[at:at] = out[at : at + rng.randrange(1, 33)] * rng.choice((1, 2, 50))
        elif at < len(out):
            out[at : at + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"9999", b"[[[[")
            )
    return bytes(out)


def run_one(name: str, path: Path, data: bytes) -> None:
    """Give one input to a target; what is expected passes silently."""
    signal.alarm(ALARM)
    try:
        TARGETS[name](path, data)
    except EXPECTED:
        pass
    finally:
        signal.alarm(0)


def child(name: str, seconds: float, seed: int, engine: str) -> None:
    """Fuzz one target in this process; the input at hand is in `last` of the working folder."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _late)
    warnings.simplefilter("ignore")
    seeds = _seeds()[name]
    path, last = Path("input"), Path("last")
    if engine == "atheris":
        atheris = importlib.import_module("atheris")

        for place, data in enumerate(seeds):
            Path("corpus").mkdir(exist_ok=True)
            (Path("corpus") / str(place)).write_bytes(data)

        def one(data: bytes) -> None:
            last.write_bytes(data)
            run_one(name, path, data)

        flags = [f"-max_total_time={int(seconds)}", f"-seed={seed}", "-rss_limit_mb=0", "-print_final_stats=1"]
        for module in [module for known, module in sys.modules.items() if known.startswith("robustest")]:
            for value in list(vars(module).values()):
                if inspect.isfunction(value) and value.__module__ == module.__name__:
                    atheris.instrument_func(value)
        atheris.Setup([sys.argv[0], *flags, "corpus"], one)
        atheris.Fuzz()
        return
    rng = random.Random(f"{name} {seed}")
    count, ends = 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        data = damaged(rng.choice(seeds), rng)
        last.write_bytes(data)
        run_one(name, path, data)
        count += 1
    print(count)


def _late(*_: object) -> NoReturn:
    raise TimeoutError(f"one input took more than {ALARM} s")


def main() -> int:
    """Fuzz the targets one after the other; exit with 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child, chosen.seconds, chosen.seed, chosen.engine)
        return 0
    found = 0
    for name in chosen.targets:
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, str(Path(__file__).resolve()), "--child", name, "--seconds", str(chosen.seconds)]
            command += ["--seed", str(chosen.seed), "--engine", chosen.engine]
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
            lines = (done.stdout + done.stderr).strip().splitlines()
            if done.returncode == 0:
                inputs = [line.split()[-1] for line in lines if line.isdigit() or "number_of_executed_units" in line]
                print(f"{name:8} {inputs[-1] if inputs else '?':>9} inputs, nothing found", flush=True)
                continue
            found += 1
            chosen.out.mkdir(parents=True, exist_ok=True)
            kept = chosen.out / f"{name}-{chosen.seed}"
            kept.write_bytes((Path(scratch) / "last").read_bytes())
            print(f"{name:8} FOUND ({done.returncode}): {lines[-1] if lines else ''}; the input is {kept}", flush=True)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
