"""What `robustest certify` proved about the images of an audit: certified curves, and where proof and attack disagree."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustest.audit.statistics import clopper_pearson
from robustest.audit.summary import AuditSummary, spec_json
from robustest.classifiers.spec import InputSpec
from robustest.errors import RunConflict
from robustest.report.charts import Chart, Line, line_chart
from robustest.report.words import Table, axis_of, bare_distance, interval, is_whole, percent
from robustest.settings import NORMS

FILE = "certify.json"
_MOST_ROWS = 14


@dataclass(frozen=True, slots=True)
class Proof:
    """The bracket of one image in one norm.

    sha256: digest of the image. lower: nothing misclassified is nearer; 0 where nothing was proven.
    upper: distance of a misclassified image, None where none was found. claim: what kind of proof it is.
    """

    sha256: str
    norm: str
    lower: float
    upper: float | None
    claim: str


@dataclass(frozen=True, slots=True)
class Certified:
    """One norm's curves: the share proven to hold and the share not known to fail; the truth lies between."""

    norm: str
    chart: Chart
    table: Table


@dataclass(frozen=True, slots=True)
class Proven:
    """All of an audit's proofs for a page: the note above, a chart for each norm, and what kind of proofs they are."""

    note: str
    norms: tuple[Certified, ...]
    claims: tuple[str, ...]


def proofs_of(summary: AuditSummary) -> tuple[Proof, ...]:
    """The proofs that lie in the run folder as `certify.json`; none where there is no such file.

    Raises:
        RunConflict: it is damaged, or about another model or input spec.
    """
    path = summary.folder / FILE if summary.folder is not None else None
    if path is None or not path.is_file():
        return ()
    return read_proofs(path, summary.model.sha256, summary.model.spec)


def read_proofs(path: Path, model: str | None, spec: InputSpec) -> tuple[Proof, ...]:
    """Read what `robustest certify -o` wrote.

    Args:
        path: of the file. model: sha256 that its model must have; None where not known.
        spec: how the audit gave the model its input; proofs about another input are about another network.

    Raises:
        RunConflict: it is damaged, or about another model or input spec.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        told, given = content["model"]["sha256"], dict(content["model"]["spec"])
        proofs = [
            _proof(str(entry["sha256"]), str(norm), bracket)
            for entry in content["images"]
            for norm, bracket in entry.get("brackets", {}).items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunConflict(
            f"{str(path)!r} is not what `robustest certify` writes: {type(error).__name__}: {error}. Remove it or certify again."
        ) from error
    if model is not None and told != model:
        raise RunConflict(
            f"{str(path)!r} is about another model, with sha256 {told}; this run's has {model}. Remove it."
        )
    differs = [
        f"{name} {given.get(name)} there, {value} in this run"
        for name, value in spec_json(spec).items()
        if given.get(name) != value
    ]
    if differs:
        raise RunConflict(
            f"{str(path)!r} is about the model with another input spec: {'; '.join(differs)}. Remove it and the certificates beside it, "
            "and certify again with the input spec of the audit."
        )
    return tuple(proofs)


def _proof(sha256: str, norm: str, bracket: dict[str, Any]) -> Proof:
    lower, upper = bracket["lower"], bracket["upper"]
    proof = Proof(
        sha256,
        norm,
        0.0 if lower is None else float(lower["value"]),
        None if upper is None else float(upper["value"]),
        "" if lower is None else str(lower["claim"]),
    )
    ends = [proof.lower, *([] if proof.upper is None else [proof.upper])]
    if norm not in NORMS or not all(math.isfinite(end) and end >= 0 for end in ends):
        raise ValueError(f"a bracket in {norm!r} with the ends {ends}")
    return proof


def contradictions(summary: AuditSummary, proofs: Sequence[Proof]) -> list[str]:
    """Certificates above a distance that was found, in any norm, by the attack or beside the proof: one of them is wrong."""
    records = {record.sha256: record for record in summary.records}
    wrong = []
    for proof in proofs:
        record = records.get(proof.sha256)
        attacked = record.distance(proof.norm) if record is not None else None
        nearest = min((end for end in (attacked, proof.upper) if end is not None), default=None)
        if nearest is not None and proof.lower > nearest:
            name = record.name if record is not None else proof.sha256[:16]
            wrong.append(
                f"{name}: proven that nothing is misclassified nearer than {proof.norm} {proof.lower:g}, yet an image at "
                f"{nearest:g} is. The proof or the replay is wrong; trust neither until it is explained."
            )
    return wrong


def proven_of(summary: AuditSummary, proofs: Sequence[Proof]) -> Proven | None:
    """Certified curves of the audit's images; None where none of them has a proof."""
    names = {record.sha256: record for record in summary.records}
    mine = [proof for proof in proofs if proof.sha256 in names]
    if not mine:
        return None
    norms = [norm for norm in NORMS if any(proof.norm == norm for proof in mine)]
    images = len({proof.sha256 for proof in mine})
    note = (
        f"Of {images:,} images of this audit that the model gets right and that were certified: the lower curve is the share for which a proof "
        "shows that no image within the distance is misclassified, the upper one the share for which none is known. The truth "
        "lies between. Bands are 95 % intervals."
    )
    curves = tuple(_certified(norm, [p for p in mine if p.norm == norm], names) for norm in norms)
    return Proven(note, curves, tuple(sorted({proof.claim for proof in mine if proof.claim})))


def _certified(norm: str, proofs: Sequence[Proof], records: dict[str, Any]) -> Certified:
    lower = [proof.lower for proof in proofs]
    upper = [_nearest(proof, records[proof.sha256].distance(norm)) for proof in proofs]
    ends = sorted({end for end in (*lower, *upper) if math.isfinite(end)} | {0.0})
    top = (ends[-1] * 1.05) or 1.0
    places = [*ends, top]

    def line(name: str, style: str, values: Sequence[float]) -> Line:
        counts = [_beyond(values, place) for place in places]
        bounds = [clopper_pearson(count, len(values)) for count in counts]
        points = tuple((place, count / len(values)) for place, count in zip(places, counts, strict=True))
        return Line(name, style, points, tuple(b[0] for b in bounds), tuple(b[1] for b in bounds))

    chart = line_chart(
        f"certified-{norm}",
        [line("not known to fail", "survived", upper), line("proven", "proven", lower)],
        title=f"Certified curve, {axis_of(norm)}",
        summary=f"{len(proofs)} images.",
        x_label=axis_of(norm),
        y_label="share of images",
        x_top=top,
        log=False if not is_whole(norm) else None,
    )
    shown = (
        ends
        if len(ends) <= _MOST_ROWS
        else [ends[round(i * (len(ends) - 1) / (_MOST_ROWS - 1))] for i in range(_MOST_ROWS)]
    )
    rows = tuple((bare_distance(place, norm), _share(lower, place), _share(upper, place)) for place in shown)
    caption = f"Share of {len(proofs):,} images for which no image within the distance is misclassified"
    return Certified(norm, chart, Table(caption, (axis_of(norm), "proven", "not known to fail"), rows, (0, 1, 2)))


def _nearest(proof: Proof, attacked: float | None) -> float:
    return min((end for end in (proof.upper, attacked) if end is not None), default=math.inf)


def _beyond(values: Sequence[float], place: float) -> int:
    """How many hold at `place` itself: a bound speaks of what is nearer than it, so equality is not enough."""
    return sum(value > place for value in values)


def _share(values: Sequence[float], place: float) -> str:
    count = _beyond(values, place)
    return f"{count:,}: {percent(count / len(values))} ({interval(*clopper_pearson(count, len(values)))})"
