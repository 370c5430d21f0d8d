"""Lazy estimates: an audit or a certification that runs when the first threshold is compared with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from robustest.audit.statistics import clopper_pearson, planning_problem
from robustest.audit.summary import AuditSummary
from robustest.errors import InvalidSetting
from robustest.testing.answers import Interval, Judged, Quantity

Told = Callable[[str, Judged, Interval], None]


@dataclass(eq=False)
class Estimate:
    """How robust a classifier is on a set of images, by one attack at one budget: an upper bound on its robustness.

    run: makes or resumes the audit. images: how many will be attacked at most. confidence: of every interval.
    """

    run: Callable[[], AuditSummary]
    images: int
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
        if pixels < 0:
            raise InvalidSetting(f"pixels must be >= 0; got {pixels}.")

        def measure() -> Interval:
            point = self.summary.survival_at(pixels, confidence=self.confidence)
            if point is None:
                return Interval(0.0, 1.0, ("nothing was tested: the classifier is wrong about every image",))
            counted = (
                f"{point.survived} of {point.of} images survive {pixels:g} pixel(s) of this attack at "
                f"{self.summary.settings.queries} queries: {self.confidence:.0%} interval [{point.low:.3f}, {point.high:.3f}]"
            )
            return Interval(point.low, point.high, (counted, *self._where()))

        return self._quantity(f"share that survives {pixels:g} pixel(s)", measure, self._plan_share)

    @property
    def median_pixels(self) -> Quantity:
        """Pixels by which half of the images are flipped, survivors counted as needing more than any."""

        def measure() -> Interval:
            median = self.summary.median
            low = math.inf if median.low is None else median.low
            high = math.inf if median.high is None else median.high
            value = "more than was found" if median.value is None else f"{median.value:g}"
            counted = f"median over {self.summary.counts.tested} images: {value}, 95 % interval [{low:g}, {high:g}]"
            return Interval(low, high, (counted, *self._where()))

        return self._quantity("median pixels to flip", measure, lambda threshold: None)

    @property
    def clean_accuracy(self) -> Quantity:
        """Share of the images that the classifier gets right unchanged."""

        def measure() -> Interval:
            share = self.summary.clean_accuracy
            counted = f"{share.count} of {share.of} images right: 95 % interval [{share.low:.3f}, {share.high:.3f}]"
            return Interval(share.low, share.high, (counted,))

        return self._quantity("clean accuracy", measure, self._plan_share)

    def _plan_share(self, threshold: float) -> None:
        if not 0 <= threshold <= 1:
            raise InvalidSetting(f"a share is compared with a number in [0, 1]; got {threshold:g}.")
        if 0 < threshold < 1 and (problem := planning_problem(threshold, self.images, confidence=self.confidence)):
            raise InvalidSetting(problem)

    def _where(self) -> tuple[str, ...]:
        """The worst image and the command to see it."""
        found = [record for record in self.summary.records if record.flipped and record.distances is not None]
        lines = []
        if found:
            worst = min(found, key=lambda record: (record.distance(self.summary.settings.norm) or 0.0, record.index))
            assert worst.distances is not None
            lines.append(
                f"worst image: {worst.name} (class {worst.label}), flipped to {worst.predicted} by "
                f"{worst.distances.l0_pixels} pixel(s) with {worst.queries} queries"
            )
        if self.summary.folder is not None:
            lines.append(f"see it: robustest report {self.summary.folder}")
        return tuple(lines)

    def _quantity(self, name: str, measure: Callable[[], Interval], plan: Callable[[float], None]) -> Quantity:
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
            # A bound of b says that nothing nearer than b is misclassified: in whole pixels, b - 1 of them are safe.
            reach = radius + 1 if self.norm in ("l0", "l0_dims") else radius
            proven = sum(value is not None and value >= reach for value in self._found)
            low, high = clopper_pearson(proven, len(self._found), confidence=self.confidence)
            counted = (
                f"{proven} of {len(self._found)} images certified at {self.norm} {radius:g}: "
                f"{self.confidence:.0%} interval [{low:.3f}, {high:.3f}]"
            )
            return Interval(low, high, (counted,))

        def plan(threshold: float) -> None:
            if 0 < threshold < 1 and (problem := planning_problem(threshold, self.images, confidence=self.confidence)):
                raise InvalidSetting(problem)

        return Quantity(
            name=f"share certified at {self.norm} {radius:g}",
            measure=measure,
            plan=plan,
            told=lambda judged, interval: self.told("", judged, interval),
            on_inconclusive=self.on_inconclusive,
        )
