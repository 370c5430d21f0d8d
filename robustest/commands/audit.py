"""`robustest audit`: many images, one folder with the result and the report."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

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
from robustest.images import ImageSet


def audit(
    model: str,
    images: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    limit: Annotated[int | None, Parameter(name="--images")] = None,
    attack: AttackFlags = AS_USUAL,
    spec: ModelFlags = AS_FOUND,
    workers: int | None = None,
    devices: Annotated[
        tuple[str, ...], Parameter(name=["--devices", "--device"], negative="", show_default=False)
    ] = (),
    require: Annotated[tuple[str, ...], ONE_WAY] = (),
    format: Format = "human",
    durable: Annotated[bool, ONE_WAY] = False,
    certify: str | None = None,
    certify_seconds: float = 10.0,
) -> int:
    """Audit a model on a set of images: how few pixels flip it?

    Every image that the model gets right is attacked with the same number of queries. What is found is rendered, rounded to 8 bits and scored again before it counts. Images that the model gets wrong from the start are excluded and counted.

    Writes DIR/result.json (the same, bit for bit, for any number of workers and any interruption), DIR/report.html, DIR/summary.md and the adversarial images. Stopped by Ctrl-C, a crash or a full disk, the same command goes on from where it was; on a finished audit it shows the result.

    Example: robustest audit signs.onnx validation.npz -o run --queries 500 --images 200 --require 3:0.6

    Args:
        model: ONNX file, module:callable, or the URL of a served model (v2+http://host:port/name).
        images: folder with a subfolder a class or a labels.csv, or an .npz with images (N, H, W, C) and labels.
        out: folder for the results; empty, missing, or that of this very audit.
        limit: only the first so many images.
        workers: processes, each with its share of the cores; the result does not depend on it. If not given: one a device where several are named, one a core for an ONNX file where each has enough to do and memory allows, else one.
        devices: of a torch module, such as cuda:0; several are given to the workers in turn.
        require: at least this share must survive this distance, as distance:share; 3:0.6 asks that 60 % survive 3 pixels. Exits with 0 if it was shown at 95 % confidence, 1 if refuted, 3 if neither.
        format: what is printed: for people (human), the totals as json, github annotations, or the path of a junit file.
        durable: also survive a loss of power, at the cost of a disk flush for every image.
        certify: norms such as l0,linf in which a distance is to be proven for each image, after the attack; the report then shows both. See `robustest certify`, which this runs with the same folder.
        certify_seconds: CPU time an image for the proofs, for all norms together.
    """
    from robustest.audit.progress import progress_bar
    from robustest.audit.run import check_call, run_audit
    from robustest.audit.summary import load_summary
    from robustest.errors import NothingToTest

    settings = attack.settings()
    check_call(settings, workers=workers, limit=limit)
    requirements_of(require)
    if certify is not None:  # before the attack: hours of it are not to end at a misspelt norm
        from robustest.commands.certify import norms_of

        norms_of(certify, certify_seconds, flag="--certify", seconds_flag="--certify-seconds")
    data = read_images(images)
    required = requirements_of(require, min(len(data), limit or len(data)))
    with redirect_stdout(sys.stderr):  # what the model prints is no part of what is printed here
        classifier = spec.load(model, device=devices[0] if devices else None)
    if (out / "result.json").is_file():
        print(f"robustest: {out} is finished already, if it is this audit; showing its result.", file=sys.stderr)
    stopped = f"stopped; what was done is kept in {out}. Run the same command again to go on from there."
    with interruptible(stopped), progress_bar() as tell:
        try:
            with redirect_stdout(sys.stderr):
                summary = run_audit(
                    classifier,
                    data,
                    None,
                    settings,
                    out,
                    workers=workers,
                    limit=limit,
                    progress=tell,
                    isolate=True,
                    devices=devices,
                    trust_model=spec.trust_model,
                    durable=durable,
                    origin=model,
                    command=command_line("audit", model, images, settings, limit, spec),
                )
        except NothingToTest:
            if (out / "result.json").is_file():
                deliver(load_summary(out), format)
            raise
        if certify is not None:
            _certify(certify, certify_seconds, model, data.take(range(summary.data.count)), spec, out)
        return deliver(summary.requiring(required), format)


def _certify(norms: str, seconds: float, model: str, audited: ImageSet, spec: ModelFlags, out: Path) -> None:
    """Have the audited images certified into the run folder, unless they are; what is said goes to standard error."""
    from robustest.commands.certify import norms_of, prove

    if (out / "certify.json").is_file():
        print(
            f"robustest: {out / 'certify.json'} is there already and is kept; remove it to prove again.",
            file=sys.stderr,
        )
        return
    with redirect_stdout(sys.stderr):
        # Loaded anew, without a device; what was guessed of it was said before the attack.
        prove(spec.load(model, quiet=True), model, audited, norms_of(norms, seconds), seconds=seconds, out=out)
