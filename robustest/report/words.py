"""Numbers and verdicts as words: one way of saying a share, an interval and a distance in every report."""

from __future__ import annotations

from dataclasses import dataclass

from robustest.audit.records import ImageRecord
from robustest.audit.statistics import Share, SurvivalPoint
from robustest.audit.summary import AuditSummary
from robustest.results import Verdict

_UNITS = {"l0": "pixels", "l0_dims": "channels", "l1": "L1", "l2": "L2", "linf": "Linf"}
_AXES = {
    "l0": "changed pixels",
    "l0_dims": "changed channels of pixels",
    "l1": "L1 distance, values in [0, 1]",
    "l2": "L2 distance, values in [0, 1]",
    "linf": "Linf distance, values in [0, 1]",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table for a report: its caption, its heads, rows of texts, and which columns are numbers."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Tile:
    """One key figure: its name, the figure, what it is out of, a word more, and the verdict that colours it."""

    name: str
    figure: str
    of: str = ""
    more: str = ""
    style: str = ""


def unit_of(norm: str) -> str:
    """What a distance in the norm counts, for the head of a column."""
    return _UNITS[norm]


def axis_of(norm: str) -> str:
    """What a distance in the norm is, for the label of an axis."""
    return _AXES[norm]


def is_whole(norm: str) -> bool:
    """True where distances are counts."""
    return norm in ("l0", "l0_dims")


def percent(share: float | None) -> str:
    """A share in [0, 1] in per cent with one decimal; a dash for none."""
    return "-" if share is None else f"{100 * share:.1f}\u00a0%"


def interval(low: float, high: float) -> str:
    """A 95 % interval of a share."""
    return f"{100 * low:.1f} to {100 * high:.1f}\u00a0%"


def share_words(share: Share | SurvivalPoint) -> str:
    """A share with its interval below it."""
    return f"{percent(share.share)}\n95 % interval {interval(share.low, share.high)}"


def distance_words(distance: float | None, norm: str) -> str:
    """A distance with its unit: 3 pixels, 1 pixel, L2 0.42; a dash for none."""
    if distance is None:
        return "-"
    if is_whole(norm):
        unit = unit_of(norm)
        return f"{distance:.0f} {unit if distance != 1 else unit[:-1]}"
    return f"{unit_of(norm)} {distance:.3g}"


def bare_distance(distance: float | None, norm: str) -> str:
    """A distance without its unit, for a column that names it."""
    if distance is None:
        return ""
    return f"{distance:.0f}" if is_whole(norm) else f"{distance:.4g}"


def shortened(text: str, most: int = 32) -> str:
    """A name short enough for a column; its end is cut off."""
    return text if len(text) <= most else text[: most - 1].rstrip(" ,;") + "…"


def plural(count: int, word: str) -> str:
    """A count with its word: 1 image, 2 images, 1 query, 2 queries."""
    many = word[:-1] + "ies" if word.endswith("y") else word + "s"
    return f"{count:,} {word if count == 1 else many}"


def headline(summary: AuditSummary) -> str:
    """What an audit came to, in one sentence that claims no more than was shown."""
    counts = summary.counts
    if not counts.tested:
        if counts.of_target:
            return f"Nothing was attacked: {counts.of_target:,} of {plural(counts.images, 'image')} are of the target class, the others wrong."
        return f"Nothing was attacked: the classifier is wrong about {_every(counts.images)}."
    if counts.flipped == counts.tested:
        verb = "is" if counts.tested == 1 else "are"
        return f"{_every(counts.tested).capitalize()} {verb} flipped by this attack at this budget."
    verb = "survives" if counts.survived == 1 else "survive"
    return f"{counts.survived:,} of {plural(counts.tested, 'image')} {verb} this attack at this budget."


def _every(count: int) -> str:
    return "the one image" if count == 1 else f"all {count:,} images"


def median_words(summary: AuditSummary) -> str:
    """The median distance to a flip as a sentence, or why there is none."""
    median, norm = summary.median, summary.settings.norm
    if not summary.counts.tested:
        return ""
    if median.value is None:
        return "Fewer than half of the images were flipped, so there is no median distance to a flip."
    return f"Half of the images are flipped by {distance_words(median.value, norm)} or {'fewer' if is_whole(norm) else 'less'} ({median_interval(summary)})."


def median_interval(summary: AuditSummary) -> str:
    """The 95 % interval of the median; an open end is said in words."""
    median, norm = summary.median, summary.settings.norm
    if median.low is None:
        return "95 % interval above all distances found"
    low = bare_distance(median.low, norm)
    high = "no upper end" if median.high is None else bare_distance(median.high, norm)
    return f"95 % interval {low} to {high}"


def outcome(record: ImageRecord, summary: AuditSummary) -> str:
    """What became of one image, as a sentence."""
    name, settings = summary.data.class_name, summary.settings
    if record.verdict is Verdict.FLIPPED:
        distance = distance_words(record.distance(settings.norm), settings.norm)
        unchecked = "" if record.minimal or record.minimal is None else "; not checked that every pixel is needed"
        return f"{name(record.label)} → {name(record.predicted)} by {distance}, {plural(record.queries, 'query')}{unchecked}"
    if record.verdict is Verdict.SURVIVED:
        return f"{name(record.label)}: no flip found in {plural(record.queries, 'query')}"
    return f"{name(record.label)}: {record.reason or record.verdict.sentence}"
