"""What the few-pixel search was to reach, and what it came to: the first table of reports/search.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from study_search_rows import (
    GUIDES,
    PER_K,
    Key,
    Row,
    checked,
    gaps,
    interval,
    log_gaps,
    nowhere_behind,
    paired,
    pixels,
    seeds,
    unlimited,
)

from robustest.audit.statistics import clopper_pearson

_SIXTY = 60
_SMALL = ("mnist", "cifar")  # of which greedy runs without a limit


def aims(rows: dict[Key, Row], models: list[str], folder: Path) -> list[str]:
    """A line for each aim: what was aimed for, what was measured, and whether that reaches it.

    Args:
        folder: the units of this tool's search, for Nexar's other seeds.
    """
    found = [*_per_k(rows, models), *_unlimited(rows, models), *_first_sixty(rows), *_sift(rows)]
    found += [*_nexar(folder), *_images(rows)]
    lines = ["| aimed for | measured | reached |", "| --- | --- | --- |"]
    return lines + [f"| {aim} | {figure} | {'yes' if reached else '**no**'} |" for aim, figure, reached in found]


Aim = tuple[str, str, bool]


def _per_k(rows: dict[Key, Row], models: list[str]) -> list[Aim]:
    known = [found for model in models if len(found := gaps(rows, model)) == len(PER_K)]
    ahead = sum(all(sum(gap) > 0 for gap in found.values()) for found in known)
    level = sum(map(nowhere_behind, known))
    what = "1,000 queries in one run, against Sparse-RS and BruSLe with 1,000 for each k"
    return [
        (
            f"{what}: at each k as many images, but for one at a single k",
            f"{level} of {len(known)} models",
            level == len(known),
        ),
        ("the same: ahead in the mean over k on 8 of 10", f"{ahead} of {len(known)} models", ahead >= 0.8 * len(known)),
    ]


def _unlimited(rows: dict[Key, Row], models: list[str]) -> list[Aim]:
    greedy = [both for model in models if model.startswith(_SMALL) and (both := unlimited(rows, model, "greedy"))]
    fewer = sum(np.median(ours) <= np.median(theirs) for ours, theirs in greedy)
    sigma = [both for model in models if (both := unlimited(rows, model, "sigma-zero"))]
    medians = [int(np.sign(np.median(theirs) - np.median(ours))) for ours, theirs in sigma]
    flipped = [(ours, theirs, np.isfinite(ours) & np.isfinite(theirs)) for ours, theirs in sigma]
    means = sum(ours[both].mean() < theirs[both].mean() for ours, theirs, both in flipped)
    told = (
        f"below on {medians.count(1)}, equal on {medians.count(0)} of {len(sigma)} models; the mean is below on {means}"
    )
    return [
        (
            "5,000 queries: median at most greedy's, MNIST and CIFAR-10",
            f"{fewer} of {len(greedy)} models",
            fewer == len(greedy),
        ),
        ("5,000 queries: median below sigma-zero's", told, medians.count(1) == len(sigma)),
    ]


def _first_sixty(rows: dict[Key, Row]) -> list[Aim]:
    found = []
    for queries, most in ((1000, 5.4), (5000, 4.8)):
        row = rows.get(("mnist_deepgame", "sift", queries))
        taken = pixels(row, _SIXTY) if row else np.zeros(0)
        if len(taken) == _SIXTY:
            aim = f"mnist_deepgame, {_SIXTY} images, {queries:,} queries: at most {most} pixels in the mean"
            found.append((aim, f"{taken.mean():.2f}", bool(taken.mean() <= most)))
    return found


def _sift(rows: dict[Key, Row]) -> list[Aim]:
    compared = [key for key in rows if key[1] in GUIDES[1:] and (key[0], "sift", key[2]) in rows]
    ends = [interval(log_gaps(*paired(rows, *key))) for key in compared]
    worse, better = sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)
    told = f"worse on {worse}, better on {better} of {len(ends)}"
    return [("SIFT against a grid or one region: not worse beyond the paired interval", told, not worse)]


def _nexar(folder: Path) -> list[Aim]:
    means = seeds(folder).get("sift", {})
    if not means:
        return []
    mean = float(np.mean([pixels_taken for pixels_taken, _ in means.values()]))
    return [
        ("Nexar, 1,000 queries: at most 1.12 pixels in the mean", f"{mean:.2f} over {len(means)} seeds", mean <= 1.12)
    ]


def _images(rows: dict[Key, Row]) -> list[Aim]:
    counts = checked(rows)
    if not counts:
        return []
    returned, wrong = (int(number) for number in np.sum([count[:2] for count in counts.values()], axis=0))
    low = clopper_pearson(wrong, returned)[0]
    found = [
        (
            "every image returned is wrong from PNG",
            f"{wrong:,} of {returned:,} (95 %: at least {100 * low:.1f} %)",
            wrong == returned,
        )
    ]
    for queries in sorted({queries for _, queries in counts}):
        of_all, _, droppable, _, unchecked, of_these = (
            int(number) for number in np.sum([count for key, count in counts.items() if key[1] == queries], axis=0)
        )
        told = (
            f"{droppable + of_these} of {of_all:,} can; of the {of_all - unchecked:,} that the run checked {droppable}"
        )
        found.append((f"none returned at {queries:,} queries can lose a pixel", told, droppable + of_these == 0))
    return found
