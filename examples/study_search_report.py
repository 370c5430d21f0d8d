"""The tables of reports/search.md, from the units of work that `study_search.py` has kept."""

from __future__ import annotations

import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from study import reading

from robustest.audit.statistics import clopper_pearson

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
_MISSED = 100.0  # pixels that an image which is not flipped counts as, in paired differences
_DRAWS = 4000

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


def report(folders: tuple[Path, Path], models: list[str], command: str, target: Path) -> str:
    """The whole page; what a person wrote below its figures is kept.

    Args:
        folders: the units of this tool's search, and of the others' attacks, each named after the code that measured them.
    """
    rows = load(folders)
    parts = [
        _HEAD.format(
            command=command,
            machine=f"{os.cpu_count()} cores, {platform.machine()}",
            ours=folders[0].name,
            others=folders[1].name,
        )
    ]
    parts += _table(rows, models)
    parts += _against(rows, models)
    parts += _patience(rows, models)
    parts += _first_sixty(rows)
    parts += _guides(rows, models)
    parts += _saved(rows, models)
    parts += _seeds(folders[0])
    parts += _images(rows, models)
    return "\n".join(parts) + "\n" + reading(target)


def _common(rows: dict[Key, Row], model: str) -> int:
    """Images of a model that ours, Sparse-RS and BruSLe all had with 1,000 queries."""
    return min(
        (len(rows[key]["fewest"]) for attack in ("sift", *PER_K) if (key := (model, attack, 1000)) in rows), default=0
    )


def _table(rows: dict[Key, Row], models: list[str]) -> list[str]:
    lines = [
        "| model | images | queries | attack | "
        + " | ".join(f"@{k}" for k in LADDER)
        + " | mean over k | mean L0 found | queries used |"
    ]
    lines.append("| --- | ---: | ---: | --- |" + " ---: |" * (len(LADDER) + 3))
    for model, attack, queries in sorted(rows, key=lambda key: (models.index(key[0]), key[2], _ORDER.index(key[1]))):
        row = rows[model, attack, queries]
        count = len(row["fewest"])
        if queries == 1000 and attack in ("sift", *PER_K):
            count = _common(rows, model)
        shares = []
        for k in LADDER:
            low, high = clopper_pearson(within(row, k, count), count)
            shares.append(f"{100 * within(row, k, count) / count:.0f} [{100 * low:.0f}, {100 * high:.0f}]")
        mean = np.mean([within(row, k, count) / count for k in LADDER])
        found = pixels(row, count)
        found = found[np.isfinite(found)]
        distance = f"{found.mean():.2f} ({len(found)})" if len(found) and attack not in PER_K else "-"
        budget = {"greedy": "no limit", "sigma-zero": f"{queries} steps"}.get(attack, f"{queries}")
        lines.append(
            f"| {model} | {count} | {budget} | {attack} | {' | '.join(shares)} | {100 * mean:.1f} | {distance} "
            f"| {np.mean(row['queries'][:count]):.0f} |"
        )
    return lines


def _against(rows: dict[Key, Row], models: list[str]) -> list[str]:
    lines = [
        _AGAINST,
        "| model | images | against | ours less theirs at k = 1 / 2 / 3 / 5 / 10 / 20 | mean over k, ours : theirs |",
        "| --- | ---: | --- | --- | --- |",
    ]
    ahead, level, compared = 0, 0, 0
    for model in models:
        count, ours = _common(rows, model), rows.get((model, "sift", 1000))
        theirs = [attack for attack in PER_K if (model, attack, 1000) in rows]
        if ours is None or not theirs:
            continue
        gaps = []
        for attack in theirs:
            other = rows[model, attack, 1000]
            gap = [within(ours, k, count) - within(other, k, count) for k in LADDER]
            means = [100 * np.mean([within(row, k, count) / count for k in LADDER]) for row in (ours, other)]
            gaps.append(gap)
            lines.append(
                f"| {model} | {count} | {attack} | {' / '.join(f'{d:+d}' for d in gap)} | {means[0]:.1f} : {means[1]:.1f} |"
            )
        if len(theirs) == len(PER_K):
            compared += 1
            ahead += int(all(sum(gap) > 0 for gap in gaps))
            behind = sorted(min(column) for column in zip(*gaps, strict=True))
            level += int(behind[0] >= -1 and behind[1] >= 0)
    lines.append(
        f"\nOf {compared} models with both: ahead of both in the mean over k on {ahead}; at no k behind either, but for one image at a single k, on {level}."
    )
    return lines


def _patience(rows: dict[Key, Row], models: list[str]) -> list[str]:
    lines = [
        _PATIENCE,
        "| model | images | ours, median | theirs | median | ours fewer / as many / more | mean, ours : theirs |",
        "| --- | ---: | ---: | --- | ---: | --- | --- |",
    ]
    for model in models:
        ours = rows.get((model, "sift", 5000))
        for (name, attack, _), row in rows.items():
            if ours is None or name != model or attack not in ("greedy", "sigma-zero"):
                continue
            count = min(len(ours["fewest"]), len(row["fewest"]))
            mine, other = pixels(ours, count), pixels(row, count)
            both = np.isfinite(mine) & np.isfinite(other)
            lines.append(
                f"| {model} | {count} | {np.median(mine):g} | {attack} | {np.median(other):g} "
                f"| {(mine < other).sum()} / {(mine == other).sum()} / {(mine > other).sum()} | {mine[both].mean():.2f} : {other[both].mean():.2f} |"
            )
    return lines


def _first_sixty(rows: dict[Key, Row]) -> list[str]:
    lines = [
        "\n## mnist_deepgame, the first 60 images\n",
        "| queries | mean L0 [95 %] | images |",
        "| ---: | --- | ---: |",
    ]
    for (model, attack, queries), row in sorted(rows.items(), key=lambda item: item[0][2]):
        if model == "mnist_deepgame" and attack == "sift":
            found = pixels(row, 60)
            if len(found) < 60 or not np.isfinite(found).all():
                continue
            low, high = _interval(found)
            lines.append(f"| {queries} | {found.mean():.2f} [{low:.2f}, {high:.2f}] | {len(found)} |")
    return lines


def _guides(rows: dict[Key, Row], models: list[str]) -> list[str]:
    lines = [
        _GUIDES,
        "| model | images | queries | against | SIFT needs fewer / as many / more | difference in mean log2 L0 [95 %] | first flip after queries, SIFT : other |",
        "| --- | ---: | ---: | --- | --- | --- | --- |",
    ]
    for model, attack, queries in sorted(rows, key=lambda key: (models.index(key[0]), key[2], key[1])):
        sift = rows.get((model, "sift", queries))
        if attack not in GUIDES[1:] or sift is None:
            continue
        other = rows[model, attack, queries]
        count = min(len(sift["fewest"]), len(other["fewest"]))
        mine, theirs = pixels(sift, count), pixels(other, count)
        gaps = np.log2(np.minimum(mine, _MISSED)) - np.log2(np.minimum(theirs, _MISSED))
        low, high = _interval(gaps)
        first = [
            np.median([curve[0][0] if curve else queries for curve in row["curves"][:count]]) for row in (sift, other)
        ]
        lines.append(
            f"| {model} | {count} | {queries} | {attack} | {(mine < theirs).sum()} / {(mine == theirs).sum()} / {(mine > theirs).sum()} "
            f"| {gaps.mean():+.3f} [{low:+.3f}, {high:+.3f}] | {first[0]:.0f} : {first[1]:.0f} |"
        )
    return lines


def _saved(rows: dict[Key, Row], models: list[str]) -> list[str]:
    """Queries that each guide takes until as many images are flipped as all of them flip in the end."""
    lines = [
        _SAVED,
        "| model | images | budget | flipped with at most | share | SIFT | grid | uniform | grid / SIFT | uniform / SIFT |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    rng = np.random.default_rng(0)
    for model in models:
        for queries in sorted({key[2] for key in rows if key[0] == model}):
            if not all((model, guide, queries) in rows for guide in GUIDES):
                continue
            count = min(len(rows[model, guide, queries]["fewest"]) for guide in GUIDES)
            for k in (1, 2, 5, 20, None):
                taken = np.array([_queries_until(rows[model, guide, queries], k, count) for guide in GUIDES])
                reached = int(np.isfinite(taken).sum(axis=1).min())
                if not reached:
                    continue
                until = np.sort(taken, axis=1)[:, reached - 1]
                drawn = np.sort(taken[:, rng.integers(count, size=(_DRAWS, count))], axis=2)[:, :, reached - 1]
                ratios = []
                for other in (1, 2):
                    sure = np.isfinite(drawn[[0, other]]).all(axis=0)
                    low, high = np.quantile(drawn[other, sure] / drawn[0, sure], (0.025, 0.975))
                    ratios.append(f"{until[other] / until[0]:.2f} [{low:.2f}, {high:.2f}]")
                size = "any size" if k is None else f"{k} pixel{'s' * (k > 1)}"
                lines.append(
                    f"| {model} | {count} | {queries} | {size} | {reached} of {count} | {until[0]:.0f} | {until[1]:.0f} "
                    f"| {until[2]:.0f} | {' | '.join(ratios)} |"
                )
    return lines


def _queries_until(row: Row, k: int | None, count: int) -> list[float]:
    """Of each image, the queries after which it was first flipped with at most k pixels (any number: None), inf where never."""
    return [
        min((queries for queries, size in curve if k is None or size <= k), default=np.inf)
        for curve in row["curves"][:count]
    ]


def _seeds(folder: Path) -> list[str]:
    """Nexar with other seeds: the mean of one seed says little of nine frames."""
    means: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for path in sorted(folder.glob("nexar_safecv-*-1000-000-9*.json")):
        unit = json.loads(path.read_text())
        if unit["attack"] in GUIDES:
            found = np.minimum(pixels(unit), _MISSED)
            means[unit["attack"]][unit.get("seed", 0)] = (float(found.mean()), float(np.mean(unit["queries"])))
    lines = [_SEEDS, "| guide | mean L0 of each seed | mean of all | queries |", "| --- | --- | ---: | ---: |"]
    for guide in GUIDES:
        seeds = means[guide]
        if seeds:
            each = ", ".join(f"{seeds[seed][0]:.2f}" for seed in sorted(seeds))
            both = np.mean(list(seeds.values()), axis=0)
            lines.append(f"| {guide} | {each} | {both[0]:.2f} | {both[1]:.0f} |")
    return lines


def _images(rows: dict[Key, Row], models: list[str]) -> list[str]:
    """What became of all images returned, by model and budget, the guides together."""
    sums: dict[tuple[str, int], NDArray[np.int64]] = {}
    for (model, attack, queries), row in rows.items():
        if attack in GUIDES:
            found = sum(fewest is not None for fewest in row["fewest"])
            part = np.array([found, *np.sum(row["checks"], axis=0)])
            sums[model, queries] = sums.get((model, queries), np.zeros(len(part), np.int64)) + part
    lines = [
        _IMAGES,
        "| model | queries | images returned | wrong from PNG | minimal: a pixel can be put back | a tie with a pixel less "
        "| not checked | of these a pixel can be put back |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model, queries in sorted(sums, key=lambda key: (models.index(key[0]), key[1])):
        lines.append(f"| {model} | {queries} | {' | '.join(str(count) for count in sums[model, queries])} |")
    return [*lines, f"| all | | {' | '.join(str(count) for count in np.sum(list(sums.values()), axis=0))} |"]


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of a mean."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(_DRAWS, len(values)))].mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


_ORDER = (*GUIDES, *PER_K, "greedy", "sigma-zero")
_HEAD = """# The few-pixel search

Command: `{command}`. Machine: {machine}, no GPU, one thread. All figures of this tool's search were measured with one state of the code
(digest {ours} of games, robustest/attack, robustest/baselines, robustest/classifiers, robustest/saliency), all of the others' attacks with one state of theirs
({others}: the same without this tool's search). Images: the first of each set that the model gets right, as many as time allowed. Percent of
images flipped with at most k pixels, Clopper-Pearson 95 % interval in brackets. `sift`, `grid` and `uniform` are this tool's search with that guide:
**one** run of that many queries gives the whole row. `sparse-rs` and `brusle` were given that many queries **for each k**, and their rows say what the
best of the six runs found up to k; `greedy` has no limit, `sigma-zero` takes 1,000 steps with gradients. One seed. The search was tuned on other images
(from number 500 on in MNIST, CIFAR-10 and GTSRB), but on the same ones for Nexar (12 frames exist) and the ImageNet photos (100 exist). In images of up
to 64 pixels a side SIFT is not trusted: there `sift` and `grid` are the same search, and `grid` is not run again.
"""
_AGAINST = """
## Against Sparse-RS and BruSLe, 1,000 queries: one run against one for each k

Images that ours flips more than theirs (+) or fewer (-) with at most k pixels.
"""
_PATIENCE = """
## 5,000 queries, against greedy without a limit and sigma-zero with gradients

Median and paired counts of pixels on the same images; the means are over the images that both flip.
"""
_IMAGES = """
## The images themselves

Every image that this tool's search returned in the runs above, written to PNG, read back and scored; then each of its pixels put back, and scored again. *Minimal* ones
were checked by the run itself, within its budget; the others were found too late for that, and are marked `minimal: false` in the results (of those of
them with more than 300 pixels it was not tried). A tie with another class does not count as wrong.
"""
_SEEDS = """
## Nexar, one seed after the other

Mean pixels of the nine frames at 1,000 queries, seeds from 0 on; not flipped counts as 100 pixels. Queries: mean of an image.
"""
_SAVED = """
## Queries that a guide saves

Queries until the same share of images is flipped: the share that each of the three guides reaches within the budget. More than 1: SIFT needs fewer.
Interval by bootstrap over images.
"""
_GUIDES = """
## Guides: paired on the same images

The same search, the same seed; only player I's regions differ: cut by SIFT features, a grid of squares, or the image as one region. Negative: SIFT needs
fewer pixels; an image not flipped counts as 100 pixels. Interval by bootstrap over images. First flip: of any size, median of the images.
"""
