"""The pytest plugin: the fixture `robustness`, its marker, options, summary and messages.

Nothing of robustest but the package's own root is imported until a test asks for the fixture, so a pytest run without
robustness tests loads neither torch nor OpenCV.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from robustest.testing.answers import Interval, Judged
    from robustest.testing.fixture import Robustness, SessionSettings

_PROPERTY = "robustest.claim"
_FAMILY = 5  # more claims than this in one session are reported with their familywise level


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and ini keys, all with the prefix robustest."""
    group = parser.getgroup("robustest", "robustness of image classifiers")
    group.addoption(
        "--robustest-baseline",
        choices=("check", "update", "off"),
        default="check",
        help="compare with the baselines in the repository (check), write them (update; refused under CI), or neither (off)",
    )
    group.addoption("--robustest-strict", action="store_true", help="a single image worse than its baseline fails")
    group.addoption("--robustest-report", metavar="FILE.html", help="write one page about all claims of this session")
    group.addoption("--robustest-run-dir", metavar="DIR", help="folder of resumable runs (default .robustest/runs)")
    group.addoption(
        "--robustest-budget-scale",
        type=float,
        default=1.0,
        metavar="SCALE",
        help="multiply every query budget, for smoke tests; claims are then about these budgets",
    )
    parser.addini("robustest_baseline_dir", "folder of baselines", default="tests/robustness")
    parser.addini("robustest_run_dir", "folder of resumable runs", default=".robustest/runs")
    parser.addini("robustest_confidence", "confidence of intervals, in (0, 1)", default="0.95")
    parser.addini("robustest_inconclusive", "what an inconclusive claim does: fail, xfail or warn", default="fail")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "robustness(queries=, images=, seed=, attack=, norm=, ...): defaults of the fixture `robustness` in this test",
    )


@pytest.fixture
def robustness(request: pytest.FixtureRequest) -> Robustness:
    """Audits, certificates and baselines of image classifiers, as assertions."""
    from robustest.testing.fixture import Robustness

    marker = request.node.get_closest_marker("robustness")
    if marker is not None and marker.args:
        raise pytest.UsageError(
            f"the marker robustness takes keywords alone, such as queries=2000; got {marker.args!r}."
        )
    session = _session(request.config)

    def inconclusive(judged: Judged) -> bool:
        text = "\n".join(judged.message())
        if session.inconclusive == "xfail":
            pytest.xfail(text)
        if session.inconclusive == "warn":
            warnings.warn(pytest.PytestWarning(text), stacklevel=3)
            return True
        return False

    def told(run: str, judged: Judged, interval: Interval) -> None:
        properties = request.node.user_properties
        properties.append((_PROPERTY, "\n".join([request.node.nodeid, *judged.message()])))
        properties.append(("robustest.verdict", judged.answer.value))
        properties.append(("robustest.lower", f"{interval.low:g}"))
        properties.append(("robustest.upper", f"{interval.high:g}"))
        if run:
            properties.append(("robustest.run", run))

    return Robustness(session, dict(marker.kwargs) if marker else {}, inconclusive, told)


def _session(config: pytest.Config) -> SessionSettings:
    """The session's settings, checked.

    Raises:
        pytest.UsageError: an ini key or option is out of its range.
    """
    from robustest.testing.fixture import SessionSettings

    text = config.getini("robustest_confidence")
    try:
        confidence = float(text)
    except ValueError:
        confidence = float("nan")
    if not 0 < confidence < 1:
        raise pytest.UsageError(f"robustest_confidence must be a number in (0, 1); got {text!r}. Try 0.95.")
    inconclusive = config.getini("robustest_inconclusive")
    if inconclusive not in ("fail", "xfail", "warn"):
        raise pytest.UsageError(f"robustest_inconclusive must be fail, xfail or warn; got {inconclusive!r}.")
    scale = config.getoption("--robustest-budget-scale")
    if not scale > 0:
        raise pytest.UsageError(f"--robustest-budget-scale must be > 0; got {scale}.")
    runs = config.getoption("--robustest-run-dir") or config.getini("robustest_run_dir")
    return SessionSettings(
        runs=config.rootpath / runs,
        baselines=config.rootpath / config.getini("robustest_baseline_dir"),
        confidence=confidence,
        inconclusive=inconclusive,
        baseline=config.getoption("--robustest-baseline"),
        strict=config.getoption("--robustest-strict"),
        scale=scale,
        device=_device(),
    )


def _device() -> str | None:
    """The CUDA device of this xdist worker: worker gwN takes device N modulo their number; None without any."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    try:
        import torch
    except ImportError:
        return None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{int(worker.removeprefix('gw') or 0) % count}" if count else None


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say what was counted where an assertion about a quantity fails."""
    import sys

    answers = sys.modules.get("robustest.testing.answers")
    if answers is None or not isinstance(left, answers.Quantity) or not isinstance(right, (int, float)):
        return None
    judged = {">=": left.__ge__, ">": left.__gt__, "<=": left.__le__, "<": left.__lt__}.get(op)
    if judged is None:
        return None
    lines: list[str] = judged(right).message()
    return lines


def _claims(terminal: Any) -> Iterator[tuple[str, list[str]]]:
    """(outcome of the test, lines of the claim) of every claim that was judged in this session, on any worker."""
    seen: set[tuple[str, str]] = set()
    for outcome, reports in terminal.stats.items():
        for report in reports:
            if getattr(report, "when", None) != "call":
                continue
            for name, value in report.user_properties:
                if name == _PROPERTY and (outcome, value) not in seen:
                    seen.add((outcome, value))
                    yield outcome, str(value).split("\n")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One paragraph a claim: the answer, counts and interval, the worst image, how to see it."""
    claims = list(_claims(terminalreporter))
    if not claims:
        return
    terminalreporter.section("robustness")
    doubts: set[str] = set()  # each is said once, though several claims may rest on one audit
    for _, (test, headline, *lines) in claims:
        terminalreporter.line(f"{test}: {headline}")
        for line in lines:
            if line not in doubts:
                terminalreporter.line(f"    {line}")
        doubts.update(line for line in lines if line.startswith("reason to doubt: "))
    confidence = float(config.getini("robustest_confidence"))
    if len(claims) > _FAMILY:
        level = 1 - len(claims) * (1 - confidence)
        terminalreporter.line(
            f"{len(claims)} claims at {100 * confidence:.6g}% each: together they hold at {100 * max(level, 0):.4g}% (Bonferroni). "
            "Raise robustest_confidence to claim more."
        )
    scale = config.getoption("--robustest-budget-scale")
    if scale != 1.0:
        terminalreporter.line(
            f"smoke test: every query budget was multiplied by {scale:g}; claims are about these budgets."
        )
    page = config.getoption("--robustest-report")
    if page:
        from robustest.testing.page import write_page

        write_page(Path(page), [lines for _, lines in claims], smoke=scale != 1.0)
        terminalreporter.line(f"report: {page}")
