"""What a bundle says in words: threat model, limitations, statistics, how to replay. Generated from the audit alone."""

from __future__ import annotations

from typing import Any

from robustest.audit.summary import AuditSummary

ATLAS_VERSION = "5.6.0"


def threat_model(summary: AuditSummary) -> dict[str, Any]:
    """Goal, knowledge, capability and budget of the attacker that was played, with taxonomy ids."""
    settings = summary.settings
    asked = {"label": "the label alone", "logits": "scores of all classes", "probabilities": "scores of all classes"}
    decision_only = summary.model.spec.output == "label"
    return {
        "goal": "misclassification" if settings.target is None else f"classification as class {settings.target}",
        "knowledge": "black box: the model answers queries and nothing else of it is used",
        "answers_seen": asked[summary.model.spec.output],
        "capability": f"changes of the input image, small in {settings.norm}",
        "norm": settings.norm,
        "values": settings.values,
        "tau": settings.tau if settings.values == "tau" else None,
        "query_budget_per_image": settings.queries,
        "more_queries_to_check_finds": settings.minimal,
        "input_domain": "8-bit images" if summary.data.eight_bit else "float images in [0, 1]",
        "attack": settings.attack,
        "taxonomy": {
            "mitre_atlas": {
                "version": ATLAS_VERSION,
                "ids": ["AML.T0043.001", "AML.T0042", "AML.T0015", "AML.T0040"],
                "note": "black-box optimization; verify attack (the replay); evade AI model; inference API access",
            },
            "nist_ai_100_2": f"evasion, black-box, {'decision' if decision_only else 'score'}-based query attack",
            "iso_iec_24029_2": "stability; closed-box, incomplete, deterministic given the seed",
        },
    }


def limitations(summary: AuditSummary) -> list[str]:
    """What this evidence does not show."""
    settings = summary.settings
    lines = [
        "An attack bounds robustness from above only: an image that survived was not flipped by this attack at this budget; nothing is proven about it.",
        f"All rates are relative to the attack `{settings.attack}`, the norm `{settings.norm}` and {settings.queries} queries an image; a stronger attack or a larger budget can only lower survival.",
        f"Intervals describe the {summary.data.count} images of `{summary.data.source}` as a sample; they carry over to other images only as far as these represent them.",
        f"{summary.counts.wrong} image(s) that the model got wrong unchanged were excluded: they are counted in the clean accuracy, not in survival.",
        "Not covered: natural distribution shift, physical attacks, changes of many pixels at once beyond the attack's reach, poisoning of the training data, attacks with knowledge of the weights.",
    ]
    if summary.counts.of_target:
        lines.append(
            f"{summary.counts.of_target} image(s) of the target class itself were excluded: they are counted in the clean accuracy, not in survival."
        )
    if summary.counts.unknown:
        lines.append(
            f"{summary.counts.unknown} image(s) are unknown; they count against the claim on both sides of every interval."
        )
    if summary.data.eight_bit:
        lines.append("Adversarial images are 8-bit: each was rounded as a PNG holds it and scored again.")
    if summary.model.guessed:
        lines.append("Parts of the input spec were guessed: " + "; ".join(summary.model.guessed) + ".")
    if summary.model.sha256 is None:
        lines.append("The model is not a file: it is identified by its name only, and a replay must use the same one.")
    lines.extend(f"Doubt: {doubt}" for doubt in summary.doubts)
    return lines


def statistics(summary: AuditSummary) -> list[str]:
    """Methods, counts and intervals."""
    share, accuracy, median = summary.flipped_share, summary.clean_accuracy, summary.median
    lines = [
        "Intervals: Clopper-Pearson, two-sided, 95 %, one at a time; for m claims read them at 1 - 0.05 m (Bonferroni).",
        f"Stopping rule, fixed before the run: {summary.settings.queries} queries an image, or no smaller distance possible.",
        "Unknown images count as flipped in lower ends and as survived in upper ends.",
        f"Clean accuracy: {accuracy.count} of {accuracy.of}, interval [{accuracy.low:.4f}, {accuracy.high:.4f}].",
        f"Flipped: {share.count} of {share.of}, interval [{share.low:.4f}, {share.high:.4f}].",
        f"Median distance to a flip: {_text(median.value)}, interval [{_text(median.low)}, {_text(median.high)}].",
        "",
        "| distance | survive | of | lower end | upper end |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {point.distance:g} | {point.survived} | {point.of} | {point.low:.4f} | {point.high:.4f} |"
        for point in summary.survival
    ]
    return lines


def _text(value: float | None) -> str:
    return "above all found" if value is None else f"{value:g}"


def replay(summary: AuditSummary) -> list[str]:
    """How someone who has only the bundle and the model checks it."""
    return [
        "`robustest verify BUNDLE` checks every file against MANIFEST.json, the result against its schema and its totals against its images.",
        "`robustest verify BUNDLE --replay 50 --model MODEL` scores 50 of the adversarial images again.",
        "",
        "Without robustest: `sha256sum` each file of MANIFEST.json; load `adversarial/NNNNNN.png`, preprocess it as `model.json` says "
        "(`(image * scale - mean) / std`), run the model, and see that its class is not the `label` in `images.jsonl`.",
        "",
        f"The audit itself: `{summary.command}`",
    ]


def markdown(title: str, lines: list[str], *, bullets: bool = False, draft: bool = False) -> bytes:
    """A small Markdown page."""
    stamp = ["**DRAFT: not evidence.**", ""] if draft else []
    body = [f"* {line}" for line in lines] if bullets else lines
    return ("\n".join([f"# {title}", "", *stamp, *body]) + "\n").encode()
