"""What the studies share: which code measured a figure, intervals of means, and the words a person wrote below the figures."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

ROOT = Path(__file__).resolve().parent.parent
MEASURING = ("games", "robustest/attack", "robustest/baselines", "robustest/classifiers", "robustest/saliency")
_SEARCH = ("games/", "robustest/attack/search", "robustest/saliency/")
READING = "## Reading it"


def code_state(*, search: bool = True) -> str:
    """The first 12 digits of the SHA-256 of all code that finds and scores adversarial images.

    Figures are kept in a folder of this name, so that one report never mixes what different code measured.

    Args:
        search: whether this tool's own search is part of it. What others' attacks find does not depend on it.
    """
    digest = hashlib.sha256()
    for folder in MEASURING:
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT).as_posix()
            if search or not place.startswith(_SEARCH):
                digest.update(place.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def measured_by() -> str:
    """The sentence of a report that says on what machine and with what code its figures were measured."""
    return (
        f"Machine: {os.cpu_count()} cores, {platform.machine()}, no GPU, one thread. All figures of this page were measured with one state of the "
        f"code (digest {code_state()} of {', '.join(MEASURING)})."
    )


def mean_interval(values: Iterable[float | None], form: str = ".2f") -> str:
    """Mean and half width of its 95 % interval (t); `-` where there is nothing to average. None is left out."""
    known = np.array([value for value in values if value is not None], float)
    if not len(known):
        return "-"
    if len(known) == 1:
        return f"{known[0]:{form}}"
    half = float(stdtrit(len(known) - 1, 0.975)) * known.std(ddof=1) / np.sqrt(len(known))
    return f"{known.mean():{form}} ± {half:.2f}"


def reading(report: Path) -> str:
    """What a person wrote under the figures of an earlier run, which is kept."""
    text = report.read_text(encoding="utf-8") if report.is_file() else ""
    _, mark, words = text.partition(READING)
    return f"\n{mark}{words}" if mark else ""
