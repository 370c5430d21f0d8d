"""Run an attack written for torch on every image, most with gradients, and judge what it found by the black box.

Whatever an attack says, its image is rounded to 8 bits where the input is 8-bit and scored again through the classifier
that was asked about; images and backward passes are counted. Knows each attack by its name in a table.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from robustest.attack.find import STRATEGIES
from robustest.attack.replay import replay
from robustest.attack.task import Task
from robustest.baselines.comparison import Access, Row, Run
from robustest.classifiers.classifier import Classifier
from robustest.errors import EnvironmentFailure, InvalidSetting, MissingExtra
from robustest.images import ImageSet, as_unit
from robustest.randomness import stream
from robustest.results import AttackResult, Edits, Verdict
from robustest.settings import AttackSettings

if TYPE_CHECKING:
    from torch import Tensor

    from robustest.classifiers.differentiable import GradientClassifier, ScoredClassifier

# name: (function, its settings, steps of one query each that its paper gives it at most)
WHITE_BOX: dict[str, tuple[str, dict[str, Any], int]] = {
    "jsma": ("robustest.baselines.jsma:jsma", {"scores": "F", "every_class": True}, 100_000),
    "jsma-z": ("robustest.baselines.jsma:jsma", {"direction": "increase"}, 100_000),
    "jsma-f": ("robustest.baselines.jsma:jsma", {"direction": "increase", "scores": "F"}, 100_000),
    "cw-l0": ("robustest.baselines.cw_l0:cw_l0", {}, 100_000),
    "sigma-zero": ("robustest.baselines.sigma_zero:sigma_zero", {}, 1000),
    "fmn-l0": ("robustest.baselines.fmn_l0:fmn_l0", {}, 1000),
    "sparsefool": ("robustest.baselines.sparsefool:sparsefool", {}, 100_000),
}
_BATCH = 16
_COMPARED = 8  # images that the differentiable copy is compared with the black box on

Told = Callable[[int], None]


class _Attack(Protocol):
    def __call__(
        self, model: GradientClassifier, images: Tensor, labels: Tensor, target: int | None, *, steps: int
    ) -> Tensor: ...


def check_white_box(name: str) -> None:
    """Refuse a name that is neither a search's nor a white-box attack's.

    Raises:
        InvalidSetting: unknown. MissingExtra: it is torchattacks', which is not installed.
    """
    if name.startswith("torchattacks."):
        from robustest.baselines.torchattacks_adapter import check_torchattacks

        check_torchattacks(name)
    elif name not in WHITE_BOX:
        raise InvalidSetting(
            f"attack must be one of {', '.join((*STRATEGIES, *WHITE_BOX))} or torchattacks.NAME; got {name!r}."
        )


def access_of(name: str) -> Access:
    """What an attack that `check_white_box` lets pass asks of a classifier."""
    if not name.startswith("torchattacks."):
        return "gradients"
    from robustest.baselines.torchattacks_adapter import PREFIX, WITHOUT_GRADIENTS

    return "scores" if name.removeprefix(PREFIX) in WITHOUT_GRADIENTS else "gradients"


def run_white_box(
    classifier: Classifier, images: ImageSet, name: str, settings: AttackSettings, *, progress: Told | None = None
) -> Row:
    """One attack on every image; a row without runs, and the reason, where it cannot be run.

    Args:
        images: all correctly classified. settings: budget (steps of ours; torchattacks keeps its own), seed, target.
    """
    try:
        access = access_of(name)
        model = _model(classifier, access, as_unit(images.images[:_COMPARED]))
        started = time.process_time()
        results = tuple(_results(classifier, model, images, name, settings, progress))
    except ImportError as error:
        raise MissingExtra("torch", "compare", f"the attack {name}") from error
    except EnvironmentFailure as error:
        return Row(name=name, access=access, runs=(), note=str(error))
    run = Run(attack=name, pixels=None, budget=settings.queries, results=results, seconds=time.process_time() - started)
    failed = [result.reason for result in results if result.verdict is Verdict.UNKNOWN]
    return Row(name=name, access=access, runs=(run,), note=failed[0] if failed else "")


def _model(
    classifier: Classifier, access: Access, images: NDArray[np.float32]
) -> GradientClassifier | ScoredClassifier:
    """The classifier as torch code sees it; where it gives no gradients, its scores will do for an attack that takes none."""
    from robustest.classifiers.differentiable import NeedsGradients, ScoredClassifier, differentiable_of

    try:
        return differentiable_of(classifier, images)
    except NeedsGradients:
        if access == "gradients":
            raise
        if classifier.info.output == "label":
            raise EnvironmentFailure(f"needs scores: {classifier.info.source} gives the label alone") from None
        return ScoredClassifier(classifier)


def _results(
    classifier: Classifier,
    model: GradientClassifier | ScoredClassifier,
    images: ImageSet,
    name: str,
    settings: AttackSettings,
    progress: Told | None,
) -> Iterator[AttackResult]:
    size = (
        1 if name.startswith("torchattacks.") or name in ("cw-l0", "sparsefool", "jsma", "jsma-z", "jsma-f") else _BATCH
    )
    for start in range(0, len(images), size):
        part = images.take(range(start, min(start + size, len(images))))
        before, began = (model.queries, model.gradients), time.perf_counter()
        try:
            answers = _answers(model, part, name, settings)
            reason = ""
        except EnvironmentFailure as error:
            answers, reason = as_unit(part.images), str(error)
        spent = (model.queries - before[0]) // len(part), (model.gradients - before[1]) // len(part)
        seconds = (time.perf_counter() - began) / len(part)
        for index in range(len(part)):
            result = _judged(classifier, part, index, answers[index], settings, spent, reason)
            yield replace(result, seconds=seconds)
        if progress is not None:
            progress(start + len(part))


def _answers(
    model: GradientClassifier | ScoredClassifier, images: ImageSet, name: str, settings: AttackSettings
) -> NDArray[np.float32]:
    """(N, H, W, C) what the attack makes of the images."""
    import torch

    batch = torch.from_numpy(as_unit(images.images)).to(model.device)
    labels = torch.from_numpy(images.labels).to(model.device)
    if name.startswith("torchattacks."):
        from robustest.baselines.torchattacks_adapter import PREFIX, torchattacks_attack

        seed = int(stream(settings.seed, images.digests[0], purpose=name).integers(2**31))
        answer = torchattacks_attack(
            name.removeprefix(PREFIX), model, batch[0], int(labels[0]), settings.target, seed=seed
        )[None]
    else:
        where, options, most = WHITE_BOX[name]
        module, _, function = where.partition(":")
        attack = cast("_Attack", partial(getattr(importlib.import_module(module), function), **options))
        answer = attack(
            cast("GradientClassifier", model), batch, labels, settings.target, steps=min(settings.queries, most)
        )
    return np.asarray(answer.detach().cpu().numpy(), dtype=np.float32)


def _judged(
    classifier: Classifier,
    images: ImageSet,
    index: int,
    answer: NDArray[np.float32],
    settings: AttackSettings,
    spent: tuple[int, int],
    reason: str,
) -> AttackResult:
    """The verdict of the black box on one answer."""
    image, label = as_unit(images.images[index]), int(images.labels[index])
    result = AttackResult(
        verdict=Verdict.UNKNOWN if reason else Verdict.SURVIVED,
        reason=reason,
        attack=settings.attack,
        norm=settings.norm,
        label=label,
        target=settings.target,
        seed=settings.seed,
        budget=settings.queries,
        predicted=label,
        queries=spent[0],
        gradients=spent[1],
        checks=1,
    )
    if images.eight_bit:
        rounded = np.rint(np.clip(answer, 0, 1) * 255).astype(np.float32) / np.float32(255)
    else:
        rounded = np.clip(answer, 0, 1)
    if reason or (rounded == image).all():
        return result
    task = Task(
        image=image,
        eight_bit=images.eight_bit,
        label=label,
        target=settings.target,
        decision_only=False,
        clean_margin=float("nan"),
        settings=settings,
    )
    judged = replay(classifier, result, task, Edits.between(image, rounded), minimal=False)
    if judged.verdict is not Verdict.FLIPPED:
        return replace(result, reason="what the attack gave is not misclassified when stored and scored again")
    distance = {
        "l0": judged.l0_pixels,
        "l0_dims": judged.l0_dims,
        "l1": judged.l1,
        "l2": judged.l2,
        "linf": judged.linf,
    }
    return replace(judged, minimal=None, curve=((spent[0], float(distance[settings.norm] or 0.0)),))
