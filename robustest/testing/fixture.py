"""The object behind the fixture `robustness`: audits, certificates and baselines of one test session."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from robustest.audit.run import run_audit
from robustest.audit.summary import AuditSummary
from robustest.classifiers import load_classifier
from robustest.classifiers.classifier import Classifier, check_fit
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSetting
from robustest.images import ImageSet, as_unit, check_images, check_labels, load_images
from robustest.settings import NORMS, AttackSettings, Norm
from robustest.testing.answers import Answer, Interval, Judged, check_number
from robustest.testing.baselines import (
    Comparison,
    as_baseline,
    compare,
    read_baseline,
    settings_digest,
    write_baseline,
)
from robustest.testing.estimates import Certified, Estimate

_SETTINGS = "attack", "norm", "values", "tau", "guide", "target", "minimal"  # further fields of AttackSettings
_OWN = "queries", "images", "seed"
_ASKED = 16  # images whose scores tell models of one name apart


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What the options and ini keys say.

    runs: folder of resumable runs. baselines: folder of baselines in the repository.
    confidence: of intervals, in (0, 1). inconclusive: what an inconclusive claim does in an assert.
    baseline: check, update or off. strict: a single image that got worse fails. scale: of every query budget, for smoke
    tests. device: of torch models named by module:callable, None for their own.
    """

    runs: Path
    baselines: Path
    confidence: float = 0.95
    inconclusive: Literal["fail", "xfail", "warn"] = "fail"
    baseline: Literal["check", "update", "off"] = "check"
    strict: bool = False
    scale: float = 1.0
    device: str | None = None


class BaselineFailure(AssertionError):
    """A model got worse than its baseline."""


class Robustness:
    """One test's way to the library; settings come from the marker, the ini file and the options.

    Args:
        session: options and ini keys. defaults: keywords of the test's `robustness` marker.
        on_inconclusive: what an inconclusive claim does. told: is given every judgement, for summary and JUnit.
    """

    def __init__(
        self,
        session: SessionSettings,
        defaults: dict[str, Any],
        on_inconclusive: Callable[[Judged], bool],
        told: Callable[[str, Judged, Interval], None],
    ) -> None:
        unknown = sorted(set(defaults) - {*_SETTINGS, *_OWN})
        if unknown:
            raise InvalidSetting(
                f"the marker robustness has an unknown keyword {unknown[0]!r}; it takes {', '.join((*_OWN, *_SETTINGS))}."
            )
        self._session, self._defaults = session, defaults
        self._on_inconclusive, self._told = on_inconclusive, told

    def audit(
        self,
        model: Any,
        data: Any,
        *,
        labels: Any = None,
        spec: InputSpec | str | Path | None = None,
        queries: int | None = None,
        images: int | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> Estimate:
        """Audit a model on images; it runs, or resumes, when the estimate is first compared with a threshold.

        Args:
            model: anything `load_classifier` takes, or a classifier.
            data: path of an .npz file or a folder, an `ImageSet`, or an array (then `labels` too).
            queries: budget an image. images: how many are drawn, by a hash of seed and image; all if not given.
            settings: further fields of `AttackSettings`, such as attack, norm, target.
        """
        chosen = self._settings(queries, seed, settings)
        count = images if images is not None else self._defaults.get("images")
        drawn: list[ImageSet] = []

        def sample() -> ImageSet:
            if not drawn:
                drawn.append(draw(images_of(data, labels), count, chosen.seed))
            return drawn[0]

        def run() -> AuditSummary:
            return self._run(self._classifier(model, spec), sample(), chosen)

        most = count if count is not None and not isinstance(data, ImageSet) else len(sample())
        return Estimate(
            run,
            min(most, len(sample())),
            chosen.norm,
            self._session.confidence,
            self._told,
            self._on_inconclusive,
        )

    def certify(
        self,
        model: Any,
        data: Any,
        *,
        norm: Norm = "linf",
        labels: Any = None,
        spec: InputSpec | str | Path | None = None,
        images: int | None = None,
        seconds: float = 5.0,
        seed: int | None = None,
    ) -> Certified:
        """Prove, image by image, a distance within which nothing is misclassified; needs the extra `bounds`.

        Args:
            norm: of the distance. seconds: CPU time for each image; how far a proof gets in it varies a little from run to run, so
                a threshold needs room. The rest is as in `audit`.
        """
        if norm not in NORMS:
            raise InvalidSetting(f"norm must be one of {', '.join(NORMS)}; got {norm!r}.")
        check_number("seconds", seconds)
        if seconds <= 0:
            raise InvalidSetting(f"seconds must be > 0; got {seconds}.")
        chosen = seed if seed is not None else int(self._defaults.get("seed", 0))
        sample = draw(images_of(data, labels), images if images is not None else self._defaults.get("images"), chosen)

        def radii() -> list[float | None]:
            from robustest.bounds.check import checker_of

            checker = checker_of(self._classifier(model, spec), image_shape=sample.images.shape[1:])
            found: list[float | None] = []
            for image, label in zip(as_unit(sample.images), sample.labels.tolist(), strict=True):
                lower = checker.bracket(image, label, norms=(norm,), seconds=seconds)[norm].lower
                found.append(None if lower is None else lower.value)
            return found

        return Certified(norm, radii, len(sample), self._session.confidence, self._told, self._on_inconclusive)

    def check(
        self,
        name: str,
        model: Any,
        data: Any,
        *,
        labels: Any = None,
        spec: InputSpec | str | Path | None = None,
        queries: int | None = None,
        images: int | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> Comparison | None:
        """Compare a model with its baseline `<name>.json`: stored adversarial images first, then image by image.

        Returns:
            The comparison; None where baselines are off or were just updated.

        Raises:
            BaselineFailure: images got worse more often than chance explains, or at all with --robustest-strict.
            InvalidSetting: no baseline, another's settings, or an update under CI.
        """
        if self._session.baseline == "off":
            return None
        if not name or Path(name).name != name or name.startswith("."):
            raise InvalidSetting(f"name of a baseline must be a plain file name without its suffix; got {name!r}.")
        chosen = self._settings(queries, seed, settings)
        count = images if images is not None else self._defaults.get("images")
        sample = draw(images_of(data, labels), count, chosen.seed)
        digest = settings_digest(chosen, len(sample), _set_digest(sample))
        path = self._session.baselines / f"{name}.json"
        if self._session.baseline == "update":
            if os.environ.get("CI"):
                raise InvalidSetting(
                    "--robustest-baseline=update is refused under CI: a baseline is accepted by a person, in a commit."
                )
            summary = self._run(self._classifier(model, spec), sample, chosen)
            write_baseline(path, as_baseline(name, summary, digest))
            return None
        content = read_baseline(path, digest)
        classifier = self._classifier(model, spec)
        found = compare(content, self._run(classifier, sample, chosen), classifier, sample)
        self._tell_baseline(name, found)
        return found

    def _tell_baseline(self, name: str, found: Comparison) -> None:
        worse_than_chance = found.worse > found.better and found.p_value < 1 - self._session.confidence
        lines = (
            f"stored adversarial images that still flip: {found.still} of {found.replayed}",
            f"of {found.images} images {found.worse} got worse and {found.better} better (sign test p = {found.p_value:.3g})",
            *(f"worse: {text}" for text in found.examples),
            *(["accept the change with: pytest --robustest-baseline=update"] if found.worse or found.better else []),
        )
        failed = worse_than_chance or (self._session.strict and found.worse > 0)
        # Images that got worse no more often than chance explains are not shown to be no worse; that alone does not fail.
        answer = Answer.REFUTED if failed else Answer.INCONCLUSIVE if found.worse else Answer.PROVEN
        judged = Judged(answer, f"baseline {name}: no worse than before", lines, self._on_inconclusive)
        self._told("", judged, Interval(found.p_value, found.p_value, lines))
        if failed:
            raise BaselineFailure("\n".join(judged.message()))

    def _settings(self, queries: int | None, seed: int | None, more: dict[str, Any]) -> AttackSettings:
        given = {key: value for key, value in self._defaults.items() if key in _SETTINGS} | more
        unknown = sorted(set(given) - set(_SETTINGS))
        if unknown:
            raise InvalidSetting(f"unknown setting {unknown[0]!r}; the settings are {', '.join((*_OWN, *_SETTINGS))}.")
        budget = queries if queries is not None else int(self._defaults.get("queries", 1000))
        chosen = AttackSettings(
            queries=budget, seed=seed if seed is not None else int(self._defaults.get("seed", 0)), **given
        )
        if self._session.scale != 1.0:
            chosen = replace(chosen, queries=max(1, round(chosen.queries * self._session.scale)))
        return chosen

    def _classifier(self, model: Any, spec: InputSpec | str | Path | None) -> Classifier:
        classifier = load_classifier(model, spec)
        if self._session.device is not None and isinstance(model, str) and hasattr(classifier, "device"):
            return load_classifier(model, spec, device=self._session.device)
        return classifier

    def _run(self, classifier: Classifier, images: ImageSet, settings: AttackSettings) -> AuditSummary:
        """Audit once for all tests and workers: the first to come runs it, the others read what it found."""
        identity = {
            "settings": asdict(settings),
            "model": classifier.info.digest or f"{classifier.info.source} {_answers(classifier, images)}",
            "input spec": asdict(classifier.info.spec),
            "data": _set_digest(images),
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        folder = self._session.runs / f"{Path(classifier.info.source).stem}-{key}"
        self._session.runs.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder) + ".lock"):
            return run_audit(classifier, images, settings=settings, out=folder)


def images_of(data: Any, labels: Any) -> ImageSet:
    """Images and labels from whatever a test has."""
    if isinstance(data, ImageSet):
        return data
    if isinstance(data, (str, os.PathLike)):
        return load_images(Path(data))
    if labels is None:
        raise InvalidSetting("labels must be given beside an array of images; or give a path or an ImageSet.")
    images = check_images(np.asarray(data))
    return ImageSet(
        images=images,
        labels=check_labels(labels, len(images), None),
        names=tuple(f"image[{place}]" for place in range(len(images))),
    )


def draw(images: ImageSet, count: int | None, seed: int) -> ImageSet:
    """`count` images in the order of a hash of seed and image: the same ones whatever else the set holds."""
    if count is not None and (not isinstance(count, int) or count < 1):
        raise InvalidSetting(f"images must be a whole number >= 1, or left out for all; got {count!r}.")
    if count is None or count >= len(images):
        return images
    order = sorted(
        range(len(images)), key=lambda place: hashlib.sha256(f"{seed}:{images.digests[place]}".encode()).digest()
    )
    return images.take(sorted(order[:count]))


def _answers(classifier: Classifier, images: ImageSet) -> str:
    """Digest of the scores of a few images: what tells models apart that have no file and may have one name."""
    height, width, channels = images.images.shape[1:]
    check_fit(classifier.info, (height, width, channels))
    scores = classifier(as_unit(images.images[:_ASKED]))
    return hashlib.sha256(np.ascontiguousarray(scores).tobytes()).hexdigest()


def _set_digest(images: ImageSet) -> str:
    text = "\n".join(f"{digest} {label}" for digest, label in zip(images.digests, images.labels, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()
