"""A comparison as files: comparison.json for machines, adversarial.npz with the images that were found."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from robustest.audit.statistics import Share
from robustest.baselines.comparison import Comparison, Row, Run
from robustest.errors import InvalidSetting
from robustest.results import AttackResult

FORMAT = "robustest-comparison/1"


def parse_pixels(text: str) -> tuple[int, ...]:
    """Numbers of pixels from `1,2,5`.

    Raises:
        InvalidSetting: not whole numbers >= 1 in a comma-separated list.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise InvalidSetting(
            f"--pixels must be whole numbers >= 1 separated by commas; got {text!r}. Try 1,2,3,5,10,20."
        )
    return tuple(sorted({int(part) for part in parts}))


def write_json(comparison: Comparison, path: Path) -> None:
    """Write everything but the images; the same comparison gives the same bytes, times apart."""
    path.write_text(json.dumps(as_json(comparison), indent=1) + "\n", encoding="utf-8")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values."""
    return {
        "format": FORMAT,
        "version": comparison.version,
        "command": comparison.command,
        "classifier": {"source": comparison.classifier, "sha256": comparison.digest},
        "images": {
            "source": comparison.source,
            "shape": list(comparison.shape),
            "names": list(comparison.names),
            "labels": list(comparison.labels),
            "sha256": list(comparison.image_digests),
            "skipped_as_misclassified": comparison.skipped,
        },
        "norm": comparison.norm,
        "queries": comparison.queries,
        "seed": comparison.seed,
        "pixels": list(comparison.pixels),
        "attacks": [_row(comparison, row) for row in comparison.rows],
        "pairs": [
            {"first": duel.first, "second": duel.second, "pixels": duel.pixels, **asdict(duel.paired)}
            for duel in comparison.duels()
        ],
        "doubts": comparison.doubts(),
    }


def write_adversarials(comparison: Comparison, path: Path) -> None:
    """Write the adversarial images of each run: `NAME` (M, H, W, C) and `NAME.index` (M,), their places in the comparison."""
    arrays: dict[str, Any] = {}
    for row in comparison.rows:
        for run in row.runs:
            found = [(i, result.image) for i, result in enumerate(run.results) if result.image is not None]
            if found:
                arrays[run.attack] = np.stack([image for _, image in found])
                arrays[f"{run.attack}.index"] = np.array([index for index, _ in found], np.int64)
    with path.open("wb") as handle:
        np.savez_compressed(handle, **arrays)


def _row(comparison: Comparison, row: Row) -> dict[str, Any]:
    median, distance = comparison.median_pixels(row), comparison.median_distance(row)
    return {
        "name": row.name,
        "access": row.access,
        "note": row.note,
        "fixed_pixels": row.fixed,
        "median_pixels": None if median is None else asdict(median),
        "median_distance": None if distance is None else asdict(distance),
        "success_at_pixels": [
            {"pixels": k, **_share(share)}
            for k in comparison.pixels
            if (share := comparison.success(row, k)) is not None
        ],
        "success_curve": [{"pixels": k, **_share(share)} for k, share in comparison.success_curve(row)],
        "query_curve": [
            {"queries": point.queries, "median_distance": point.distance, **_share(point.flipped)}
            for point in comparison.query_curve(row)
        ],
        "runs": [_run(run) for run in row.runs],
    }


def _share(share: Share) -> dict[str, Any]:
    return {
        "flipped": share.count,
        "of": share.of,
        "low": share.low,
        "high": share.high,
        "confidence": share.confidence,
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "attack": run.attack,
        "pixels": run.pixels,
        "budget": run.budget,
        "processor_seconds": run.seconds,
        "results": [_result(result) for result in run.results],
    }


def _result(result: AttackResult) -> dict[str, Any]:
    return {
        "verdict": result.verdict.value,
        "reason": result.reason,
        "predicted": result.predicted,
        "l0_pixels": result.l0_pixels,
        "l0_dims": result.l0_dims,
        "l1": result.l1,
        "l2": result.l2,
        "linf": result.linf,
        "minimal": result.minimal,
        "queries": result.queries,
        "remembered": result.remembered,
        "checks": result.checks,
        "gradients": result.gradients,
        "margin": result.margin,
        "curve": [list(point) for point in result.curve],
    }
