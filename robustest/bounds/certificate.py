"""Certificates: a proof about one image, written down so that a second program can check it.

A certificate is one JSON file: the model's digest, the input spec, the image bit for bit, what is claimed, and for a
branch and bound the tree of its splits. It holds no bounds: whoever rechecks it computes them anew (`recheck`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.bounds.decision import Answer, Decision
from robustest.bounds.grid_region import GridRegion
from robustest.bounds.guarantee import Guarantee
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSetting

FORMAT = "robustest-certificate"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Certificate:
    """A claim that no image of a region is misclassified.

    model: sha256 of the model file. spec: how it wants its input.
    image: (H, W, C) float32. label: the class that is kept. target: the only class excluded, or None for any other.
    claim: `{"kind": "sparse", "norm", "units", "free"}`, `{"kind": "box", "dims", "lower", "upper"}` or
        `{"kind": "ball", "norm", "radius"}`.
    guarantee: what is claimed of the region. method, assumptions: in words.
    tree: splits of the region, `{"leaf": true}` for none. slopes: lower slopes of ReLUs that prove it, if any were chosen.
    """

    model: str
    spec: InputSpec
    image: NDArray[np.float32]
    label: int
    target: int | None
    claim: Mapping[str, Any]
    guarantee: Guarantee
    method: str
    assumptions: tuple[str, ...] = ()
    tree: Mapping[str, Any] | None = None
    slopes: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values, floats exactly."""
        spec = {key: getattr(self.spec, key) for key in ("layout", "channels", "scale", "mean", "std")}
        pixels = base64.b64encode(np.ascontiguousarray(self.image, "<f4").tobytes()).decode()
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "model": {"sha256": self.model},
            "spec": spec,
            "image": {"shape": list(self.image.shape), "float32": pixels},
            "label": self.label,
            "target": self.target,
            "claim": dict(self.claim),
            "guarantee": self.guarantee.name,
            "method": self.method,
            "assumptions": list(self.assumptions),
            "tree": self.tree if self.tree is not None else {"leaf": True},
        }
        return content if self.slopes is None else {**content, "slopes": dict(self.slopes)}

    def save(self, path: str | Path) -> None:
        """Write it as JSON; floats are written so that they are read back bit for bit."""
        Path(path).write_text(json.dumps(self.to_json(), separators=(",", ":")), encoding="utf-8")


def sparse_claim(norm: str, units: int, mask: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """At most `units` pixels (`l0`) or dimensions (`l0_dims`) change, of those in the mask."""
    return {
        "kind": "sparse",
        "norm": norm,
        "units": units,
        "free": None if mask is None else np.flatnonzero(mask).tolist(),
    }


def box_claim(region: GridRegion) -> dict[str, Any]:
    """The free dimensions take values in their intervals."""
    return {
        "kind": "box",
        "dims": region.dims.tolist(),
        "lower": region.lower.astype(np.float64).tolist(),
        "upper": region.upper.astype(np.float64).tolist(),
    }


def ball_claim(norm: str, radius: float) -> dict[str, Any]:
    """The image changes by at most `radius` in `linf`, `l2` or `l1`, within [0, 1]."""
    return {"kind": "ball", "norm": norm, "radius": float(radius)}


def certificate_of(
    answer: Answer,
    claim: Mapping[str, Any],
    *,
    model: str,
    spec: InputSpec,
    image: NDArray[np.float32],
    label: int,
    target: int | None = None,
    assumptions: tuple[str, ...] = (),
) -> Certificate:
    """The certificate of a branch and bound that recorded its tree.

    Args:
        answer: of `decide_sparse` or `decide_box` with `record=True`.
        claim: what the region was: `sparse_claim` or `box_claim`.
        model: sha256 of the model file. spec: how it wants its input. image, label, target: as they were given.

    Raises:
        InvalidSetting: nothing was proved, or the tree was not recorded.
    """
    if answer.decision is not Decision.PROVED or answer.tree is None:
        raise InvalidSetting(
            f"answer must be a proof with its tree; got {answer.decision.name}. Decide again with record=True."
        )
    return Certificate(
        model, spec, image, label, target, claim, Guarantee.PROOF_EXEC, "branch and bound", assumptions, answer.tree
    )
