"""Finished rows of a comparison on disk, so that one that was interrupted goes on where it was.

A row's name is a digest of everything that its results depend on: model file, input spec, images, attack, settings, version.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from robustest import __version__
from robustest.baselines.comparison import Row, Run
from robustest.classifiers.classifier import Classifier
from robustest.images import ImageSet, as_unit
from robustest.results import AttackResult, Edits, Verdict
from robustest.settings import AttackSettings

_PLAIN = tuple(
    field.name for field in fields(AttackResult) if field.name not in ("verdict", "image", "edits", "curve", "saliency")
)


def row_key(classifier: Classifier, images: ImageSet, attack: object, settings: AttackSettings) -> str | None:
    """The row's name; None where the classifier is no file, so that nobody can know whether it is the same."""
    if classifier.info.digest is None:
        return None
    parts = [__version__, classifier.info.digest, repr(classifier.info.spec), repr(attack), repr(asdict(settings))]
    return hashlib.sha256("\n".join([*parts, *images.digests]).encode()).hexdigest()[:32]


def save_row(folder: Path, key: str, row: Row) -> None:
    """Write a row; it appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for place, run in enumerate(row.runs):
        for index, result in enumerate(run.results):
            if result.image is not None:
                arrays[f"{place}.{index}"] = result.image
    content = {
        "name": row.name,
        "access": row.access,
        "note": row.note,
        "runs": [
            {
                "attack": run.attack,
                "pixels": run.pixels,
                "budget": run.budget,
                "seconds": run.seconds,
                "results": [_plain(result) for result in run.results],
            }
            for run in row.runs
        ],
    }
    partial = folder / f"{key}.part"
    with partial.open("wb") as handle:
        np.savez_compressed(handle, row=np.array(json.dumps(content)), **arrays)
    partial.replace(folder / f"{key}.npz")


def load_row(folder: Path, key: str, images: ImageSet) -> Row | None:
    """The row of that name; None where there is none, or where it cannot be read."""
    path = folder / f"{key}.npz"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as data:
            content = json.loads(str(data["row"]))
            runs = tuple(
                Run(
                    attack=run["attack"],
                    pixels=run["pixels"],
                    budget=run["budget"],
                    seconds=run["seconds"],
                    results=tuple(
                        _result(entry, data.get(f"{place}.{index}"), images, index)
                        for index, entry in enumerate(run["results"])
                    ),
                )
                for place, run in enumerate(content["runs"])
            )
            return Row(name=content["name"], access=content["access"], note=content["note"], runs=runs)
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, OSError, EOFError):
        return None  # a torn or foreign file: the row is run again and overwrites it


def _plain(result: AttackResult) -> dict[str, Any]:
    values = {name: getattr(result, name) for name in _PLAIN}
    return {**values, "verdict": result.verdict.value, "curve": [list(point) for point in result.curve]}


def _result(entry: dict[str, Any], image: Any, images: ImageSet, index: int) -> AttackResult:
    plain = {name: entry[name] for name in _PLAIN}
    curve = tuple((int(queries), float(distance)) for queries, distance in entry["curve"])
    result = AttackResult(verdict=Verdict(entry["verdict"]), curve=curve, **plain)
    if image is None:
        return result
    base = as_unit(images.images[index : index + 1])[0]
    return replace(result, image=image, edits=Edits.between(base, as_unit(image[None])[0]))
