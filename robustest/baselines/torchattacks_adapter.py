"""torchattacks, fenced: any of its attacks on any differentiable classifier, one image at a time.

Departures from calling it directly: the random generators of torch, numpy and Python are seeded from ours and put back;
what it prints is dropped; an attack that has no untargeted mode (JSMA aims at label + 1 of ten) is aimed at the runner-up;
attacks that count classes are told how many there are; images are contiguous; the answer is judged elsewhere.
Install it with --no-deps: its pins would downgrade requests and urllib3, which it does not need for its attacks.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustest.classifiers.differentiable import Differentiable, runner_up
from robustest.errors import EnvironmentFailure, InvalidSetting, MissingExtra

PREFIX = "torchattacks."
WITHOUT_GRADIENTS = ("GN", "OnePixel", "Pixle", "SPSA", "Square", "VANILA")  # these ask for scores at most
_AIMED = ("JSMA",)  # no untargeted mode of their own
_LARGEST_PAIRS = 512 << 20  # bytes of JSMA's table of all pairs of features
_NOT_ATTACKS = ("Attack", "MultiAttack", "LGV", "Wrapper")


class AttackFailed(EnvironmentFailure):
    """An attack of another library failed, or would not end."""


class _Channels(nn.Module):
    """A differentiable classifier as a module on (N, C, H, W) in [0, 1]."""

    def __init__(self, model: Differentiable) -> None:
        super().__init__()
        self._model = [model]  # not a submodule: the attacks must not touch its mode
        self.anchor = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return self._model[0].logits(images.permute(0, 2, 3, 1).contiguous())


def torchattacks_names() -> tuple[str, ...]:
    """The names of its attacks, sorted.

    Raises:
        MissingExtra: torchattacks is not installed.
    """
    library = _library()
    return tuple(
        sorted(
            name
            for name, value in vars(library).items()
            if inspect.isclass(value) and issubclass(value, library.attack.Attack) and name not in _NOT_ATTACKS
        )
    )


def check_torchattacks(name: str) -> str:
    """The class's name of `torchattacks.NAME`.

    Raises:
        InvalidSetting: there is none of that name. MissingExtra: torchattacks is not installed.
    """
    short = name.removeprefix(PREFIX)
    if short not in torchattacks_names():
        raise InvalidSetting(
            f"attack must be one of {', '.join(PREFIX + n for n in torchattacks_names())}; got {name!r}."
        )
    return short


def torchattacks_attack(
    name: str, model: Differentiable, image: Tensor, label: int, target: int | None, *, seed: int, **options: float
) -> Tensor:
    """What one of its attacks makes of one image (H, W, C) in [0, 1].

    Args:
        name: such as `JSMA`. seed: of all that it draws. options: of the attack; its own defaults otherwise.

    Raises:
        AttackFailed: it raised, or its memory would be beyond reason. InvalidSetting: it cannot aim at a target.
    """
    if name == "JSMA":
        size = 4 * image.numel() ** 2
        if size > _LARGEST_PAIRS:
            raise AttackFailed(
                f"torchattacks.JSMA makes tables of all pairs of features, {size / 2**30:.0f} GiB each for images of "
                f"{tuple(image.shape)}; it is not run. Use jsma."
            )
    batch = image.permute(2, 0, 1)[None].contiguous().clone()
    labels = torch.tensor([label])
    with torch.no_grad():
        logits = model.logits(image[None])
    with _fenced(seed):
        try:
            attack = _made(name, _Channels(model), classes=logits.shape[1], options=options)
            if target is not None or name in _AIMED:
                if "targeted" not in attack.supported_mode:
                    raise InvalidSetting(f"attack torchattacks.{name} cannot aim at a class; leave the target open.")
                aim = runner_up(logits, labels) if target is None else torch.tensor([target])
                attack.set_mode_targeted_by_label(quiet=True)
                labels = aim
            answer = attack(batch, labels)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, ZeroDivisionError) as error:
            raise AttackFailed(f"torchattacks.{name} failed: {type(error).__name__}: {str(error)[:200]}") from error
    return answer.detach()[0].permute(1, 2, 0).contiguous().clamp(0, 1)  # type: ignore[no-any-return]


def _made(name: str, module: nn.Module, *, classes: int, options: dict[str, float]) -> Any:
    kind = getattr(_library(), name)
    if "n_classes" in inspect.signature(kind.__init__).parameters:
        options = {**options, "n_classes": classes}
    return kind(module.eval(), **options)


def _library() -> Any:
    try:
        return importlib.import_module("torchattacks")
    except ImportError as error:
        raise MissingTorchattacks from error


class MissingTorchattacks(MissingExtra):
    """torchattacks is not installed, and no extra installs it."""

    def __init__(self) -> None:
        super().__init__("torchattacks", "compare", "the attacks named torchattacks.NAME")
        self.args = (
            "the attacks named torchattacks.NAME need torchattacks, which is not installed. pip install --no-deps torchattacks==3.5.1 "
            "(with its dependencies it would downgrade requests and urllib3)",
        )


@contextlib.contextmanager
def _fenced(seed: int) -> Iterator[None]:
    """Global random generators seeded inside and put back after; nothing is printed, no warning shown."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - it draws from numpy's global generator
    with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
