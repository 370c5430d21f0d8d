"""The HTML report: one file that asks nothing of any network, readable without scripts, in the dark, on paper, by phone.

A content security policy inside the page forbids it to load anything; every text is escaped by Jinja2.
"""

from __future__ import annotations

from pathlib import Path

from robustest.audit.summary import AuditSummary
from robustest.images import Pixels
from robustest.report.classes import class_rows, confusion_of
from robustest.report.curves import convergence_of, survival_of
from robustest.report.files import write_text
from robustest.report.gallery import gallery_of, saliency_maps
from robustest.report.places import places_of
from robustest.report.proofs import contradictions, proofs_of, proven_of
from robustest.report.rendering import render
from robustest.report.words import (
    Tile,
    distance_words,
    headline,
    interval,
    is_whole,
    median_interval,
    median_words,
    percent,
    plural,
    share_words,
    unit_of,
)
from robustest.results import Verdict

_COLOPHON = (
    "An attack bounds robustness from above only: an image that survives here survives this attack at this budget, and may fall to a "
    "stronger attack or a larger budget. Only a proof says more. Intervals are exact (Clopper-Pearson, 95 %) and hold for images "
    "drawn like these. Images that the classifier gets wrong unchanged are counted apart; images not decided count against "
    "every claim, on both sides. Every flip was rendered, rounded to 8 bits where the input is 8-bit, and scored once more."
)


def write_report(summary: AuditSummary, path: str | Path, *, images: Pixels | None = None) -> Path:
    """Write one self-contained HTML page about a finished audit.

    Args:
        summary: the audit. path: the file to write; it appears whole or not at all.
        images: (N, H, W, C) the clean images; None to take them from the run folder, where they are.

    Returns:
        The path written.
    """
    return write_text(path, report_page(summary, images=images))


def report_page(summary: AuditSummary, *, images: Pixels | None = None) -> str:
    """The page as text; arguments as in `write_report`."""
    clean = images if images is not None else summary.clean_images()
    survival = survival_of(summary)
    convergence = convergence_of(summary)
    confusion = confusion_of(summary)
    places = places_of(summary, clean)
    proofs = proofs_of(summary)
    proven = proven_of(summary, proofs)
    gallery = gallery_of(summary, clean, maps=saliency_maps(summary))
    there = {
        "survival": ("Survival", survival),
        "proven": ("Proven", proven),
        "convergence": ("Convergence", convergence),
        "classes": ("By class", True),
        "confusion": ("Taken for", confusion),
        "places": ("Where", places),
        "images": ("Images", True),
        "again": ("Run it again", True),
    }
    return render(
        "report.html.j2",
        title=f"{summary.model.source}: {headline(summary)}",
        summary=summary,
        headline=headline(summary),
        lede=lede(summary),
        tiles=tiles(summary),
        parts=[(ident, name) for ident, (name, part) in there.items() if part],
        facts=facts(summary),
        doubts=[*contradictions(summary, proofs), *summary.doubts],
        survival=survival,
        proven=proven,
        convergence=convergence,
        classes=class_rows(summary),
        confusion=confusion,
        places=places,
        gallery=gallery,
        choices=sorted({(row.label, row.class_name) for row in gallery.rows}),
        verdicts=[kind.value for kind in Verdict if any(row.verdict == kind.value for row in gallery.rows)],
        unit=unit_of(summary.settings.norm),
        colophon=_COLOPHON,
    )


def lede(summary: AuditSummary) -> str:
    """The sentences under the headline: what was asked, and how far the answer goes."""
    counts, settings, data = summary.counts, summary.settings, summary.data
    aim = "any other class" if settings.target is None else f"class {data.class_name(settings.target)}"
    others = " and that are of another class" if counts.of_target else ""
    asked = (
        f"{summary.model.source} was asked about {plural(counts.images, 'image')} of {data.source}. For each of the {counts.tested:,} it gets "
        f"right{others}, a search with up to {plural(settings.queries, 'query')} looked for the nearest image that it takes for {aim}."
    )
    return f"{asked} {median_words(summary)} What survives is not proven safe: a stronger attack or a larger budget may flip it."


def tiles(summary: AuditSummary) -> list[Tile]:
    """The key figures, each with its count and interval."""
    counts, norm, median = summary.counts, summary.settings.norm, summary.median
    accuracy = summary.clean_accuracy
    shown = []
    if counts.tested:
        survival = summary.survival[-1]
        shown += [
            Tile(
                "flipped", f"{counts.flipped:,}", f"of {counts.tested:,}", share_words(summary.flipped_share), "flipped"
            ),
            Tile(
                "survive this attack",
                f"{counts.survived:,}",
                f"of {counts.tested:,}",
                share_words(survival),
                "survived",
            ),
            Tile(
                "median distance to a flip",
                "not reached" if median.value is None else distance_words(median.value, norm),
                "",
                median_interval(summary),
            ),
        ]
    if counts.unknown:
        more = "error or time limit\ncounts against every claim"
        shown.append(Tile("not decided", f"{counts.unknown:,}", f"of {counts.tested:,}", more, "unknown"))
    if is_whole(norm) and (one := summary.survival_at(1)) is not None and one.flipped:
        reach = f"{percent(one.flipped / one.of)}\n95 % interval {interval(1 - one.high, 1 - one.low)}"
        unit = unit_of(norm)[:-1]
        shown.append(Tile(f"flipped by a single {unit}", f"{one.flipped:,}", f"of {one.of:,}", reach, "flipped"))
    attacked = summary.queries - counts.excluded  # an excluded image costs one query
    each = f"{attacked / max(counts.tested, 1):,.0f} an attacked image\n{summary.settings.queries:,} allowed{_beyond(summary)}"
    shown.append(
        Tile("right on the unchanged image", f"{accuracy.count:,}", f"of {accuracy.of:,}", share_words(accuracy))
    )
    return [*shown, Tile("queries", f"{summary.queries:,}", "", each)]


def _beyond(summary: AuditSummary) -> str:
    return ", and what checking a find takes" if summary.settings.minimal else ""


def facts(summary: AuditSummary) -> list[tuple[str, str]]:
    """What it takes to get the same result: settings, versions, digests and counts, as names and values."""
    model, data, settings = summary.model, summary.data, summary.settings
    spec = model.spec
    height, width, channels = data.shape
    guide = f", guided by {settings.guide}" if settings.attack == "game" else ""  # no baseline is guided
    listed = [
        ("model", model.source),
        ("model sha256", model.sha256 or "not a file"),
        (
            "input",
            f"{spec.layout}, {spec.channels}, scale {spec.scale:g}, mean {_list(spec.mean)}, std {_list(spec.std)}",
        ),
        ("output", spec.output),
        ("guessed", "; ".join(model.guessed) or "nothing"),
        ("classes", str(model.classes or "not known")),
        ("same image asked twice", f"scores differ by at most {model.largest_change:g}"),
        (
            "images",
            f"{data.source}: {data.count:,} of {width} x {height} x {channels}, {'8-bit' if data.eight_bit else 'float'}",
        ),
        ("images sha256", data.sha256),
        ("attack", f"{settings.attack}, norm {settings.norm}, values {settings.values}{guide}"),
        ("target", "any other class" if settings.target is None else data.class_name(settings.target)),
        ("queries allowed", f"{settings.queries:,} an image{_beyond(summary)}"),
        (
            "queries sent",
            f"{summary.queries:,}; {summary.remembered:,} answered from memory; {summary.checks:,} to check flips",
        ),
        ("seed", str(settings.seed)),
    ]
    if model.batch is not None:
        listed.append(("images a call", f"{model.batch}, on which its scores depend"))
    if settings.values == "tau":
        listed.append(("tau", f"{settings.tau:g}"))
    return [*listed, *((f"{name} version", version) for name, version in sorted(summary.versions.items()))]


def _list(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:g}" for number in numbers)
