"""Servers with a JSON interface of their own: the request template and the answer's path."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from robustest.classifiers.served import open_served
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSetting, ModelError
from tests.classifiers.faulty import linear

QUICK: dict[str, Any] = {"timeout": 60.0, "retries": 1, "patience": 60.0, "batch": 16}
SPEC = InputSpec("NHWC", "RGB")
IMAGES = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3)).astype(np.float32) / np.float32(255)
RIGHT = linear(SPEC.prepare(IMAGES))


@contextmanager
def page_server(answer: Callable[[str, bytes, dict[str, str]], Any]) -> Iterator[str]:
    """A server that answers POSTs with JSON of a function's making."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            data = json.dumps(answer(self.path, body, dict(self.headers))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http+json://127.0.0.1:{server.server_address[1]}/predict?version=2"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


TEMPLATES = {
    "batch": ('{"instances": "{images}", "n": [1, null]}', "predictions", lambda scores: {"predictions": scores}),
    "nested": ('{"a": [{"b": "{images}"}]}', "out.0.data", lambda scores: {"out": [{"data": scores}]}),
    "star": ('["{images}"]', "rows.*.scores", lambda scores: {"rows": [{"scores": row} for row in scores]}),
    "one": ('{"image": "{image}"}', "scores", lambda scores: {"scores": scores[0]}),
    "top": ('{"x": "{images}"}', "", lambda scores: scores),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_asks_a_server_of_its_own_kind(name: str) -> None:
    request, path, form = TEMPLATES[name]

    def answer(where: str, body: bytes, headers: dict[str, str]) -> Any:
        assert where == "/predict?version=2"
        images = json.loads(body)
        while not (isinstance(images, list) and isinstance(images[0], list)):
            images = images[0] if isinstance(images, list) else next(iter(images.values()))
        while np.ndim(images) > 4:
            images = images[0]
        batch = np.asarray(images, np.float32)
        return form(linear(batch if batch.ndim == 4 else batch[None]).tolist())

    with page_server(answer) as url:
        classifier = open_served(url, SPEC, {**QUICK, "request": request, "answer": path, "shape": "4x4x3"})
        assert classifier(IMAGES) == pytest.approx(RIGHT, rel=1e-6)
        assert (classifier.transport, "version" in classifier.info.source) == ("template", False)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "needs a request template"),
        ({"request": "{images}"}, "must be JSON"),
        ({"request": '{"a": 1}'}, "exactly once"),
        ({"request": '["{images}", "{images}"]'}, "exactly once"),
        ({"request": '["{images}"]'}, "says nothing of its input"),
    ],
)
def test_a_template_that_cannot_work_is_refused(table: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSetting, match=words):
        open_served("http+json://127.0.0.1:9/p", SPEC, {**QUICK, **table})


@pytest.mark.parametrize("page", [{"wrong": 1}, {"scores": "text"}, {"scores": [[1, 2], [3]]}, [], {"scores": None}, 7])
def test_an_answer_without_scores_at_the_path_is_named(page: Any) -> None:
    with (
        page_server(lambda *_: page) as url,
        pytest.raises(ModelError, match=r"nothing at 'scores'|no array of numbers"),
    ):
        open_served(url, SPEC, {**QUICK, "request": '["{images}"]', "answer": "scores", "shape": "4x4x3"})
