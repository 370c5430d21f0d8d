"""Recheck a saved certificate with a second, independent program: `recheck(file, model)`.

The region is rebuilt from the claim, split as the certificate's tree says, and every leaf is bounded anew by
`recheck_bounds` on a network that `recheck_model` read anew. Nothing that the first program computed is believed: a
tree that does not cover its region, another model file or a leaf whose bound is not positive is no confirmation.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.bounds.recheck_bounds import Leaf, Slopes, Tell, least_margins
from robustest.bounds.recheck_layers import Array, Model
from robustest.bounds.recheck_model import read_model
from robustest.bounds.recheck_signs import least_margin
from robustest.classifiers.onnx_digest import model_digest
from robustest.errors import InvalidSetting
from robustest.results import rounded_down

_HALVINGS = 7  # to a radius that is confirmed, in place of one that is not
_DEEPEST = 12
"""Most times that a leaf of a certificate is split again before it counts as not confirmed."""

Groups = tuple[tuple[NDArray[np.int64], int], ...]


class Finding(Enum):
    """What a recheck found."""

    CONFIRMED = "Confirmed: every part of the region was proved again by an independent program."
    NOT_CONFIRMED = "Not confirmed: the second program's bound is not tight enough; the claim is not refuted by that."
    WRONG_MODEL = "Not about this model: the file's digest is not the one in the certificate."
    BROKEN = "Broken: the certificate's parts do not cover the region it claims."


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a recheck.

    leaves: parts of the region that were proved again. lowest: least margin bound among them, None without any.
    reason: in words, where it was not confirmed. seconds: CPU seconds of this thread.
    """

    finding: Finding
    leaves: int
    lowest: float | None
    reason: str
    seconds: float

    @property
    def confirmed(self) -> bool:
        """Whether the claim holds."""
        return self.finding is Finding.CONFIRMED

    def sentence(self) -> str:
        """The result in words."""
        more = f" {self.reason}" if self.reason else ""
        return f"{self.finding.value}{more} ({self.leaves} parts, {self.seconds:.1f} s)"


class _BrokenError(Exception):
    """The tree does not cover its region."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the region: the box, and groups of units with budgets for a few-pixel claim."""

    lower: Array
    upper: Array
    groups: Groups


def recheck(path: str | Path, model: str | Path, *, nearer: bool = False, tell: Tell = lambda *_: None) -> Verdict:
    """Check a certificate against a model file.

    Args:
        path: of the certificate. model: of the ONNX file that it is about.
        nearer: where a ball is not confirmed, seek a smaller one that is, which takes some times as long; the reason names it.
        tell: see `Tell`.

    Raises:
        InvalidSetting: the file is not a certificate of a version that is known here.
        UnsupportedLayer: the model holds a layer that the second program does not know.
    """
    started = time.thread_time()
    content = _load(Path(path))
    image = _image(content)
    if model_digest(Path(model)) != content["model"]["sha256"]:
        return Verdict(Finding.WRONG_MODEL, 0, None, "", time.thread_time() - started)
    network = read_model(Path(model), content["spec"], image.shape)
    found = _proved(content, image, network, tell)
    if nearer and found.finding is Finding.NOT_CONFIRMED and content["claim"]["kind"] == "ball":
        radius = float(content["claim"]["radius"])
        within = _largest(content, image, network, radius, tell)
        words = (
            f"A radius of {rounded_down(within)} in place of {radius:.6g} is confirmed."
            if within
            else "Nor is a hundredth of its radius."
        )
        found = replace(found, reason=f"{found.reason} {words}")
    return replace(found, seconds=time.thread_time() - started)


def _largest(
    content: dict[str, Any], image: NDArray[np.float32], network: Model, radius: float, tell: Tell
) -> float | None:
    """A radius, near the largest, at which a ball is confirmed; None where a hundredth of the claimed one is not."""
    low, high = 0.0, radius
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        claim = {**content["claim"], "radius": middle}
        confirmed = _proved({**content, "claim": claim}, image, network, tell).finding is Finding.CONFIRMED
        low, high = (middle, high) if confirmed else (low, middle)
    return low or None


def _proved(content: Mapping[str, Any], image: NDArray[np.float32], network: Model, tell: Tell) -> Verdict:
    """Prove a certificate's claim anew; the seconds are left open."""
    classes = network.layers[-1].size
    label, target = content["label"], content["target"]
    rivals = [c for c in range(classes) if c != label] if target is None else [target]
    if label not in range(classes) or label in rivals or not set(rivals) <= set(range(classes)):
        raise InvalidSetting(f"label and target must be two of {classes} classes; got {label} and {target}.")
    rows = np.zeros((len(rivals), classes))
    rows[:, label] = 1.0
    rows[np.arange(len(rivals)), rivals] -= 1.0
    leaves, lowest = 0, None
    try:
        walk = _Walk(content, image)
        slopes = _slopes(content["slopes"], network, rivals) if content.get("slopes") else None
        while (leaf := walk.next()) is not None:
            margin, influence = _bounded(network, leaf, rows, slopes, tell)
            if margin > 0:
                leaves, lowest = leaves + 1, margin if lowest is None else min(lowest, margin)
            elif not walk.refine(influence):
                return Verdict(
                    Finding.NOT_CONFIRMED, leaves, lowest, f"One part's margin was bounded by {margin:.3g}.", 0.0
                )
    except _BrokenError as error:
        return Verdict(Finding.BROKEN, leaves, lowest, str(error), 0.0)
    return Verdict(Finding.CONFIRMED, leaves, lowest, "", 0.0)


def _bounded(network: Model, leaf: Leaf, rows: Array, slopes: Slopes | None, tell: Tell) -> tuple[float, Array]:
    """The least margin over a leaf, less what its softmax may tie, and how much each dimension's move matters to it."""
    if any(layer.zero is not None for layer in network.layers):
        least, influence = least_margin(network, leaf, rows)
    else:
        margins, influence = least_margins(network, leaf, rows, slopes, tell=tell)
        least = float(margins.min())
    return least - network.tie, influence


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"certificate {str(path)!r} cannot be read: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != "robustest-certificate" or content.get("version") != 1:
        raise InvalidSetting(f"certificate {str(path)!r} is not a robustest certificate of version 1.")
    missing = {"model", "spec", "image", "label", "target", "claim", "tree"} - set(content)
    if missing:
        raise InvalidSetting(f"certificate {str(path)!r} lacks {', '.join(sorted(missing))}.")
    return content


def _image(content: Mapping[str, Any]) -> NDArray[np.float32]:
    height, width, channels = content["image"]["shape"]
    flat = np.frombuffer(base64.b64decode(content["image"]["float32"]), "<f4")
    image = flat.reshape(height, width, channels)
    if not ((image >= 0) & (image <= 1)).all():
        raise InvalidSetting("the certificate's image must have values in [0, 1].")
    return image


def _slopes(given: Mapping[str, Any], network: Model, rivals: Sequence[int]) -> Slopes:
    """The slopes that a certificate proposes, under the layers that they are for; raises where they fit none."""
    bends = [at for at, layer in enumerate(network.layers) if layer.leak is not None]

    def read(slopes: Mapping[str, str], rows: int) -> dict[int, Array]:
        found = {}
        for place, text in slopes.items():
            at = bends[int(place)]
            flat = np.frombuffer(base64.b64decode(text), np.uint8)
            found[at] = flat.reshape(rows, network.layers[at].size) / 255.0
        return found

    try:
        margins = {}
        for at, values in read(given["margins"], len(given["rivals"])).items():
            margins[at] = np.full((len(rivals), values.shape[1]), np.nan)
            margins[at][[rivals.index(r) for r in given["rivals"]]] = values
        between = {
            network.layers[bends[int(place)]].inputs[0]: (
                {at: v[0] for at, v in read(sides["lower"], 1).items()},
                {at: v[0] for at, v in read(sides["upper"], 1).items()},
            )
            for place, sides in given["between"].items()
        }
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise _BrokenError(f"The slopes do not fit the network ({error}).") from error
    return Slopes(margins, between)


class _Walk:
    """Visits the leaves of a claimed region; raises where the tree would not cover it."""

    def __init__(self, content: Mapping[str, Any], image: NDArray[np.float32]) -> None:
        self.claim = content["claim"]
        self.image = image.astype(np.float64).ravel()
        self.norm, self.unit, root = self._root(image.shape[2])
        if self.claim["kind"] == "ball" and content["tree"].get("leaf") is not True:
            raise _BrokenError("A ball must have no splits.")
        self.waiting: list[tuple[Mapping[str, Any], _Part, int]] = [(content["tree"], root, 0)]
        self.last: tuple[_Part, int] | None = None

    def _root(self, channels: int) -> tuple[str, int, _Part]:
        """Norm, dimensions of a unit, and the whole region."""
        claim, centre = self.claim, self.image
        if claim["kind"] == "sparse" and claim["norm"] in ("l0", "l0_dims"):
            unit = channels if claim["norm"] == "l0" else 1
            count = len(centre) // unit
            free = np.arange(count) if claim["free"] is None else _places(claim["free"], count)
            whole = _Part(np.zeros_like(centre), np.ones_like(centre), _grouped(free, int(claim["units"])))
            return claim["norm"], unit, whole
        lower, upper = centre.copy(), centre.copy()
        if claim["kind"] == "box":
            dims = _places(claim["dims"], len(centre))
            lower[dims], upper[dims] = claim["lower"], claim["upper"]
            if not (lower <= upper).all():
                raise _BrokenError("A box has a lower end above its upper one.")
            return "linf", 1, _Part(lower, upper, ())
        if claim["kind"] == "ball" and claim["norm"] in ("linf", "l2", "l1") and float(claim["radius"]) >= 0:
            radius = float(claim["radius"])
            lower = np.maximum(np.nextafter(centre - radius, -np.inf), 0.0)
            upper = np.minimum(np.nextafter(centre + radius, np.inf), 1.0)
            return claim["norm"], 1, _Part(lower, upper, ())
        raise _BrokenError(f"claims like {claim['kind']!r} in {claim.get('norm')!r} are not known.")

    def next(self) -> Leaf | None:
        """The next leaf, or None after the last."""
        while self.waiting:
            node, part, depth = self.waiting.pop()
            if node.get("leaf") is True:
                self.last = part, depth
                return self._leaf(part)
            parts = _children(node, part, self.unit)
            self.waiting.extend((child, p, 0) for child, p in zip(node["children"], parts, strict=True))
        return None

    def refine(self, influence: Array) -> bool:
        """Split the last leaf once more, where it can be; the certificate's own bounds may have been tighter."""
        assert self.last is not None
        part, depth = self.last
        if depth >= _DEEPEST or self.claim["kind"] == "ball":
            return False
        each = influence.reshape(-1, self.unit).sum(axis=1)
        wide = [(float(np.sort(each[u])[-b:].sum()), g) for g, (u, b) in enumerate(part.groups) if len(u) > 1]
        if wide:
            place = max(wide)[1]
            units = part.groups[place][0]
            order = units[np.argsort(-each[units], kind="stable")]
            cut = max(1, min(len(order) - 1, int((np.cumsum(each[order]) < 0.6 * each[order].sum()).sum())))
            parts = _cut(part, place, np.sort(order[:cut]), np.sort(order[cut:]))
        else:
            alone = [int(u[0]) * self.unit + c for u, _ in part.groups for c in range(self.unit)]
            dims = np.array(alone, np.int64) if part.groups else np.flatnonzero(part.upper > part.lower)
            if not len(dims):
                return False
            dim = int(dims[influence[dims].argmax()])
            parts = _halves(part, dim, (part.lower[dim] + part.upper[dim]) / 2)
        self.waiting.extend(({"leaf": True}, p, depth + 1) for p in parts)
        return True

    def _leaf(self, part: _Part) -> Leaf:
        """A part with its base image: the middle where a unit stands alone, the image itself elsewhere."""
        if self.claim["kind"] == "ball":
            return Leaf(self.image, part.lower, part.upper, self.norm, eps=float(self.claim["radius"]))
        if self.norm == "linf":
            return Leaf((part.lower + part.upper) / 2, part.lower, part.upper, "linf")
        centre, lower, upper = self.image.copy(), self.image.copy(), self.image.copy()
        for units, _ in part.groups:
            dims = (units[:, None] * self.unit + np.arange(self.unit)).ravel()
            lower[dims], upper[dims] = part.lower[dims], part.upper[dims]
            if len(units) == 1:
                centre[dims] = (part.lower[dims] + part.upper[dims]) / 2
        return Leaf(centre, lower, upper, self.norm, unit=self.unit, groups=part.groups)


def _places(given: Sequence[int], count: int) -> NDArray[np.int64]:
    """Different places below `count`."""
    places = np.asarray(given, np.int64)
    if len(np.unique(places)) != len(places) or not ((places >= 0) & (places < count)).all():
        raise _BrokenError(f"Places must be different whole numbers below {count}.")
    return places


def _grouped(units: NDArray[np.int64], budget: int) -> Groups:
    """Units of which `budget` may change; where all may, each on its own."""
    if budget <= 0 or not len(units):
        return ()
    if budget >= len(units):
        return tuple((np.array([u]), 1) for u in units)
    return ((units, budget),)


def _cut(part: _Part, place: int, hot: NDArray[np.int64], cold: NDArray[np.int64]) -> list[_Part]:
    """A group cut in two: one part for each way to share its budget."""
    budget = part.groups[place][1]
    rest = part.groups[:place] + part.groups[place + 1 :]
    counts = range(max(0, budget - len(cold)), min(budget, len(hot)) + 1)
    return [replace(part, groups=rest + _grouped(hot, c) + _grouped(cold, budget - c)) for c in counts]


def _halves(part: _Part, dim: int, at: float) -> list[_Part]:
    """An interval of values cut in two."""
    below, above = part.upper.copy(), part.lower.copy()
    below[dim] = above[dim] = at
    return [replace(part, upper=below), replace(part, lower=above)]


def _children(node: Mapping[str, Any], part: _Part, unit: int) -> list[_Part]:
    """What a node's children must be to cover it."""
    if node.get("split") == "group":
        hot, cold = (np.unique(np.asarray(node[key], np.int64)) for key in ("hot", "cold"))
        whole = np.union1d(hot, cold)
        places = [g for g, (units, _) in enumerate(part.groups) if np.array_equal(np.sort(units), whole)]
        if len(places) != 1 or len(hot) + len(cold) != len(whole):
            raise _BrokenError("A split's halves are not a group.")
        parts = _cut(part, places[0], hot, cold)
    elif node.get("split") == "value":
        dim, at = int(node["dim"]), float(node["at"])
        alone = any(len(units) == 1 and units[0] == dim // unit for units, _ in part.groups)
        if (
            (part.groups and not alone)
            or not 0 <= dim < len(part.lower)
            or not part.lower[dim] <= at <= part.upper[dim]
        ):
            raise _BrokenError("A value is split that no part may take.")
        parts = _halves(part, dim, at)
    else:
        raise _BrokenError("A part is neither split nor a leaf.")
    if len(node.get("children", ())) != len(parts):
        raise _BrokenError("A split's children do not cover it.")
    return parts
