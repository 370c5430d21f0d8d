"""Audit a model behind real servers, compare with the same audit in process, and measure throughput beside the servers' best.

    python examples/served_throughput.py --json served.json

For each server: the audit's `result.json` must be the in-process one but for what names the model; then, in turns, a bare
load generator (requests encoded once, several connections, answers not decoded) finds the server's own best at each
batch size, and the classifier and the audit are timed beside it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from real_servers import NotToBeHad, running

from robustest import __version__
from robustest.audit.run import run_audit
from robustest.bench import raw_rate
from robustest.classifiers import load_classifier
from robustest.classifiers.classifier import Classifier
from robustest.classifiers.served import ServedClassifier
from robustest.classifiers.served_protobuf import infer_request
from robustest.classifiers.served_transport import Signature
from robustest.images import ImageSet, load_images
from robustest.settings import AttackSettings

ROOT = Path(__file__).resolve().parents[1]
NAMING = ("source", "sha256", "guessed")  # of the model: what may differ between a file and a server


@dataclass(frozen=True)
class Row:
    """One server by one transport. Rates in images a second, medians of the turns; `best` is the load generator's."""

    server: str
    transport: str
    same_result: bool
    largest_difference: float
    best: float
    best_batch: int
    best_connections: int
    classifier: float
    audit: float
    in_process_audit: float
    counts: dict[str, int | float]


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, default=ROOT / "robustest/demo/models/plain.onnx")
    parser.add_argument("--data", type=Path, default=ROOT / "robustest/demo/images.npz")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--servers", nargs="*", default=["reference", "triton", "mlserver"])
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-servers")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    local = load_classifier(chosen.model, threads=1)
    images = load_images(chosen.data).take(range(chosen.images))
    settings = AttackSettings(queries=chosen.queries)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        expected = audited(local, images, settings, Path(scratch) / "file")[0]
        for kind in chosen.servers:
            try:
                with served(kind, chosen.model, chosen.environments) as urls:
                    for transport, url in urls.items():
                        where = Path(scratch) / f"{kind}-{transport}"
                        rows.append(
                            measured(kind, transport, url, local, expected, images, settings, where, chosen.turns)
                        )
                        print_row(rows[-1])
            except NotToBeHad as error:
                print(f"skipped: {error}")
    if chosen.json:
        about = {"robustest": __version__, "images": chosen.images, "queries": chosen.queries, "turns": chosen.turns}
        chosen.json.write_text(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


@contextmanager
def served(kind: str, model: Path, environments: Path) -> Iterator[dict[str, str]]:
    """URLs of a running server by transport."""
    if kind == "reference":
        run = "from robustest.cli import main; main()"
        command = [sys.executable, "-c", run, "serve", str(model), "--port", "0", "--threads", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = next(word for line in process.stdout for word in line.split() if word.startswith("v2+http://"))
            try:
                yield {"binary": url, "json": f"{url}#transport=json"}
            finally:
                process.terminate()
        return
    with running(kind, model, folder=environments) as real:
        binary = {"binary": real.http} if kind == "triton" else {}  # MLServer has no binary tensors over HTTP
        yield {**binary, "grpc": real.grpc, "json": f"{real.http}#transport=json"}


def audited(
    classifier: Classifier, images: ImageSet, settings: AttackSettings, where: Path
) -> tuple[dict[str, Any], float]:
    """The result of an audit without what names the model, and queries a second."""
    started = time.perf_counter()
    summary = run_audit(classifier, images, None, settings, where, command="")
    seconds = time.perf_counter() - started
    result = json.loads((where / "result.json").read_text())
    result["model"] = {name: value for name, value in result["model"].items() if name not in NAMING}
    del result["versions"]
    queries = sum(int(image["queries"]) for image in result["images"])
    assert summary.counts.images == len(images)
    return result, queries / seconds


def measured(
    kind: str,
    transport: str,
    url: str,
    local: Classifier,
    expected: dict[str, Any],
    images: ImageSet,
    settings: AttackSettings,
    where: Path,
    turns: int,
) -> Row:
    """One server by one transport, against the in-process audit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JSON is slow, which is what is measured here
        classifier = load_classifier(url, local.info.spec)
    assert isinstance(classifier, ServedClassifier)
    unit = images.images[:64].astype(np.float32) / np.float32(255)
    gap = float(np.abs(classifier(unit) - local(unit)).max())
    shape = images.images.shape[1:]
    bests: list[tuple[float, int, int]] = []
    raws, audits, locals_ = [], [], []
    same = True
    for turn in range(turns):
        bests.append(best_of_server(classifier, transport, url, local))
        raws.append(raw_rate(classifier, shape, classifier.info.largest_batch or 128, seconds=1.0))
        result, rate = audited(classifier, images, settings, where.with_name(f"{where.name}-{turn}"))
        audits.append(rate)
        same = same and result == expected
        locals_.append(audited(local, images, settings, where.with_name(f"{where.name}-local-{turn}"))[1])
    best = sorted(bests)[len(bests) // 2]
    row = Row(
        kind,
        transport,
        same,
        gap,
        *best,
        float(np.median(raws)),
        float(np.median(audits)),
        float(np.median(locals_)),
        classifier.counts.as_json(),
    )
    classifier.close()
    return row


def best_of_server(classifier: ServedClassifier, transport: str, url: str, local: Classifier) -> tuple[float, int, int]:
    """Images a second that the server gives at most, with the batch and the connections that get them."""
    height, width, channels = (side or 32 for side in classifier.info.image_shape)
    noise = np.random.default_rng(0).random((256, height, width, channels), dtype=np.float32)
    ready = local.info.spec.prepare(noise)
    found = []
    for batch in (8, 32) if transport == "json" else (32, 64, 128, 256):
        for connections in (1, 2, 4):
            send = (grpc_sender if transport == "grpc" else http_sender)(url, transport, ready[:batch])
            found.append((load(send, batch, connections, 0.7), batch, connections))
    return max(found)


def load(make: Callable[[], Callable[[], None]], batch: int, connections: int, seconds: float) -> float:
    """Images a second of so many connections that send the same request over and over."""
    counts = [0] * connections
    stop = threading.Event()

    def work(place: int) -> None:
        send = make()
        while not stop.is_set():
            send()
            counts[place] += batch

    threads = [threading.Thread(target=work, args=(place,)) for place in range(connections)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    before, started = sum(counts), time.perf_counter()
    time.sleep(seconds)
    done, spent = sum(counts) - before, time.perf_counter() - started
    stop.set()
    for thread in threads:
        thread.join()
    return done / spent


def http_sender(url: str, transport: str, batch: np.ndarray[Any, Any]) -> Callable[[], Callable[[], None]]:
    """Makes connections that post one request, encoded here, and read the answer without decoding it."""
    parts = urlsplit(url.removeprefix("v2+"))
    tensor: dict[str, Any] = {"name": "input", "shape": list(batch.shape), "datatype": "FP32"}
    headers = {"Content-Type": "application/json"}
    if transport == "json":
        body = json.dumps({"inputs": [{**tensor, "data": batch.reshape(-1).tolist()}]}).encode()
    else:
        raw = batch.tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        body = head + raw

    def make() -> Callable[[], None]:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)

        def send() -> None:
            connection.request("POST", f"/v2/models{parts.path}/infer", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}")

        return send

    return make


def grpc_sender(url: str, transport: str, batch: np.ndarray[Any, Any]) -> Callable[[], Callable[[], None]]:
    """As `http_sender`, over gRPC."""
    import grpc

    parts = urlsplit(url.removeprefix("v2+"))
    signature = Signature("input", None, "FP32", (None,) * 4, None)
    request = infer_request(parts.path.strip("/"), "", "x", batch, signature)

    def make() -> Callable[[], None]:
        channel = grpc.insecure_channel(
            parts.netloc, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        )
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def send() -> None:
            call(request, timeout=60)

        return send

    return make


def print_row(row: Row) -> None:
    """One line for people."""
    print(
        f"{row.server:10} {row.transport:7} same result {row.same_result!s:5} scores differ by {row.largest_difference:g}; "
        f"server's best {row.best:8.0f}/s (batch {row.best_batch}, {row.best_connections} connections), classifier "
        f"{row.classifier:8.0f}/s ({row.classifier / row.best:.0%}), audit {row.audit:7.0f}/s ({row.audit / row.best:.0%}), in "
        f"process {row.in_process_audit:7.0f}/s",
        flush=True,
    )


if __name__ == "__main__":
    main()
