"""Results of attacks made by hand, for tests of comparisons: every number in them is known."""

from __future__ import annotations

from robustest.results import AttackResult, Verdict


def result(pixels: int | None, *curve: tuple[int, float], queries: int = 100) -> AttackResult:
    """A flip of so many pixels, with its (queries, distance) points; None for an image that survived."""
    return AttackResult(
        verdict=Verdict.SURVIVED if pixels is None else Verdict.FLIPPED,
        attack="a",
        norm="l0",
        label=0,
        target=None,
        seed=0,
        budget=100,
        l0_pixels=pixels,
        queries=queries,
        curve=curve,
    )
