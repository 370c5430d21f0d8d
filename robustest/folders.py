"""Which pictures of a folder are of which class: subfolders, one a class, or a `labels.csv`. Reads no picture."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from robustest.errors import InvalidImage

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
DIGITS = 9  # of a class number
_OTHERS = (".gif", ".jfif", ".jp2", ".heic", ".heif", ".avif", ".npy")  # images too, that are not read
_SYSTEMS = ("__MACOSX", "__pycache__")  # folders that archives and programs leave
_RUNS = ("plan.json", "result.json", "certify.json", "comparison.json")  # one of them lies in every folder of a run
_MARK, _HEAD = b'"format": "robustest', 64  # what these files begin with


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds.

    files: the pictures. labels: the class of each. class_names: where classes have names; empty where they have numbers.
    left_out: images that lie there without a class or in a format that is not read, as paths in the folder.
    runs: folders there that hold a run of ours, as paths in the folder; what is in them is in neither list.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    left_out: tuple[str, ...]
    runs: tuple[str, ...]


def list_folder(where: Path) -> Listing:
    """The pictures of a folder with one subfolder a class, or with a `labels.csv` of two columns, file and label.

    A table gives their order. Of subfolders they take turns, so that the first N hold each class in its share of them all.

    Raises:
        InvalidImage: labels are missing, or contradict each other.
    """
    table = where / "labels.csv"
    files, labels, class_names = _listed(where, table) if table.is_file() else _by_subfolder(where)
    taken = set(files)
    others: list[str] = []
    runs: list[str] = []
    for name, subfolders, inside in os.walk(where):
        folder = Path(name)
        if folder != where and _hidden(folder, where):
            subfolders.clear()
        elif folder != where and _holds_run(folder):
            subfolders.clear()
            runs.append(str(folder.relative_to(where)))
        else:
            paths = [folder / file for file in inside]
            others += [
                str(path.relative_to(where))
                for path in paths
                if path.suffix.lower() in SUFFIXES + _OTHERS and path not in taken and not _hidden(path, where)
            ]
    return Listing(tuple(files), tuple(labels), class_names, tuple(sorted(others)), tuple(sorted(runs)))


def _holds_run(folder: Path) -> bool:
    """True for a folder that an audit, its evidence, proofs or a comparison were written to, and that holds no picture itself,
    as a class folder would: it is no class, and its pictures are no images of the set."""
    for name in _RUNS:
        try:
            with (folder / name).open("rb") as handle:
                ours = _MARK in handle.read(_HEAD)
        except OSError:  # there is none, or nobody may read it
            continue
        if ours:
            return not any(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir())
    return False


def _hidden(path: Path, root: Path) -> bool:
    """True for what a file browser does not show, and for what archives and programs leave."""
    parts = path.relative_to(root).parts
    return any(part.startswith(".") or part in _SYSTEMS for part in parts)


def _by_subfolder(where: Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    folders = sorted(
        (e for e in where.iterdir() if e.is_dir() and not _hidden(e, where) and not _holds_run(e)), key=_order
    )
    loose = sorted(entry for entry in where.iterdir() if entry.suffix.lower() in SUFFIXES and not _hidden(entry, where))
    if loose and not folders:
        raise InvalidImage(
            f"labels are missing: {str(where)!r} holds pictures such as {loose[0].name!r} but no labels.csv and no subfolders. "
            "Put each class into a subfolder of its own, or write labels.csv with the columns file,label."
        )
    numbers = [folder.name for folder in folders if _is_number(folder.name)]
    names = [folder.name for folder in folders if not _is_number(folder.name)]
    if numbers and names:
        raise InvalidImage(
            f"subfolders of {str(where)!r} must all be class numbers, or all names; got {numbers[0]!r} and {names[0]!r}. Move "
            "away what is no class, or name the classes alike (speed_30 for 30)."
        )
    turns: list[tuple[float, int, Path]] = []
    for position, folder in enumerate(folders):
        inside = sorted(
            entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and not _hidden(entry, where)
        )
        turns += [((place + 0.5) / len(inside), position, file) for place, file in enumerate(inside)]
    turns.sort()
    labels = [int(folders[position].name) if numbers else position for _, position, _ in turns]
    return [file for *_, file in turns], labels, tuple(names)


def _order(folder: Path) -> tuple[int, str]:
    return (int(folder.name), "") if _is_number(folder.name) else (0, folder.name)


def _is_number(text: str) -> bool:
    """True for a class number; other texts are names."""
    return text.isascii() and text.isdigit() and len(text) <= DIGITS


def _whole(text: str) -> str:
    """A number as data frames write it when a value is missing somewhere, such as 3.0, without its fraction of 0."""
    return text.removesuffix(".0")


def _listed(where: Path, table: Path) -> tuple[list[Path], list[int], tuple[str, ...]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            rows = [row for row in csv.reader(handle) if row and any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidImage(f"labels.csv {str(table)!r} cannot be read: {error}.") from error
    headed = bool(rows) and [cell.strip().lower() for cell in rows[0][:2]] in (
        ["file", "label"],
        ["filename", "label"],
        ["name", "label"],
    )
    rows = rows[headed:]
    rows_of: dict[Path, int] = {}
    texts: list[str] = []
    root, base = where.resolve(), Path(os.path.abspath(where))
    for number, row in enumerate(rows, start=1):
        if len(row) < 2:
            raise InvalidImage(f"labels.csv row {number} must be file,label; got {','.join(row)!r}.")
        named = Path(os.path.abspath(where / row[0].strip()))
        try:
            real, there = named.resolve(), named.is_file()
        except (OSError, ValueError) as error:
            raise InvalidImage(f"labels.csv row {number} names a file that cannot be: {error}.") from error
        if not real.is_relative_to(root):
            raise InvalidImage(f"labels.csv row {number} names {row[0]!r}, which lies outside {str(where)!r}.")
        if not there:
            hint = "" if headed or number > 1 else " Column headings must be file,label."
            raise InvalidImage(f"labels.csv row {number} names {row[0]!r}, which is not in {str(where)!r}.{hint}")
        file = where / (named.relative_to(base) if named.is_relative_to(base) else real.relative_to(root))
        if file in rows_of:
            raise InvalidImage(
                f"labels.csv row {number} names {row[0]!r}, as row {rows_of[file]} does. Keep one of the two."
            )
        text = row[1].strip()
        if not text:
            raise InvalidImage(f"labels.csv row {number} has no label for {row[0]!r}.")
        rows_of[file] = number
        texts.append(text)
    files = list(rows_of)
    if all(_is_number(_whole(text)) for text in texts):
        return files, [int(_whole(text)) for text in texts], ()
    names = tuple(sorted(set(texts)))
    return files, [names.index(text) for text in texts], names
