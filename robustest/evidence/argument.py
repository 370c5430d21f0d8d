"""The argument of a safety case as a fragment in Goal Structuring Notation (GSN standard v3): YAML and a picture.

Goals rest on strategies, strategies on goals and solutions; a solution names a file of the bundle. Written by hand as
YAML, so that no parser is needed to read it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape

from robustest.audit.summary import AuditSummary

_BOX = (250, 92)
_GAP = (30, 46)


@dataclass(frozen=True, slots=True)
class Element:
    """One element of the argument.

    kind: Goal, Strategy, Context, Assumption or Solution. supported_by, in_context_of: names of other elements.
    file: of the bundle, for solutions.
    """

    name: str
    kind: str
    text: str
    supported_by: tuple[str, ...] = ()
    in_context_of: tuple[str, ...] = ()
    file: str = ""


def argument_of(summary: AuditSummary) -> tuple[Element, ...]:
    """The argument that this audit can support, top first."""
    settings, share = summary.settings, summary.flipped_share
    survived = 1 - share.high if share.of else 0.0
    tested = summary.counts.tested
    return (
        Element(
            "G1",
            "Goal",
            f"At least {survived:.1%} of images like those tested are not flipped by the attack at its budget (95 % interval)",
            ("S1",),
            ("C1", "C2", "A1"),
        ),
        Element("C1", "Context", f"Model {summary.model.source}, sha256 {(summary.model.sha256 or 'none')[:16]}"),
        Element(
            "C2", "Context", f"Threat: {settings.norm}, {settings.queries} queries an image, attack {settings.attack}"
        ),
        Element("A1", "Assumption", f"The {tested} images tested represent those met in use"),
        Element("S1", "Strategy", "Argue by attacking each image and by replaying what was found", ("G2", "G3")),
        Element(
            "G2",
            "Goal",
            f"{share.count} of {share.of} images were flipped, each re-scored after rounding",
            ("Sn1", "Sn2"),
        ),
        Element("G3", "Goal", "The run is complete and unchanged", ("Sn3",)),
        Element("Sn1", "Solution", "Result with counts and intervals", file="result.json"),
        Element("Sn2", "Solution", "Adversarial images", file="adversarial.npz"),
        Element("Sn3", "Solution", "Digests of all files", file="MANIFEST.json"),
    )


def as_yaml(elements: tuple[Element, ...], digests: dict[str, str]) -> bytes:
    """The argument as YAML; strings are quoted as JSON, which YAML reads."""
    lines = [
        "# Goal Structuring Notation v3: what this bundle can support. It claims compliance with no standard.",
        "elements:",
    ]
    for element in elements:
        lines += [
            f"  - name: {element.name}",
            f"    kind: {element.kind}",
            f"    text: {json.dumps(element.text, ensure_ascii=False)}",
        ]
        if element.supported_by:
            lines.append(f"    supported_by: [{', '.join(element.supported_by)}]")
        if element.in_context_of:
            lines.append(f"    in_context_of: [{', '.join(element.in_context_of)}]")
        if element.file:
            lines.append(f"    file: {element.file}")
            if element.file in digests:
                lines.append(f"    sha256: {digests[element.file]}")
    return ("\n".join(lines) + "\n").encode()


def as_svg(elements: tuple[Element, ...]) -> bytes:
    """The argument as a picture: rows by depth, contexts beside their goal."""
    by_name = {element.name: element for element in elements}
    depth = {"G1": 0}
    order = ["G1"]
    for name in order:
        for child in by_name[name].supported_by:
            if child not in depth:
                depth[child] = depth[name] + 1
                order.append(child)
        for beside in by_name[name].in_context_of:
            depth.setdefault(beside, depth[name])
    rows: dict[int, list[str]] = {}
    for element in elements:
        rows.setdefault(depth[element.name], []).append(element.name)
    width = max(len(names) for names in rows.values()) * (_BOX[0] + _GAP[0]) + _GAP[0]
    height = (max(rows) + 1) * (_BOX[1] + _GAP[1]) + _GAP[1]
    places: dict[str, tuple[float, float]] = {}
    for row, names in rows.items():
        left = (width - len(names) * (_BOX[0] + _GAP[0]) + _GAP[0]) / 2
        for column, name in enumerate(names):
            places[name] = (left + column * (_BOX[0] + _GAP[0]), _GAP[1] / 2 + row * (_BOX[1] + _GAP[1]))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for element in elements:
        x, y = places[element.name]
        for child in element.supported_by:
            cx, cy = places[child]
            parts.append(
                f'<path d="M{x + _BOX[0] / 2:g} {y + _BOX[1]:g} L{cx + _BOX[0] / 2:g} {cy:g}" stroke="#444" fill="none"/>'
            )
    parts.extend(_box(element, *places[element.name]) for element in elements)
    return ("\n".join([*parts, "</svg>"]) + "\n").encode()


def _box(element: Element, x: float, y: float) -> str:
    fill = {"Goal": "#e8f0fe", "Strategy": "#e6f4ea", "Solution": "#fff4e0"}.get(element.kind, "#f4f4f4")
    corner = {"Context": 22, "Assumption": 22, "Solution": 44}.get(element.kind, 2)
    lines = _wrapped(f"{element.name} {element.kind}: {element.text}", 36)
    start = y + _BOX[1] / 2 - 8 * (len(lines) - 1) + 4
    text = "".join(
        f'<text x="{x + _BOX[0] / 2:g}" y="{start + 16 * row:g}" text-anchor="middle">{escape(line)}</text>'
        for row, line in enumerate(lines)
    )
    return f'<rect x="{x:g}" y="{y:g}" width="{_BOX[0]}" height="{_BOX[1]}" rx="{corner}" fill="{fill}" stroke="#444"/>{text}'


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:5]
