"""`robustest demo`: the two built-in classifiers, audited side by side."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from robustest.audit.summary import AuditSummary
from robustest.errors import InvalidSetting
from robustest.images import ImageSet
from robustest.report.several import Proven

_RADIUS = 0.05  # of the neighbourhood in Linf that proofs are about; the provable model was trained for 0.1


def demo(
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("demo-report"),
    queries: int = 500,
    number: Annotated[int, Parameter(name="--images")] = 100,
    proofs: int = 30,
    seed: int = 0,
    minimal: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    workers: int = 1,
) -> int:
    """Audit two small built-in classifiers side by side: how few pixels flip each, and what is proven.

    Both know Fashion-MNIST and have the same shape; one was trained plainly, the other to be provable. Nothing is downloaded. Interrupted, the same command goes on from where it was.

    Args:
        out: folder for the report and both runs.
        queries: images the classifier may score for each image tested.
        number: how many of the 200 built-in images are tested.
        proofs: images that both get right for which a proof is tried, where torch is installed; 0 for none.
        seed: of every random stream.
        minimal: check finds for changes that can be put back even where no queries are left for that, with as many more as it takes.
        workers: processes on this machine.
    """
    from robustest.audit.progress import progress_bar
    from robustest.audit.run import run_audit
    from robustest.demo import MODELS, demo_images
    from robustest.report.html import write_report
    from robustest.report.markdown import write_markdown
    from robustest.report.several import write_several
    from robustest.report.terminal import print_figures
    from robustest.settings import AttackSettings

    everything = demo_images()
    if not 1 <= number <= len(everything):
        raise InvalidSetting(f"--images must be 1 to {len(everything)}, as many as are built in; got {number}.")
    if proofs < 0:
        raise InvalidSetting(f"--proofs must be >= 0; got {proofs}.")
    images = everything.take(range(number))
    settings = AttackSettings(queries=queries, seed=seed, minimal=minimal)
    print(
        f"Two classifiers of Fashion-MNIST, {number} test images, up to {queries} queries an image. The plain one was trained as usual, "
        "the provable one so that small changes provably change nothing."
    )
    began = time.monotonic()
    summaries: dict[str, AuditSummary] = {}
    for name, path in MODELS.items():
        with progress_bar() as tell:
            command = (
                f"robustest demo --queries {queries} --images {number} --seed {seed}{' --minimal' if minimal else ''}"
            )
            summaries[name] = run_audit(
                path, images, None, settings, out / name, workers=workers, progress=tell, command=command
            )
        write_report(summaries[name], out / name / "report.html")
        write_markdown(summaries[name], out / name / "summary.md")
    proven = _proven(summaries, images, proofs)
    links = {name: f"{name}/report.html" for name in MODELS}
    title = "A plain and a provable classifier: how few pixels flip each?"
    page = write_several(summaries, out / "report.html", title=title, images=images.images, proven=proven, links=links)
    print_figures(summaries, proven)
    if not proven and proofs:
        print("Proofs need torch: pip install 'robustest[bounds]'.")
    print(f"{page}  ({time.monotonic() - began:.0f} s)")
    return 0


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _proven(summaries: dict[str, AuditSummary], images: ImageSet, most: int) -> dict[str, Proven]:
    """For how many of the first images that both get right no change of up to _RADIUS a pixel is misclassified."""
    if not most or not (_installed("torch") and _installed("onnx")):
        return {}
    import torch

    from robustest.bounds.check import checker_of
    from robustest.bounds.region import Region
    from robustest.classifiers.loading import load_classifier
    from robustest.demo import MODELS
    from robustest.images import as_unit
    from robustest.results import Verdict

    rows = zip(*(summary.records for summary in summaries.values()), strict=True)
    both = [row[0].index for row in rows if all(r.verdict is not Verdict.EXCLUDED for r in row)][:most]
    units = as_unit(images.images)
    channels = units.shape[3]
    found = {}
    for name, path in MODELS.items():
        checker = checker_of(load_classifier(path), image_shape=units.shape[1:])
        count = 0
        for index in both:
            point = torch.from_numpy(units[index]).reshape(1, -1).double()
            region = Region.ball(point, "linf", _RADIUS, channels=channels)
            count += bool((checker.margins(region, int(images.labels[index])) > 0).all())
        found[name] = Proven(f"Linf {_RADIUS:g}", count, len(both), checker.guarantee.value)
    return found
