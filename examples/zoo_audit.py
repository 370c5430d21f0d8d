"""Audit every model of a zoo on its own images and write one table.

    python examples/zoo_audit.py ../shared/zoo --out zoo-runs --report reports/zoo.md

The zoo is a folder with a manifest.json that names models and image files. Finished audits are read, not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import robustest
from robustest.audit.summary import AuditSummary


def main() -> int:
    """Audit all models; return 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--report", type=Path, required=True, help="Markdown file")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--large", type=int, default=20, help="images where they are 128x128 or larger")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows, failures = [], 0
    for entry in json.loads((options.zoo / "manifest.json").read_text())["models"]:
        images = robustest.load_images(options.zoo / entry["data"])
        count = min(options.large if images.images.shape[1] >= 128 else options.images, len(images))
        started = time.perf_counter()
        try:
            summary = robustest.run_audit(
                robustest.load_classifier(options.zoo / entry["file"]),
                images.take(range(count)),
                settings=robustest.AttackSettings(queries=options.queries, seed=options.seed),
                out=options.out / entry["id"],
            )
        except robustest.RobustestError as error:
            failures += 1
            rows.append(f"| {entry['id']} | failed: {error} | | | | | | | |")
            continue
        rows.append(row(entry["id"], summary))
        print(rows[-1], f"{time.perf_counter() - started:.1f} s", flush=True)
    options.report.write_text(page(rows, options))
    return 1 if failures else 0


def row(name: str, summary: AuditSummary) -> str:
    """One line of the table."""
    counts, share = summary.counts, summary.flipped_share
    survive = []
    for pixels in (1, 3, 10):
        point = summary.survival_at(pixels)
        survive.append("-" if point is None else f"{point.survived} ({point.low:.0%} to {point.high:.0%})")
    median = "> all" if summary.median.value is None else f"{summary.median.value:g}"
    unminimal = sum(record.flipped and record.minimal is not True for record in summary.records)
    return (
        f"| {name} | {counts.tested} of {counts.images} | {share.count} ({share.low:.0%} to {share.high:.0%}) | "
        f"{' | '.join(survive)} | {median} | {summary.queries} | {unminimal} |"
    )


def page(rows: list[str], options: argparse.Namespace) -> str:
    """The report."""
    head = [
        "# Every model of the zoo, audited",
        "",
        "    python examples/zoo_audit.py ../shared/zoo --out zoo-runs --report reports/zoo.md",
        "",
        f"{options.images} images a model ({options.large} where they are 128x128 or larger), {options.queries} queries an image, seed "
        f"{options.seed}; robustest {robustest.__version__}, {os.cpu_count()} cores ({platform.machine()}), CPU. Each line is one",
        "`robustest audit MODEL IMAGES -o DIR --queries N --images N`. In brackets: 95 % Clopper-Pearson intervals. An attack bounds",
        "robustness from above: a survivor is not proven safe. The last column counts flips of which it was not checked within the",
        "budget that no single pixel can be put back.",
        "",
        "| model | attacked (right from the start) | flipped | survive 1 pixel | survive 3 | survive 10 | median pixels | queries | not minimal |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows, ""])


if __name__ == "__main__":
    sys.exit(main())
