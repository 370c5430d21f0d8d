"""A comparison: several attacks on the same images, and what may be said of them.

An attack either gives its whole curve over pixels in one run, or has a fixed number of pixels and was run once for each
(with the whole budget each time): the rows say which. Knows nothing of how an attack works, and no attack by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robustest.audit.statistics import Median, Paired, Share, compare_paired, median_of, share_of
from robustest.results import AttackResult, Verdict

Access = Literal["scores", "label", "gradients"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One attack on every image, one budget.

    attack: its name, with the number of pixels where that is fixed: `sparse-rs@5`.
    pixels: that fixed number, or None. budget: queries allowed for each image.
    results: one for each image of the comparison, in its order. seconds: processor time of the whole run.
    """

    attack: str
    pixels: int | None
    budget: int
    results: tuple[AttackResult, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the comparison.

    name: of the attack. access: what it needs of the classifier.
    runs: one, or one for each fixed number of pixels, rising; none where it could not be run.
    note: why it was not run, or what must be known to read the line; may be empty.
    """

    name: str
    access: Access
    runs: tuple[Run, ...]
    note: str = ""

    @property
    def fixed(self) -> bool:
        """True where each number of pixels was a run, and a budget, of its own."""
        return any(run.pixels is not None for run in self.runs)

    def run_for(self, pixels: int) -> Run | None:
        """The run that answers for at most `pixels` pixels: the only one, or the one of the largest number up to that."""
        within = [run for run in self.runs if run.pixels is None or run.pixels <= pixels]
        return within[-1] if within else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A point of a curve over queries: the share of images flipped after so many, and the median of the distance.

    distance: median over all images of the best distance by then; None while half of them are not flipped.
    """

    queries: int
    flipped: Share
    distance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """Two rows on the same images at one number of pixels."""

    first: str
    second: str
    pixels: int
    paired: Paired


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What `compare` found.

    classifier, digest: the model's name and the sha256 of its file (None where it is no file).
    source: where the images came from. shape: (H, W, C). names, labels, image_digests: of the images attacked, all of
    them correctly classified. skipped: images passed over because the classifier was wrong about them.
    norm: the distance. pixels: the numbers of pixels that success is reported at, rising.
    queries, seed: for every attack. rows: in the order asked for. version, command: what to run to get this again.
    """

    classifier: str
    digest: str | None
    source: str
    shape: tuple[int, int, int]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    image_digests: tuple[str, ...]
    skipped: int
    norm: str
    pixels: tuple[int, ...]
    queries: int
    seed: int
    rows: tuple[Row, ...]
    version: str
    command: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def flipped(self, row: Row, pixels: int) -> list[bool]:
        """Whether each image was flipped by changing at most `pixels` pixels."""
        run = row.run_for(pixels)
        if run is None:
            return [False] * len(self)
        return [r.l0_pixels is not None and r.l0_pixels <= pixels for r in run.results]

    def success(self, row: Row, pixels: int) -> Share | None:
        """Share of the images flipped by changing at most `pixels` pixels; None where no run can say."""
        return None if row.run_for(pixels) is None else share_of(sum(self.flipped(row, pixels)), len(self))

    def success_curve(self, row: Row) -> list[tuple[int, Share]]:
        """Success against pixels, at every number of pixels where it changes (or was run)."""
        if row.fixed:
            steps = [run.pixels for run in row.runs if run.pixels is not None]
        else:
            steps = sorted({r.l0_pixels for run in row.runs for r in run.results if r.l0_pixels is not None})
        return [(k, share) for k in steps if (share := self.success(row, k)) is not None]

    def query_curve(self, row: Row, *, pixels: int | None = None, points: int = 60) -> list[CurvePoint]:
        """Success and distance against queries.

        Args:
            pixels: count only images with at most so many pixels changed, where the norm is l0; None for any number. A
                fixed-pixel attack is shown by its run for that number, or its largest.
            points: how many, spaced evenly in the logarithm of the queries.
        """
        if not row.runs:
            return []
        run = row.run_for(pixels) if pixels is not None else row.runs[-1]
        if run is None:
            return []
        most = max(run.budget, max((r.queries for r in run.results), default=1))
        counts = np.unique(np.geomspace(1, most, points).round().astype(np.int64))
        limit = np.inf if pixels is None else pixels
        best = np.stack([best_after(r, counts) for r in run.results]) if run.results else np.zeros((0, len(counts)))
        curve = []
        for column, count in enumerate(counts.tolist()):
            median = float(np.quantile(best[:, column], 0.5, method="inverted_cdf")) if len(best) else np.inf
            flips = int((np.isfinite(best[:, column]) & (best[:, column] <= limit)).sum())
            curve.append(
                CurvePoint(
                    queries=count,
                    flipped=share_of(flips, len(best)),
                    distance=median if np.isfinite(median) else None,
                )
            )
        return curve

    def median_pixels(self, row: Row) -> Median | None:
        """Pixels by which half of the images are flipped; for a fixed-pixel attack by the smallest run that flips each."""
        return self._median(row, "l0_pixels")

    def median_distance(self, row: Row) -> Median | None:
        """The same in the norm of the comparison."""
        return self._median(row, "l0_pixels" if self.norm == "l0" else self.norm)

    def _median(self, row: Row, distance: str) -> Median | None:
        if not row.runs:
            return None
        tried = [[getattr(run.results[i], distance) for run in row.runs] for i in range(len(self))]
        reached = [[value for value in values if value is not None] for values in tried]
        found = np.array([min(values) for values in reached if values], np.float64)
        unknown = sum(all(run.results[i].verdict is Verdict.UNKNOWN for run in row.runs) for i in range(len(self)))
        return median_of(found, len(self), unknown)

    def duels(self, *, first: str | None = None) -> list[Duel]:
        """The first row (or the one named) against every other, at every number of pixels: exact McNemar tests."""
        played = [row for row in self.rows if row.runs]
        lead = next((row for row in played if row.name == first), played[0] if played else None)
        if lead is None:
            return []
        return [
            Duel(
                first=lead.name,
                second=row.name,
                pixels=k,
                paired=compare_paired(self.flipped(lead, k), self.flipped(row, k)),
            )
            for row in played
            if row is not lead
            for k in self.pixels
            if lead.run_for(k) is not None and row.run_for(k) is not None
        ]

    def doubts(self) -> list[str]:
        """What makes the comparison itself doubtful: a weaker attacker that finds more, a flip that did not hold."""
        found = []
        whites = [row for row in self.rows if row.access == "gradients" and row.runs]
        blacks = [row for row in self.rows if row.access != "gradients" and row.runs]
        behind = []
        for k in self.pixels:
            white, black = _best(self, whites, k), _best(self, blacks, k)
            if white and black and white[1] < black[1]:
                behind.append(f"{white[1]} ({white[0]}) against {black[1]} ({black[0]}) of {len(self)} at k={k}")
        if behind:
            found.append(
                f"the best attack with gradients flips fewer images than the best without: {', '.join(behind)}; so the "
                "white-box side is not the worst case here"
            )
        for row in self.rows:
            unknown = sum(r.verdict is Verdict.UNKNOWN for run in row.runs for r in run.results)
            if unknown:
                found.append(f"{row.name}: {unknown} images are undecided; they count as not flipped")
        return found


def _best(comparison: Comparison, rows: Sequence[Row], pixels: int) -> tuple[str, int] | None:
    scored = [(row.name, sum(comparison.flipped(row, pixels))) for row in rows if row.run_for(pixels) is not None]
    return max(scored, key=lambda pair: pair[1]) if scored else None


def best_after(result: AttackResult, queries: NDArray[np.int64]) -> NDArray[np.float64]:
    """(Q,) best distance of one attack after so many queries; inf before the first flip."""
    if not result.curve:
        spent, distance = (
            np.array([result.queries]),
            np.array([np.inf if result.l0_pixels is None else result.l0_pixels]),
        )
    else:
        spent, distance = (np.array(column, np.float64) for column in zip(*result.curve, strict=True))
    place = np.searchsorted(spent, queries, side="right") - 1
    return np.where(place >= 0, np.minimum.accumulate(distance)[np.maximum(place, 0)], np.inf)
