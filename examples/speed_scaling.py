"""How time and memory grow: with the queries an image, with the images, and with one game's queries on large images.

    python examples/speed_scaling.py MODEL.onnx IMAGES.npz

Every row is measured in a process of its own, so that its peak of memory is its own. Images beyond those of the file are
those of the file again. The last table uses a linear classifier of ten classes that is some dozen pixels away from flipping,
so that only the attack's memory counts, no image is ever finished early, and the search goes through all its stages.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustest import compiled
from robustest.attack.find import iter_adversarials
from robustest.attack.search import game_search
from robustest.attack.task import Search, Task
from robustest.audit.run import run_audit
from robustest.classifiers import load_classifier
from robustest.images import ImageSet, load_images
from robustest.settings import AttackSettings

QUERIES = ((100, 640), (1000, 64), (10_000, 16))  # queries an image, images
IMAGES = (100, 1000, 10_000)
GAMES = (2, 6)


def images_of(path: Path, count: int) -> ImageSet:
    """So many images of a file, from its beginning again where it has fewer; the later ones differ in one pixel."""
    data = load_images(path)
    again = data.take(np.arange(count) % len(data))
    pixels = again.images.copy()
    rounds = np.arange(count) // len(data)
    pixels[:, 0, 0, 0] = np.where(rounds > 0, rounds % 256, pixels[:, 0, 0, 0])
    return replace(again, images=pixels, names=tuple(str(place) for place in range(count)))


def by_queries(model: Path, data: Path, queries: int, count: int) -> dict[str, float]:
    """Rate of the attack at a number of queries an image, three times."""
    classifier = load_classifier(model)
    images = images_of(data, count)
    warm = images.take(range(8))
    list(iter_adversarials(classifier, warm.images, warm.labels, AttackSettings(queries=200), batch=32))
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        found = iter_adversarials(classifier, images.images, images.labels, AttackSettings(queries=queries), batch=32)
        sent = sum(result.queries for _, result in found)
        rates.append(sent / (time.perf_counter() - started))
    return {"queries": sent, "rate": float(np.median(rates)), "least": min(rates), "most": max(rates), "peak": _peak()}


def by_images(model: Path, data: Path, count: int) -> dict[str, float]:
    """Time and memory of a whole audit, ledger and result included, at 20 queries an image."""
    classifier = load_classifier(model)
    images = images_of(data, count)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run_audit(classifier, images, settings=AttackSettings(queries=20), out=folder)
        spent = time.perf_counter() - started
    return {"images": count, "seconds": spent, "peak": _peak(), "input": images.images.nbytes}


def by_games(count: int, queries: int, traced: bool) -> dict[str, float]:
    """Memory with so many games in play at once on 224x224 colour images: at its peak, and what is held between questions."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((224 * 224 * 3, 10)).astype(np.float32)

    def scores(images: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.asarray((images.reshape(len(images), -1) - np.float32(0.5)) @ weights, np.float32)
        found[:, 0] += 300  # some dozen pixels away from the other classes
        return found

    classifier = load_classifier(scores)
    data = rng.integers(0, 256, (count, 224, 224, 3)).astype(np.uint8)
    held: list[int] = []

    def watched(task: Task, rng: np.random.Generator) -> Search:
        game = game_search(task, rng)
        with suppress(StopIteration):
            question = next(game)
            while True:
                margins = yield question
                question = game.send(margins)
                held.append(tracemalloc.get_traced_memory()[0])

    sent = 0
    labels, settings = np.zeros(count, np.int64), AttackSettings(queries=queries)
    if traced:
        tracemalloc.start()
    found = iter_adversarials(classifier, data, labels, settings, strategy=watched, games=count)
    for _, result in found:
        if not sent and traced:
            tracemalloc.stop()  # from here on not all of them are in play
        sent += result.queries
    return {"games": count, "queries": sent, "peak": _peak(), "held": float(np.median([n for n in held if n] or [0]))}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _apart(*arguments: object) -> dict[str, float]:
    """What a call of this script with these arguments prints."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--row", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        compiled.use(True)
        kind, *numbers = given.row
        if kind == "queries":
            print(json.dumps(by_queries(given.model, given.data, int(numbers[0]), int(numbers[1]))))
        elif kind == "images":
            print(json.dumps(by_images(given.model, given.data, int(numbers[0]))))
        else:
            print(json.dumps(by_games(int(numbers[0]), int(numbers[1]), numbers[2] == "traced")))
        return
    mib = 2**20
    print("| queries an image | images | queries sent | queries/s, median of 3 (range) | peak MiB |")
    print("| --- | --- | --- | --- | --- |")
    for queries, count in QUERIES:
        row = _apart(given.model, given.data, "--row", "queries", queries, count)
        spread = f"{row['rate']:.0f} ({row['least']:.0f} to {row['most']:.0f})"
        print(f"| {queries} | {count} | {row['queries']:.0f} | {spread} | {row['peak'] / mib:.0f} |", flush=True)
    print("\n| images audited | seconds | ms an image | peak MiB | of which input |")
    print("| --- | --- | --- | --- | --- |")
    for count in IMAGES:
        row = _apart(given.model, given.data, "--row", "images", count)
        each = 1e3 * row["seconds"] / count
        shown = f"{row['peak'] / mib:.0f} | {row['input'] / mib:.0f}"
        print(f"| {count} | {row['seconds']:.1f} | {each:.2f} | {shown} |", flush=True)
    print("\n| queries an image, 224x224 | MiB held a game | MiB a game at the peak |")
    print("| --- | --- | --- |")
    for queries in (100, 1000, 10_000):
        grown = {}
        for what in ("traced", "plain"):
            few, many = (_apart(given.model, given.data, "--row", "games", count, queries, what) for count in GAMES)
            key = "held" if what == "traced" else "peak"
            grown[key] = (many[key] - few[key]) / (GAMES[1] - GAMES[0]) / mib
        print(f"| {queries} | {grown['held']:.1f} | {grown['peak']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
