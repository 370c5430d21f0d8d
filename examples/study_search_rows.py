"""What `study_search.py` has kept, as rows of a table: of each model, attack and budget what every image took."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LADDER = (1, 2, 3, 5, 10, 20)
CHECKS = (
    "still_wrong_from_png",
    "a_pixel_could_be_put_back",
    "a_tie_with_a_pixel_less",
    "not_checked_within_the_budget",
    "of_these_a_pixel_could_be_put_back",
)
PER_K = ("sparse-rs", "brusle")
GUIDES = ("sift", "uniform", "grid")
MISSED = 100.0  # pixels that an image which is not flipped counts as, in paired differences
DRAWS = 4000

Row = dict[str, list[Any]]
Key = tuple[str, str, int]  # model, attack, queries


def load(folders: Iterable[Path]) -> dict[Key, Row]:
    """All rows there are, each joined from its units in the order of the images, up to the first gap."""
    parts: dict[Key, dict[int, dict[str, Any]]] = defaultdict(dict)
    for path in [path for folder in folders for path in sorted(folder.glob("*.json"))]:
        unit = json.loads(path.read_text())
        if unit.get("seed", 0):
            continue
        parts[unit["model"], unit["attack"], unit["budget"]][unit["start"]] = unit
    rows: dict[Key, Row] = {}
    for key, units in parts.items():
        row: Row = {"fewest": [], "queries": [], "curves": [], "checks": [], "cpu_seconds": []}
        while (unit := units.get(len(row["fewest"]))) is not None:
            row["checks"].append([unit.get(name, 0) for name in CHECKS])
            for name in ("fewest", "queries", "curves"):
                row[name] += unit.get(name, [])
            row["cpu_seconds"].append(unit["cpu_seconds"])
        if row["fewest"]:
            rows[key] = row
    return rows


def pixels(row: Row, count: int | None = None) -> NDArray[np.float64]:
    """Pixels that each image took, inf where it was not flipped."""
    return np.array([np.inf if fewest is None else fewest for fewest in row["fewest"][:count]], float)


def within(row: Row, k: int, count: int) -> int:
    """Of the first `count` images, those flipped with at most k pixels."""
    return int((pixels(row, count) <= k).sum())


def common(rows: dict[Key, Row], model: str) -> int:
    """Images of a model that ours, Sparse-RS and BruSLe all had with 1,000 queries."""
    return min(
        (len(rows[key]["fewest"]) for attack in ("sift", *PER_K) if (key := (model, attack, 1000)) in rows), default=0
    )


def gaps(rows: dict[Key, Row], model: str) -> dict[str, list[int]]:
    """By attack: how many images more than it ours flips with at most k pixels, for each k of the ladder."""
    count, ours = common(rows, model), rows.get((model, "sift", 1000))
    if ours is None:
        return {}
    there = {attack: rows[model, attack, 1000] for attack in PER_K if (model, attack, 1000) in rows}
    return {
        attack: [within(ours, k, count) - within(other, k, count) for k in LADDER] for attack, other in there.items()
    }


def nowhere_behind(found: dict[str, list[int]]) -> bool:
    """True where ours flips at least as many images as either at each k, but for one image at a single k."""
    worst = sorted(min(column) for column in zip(*found.values(), strict=True))
    return bool(worst[0] >= -1 and worst[1] >= 0)


def unlimited(rows: dict[Key, Row], model: str, attack: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Pixels of ours at 5,000 queries and of an attack without a limit or with gradients, on the same images."""
    ours = rows.get((model, "sift", 5000))
    other = next((row for (name, key, _), row in rows.items() if (name, key) == (model, attack)), None)
    if ours is None or other is None:
        return None
    count = min(len(ours["fewest"]), len(other["fewest"]))
    return pixels(ours, count), pixels(other, count)


def paired(
    rows: dict[Key, Row], model: str, guide: str, queries: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels with SIFT and with another guide, on the same images."""
    sift, other = rows[model, "sift", queries], rows[model, guide, queries]
    count = min(len(sift["fewest"]), len(other["fewest"]))
    return pixels(sift, count), pixels(other, count)


def log_gaps(mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences in log2 of the pixels; not flipped counts as `MISSED` pixels, and so does what is larger."""
    return np.asarray(np.log2(np.minimum(mine, MISSED)) - np.log2(np.minimum(theirs, MISSED)))


def checked(rows: dict[Key, Row]) -> dict[tuple[str, int], NDArray[np.int64]]:
    """By model and budget: images returned, the guides together, and then as in `CHECKS`."""
    sums: dict[tuple[str, int], NDArray[np.int64]] = {}
    for (model, attack, queries), row in rows.items():
        if attack in GUIDES:
            found = sum(fewest is not None for fewest in row["fewest"])
            part = np.array([found, *np.sum(row["checks"], axis=0)])
            sums[model, queries] = sums.get((model, queries), np.zeros(len(part), np.int64)) + part
    return sums


def seeds(folder: Path) -> dict[str, dict[int, tuple[float, float]]]:
    """By guide and seed: mean pixels and queries of Nexar's frames at 1,000 queries."""
    means: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for path in sorted(folder.glob("nexar_safecv-*-1000-000-9*.json")):
        unit = json.loads(path.read_text())
        if unit["attack"] in GUIDES:
            found = np.minimum(pixels(unit), MISSED)
            means[unit["attack"]][unit.get("seed", 0)] = (float(found.mean()), float(np.mean(unit["queries"])))
    return means


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of a mean."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))
