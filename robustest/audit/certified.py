"""What is proven of the images of a finished audit, kept beside its result: `certified.json` in the run folder.

Not part of `result.json`: how tight a proof gets depends on the seconds it is given, so it does not repeat bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from robustest.audit.files import storage, writing
from robustest.audit.statistics import Share, share_of
from robustest.audit.summary import AuditSummary
from robustest.classifiers.classifier import Classifier
from robustest.errors import InvalidSetting, MissingExtra, RunConflict
from robustest.images import as_unit
from robustest.settings import Norm

CERTIFIED = "certified.json"
FORMAT = "robustest/certified"


@dataclass(frozen=True, slots=True)
class CertifiedImage:
    """What is proven of one image.

    index: its place in the audit. lower: no misclassified image is nearer than this; None where nothing is proven.
    guarantee, method: which kind of proof, and what gave it.
    """

    index: int
    lower: float | None
    guarantee: str | None = None
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Certification:
    """What is proven of an audit's images, in the norm that was attacked.

    norm: l0 in pixels. seconds: CPU time an image. tested: images attacked, certified or not. images: those tried.
    """

    norm: Norm
    seconds: float
    tested: int
    images: tuple[CertifiedImage, ...]

    def proven_within(self, distance: float) -> Share:
        """Of the images attacked, those of which it is proven that nothing within `distance` is misclassified."""
        reach = distance + 1 if self.norm in ("l0", "l0_dims") else distance
        count = sum(image.lower is not None and image.lower >= reach for image in self.images)
        return share_of(count, self.tested)


def certify_run(
    summary: AuditSummary,
    classifier: Classifier,
    *,
    seconds: float,
    progress: Callable[[int, int], None] | None = None,
) -> Certification:
    """Prove what can be proven of each attacked image of a finished audit, and keep it in the run folder.

    Images that were proven before with as many seconds are not proven again. What the attack found is the upper end: a
    proof that contradicts it raises.

    Args:
        summary: of a finished run. classifier: its model. seconds: CPU time an image, > 0.
        progress: called with (done, of) after every image.

    Raises:
        InvalidSetting: bad seconds, or the run has no folder. MissingExtra: torch is not installed.
        UnsupportedLayer: the network cannot be bounded. SoundnessViolation: a proof contradicts a found image.
    """
    if not seconds > 0:
        raise InvalidSetting(f"certify seconds must be > 0; got {seconds:g}. Try 10.")
    images = summary.clean_images()
    if summary.folder is None or images is None:
        raise InvalidSetting("certifying needs the run folder with its images; this summary was not saved.")
    try:
        from robustest.bounds.check import checker_of
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "bounds", "certifying") from error
    norm = summary.settings.norm
    path = summary.folder / CERTIFIED
    known = {image.index: image for image in _kept(path, norm, seconds)}
    attacked = [record for record in summary.records if record.verdict.value != "excluded"]
    checker = checker_of(classifier, image_shape=summary.data.shape)
    for done, record in enumerate(attacked, start=1):
        if record.index not in known:
            clean = images[record.index]
            found = [as_unit(record.adversarial(clean))] if record.flipped else []
            bracket = checker.bracket(
                as_unit(clean), record.label, norms=(norm,), seconds=seconds, witnesses={norm: found}
            )[norm]
            lower = bracket.lower
            known[record.index] = (
                CertifiedImage(record.index, None)
                if lower is None
                else CertifiedImage(record.index, float(lower.value), lower.guarantee.name, lower.method)
            )
            _write(path, Certification(norm, seconds, len(attacked), tuple(known[index] for index in sorted(known))))
        if progress is not None:
            progress(done, len(attacked))
    return Certification(norm, seconds, len(attacked), tuple(known[index] for index in sorted(known)))


def load_certification(folder: Path | None) -> Certification | None:
    """What was proven of a run, or None where nobody asked.

    Raises:
        RunConflict: the file is there and is none of ours.
    """
    if folder is None or not (folder / CERTIFIED).is_file():
        return None
    path = folder / CERTIFIED
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise KeyError("format")
        images = tuple(CertifiedImage(**entry) for entry in content["images"])
        return Certification(content["norm"], float(content["seconds"]), int(content["tested"]), images)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunConflict(f"{path} is not what `--certify` wrote ({error}). Remove it and certify again.") from error


def _kept(path: Path, norm: Norm, seconds: float) -> tuple[CertifiedImage, ...]:
    before = load_certification(path.parent)
    if before is None or before.norm != norm or not np.isclose(before.seconds, seconds):
        return ()
    return before.images


def _write(path: Path, certification: Certification) -> None:
    content = {"format": FORMAT, "version": 1, **asdict(certification)}
    with storage(path.parent), writing(path) as handle:
        handle.write((json.dumps(content, indent=1) + "\n").encode())
