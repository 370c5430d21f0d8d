"""The audit: plan, work and finish on one run folder, in one call that goes on from wherever it was stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from robustest.attack.find import strategy_named
from robustest.attack.task import Strategy
from robustest.audit.files import storage
from robustest.audit.finish import finish_run
from robustest.audit.plan import (
    PLAN,
    RESULT,
    Plan,
    check_same,
    data_facts,
    load_plan,
    make_plan,
    model_facts,
    refuse_foreign,
    save_plan,
)
from robustest.audit.probe import check_unchanged, probe_classifier
from robustest.audit.progress import Meter, Progress
from robustest.audit.reference import reference_to
from robustest.audit.status import counted
from robustest.audit.summary import AuditSummary, load_summary
from robustest.audit.supervise import pickled, supervise
from robustest.audit.work import Event, work_on
from robustest.audit.workers import usual_workers
from robustest.classifiers.classifier import Classifier, check_fit
from robustest.classifiers.loading import load_classifier
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidImage, InvalidSetting, NothingToTest
from robustest.images import ImageSet, as_unit, check_images, check_labels
from robustest.settings import AttackSettings


def run_audit(
    classifier: Any,
    images: Any,
    labels: Any = None,
    settings: AttackSettings | None = None,
    out: str | os.PathLike[str] = "audit",
    *,
    workers: int | None = 1,
    limit: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    spec: InputSpec | str | Path | None = None,
    isolate: bool | None = None,
    devices: Sequence[str] = (),
    trust_model: str | None = None,
    shards: int | None = None,
    durable: bool = False,
    strategy: Strategy | None = None,
    origin: str | None = None,
    command: str | None = None,
) -> AuditSummary:
    """Attack every image of a set, resumably, and write `result.json` and the adversarial images.

    The same call again goes on from where it was stopped, by whatever; on a finished run it returns the result at once.
    The result is the same, bit for bit, for any number of workers and any interruption.

    Args:
        classifier: what `load_classifier` takes; with workers > 1, an object must be picklable.
        images: what `load_images` gives, or (N, H, W, C) or (N, H, W) uint8 or floats in [0, 1].
        labels: (N,) classes; None for an `ImageSet`'s own.
        settings: how each image is attacked; None for the defaults.
        out: the run folder, made if missing; it must be empty or hold this very audit.
        workers: processes on this machine, >= 1; None for as many as pay, see `usual_workers`.
        limit: only the first so many images; None for all.
        progress: called after every image, in this thread.
        spec: input spec, where `classifier` is a name.
        isolate: play in processes of their own, so that an image that kills its process ends nothing else; None for
            only where there are several.
        devices: such as `cuda:0`, given to the workers in turn. trust_model: see `load_classifier`.
        shards: parts in which the run is kept; None for a good number. durable: survive a loss of power, too.
        strategy: a search in place of the one that the settings name; needs isolate False.
        origin: name by which other processes can load a classifier that is given as an object.
        command: what to type to get the result again, for the report.

    Raises:
        InvalidImage, InvalidSpec, InvalidSetting, UntrustedModel: what was asked cannot be done; nothing is written.
        RunConflict: the folder holds something else.
        ModelError, EnvironmentFailure: the model or the machine failed; the run can be resumed.
        NothingToTest: the classifier is wrong about every image; the result is written all the same.
    """
    settings = settings or AttackSettings()
    run = Path(out)
    check_call(settings, workers=workers, limit=limit)
    if strategy is not None and (isolate or (workers or 1) > 1):
        raise InvalidSetting("a strategy of your own runs in this process: use workers=1 and isolate=False.")
    box = load_classifier(classifier, spec, device=devices[0] if devices else None, trust_model=trust_model)
    chosen = image_set(images, labels, box, limit)
    plan = plan_run(
        run,
        box,
        chosen,
        settings,
        origin=origin if origin is not None else classifier,
        trust_model=trust_model,
        shards=shards,
        command=command,
    )
    if not (run / RESULT).is_file():
        before = counted(run, plan)
        if workers is None:
            left = plan.data.count - before.done
            workers = usual_workers(box, plan, left=left, devices=devices) if strategy is None else 1
        meter = Meter(plan.data.count, before, progress) if progress is not None else None
        work_here(
            run,
            plan,
            box,
            workers=workers,
            isolated=workers > 1 if isolate is None else isolate,
            devices=devices,
            durable=durable,
            strategy=strategy,
            notify=meter,
        )
        return checked(finish_run(run, plan))
    return checked(load_summary(run / RESULT))


def check_call(settings: AttackSettings, *, workers: int | None, limit: int | None) -> None:
    """Check what needs neither model nor images."""
    if workers is not None and workers < 1:
        raise InvalidSetting(f"workers must be >= 1; got {workers}.")
    if limit is not None and limit < 1:
        raise InvalidSetting(f"images must be >= 1, or left out for all; got {limit}.")
    strategy_named(settings.attack)


def image_set(images: Any, labels: Any, classifier: Classifier, limit: int | None) -> ImageSet:
    """The images to be audited, checked against the classifier.

    Raises:
        InvalidImage: no labels, or images or labels that do not fit. NothingToTest: none at all.
    """
    chosen: ImageSet
    if not isinstance(images, ImageSet):
        if labels is None:
            raise InvalidImage("labels are missing: give one class number an image, or what load_images returns.")
        pixels = check_images(np.asarray(images))
        if limit is not None:
            pixels, labels = pixels[:limit], np.asarray(labels)[:limit]
        names = tuple(str(place) for place in range(len(pixels)))
        chosen = ImageSet(images=pixels, labels=check_labels(labels, len(pixels), None), names=names)
    else:
        if labels is not None:
            raise InvalidImage("labels must be left out where images are an ImageSet, which has its own.")
        chosen = images.take(np.arange(limit)) if limit is not None and limit < len(images) else images
    if not len(chosen):
        raise NothingToTest("there is no image to test.")
    height, width, channels = chosen.images.shape[1:]
    check_fit(classifier.info, (int(height), int(width), int(channels)))
    check_labels(chosen.labels, len(chosen), classifier.info.classes)
    return chosen


def plan_run(
    run: Path,
    box: Classifier,
    images: ImageSet,
    settings: AttackSettings,
    *,
    origin: Any,
    trust_model: str | None = None,
    shards: int | None = None,
    command: str | None = None,
) -> Plan:
    """The plan of a run folder: the one there, if it is the same audit, or a new one. Nothing is written if this fails.

    Args:
        box: the classifier. origin: its name for other processes, or whatever the user gave.
    """
    with storage(run):
        refuse_foreign(run)
        planned = (run / PLAN).is_file()
    if planned:
        plan = load_plan(run)
        check_same(plan, settings, model_facts(box), data_facts(images), run)
        if plan.model.sha256 is None and (run / RESULT).is_file():
            # Nobody will ask it again, and its name says nothing of its weights.
            asked = as_unit(images.images[list(plan.probe)])
            check_unchanged(box, asked, plan.scores, change=plan.model.largest_change)
        return plan
    probe = probe_classifier(box, images, settings.target)
    named = isinstance(origin, (str, os.PathLike)) and not hasattr(box, "reference")
    plan = make_plan(
        box,
        images,
        settings,
        probe,
        reference=reference_to(origin if named else box, run, trust_model),
        shards=shards,
        command=command if command is not None else _call(box, images, settings),
    )
    return save_plan(run, plan, images)


def work_here(
    run: Path,
    plan: Plan,
    box: Classifier,
    *,
    workers: int,
    isolated: bool,
    devices: Sequence[str] = (),
    durable: bool = False,
    strategy: Strategy | None = None,
    notify: Callable[[Event], None] | None = None,
) -> None:
    """Work on a run in this process, or in processes that it starts, until all shards are done."""
    if not isolated:
        work_on(run, plan, box, notify=notify, durable=durable, strategy=strategy)
        return
    nameless = plan.reference.name is None
    supervise(
        run,
        workers=workers,
        classifier=pickled(box) if nameless else None,
        devices=devices,
        durable=durable,
        notify=notify,
    )


def checked(summary: AuditSummary) -> AuditSummary:
    """The summary, if any image was tested.

    Raises:
        NothingToTest: the classifier is wrong about every image, or those that it gets right are of the target class.
    """
    counts = summary.counts
    if counts.tested:
        return summary
    if counts.of_target:
        raise NothingToTest(
            f"no image is left to test: {counts.of_target} of {counts.images} are of the target class {summary.settings.target} "
            f"already, and {summary.model.source} is wrong about {counts.wrong}. Give images of other classes, or another target."
        )
    accuracy = summary.clean_accuracy
    raise NothingToTest(
        f"no image is left to test: {summary.model.source} is wrong about {accuracy.of - accuracy.count} of {accuracy.of} "
        f"unchanged images (clean accuracy {accuracy.share or 0:.0%}). Check the input spec (layout, channels, scale, mean, "
        "std), and that the labels are numbered as the model's classes are."
    )


def _call(box: Classifier, images: ImageSet, settings: AttackSettings) -> str:
    """The library call that gives the result again."""
    defaults = AttackSettings()
    changed = [
        f"{field.name}={value!r}"
        for field in fields(AttackSettings)
        if (value := getattr(settings, field.name)) != getattr(defaults, field.name)
    ]
    return f"run_audit({box.info.source!r}, {images.source!r}, settings=AttackSettings({', '.join(changed)}))"
