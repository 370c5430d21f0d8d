"""The tables of reports/search.md, from the units of work that `study_search.py` has kept."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
from study import reading
from study_search_aims import aims
from study_search_rows import (
    DRAWS,
    GUIDES,
    LADDER,
    PER_K,
    Key,
    Row,
    checked,
    common,
    gaps,
    interval,
    load,
    log_gaps,
    paired,
    pixels,
    seeds,
    unlimited,
    within,
)

from robustest.audit.statistics import clopper_pearson


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
    parts += [*aims(rows, models, folders[0]), _SAVING]
    parts += _table(rows, models)
    parts += _against(rows, models)
    parts += _patience(rows, models)
    parts += _first_sixty(rows)
    parts += _guides(rows, models)
    parts += _saved(rows, models)
    parts += _seeds(folders[0])
    parts += _images(rows, models)
    return "\n".join(parts) + "\n" + reading(target)


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
            count = common(rows, model)
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
    for model in models:
        count, found = common(rows, model), gaps(rows, model)
        for attack, gap in found.items():
            both = (rows[model, name, 1000] for name in ("sift", attack))
            means = [100 * np.mean([within(row, k, count) / count for k in LADDER]) for row in both]
            lines.append(
                f"| {model} | {count} | {attack} | {' / '.join(f'{d:+d}' for d in gap)} | {means[0]:.1f} : {means[1]:.1f} |"
            )
    return lines


def _patience(rows: dict[Key, Row], models: list[str]) -> list[str]:
    lines = [
        _PATIENCE,
        "| model | images | ours, median | theirs | median | ours fewer / as many / more | mean, ours : theirs |",
        "| --- | ---: | ---: | --- | ---: | --- | --- |",
    ]
    for model in models:
        for attack in ("greedy", "sigma-zero"):
            if (both := unlimited(rows, model, attack)) is None:
                continue
            mine, other = both
            found = np.isfinite(mine) & np.isfinite(other)
            lines.append(
                f"| {model} | {len(mine)} | {np.median(mine):g} | {attack} | {np.median(other):g} "
                f"| {(mine < other).sum()} / {(mine == other).sum()} / {(mine > other).sum()} | {mine[found].mean():.2f} : {other[found].mean():.2f} |"
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
            low, high = interval(found)
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
        mine, theirs = paired(rows, model, attack, queries)
        count, gap = len(mine), log_gaps(mine, theirs)
        low, high = interval(gap)
        first = [
            np.median([curve[0][0] if curve else queries for curve in row["curves"][:count]]) for row in (sift, other)
        ]
        lines.append(
            f"| {model} | {count} | {queries} | {attack} | {(mine < theirs).sum()} / {(mine == theirs).sum()} / {(mine > theirs).sum()} "
            f"| {gap.mean():+.3f} [{low:+.3f}, {high:+.3f}] | {first[0]:.0f} : {first[1]:.0f} |"
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
                drawn = np.sort(taken[:, rng.integers(count, size=(DRAWS, count))], axis=2)[:, :, reached - 1]
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
    lines = [_SEEDS, "| guide | mean L0 of each seed | mean of all | queries |", "| --- | --- | ---: | ---: |"]
    for guide, means in sorted(seeds(folder).items(), key=lambda item: GUIDES.index(item[0])):
        each = ", ".join(f"{means[seed][0]:.2f}" for seed in sorted(means))
        both = np.mean(list(means.values()), axis=0)
        lines.append(f"| {guide} | {each} | {both[0]:.2f} | {both[1]:.0f} |")
    return lines


def _images(rows: dict[Key, Row], models: list[str]) -> list[str]:
    """What became of all images returned, by model and budget, the guides together."""
    sums = checked(rows)
    lines = [
        _IMAGES,
        "| model | queries | images returned | wrong from PNG | minimal: a pixel can be put back | a tie with a pixel less "
        "| not checked | of these a pixel can be put back |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model, queries in sorted(sums, key=lambda key: (models.index(key[0]), key[1])):
        lines.append(f"| {model} | {queries} | {' | '.join(str(count) for count in sums[model, queries])} |")
    return [*lines, f"| all | | {' | '.join(str(count) for count in np.sum(list(sums.values()), axis=0))} |"]


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
_SAVING = """
Of finds of more than 300 pixels that the run did not check it was not tried whether they can lose one. Twice fewer queries with SIFT than with a grid or one region were
aimed for on Nexar and photos, too: not reached, see "Queries that a guide saves".

## Share of images flipped
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
