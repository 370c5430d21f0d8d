"""Where charts put things: the ends of the axes, round ticks, steps, bands."""

import re

import pytest

from robustest.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Line, line_chart, short_number

FLOOR, CEILING, END = HEIGHT - BOTTOM, TOP, WIDTH - RIGHT


def chart(*lines: Line, x_top: float = 10.0, **more: object) -> Chart:
    return line_chart("c", lines, title="t", summary="s", x_label="x", y_label="y", x_top=x_top, **more)  # type: ignore[arg-type]


def numbers(path: str) -> list[float]:
    return [float(text) for text in re.findall(r"-?\d+\.\d", path)]


def test_shares_and_distances_stand_at_the_ends_of_the_axes() -> None:
    drawn = chart(Line("", "a", ((0.0, 1.0), (10.0, 0.0)), steps=False)).lines[0]
    assert numbers(drawn.path) == [LEFT, CEILING, END, FLOOR]


def test_a_step_keeps_its_value_until_the_next_point() -> None:
    drawn = chart(Line("", "a", ((0.0, 1.0), (5.0, 0.5), (10.0, 0.5)))).lines[0]
    middle, half = (LEFT + END) / 2, (FLOOR + CEILING) / 2
    assert drawn.path == f"M{LEFT:.1f} {CEILING:.1f}H{middle:.1f}V{half:.1f}H{END:.1f}"


def test_the_band_goes_round_both_edges() -> None:
    drawn = chart(Line("", "a", ((0.0, 0.5), (10.0, 0.5)), low=(0.0, 0.0), high=(1.0, 1.0))).lines[0]
    corners = numbers(drawn.band)
    assert set(zip(corners[::2], corners[1::2], strict=True)) == {(x, y) for x in (LEFT, END) for y in (CEILING, FLOOR)}


def test_the_band_of_a_step_curve_has_steps() -> None:
    drawn = chart(Line("", "a", ((0.0, 0.5), (10.0, 0.5)), low=(0.5, 0.0), high=(1.0, 0.5))).lines[0]
    half = (FLOOR + CEILING) / 2
    assert numbers(drawn.band) == [
        *(LEFT, CEILING, END, CEILING, END, half),  # along the upper edge: level, then down
        *(END, FLOOR, END, half, LEFT, half),  # and back along the lower one
    ]


def test_a_long_axis_is_logarithmic_and_a_decade_is_a_decade() -> None:
    drawn = chart(Line("", "a", ((1.0, 0.0), (10.0, 0.0), (100.0, 0.0)), steps=False), x_top=100.0)
    assert numbers(drawn.lines[0].path)[::2] == [LEFT, (LEFT + END) / 2, END]
    assert [tick.text for tick in drawn.x_ticks] == ["1", "3", "10", "30", "100"]


def test_a_logarithmic_axis_may_begin_later() -> None:
    drawn = chart(Line("", "a", ((1.0, 0.0), (100.0, 0.0), (1000.0, 0.0)), steps=False), x_top=1000.0, x_low=10.0)
    assert numbers(drawn.lines[0].path)[::2] == [LEFT, (LEFT + END) / 2, END]


@pytest.mark.parametrize("top", [0.0, 0.003, 0.4, 1.0, 5.0, 7.3, 20.0, 59.0, 60.0, 61.0, 499.0, 50_000.0, 3e6])
def test_ticks_are_few_rising_and_inside(top: float) -> None:
    ticks = chart(x_top=top).x_ticks
    places = [tick.at for tick in ticks]
    assert 2 <= len(ticks) <= 10
    assert places == sorted(places)
    assert places[0] >= LEFT
    assert places[-1] <= END + 0.01
    assert len({tick.text for tick in ticks}) == len(ticks)


def test_counts_are_never_marked_at_fractions() -> None:
    assert [tick.text for tick in chart(x_top=5.0).x_ticks] == ["0", "1", "2", "3", "4", "5"]


def test_short_numbers() -> None:
    assert [short_number(n) for n in (0, 0.5, 30, 1000, 2500, 3e6)] == ["0", "0.5", "30", "1k", "2.5k", "3M"]


def test_only_named_lines_are_in_the_legend() -> None:
    both = chart(Line("ours", "a", ((0.0, 0.0),)), Line("", "b", ((0.0, 0.0),)))
    assert [line.name for line in both.legend] == ["ours"]
