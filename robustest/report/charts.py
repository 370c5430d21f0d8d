"""Charts as geometry: where the lines, bands and ticks of a chart are, in the units of its view box.

Templates draw what stands here and escape every text; nothing here is markup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 58
_LONG_AXIS = 60  # counts up to here are drawn evenly, above on a logarithmic axis


@dataclass(frozen=True, slots=True)
class Line:
    """One curve to draw.

    name: for the legend, empty for none. style: the CSS class that colours it.
    points: (x, y), rising in x. low, high: y of the band's edges at the same x, or empty.
    steps: True for a curve that holds its value until the next point.
    """

    name: str
    style: str
    points: tuple[tuple[float, float], ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    steps: bool = True


@dataclass(frozen=True, slots=True)
class Drawn:
    """A curve as SVG path data: the line, and the band around it or an empty text."""

    name: str
    style: str
    path: str
    band: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, in view-box units, and what stands beside it."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart ready to be drawn.

    ident: unique in the page. title, summary: for people who cannot see it. x_label, y_label: of the axes.
    """

    ident: str
    title: str
    summary: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Drawn, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def legend(self) -> tuple[Drawn, ...]:
        """The curves that have a name."""
        return tuple(line for line in self.lines if line.name)


def line_chart(
    ident: str,
    lines: Sequence[Line],
    *,
    title: str,
    summary: str,
    x_label: str,
    y_label: str,
    x_top: float,
    y_top: float = 1.0,
    percent: bool = True,
    log: bool | None = None,
    x_low: float = 1.0,
) -> Chart:
    """Lay out a chart from 0 to `x_top` and 0 to `y_top`.

    Args:
        percent: y is a share, written in per cent.
        log: logarithmic axes for all but shares; None for those whose top is large.
        x_low: where a logarithmic x axis begins, > 0; what is below stands there.
    """
    x_place, x_ticks = _axis(x_top, LEFT, WIDTH - RIGHT, log, x_low)
    if percent:
        y_place, _ = _even_axis(1.0, HEIGHT - BOTTOM, TOP, 5)
        y_ticks = tuple(Tick(y_place(share), f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1.0))
    else:
        y_place, y_ticks = _axis(y_top, HEIGHT - BOTTOM, TOP, log, 1.0)
    return Chart(
        ident,
        title,
        summary,
        x_label,
        y_label,
        x_ticks,
        y_ticks,
        tuple(_drawn(line, x_place, y_place) for line in lines),
    )


def _drawn(line: Line, x_place: Callable[[float], float], y_place: Callable[[float], float]) -> Drawn:
    xs = [x_place(x) for x, _ in line.points]
    path = _path(xs, [y_place(y) for _, y in line.points], line.steps)
    band = ""
    if line.low and line.high and len(xs) > 0:
        upper = _corners(xs, [y_place(y) for y in line.high], line.steps)
        lower = _corners(xs, [y_place(y) for y in line.low], line.steps)
        band = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in [*upper, *reversed(lower)]) + "z"
    return Drawn(line.name, line.style, path, band)


def _corners(xs: Sequence[float], ys: Sequence[float], steps: bool) -> list[tuple[float, float]]:
    if not steps:
        return list(zip(xs, ys, strict=True))
    corners: list[tuple[float, float]] = []
    for index, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if index:
            corners.append((x, ys[index - 1]))
        corners.append((x, y))
    return corners


def _path(xs: Sequence[float], ys: Sequence[float], steps: bool) -> str:
    """Path data in one decimal; steps as H and V, which are short."""
    if not xs:
        return ""
    parts = [f"M{xs[0]:.1f} {ys[0]:.1f}"]
    for index in range(1, len(xs)):
        if not steps:
            parts.append(f"L{xs[index]:.1f} {ys[index]:.1f}")
            continue
        parts.append(f"H{xs[index]:.1f}")
        if ys[index] != ys[index - 1]:
            parts.append(f"V{ys[index]:.1f}")
    return "".join(parts)


def _axis(
    top: float, start: float, stop: float, log: bool | None, low: float
) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    if top > _LONG_AXIS if log is None else log:
        return _log_axis(low, max(top, 10 * low), start, stop)
    return _even_axis(top, start, stop, 6)


def _even_axis(top: float, start: float, stop: float, most: int) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    top = top if top > 0 else 1.0

    def place(value: float) -> float:
        return start + (stop - start) * min(max(value / top, 0.0), 1.0)

    step = _round_step(top / most)
    count = math.floor(top / step + 1e-9)
    return place, tuple(Tick(place(step * index), short_number(step * index)) for index in range(count + 1))


def _log_axis(low: float, top: float, start: float, stop: float) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    """Logarithmic from `low` on; smaller values stand where `low` does."""
    decades = math.log10(top / low)

    def place(value: float) -> float:
        return start + (stop - start) * min(max(math.log10(max(value, low) / low) / decades, 0.0), 1.0)

    factors = (1, 2, 5) if decades <= 1.7 else (1, 3) if decades <= 3.2 else (1,)
    first = math.floor(math.log10(low) + 1e-9)
    marks = [factor * 10.0**power for power in range(first, first + math.ceil(decades) + 2) for factor in factors]
    return place, tuple(Tick(place(mark), short_number(mark)) for mark in marks if low * 0.999 <= mark <= top * 1.001)


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5, 10, ... (or a tenth of them) at or above `rough`."""
    power = 10.0 ** math.floor(math.log10(max(rough, 1e-9)))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return max(step, 1.0) if rough >= 0.5 else step


def short_number(value: float) -> str:
    """A number for an axis: 1200 as 1.2k, 0.5 as 0.5."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}"
