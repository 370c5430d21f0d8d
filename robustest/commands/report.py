"""`robustest report`: the reports of a finished run, written again from its result.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from robustest.commands.audit_flags import ONE_WAY

Format = Literal["html", "markdown", "terminal", "junit"]


def report(
    run: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    format: Format = "html",
    require: Annotated[tuple[str, ...], ONE_WAY] = (),
) -> int:
    """Write the report of a finished run again, from its result.json.

    Proofs that `robustest certify MODEL IMAGES -o RUN` left in the run folder are shown too, and checked against what was found. Exits with 1 if a requirement was refuted and with 3 if one is inconclusive, as the audit does.

    Args:
        run: folder of the run, or its result.json.
        out: file to write; RUN/report.html, RUN/summary.md or RUN/junit.xml if not given.
        format: html, markdown, junit, or terminal to print it.
        require: at least this share must survive this distance, as distance:share; 3:0.6 asks that 60 % survive 3 pixels.
    """
    from robustest.audit.requirements import Requirement
    from robustest.audit.summary import load_summary
    from robustest.report.html import write_report
    from robustest.report.junit import write_junit
    from robustest.report.markdown import write_markdown
    from robustest.report.terminal import print_summary

    required = [Requirement.parse(text) for text in require]
    summary = load_summary(run).requiring(required)
    folder = summary.folder or Path()
    if format == "terminal":
        print_summary(summary)
    elif format == "html":
        print(write_report(summary, out or folder / "report.html"))
    elif format == "markdown":
        print(write_markdown(summary, out or folder / "summary.md"))
    else:
        print(write_junit(summary, out or folder / "junit.xml"))
    for judgement in summary.judgements:
        if format != "terminal":
            print(judgement.sentence)
    return summary.exit_code
