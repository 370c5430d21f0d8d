"""Comparisons: pairing, curves and counts worked out by hand, names as users write them, and the command itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.baselines.compare import AttackSpec, correct_images, parse_attacks, run_comparison
from robustest.baselines.comparison import Comparison, Row, Run, best_after
from robustest.baselines.files import as_json, parse_pixels, write_adversarials
from robustest.baselines.table import markdown_of, print_comparison
from robustest.classifiers.callables import CallableClassifier
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSetting, NothingToTest
from robustest.images import ImageSet
from robustest.results import AttackResult
from robustest.settings import AttackSettings
from tests.baselines.results import result

SIDE = 5


def row(name: str, *runs: tuple[int | None, list[AttackResult]]) -> Row:
    made = [Run(attack=name, pixels=k, budget=100, results=tuple(results), seconds=1.0) for k, results in runs]
    return Row(name=name, access="scores", runs=tuple(made))


def comparison(*rows: Row, images: int = 4) -> Comparison:
    return Comparison(
        classifier="model",
        digest=None,
        source="data",
        shape=(SIDE, SIDE, 1),
        names=tuple("abcd"[:images]),
        labels=(0,) * images,
        image_digests=("",) * images,
        skipped=0,
        norm="l0",
        pixels=(1, 2, 5),
        queries=100,
        seed=0,
        rows=rows,
        version="0",
    )


ANYTIME = row("ours", (None, [result(1, (3, 4.0), (9, 1.0)), result(2, (50, 2.0)), result(4, (7, 4.0)), result(None)]))
LADDER = row(
    "theirs",
    (2, [result(None), result(2, (8, 2.0)), result(None), result(None)]),
    (5, [result(3, (2, 5.0), (6, 3.0)), result(5, (8, 5.0)), result(None), result(5, (90, 5.0))]),
)


def test_success_within_k_pixels_is_counted() -> None:
    found = comparison(ANYTIME, LADDER)
    assert [found.success(ANYTIME, k).count for k in (1, 2, 5)] == [1, 2, 3]  # type: ignore[union-attr]
    # With a run for each k, the run of the largest k up to it answers; below the smallest none can.
    assert found.success(LADDER, 1) is None
    assert [found.success(LADDER, k).count for k in (2, 4, 5, 9)] == [1, 1, 3, 3]  # type: ignore[union-attr]


def test_success_comes_with_the_clopper_pearson_interval() -> None:
    share = comparison(ANYTIME).success(ANYTIME, 2)
    assert share is not None
    # 2 of 4: the published table of exact intervals has 6.76 % and 93.24 %.
    assert (share.low, share.high) == (pytest.approx(0.0676, abs=1e-4), pytest.approx(0.9324, abs=1e-4))


def test_pairs_are_the_same_images_and_the_p_value_is_mcnemars() -> None:
    found = comparison(ANYTIME, LADDER)
    duels = {duel.pixels: duel.paired for duel in found.duels()}
    assert set(duels) == {2, 5}  # at one pixel the other has no run
    assert (duels[2].both, duels[2].only_first, duels[2].only_second, duels[2].neither) == (1, 1, 0, 2)
    assert (duels[5].both, duels[5].only_first, duels[5].only_second, duels[5].neither) == (2, 1, 1, 0)
    assert duels[2].p_value == 1.0
    assert [duel.first for duel in found.duels(first="theirs")] == ["theirs"] * 2


def test_the_best_distance_after_so_many_queries() -> None:
    steps = np.array([1, 3, 8, 9, 100])
    np.testing.assert_array_equal(best_after(result(1, (3, 4.0), (9, 1.0)), steps), [np.inf, 4, 4, 1, 1])
    np.testing.assert_array_equal(best_after(result(None), steps), np.inf)
    np.testing.assert_array_equal(best_after(result(6, queries=50), steps), [np.inf] * 4 + [6])


def test_curves_over_queries_rise_in_success_and_fall_in_distance() -> None:
    found = comparison(ANYTIME)
    curve = found.query_curve(ANYTIME)
    at = {point.queries: point for point in curve}
    assert curve[-1].queries == 100
    assert [point.flipped.count for point in curve] == sorted(point.flipped.count for point in curve)
    assert at[100].flipped.count == 3
    assert at[100].distance == 2.0  # of 1, 2, 4 and never: the second of four
    assert at[min(at)].distance is None
    within = {p.queries: p.flipped.count for p in found.query_curve(ANYTIME, pixels=2)}
    assert within[100] == 2


def test_the_median_counts_images_that_were_not_flipped_as_farthest() -> None:
    found = comparison(ANYTIME, LADDER)
    ours, theirs = found.median_pixels(ANYTIME), found.median_pixels(LADDER)
    assert ours is not None
    assert theirs is not None
    assert ours.value == 2
    assert theirs.value == 3  # 3, 2, never, 5: of both runs the fewest


def test_a_white_box_behind_the_black_box_is_doubted() -> None:
    white = Row(name="white", access="gradients", runs=row("white", (None, [result(None)] * 4)).runs)
    doubts = comparison(ANYTIME, white).doubts()
    assert len(doubts) == 1
    for said in ("0 (white) against 1 (ours) of 4 at k=1", "2 (ours) of 4 at k=2", "3 (ours) of 4 at k=5"):
        assert said in doubts[0]
    assert comparison(ANYTIME, LADDER).doubts() == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("game", [AttackSpec("game")]),
        ("sparse-rs@5/2, greedy:50000", [AttackSpec("sparse-rs", (2, 5)), AttackSpec("greedy", (), 50000)]),
        ("brusle", [AttackSpec("brusle", (1, 7))]),
        ("random-corners,one-pixel@3", [AttackSpec("random-corners"), AttackSpec("one-pixel", (3,))]),
        ("sigma-zero:300,torchattacks.JSMA", [AttackSpec("sigma-zero", (), 300), AttackSpec("torchattacks.JSMA")]),
    ],
)
def test_attacks_are_understood(text: str, expected: list[AttackSpec]) -> None:
    assert list(parse_attacks(text, pixels=(1, 7))) == expected


@pytest.mark.parametrize(
    "text", ["", "game,", "nothing", "game@3", "sigma-zero@3", "sparse-rs@0", "game,game", "game:", "greedy:x"]
)
def test_what_is_no_list_of_attacks_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="attack"):
        parse_attacks(text)


@pytest.mark.parametrize("text", ["", "1,,2", "0", "-1", "x", "1.5"])
def test_what_is_no_list_of_pixels_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match="--pixels"):
        parse_pixels(text)


def images(count: int) -> ImageSet:
    pictures = np.zeros((count, SIDE, SIDE, 1), np.uint8)
    pictures[:, 0, 0, 0] = np.arange(count)
    return ImageSet(pictures, np.zeros(count, np.int64), tuple(f"image {i}" for i in range(count)), source="black")


def classifier(limit: float = 1.5) -> CallableClassifier:
    def scores(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        gap = batch.reshape(len(batch), -1).sum(axis=1) - np.float32(limit)
        return np.stack([np.zeros_like(gap), gap], axis=1)

    return CallableClassifier(scores, InputSpec())


def test_only_images_that_the_classifier_gets_right_are_attacked() -> None:
    loaded = images(6)
    wrong = ImageSet(loaded.images, np.array([1, 0, 1, 0, 0, 0]), loaded.names)
    chosen, skipped = correct_images(classifier(), wrong, 3)
    assert chosen.names == ("image 1", "image 3", "image 4")
    assert skipped == 2
    with pytest.raises(NothingToTest, match="wrong about all"):
        correct_images(classifier(), ImageSet(loaded.images, np.ones(6, np.int64), loaded.names), None)


def test_a_comparison_runs_each_attack_on_the_same_images_and_repeats() -> None:
    settings = AttackSettings(queries=120, seed=3)
    specs = parse_attacks("one-scan,sparse-rs@1/2,random-corners@2,sigma-zero,greedy:40")
    first, second = (run_comparison(classifier(), images(4), specs, settings, pixels=(1, 2)) for _ in range(2))
    assert len(first) == 4
    assert [r.name for r in first.rows] == ["one-scan", "sparse-rs", "random-corners", "sigma-zero", "greedy"]
    assert [[run.pixels for run in r.runs] for r in first.rows] == [[None], [1, 2], [2], [], [None]]
    assert "needs gradients" in first.rows[3].note
    for r in first.rows:
        for run in r.runs:
            assert [item.label for item in run.results] == [0] * 4
            assert all(item.queries <= run.budget for item in run.results)
    # Two white pixels reach 1.5, one does not.
    assert [first.success(first.rows[0], k).count for k in (1, 2)] == [0, 4]  # type: ignore[union-attr]
    assert first.rows[4].runs[0].budget == 40
    assert first.rows[4].note == "its own budget is 40 queries"
    assert first.rows[1].note == "one run of 120 queries for each number of pixels"
    texts = []
    for found in (first, second):
        content = as_json(found)
        for attack in content["attacks"]:
            for run in attack["runs"]:
                del run["processor_seconds"]
        texts.append(json.dumps(content))
    assert texts[0] == texts[1]


def test_files_and_tables_hold_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_comparison(
        classifier(), images(3), parse_attacks("one-scan,sigma-zero"), AttackSettings(queries=100), pixels=(1, 2)
    )
    write_adversarials(found, tmp_path / "found.npz")
    with np.load(tmp_path / "found.npz") as saved:
        stored, index = saved["one-scan"], saved["one-scan.index"]
    assert index.tolist() == [0, 1, 2]
    assert (stored.reshape(3, -1).astype(np.float64).sum(axis=1) / 255 > 1.5).all()
    content = as_json(found)
    assert content["attacks"][0]["success_at_pixels"][1] | {"low": 0, "high": 0} == {
        "pixels": 2,
        "flipped": 3,
        "of": 3,
        "low": 0,
        "high": 0,
        "confidence": 0.95,
    }
    assert [r["l0_pixels"] for r in content["attacks"][0]["runs"][0]["results"]] == [2, 2, 2]
    print_comparison(found)
    shown = capsys.readouterr().out
    assert "100 (29-100)" in shown  # 3 of 3: the lower end is 0.025^(1/3)
    assert "needs gradients" in shown
    assert "| one-scan | scores | 0 (0-71) | 100 (29-100) | 2 |" in markdown_of(found)


def test_a_model_that_breaks_leaves_a_row_that_says_so() -> None:
    calls = []

    def scores(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(batch))
        if len(calls) > 3:
            raise RuntimeError("gone")
        return classifier()(batch)

    found = run_comparison(
        CallableClassifier(scores, InputSpec()),
        images(2),
        parse_attacks("one-scan"),
        AttackSettings(queries=50),
        batch=4,
    )
    assert found.rows[0].runs == ()
    assert "gone" in found.rows[0].note
