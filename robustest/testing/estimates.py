"""Lazy estimates: an audit or a certification that runs when the first threshold is compared with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from robustest.audit.statistics import clopper_pearson, median_of, planning_problem, share_of
from robustest.audit.summary import AuditSummary
from robustest.errors import InvalidSetting
from robustest.settings import Norm
from robustest.testing.answers import Interval, Judged, Quantity, check_number

Told = Callable[[str, Judged, Interval], None]
_UNITS = {"l0": "pixel", "l0_dims": "channel"}  # of norms that count; others are a distance


@dataclass(eq=False)
class Estimate:
    """How robust a classifier is on a set of images, by one attack at one budget: an upper bound on its robustness.

    run: makes or resumes the audit. images: how many will be attacked at most. norm: in which distances are counted.
    confidence: of every interval.
    """

    run: Callable[[], AuditSummary]
    images: int
    norm: Norm
    confidence: float
    told: Told
    on_inconclusive: Callable[[Judged], bool]
    _summary: AuditSummary | None = field(default=None, init=False)

    @property
    def summary(self) -> AuditSummary:
        """The finished audit; the first use runs it."""
        if self._summary is None:
            self._summary = self.run()
        return self._summary

    def survives(self, *, pixels: float) -> Quantity:
        """Share of images (correct to begin with) that this attack at this budget does not flip within `pixels`.

        In a norm other than l0, `pixels` is a distance in that norm.
        """
        check_number("pixels", pixels)
        if pixels < 0:
            raise InvalidSetting(f"pixels must be >= 0; got {pixels}.")
        distance = _distance(pixels, self.norm)

        def measure() -> Interval:
            point = self.summary.survival_at(pixels, confidence=self.confidence)
            if point is None:
                return Interval(0.0, 1.0, ("nothing was tested: the classifier is wrong about every image",))
            counted = (
                f"{point.survived} of {point.of} images survive {distance} of this attack at "
                f"{self.summary.settings.queries} queries: {_percent(self.confidence)} interval [{point.low:.3f}, {point.high:.3f}]"
            )
            return Interval(point.low, point.high, (counted, *self._where()))

        return self._quantity(f"share that survives {distance}", measure, self._plan("survival", "none flipped"))

    @property
    def median_pixels(self) -> Quantity:
        """Pixels by which half of the images are flipped, survivors counted as needing more than any.

        In a norm other than l0 it is a distance in that norm.
        """
        named = f"{_UNITS[self.norm]}s" if self.norm in _UNITS else f"{self.norm} distance"

        def measure() -> Interval:
            counts = self.summary.counts
            median = median_of(self.summary.distances, counts.tested, counts.unknown, confidence=self.confidence)
            low = math.inf if median.low is None else median.low
            high = math.inf if median.high is None else median.high
            value = "more than was found" if median.value is None else f"{median.value:g}"
            counted = (
                f"median over {counts.tested} images: {value}, {_percent(self.confidence)} interval [{low:g}, {high:g}]"
            )
            return Interval(low, high, (counted, *self._where()))

        return self._quantity(f"median {named} to flip", measure, lambda sign, threshold: None)

    @property
    def clean_accuracy(self) -> Quantity:
        """Share of the images that the classifier gets right unchanged."""

        def measure() -> Interval:
            share = self.summary.clean_accuracy
            share = share_of(share.count, share.of, confidence=self.confidence)
            counted = f"{share.count} of {share.of} images right: {_percent(self.confidence)} interval [{share.low:.3f}, {share.high:.3f}]"
            return Interval(share.low, share.high, (counted, *self._doubts()))

        return self._quantity("clean accuracy", measure, self._plan("clean accuracy", "all right"))

    def _plan(self, quantity: str, best: str) -> Callable[[str, float], None]:
        return lambda sign, threshold: _plan_share(sign, threshold, self.images, self.confidence, quantity, best)

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "an audit alone is neither true nor false; compare a quantity of it, as in .survives(pixels=3) >= 0.6."
        )

    def _where(self) -> tuple[str, ...]:
        """The worst image, the command to see it, and what is to be doubted."""
        found = [record for record in self.summary.records if record.flipped and record.distances is not None]
        lines = []
        if found:
            worst = min(found, key=lambda record: (record.distance(self.norm) or 0.0, record.index))
            distance = _distance(worst.distance(self.norm) or 0.0, self.norm)
            lines.append(
                f"worst image: {worst.name} (class {worst.label}), flipped to {worst.predicted} by {distance} with "
                f"{worst.queries} queries"
            )
        if self.summary.folder is not None:
            lines.append(f"see it: robustest report {self.summary.folder}")
        return (*lines, *self._doubts())

    def _doubts(self) -> tuple[str, ...]:
        return tuple(f"reason to doubt: {doubt}" for doubt in self.summary.doubts)

    def _quantity(self, name: str, measure: Callable[[], Interval], plan: Callable[[str, float], None]) -> Quantity:
        return Quantity(
            name=name,
            measure=measure,
            plan=plan,
            told=lambda judged, interval: self.told(str(self.summary.folder or ""), judged, interval),
            on_inconclusive=self.on_inconclusive,
        )


@dataclass(eq=False)
class Certified:
    """What is proven of a classifier on a set of images, in one norm.

    radii: gives, for each image, the proven lower bound on its distance to misclassification; None where nothing is
    proven; images that are wrong to begin with count as 0.
    """

    norm: str
    radii: Callable[[], list[float | None]]
    images: int
    confidence: float
    told: Told
    on_inconclusive: Callable[[Judged], bool]
    _found: list[float | None] | None = field(default=None, init=False)

    def share_at(self, radius: float) -> Quantity:
        """Share of images for which no misclassified image lies within `radius`, proven; for l0, in pixels."""

        def measure() -> Interval:
            if self._found is None:
                self._found = self.radii()
            # A bound of b says that nothing nearer than b is misclassified; something at b may be.
            proven = sum(value is not None and value > radius for value in self._found)
            low, high = clopper_pearson(proven, len(self._found), confidence=self.confidence)
            counted = (
                f"{proven} of {len(self._found)} images certified at {self.norm} {radius:g}: "
                f"{_percent(self.confidence)} interval [{low:.3f}, {high:.3f}]"
            )
            return Interval(low, high, (counted,))

        check_number("radius", radius)
        if radius < 0:
            raise InvalidSetting(f"radius must be >= 0; got {radius}.")

        return Quantity(
            name=f"share certified at {self.norm} {radius:g}",
            measure=measure,
            plan=lambda sign, threshold: _plan_share(
                sign, threshold, self.images, self.confidence, "certified share", "all of them certified"
            ),
            told=lambda judged, interval: self.told("", judged, interval),
            on_inconclusive=self.on_inconclusive,
        )

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "proofs alone are neither true nor false; compare a share of them, as in .share_at(0.1) >= 0.9."
        )


def _plan_share(sign: str, threshold: float, images: int, confidence: float, quantity: str, best: str) -> None:
    """Check that a share may be compared with a threshold, and that so many images could show it.

    Args:
        quantity, best: as in `planning_problem`.

    Raises:
        InvalidSetting: it is no share, or they could not.
    """
    if not 0 <= threshold <= 1:
        raise InvalidSetting(f"a share is compared with a number in [0, 1]; got {threshold:g}. Write 0.6 for 60 %.")
    if (
        sign in (">=", ">")
        and 0 < threshold < 1
        and (problem := planning_problem(threshold, images, confidence=confidence, quantity=quantity, best=best))
    ):
        raise InvalidSetting(problem)


def _distance(distance: float, norm: Norm) -> str:
    """A distance with its unit, as claims say it: 3 pixel(s), linf 0.1."""
    return f"{distance:g} {_UNITS[norm]}(s)" if norm in _UNITS else f"{norm} {distance:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.6g}%"
