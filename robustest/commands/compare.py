"""`robustest compare`: several attacks on the same images, with the same budget, paired."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from robustest.commands.audit_flags import AS_FOUND, ModelFlags
from robustest.commands.shared import read_images, typed
from robustest.settings import Norm, Values


def compare(
    model: str,
    images: Path,
    /,
    *,
    attacks: str | None = None,
    queries: int = 1000,
    number: Annotated[int | None, Parameter(name="--images")] = 100,
    pixels: str = "1,2,3,5,10,20",
    seed: int = 0,
    target: int | None = None,
    values: Values = "corners",
    norm: Norm = "l0",
    spec: ModelFlags = AS_FOUND,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    device: str | None = None,
    threads: int | None = None,
) -> int:
    """Run several attacks on the same correctly classified images at the same budget, and compare them in pairs.

    Args:
        model: ONNX file, module:callable, or the URL of a served model.
        images: folder or .npz file; with object masks in it (`masks`), a table says where the flips lie.
        attacks: names separated by commas; if not given game, sparse-rs, brusle and random-corners, or game alone where the norm is neither l0 nor l0_dims or the values are not corners, which only it follows. Black box with scores: game, sparse-rs, brusle, random-corners, one-pixel, greedy, one-scan; with the label alone: pointwise, sparse-evo; with gradients: jsma, jsma-z, jsma-f, cw-l0, sigma-zero, fmn-l0, sparsefool, torchattacks.NAME. sparse-rs@5/10 runs with 5 and with 10 pixels, a whole budget each; greedy:50000 has a budget of its own.
        queries: images each attack may score for each image tested.
        number: how many images, the first ones that the model gets right.
        pixels: numbers of pixels that success is reported at.
        seed: of every random stream.
        target: class to be reached; any other than the image's own if not given.
        values: colours that game gives a pixel: corners (each channel at 0 or 1), free (each channel at 0, 1/2 or 1), or tau (to the ends, as corners does: tau is 1 here). Other attacks take corners, or colours of their own.
        norm: distance that game makes small; the other attacks that are no torch code know l0 and l0_dims. Success is counted in pixels whatever it is.
        out: folder for comparison.json, adversarial.npz and comparison.html; nothing is written if not given. The same command goes on where an interrupted one was.
        device: of a torch module, such as cuda:0.
        threads: of an ONNX model's own arithmetic; all cores if not given.
    """
    from robustest.audit.files import check_writable, storage
    from robustest.baselines.compare import USUAL, parse_attacks, run_comparison, usual_attacks
    from robustest.baselines.files import parse_pixels, write_adversarials, write_json
    from robustest.baselines.objects import load_masks, object_shares
    from robustest.baselines.table import print_comparison, print_objects, reporter
    from robustest.errors import InvalidSetting
    from robustest.settings import AttackSettings

    if number is not None and number < 1:
        raise InvalidSetting(f"--images must be a whole number >= 1; got {number}.")
    counts = parse_pixels(pixels)
    settings = AttackSettings(queries=queries, seed=seed, target=target, values=values, norm=norm)
    wanted = parse_attacks(attacks if attacks is not None else usual_attacks(settings), pixels=counts)
    if attacks is None and usual_attacks(settings) != USUAL:
        print(f"robustest: of {USUAL}, game alone follows norm {norm} and values {values}.", file=sys.stderr)
    classifier = spec.load(model, device=device, threads=threads)
    loaded = read_images(images)
    masks = load_masks(images, loaded)
    if out is not None:
        check_writable(out)  # before anything is attacked
    comparison = run_comparison(
        classifier,
        loaded,
        wanted,
        settings,
        count=number,
        pixels=counts,
        progress=reporter(sys.stderr),
        command=typed(),
        save=None if out is None else out / "rows",
    )
    print_comparison(comparison)
    if masks is not None:
        print_objects(object_shares(comparison, masks), loaded)
    if out is not None:
        from robustest.report.compared import write_comparison

        with storage(out):
            out.mkdir(parents=True, exist_ok=True)
            write_json(comparison, out / "comparison.json")
            write_adversarials(comparison, out / "adversarial.npz")
        write_comparison(comparison, out / "comparison.html")
        print(f"\nwritten: {out / 'comparison.html'}, comparison.json, adversarial.npz")
    return 0
