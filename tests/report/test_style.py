"""Colours that can be read: contrast of text by the formula of WCAG 2.2, 4.5 to 1, on light, dark and paper."""

import re
from pathlib import Path

import pytest

import robustest.report

STYLE = (Path(robustest.report.__file__).parent / "templates" / "style.css").read_text()
_LIGHT, _DARK, _PAPER = (
    dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", block))
    for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
)
SCHEMES = {"light": _LIGHT, "dark": {**_LIGHT, **_DARK}, "paper": {**_LIGHT, **_PAPER}}
ON_PAGE = ["ink", "soft", "flipped", "survived", "proven", "unknown", "excluded"]
PAIRS = [
    *((text, ground) for text in ON_PAGE for ground in ("page", "card")),
    *((verdict, f"{verdict}-soft") for verdict in ON_PAGE[2:]),
    ("ink", "faint"),
    ("ink", "unknown-soft"),
]


def luminance(colour: str) -> float:
    text = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    channels = [int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(text: str, ground: str) -> float:
    light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_formula_is_that_of_wcag() -> None:
    assert contrast("#000000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the well-known grey just below the line


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("text", "ground"), PAIRS)
def test_text_can_be_read(scheme: str, text: str, ground: str) -> None:
    colours = SCHEMES[scheme]
    assert contrast(colours[text], colours[ground]) >= 4.5
