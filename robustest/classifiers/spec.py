"""The input spec: how a model wants its images, and what it gives back.

Preprocessing is `(image8 * scale - mean) / std` a channel, where image8 is in 0..255; then the channel order is
reversed for BGR (before the mean), and the axes are transposed for NCHW. The same words as in a model zoo's
`manifest.json`, in a `model.toml` beside the model, in flags and in `InputSpec(...)`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from robustest.errors import InvalidSpec

Layout = Literal["NHWC", "NCHW"]
Channels = Literal["RGB", "BGR", "gray"]
Output = Literal["logits", "probabilities", "label"]

_KEYS = ("layout", "channels", "scale", "mean", "std", "output")
_LONG_EXPONENT = re.compile(r"[eE][+-]?[\d_]{4}")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How a model wants its images and what it returns.

    layout: NHWC or NCHW, the model's own axes.
    channels: RGB, BGR or gray, the model's own order.
    scale: factor on values in 0..255, > 0; 1/255 for a model that takes [0, 1], 1 for one that takes 0..255.
    mean, std: subtracted and divided by after the scale, one number or one a channel in the model's order; std > 0.
    output: `logits`, `probabilities`, or `label` (only the class number is given).

    Raises:
        InvalidSpec: a value is none of these.
    """

    layout: Layout = "NHWC"
    channels: Channels = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    output: Output = "logits"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", _numbers("mean", self.mean))
        object.__setattr__(self, "std", _numbers("std", self.std))
        object.__setattr__(self, "scale", _number("scale", self.scale))
        _one_of("layout", self.layout, ("NHWC", "NCHW"))
        _one_of("channels", self.channels, ("RGB", "BGR", "gray"))
        _one_of("output", self.output, ("logits", "probabilities", "label"))
        if self.scale <= 0:
            raise InvalidSpec(f"scale must be > 0; got {self.scale:g}. Use 1/255 for a model that takes [0, 1].")
        if min(self.std) <= 0:
            raise InvalidSpec(f"std must be > 0 for every channel; got {list(self.std)}. Use 1 for no division.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channel_count):
                raise InvalidSpec(
                    f"{name} must be one number or one for each of the {self.channel_count} channels of "
                    f"{self.channels}; got {len(values)} numbers."
                )

    @property
    def channel_count(self) -> int:
        """1 for gray, 3 for RGB and BGR."""
        return 1 if self.channels == "gray" else 3

    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """(C,) scale of values in [0, 1], mean and std, in the *image's* channel order (RGB): x01 * scale - mean, over std."""
        ones = np.ones(self.channel_count, np.float32)
        mean, std = ones * np.asarray(self.mean, np.float32), ones * np.asarray(self.std, np.float32)
        if self.channels == "BGR":
            mean, std = mean[::-1], std[::-1]
        return ones * np.float32(self.scale), np.ascontiguousarray(mean), np.ascontiguousarray(std)

    def values(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """Colours (..., C) in [0, 1] as the model's own values, channels still in the image's order."""
        return model_values(unit, self.affine())

    def prepare(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images (N, H, W, C) in [0, 1] as the model wants them, contiguous float32."""
        ready = self.values(images)
        if self.channels == "BGR":
            ready = ready[..., ::-1]
        if self.layout == "NCHW":
            ready = ready.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(ready, dtype=np.float32)


def model_values(
    unit: NDArray[np.float32], affine: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Colours (..., C) in [0, 1] as a model's own values; `affine` is what `InputSpec.affine` gives."""
    scale, mean, std = affine
    return cast("NDArray[np.float32]", ((unit * np.float32(255)) * scale - mean) / std)


def _fraction(text: str) -> Fraction:
    """Of a number, or of two with a stroke between them, decimal ones too: 1/255, 1/127.5."""
    over, stroke, under = text.partition("/")
    return Fraction(over) / Fraction(under) if stroke and "/" not in under else Fraction(text)


def _number(name: str, value: object) -> float:
    try:
        if isinstance(value, bool) or (isinstance(value, str) and (len(value) > 40 or _LONG_EXPONENT.search(value))):
            raise ValueError("a fraction is computed exactly, so its exponent must be short")
        number = float(_fraction(value)) if isinstance(value, str) else float(cast("float", value))
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise InvalidSpec(f"{name} must be a number or a fraction such as '1/255'; got {value!r}.") from error
    if not np.isfinite(number):
        raise InvalidSpec(f"{name} must be finite; got {number}.")
    return number


def _numbers(name: str, value: object) -> tuple[float, ...]:
    if isinstance(value, (str, int, float)):
        return (_number(name, value),)
    try:
        items = list(cast("list[object]", value))
    except TypeError as error:
        raise InvalidSpec(f"{name} must be a number or a list of numbers; got {value!r}.") from error
    if not items:
        raise InvalidSpec(f"{name} must have at least one number; got an empty list.")
    return tuple(_number(name, item) for item in items)


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidSpec(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")


def spec_of_table(table: Mapping[str, Any], *, where: str, base: InputSpec | None = None) -> InputSpec:
    """An input spec from a table of its keys; keys not given keep those of `base`.

    Raises:
        InvalidSpec: a misspelt key or a bad value, naming `where` it stood.
    """
    unknown = sorted(set(table) - set(_KEYS))
    if unknown:
        raise InvalidSpec(f"{where}: unknown key {unknown[0]!r}; the keys are {', '.join(_KEYS)}.")
    try:
        return replace(base or InputSpec(), **dict(table))
    except InvalidSpec as error:
        raise InvalidSpec(f"{where}: {error}") from error


def read_spec(path: str | Path) -> InputSpec:
    """The input spec of a TOML file: its keys at the top, or in a table `[input]`; a table `[server]` is another's.

    Raises:
        InvalidSpec: missing, not TOML, or with unknown keys.
    """
    where = Path(path)
    try:
        table = tomllib.loads(where.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSpec(f"input spec {str(path)!r} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of numbers too long and tables too deep
        raise InvalidSpec(f"input spec {str(path)!r} is not TOML: {error}.") from error
    inner = table.get("input", {key: value for key, value in table.items() if key != "server"})
    if not isinstance(inner, Mapping):
        raise InvalidSpec(f"input spec {str(path)!r}: [input] must be a table.")
    return spec_of_table(inner, where=where.name)


def spec_beside(model: Path) -> tuple[InputSpec, str] | None:
    """The spec that lies beside a model file, with where it was found: `<model>.toml`, `model.toml`, or an entry of a
    `manifest.json` in the model's folder or the one above."""
    for candidate in (model.with_suffix(".toml"), model.parent / "model.toml"):
        if candidate.is_file():
            return read_spec(candidate), candidate.name
    for manifest in (model.parent / "manifest.json", model.parent.parent / "manifest.json"):
        if manifest.is_file() and (spec := _from_manifest(manifest, model)) is not None:
            return spec, manifest.name
    return None


def _from_manifest(manifest: Path, model: Path) -> InputSpec | None:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidSpec(f"{manifest.name} beside the model is not JSON: {error}. Mend it or give --input.") from error
    models = content.get("models") if isinstance(content, dict) else None
    for entry in models if isinstance(models, list) else []:
        if not isinstance(entry, dict) or Path(str(entry.get("file", ""))).name != model.name:
            continue
        inputs, output = entry.get("input"), entry.get("output")
        if not isinstance(inputs, dict):
            raise InvalidSpec(f"{manifest.name}: the entry of {model.name} has no table 'input'.")
        table = {key: inputs[key] for key in _KEYS if key in inputs}
        if isinstance(output, dict) and "kind" in output:
            table["output"] = output["kind"]
        elif isinstance(output, str):
            table["output"] = output
        return spec_of_table(table, where=f"{manifest.name}, entry of {model.name}")
    return None
