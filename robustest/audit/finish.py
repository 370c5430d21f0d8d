"""Finishing: the shards' ledgers merged into `result.json` and what lies beside it, whole or not at all.

The images stream through; only a few numbers of each are held at once. What is written depends on the ledgers' rows
alone, so any process may finish a run, and two that do write the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np

from robustest.audit.doubts import doubts_of
from robustest.audit.facts import Columns
from robustest.audit.files import read_json, storage, write_json, writing
from robustest.audit.images import StoredImages, open_images
from robustest.audit.ledger import FILE, read_records, read_saliency, reading
from robustest.audit.maps import Halves, write_maps
from robustest.audit.plan import RESULT, Plan, shard_folder
from robustest.audit.reading import PLACEHOLDER, check_edits
from robustest.audit.records import ImageRecord, Values, to_json
from robustest.audit.schema import check_result
from robustest.audit.served import check_valid, served_doubts, served_totals
from robustest.audit.summary import AuditSummary, header_json, summarise
from robustest.audit.work import DONE
from robustest.errors import RunConflict
from robustest.images import as_eight_bit
from robustest.results import Verdict

_STALE = 3600.0  # seconds


def unfinished(run: Path, plan: Plan) -> list[int]:
    """The shards that are not done."""
    return [number for number in range(plan.shards) if not (shard_folder(run, number) / DONE).is_file()]


def finish_run(run: Path, plan: Plan) -> AuditSummary:
    """Merge a run whose shards are all done; write `result.json`, `adversarial/`, `saliency.npz` and `timing.json`.

    Raises:
        RunConflict: shards are missing, or a ledger does not hold what the plan says.
        EnvironmentFailure: the folder cannot be written.
    """
    check_valid(run)
    left = unfinished(run, plan)
    if left:
        some = f"{len(left)} of {plan.shards} shards are left, the first is {left[0]}"
        raise RunConflict(
            f"the run {str(run)!r} is not finished: {some if plan.shards > 1 else 'its one shard is left'}. "
            "Run `robustest work` on it."
        )
    with storage(run):
        images = open_images(run, plan.data.sha256)
        columns = _columns(run, plan)
        summary = summarise(
            columns,
            model=plan.model,
            data=plan.data,
            settings=plan.settings,
            versions=plan.versions,
            command=plan.command,
            doubts=(*doubts_of(plan, columns, images), *served_doubts(run)),
            path=run / RESULT,
        )
        _write_saliency(run, plan)
        _write_timing(run, plan)
        _write_result(run, plan, images, summary)
        _tidy(run)
    return summary


def _tidy(run: Path) -> None:
    """Take away what killed processes had begun to write: in finished shards all of it, elsewhere what is an hour old."""
    for path in (run / "shards").glob("*/.*.tmp"):
        path.unlink(missing_ok=True)
    for path in run.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _records(run: Path, plan: Plan, images: StoredImages) -> Iterator[ImageRecord]:
    for number in range(plan.shards):
        path = shard_folder(run, number) / FILE
        yield from read_records(path, channels=plan.data.shape[2], eight_bit=plan.data.eight_bit, names=images.names)


def _columns(run: Path, plan: Plan) -> Columns:
    """The numbers that totals are made of, checked to be of exactly the planned images."""
    kinds = {kind.value: place for place, kind in enumerate(Verdict)}
    count = plan.data.count
    verdict = np.zeros(count, np.int8)
    distance = np.full(count, np.nan)
    numbers = {
        name: np.zeros(count, np.int64)
        for name in ("l0_pixels", "queries", "remembered", "checks", "unchecked", "of_target")
    }
    for shard in range(plan.shards):
        path = shard_folder(run, shard) / FILE
        with reading(path) as db:
            key = db.execute("SELECT value FROM meta WHERE key = 'key'").fetchone()[0]
            rows = db.execute(
                "SELECT idx, verdict, distance, coalesce(l0_pixels, -1), queries, remembered, checks, "
                "coalesce(minimal = 0, 0), coalesce(verdict = 'excluded' AND predicted = label, 0) FROM image ORDER BY idx"
            ).fetchall()
        places = plan.indices(shard)
        whole = all(row[1] in kinds and (row[1] != Verdict.FLIPPED.value or row[2] is not None) for row in rows)
        if key != plan.key or not whole or [row[0] for row in rows] != list(places):
            raise RunConflict(
                f"ledger {str(path)!r} does not hold shard {shard} of this run. Remove its folder and run `robustest work` again."
            )
        where = slice(places.start, places.stop)
        verdict[where] = [kinds[row[1]] for row in rows]
        distance[where] = [np.nan if row[2] is None else row[2] for row in rows]
        for column, name in enumerate(numbers, start=3):
            numbers[name][where] = [row[column] for row in rows]
    return Columns(verdict=verdict, distance=distance, **numbers)


def _write_result(run: Path, plan: Plan, images: StoredImages, summary: AuditSummary) -> None:
    """The pictures and `result.json`, in one pass; the result takes its name last, when all the rest is there."""
    header = header_json(summary)
    check_result({**header, "images": [PLACEHOLDER]}, RESULT)
    text = json.dumps(header, indent=1, allow_nan=False)
    with _pictures(run) as folder, writing(run / RESULT) as handle:
        handle.write(f'{text.rstrip().removesuffix("}").rstrip()},\n "images": [\n'.encode())
        for record in _records(run, plan, images):
            if record.sha256 != images.sha256(record.index) or record.label != int(images.labels[record.index]):
                raise RunConflict(f"the ledger's row of image {record.index} is about another image than the run's.")
            entry = to_json(record, plan.data.shape[1])
            check_edits(entry, f"image {record.index}", plan.data.shape, eight_bit=plan.data.eight_bit)
            comma = "," if record.index + 1 < plan.data.count else ""
            handle.write(f"  {json.dumps(entry, allow_nan=False)}{comma}\n".encode())
            if record.pixels is not None:
                _write_picture(folder, record, np.asarray(images.pixels[record.index]))
        handle.write(b" ]\n}\n")


@contextmanager
def _pictures(run: Path) -> Iterator[Path]:
    """A folder for the adversarial images, which takes its name when all are in it."""
    folder = run / f".adversarial.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    folder.mkdir()
    try:
        yield folder
        if not (run / "adversarial").exists():
            with suppress(FileExistsError):  # another process that finishes the same run was faster
                folder.rename(run / "adversarial")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_picture(folder: Path, record: ImageRecord, clean: Values) -> None:
    """An adversarial image: PNG, and `.npy` where it is not 8-bit, since the PNG then only is a picture of it."""
    image = record.adversarial(clean)
    stem = f"{record.index:06d}"
    if image.dtype != np.uint8:
        np.save(folder / f"{stem}.npy", image, allow_pickle=False)
    eight_bit = image if image.dtype == np.uint8 else as_eight_bit(image.astype(np.float32))
    _, data = cv2.imencode(".png", np.ascontiguousarray(eight_bit[..., ::-1]))
    (folder / f"{stem}.png").write_bytes(data.tobytes())


def _write_saliency(run: Path, plan: Plan) -> None:
    """The saliency before and after the search, of the first images: float16, N x (H, W), with their indices."""
    height, width, _ = plan.data.shape

    def rows() -> Iterator[tuple[int, Halves, Halves]]:
        for number in range(plan.shards):
            yield from read_saliency(shard_folder(run, number) / FILE, (height, width))

    write_maps(run / "saliency.npz", rows, (height, width))


def _write_timing(run: Path, plan: Plan) -> None:
    """What may differ between two runs of the same audit: seconds, hosts, and what a server was sent."""
    marks = [read_json(shard_folder(run, number) / DONE) for number in range(plan.shards)]
    hosts = sorted({str(mark["host"]) for mark in marks})
    seconds = sum(float(mark["seconds"]) for mark in marks)
    timing = {"search_seconds": seconds, "shards": plan.shards, "hosts": hosts}
    served = served_totals(run)
    write_json(run / "timing.json", {**timing, "served": served} if served else timing)
