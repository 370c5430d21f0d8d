"""`robustest bench`: an audit's speed against the bare model's."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from robustest.commands.audit_flags import AS_FOUND, ModelFlags
from robustest.commands.shared import read_images

if TYPE_CHECKING:
    from robustest.classifiers.classifier import Classifier


def bench(
    model: str,
    images: Path,
    /,
    *,
    queries: int = 1000,
    number: Annotated[int, Parameter(name="--images")] = 64,
    turns: int = 3,
    workers: int | None = None,
    seed: int = 0,
    spec: ModelFlags = AS_FOUND,
    device: str | None = None,
    threads: int | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> int:
    """Measure an audit's speed against the bare model's, in turns within one run.

    Each image is attacked as being of the class that the model gives it, so that random weights do.

    Args:
        model: ONNX file, module:callable, or the URL of a served model.
        images: folder or .npz file.
        queries: budget of each image.
        number: how many images are attacked.
        turns: how often raw rate and audit are each measured.
        workers: processes that share the images and the cores; if not given, one a core for an ONNX file, else one.
        seed: of every random stream.
        device: of a torch module, such as cuda:0.
        threads: of an ONNX model's own arithmetic where there is one process; all cores if not given.
        json_file: where to write the figures as JSON.
    """
    from robustest.audit.files import check_writable
    from robustest.bench import measure
    from robustest.classifiers.onnx_file import OnnxClassifier
    from robustest.errors import InvalidSetting
    from robustest.report.files import write_text
    from robustest.settings import AttackSettings

    if turns < 1 or number < 1 or (workers is not None and workers < 1):
        raise InvalidSetting(f"--turns, --images and --workers must be >= 1; got {turns}, {number} and {workers}.")
    settings = AttackSettings(queries=queries, seed=seed)
    if json_file is not None:
        check_writable(json_file.parent)  # before anything is measured
    classifier = spec.load(model, device=device, threads=threads)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if isinstance(classifier, OnnxClassifier) and threads is None else 1
    chosen = read_images(images)
    chosen = chosen.take(range(min(number, len(chosen))))
    opener = functools.partial(_opened, spec, model, device)
    speed = measure(classifier, chosen, settings, turns=turns, workers=min(workers, len(chosen)), opener=opener)
    print(
        f"{speed.model}: {speed.images} images, {speed.queries} queries in {speed.seconds:.1f} s, "
        f"processes {speed.workers}, batch {speed.batch}, inner loops {'compiled' if speed.compiled else 'in numpy'}"
    )
    if speed.right < speed.images:
        print(f"  {speed.right} of the images have the class that they are labelled with; speed is measured on all")
    print(f"  raw model      {speed.raw_per_second:12.1f} images/s")
    if speed.workers > 1:
        print(f"    one process  {speed.raw_one_process_per_second:12.1f}")
        print(f"    {speed.workers} processes  {speed.raw_workers_per_second:12.1f}")
    print(f"  audit          {speed.audit_per_second:12.1f} queries/s")
    print(
        f"  ratio          {speed.ratio:12.3f}  ({min(speed.ratios):.3f} to {max(speed.ratios):.3f} in {turns} turns)"
    )
    print(f"  peak memory    {speed.peak_memory_bytes / 2**20:12.0f} MiB")
    _print_shares("share of the processes' time:", speed.shares)
    if speed.shares_beside:
        _print_shares("beside that, share of the same time in a thread that scores:", speed.shares_beside)
    if json_file is not None:
        write_text(json_file, json.dumps(speed.as_json(), indent=2) + "\n")
    return 0


def _print_shares(title: str, shares: dict[str, float]) -> None:
    print(f"  {title}")
    for name, share in shares.items():
        print(f"    {name:12} {share:12.1%}")


def _opened(spec: ModelFlags, model: str, device: str | None, threads: int) -> Classifier:
    return spec.load(model, device=device, threads=threads, quiet=True)
