"""Reading a `result.json`: an image at a time where it has the layout that it is written in, so that a large one does not
have to be held as a whole, and every image checked against the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from robustest.audit.records import ImageRecord, from_json, to_json
from robustest.audit.schema import check_entry, check_result
from robustest.errors import RunConflict
from robustest.results import Verdict

_OPENING = '"images": ['
_EDIT = {"row", "column", "value"}
WAY_OUT = "In a whole run folder it can be removed: the same audit again, or `robustest finish`, writes it anew."
PLACEHOLDER: dict[str, Any] = to_json(
    ImageRecord(index=0, name="", sha256="0" * 64, label=0, verdict=Verdict.SURVIVED), 1
)


def read_result(path: Path) -> tuple[dict[str, Any], tuple[ImageRecord, ...]]:
    """All of a result but its images, and the records of its images.

    Raises:
        RunConflict: missing, not JSON, not of this format, or images out of order.
    """
    try:
        with path.open(encoding="utf-8") as handle:
            header = _header(handle)
            if header is not None:
                return header, _records(header, _lines(handle, path), path)
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunConflict(
            f"result {str(path)!r} does not exist. Run `robustest audit`, or `robustest finish` on a planned run, first."
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise RunConflict(f"result {str(path)!r} cannot be read as JSON: {error}. {WAY_OUT}") from error
    check_result(content, str(path))
    header = {key: value for key, value in content.items() if key != "images"}
    return header, _records(header, iter(content["images"]), path)


def _header(handle: IO[str]) -> dict[str, Any] | None:
    """What stands before the images, or None where the file has another layout."""
    lines = []
    for line in handle:
        if line.strip() == _OPENING:
            break
        lines.append(line)
        if len(lines) > 100_000:
            return None
    else:
        return None
    try:
        header = json.loads("".join(lines).rstrip().removesuffix(",") + "}")
    except ValueError:
        return None
    return header if isinstance(header, dict) else None


def _lines(handle: IO[str], path: Path) -> Iterator[Any]:
    """The images, one a line, and then nothing more."""
    for line in handle:
        text = line.strip()
        if text == "]":
            break
        yield json.loads(text.removesuffix(","))
    if "".join(handle).split() != ["}"]:
        raise RunConflict(f"result {str(path)!r} is cut short, or was changed after it was written. {WAY_OUT}")


def _records(header: dict[str, Any], entries: Iterator[Any], path: Path) -> tuple[ImageRecord, ...]:
    check_result({**header, "images": [PLACEHOLDER]}, str(path))
    height, width, channels = header["data"]["shape"]
    eight_bit = header["data"]["eight_bit"]
    records = []
    for place, entry in enumerate(entries):
        where = f"image {place} of {str(path)!r}"
        if not isinstance(entry, dict) or entry.get("index") != place:
            raise RunConflict(f"{where} is missing or out of order. It was changed after it was written.")
        check_edits(entry, where, (height, width, channels), eight_bit=eight_bit)
        try:
            records.append(from_json(entry, width, eight_bit=eight_bit))
        except (TypeError, ValueError, OverflowError) as error:
            raise RunConflict(
                f"{where} has a value that does not fit: {error}. It was changed after it was written."
            ) from error
    return tuple(records)


def check_edits(entry: dict[str, Any], where: str, shape: tuple[int, int, int], *, eight_bit: bool) -> None:
    """Check an image's entry: against the schema, its edits, which are many and all of one form, as arrays.

    Raises:
        RunConflict: it does not fit.
    """
    edits = entry.get("edits")
    if not isinstance(edits, list) or len(edits) < 2:
        check_entry(entry, where)
        if not edits:
            return
    else:
        check_entry({**entry, "edits": edits[:1]}, where)
    height, width, channels = shape
    try:
        places = np.array([(edit["row"], edit["column"]) for edit in edits])
        values = np.array([edit["value"] for edit in edits])
        fits = all(edit.keys() == _EDIT for edit in edits) and places.dtype.kind == "i" and values.dtype.kind in "if"
        fits = fits and values.shape == (len(edits), channels) and (values.dtype.kind == "i" or not eight_bit)
        fits = fits and bool(((places >= 0) & (places < (height, width))).all())
        fits = fits and bool(((values >= 0) & (values <= (255 if eight_bit else 1))).all())
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        fits = False
    if not fits or (entry["verdict"] == Verdict.FLIPPED.value and entry["l0_pixels"] is None):
        raise RunConflict(f"{where} has an edit that is none, or outside the image. It was changed, or is damaged.")
