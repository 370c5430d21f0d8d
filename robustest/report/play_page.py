"""The page of `robustest play`: the pixel game on one image, shown in one HTML file.

Features drawn on the image, the value of each kind of game in words, its principal line and its most tried
branch, how the value converged, and the saliency distribution before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from games.game import Kind
from robustest.attack.play import PlayResult
from robustest.attack.play_values import KindResult, Progress, Step
from robustest.report.charts import Chart, Line, line_chart
from robustest.report.files import write_text
from robustest.report.pictures import eight_bits, pictures_of
from robustest.report.png import picture_uri
from robustest.report.rendering import render
from robustest.report.words import Table, Tile, axis_of, distance_words, plural
from robustest.results import Verdict

_MOST_POINTS = 200  # of a curve that are drawn
_MOST_CIRCLES = 60
_TONES = {Kind.COOPERATOR: "tone-1", Kind.NATURE: "tone-4", Kind.ADVERSARY: "tone-0", Kind.COMPETITIVE: "tone-3"}
_EXPLAINED = {
    Kind.COOPERATOR: "Player I picks features, player II pixels; both want a small severity. The value is the distance of the nearest "
    "adversarial image on the grid.",
    Kind.NATURE: "Player II is drawn from the saliency distribution; player I wants the largest expected reward, 1 / severity (0 for plays that "
    "leave the ball). The severity shown is the one that pays as much.",
    Kind.ADVERSARY: "Player I wants a small severity; player II picks the pixels and wants a large one. The value is what player I can force.",
    Kind.COMPETITIVE: "Another game (feature robustness): player I is hostile and picks features; player II wants a small severity in them. The "
    "value is how far the most robust feature must be changed.",
}
_COLOPHON = (
    "Values are of the game on its grid, inside its ball; images off the grid may be nearer. What a finished search did not prove is an "
    "estimate and labelled so. The adversarial image shown was rendered, rounded to 8 bits where the input is 8-bit, and scored once more."
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A numbered mark on the image: where, in pixels, and its number."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """One kind of game, ready to be drawn."""

    name: str
    style: str
    explained: str
    words: str
    spent: str
    line: Table
    line_marks: tuple[Mark, ...]
    branch: Table
    branch_marks: tuple[Mark, ...]
    chart: Chart | None


def write_play_page(result: PlayResult, path: str | Path, *, command: str = "", names: Sequence[str] = ()) -> Path:
    """Write the game on one image as one self-contained HTML page.

    Args:
        command: that makes the page again, shown on it. names: of the classes, where known.

    Raises:
        EnvironmentFailure: the disk is full or the folder cannot be written.
    """
    return write_text(path, play_page(result, command=command, names=names))


def play_page(result: PlayResult, *, command: str = "", names: Sequence[str] = ()) -> str:
    """The page as text."""
    height, width = result.image.shape[:2]
    headline = _headline(result, names)
    return render(
        "play.html.j2",
        title=f"robustest play: {headline}",
        headline=headline,
        lede=_lede(result),
        doubts=_doubts(result),
        tiles=[
            Tile(game.kind.value, _figure(game, result), more=_share(game), style=_TONES[game.kind])
            for game in result.games
        ],
        uri=picture_uri(eight_bits(result.image)),
        exact=height * width <= 64 * 64,
        height=height,
        width=width,
        size=max(height, width),
        circles=_circles(result),
        features_note=_features_note(result),
        card=pictures_of(result.image, result.attack.image, result.saliency.before, result.saliency.after),
        changed=plural(result.attack.l0_pixels or 0, "changed pixel"),
        games=[_shown(game, result) for game in result.games],
        command=command,
        facts=_facts(result),
        colophon=_COLOPHON,
    )


def _class(label: int | None, names: Sequence[str]) -> str:
    return names[label] if label is not None and 0 <= label < len(names) else f"class {label}"


def _headline(result: PlayResult, names: Sequence[str]) -> str:
    attack, was = result.attack, _class(result.label, names)
    if attack.verdict is Verdict.EXCLUDED:
        return f"Nothing to play for: the unchanged image is already taken for {_class(result.predicted, names)}"
    if attack.flipped:
        distance = getattr(attack, {"l0": "l0_pixels"}.get(attack.norm, attack.norm))
        return f"{was} becomes {_class(attack.predicted, names)} at {distance_words(distance, attack.norm)}"
    return f"No play was found that turns {was} within the ball"


def _lede(result: PlayResult) -> str:
    settings = result.settings
    aim = "any other class" if settings.target is None else f"class {settings.target}"
    return (
        f"The pixel game, played for {aim}: a play ends when the image is misclassified, or when it leaves the ball of radius "
        f"{settings.radius:g} ({axis_of(settings.norm)}). {plural(result.queries, 'image')} were scored in all."
    )


def _doubts(result: PlayResult) -> list[str]:
    """What a reader must know before the figures."""
    doubts = []
    if result.decision_only:
        doubts.append(
            "The classifier gives the label alone: no state could be judged by how near it came, only by random plays to the end. Estimates "
            "are rougher, and less is found, than with scores."
        )
    if result.attack.verdict is Verdict.UNKNOWN:
        doubts.append(result.attack.reason)
    values = {game.kind: game for game in result.games}
    friendly, hostile = values.get(Kind.COOPERATOR), values.get(Kind.ADVERSARY)
    if (
        friendly
        and hostile
        and friendly.severity
        and hostile.severity
        and not (friendly.exact and hostile.exact)
        and (hostile.severity < friendly.severity)
    ):
        doubts.append(
            "The estimate for the adversary is below the cooperator's value: estimates, not values, so this can happen."
        )
    return doubts


def _figure(game: KindResult, result: PlayResult) -> str:
    if game.severity is None:
        return "not forced" if game.kind is not Kind.COOPERATOR or game.exact else "not found"
    figure = distance_words(game.severity, result.settings.norm) if _countable(game, result) else f"{game.severity:.3g}"
    found = game.kind is Kind.COOPERATOR and game.most is not None
    return figure if game.exact or found else f"≈ {figure}"


def _countable(game: KindResult, result: PlayResult) -> bool:
    """Whether the severity is one that an image can have, and not a mean of several."""
    return float(game.severity or 0).is_integer() or result.settings.norm not in ("l0", "l0_dims")


def _share(game: KindResult) -> str:
    if game.exact:
        return "exact"
    if game.kind is Kind.COOPERATOR and game.most is not None:
        return "found; an upper bound"
    return "estimate"


def _features_note(result: PlayResult) -> str:
    how, count = result.settings.features, len(result.features)
    if how == "sift":
        return (
            f"{plural(int((result.features.radii > 0).sum()), 'keypoint')} (circles: two standard deviations), and the whole image besides, so that every "
            "pixel can be reached."
        )
    if how == "partition":
        return f"The image cut into {plural(count, 'region')} by its keypoints; every pixel belongs to one. Numbers stand at their centres."
    return f"Pixels in the order of their measured effect ({plural(result.measuring, 'query')}), cut into {plural(count, 'feature')}."


def _circles(result: PlayResult) -> list[tuple[float, float, float, str]]:
    """Centre, radius and number of each feature that has a place."""
    features = result.features
    last = int((features.radii > 0).sum()) if result.settings.features == "sift" else len(features)
    return [
        (float(x), float(y), float(radius), str(index))
        for index, ((x, y), radius) in enumerate(zip(features.centres, features.radii, strict=True))
        if index < min(last, _MOST_CIRCLES)
    ]


def _shown(game: KindResult, result: PlayResult) -> Shown:
    spent = f"{plural(game.queries, 'image')} asked about, {plural(game.iterations, 'iteration')}, {plural(game.nodes, 'state')}. {game.stop.value}"
    name = game.kind.value
    return Shown(
        name=name,
        style=_TONES[game.kind],
        explained=_EXPLAINED[game.kind],
        words=game.words,
        spent=spent,
        line=_turns("Principal line: the best moves found for both", game.line, result),
        line_marks=_marks(game.line, result),
        branch=_turns("Most tried branch", game.branch, result),
        branch_marks=_marks(game.branch, result),
        chart=_chart(game, result),
    )


def _turns(caption: str, steps: Sequence[Step], result: PlayResult) -> Table:
    width = result.image.shape[1]
    rows = tuple(
        (
            str(number),
            str(step.feature),
            "-" if step.pixel is None else f"row {step.pixel // width}, column {step.pixel % width}",
            "-" if step.pixel is None else _change(step),
        )
        for number, step in enumerate(steps, start=1)
    )
    return Table(caption, ("turn", "feature (player I)", "pixel (player II)", "change"), rows, numeric=(0,))


def _change(step: Step) -> str:
    signs = ["" if sign == 0 else "+τ" if sign > 0 else "−τ" for sign in step.directions]
    return signs[0] if len(set(signs)) == 1 else " ".join(f"{c}{s}" for c, s in zip("RGB", signs, strict=False) if s)


def _marks(steps: Sequence[Step], result: PlayResult) -> tuple[Mark, ...]:
    width = result.image.shape[1]
    return tuple(
        Mark(step.pixel % width + 0.5, step.pixel // width + 0.5, str(number))
        for number, step in enumerate(steps, start=1)
        if step.pixel is not None
    )


def _chart(game: KindResult, result: PlayResult) -> Chart | None:
    """The estimate of the value against queries, in the band of what is proven; beyond the ball is its top."""
    if len(game.curve) < 2:
        return None
    points = _thinned(game.curve)
    points.append(replace(points[-1], queries=game.queries))
    top = 1.1 * max(result.settings.radius, (points[-1].estimate or 0.0) if game.kind is Kind.NATURE else 0.0)
    first = points[0].queries
    line = Line(
        name=game.kind.value,
        style=_TONES[game.kind],
        points=tuple((p.queries - first, _capped(p.estimate, top)) for p in points),
        low=tuple(_capped(p.least, top) for p in points),
        high=tuple(_capped(p.most, top) for p in points),
    )
    return line_chart(
        f"value-{game.kind.value}",
        [line],
        title=f"{game.kind.value}: how the value converged",
        summary=f"The estimated severity after up to {points[-1].queries} queries, between its proven bounds. {game.words}.",
        x_label="images asked about",
        y_label="severity",
        x_top=max(float(points[-1].queries - first), 1.0),
        y_top=top,
        percent=False,
        log=False,
    )


def _capped(severity: float | None, top: float) -> float:
    return top if severity is None else min(severity, top)


def _thinned(curve: Sequence[Progress]) -> list[Progress]:
    keep = np.unique(np.linspace(0, len(curve) - 1, min(len(curve), _MOST_POINTS)).round().astype(int))
    return [curve[index] for index in keep.tolist()]


def _facts(result: PlayResult) -> list[tuple[str, str]]:
    settings = result.settings
    facts = [
        ("kinds", ", ".join(settings.kinds)),
        ("queries", f"{settings.queries:,} for each kind; {result.queries:,} images scored in all"),
        ("norm, radius", f"{settings.norm}, {settings.radius:g}"),
        ("tau, change, once", f"{settings.tau:g}, {settings.change}, {'yes' if settings.once else 'no'}"),
        ("features", f"{settings.features}, {len(result.features)}"),
        ("target", "any other class" if settings.target is None else f"class {settings.target}"),
        ("seed", str(settings.seed)),
    ]
    if result.attack.flipped:
        attack = result.attack
        facts.append(
            (
                "distances",
                f"{attack.l0_pixels} pixels, {attack.l0_dims} channels, L1 {attack.l1:.4g}, L2 {attack.l2:.4g}, Linf {attack.linf:.4g}",
            )
        )
    return facts
