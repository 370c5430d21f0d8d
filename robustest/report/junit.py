"""Results for continuous integration as JUnit XML: a test case for each requirement, the figures as properties."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from robustest.audit.requirements import Answer
from robustest.audit.summary import AuditSummary
from robustest.report.files import write_bytes
from robustest.report.words import headline

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(summary: AuditSummary, path: str | Path) -> Path:
    """Write a finished audit as JUnit XML.

    A requirement that was shown passes, one that was refuted is a failure, an inconclusive one is skipped with its
    sentence: it is neither. Without requirements there is one case, which says what the audit came to.
    """
    return write_bytes(path, junit_page(summary))


def junit_page(summary: AuditSummary) -> bytes:
    """The XML as bytes."""
    suite = ElementTree.Element("testsuite", name=_text(f"robustest: {summary.model.source}"))
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _figures(summary):
        ElementTree.SubElement(properties, "property", name=name, value=_text(value))
    failures = skipped = errors = 0
    judgements = summary.judgements
    for judgement in judgements:
        name = f"{judgement.requirement.share:g} survive {judgement.requirement.distance:g} in {summary.settings.norm}"
        case = ElementTree.SubElement(suite, "testcase", name=name, classname=_text(summary.model.source))
        if judgement.answer is Answer.REFUTED:
            failures += 1
            ElementTree.SubElement(case, "failure", message=_text(judgement.sentence))
        elif judgement.answer is Answer.INCONCLUSIVE:
            skipped += 1
            ElementTree.SubElement(case, "skipped", message=_text("inconclusive: " + judgement.sentence))
    if not judgements:
        case = ElementTree.SubElement(suite, "testcase", name="audit", classname=_text(summary.model.source))
        ElementTree.SubElement(case, "system-out").text = _text(headline(summary))
        if not summary.counts.tested:
            errors = 1
            ElementTree.SubElement(case, "error", message=_text(headline(summary)))
    suite.set("tests", str(len(judgements) or 1))
    suite.set("failures", str(failures))
    suite.set("skipped", str(skipped))
    suite.set("errors", str(errors))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    page: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return page + b"\n"


def _figures(summary: AuditSummary) -> list[tuple[str, str]]:
    counts, median = summary.counts, summary.median
    share = summary.flipped_share
    return [
        ("robustest.images", str(counts.images)),
        ("robustest.tested", str(counts.tested)),
        ("robustest.flipped", str(counts.flipped)),
        ("robustest.survived", str(counts.survived)),
        ("robustest.unknown", str(counts.unknown)),
        ("robustest.excluded", str(counts.excluded)),
        ("robustest.flipped_share_low", f"{share.low:.6f}"),
        ("robustest.flipped_share_high", f"{share.high:.6f}"),
        ("robustest.median", "" if median.value is None else f"{median.value:g}"),
        ("robustest.norm", summary.settings.norm),
        ("robustest.queries", str(summary.settings.queries)),
        ("robustest.seed", str(summary.settings.seed)),
        ("robustest.model_sha256", summary.model.sha256 or ""),
        ("robustest.images_sha256", summary.data.sha256),
        ("robustest.command", summary.command),
        *((f"robustest.doubt.{place}", doubt) for place, doubt in enumerate(summary.doubts, 1)),
    ]


def _text(text: str) -> str:
    """Text without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
