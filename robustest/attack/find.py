"""Find adversarial images: one image, or many at once."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import numpy as np

from robustest import compiled
from robustest.attack.driver import Clock, Job, play, usual_games
from robustest.attack.task import Notes, Strategy, Task
from robustest.classifiers.batching import choose_batch
from robustest.classifiers.classifier import Classifier, check_fit
from robustest.classifiers.loading import load_classifier
from robustest.errors import InvalidSetting
from robustest.images import Pixels, as_unit, check_images, check_labels
from robustest.randomness import image_digest
from robustest.results import AttackResult
from robustest.settings import AttackSettings, Norm, Values

# Every search by the name a user gives it; a baseline is here too, so that the audit can run it like ours.
STRATEGIES = {
    "game": "robustest.attack.search:game_search",
    "sparse-rs": "robustest.baselines.sparse_rs:sparse_rs",
    "brusle": "robustest.baselines.brusle:brusle",
    "random-corners": "robustest.baselines.random_corners:random_corners",
    "one-pixel": "robustest.baselines.one_pixel:one_pixel",
    "greedy": "robustest.baselines.greedy:greedy",
    "one-scan": "robustest.baselines.greedy:one_scan",
    "pointwise": "robustest.baselines.pointwise:pointwise",
    "sparse-evo": "robustest.baselines.sparse_evo:sparse_evo",
}
FIXED_PIXELS = ("sparse-rs", "brusle", "random-corners", "one-pixel")  # attacks with a given number of pixels


def strategy_named(name: str) -> Strategy:
    """The search of that name; `sparse-rs@5` is the one that changes exactly 5 pixels.

    Raises:
        InvalidSetting: there is none.
    """
    base, _, pixels = name.partition("@")
    if base not in STRATEGIES:
        raise InvalidSetting(f"attack must be one of {', '.join(STRATEGIES)}; got {name!r}.")
    if "@" in name and (base not in FIXED_PIXELS or not pixels.isdecimal() or int(pixels) < 1):
        raise InvalidSetting(
            f"attack {name!r}: @ gives the number of pixels, a whole number >= 1, of {', '.join(FIXED_PIXELS)} alone."
        )
    module, _, function = STRATEGIES[base].partition(":")
    found = cast("Strategy", getattr(importlib.import_module(module), function))
    return functools.partial(cast("Any", found), k=int(pixels)) if pixels else found


def find_adversarial(
    classifier: Any,
    image: Pixels,
    label: int,
    *,
    queries: int = 1000,
    seed: int = 0,
    target: int | None = None,
    norm: Norm = "l0",
    values: Values = "corners",
    tau: float = 1.0,
    guide: Literal["sift", "grid", "uniform"] = "sift",
    attack: str = "game",
    minimal: bool = False,
) -> AttackResult:
    """Look for the adversarial image nearest to one image.

    Args:
        classifier: what `load_classifier` gives, or any callable on (N, H, W, C) float32 in [0, 1].
        image: (H, W, C) or (H, W), uint8 or floats in [0, 1]; an 8-bit image gets an 8-bit answer.
        label: its class. target: class to be reached, None for any other.
        queries, seed, norm, values, tau, guide, attack, minimal: see `AttackSettings`.

    Raises:
        InvalidImage, InvalidSetting, ModelError: each says what to do.
    """
    settings = AttackSettings(
        queries=queries,
        seed=seed,
        target=target,
        norm=norm,
        values=values,
        tau=tau,
        guide=guide,
        attack=attack,
        minimal=minimal,
    )
    return find_adversarials(
        classifier, check_images(np.asarray(image)[None], argument="image"), [label], settings=settings
    )[0]


def find_adversarials(
    classifier: Any,
    images: Pixels,
    labels: Sequence[int] | np.ndarray[Any, np.dtype[np.int64]],
    *,
    queries: int = 1000,
    seed: int = 0,
    target: int | None = None,
    settings: AttackSettings | None = None,
    batch: int | None = None,
) -> list[AttackResult]:
    """Look for the nearest adversarial image of each of many images, side by side.

    Args:
        classifier: what `load_classifier` gives, or any callable on (N, H, W, C) float32 in [0, 1].
        images: (N, H, W, C) or (N, H, W), uint8 or floats in [0, 1].
        labels: (N,) classes.
        queries, seed, target: for each image; `settings` in their place gives all of `AttackSettings`.
        batch: images a call to the classifier; None to measure what is fastest. The result does not depend on it.

    Returns:
        N results in the order of the images.
    """
    chosen = settings or AttackSettings(queries=queries, seed=seed, target=target)
    box = load_classifier(classifier)
    checked = check_images(np.asarray(images))
    numbers = check_labels(labels, len(checked), box.info.classes)
    found = dict(iter_adversarials(box, checked, numbers, chosen, batch=batch))
    return [found[index] for index in range(len(checked))]


def iter_adversarials(
    classifier: Classifier,
    images: Pixels,
    labels: np.ndarray[Any, np.dtype[np.int64]],
    settings: AttackSettings,
    *,
    batch: int | None = None,
    strategy: Strategy | None = None,
    games: int | None = None,
    clock: Clock | None = None,
) -> Iterator[tuple[int, AttackResult]]:
    """As `find_adversarials` on checked input, yielding (index, result) as each image is finished.

    Args:
        strategy: a search in place of the one that `settings.attack` names.
        games: images in play at once; None for as many as fill the batches. clock: is told where the time goes.
    """
    if not len(images):
        return
    shape = cast("tuple[int, int, int]", images.shape[1:])
    check_fit(classifier.info, shape)
    classes = classifier.info.classes
    if settings.target is not None and classes is not None and settings.target >= classes:
        raise InvalidSetting(f"target must be below {classes}, the number of classes; got {settings.target}.")
    search = strategy or strategy_named(settings.attack)
    compiled.expect(len(images) * settings.queries)
    how = choose_batch(classifier, as_unit(images[:4]), rows=batch)
    places = min(games or usual_games(how, shape, beside=classifier.info.beside), len(images))
    eight_bit = images.dtype == np.uint8

    def jobs() -> Iterator[Job]:
        for index, image in enumerate(images):
            task = Task(
                image=as_unit(image),
                eight_bit=eight_bit,
                label=int(labels[index]),
                target=settings.target,
                decision_only=classifier.info.output == "label",
                clean_margin=float("nan"),
                settings=settings,
                notes=Notes(),
            )
            yield Job(index, task, image_digest(image))

    yield from play(classifier, jobs(), search, shape=shape, batch=how, games=places, clock=clock)
