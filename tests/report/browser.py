"""A headless Chromium, for tests that look at a page as people do; they skip, saying so, where there is none."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--disable-dev-shm-usage",
    "--virtual-time-budget=3000",
]


def chromium(folder: Path, *flags: str) -> str:
    """Run Chromium with a new, empty profile in `folder`; return what it prints.

    The page must come to rest within two minutes, which a machine full of other tests may need.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium, which is not installed here (Debian: apt install chromium)")
    command = [program, *_QUIET, f"--user-data-dir={folder / 'profile'}", *flags]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, cwd=folder).stdout
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        pytest.skip(f"Chromium does not run here: {error}")


@dataclass(frozen=True)
class View:
    """What a reader sees of a page in a frame: places of the rows and cards that are shown, in order, the count that
    is told, and the widths of the frame, the document and its body."""

    rows: list[int]
    cards: list[int]
    told: str
    widths: list[int]


_LOOK = """
const seen = (d, tag) => [...d.querySelectorAll(tag + "[data-index]")].filter((e) => e.offsetParent !== null)
  .map((e) => Number(e.dataset.index));
const frames = [...document.querySelectorAll("iframe")];
Promise.all(frames.map((f) => new Promise((done) => { f.onload = done; f.src = f.dataset.src; }))).then(() => {
  document.getElementById("out").textContent = JSON.stringify(frames.map((f) => {
    const d = f.contentDocument, e = d.documentElement;
    return {rows: seen(d, "tr"), cards: seen(d, "li"), told: d.getElementById("shown")?.textContent ?? "",
            widths: [e.clientWidth, e.scrollWidth, d.body.scrollWidth]};
  }));
});
"""


def views(page: Path, folder: Path, frames: list[tuple[str, int]]) -> list[View]:
    """Look at a page in one frame for each (state of its address, width); Chromium's own window is never that narrow."""
    address = page.resolve().as_uri()
    tags = "".join(
        f'<iframe data-src="{address}#{html.escape(state)}" style="width:{width}px;height:900px;border:0"></iframe>'
        for state, width in frames
    )
    frame = folder / "frames.html"
    frame.write_text(f'{tags}<pre id="out"></pre><script>{_LOOK}</script>')
    document = chromium(folder, "--window-size=1400,1000", "--dump-dom", frame.as_uri())
    told = document.partition('<pre id="out">')[2].partition("</pre>")[0]
    return [View(**seen) for seen in json.loads(html.unescape(told))]


def rendered(page: Path, folder: Path) -> str:
    """The page's document after its script has run, as HTML."""
    return chromium(folder, "--dump-dom", page.resolve().as_uri())


def screenshot(page: Path, folder: Path, *flags: str) -> Path:
    """A picture of the top of the page."""
    out = folder / "page.png"
    chromium(folder, *flags, "--window-size=800,600", f"--screenshot={out}", page.resolve().as_uri())
    return out
