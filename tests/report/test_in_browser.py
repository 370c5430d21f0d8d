"""The page in headless Chromium: nothing leaves the file, nothing overflows, the tools work."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from robustest.report.compared import write_comparison
from robustest.report.html import write_report
from robustest.report.several import write_several
from robustest.results import Verdict
from tests.report.browser import chromium, rendered, screenshot, views
from tests.report.summaries import SURVIVOR, Fate, audit_of, flip
from tests.report.test_compared import OURS, comparison, row

LONG = "a-very-long-name-without-a-single-space-" * 6


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every part, long names, and five images in a known order."""
    fates = [
        flip(0, 1, [1, 9, 17], name="zebra.png", queries=50),
        flip(1, 0, [3], name=LONG, queries=90),
        SURVIVOR,
        Fate(2, Verdict.EXCLUDED, predicted=1),
        Fate(1, Verdict.UNKNOWN, reason="a time limit stopped the attack " * 4),
    ]
    summary, images = audit_of(
        fates,
        class_names=("cat", "dog", LONG),
        source=LONG + ".onnx",
        command="robustest audit " + LONG,
        doubts=(LONG,),
    )
    return write_report(summary, tmp_path_factory.mktemp("report") / "report.html", images=images)


STATES = {
    "": [0, 1, 2, 3, 4],
    "verdict=flipped": [0, 1],
    "class=1": [1, 4],
    "most=1": [1],
    "text=ZEBRA": [0],
    "sort=pixels": [1, 0, 2, 3, 4],
    "sort=pixels-down": [0, 1, 2, 3, 4],
    "sort=queries-down&class=0": [2, 0],
    "class=1&verdict=survived": [],
    "class=99&sort=nonsense": [0, 1, 2, 3, 4],  # neither exists: as if not there
    "gallery": [0, 1, 2, 3, 4],  # a link inside the page is no filter
}


def test_the_filter_and_the_order_stand_in_the_address(page: Path, tmp_path: Path) -> None:
    seen = views(page, tmp_path, [(state, 1280) for state in STATES])
    for (state, rows), view in zip(STATES.items(), seen, strict=True):
        assert view.rows == rows, state
        assert view.cards == [place for place in rows if place != 3], state  # the excluded image has no card
        assert view.told == f"{len(rows)} of 5 images shown", state


def test_the_script_brings_tools_that_a_keyboard_reaches(page: Path, tmp_path: Path) -> None:
    document = rendered(page, tmp_path)
    assert re.search(r'<form class="tools" id="tools" aria-label=', document)  # no longer hidden
    assert len(re.findall(r'<th [^>]*data-sort="[a-z]+"[^>]*><button type="button" class="sort">', document)) == 5
    assert re.search(r'data-sort="index" aria-sort="ascending"', document)


def test_nothing_overflows_at_any_width(page: Path, tmp_path: Path) -> None:
    widths = [320, 390, 600, 700, 1024, 1280]
    assert [view.widths for view in views(page, tmp_path, [("", w) for w in widths])] == [[w] * 3 for w in widths]


@pytest.mark.parametrize(("scheme", "dark"), [("0", True), ("1", False)], ids=["dark", "light"])
def test_the_page_follows_the_readers_colours(page: Path, tmp_path: Path, scheme: str, dark: bool) -> None:
    picture = cv2.imread(str(screenshot(page, tmp_path, f"--blink-settings=preferredColorScheme={scheme}")))
    assert picture is not None
    assert (float(np.median(picture)) < 60) == dark


@contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A proxy that answers nothing and keeps the first line of whatever it is asked."""
    asked: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.2)
    done = threading.Event()

    def listen() -> None:
        while not done.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(2)
                try:
                    asked.append(connection.recv(200).split(b"\r\n")[0])
                except TimeoutError:
                    asked.append(b"")

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield server.getsockname()[1], asked
    finally:
        done.set()
        thread.join()
        server.close()


def test_no_request_leaves_the_file(page: Path, tmp_path: Path) -> None:
    tattler = tmp_path / "tattler.html"
    tattler.write_text('<img src="http://pictures.test/a.png">')
    with listener() as (port, asked):
        proxy = f"--proxy-server=http://127.0.0.1:{port}"
        chromium(tmp_path, proxy, "--dump-dom", tattler.as_uri())
        assert any(b"pictures.test" in line for line in asked)  # so a request would be seen
        asked.clear()
        chromium(tmp_path, proxy, "--dump-dom", page.as_uri())
    assert [line for line in asked if b"google" not in line and b"gstatic" not in line] == []  # Chromium's own


def test_the_other_pages_do_not_overflow_either(tmp_path: Path) -> None:
    fates = [flip(0, 1, [1, 9], name=LONG), flip(1, 0, [3]), SURVIVOR]
    first, images = audit_of(fates, class_names=("cat", LONG), source=LONG, command=LONG)
    audits = {"a": first, LONG: audit_of(fates[::-1], source="b", images=images)[0], "c": first}
    pages = [
        write_several(audits, tmp_path / "several.html", title=LONG, images=images),
        write_comparison(comparison(OURS, row(LONG, [1, 2, None, 9], note=LONG)), tmp_path / "comparison.html"),
    ]
    for page in pages:
        assert [view.widths for view in views(page, tmp_path, [("", 320), ("", 1000)])] == [[320] * 3, [1000] * 3]
