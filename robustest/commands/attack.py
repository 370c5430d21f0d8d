"""`robustest attack`: one image, what flips it, and the files to see and check it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from robustest.commands.audit_flags import AS_FOUND, AS_USUAL, AttackFlags, ModelFlags
from robustest.commands.shared import Picture, known_label, read_picture, side_by_side
from robustest.results import AttackResult, Verdict

if TYPE_CHECKING:
    from robustest.classifiers.classifier import Classifier
    from robustest.settings import AttackSettings

_CODES = {Verdict.FLIPPED: 0, Verdict.SURVIVED: 0, Verdict.UNKNOWN: 4, Verdict.EXCLUDED: 5}
_MOST_LISTED = 30  # changes printed one by one


def attack(
    model: str,
    image: str,
    /,
    *,
    label: int | None = None,
    attack: AttackFlags = AS_USUAL,
    spec: ModelFlags = AS_FOUND,
    device: str | None = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
) -> int:
    """Attack one image and show what flips it.

    Writes the adversarial image as PNG, the changes as JSON, and a picture of both side by side. A folder that holds what another attack found on the same image is refused. Exits with 0 when the attack ran, whatever it found; with 5 when the classifier is wrong about the unchanged image.

    Example: robustest attack signs.onnx stop.png --label 14

    Args:
        model: ONNX file, module:callable, or the URL of a served model (v2+http://host:port/name).
        image: picture file, or one image of a set as images.npz[7].
        label: class of the image; known for an image of a set, else needed.
        device: of a torch module, such as cuda:0.
        out: folder for the files; the current one if not given.
    """
    from robustest.attack.find import find_adversarials
    from robustest.audit.files import check_writable
    from robustest.classifiers.classifier import check_fit

    settings = attack.settings()
    picture = read_picture(image)
    classifier = spec.load(model, device=device)
    height, width, channels = picture.image.shape
    check_fit(classifier.info, (height, width, channels))
    known = known_label(picture, image, label, classifier)
    folder = out or Path()
    check_writable(folder)  # before anything is attacked
    asked = _asked(picture, known, settings, model, classifier)
    _check_free(folder, picture.name, asked)
    result = find_adversarials(classifier, picture.image[None], [known], settings=settings)[0]
    _tell(picture, result)
    if result.image is not None:
        for path in _write(picture, result, asked, folder):
            print(path)
    return _CODES[result.verdict]


def _asked(
    picture: Picture, label: int, settings: AttackSettings, model: str, classifier: Classifier
) -> dict[str, Any]:
    """All that a find depends on, as values of JSON."""
    from robustest import __version__
    from robustest.audit.summary import spec_json
    from robustest.randomness import image_digest

    return {
        "robustest": __version__,
        "model": model,
        "model_sha256": classifier.info.digest,
        "spec": spec_json(classifier.info.spec),
        "image": picture.name,
        "image_sha256": image_digest(picture.image),
        "label": label,
        "settings": asdict(settings),
    }


def _files(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}-{what}" for what in ("edits.json", "adversarial.png", "pair.png")]


def _check_free(folder: Path, name: str, asked: dict[str, Any]) -> None:
    """Check that no other attack's find would be lost, or be taken for that of this attack where it finds nothing.

    Raises:
        RunConflict: files of these names are there, and not from the same attack on a model of the same digest.
    """
    from robustest.errors import RunConflict

    there = [path for path in _files(folder, name) if path.exists()]
    if not there:
        return
    try:
        earlier = json.loads(_files(folder, name)[0].read_text(encoding="utf-8"))
        same = asked["model_sha256"] is not None and {key: earlier.get(key) for key in asked} == asked
    except (OSError, ValueError, AttributeError, RecursionError):
        same = False  # not written by us
    if not same:
        raise RunConflict(
            f"the folder {str(folder)!r} holds {', '.join(path.name for path in there)} already, from another attack than this one. "
            "Choose another folder with -o, or move them away."
        )


def _tell(picture: Picture, result: AttackResult) -> None:
    """Print what became of the image, and the changes one by one where they are few."""
    from rich.console import Console

    from robustest.report.pictures import eight_bits
    from robustest.report.terminal import draw
    from robustest.report.words import plural

    print(f"{picture.name}: {result.verdict.value}: {result.reason or result.verdict.sentence}")
    if result.image is None or result.edits is None or result.predicted is None:
        if result.margin is not None:
            print(f"{plural(result.queries, 'query')}; the smallest margin seen was {result.margin:.4g}.")
        return
    before, after = picture.class_name(result.label), picture.class_name(result.predicted)
    needed = "each of them needed" if result.minimal else "not checked that each is needed; --minimal does"
    print(
        f"{before} -> {after} by {plural(result.l0_pixels or 0, 'changed pixel')} ({needed}), {plural(result.l0_dims or 0, 'channel')}, "
        f"L2 {result.l2:.3f}, Linf {result.linf:.3f}; {plural(result.queries, 'query')}, smallest margin seen {result.margin:.4g}."
    )
    console = Console(highlight=False)
    draw([eight_bits(picture.image), eight_bits(result.image)], console=console)
    changes = _changes(picture, result)
    for change in changes[:_MOST_LISTED]:
        print(f"  row {change['row']}, column {change['column']}: {change['from']} -> {change['to']}")
    if len(changes) > _MOST_LISTED:
        print(f"  and {len(changes) - _MOST_LISTED} more")


def _changes(picture: Picture, result: AttackResult) -> list[dict[str, Any]]:
    """Each changed pixel with its colour before and after, in the image's own values."""
    assert result.edits is not None
    assert result.image is not None
    width = picture.image.shape[1]
    return [
        {
            "row": pixel // width,
            "column": pixel % width,
            "from": picture.image[pixel // width, pixel % width].tolist(),
            "to": result.image[pixel // width, pixel % width].tolist(),
        }
        for pixel in sorted(result.edits.pixels.tolist())
    ]


def _write(picture: Picture, result: AttackResult, asked: dict[str, Any], folder: Path) -> list[Path]:
    """The changes, the adversarial image, and both images side by side."""
    from robustest.randomness import image_digest
    from robustest.report.files import write_bytes, write_text
    from robustest.report.pictures import eight_bits
    from robustest.report.png import png_of

    assert result.image is not None
    content = {
        "format": "robustest/attack",
        "version": 1,
        **asked,
        "adversarial_sha256": image_digest(result.image),
        "predicted": result.predicted,
        "target": result.target,
        "attack": result.attack,
        "norm": result.norm,
        "seed": result.seed,
        "queries": result.queries,
        "queries_allowed": result.budget,
        "minimal": result.minimal,
        "margin": result.margin,
        "distances": {name: getattr(result, name) for name in ("l0_pixels", "l0_dims", "l1", "l2", "linf")},
        "curve": [list(point) for point in result.curve],
        "edits": _changes(picture, result),
    }
    shown = [eight_bits(picture.image), eight_bits(result.image)]
    scale = max(1, 320 // max(picture.image.shape[:2]))
    both = side_by_side(*(one.repeat(scale, axis=0).repeat(scale, axis=1) for one in shown))
    edits, adversarial, pair = _files(folder, picture.name)
    return [
        write_text(edits, json.dumps(content, indent=1, allow_nan=False) + "\n"),  # first: it says whose the others are
        write_bytes(adversarial, png_of(shown[1])),
        write_bytes(pair, png_of(both)),
    ]
