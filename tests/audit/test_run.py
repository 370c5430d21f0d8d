"""The audit end to end, on a classifier with a known answer: the same result for any workers, shards and interruptions."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import jsonschema
import numpy as np
import pytest

import robustest
from robustest import compiled
from robustest.attack.task import Search, Task
from robustest.audit.finish import finish_run, unfinished
from robustest.audit.plan import load_plan, plan_key, shard_size
from robustest.audit.progress import Meter, Progress
from robustest.audit.reference import open_planned
from robustest.audit.run import plan_run, run_audit
from robustest.audit.schema import result_schema
from robustest.audit.status import run_status
from robustest.audit.summary import load_summary
from robustest.audit.work import Event, work_on
from robustest.classifiers import InputSpec, load_classifier
from robustest.errors import (
    EnvironmentFailure,
    InvalidImage,
    InvalidSetting,
    ModelError,
    NothingToTest,
    RobustestError,
    RunConflict,
)
from robustest.images import ImageSet, as_unit
from robustest.results import Edits, Verdict
from robustest.settings import AttackSettings
from tests.audit.conftest import images_for, nearest

NAME = "robustest_linear:scores"


def test_what_is_found_is_adversarial_and_never_below_the_closed_form(
    linear: ModuleType, images: ImageSet, tmp_path: Path
) -> None:
    summary = run_audit(linear.scores, images, None, AttackSettings(queries=300, seed=1), tmp_path / "run")
    assert (summary.counts.excluded, summary.counts.tested) == (2, 22)
    assert summary.counts.flipped >= 15
    clean = summary.clean_images()
    assert clean is not None
    for record in summary.records:
        image = images.images[record.index]
        assert record.label == images.labels[record.index]
        assert np.array_equal(clean[record.index], image)
        if record.flipped:
            changed = record.adversarial(image)
            assert linear.scores(as_unit(changed[None])).argmax() == record.predicted != record.label
            assert record.distance("l0") == (changed != image).any(axis=2).sum()
            assert record.distance("l0") >= nearest(linear, image, record.label)  # type: ignore[operator]
    assert {r.index for r in summary.records if r.verdict is Verdict.EXCLUDED} == {5, 11}
    assert summary.clean_accuracy.count == 22


def test_the_result_is_the_same_for_any_workers_and_shards(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    results = set()
    for place, (workers, shards, isolate) in enumerate(
        [(1, None, None), (1, 1, None), (1, 24, True), (2, 5, None), (4, 3, None)]
    ):
        run_audit(NAME, images, None, settings, tmp_path / str(place), workers=workers, shards=shards, isolate=isolate)
        results.add((tmp_path / str(place) / "result.json").read_bytes())
        assert not list((tmp_path / str(place)).rglob("lease.*"))
        assert not list((tmp_path / str(place)).rglob("*.tmp"))
    assert len(results) == 1


def test_result_json_fits_its_schema_as_another_implementation_reads_it(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    run_audit(linear.scores, images, None, settings, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "result.json").read_text())
    jsonschema.Draft7Validator.check_schema(result_schema())
    jsonschema.Draft7Validator(result_schema()).validate(content)


def test_a_result_read_back_is_the_summary_that_was_returned(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    summary = run_audit(linear.scores, images, None, settings, tmp_path / "run")
    again = load_summary(tmp_path / "run" / "result.json")
    for name in (
        "model",
        "data",
        "settings",
        "counts",
        "mean_l0_pixels",
        "queries",
        "remembered",
        "checks",
        "versions",
        "command",
    ):
        assert getattr(again, name) == getattr(summary, name)
    assert again.survival == summary.survival
    assert len(summary.records) == 24


def test_a_finished_audit_is_returned_after_asking_the_model_a_few_images_that_tell_it_from_another(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    asked: list[int] = []

    def counting(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        asked.append(len(batch))
        return np.asarray(linear.scores(batch))

    first = run_audit(counting, images, None, settings, tmp_path / "run")
    asked.clear()
    second = run_audit(counting, images, None, settings, tmp_path / "run")
    assert asked == [16]
    assert second.counts == first.counts


def test_arrays_a_limit_and_the_library_name(linear: ModuleType, images: ImageSet, tmp_path: Path) -> None:
    summary = robustest.run_audit(
        linear.scores, images.images, images.labels, AttackSettings(queries=20), tmp_path / "run", limit=7
    )
    assert summary.counts.images == 7
    assert [record.name for record in summary.records] == [str(place) for place in range(7)]


def test_float_images_keep_their_floats(linear: ModuleType, images: ImageSet, tmp_path: Path) -> None:
    pixels = as_unit(images.images)
    summary = run_audit(linear.scores, pixels, images.labels, AttackSettings(queries=300, seed=1), tmp_path / "run")
    flipped = [record for record in summary.records if record.flipped]
    assert flipped
    assert not summary.data.eight_bit
    for record in load_summary(tmp_path / "run").records:
        if record.flipped:
            kept = np.load(tmp_path / "run" / "adversarial" / f"{record.index:06d}.npy")
            assert np.array_equal(kept, record.adversarial(pixels[record.index]))


def test_the_png_is_the_adversarial_image(linear: ModuleType, images: ImageSet, tmp_path: Path) -> None:
    from robustest.images import load_picture

    summary = run_audit(linear.scores, images, None, AttackSettings(queries=300, seed=1), tmp_path / "run")
    pictures = sorted((tmp_path / "run" / "adversarial").glob("*.png"))
    assert len(pictures) == summary.counts.flipped
    for path in pictures:
        index = int(path.stem)
        assert np.array_equal(load_picture(path), summary.records[index].adversarial(images.images[index]))


@pytest.mark.parametrize("after", [0, 1, 7, 21])
def test_an_audit_that_is_interrupted_goes_on_to_the_same_result(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path, after: int
) -> None:
    run_audit(linear.scores, images, None, settings, tmp_path / "whole")

    def stop(progress: Progress) -> None:
        if progress.done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_audit(linear.scores, images, None, settings, tmp_path / "run", progress=stop)
    seen: list[Progress] = []
    run_audit(linear.scores, images, None, settings, tmp_path / "run", progress=seen.append)
    assert seen[0].done == after
    assert seen[-1].done == seen[-1].total == 24
    assert (tmp_path / "run" / "result.json").read_bytes() == (tmp_path / "whole" / "result.json").read_bytes()


def test_two_workers_on_one_folder_share_the_work(linear: ModuleType, settings: AttackSettings, tmp_path: Path) -> None:
    images = images_for(linear, 60)
    box = load_classifier(NAME)
    plan = plan_run(tmp_path / "run", box, images, settings, origin=NAME, shards=12)
    done: list[list[int]] = [[], []]

    def one(who: int) -> None:
        def notify(event: Event) -> None:
            if event.verdict is not None:
                done[who].append(event.index)

        work_on(tmp_path / "run", plan, load_classifier(NAME), workers=12, notify=notify)

    threads = [threading.Thread(target=one, args=(who,)) for who in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done[0] + done[1]) == list(range(60))
    assert not unfinished(tmp_path / "run", plan)


def test_a_process_expects_its_share_of_the_queries(
    linear: ModuleType, settings: AttackSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve shards of five images: those of one of three workers, and of one who is given two shards."""
    expected: list[int] = []
    monkeypatch.setattr(compiled, "expect", expected.append)
    box = load_classifier(linear.scores)
    plan = plan_run(tmp_path / "run", box, images_for(linear, 60), settings, origin=linear.scores, shards=12)
    work_on(tmp_path / "run", plan, box, only=[0, 7])
    work_on(tmp_path / "run", plan, box, workers=3)
    assert expected == [10 * settings.queries, 20 * settings.queries]


def test_a_run_that_is_not_done_cannot_be_finished(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    box = load_classifier(linear.scores)
    plan = plan_run(tmp_path / "run", box, images, settings, origin=linear.scores, shards=4)
    work_on(tmp_path / "run", plan, box, only=[2])
    assert unfinished(tmp_path / "run", plan) == [0, 1, 3]
    with pytest.raises(RunConflict, match="3 of 4 shards are left, the first is 0"):
        finish_run(tmp_path / "run", plan)
    now = run_status(tmp_path / "run", plan)
    assert (now.done, now.shards, now.counted.done, now.workers) == (1, 4, 6, ())


@pytest.mark.parametrize(("count", "shards"), [(1, None), (7, None), (7, 3), (10_000, None), (5, 99), (1001, 2)])
def test_shards_hold_every_image_once(count: int, shards: int | None) -> None:
    size = shard_size(count, shards)
    pieces = [range(start, min(start + size, count)) for start in range(0, count, size)]
    assert [index for piece in pieces for index in piece] == list(range(count))
    assert size <= 1000 or shards is not None
    assert shards is None or len(pieces) <= shards


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"queries": 81}, "queries 80 there, 81 here"),
        ({"seed": 2}, "seed 1 there, 2 here"),
        ({"norm": "l2"}, "norm l0 there, l2 here"),
    ],
)
def test_a_folder_with_another_audit_is_refused_by_what_differs(
    linear: ModuleType,
    images: ImageSet,
    settings: AttackSettings,
    tmp_path: Path,
    change: dict[str, object],
    named: str,
) -> None:
    run_audit(linear.scores, images, None, settings, tmp_path / "run")
    before = (tmp_path / "run" / "result.json").read_bytes()
    with pytest.raises(RunConflict, match=named):
        run_audit(linear.scores, images, None, replace(settings, **change), tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(RunConflict, match=r"images 24 \(.* there, 2 \(.* here"):
        run_audit(linear.scores, images.take([0, 1]), None, settings, tmp_path / "run")
    with pytest.raises(RunConflict, match="output logits there, label here"):
        run_audit(linear.scores, images, None, settings, tmp_path / "run", spec=InputSpec(output="label"))
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_a_folder_with_other_things_is_refused_and_left_alone(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.png").write_bytes(b"")
    with pytest.raises(RunConflict, match=r"not empty \('beach.png'\)"):
        run_audit(linear.scores, images, None, settings, tmp_path / "holiday")
    assert [path.name for path in (tmp_path / "holiday").iterdir()] == ["beach.png"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunConflict, match="is a file"):
        run_audit(linear.scores, images, None, settings, tmp_path / "file")


def refusals() -> list[tuple[str, type[RobustestError], str, Callable[[ModuleType, ImageSet, Path], object]]]:
    few = AttackSettings(queries=5)

    def nan(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.full((len(batch), 3), np.nan)

    def constant(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.tile([1.0, 2.0, 3.0], (len(batch), 1))

    def probable(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.tile([0.5, 0.5], (len(batch), 1))

    logits, claimed = InputSpec(), InputSpec(output="probabilities")
    return [
        ("nan", ModelError, "NaN", lambda m, i, o: run_audit(nan, i, None, few, o)),
        ("constant", ModelError, "same scores", lambda m, i, o: run_audit(constant, i, None, few, o)),
        ("undeclared", ModelError, "probabilities", lambda m, i, o: run_audit(probable, i, None, few, o, spec=logits)),
        ("declared", ModelError, "probabilities", lambda m, i, o: run_audit(m.scores, i, None, few, o, spec=claimed)),
        ("no labels", InvalidImage, "labels are missing", lambda m, i, o: run_audit(m.scores, i.images, None, few, o)),
        ("two labels", InvalidImage, "left out", lambda m, i, o: run_audit(m.scores, i, i.labels, few, o)),
        ("short", InvalidImage, "24 in all", lambda m, i, o: run_audit(m.scores, i.images, i.labels[:3], few, o)),
        ("none", NothingToTest, "no image", lambda m, i, o: run_audit(m.scores, i.images[:0], i.labels[:0], few, o)),
        ("workers", InvalidSetting, "workers", lambda m, i, o: run_audit(m.scores, i, None, few, o, workers=0)),
        ("limit", InvalidSetting, "images", lambda m, i, o: run_audit(m.scores, i, None, few, o, limit=0)),
        ("shards", InvalidSetting, "shards", lambda m, i, o: run_audit(m.scores, i, None, few, o, shards=0)),
        (
            "attack",
            InvalidSetting,
            "attack",
            lambda m, i, o: run_audit(m.scores, i, None, AttackSettings(attack="no"), o),
        ),
        ("target", InvalidSetting, "target", lambda m, i, o: run_audit(m.scores, i, None, AttackSettings(target=3), o)),
        ("model", ModelError, "does not exist", lambda m, i, o: run_audit("no.onnx", i, None, few, o)),
    ]


@pytest.mark.parametrize(("error", "named", "call"), [r[1:] for r in refusals()], ids=[r[0] for r in refusals()])
def test_what_cannot_be_done_is_said_before_anything_is_written(
    linear: ModuleType,
    images: ImageSet,
    tmp_path: Path,
    error: type[RobustestError],
    named: str,
    call: Callable[[ModuleType, ImageSet, Path], object],
) -> None:
    with pytest.raises(error, match=named):
        call(linear, images, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_classifier_that_is_always_wrong_leaves_nothing_to_test_and_says_how_wrong(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    wrong = (linear.scores(as_unit(images.images)).argmax(axis=1) + 1) % 3
    with pytest.raises(NothingToTest, match=r"wrong about 24 of 24 unchanged images \(clean accuracy 0%\).*input spec"):
        run_audit(linear.scores, images.images, wrong, settings, tmp_path / "run")
    summary = load_summary(tmp_path / "run")
    assert summary.counts.excluded == 24
    assert summary.exit_code == 5
    assert summary.survival == ()


def test_names_of_another_number_than_the_models_classes_are_a_reason_to_doubt(
    linear: ModuleType, images: ImageSet, tmp_path: Path
) -> None:
    quick = AttackSettings(queries=400)
    few = run_audit(linear.scores, replace(images, class_names=("cat", "dog")), None, quick, tmp_path / "few")
    assert "The images name 2 classes" in few.doubts[0]
    assert "cat, dog; the model has 3" in few.doubts[0]
    three = replace(images, class_names=("ant", "bee", "cow"))
    assert run_audit(linear.scores, three, None, quick, tmp_path / "all").doubts == ()


def test_a_function_goes_by_value_to_a_process_of_its_own_even_if_it_does_not_repeat(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)

    def noisy(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.asarray(linear.scores(batch) + rng.normal(size=(len(batch), 3)) * 0.1)

    summary = run_audit(noisy, images, None, settings, tmp_path / "run", workers=1, isolate=True)
    assert summary.doubts[0].startswith("The model does not repeat")
    assert summary.counts.tested == 22
    assert summary.counts.flipped > 0


def test_labels_of_classes_that_a_function_does_not_score_are_refused_before_the_run(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    with pytest.raises(InvalidImage, match="labels must be below 3"):
        run_audit(linear.scores, replace(images, labels=images.labels + 1), None, settings, tmp_path / "run")
    assert not (tmp_path / "run" / "plan.json").exists()
    image, shape = images.images[0], "must be below 3, the number of scores"
    with pytest.raises(InvalidImage, match=shape):
        robustest.find_adversarial(linear.scores, image, 3, queries=20)
    with pytest.raises(InvalidImage, match=shape):
        robustest.find_adversarial(linear.scores, image, 0, target=7, queries=20)


def test_a_function_that_changes_its_input_in_place_is_asked_what_it_was_asked(
    linear: ModuleType, images: ImageSet, tmp_path: Path
) -> None:
    def consuming(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        scores = np.asarray(linear.scores(batch))
        batch[:] = 0
        return scores

    floats = as_unit(images.images)
    kept = floats.copy()
    plain = robustest.find_adversarial(linear.scores, floats[0], int(images.labels[0]), queries=60)
    found = robustest.find_adversarial(consuming, floats[0], int(images.labels[0]), queries=60)
    assert (found.verdict, found.l0_pixels, found.curve) == (plain.verdict, plain.l0_pixels, plain.curve)
    assert np.array_equal(floats, kept)
    assert run_audit(consuming, images, None, AttackSettings(queries=400), tmp_path / "run").doubts == ()


def test_a_model_that_is_wrong_about_most_images_is_a_reason_to_doubt(
    linear: ModuleType, images: ImageSet, tmp_path: Path
) -> None:
    quick = AttackSettings(queries=400)
    shifted = images.labels.copy()  # 22 of 24 are right; the lower end of the interval of 18 of 24 is 0.533
    shifted[:20] = (shifted[:20] + 1) % 3
    summary = run_audit(linear.scores, replace(images, labels=shifted), None, quick, tmp_path / "run")
    assert summary.counts.excluded >= 18
    assert f"wrong about {summary.counts.excluded} of 24 unchanged images" in summary.doubts[0]
    half = np.where(np.arange(24) < 12, (images.labels + 1) % 3, images.labels)  # 10 to 14: half is within the interval
    assert run_audit(linear.scores, replace(images, labels=half), None, quick, tmp_path / "half").doubts == ()


def test_an_image_on_which_the_model_fails_is_unknown_and_the_others_are_played(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    bad = images.images[9]

    def fails(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        if (np.abs(batch - as_unit(bad)).reshape(len(batch), -1) > 0).sum(axis=1).min() <= 3:
            raise RuntimeError("no memory for this one")
        return np.asarray(linear.scores(batch))

    rest = [i for i in range(24) if i != 9]
    alone = run_audit(linear.scores, images.take(rest), None, settings, tmp_path / "rest")
    # the probe asks 16 of the 24 images: number 9 must not be one of them
    order = [9 if i == 1 else 1 if i == 9 else i for i in range(24)]
    summary = run_audit(fails, images.take(order), None, settings, tmp_path / "run")
    record = summary.records[1]
    assert record.verdict is Verdict.UNKNOWN
    assert "no memory for this one" in record.reason
    assert "1 of 24 images could not be decided" in summary.doubts[0]
    found = {r.sha256: (r.verdict, r.distances) for r in alone.records}
    for other in summary.records:
        if other.index != 1:
            assert found[other.sha256] == (other.verdict, other.distances)


def test_an_error_by_which_the_caller_stops_a_run_is_held_against_no_image(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    run_audit(linear.scores, images, None, settings, tmp_path / "whole")

    def stops(progress: Progress) -> None:
        raise RuntimeError("enough")

    for _ in range(4):
        with pytest.raises(RuntimeError, match="enough"):
            run_audit(linear.scores, images, None, settings, tmp_path / "run", progress=stops)
    run_audit(linear.scores, images, None, settings, tmp_path / "run")
    assert (tmp_path / "run" / "result.json").read_bytes() == (tmp_path / "whole" / "result.json").read_bytes()


def test_a_model_that_fails_for_good_ends_the_run_which_goes_on_when_it_is_back(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    broken = False

    def scores(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        if broken:
            raise ConnectionError("gone")
        return np.asarray(linear.scores(batch))

    def breaks(progress: Progress) -> None:
        nonlocal broken
        broken = progress.done >= 3

    with pytest.raises(ModelError, match="gone"):
        run_audit(scores, images, None, settings, tmp_path / "run", progress=breaks)
    assert not (tmp_path / "run" / "result.json").exists()
    broken = False
    summary = run_audit(scores, images, None, settings, tmp_path / "run")
    assert summary.counts.unknown == 0


def turning(linear: ModuleType) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[], None]]:  # type: ignore[type-arg]
    """A model, and what makes it another one of the same name: scores of the other sign."""
    sign = 1.0

    def scores(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return sign * np.asarray(linear.scores(batch))

    def turn() -> None:
        nonlocal sign
        sign = -1.0

    return scores, turn


def test_a_model_that_was_swapped_is_not_worked_with(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    scores, turn = turning(linear)

    def stop(progress: Progress) -> None:
        if progress.done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_audit(scores, images, None, settings, tmp_path / "run", progress=stop)
    turn()
    with pytest.raises(EnvironmentFailure, match="not the model this run was planned with"):
        run_audit(scores, images, None, settings, tmp_path / "run")


def test_another_model_of_the_same_name_is_not_given_a_finished_result(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    scores, turn = turning(linear)

    first = run_audit(scores, images, None, settings, tmp_path / "run")
    assert run_audit(scores, images, None, settings, tmp_path / "run").counts == first.counts
    turn()
    with pytest.raises(EnvironmentFailure, match="not the model this run was planned with"):
        run_audit(scores, images, None, settings, tmp_path / "run")


@pytest.mark.parametrize("scale", [1e-4, 0.05])
def test_a_model_that_does_not_repeat_is_doubted_at_the_top(
    linear: ModuleType, images: ImageSet, tmp_path: Path, scale: float
) -> None:
    noise = np.random.default_rng(0)

    def scores(batch: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.asarray(linear.scores(batch)) + noise.normal(scale=scale, size=(len(batch), 3))

    summary = run_audit(scores, images, None, AttackSettings(queries=10), tmp_path / "run")
    assert summary.model.largest_change > 0
    assert "does not repeat" in summary.doubts[0]


@pytest.mark.parametrize("queries", [60, 400])
def test_flips_that_may_be_too_large_for_want_of_queries_are_a_reason_to_doubt(
    queries: int, linear: ModuleType, images: ImageSet, tmp_path: Path
) -> None:
    summary = run_audit(linear.scores, images, None, AttackSettings(queries=queries), tmp_path / "run")
    unchecked = sum(record.minimal is False for record in summary.records)
    assert (unchecked > 0) == (queries == 60)
    told = f"For {unchecked} of {summary.counts.flipped} flipped images the budget did not suffice"
    assert [told in doubt for doubt in summary.doubts] == [True] * (queries == 60)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["doubts"] == list(summary.doubts)


def test_a_model_that_gives_labels_alone_is_audited_and_the_result_says_so(
    linear: ModuleType, images: ImageSet, tmp_path: Path
) -> None:
    summary = run_audit(
        lambda batch: linear.scores(batch).argmax(axis=1),
        images,
        None,
        AttackSettings(queries=30),
        tmp_path / "run",
        spec=InputSpec(output="label"),
    )
    assert "class alone" in summary.doubts[0]
    assert summary.counts.tested == 22


def test_a_strategy_of_ones_own_is_played_and_keeps_the_first_images_saliency(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    from robustest.results import SaliencyChange

    flat = np.full((6, 6), 1 / 36)

    def whiten(task: Task, rng: np.random.Generator) -> Search:
        task.notes.saliency = lambda: SaliencyChange(flat, flat)
        yield Edits.of([{pixel: [1.0] for pixel in range(count)} for count in range(1, 37)], 1)

    run_audit(linear.scores, images, None, settings, tmp_path / "run", strategy=whiten)
    maps = np.load(tmp_path / "run" / "saliency.npz")
    assert len(maps["indices"]) == 24 - 2 or len(maps["indices"]) == 24
    assert np.allclose(maps["before"][0], flat, atol=1e-4)
    with pytest.raises(InvalidSetting, match="strategy"):
        run_audit(linear.scores, images, None, settings, tmp_path / "other", strategy=whiten, workers=2)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["totals"].update(flipped=c["totals"]["flipped"] + 1),
        lambda c: c["images"][0].update(verdict="robust"),
        lambda c: c["images"][0].update(surprise=1),
        lambda c: c["images"].pop(),
        lambda c: c.pop("settings"),
        lambda c: c["images"][1].update(label=-1),
        lambda c: c["totals"]["survival"][0].update(low=0.99),
        lambda c: c["settings"].update(queries="many"),
    ],
)
def test_a_result_that_was_changed_is_not_believed(
    linear: ModuleType,
    images: ImageSet,
    settings: AttackSettings,
    tmp_path: Path,
    change: Callable[[dict], object],  # type: ignore[type-arg]
) -> None:
    run_audit(linear.scores, images, None, settings, tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(RunConflict):
        load_summary(path)


def test_a_finished_shard_that_was_damaged_is_named_with_the_way_out_which_helps(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run_audit(linear.scores, images, None, settings, run)
    whole = (run / "result.json").read_bytes()
    (run / "result.json").unlink()
    ledger = run / "shards" / "0001" / "ledger.sqlite"
    content = bytearray(ledger.read_bytes())
    content[4096:] = bytes(range(256)) * ((len(content) - 4096) // 256)
    ledger.write_bytes(content)
    with pytest.raises(RunConflict, match=r"0001/ledger.sqlite' is damaged: .* Remove its folder"):
        run_audit(linear.scores, images, None, settings, run)
    shutil.rmtree(ledger.parent)
    run_audit(linear.scores, images, None, settings, run)
    assert (run / "result.json").read_bytes() == whole


def test_results_that_are_missing_or_no_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunConflict, match="does not exist"):
        load_summary(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(RunConflict, match=r"cannot be read as JSON.*can be removed"):
        load_summary(tmp_path)
    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(RunConflict):
        load_summary(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("key"),
        lambda t: t.update(shard=0),
        lambda t: t["probe"].update(indices=[99]),
        lambda t: t.update(version=9),
        lambda t: t["settings"].update(queries=0),
        lambda t: t.update(data=3),
    ],
)
def test_a_plan_that_is_damaged_is_refused(
    linear: ModuleType,
    images: ImageSet,
    settings: AttackSettings,
    tmp_path: Path,
    change: Callable[[dict], object],  # type: ignore[type-arg]
) -> None:
    plan_run(tmp_path / "run", load_classifier(linear.scores), images, settings, origin=linear.scores)
    path = tmp_path / "run" / "plan.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    with pytest.raises(RobustestError):
        load_plan(tmp_path / "run")


def test_the_key_of_a_plan_is_of_all_that_decides_the_result(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    plan = plan_run(tmp_path / "run", load_classifier(linear.scores), images, settings, origin=linear.scores)
    keys = {
        plan_key(plan.settings, plan.model, plan.data),
        plan_key(replace(plan.settings, seed=9), plan.model, plan.data),
        plan_key(plan.settings, replace(plan.model, sha256="0" * 64), plan.data),
        plan_key(plan.settings, replace(plan.model, spec=InputSpec(output="label")), plan.data),
        plan_key(plan.settings, plan.model, replace(plan.data, sha256="0" * 64)),
    }
    assert len(keys) == 5
    assert load_plan(tmp_path / "run").key == plan.key


def test_the_meter_counts_an_image_once_however_often_it_is_told() -> None:
    from robustest.audit.ledger import Tally

    seen: list[Progress] = []
    meter = Meter(10, Tally(flipped=2, excluded=1, queries=50), seen.append)
    for event in (Event(4), Event(4, Verdict.FLIPPED, 7), Event(4, Verdict.FLIPPED, 7), Event(5, Verdict.SURVIVED, 9)):
        meter(event)
    assert (seen[-1].done, seen[-1].flipped, seen[-1].queries, seen[-1].fresh) == (5, 3, 66, 2)
    assert seen[-1].flipped_share == 3 / 4
    assert seen[0].seconds_left is None


def test_what_killed_processes_left_half_written_is_tidied_away(
    linear: ModuleType, images: ImageSet, settings: AttackSettings, tmp_path: Path
) -> None:
    box = load_classifier(linear.scores)
    plan = plan_run(tmp_path / "run", box, images, settings, origin=None)
    work_on(tmp_path / "run", plan, box)
    left = tmp_path / "run" / "shards" / "0000" / ".done.json.1.ab.tmp"
    old, new = tmp_path / "run" / ".result.json.1.ab.tmp", tmp_path / "run" / ".result.json.2.ab.tmp"
    for path in (left, old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    finish_run(tmp_path / "run", plan)
    assert [path.exists() for path in (left, old, new)] == [False, False, True]


def test_a_run_folder_and_its_model_can_be_moved_together(images: ImageSet, tmp_path: Path) -> None:
    demo = Path(robustest.__file__).parent / "demo" / "models" / "plain.onnx"
    pixels = np.random.default_rng(0).integers(0, 256, size=(9, 28, 28, 1), dtype=np.uint8)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    shutil.copy(demo, here / "model.onnx")
    box = load_classifier(str(here / "model.onnx"), InputSpec(layout="NCHW", channels="gray"))
    labels = box(as_unit(pixels)).argmax(axis=1)
    sample = ImageSet(pixels, labels.astype(np.int64), tuple("abcdefghi"))
    plan_run(here / "run", box, sample, AttackSettings(queries=5), origin=str(here / "model.onnx"))
    here.rename(there)
    plan = load_plan(there / "run")
    work_on(there / "run", plan, open_planned(there / "run", plan))
    assert finish_run(there / "run", plan).counts.tested == 9
    content = bytearray((there / "model.onnx").read_bytes())
    shutil.copy(demo.parent / "provable.onnx", there / "model.onnx")
    with pytest.raises(RunConflict, match="not the one this run was planned with"):
        open_planned(there / "run", plan)
    (tmp_path / "elsewhere.onnx").write_bytes(content)
    assert open_planned(there / "run", plan, model=str(tmp_path / "elsewhere.onnx")).info.digest == plan.model.sha256
