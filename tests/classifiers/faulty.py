"""The reference server with faults at chosen requests, the same every time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.serving import Handler, InferenceServer, ServedModel

Fault = str | None
HANG = 20.0  # seconds: longer than the time-outs where it is used

WEIGHTS = np.random.default_rng(5).normal(size=(48, 3)).astype(np.float32)


def linear(batch: NDArray[Any]) -> NDArray[Any]:
    """(N, 4, 4, 3) to (N, 3): each row on its own, so that no bit depends on the batch."""
    flat = batch.reshape(len(batch), -1).astype(np.float32)
    return np.stack([(flat * column).sum(axis=1) for column in WEIGHTS.T], axis=1)


def small_model(**changes: Any) -> ServedModel:
    """A linear model of 4x4 RGB images."""
    return ServedModel(**{"name": "m", "run": linear, "shape": (-1, 4, 4, 3), "classes": 3, **changes})


class FaultyServer(InferenceServer):
    """Answers rightly until `begin` is called; from then on asks `fault(i)` what to do to the i-th inference, None to answer.

    faults: drop, cut, garbage, html, nan, shape, late, twice, status:N, retry:N:SECONDS, slow, drip, redirect, huge, gzip,
    liar, stale, other, hang, deep, few, echo.
    """

    def __init__(self, model: ServedModel | None = None) -> None:
        self.fault: Callable[[int], Fault] = lambda place: None
        self.lock = threading.Lock()
        self.requests: list[tuple[float, Fault]] = []
        self.headers: list[dict[str, str]] = []
        self.release = threading.Event()
        server = self

        class Faulty(Handler):
            def answer(self, request: dict[str, Any], scores: NDArray[Any], *, binary: bool) -> None:
                with server.lock:
                    kind = server.fault(len(server.requests))
                    server.requests.append((time.monotonic(), kind))
                    server.headers.append(dict(self.headers))
                if kind is None:
                    super().answer(request, scores, binary=binary)
                else:
                    self.fail(kind, request, scores, binary)

            def fail(self, kind: str, request: dict[str, Any], scores: NDArray[Any], binary: bool) -> None:
                words = kind.split(":")
                if words[0] == "drop":
                    self.close_connection = True
                elif words[0] == "hang":
                    server.release.wait(HANG)
                    self.close_connection = True
                elif words[0] == "cut":
                    self._raw(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"outp')
                elif words[0] == "garbage":
                    self._raw(bytes(range(256)) * 4)
                elif words[0] == "html":
                    self.send(200, b"<html>please log in</html>", {"Content-Type": "text/html"})
                elif words[0] == "nan":
                    super().answer(request, np.full_like(scores, np.nan), binary=binary)
                elif words[0] == "shape":
                    super().answer(request, scores[:, :-1], binary=binary)
                elif words[0] == "few":
                    super().answer(request, scores[:-1], binary=binary)
                elif words[0] == "late":
                    time.sleep(float(words[1]))
                    super().answer(request, scores, binary=binary)
                elif words[0] == "twice":
                    super().answer(request, scores, binary=binary)
                    time.sleep(0.05)
                    super().answer({**request, "id": "another"}, scores + 1, binary=binary)
                elif words[0] == "status":
                    self.reply(int(words[1]), {"error": "the server is not well"})
                elif words[0] == "retry":
                    self.reply(int(words[1]), {"error": "busy"}, {"Retry-After": words[2]})
                elif words[0] in ("slow", "drip"):
                    self._drip(words[0] == "drip")
                elif words[0] == "redirect":
                    self.reply(307, {}, {"Location": "http://127.0.0.1:9/elsewhere?token=abc"})
                elif words[0] == "huge":
                    self._huge()
                elif words[0] == "gzip":
                    self.send(200, b"\x1f\x8b" + b"0" * 50, {"Content-Encoding": "gzip"})
                elif words[0] == "liar":
                    self.send(200, b"{}", {"Inference-Header-Content-Length": "99999999"})
                elif words[0] == "stale":
                    super().answer({**request, "id": "another"}, scores + 1, binary=binary)
                elif words[0] == "other":
                    super().answer(request, scores + np.float32(0.5), binary=binary)
                elif words[0] == "deep":
                    self.send(200, b"[" * 200_000, {})
                elif words[0] == "echo":
                    said = json.dumps(dict(self.headers)).encode()
                    self.send(400, said, {})
                else:
                    raise AssertionError(kind)

            def _raw(self, data: bytes) -> None:
                self.wfile.write(data)
                self.close_connection = True

            def _drip(self, in_the_head: bool) -> None:
                try:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    if not in_the_head:
                        self.wfile.write(b"Content-Length: 100000\r\n\r\n")
                    while not server.release.wait(0.05):
                        self.wfile.write(b"X-A: b\r\n" if in_the_head else b" ")
                        self.wfile.flush()
                except OSError:
                    pass
                self.close_connection = True

            def _huge(self) -> None:
                try:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
                    block = b" " * (1 << 20)
                    while not server.release.is_set():
                        self.wfile.write(block)
                except OSError:
                    pass
                self.close_connection = True

        super().__init__(model or small_model(), handler=Faulty)

    def begin(self, fault: Callable[[int], Fault]) -> None:
        """Forget the requests so far and count from here."""
        with self.lock:
            self.fault = fault
            self.requests.clear()
            self.headers.clear()

    def __exit__(self, *exception: object) -> None:
        self.release.set()
        super().__exit__(*exception)
