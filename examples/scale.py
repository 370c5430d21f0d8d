"""An audit of very many images with a cheap model: memory while it runs, time of `status` and of `finish`.

    python examples/scale.py --images 100000 --workers 2 --out /tmp/scale

Prints a table in Markdown; `reports/scale.md` holds one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE = 28


def weights() -> NDArray[np.float32]:
    """A linear classifier of 10 classes."""
    return np.random.default_rng(1).normal(size=(SIDE * SIDE, 10)).astype(np.float32)


def scores(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cheap model."""
    return np.asarray(images.reshape(len(images), -1) @ weights_kept, dtype=np.float32)


weights_kept = weights()


def make_images(path: Path, count: int) -> None:
    """Random images with the model's own labels, as an .npz."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(count, SIDE, SIDE, 1), dtype=np.uint8)
    labels = np.zeros(count, np.int64)
    for start in range(0, count, 4096):
        part: NDArray[np.float32] = np.asarray(images[start : start + 4096] / 255, dtype=np.float32)
        labels[start : start + 4096] = scores(part).argmax(axis=1)
    np.savez(path, images=images, labels=labels)


def memory_mb(pid: int) -> float:
    """Resident memory of a process, files that it maps left out, in MB; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def command(*words: str) -> list[str]:
    """A command of robustest in a process of its own."""
    return [sys.executable, "-c", "from robustest.cli import main; main()", *words]


def timed(*words: str) -> tuple[float, float, str]:
    """Seconds, peak memory in MB and output of a command."""
    started = time.perf_counter()
    done = subprocess.run(command(*words), check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000, done.stdout


def main() -> None:
    """Plan, work, ask for the status on the way, finish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)
    data, run = arguments.out / "images.npz", arguments.out / "run"
    if not data.exists():
        make_images(data, arguments.images)
    budget = ["--queries", str(arguments.queries), "--attack", "random-corners"]
    seconds, peak, said = timed("plan", "scale:scores", str(data), "-o", str(run), *budget)
    print(f"| plan | {seconds:.1f} s | {peak:.0f} MB | {said.strip()} |", flush=True)

    samples: list[tuple[int, float, float]] = []
    over = threading.Event()
    started = time.perf_counter()
    worker = subprocess.Popen(command("work", str(run), "--workers", str(arguments.workers)))

    def sample() -> None:
        while not over.wait(10):
            begun = time.perf_counter()
            said = subprocess.run(
                command("status", str(run), "--format", "json"), check=True, capture_output=True, text=True
            )
            waited = time.perf_counter() - begun
            now = json.loads(said.stdout)
            memory = max([memory_mb(person["pid"]) for person in now["workers"]], default=0.0)
            samples.append((now["counted"]["done"], memory, waited))

    sampler = threading.Thread(target=sample)
    sampler.start()
    code = worker.wait()
    over.set()
    sampler.join()
    spent = time.perf_counter() - started
    print(
        f"| work, {arguments.workers} workers | {spent:.1f} s | exit {code} | {arguments.images / spent:.0f} images/s |"
    )
    for done, memory, waited in samples:
        print(f"| at {done} images | status {waited:.2f} s | {memory:.0f} MB | largest worker |")
    seconds, _, said = timed("status", str(run))
    print(f"| status at the end | {seconds:.2f} s | | {said.splitlines()[0]} |")
    code_line = "import sys, resource; from pathlib import Path; from robustest.audit.plan import load_plan; from robustest.audit.finish import finish_run; run = Path(sys.argv[1]); finish_run(run, load_plan(run)); own = resource.getrusage(resource.RUSAGE_SELF); print(own.ru_maxrss // 1000, 'MB |', round(own.ru_utime + own.ru_stime, 1), 's of CPU')"
    begun = time.perf_counter()
    merged = subprocess.run([sys.executable, "-c", code_line, str(run)], check=True, capture_output=True, text=True)
    print(
        f"| finish (merge, result.json, pictures) | {time.perf_counter() - begun:.1f} s | {merged.stdout.strip()} MB | |"
    )
    sizes = {
        "ledgers": sum(path.stat().st_size for path in run.rglob("ledger.sqlite")),
        "images": sum(path.stat().st_size for path in (run / "images").iterdir()),
        "result.json": (run / "result.json").stat().st_size,
        "adversarial": sum(path.stat().st_size for path in (run / "adversarial").iterdir()),
    }
    for name, size in sizes.items():
        print(f"| {name} | {size / 1e6:.1f} MB | {size / arguments.images:.0f} bytes an image | |")


if __name__ == "__main__":
    main()
