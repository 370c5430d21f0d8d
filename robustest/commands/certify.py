"""`robustest certify` and `robustest recheck`: brackets with a proven lower end, and certificates checked again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter

from robustest.commands.audit_flags import AS_FOUND, ModelFlags
from robustest.commands.certify_rows import Rows
from robustest.commands.shared import read_images
from robustest.settings import NORMS, Norm

if TYPE_CHECKING:
    from robustest.classifiers.classifier import Classifier
    from robustest.images import ImageSet


def certify(
    model: str,
    images: Path,
    /,
    *,
    norms: str = "l0,l1,l2,linf",
    seconds: float = 10.0,
    number: Annotated[int, Parameter(name="--images")] = 10,
    spec: ModelFlags = AS_FOUND,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
) -> int:
    """Prove a distance within which no adversarial image lies, and find one as near as can be: a bracket an image.

    The lower end is a proof about the network as executed in float32, or None; the upper end is an image that was scored again, or None. Images that the model gets wrong are listed and have no bracket. Needs the extra `bounds`.

    With -o DIR, the same command goes on where an interrupted one was.

    Example: robustest certify signs.onnx validation.npz --norms linf,l2 --seconds 10 --images 20

    Args:
        model: ONNX file made of layers that can be bounded; an unknown layer is refused by name.
        images: folder or .npz file.
        norms: which distances, of l0 (pixels), l0_dims, l1, l2, linf.
        seconds: CPU time an image, for all norms together; on a busy machine set OMP_NUM_THREADS=1, or threads waste it on waiting.
        number: how many images, from the first.
        out: folder for certify.json and certificates/, one file a proof that can be rechecked; none if not given.
    """
    from robustest.errors import InvalidSetting

    chosen = norms_of(norms, seconds)
    if number < 1:
        raise InvalidSetting(f"--images must be >= 1; got {number}.")
    sample = read_images(images)
    prove(spec.load(model), model, sample.take(range(min(number, len(sample)))), chosen, seconds=seconds, out=out)
    return 0


def prove(
    classifier: Classifier, model: str, sample: ImageSet, norms: list[str], *, seconds: float, out: Path | None
) -> None:
    """Print a bracket for each image and norm, and write them and their certificates where there is a folder.

    Args:
        model: as the user named it. norms: of `norms_of`. seconds: CPU time an image, for all norms together.
    """
    import numpy as np

    from robustest.audit.files import check_writable, storage, writing
    from robustest.audit.summary import spec_json
    from robustest.bounds.check import checker_of
    from robustest.classifiers.classifier import check_fit, classes_of
    from robustest.images import as_unit, check_labels
    from robustest.results import rounded_down

    shape: Any = sample.images.shape[1:]
    check_fit(classifier.info, shape)
    check_labels(sample.labels, len(sample), classifier.info.classes)
    unit = as_unit(sample.images)
    bytes_given = sample.images.dtype == np.uint8
    predicted = classes_of(classifier(unit), classifier.info.output)
    checker = checker_of(classifier, image_shape=shape)
    if out is not None:
        check_writable(out)  # before anything is proved: hours of it are not to end at a folder that cannot be written
    rows = Rows(None if out is None else out / "rows", classifier.info, norms, seconds)
    print(f"{classifier.info.source}: distance to the nearest misclassified image, [proven lower, re-scored upper]")
    entries = []
    for place, (image, label) in enumerate(zip(unit, sample.labels.tolist(), strict=True)):
        name, digest = sample.names[place], sample.digests[place]
        known = rows.load(place, digest, label)
        if known is not None:
            entries.append({**known[0], "name": name})
            print("\n".join(known[1]))
            continue
        lines: list[str] = []
        files: list[str] = []
        entry: dict[str, Any] = {"name": name, "sha256": digest, "label": label}
        if predicted[place] != label:
            entry["excluded"] = f"the classifier answers {int(predicted[place])}"
            lines.append(f"{name:24} wrong from the start: class {label}, answered {int(predicted[place])}")
        else:
            brackets = checker.bracket(image, label, norms=cast("list[Norm]", norms), seconds=seconds)
            entry["brackets"] = {norm: bracket.to_json() for norm, bracket in brackets.items()}
            for norm, bracket in brackets.items():
                lines.append(f"{name:24} {norm:8} {_words(bracket, bytes_given and norm == 'linf')}")
                if out is not None and bracket.lower is not None and bracket.lower.certificate is not None:
                    path = out / "certificates" / f"{place:06d}-{norm}.json"
                    with storage(out):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        with writing(path) as handle:
                            handle.write((json.dumps(bracket.lower.certificate) + "\n").encode())
                    files.append(str(path.relative_to(out)))
                    written = bracket.lower.certificate["claim"].get("radius", bracket.lower.value)
                    if written < bracket.lower.value:
                        lines.append(
                            f"{name:24} {norm:8} {path.name} proves {rounded_down(written)}: beyond that the proof was made by "
                            "cuts, by branching, or by slopes that there was no time to write down"
                        )
        print("\n".join(lines), flush=True)
        rows.save(place, digest, label, entry, lines, files)
        entries.append(entry)
    if out is not None:
        content = {
            "format": "robustest/brackets",
            "version": 1,
            "model": {
                "source": classifier.info.source,
                "sha256": classifier.info.digest,
                "spec": spec_json(classifier.info.spec),
                "path": str(Path(model).resolve()),
            },
            "seconds": seconds,
            "images": entries,
        }
        with storage(out):
            out.mkdir(parents=True, exist_ok=True)
            with writing(out / "certify.json") as handle:
                handle.write((json.dumps(content, indent=2) + "\n").encode())
        print(out / "certify.json")
        if (out / "certificates").is_dir() and (note := _of_recheck(classifier, shape)) is not None:
            print(f"robustest: {note}", file=sys.stderr)


def norms_of(norms: str, seconds: float, *, flag: str = "--norms", seconds_flag: str = "--seconds") -> list[str]:
    """The norms of a list separated by commas, checked together with all else that proofs need.

    Raises:
        InvalidSetting: an unknown norm, or no time. MissingExtra: `bounds` is not installed.
    """
    from robustest.errors import InvalidSetting, MissingExtra

    chosen = [name.strip() for name in norms.split(",") if name.strip()]
    if not chosen or set(chosen) - set(NORMS):
        raise InvalidSetting(f"{flag} must be a list of {', '.join(NORMS)}; got {norms!r}.")
    if not seconds > 0:
        raise InvalidSetting(f"{seconds_flag} must be > 0; got {seconds:g}.")
    try:
        import robustest.bounds.check  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "bounds", "robustest certify") from error
    return chosen


def _of_recheck(classifier: Classifier, shape: tuple[int, int, int]) -> str | None:
    """What `recheck` cannot do for the certificates of a model, or None."""
    from robustest.audit.summary import spec_json
    from robustest.bounds.errors import UnsupportedLayer
    from robustest.bounds.recheck_model import read_model

    path = getattr(classifier, "path", None)
    if path is None:
        return "`robustest recheck` reads ONNX files alone, so it cannot confirm these certificates: export the model to ONNX."
    try:
        network = read_model(path, spec_json(classifier.info.spec), shape)
    except UnsupportedLayer as error:
        return f"`robustest recheck` cannot confirm these certificates: {error}"
    if any(layer.taps is not None for layer in network.layers):
        return (
            "`robustest recheck` bounds the maxima of pooling less tightly than these proofs do. Where it does not confirm a ball, it "
            "says which smaller one it confirms."
        )
    return None


def _words(bracket: Any, stepped: bool) -> str:
    """One line; `stepped` for images whose Linf distances are whole steps of 1/255."""
    from robustest.bounds.guarantee import steps_of_255
    from robustest.results import rounded_down

    lower = "nothing proven" if bracket.lower is None else rounded_down(bracket.lower.value)
    upper = "none found" if bracket.upper is None else f"{bracket.upper.value:.6g}"
    how = "" if bracket.lower is None else f"  {bracket.lower.guarantee.name} by {bracket.lower.method}"
    steps = steps_of_255(bracket.lower.value) if stepped and bracket.lower is not None else 0
    if steps > 1:  # no other 8-bit image is nearer than one step
        how += f"; no 8-bit image nearer than {steps}/255 is misclassified"
    return f"[{lower}, {upper}]{'  exact' if bracket.exact else ''}{how}"


def recheck(
    *files: Path,
    model: Path | None = None,
) -> int:
    """Check saved certificates by a second program that shares no code with the one that made them.

    Exits with 0 if all are confirmed, 1 if one is broken or about another model, else 3: the second program's bound is not tight enough to say of one.

    Example: robustest recheck proofs/certificates/000000-l0.json --model signs.onnx

    Args:
        files: certificates, as `robustest certify -o DIR` writes them.
        model: the model file of all of them; for each the one that its DIR/certify.json names if not given.
    """
    from robustest.bounds.recheck import Finding
    from robustest.bounds.recheck import recheck as check
    from robustest.errors import InvalidSetting

    if not files:
        raise InvalidSetting(
            "FILES is missing: name one certificate or more, such as DIR/certificates/000000-linf.json."
        )
    for file in files:  # before any is checked, which can take long
        if not file.is_file():
            raise InvalidSetting(f"certificate {str(file)!r} does not exist.")
    models = [model or _model_of(file) for file in files]
    codes = set()
    for file, about in zip(files, models, strict=True):
        verdict = check(file, about, nearer=True, tell=_reporter(sys.stderr))
        if sys.stderr.isatty():
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
        named = file.name if len(files) == 1 else file
        print(f"{named}: {verdict.finding.value}{' ' + verdict.reason if verdict.reason else ''}")
        lowest = "" if verdict.lowest is None else f", least margin bound {verdict.lowest:.6g}"
        print(f"{verdict.leaves} part(s) proved again{lowest}, {verdict.seconds:.2f} s", flush=True)
        codes.add({Finding.CONFIRMED: 0, Finding.NOT_CONFIRMED: 3}.get(verdict.finding, 1))
    return next(code for code in (1, 3, 0) if code in codes)  # the worst first


def _model_of(file: Path) -> Path:
    """The model file that the certify.json beside a certificate's folder names."""
    from robustest.errors import InvalidSetting

    listed = file.parent.parent / "certify.json"
    try:
        return Path(json.loads(listed.read_text(encoding="utf-8"))["model"]["path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidSetting(
            f"--model is missing, and {str(listed)!r} does not name one. Give the model file."
        ) from error


def _reporter(stream: IO[str], *, every: float = 0.5) -> Callable[[int, int, int], None]:
    """Writes one rewritten line of a recheck's progress to a terminal, and nothing elsewhere."""
    last, started, shown = time.monotonic(), time.monotonic(), stream.isatty()

    def told(layer: int, done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if shown and now - last > every:
            last = now
            stream.write(f"\r\x1b[2Klayer {layer}: {done:,} of {of:,} undecided neurons bounded, {now - started:.0f} s")
            stream.flush()

    return told
