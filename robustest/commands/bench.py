"""`robustest bench`: an audit's speed against the bare model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from robustest.commands.audit_flags import AS_FOUND, ModelFlags


def bench(
    model: str,
    images: Path,
    /,
    *,
    queries: int = 1000,
    number: Annotated[int, Parameter(name="--images")] = 32,
    turns: int = 3,
    seed: int = 0,
    spec: ModelFlags = AS_FOUND,
    device: str | None = None,
    threads: int | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> int:
    """Measure an audit's speed against the bare model's, in turns within one run.

    Args:
        model: ONNX file, module:callable, or the URL of a served model.
        images: folder or .npz file.
        queries: budget of each image.
        number: how many images are attacked side by side.
        turns: how often raw rate and audit are each measured.
        seed: of every random stream.
        device: of a torch module, such as cuda:0.
        threads: of an ONNX model's own arithmetic; all cores if not given.
        json_file: where to write the figures as JSON.
    """
    from robustest.bench import measure
    from robustest.errors import InvalidSetting
    from robustest.images import load_images
    from robustest.settings import AttackSettings

    if turns < 1 or number < 1:
        raise InvalidSetting(f"--turns and --images must be >= 1; got {turns} and {number}.")
    settings = AttackSettings(queries=queries, seed=seed)
    classifier = spec.load(model, device=device, threads=threads)
    chosen = load_images(images)
    speed = measure(classifier, chosen.take(range(min(number, len(chosen)))), settings, turns=turns)
    print(
        f"{speed.model}: {speed.images} images, {speed.queries} queries in {speed.seconds:.1f} s, batch {speed.batch}"
    )
    print(f"  raw model      {speed.raw_per_second:12.1f} images/s")
    print(f"  audit          {speed.audit_per_second:12.1f} queries/s")
    print(f"  ratio          {speed.ratio:12.3f}")
    print(f"  peak memory    {speed.peak_memory_bytes / 2**20:12.0f} MiB")
    print("  share of the audit's time (scoring runs beside the rest):")
    for name, share in speed.shares.items():
        print(f"    {name:12} {share:12.1%}")
    if json_file is not None:
        json_file.write_text(json.dumps(speed.as_json(), indent=2) + "\n")
    return 0
