"""Markdown, JUnit and the terminal: the same numbers, and no text that breaks the format."""

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from rich.console import Console

from robustest.audit.requirements import Requirement
from robustest.report.junit import junit_page, write_junit
from robustest.report.markdown import escaped, markdown_page, write_markdown
from robustest.report.several import Proven
from robustest.report.terminal import draw, print_figures, print_summary
from robustest.results import Verdict
from tests.report.summaries import SURVIVOR, Fate, audit_of, flip

FATES = [flip(0, 1, [1, 9]), SURVIVOR, SURVIVOR, Fate(0, Verdict.EXCLUDED, predicted=1)]
WRONG = [Fate(0, Verdict.EXCLUDED, predicted=1)]


def plain(**more: object) -> Console:
    return Console(file=io.StringIO(), width=200, **more)  # type: ignore[arg-type]


def told(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_markdown_has_the_headline_the_counts_and_the_command(tmp_path: Path) -> None:
    text = write_markdown(audit_of(FATES, doubts=("it does not repeat",))[0], tmp_path / "summary.md").read_text()
    assert text.startswith("# 2 of 3 images survive this attack at this budget.\n")
    assert "- it does not repeat" in text
    assert "| flipped | 1 of 3 | 33.3 %, 95 % interval 0.8 to 90.6 % |" in text
    assert "| 2 | 2 of 3 | 66.7\u00a0% | 9.4 to 99.2\u00a0% |" in text
    assert "```sh\nrobustest audit model.onnx images.npz -o DIR\n```" in text


def test_markdown_takes_no_text_for_markup() -> None:
    evil = "<img src=x> [a](b) `c` *d* | e\n# f"
    text = markdown_page(audit_of(FATES, source=evil, doubts=(evil,), command="echo ```\nx")[0])
    assert not re.search(r"(?<!\\)<img", text)
    assert not re.search(r"(?<!\\)\[a", text)
    assert "\n# f" not in text
    assert "````sh\necho ```\nx\n````" in text
    assert escaped("a|b\nc") == r"a\|b c"


def test_markdown_of_an_audit_of_nothing() -> None:
    assert "Nothing was attacked" in markdown_page(audit_of(WRONG)[0])


def test_junit_has_a_case_for_each_requirement(tmp_path: Path) -> None:
    wanted = [Requirement(3, 0.6), Requirement(3, 0.95), Requirement(0, 0.5)]
    summary = audit_of([SURVIVOR] * 30 + [flip(0, 1, [1])] * 10)[0].requiring([*wanted, Requirement(3, 0.99)])
    suite = ElementTree.parse(write_junit(summary, tmp_path / "junit.xml")).getroot()[0]
    outcomes = [[child.tag for child in case] for case in suite.iter("testcase")]
    # 30 of 40 survive: the interval is 58.8 to 87.3 %, so 60 % is neither shown nor refuted, 95 and 99 % are refuted
    assert outcomes == [["skipped"], ["failure"], [], ["failure"]]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped"), suite.get("errors")) == (
        "4",
        "2",
        "1",
        "0",
    )
    figures = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert figures["robustest.flipped"] == "10"
    assert figures["robustest.tested"] == "40"


def test_junit_without_requirements_has_one_case_and_nothing_tested_is_an_error() -> None:
    fine = ElementTree.fromstring(junit_page(audit_of(FATES)[0]))[0]
    empty = ElementTree.fromstring(junit_page(audit_of(WRONG)[0]))[0]
    assert [fine.get("tests"), fine.get("errors")] == ["1", "0"]
    assert [empty.get("tests"), empty.get("errors")] == ["1", "1"]


def test_junit_holds_any_text() -> None:
    page = junit_page(audit_of(FATES, source='a\x00\x1b[31m<b>&"\ud800', doubts=("\x0b",))[0])
    assert "<b>" in (ElementTree.fromstring(page)[0].get("name") or "")


def test_the_terminal_says_doubts_first_then_the_counts() -> None:
    console = plain()
    print_summary(audit_of(FATES, doubts=("it does not repeat",))[0].requiring([Requirement(3, 0.99)]), console=console)
    text = told(console)
    assert text.index("it does not repeat") < text.index("2 of 3 images survive")
    assert "1 of 3" in text
    assert "at least 99.0% survive 3 pixels; inconclusive" in text


def test_the_terminal_does_not_take_names_for_its_own_markup() -> None:
    console = plain()
    print_summary(audit_of(FATES, doubts=("[red]not red[/red] [/]",))[0], console=console)
    assert "[red]not red[/red] [/]" in told(console)


def test_figures_side_by_side() -> None:
    console = plain()
    audits = {"first": audit_of(FATES)[0], "second": audit_of([SURVIVOR] * 4)[0]}
    print_figures(audits, {"second": Proven("Linf 0.05", 3, 4, "Proved.")}, console=console)
    text = told(console)
    assert "1 of 3: 33.3" in text
    assert "0 of 4: 0.0" in text
    assert re.search(r"proven: none misclassified within Linf 0.05 +- +3 of 4: 75.0", text)


def test_small_pictures_are_drawn_in_colour_on_a_terminal_alone() -> None:
    image = np.zeros((3, 2, 3), np.uint8)
    image[0] = (255, 0, 0)
    console = plain(force_terminal=True, color_system="truecolor")
    draw([image], console=console)
    assert told(console).count("▀") == 2 * 2  # two pixels a character, the odd last row alone
    assert "38;2;255;0;0" in told(console)
    pipe = plain()
    draw([image], console=pipe)
    assert told(pipe) == ""
    large = plain(force_terminal=True)
    draw([np.zeros((100, 100, 1), np.uint8)], console=large)
    assert told(large) == ""
