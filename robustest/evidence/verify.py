"""Verifying an evidence bundle with nothing but the bundle, and the model for a replay."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.audit.summary import AuditSummary, load_summary, spec_json
from robustest.classifiers.classifier import Classifier, classes_of
from robustest.errors import InvalidImage, InvalidSetting, RobustestError
from robustest.evidence.bundle import FORMAT, MANIFEST, STATEMENT, UNLISTED, statement
from robustest.images import as_unit, load_picture

MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked, and what is wrong; a bundle holds if nothing is.

    checked: sentences. problems: sentences, each naming its file. draft: the bundle does not call itself evidence.
    """

    checked: tuple[str, ...]
    problems: tuple[str, ...]
    draft: bool

    @property
    def holds(self) -> bool:
        """True where no problem was found."""
        return not self.problems


def verify_bundle(
    folder: Path,
    *,
    replay: int = 0,
    classifier: Classifier | None = None,
    allowed_signers: Path | None = None,
    signer: str | None = None,
) -> Verification:
    """Check digests, schema, totals and signature; score adversarial images again where a model is given.

    Args:
        folder: the bundle. replay: adversarial images to score again, evenly spread; needs `classifier`.
        allowed_signers, signer: for `ssh-keygen -Y verify`, both or neither; with them a missing signature is a problem,
            and so is, without them, one that is there.

    Raises:
        InvalidSetting: no bundle, `replay` below 0 or without a model, or one of `allowed_signers` and `signer` alone.
    """
    if not (folder / MANIFEST).is_file():
        raise InvalidSetting(
            f"bundle {str(folder)!r} has no {MANIFEST}; give the folder that `robustest evidence` wrote."
        )
    if replay < 0:
        raise InvalidSetting(f"--replay must be a number of images >= 0; got {replay}.")
    if (allowed_signers is None) != (signer is None):
        given, missing = (
            ("--signer", "--allowed-signers") if allowed_signers is None else ("--allowed-signers", "--signer")
        )
        raise InvalidSetting(f"{given} checks a signature only together with {missing}: give both.")
    if replay > 0 and classifier is None:
        raise InvalidSetting(f"--replay {replay} scores images again, which needs the model: give --model.")
    checked: list[str] = []
    problems: list[str] = []
    manifest = _manifest(folder, problems)
    digests: dict[str, str] = manifest.get("sha256", {})
    _check_files(folder, digests, checked, problems)
    summary = _check_result(folder, checked, problems)
    _check_statement(folder, manifest, summary, checked, problems)
    _check_signatures(folder, allowed_signers, signer, checked, problems)
    if summary is not None:
        _check_pictures(folder, summary, checked, problems)
        if classifier is not None:
            _check_model(folder, summary, classifier, replay, checked, problems)
    _check_certificates(folder, summary, classifier, checked, problems)
    return Verification(tuple(checked), tuple(problems), bool(manifest.get("draft")))


def _manifest(folder: Path, problems: list[str]) -> dict[str, Any]:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{MANIFEST} cannot be read: {error}")
        return {}
    good = isinstance(content, dict) and content.get("format") == FORMAT and isinstance(content.get("sha256"), dict)
    if not good or not all(isinstance(n, str) and isinstance(d, str) for n, d in content["sha256"].items()):
        problems.append(f"{MANIFEST} is not a manifest of robustest")
        return {}
    return dict(content)


def _check_files(folder: Path, digests: dict[str, str], checked: list[str], problems: list[str]) -> None:
    root = folder.resolve()
    good = 0
    for name, wanted in sorted(digests.items()):
        path = folder / name
        if path.is_symlink() or not path.resolve().is_relative_to(root):
            problems.append(f"{name}: lies outside the bundle or is a link")
        elif not path.is_file():
            problems.append(f"{name}: is missing")
        elif path.stat().st_size > MAX_FILE_BYTES:
            problems.append(f"{name}: is larger than {MAX_FILE_BYTES} bytes")
        elif _digest(path) != wanted:
            problems.append(f"{name}: was changed (its sha256 is not the one in {MANIFEST})")
        else:
            good += 1
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() or p.is_symlink()}
    problems.extend(f"{name}: is not listed in {MANIFEST}" for name in sorted(present - set(digests) - set(UNLISTED)))
    checked.append(f"{good} of {len(digests)} files have their sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _check_statement(
    folder: Path, manifest: dict[str, Any], summary: AuditSummary | None, checked: list[str], problems: list[str]
) -> None:
    """The statement names this manifest, and says of the audit what its result says."""
    digests = manifest.get("sha256", {})
    try:
        content = json.loads((folder / STATEMENT).read_text(encoding="utf-8"))
        named = {entry["name"]: entry["digest"]["sha256"] for entry in content["predicate"]["configuration"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"{STATEMENT}: is missing or not an in-toto statement ({type(error).__name__})")
        return
    if named.get(MANIFEST) != _digest(folder / MANIFEST) or named.get("config.json") != digests.get("config.json"):
        problems.append(f"{MANIFEST}: was changed (its sha256 is not the one in {STATEMENT})")
        return
    checked.append(f"{STATEMENT} names this manifest and configuration")
    if summary is None:
        return
    if content == statement(summary, named[MANIFEST], digests, draft=bool(manifest.get("draft"))):
        checked.append(f"{STATEMENT} names the model and the images of result.json, and how it ended")
    else:
        problems.append(f"{STATEMENT}: was changed (it does not say what follows from result.json)")


def _check_result(folder: Path, checked: list[str], problems: list[str]) -> AuditSummary | None:
    try:
        summary = load_summary(folder / "result.json")
    except RobustestError as error:
        problems.append(f"result.json: {error}")
        return None
    checked.append("result.json follows its schema and its totals are those of its images")
    return summary


def _check_signatures(
    folder: Path, allowed: Path | None, signer: str | None, checked: list[str], problems: list[str]
) -> None:
    """Both files that `robustest evidence --sign` signs."""
    signed = [name for name in (MANIFEST, STATEMENT) if (folder / f"{name}.sig").is_file()]
    if not signed and allowed is None:
        checked.append("not signed: digests show accidental change, not who wrote them")
        return
    for name in (MANIFEST, STATEMENT):
        if name not in signed:
            problems.append(f"{name}.sig: is missing, and a signature was asked for or the other file has one")
        elif not (folder / name).is_file():
            continue  # which is a problem already
        elif allowed is None or signer is None:
            problems.append(f"{name}.sig: cannot be checked without --allowed-signers and --signer")
        else:
            _check_signature(folder / name, allowed, signer, checked, problems)


def _check_signature(path: Path, allowed: Path, signer: str, checked: list[str], problems: list[str]) -> None:
    signature = path.with_name(f"{path.name}.sig")
    command = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", signer, "-n", "robustest", "-s", str(signature)]
    try:
        with path.open("rb") as handle:
            done = subprocess.run(command, stdin=handle, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        problems.append(
            f"{signature.name}: ssh-keygen is not on the path, so it cannot be checked; install openssh-client"
        )
        return
    if done.returncode != 0:
        problems.append(
            f"{signature.name}: does not fit {path.name} and {signer}: {(done.stderr or done.stdout).strip()}"
        )
    else:
        checked.append(f"{path.name} is signed by {signer}")


def _array(path: Path) -> NDArray[Any]:
    """An image that is not 8-bit.

    Raises:
        InvalidImage: there is none.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidImage(f"it cannot be read: {error}.") from error
    if not isinstance(array, np.ndarray) or array.ndim != 3:
        raise InvalidImage("it holds no image (H, W, C).")
    return array


def _check_pictures(folder: Path, summary: AuditSummary, checked: list[str], problems: list[str]) -> None:
    """Each PNG, or array of an image that is not 8-bit, holds the changed pixels that the result lists."""
    good = 0
    read: Callable[[Path], NDArray[Any]] = load_picture if summary.data.eight_bit else _array
    suffix = "png" if summary.data.eight_bit else "npy"
    for record in summary.records:
        if not record.flipped or record.pixels is None:
            continue
        name = f"adversarial/{record.index:06d}.{suffix}"
        try:
            picture = read(folder / name)
        except RobustestError as error:
            problems.append(f"{name}: {error}")
            continue
        flat = picture.reshape(-1, picture.shape[2])
        fits = picture.shape == summary.data.shape and (flat[record.pixels] == record.values).all()
        if fits:
            good += 1
        else:
            problems.append(f"{name}: does not have the changed pixels of result.json")
    checked.append(f"{good} adversarial images hold the pixels that result.json lists")


def _check_model(
    folder: Path, summary: AuditSummary, classifier: Classifier, replay: int, checked: list[str], problems: list[str]
) -> None:
    wanted, got = summary.model.sha256, classifier.info.digest
    if wanted is not None and got != wanted:
        problems.append(
            f"model: {classifier.info.source} has sha256 {got}, the audit's {summary.model.source} had {wanted}"
        )
    found = [record for record in summary.records if record.flipped]
    if not replay:
        return
    if not found:
        checked.append("no adversarial image to replay: none was found")
        return
    chosen = [
        found[place] for place in np.unique(np.linspace(0, len(found) - 1, min(replay, len(found))).round().astype(int))
    ]
    images, labels, names = _pictures(folder, summary, [record.index for record in chosen])
    if not len(images):
        problems.append("replay: no adversarial image could be read")
        return
    predicted = classes_of(classifier(as_unit(images)), classifier.info.output)
    target = summary.settings.target
    flipped = predicted != labels if target is None else predicted == target
    for name, holds, answer in zip(names, flipped.tolist(), predicted.tolist(), strict=True):
        if not holds:
            problems.append(f"{name}: replayed, the model answers {answer}: it is not adversarial")
    checked.append(f"replayed {len(names)} adversarial images: {int(flipped.sum())} are misclassified")


def _pictures(folder: Path, summary: AuditSummary, indices: Sequence[int]) -> tuple[Any, Any, list[str]]:
    labels_of = {record.index: record.label for record in summary.records}
    images, labels, names = [], [], []
    for index in indices:
        for name in (f"adversarial/{index:06d}.npy", f"adversarial/{index:06d}.png"):
            path = folder / name
            if not path.is_file():
                continue
            try:
                image = _array(path) if name.endswith(".npy") else load_picture(path)
            except RobustestError:
                break
            if image.shape == summary.data.shape:
                images.append(image)
                labels.append(labels_of[index])
                names.append(name)
            break
    return (np.stack(images) if images else np.zeros((0, *summary.data.shape), np.uint8)), np.array(labels), names


def _check_certificates(
    folder: Path, summary: AuditSummary | None, classifier: Classifier | None, checked: list[str], problems: list[str]
) -> None:
    """Certificates are about the model with the audit's own input spec, and hold where the model is at hand."""
    paths = sorted((folder / "certificates").glob("*.json"))
    if not paths:
        return
    if summary is not None:
        wanted = {key: value for key, value in spec_json(summary.model.spec).items() if key != "output"}
        problems.extend(
            f"certificates/{path.name}: is about the model with another input spec than the audit's"
            for path in paths
            if _spec_of(path) != wanted
        )
    if classifier is None or not hasattr(classifier, "path"):
        checked.append(f"{len(paths)} certificates are there; give --model with an ONNX file to recheck them")
        return
    from robustest.bounds.recheck import Finding, recheck

    good = 0
    for path in paths:
        verdict = recheck(path, classifier.path)
        if verdict.finding is Finding.CONFIRMED:
            good += 1
        else:
            problems.append(f"certificates/{path.name}: {verdict.finding.value} {verdict.reason}".rstrip())
    checked.append(f"{good} of {len(paths)} certificates hold when rechecked")


def _spec_of(path: Path) -> Any:
    """The input spec that a certificate names; None where it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["spec"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
