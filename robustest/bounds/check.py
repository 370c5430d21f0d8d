"""Brackets: for one image and each norm, what is proved and what was found, from the cheapest method to the tightest.

The lower end is the largest radius that any sound method proved (global constants, interval Jacobian, CROWN,
optimised slopes, branch and bound), for the network as executed; norms lend each other what follows (`L1 >= L2 >=
Linf`). The upper end is the nearest misclassified image that was scored again. A lower end above an upper end ends
the run with an error: it would be a bug of the checker, not a result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.bounds.crown import Intervals, margin_bounds, margin_rows, propagate
from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import Bound, Bracket, Guarantee, Norm, Witness
from robustest.bounds.jacobian import exact_scores, gradient_intervals, lipschitz_margins
from robustest.bounds.lipschitz import Lipschitz, eclipse_constant, product_constant
from robustest.bounds.reading import graph_of
from robustest.bounds.region import Region
from robustest.bounds.rounding import OUTWARD, U32
from robustest.bounds.witness import Scorer, find_witness, nearest_of, pull_back
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidImage, InvalidSetting
from robustest.images import as_unit, check_images

_TOLERANCE = 0.005
"""Relative width at which the search for a radius stops."""

_MOST_PIXELS = 20
"""Largest L0 radius tried at the root."""


class Checker:
    """Bounds of one network; what does not depend on the image is computed once.

    Args:
        graph: the network, read and checked by `graph_of`.
        scorer: the classifier itself, which scores every witness.
        executed: prove for the network as executed; else for exact real arithmetic.
    """

    def __init__(self, graph: BoundGraph, scorer: Scorer, *, executed: bool = True) -> None:
        self.graph = graph
        self.scorer = scorer
        self.executed = executed
        exec_proof = executed and graph.unit >= U32
        self.guarantee = Guarantee.PROOF_EXEC if exec_proof else Guarantee.PROOF_REAL
        self._constants: dict[str, list[Lipschitz]] = {}

    def constants(self, norm: Norm) -> list[Lipschitz]:
        """Global constants in a norm, computed on first use."""
        if norm not in self._constants:
            found: list[Lipschitz] = []
            if norm in ("l1", "l2", "linf"):
                found.append(product_constant(self.graph, norm))
            if norm == "l2":
                better = eclipse_constant(self.graph)
                found.extend([better] if better is not None else [])
            self._constants[norm] = found
        return self._constants[norm]

    @cached_property
    def rounding(self) -> float:
        """What execution can change of any margin, on any image in [0, 1]."""
        if not self.executed:
            return 0.0
        with torch.no_grad():
            box = Region.box_of(torch.zeros(1, self.graph.n_inputs), torch.ones(1, self.graph.n_inputs))
            wide = propagate(self.graph, box, crown=False)
            rows = margin_rows(self.graph.n_classes, torch.arange(self.graph.n_classes))[0].flatten(0, 1)
            return float(gradient_intervals(self.graph, wide, rows[None])[2].max()) * OUTWARD

    def bracket(
        self,
        image: NDArray[np.float32],
        label: int,
        *,
        norms: Sequence[Norm] = ("l0", "l1", "l2", "linf"),
        seconds: float = 10.0,
        witnesses: Mapping[Norm, Sequence[NDArray[np.float32]]] | None = None,
    ) -> dict[Norm, Bracket]:
        """Brackets of one image.

        Args:
            image: (H, W, C) in [0, 1]. label: its true class; an image that is wrong already has distance 0.
            norms: which distances.
            seconds: CPU time for all norms together, beyond what the first bounds take.
            witnesses: misclassified images that others found, per norm; each is scored again.
        """
        image = self._checked(image, label)
        own = int(np.asarray(self.scorer(image[None])).argmax())
        if own != label:
            found = Witness(image, 0.0, own, "the image itself")
            return {n: Bracket(n, None, found, "The image itself is misclassified.") for n in norms}
        begin = time.thread_time()
        uppers = {n: self._upper(image, label, n, (witnesses or {}).get(n, ())) for n in norms}
        point = torch.from_numpy(image).reshape(1, -1).double()
        lowers: dict[Norm, Bound | None] = {}
        for done, norm in enumerate(norms):
            left = (seconds - (time.thread_time() - begin)) / (len(norms) - done)
            lowers[norm] = self._lower(point, label, norm, uppers[norm], left)
        _share(lowers)
        return {n: Bracket(n, lowers[n], uppers[n], _note(lowers[n], uppers[n])) for n in norms}

    def _checked(self, image: NDArray[np.float32], label: int) -> NDArray[np.float32]:
        array = np.ascontiguousarray(image, dtype=np.float32)
        if array.shape != self.graph.input_shape or not (array.min() >= 0 and array.max() <= 1):
            raise InvalidImage(
                f"image must be {self.graph.input_shape} with values in [0, 1]; got shape {array.shape} with values in "
                f"[{array.min():g}, {array.max():g}]. Divide an 8-bit image by 255."
            )
        if not 0 <= label < self.graph.n_classes:
            raise InvalidImage(f"label must be in 0..{self.graph.n_classes - 1}; got {label}.")
        return array

    def _upper(
        self, image: NDArray[np.float32], label: int, norm: Norm, given: Sequence[NDArray[np.float32]]
    ) -> Witness | None:
        found: Witness | None = None
        if len(given):
            stack = np.stack([np.asarray(g, dtype=np.float32) for g in given])
            found = pull_back(self.scorer, image, label, stack, norm, "given")
        if norm in ("l1", "l2", "linf"):
            found = nearest_of(found, find_witness(self.graph, self.scorer, image, label, norm, starts=given))
        return found

    def margins(self, region: Region, label: int, known: Intervals | None = None) -> Tensor:
        """(B, K - 1) lower bounds of the margins over each region: the better of CROWN and the interval Jacobian."""
        with torch.no_grad():
            crown = margin_bounds(self.graph, region, label, executed=self.executed, known=known)
            labels = torch.full((region.batch,), label)
            local = lipschitz_margins(self.graph, region, labels, crown.intervals)
            return torch.maximum(crown.lower, local)

    def _lower(self, point: Tensor, label: int, norm: Norm, upper: Witness | None, seconds: float) -> Bound | None:
        begin = time.thread_time()
        channels = self.graph.input_shape[2]

        def bound(value: float, method: str) -> Bound:
            return Bound(
                value,
                self.guarantee,
                method,
                self.graph.assumptions,
                seconds=time.thread_time() - begin,
            )

        if norm in ("l0", "l0_dims"):
            limit = _MOST_PIXELS if upper is None else int(upper.value) - 1
            proved = 0
            for pixels in range(1, limit + 1):
                region = Region.ball(point, norm, pixels, channels=channels)
                if not bool((self.margins(region, label) > 0).all()):
                    break
                proved = pixels
            # One more than was proved must change; 1 always must.
            return bound(float(proved + 1), "CROWN and interval Jacobian")
        scores, error = exact_scores(self.graph, point)
        best = bound(0.0, "score gap")
        for constant in self.constants(norm):
            value = constant.radius(scores[0], label, float(error.max()) + self.rounding / 2)
            if value > best.value:
                best = bound(value, constant.method)
        top = upper.value if upper is not None else _diameter(point.shape[1], norm)

        def gap(eps: float) -> float:
            region = Region.ball(point, norm, eps, channels=channels)
            return float(self.margins(region, label).min())

        gaps = scores[0, label] - scores[0]
        start = float(torch.cat([gaps[:label], gaps[label + 1 :]]).min())
        value = largest_radius(gap, top, start)
        if value > best.value:
            best = bound(value, "CROWN and interval Jacobian")
        return best


def largest_radius(gap: Callable[[float], float], top: float, start: float, *, tolerance: float = _TOLERANCE) -> float:
    """Largest radius found with `gap(radius) > 0`, by the secant method with bisection as its fallback.

    Args:
        gap: of a radius, falling; positive where the radius is proved.
        top: no radius from here on can be proved.
        start: the gap at radius 0.
        tolerance: relative width at which to stop.
    """
    low, high = 0.0, top
    at_low, at_high = start, math.nan
    for step in range(40):
        if high - low <= tolerance * high or high < 1e-9 * top:
            break
        middle = (low + high) / 2
        if math.isnan(at_high):
            middle = high / 3 if step == 0 else min(max(low + (high - low) / 4, high / 10), middle)
        elif step % 3 != 2:
            middle = low + (high - low) * at_low / (at_low - at_high)
            width = high - low
            middle = min(max(middle, low + 0.03 * width), high - 0.03 * width)
        value = gap(middle)
        if value > 0:
            low, at_low = middle, value
        else:
            high, at_high = middle, value
    return low


def _diameter(n: int, norm: Norm) -> float:
    return {"l1": float(n), "l2": math.sqrt(n)}.get(norm, 1.0)


def _share(lowers: dict[Norm, Bound | None]) -> None:
    """`L1 >= L2 >= Linf`: a radius proved in one norm holds in a larger one."""
    for small, large in (("linf", "l2"), ("linf", "l1"), ("l2", "l1")):
        source, target = lowers.get(small), lowers.get(large)  # type: ignore[call-overload]
        if source is not None and target is not None and source.value > target.value:
            lowers[large] = source  # type: ignore[index]


def _note(lower: Bound | None, upper: Witness | None) -> str:
    if upper is None:
        return "No misclassified image was found; that says nothing about how far one is."
    return "" if lower is not None else "Nothing was proved."


def certify(
    classifier: Any,
    image: NDArray[np.float32] | NDArray[np.uint8],
    label: int,
    *,
    norms: Sequence[Norm] = ("l0", "l1", "l2", "linf"),
    seconds: float = 10.0,
    spec: InputSpec | None = None,
    witnesses: Mapping[Norm, Sequence[NDArray[np.float32]]] | None = None,
) -> dict[Norm, Bracket]:
    """Brackets on the distance of one image to the nearest misclassified one.

    Args:
        classifier: a loaded classifier, an ONNX file's path or a torch module.
        image: (H, W, C) or (H, W), uint8 or floats in [0, 1].
        label: its class.
        norms: which distances.
        seconds: CPU time for all norms together.
        spec: how the model wants its images, where the classifier does not say.
        witnesses: misclassified images that others found, per norm.

    Raises:
        UnsupportedLayer: the network cannot be looked into, or holds what no bound covers.
        SoundnessViolation: a bug of the checker showed itself.
    """
    unit = as_unit(check_images(np.asarray(image)[None], argument="image"))[0]
    checker = checker_of(classifier, image_shape=unit.shape, spec=spec)
    return checker.bracket(unit, label, norms=norms, seconds=seconds, witnesses=witnesses)


def checker_of(
    classifier: Any, *, image_shape: tuple[int, ...], spec: InputSpec | None = None, executed: bool = True
) -> Checker:
    """A checker of a classifier for images of one shape (H, W, C)."""
    if len(image_shape) != 3:
        raise InvalidSetting(f"image_shape must be (H, W, C); got {image_shape}.")
    shape = (int(image_shape[0]), int(image_shape[1]), int(image_shape[2]))
    graph = graph_of(classifier, spec, image_shape=shape)
    scorer: Scorer = classifier if callable(classifier) else _graph_scorer(graph)
    if isinstance(classifier, torch.nn.Module):
        scorer = _graph_scorer(graph)
    return Checker(graph, scorer, executed=executed)


def _graph_scorer(graph: BoundGraph) -> Scorer:
    def scores(images: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        with torch.no_grad():
            return np.asarray(graph.forward(torch.from_numpy(images)).numpy())

    return scores
