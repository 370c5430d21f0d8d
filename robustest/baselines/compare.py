"""Run several attacks on the same images with the same budget and seed: see `comparison` for what comes out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest import __version__
from robustest.attack.find import FIXED_PIXELS, STRATEGIES, iter_adversarials, strategy_named
from robustest.baselines.comparison import Access, Comparison, Row, Run
from robustest.baselines.corners import check_settings
from robustest.baselines.saved import load_row, row_key, save_row
from robustest.classifiers.classifier import Classifier, check_fit, check_output, classes_of
from robustest.errors import EnvironmentFailure, InvalidSetting, NothingToTest
from robustest.images import ImageSet, as_unit, check_labels
from robustest.results import AttackResult
from robustest.settings import AttackSettings

LADDER = (1, 2, 3, 5, 10, 20)
USUAL = "game,sparse-rs,brusle,random-corners"  # attacks of a comparison that names none
WITH_LADDER = ("sparse-rs", "brusle")  # run once for each number of pixels, unless told which
LABEL_ONLY = ("pointwise", "sparse-evo")
_SPEC = re.compile(
    r"(?P<name>[a-z][\w.-]*)(?:@(?P<pixels>[0-9]+(?:/[0-9]+)*))?(?::(?P<queries>[0-9]+))?", re.IGNORECASE
)
_CHUNK = 256

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class AttackSpec:
    """One attack as a user asks for it: `game`, `sparse-rs@5/10`, `greedy:50000`, `sigma-zero`, `torchattacks.JSMA`.

    pixels: fixed numbers of pixels, one run each; empty where the attack has none. queries: a budget of its own, or None.
    """

    name: str
    pixels: tuple[int, ...] = ()
    queries: int | None = None

    @property
    def white_box(self) -> bool:
        """True where it is none of our searches but written for torch, which most often takes gradients."""
        return self.name not in STRATEGIES


def parse_attacks(text: str, *, pixels: Sequence[int] = LADDER) -> tuple[AttackSpec, ...]:
    """The attacks of a comma-separated list.

    Args:
        text: names, each with `@k` or `@k1/k2` for fixed numbers of pixels and `:queries` for a budget of its own.
        pixels: the numbers used where an attack that needs one is given none.

    Raises:
        InvalidSetting: an unknown name, a bad number, or the same attack twice.
    """
    from robustest.baselines.whitebox import check_white_box

    specs = []
    for part in (part.strip() for part in text.split(",")):
        match = _SPEC.fullmatch(part)
        if match is None:
            raise InvalidSetting(
                f"attacks: {part!r} is not understood. Write names separated by commas, such as game,sparse-rs@5/10,greedy:50000."
            )
        name = match["name"]
        fixed = tuple(sorted({int(k) for k in (match["pixels"] or "").split("/") if k}))
        if name in STRATEGIES:
            for k in fixed:
                strategy_named(f"{name}@{k}")
        else:
            check_white_box(name)
            if fixed:
                raise InvalidSetting(
                    f"attack {part!r}: @ gives the number of pixels, of {', '.join(FIXED_PIXELS)} alone."
                )
        if not fixed and name in WITH_LADDER:
            fixed = tuple(pixels)
        queries = int(match["queries"]) if match["queries"] else None
        specs.append(AttackSpec(name, fixed, queries))
    twice = {spec.name for spec in specs if sum(other.name == spec.name for other in specs) > 1}
    if twice:
        raise InvalidSetting(f"attacks: {', '.join(sorted(twice))} is named twice; join its numbers of pixels with /.")
    return tuple(specs)


def usual_attacks(settings: AttackSettings) -> str:
    """The attacks of a comparison that names none: those of `USUAL` that can follow its norm and values."""
    return ",".join(name for name in USUAL.split(",") if _refusal(name, settings) is None)


def _refusal(attack: str, settings: AttackSettings) -> InvalidSetting | None:
    """Why one of our searches cannot follow the settings, or None; `game` follows any."""
    try:
        if attack != "game":
            check_settings(settings, attack)
    except InvalidSetting as error:
        return error
    return None


def correct_images(classifier: Classifier, images: ImageSet, count: int | None) -> tuple[ImageSet, int]:
    """The first `count` images that the classifier gets right (all for None), and how many it got wrong on the way.

    Raises:
        NothingToTest: it gets none right.
    """
    check_fit(classifier.info, images.images.shape[1:])
    check_labels(images.labels, len(images), classifier.info.classes)
    chosen: list[int] = []
    looked = 0
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        scores = classifier(as_unit(images.images[part]))
        check_output(scores, classifier.info.output, source=classifier.info.source)
        right = classes_of(scores, classifier.info.output) == images.labels[part]
        for place in range(len(right)):
            if count is not None and len(chosen) == count:
                break
            looked += 1
            if right[place]:
                chosen.append(start + place)
    if not chosen:
        raise NothingToTest(
            f"{classifier.info.source} is wrong about all of the {len(images)} images; there is nothing to attack. Check the input "
            "spec and the labels."
        )
    return images.take(chosen), looked - len(chosen)


def run_comparison(
    classifier: Classifier,
    images: ImageSet,
    attacks: Sequence[AttackSpec],
    settings: AttackSettings,
    *,
    count: int | None = None,
    pixels: Sequence[int] = LADDER,
    batch: int | None = None,
    progress: Progress | None = None,
    command: str = "",
    save: Path | None = None,
) -> Comparison:
    """Attack the same correctly classified images with each attack.

    Args:
        settings: budget, seed, norm and values for all; its `attack` is not read.
        count: images wanted, None for all. pixels: where success is reported. batch: see `find_adversarials`.
        progress: told (attack, images done, images in all) as it goes.
        command: what the user typed, for the report.
        save: folder where each finished row is kept, and taken from when the same comparison is run again.

    Raises:
        InvalidSetting: an attack cannot follow the norm or the values; nothing was attacked then.
    """
    for spec in attacks:
        if not spec.white_box and (refusal := _refusal(spec.name, settings)) is not None:
            raise refusal
    chosen, skipped = correct_images(classifier, images, count)
    rows = []
    for spec in attacks:
        key = None if save is None else row_key(classifier, chosen, spec, settings)
        row = load_row(save, key, chosen) if save is not None and key is not None else None
        if row is None:
            row = _row(classifier, chosen, spec, settings, batch=batch, progress=progress)
            if save is not None and key is not None:
                save_row(save, key, row)
        rows.append(row)
    return Comparison(
        classifier=classifier.info.source,
        digest=classifier.info.digest,
        source=images.source,
        shape=chosen.images.shape[1:],
        names=chosen.names,
        labels=tuple(chosen.labels.tolist()),
        image_digests=chosen.digests,
        skipped=skipped,
        norm=settings.norm,
        pixels=tuple(sorted(set(pixels))),
        queries=settings.queries,
        seed=settings.seed,
        rows=tuple(rows),
        version=__version__,
        command=command,
    )


def _row(
    classifier: Classifier,
    images: ImageSet,
    spec: AttackSpec,
    settings: AttackSettings,
    *,
    batch: int | None,
    progress: Progress | None,
) -> Row:
    budget = spec.queries or settings.queries
    if spec.white_box:
        from robustest.baselines.whitebox import run_white_box

        def told(done: int) -> None:
            if progress is not None:
                progress(spec.name, done, len(images))

        wanted = replace(settings, attack=spec.name, queries=budget)
        row = run_white_box(classifier, images, spec.name, wanted, progress=told)
        own = f"its own budget is {budget} queries" if spec.queries and row.runs else ""
        return replace(row, note="; ".join(note for note in (row.note, own) if note))
    access: Access = "label" if spec.name in LABEL_ONLY or classifier.info.output == "label" else "scores"
    runs = []
    for k in spec.pixels or (None,):
        name = spec.name if k is None else f"{spec.name}@{k}"
        wanted = replace(settings, attack=name, queries=budget)
        started = time.process_time()
        try:
            results = tuple(_results(classifier, images, wanted, batch=batch, progress=progress))
        except EnvironmentFailure as error:
            return Row(name=spec.name, access=access, runs=(), note=str(error))
        runs.append(Run(attack=name, pixels=k, budget=budget, results=results, seconds=time.process_time() - started))
    notes = [f"one run of {budget} queries for each number of pixels"] if len(runs) > 1 else []
    notes += [f"its own budget is {budget} queries"] if spec.queries else []
    note = "; ".join(notes)
    return Row(name=spec.name, access=access, runs=tuple(runs), note=note)


def _results(
    classifier: Classifier, images: ImageSet, settings: AttackSettings, *, batch: int | None, progress: Progress | None
) -> Iterator[AttackResult]:
    """Results of one black-box attack in the order of the images."""
    found: dict[int, AttackResult] = {}
    labels: NDArray[np.int64] = images.labels
    iterator: Any = iter_adversarials(classifier, images.images, labels, settings, batch=batch)
    for index, result in iterator:
        found[index] = result
        if progress is not None:
            progress(settings.attack, len(found), len(images))
    yield from (found[index] for index in range(len(images)))
