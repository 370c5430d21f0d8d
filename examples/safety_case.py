"""A safety case in one script: audit, certify, check claims, write the evidence, and fail when a claim fails.

    python examples/safety_case.py --out safety-case

Audits the built-in provable classifier on built-in images. To use it on your own model, change `MODEL` and `IMAGES`, and
fix the claims *before* looking at any result. Exits with 0 if every claim was shown, 1 if one was refuted, 3 if one
could be neither shown nor refuted with so many images.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import robustest
from robustest.audit.statistics import share_of
from robustest.demo import IMAGES, MODELS
from robustest.evidence.bundle import write_bundle
from robustest.evidence.verify import verify_bundle
from robustest.settings import AttackSettings

MODEL = MODELS["provable"]


@dataclass(frozen=True)
class Claim:
    """At least `share` of the images, as shown at 95 % confidence by an interval [low, high]."""

    text: str
    share: float
    low: float
    high: float

    @property
    def answer(self) -> str:
        """Proven, refuted or inconclusive."""
        return "proven" if self.low >= self.share else "refuted" if self.high < self.share else "inconclusive"


def main() -> int:
    """Run the whole case; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the run and the bundle; new, or of this very case"
    )
    parser.add_argument("--images", type=int, default=60, help="images audited")
    parser.add_argument("--certified", type=int, default=30, help="images certified")
    parser.add_argument("--queries", type=int, default=300, help="query budget an image")
    parser.add_argument("--draft", action="store_true", help="bundle even if it may not be called evidence")
    options = parser.parse_args()

    classifier = robustest.load_classifier(MODEL)
    images = robustest.load_images(IMAGES)
    audited = images.take(range(options.images))
    summary = robustest.run_audit(
        classifier, audited, settings=AttackSettings(queries=options.queries, seed=7), out=options.out / "run"
    )
    one = summary.survival_at(1)
    assert one is not None  # some image was tested: the demo models are right about most

    certified = 0
    for image, label in zip(
        audited.images[: options.certified], audited.labels[: options.certified].tolist(), strict=True
    ):
        lower = robustest.certify(classifier, image, label, norms=("linf",), seconds=2)["linf"].lower
        certified += lower is not None and lower.guarantee.is_proof and lower.value >= 0.02
    proven = share_of(certified, options.certified)

    claims = [
        Claim("at least 40 % of images survive one changed pixel of this attack", 0.40, one.low, one.high),
        Claim("at least 50 % of images are proven safe within Linf 0.02", 0.50, proven.low, proven.high),
    ]
    for claim in claims:
        print(f"{claim.answer:13} {claim.text}: 95 % interval [{claim.low:.3f}, {claim.high:.3f}]")

    bundle = options.out / "evidence"
    if not bundle.exists():
        write_bundle(options.out / "run", bundle, draft=options.draft)
    verified = verify_bundle(bundle, replay=20, classifier=classifier)
    print(f"evidence: {bundle} ({'holds' if verified.holds else 'does not hold'})")
    answers = {claim.answer for claim in claims}
    if "refuted" in answers or not verified.holds:
        return 1
    return 3 if "inconclusive" in answers else 0


if __name__ == "__main__":
    sys.exit(main())
