"""Settings as values: one dataclass is the flags, the TOML table, the ini keys and the keyword arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from robustest.errors import InvalidSetting

Norm = Literal["l0", "l0_dims", "l1", "l2", "linf"]
"""`l0` counts pixels (all channels of a place), `l0_dims` counts channels of pixels."""
NORMS: tuple[Norm, ...] = get_args(Norm)

Values = Literal["corners", "free", "tau"]
Guide = Literal["sift", "grid", "uniform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSettings:
    """How one image is attacked.

    queries: images the classifier may score for each image tested, the clean one included, >= 1.
    minimal: an adversarial image is checked for changes that can be put back even where no queries are left for that: as many
        more as it takes.
    seed: of every random stream, >= 0; the same seed gives the same result.
    attack: name of the search, `game` or one of the baselines.
    norm: distance that is made small: l0 (pixels), l0_dims (channels of pixels), l1, l2, linf.
    values: colours that `game` gives a pixel: `corners` of the colour cube (each channel at 0 or 1), `free` (each channel at 0,
        1/2 or 1), or `tau` (each channel a step of tau up or down). Of the baselines, one-pixel, sparse-evo and those written
        for torch take colours of their own whatever this says; the others take corners, and refuse anything else.
    tau: that step in (0, 1], as a share of the range, where values is `tau`; 1 moves to a bound.
    guide: what guides the search: `sift` features (trusted where no side is below 65 pixels, elsewhere the grid), a `grid` of
        regions, or `uniform`.
    target: class to be reached, or None for any other than the label.
    """

    queries: int = 1000
    seed: int = 0
    attack: str = "game"
    norm: Norm = "l0"
    values: Values = "corners"
    tau: float = 1.0
    guide: Guide = "sift"
    target: int | None = None
    minimal: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.queries, int) or self.queries < 1:
            raise InvalidSetting(f"queries must be a whole number >= 1; got {self.queries!r}. Try 1000.")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InvalidSetting(f"seed must be a whole number >= 0; got {self.seed!r}.")
        if not 0 < self.tau <= 1:
            raise InvalidSetting(f"tau must be in (0, 1]; got {self.tau!r}.")
        if self.target is not None and self.target < 0:
            raise InvalidSetting(f"target must be a class number >= 0; got {self.target!r}.")
        for name, value, allowed in (
            ("norm", self.norm, NORMS),
            ("values", self.values, get_args(Values)),
            ("guide", self.guide, get_args(Guide)),
        ):
            if value not in allowed:
                raise InvalidSetting(f"{name} must be one of {', '.join(allowed)}; got {value!r}.")
