"""Baselines in the repository: what an audit found when it was last accepted, keyed by image digest.

A check replays the stored adversarial images first, in one batch; then it compares image by image. Never written
silently: only where `update` was asked for, and never under CI.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustest.audit.files import writing
from robustest.audit.summary import AuditSummary
from robustest.classifiers.classifier import Classifier, classes_of
from robustest.errors import InvalidSetting
from robustest.images import ImageSet, as_unit
from robustest.settings import AttackSettings

FORMAT = "robustest/baseline"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A new audit beside a baseline, on the same images.

    replayed: stored adversarial images tried on the new model. still: of these, how many are still misclassified.
    worse, better: images flipped by fewer, by more pixels than before (or now flipped, or not any more).
    p_value: one-sided sign test that images got worse no more often than better.
    examples: names of the images that got worse, worst first.
    """

    replayed: int
    still: int
    images: int
    worse: int
    better: int
    p_value: float
    examples: tuple[str, ...]


def settings_digest(settings: AttackSettings, images: int, data: str) -> str:
    """sha256 of what a baseline depends on besides the model."""
    said = asdict(settings)
    if not settings.minimal:
        del said["minimal"]  # baselines that were written before there was such a setting stay good
    text = json.dumps({"settings": said, "images": images, "data": data}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def as_baseline(name: str, summary: AuditSummary, digest: str) -> dict[str, Any]:
    """A baseline's content."""
    images = {}
    for record in summary.records:
        entry: dict[str, Any] = {"name": record.name, "label": record.label, "verdict": record.verdict.value}
        if record.distances is not None and record.pixels is not None and record.values is not None:
            entry["distance"] = record.distance(summary.settings.norm)
            entry["pixels"] = record.pixels.tolist()
            entry["values"] = record.values.tolist()
        images[record.sha256] = entry
    return {
        "format": FORMAT,
        "version": 1,
        "name": name,
        "model": {"source": summary.model.source, "sha256": summary.model.sha256},
        "settings": asdict(summary.settings),
        "settings_sha256": digest,
        "images": images,
    }


def write_baseline(path: Path, content: dict[str, Any]) -> None:
    """Write a baseline, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as handle:
        handle.write((json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def read_baseline(path: Path, digest: str) -> dict[str, Any]:
    """Read a baseline and check that it is about the same settings and images.

    Raises:
        InvalidSetting: not there, not one, or made with other settings.
    """
    if not path.is_file():
        raise InvalidSetting(
            f"baseline {path.name} does not exist in {path.parent}. Write it with: pytest --robustest-baseline=update"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"baseline {path} cannot be read: {error}. Restore it from version control.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("images"), dict):
        raise InvalidSetting(f"baseline {path} is not a baseline of robustest. Restore it from version control.")
    if content.get("settings_sha256") != digest:
        raise InvalidSetting(
            f"baseline {path.name} was made with other settings or images ({content.get('settings')}). Ask for the same "
            "ones, or accept the change with: pytest --robustest-baseline=update"
        )
    return content


def compare(content: dict[str, Any], summary: AuditSummary, classifier: Classifier, images: ImageSet) -> Comparison:
    """Replay the stored adversarial images in one batch, then compare image by image."""
    stored = content["images"]
    replayed, still = replay_stored(stored, classifier, images)
    worse: list[tuple[float, str]] = []
    better = common = 0
    for record in summary.records:
        before = stored.get(record.sha256)
        if (
            before is None
            or before["verdict"] not in ("flipped", "survived")
            or record.verdict.value not in ("flipped", "survived")
        ):
            continue
        common += 1
        old = float(before["distance"]) if "distance" in before else math.inf
        now = record.distance(summary.settings.norm)
        new = math.inf if now is None else now
        if new < old:
            worse.append((new, f"{record.name}: {old:g} -> {new:g}"))
        better += new > old
    changed = len(worse) + better
    tail = sum(math.comb(changed, count) for count in range(len(worse), changed + 1)) / 2**changed
    return Comparison(replayed, still, common, len(worse), better, tail, tuple(text for _, text in sorted(worse)[:5]))


def replay_stored(stored: dict[str, Any], classifier: Classifier, images: ImageSet) -> tuple[int, int]:
    """How many stored adversarial images there are for these images, and how many are still misclassified."""
    flat, labels = [], []
    for digest, image, label in zip(images.digests, images.images, images.labels.tolist(), strict=True):
        entry = stored.get(digest)
        if entry is None or "pixels" not in entry:
            continue
        changed = image.copy().reshape(-1, image.shape[2])
        changed[np.array(entry["pixels"], dtype=np.int64)] = np.array(entry["values"], dtype=image.dtype)
        flat.append(changed.reshape(image.shape))
        labels.append(label)
    if not flat:
        return 0, 0
    predicted = classes_of(classifier(as_unit(np.stack(flat))), classifier.info.output)
    return len(flat), int((predicted != np.array(labels)).sum())
