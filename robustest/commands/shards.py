"""`robustest plan`, `work`, `status` and `finish`: one audit by many processes and machines that share a folder."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from robustest.commands.audit_flags import (
    AS_FOUND,
    AS_USUAL,
    ONE_WAY,
    AttackFlags,
    Format,
    ModelFlags,
    command_line,
    deliver,
    interruptible,
    requirements_of,
)
from robustest.commands.shared import read_images


def plan(
    model: str,
    images: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    shards: int | None = None,
    limit: Annotated[int | None, Parameter(name="--images")] = None,
    attack: AttackFlags = AS_USUAL,
    spec: ModelFlags = AS_FOUND,
    dry_run: Annotated[bool, ONE_WAY] = False,
) -> int:
    """Plan an audit in shards, for many processes or machines.

    Writes RUN/plan.json and the images, nothing more. Then run `robustest work RUN` as often as you like, on any machine that sees the folder, and `robustest finish RUN` at the end. The result is that of `robustest audit`, bit for bit.

    With --dry-run nothing is written: the model is measured for some seconds, and what the audit will cost is printed.

    Args:
        model: ONNX file, module:callable, or the URL of a served model; other machines load it by the same name, or by --model.
        images: folder with a subfolder a class or a labels.csv, or an .npz with images and labels.
        out: the run folder; empty or missing, or that of this very plan.
        shards: parts that are worked on apart; about sixteen, of at most 1000 images, if not given.
        limit: only the first so many images.
        dry_run: measure and say what it will cost.
    """
    from robustest.audit.run import check_call, image_set, plan_run
    from robustest.errors import InvalidSetting
    from robustest.report.words import plural

    settings = attack.settings()
    check_call(settings, workers=1, limit=limit)
    if out is None and not dry_run:
        raise InvalidSetting("-o RUN is missing: the folder for the plan. With --dry-run none is needed.")
    classifier = spec.load(model)
    data = image_set(read_images(images), None, classifier, limit)
    if dry_run or out is None:
        from robustest.audit.cost import estimate

        for line in estimate(classifier, data, settings).lines():
            print(line)
        return 0
    made = plan_run(
        out,
        classifier,
        data,
        settings,
        origin=model,
        trust_model=spec.trust_model,
        shards=shards,
        command=command_line("audit", model, images, settings, limit, spec),
    )
    print(f"{out}: {plural(made.data.count, 'image')} in {plural(made.shards, 'shard')}. Next: robustest work {out}")
    return 0


def work(
    run: Path,
    /,
    *,
    workers: int = 1,
    shard: Annotated[tuple[int, ...], ONE_WAY] = (),
    model: str | None = None,
    devices: Annotated[
        tuple[str, ...], Parameter(name=["--devices", "--device"], negative="", show_default=False)
    ] = (),
    on: str | None = None,
    gpus: float = 0,
    no_wait: Annotated[bool, ONE_WAY] = False,
    durable: Annotated[bool, ONE_WAY] = False,
    expiry: float = 30.0,
) -> int:
    """Work on the shards of a planned audit until none is left.

    Start it on as many machines as you like, at any time, and end it in any way: a shard whose worker died is taken over. An image that kills its worker is played once more alone, then recorded as unknown with the reason.

    With --on the shards are placed by a Dask or Ray cluster whose machines see the folder under the same path.

    Args:
        run: the run folder.
        workers: processes on this machine.
        shard: only these shards, such as a number of a Slurm array; all that are free if not given.
        model: where the model is on this machine, if not where it was when planned; it must be the same file.
        devices: of a torch module, such as cuda:0; several are given to the workers in turn.
        on: dask://host:port, ray://host:port, or ray://local.
        gpus: that each shard needs: Dask's resource GPU, Ray's num_gpus.
        no_wait: end when no shard is free, even if others are still being worked on elsewhere.
        durable: also survive a loss of power, at the cost of a disk flush for every image.
        expiry: seconds without a sign of life after which a worker on another machine counts as dead.
    """
    from robustest.audit.plan import load_plan
    from robustest.audit.progress import Meter, progress_bar
    from robustest.audit.status import counted
    from robustest.audit.supervise import supervise
    from robustest.errors import InvalidSetting

    planned = load_plan(run)
    wrong = [number for number in shard if not 0 <= number < planned.shards]
    if wrong:
        raise InvalidSetting(f"--shard must be 0 to {planned.shards - 1}; got {wrong[0]}.")
    if workers < 1:
        raise InvalidSetting(f"--workers must be >= 1; got {workers}.")
    if not expiry >= 6:
        raise InvalidSetting(f"--expiry must be at least 6 seconds, two heartbeats; got {expiry:g}.")
    stopped = f"stopped; what was done is kept in {run}. `robustest work {run}` goes on from there."
    if on is not None:
        from robustest.audit.engines import place

        with interruptible(stopped):
            place(on, run, model=model, gpus=gpus, expiry=expiry, notify=_shards_done)
    else:
        with interruptible(stopped), progress_bar() as tell:
            supervise(
                run,
                workers=workers,
                model=model,
                devices=devices,
                only=shard or None,
                wait=not no_wait,
                durable=durable,
                expiry=expiry,
                notify=Meter(planned.data.count, counted(run, planned), tell) if tell is not None else None,
            )
    return _next_step(run)


def _shards_done(done: int, of: int) -> None:
    from robustest.report.words import plural

    print(f"robustest: {done} of {plural(of, 'shard')} done", file=sys.stderr)


def _next_step(run: Path) -> int:
    from robustest.audit.finish import unfinished
    from robustest.audit.plan import load_plan
    from robustest.report.words import plural

    planned = load_plan(run)
    left = unfinished(run, planned)
    if left:
        print(
            f"{run}: {planned.shards - len(left)} of {plural(planned.shards, 'shard')} done. `robustest status {run}` shows more."
        )
    else:
        print(
            f"{run}: {'the one shard is' if planned.shards == 1 else f'all {planned.shards} shards are'} done. Next: robustest finish {run}"
        )
    return 0


def status(run: Path, /, *, format: Literal["human", "json"] = "human", watch: float | None = None) -> int:
    """Show how far a planned audit is: share done, flipped so far, rate, time left, workers, failures.

    Reads the folder's files alone, so it can be asked anywhere and at any time, and disturbs nobody.

    Args:
        run: the run folder.
        format: for people (human), or json.
        watch: show it again every so many seconds, until all shards are done.
    """
    from robustest.audit.plan import load_plan
    from robustest.audit.status import run_status

    planned = load_plan(run)
    while True:
        now = run_status(run, planned)
        if format == "json":
            table = {**asdict(now), "rate": now.rate, "seconds_left": now.seconds_left}
            print(json.dumps({**table, "counted": {**asdict(now.counted), "done": now.counted.done}}), flush=True)
        else:
            print("\n".join(now.lines(planned.settings.attack)), flush=True)
        if watch is None or now.done == now.shards:
            return 0
        time.sleep(watch)


def finish(
    run: Path,
    /,
    *,
    require: Annotated[tuple[str, ...], ONE_WAY] = (),
    format: Format = "human",
) -> int:
    """Merge, seal and report a planned audit whose shards are all done.

    Writes RUN/result.json, RUN/report.html, RUN/summary.md and the adversarial images. Any number of times, anywhere: the same bytes.

    Args:
        run: the run folder.
        require: at least this share must survive this distance, as distance:share; see `robustest audit`.
        format: what is printed: for people (human), the totals as json, github annotations, or the path of a junit file.
    """
    from robustest.audit.finish import finish_run
    from robustest.audit.plan import RESULT, load_plan
    from robustest.audit.run import checked
    from robustest.audit.summary import load_summary

    planned = load_plan(run)
    required = requirements_of(require, planned.data.count)
    with interruptible(f"stopped; `robustest finish {run}` starts again."):
        summary = load_summary(run) if (run / RESULT).is_file() else finish_run(run, planned)
        code = deliver(summary.requiring(required), format)
    checked(summary)
    return code
