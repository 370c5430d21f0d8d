"""The plugin as a user's project meets it: pass, fail with a message one can act on, inconclusive; baselines; workers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from robustest.errors import InvalidSetting
from robustest.settings import AttackSettings
from robustest.testing.answers import Answer, Judged
from robustest.testing.baselines import Comparison, settings_digest
from robustest.testing.estimates import Certified, Estimate
from robustest.testing.fixture import BaselineFailure, Robustness, SessionSettings

# A gray 5x5 image of darkness is class 0; more than 3.5 pixels' worth of light make class 1: four pixels flip each image.
MODEL = """
import numpy as np
def lamp(images):
    light = images.reshape(len(images), -1).sum(axis=1)
    return np.stack([np.full(len(images), {threshold}, np.float32), light], axis=1)
"""

CONFTEST = """
import numpy as np, pytest
from robustest.images import ImageSet

@pytest.fixture(scope="session")
def lamps():
    rng = np.random.default_rng(0)
    images = (rng.random((40, 5, 5, 1)) < 0.5).astype(np.uint8)
    return ImageSet(images, np.zeros(40, np.int64), tuple(f"lamp{i}" for i in range(40)))
"""

TESTS = """
import lamp_model

def test_passes(robustness, lamps):
    estimate = robustness.audit(lamp_model.lamp, lamps, queries=150)
    assert estimate.survives(pixels=3) >= 0.60
    assert estimate.median_pixels >= 4
    assert estimate.survives(pixels=4) <= 0.2

def test_fails(robustness, lamps):
    estimate = robustness.audit(lamp_model.lamp, lamps, queries=150)
    assert estimate.survives(pixels=4) >= 0.60

def test_inconclusive(robustness, lamps):
    estimate = robustness.audit(lamp_model.lamp, lamps, queries=150, images=20)
    quantity = estimate.survives(pixels=3)
    low = quantity.interval.low
    assert quantity > low
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's project with a model, images and three tests."""
    pytester.makepyfile(lamp_model=MODEL.format(threshold=3.5), test_lamps=TESTS)
    pytester.makeconftest(CONFTEST)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
    return pytester


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:randomly", *options)


def test_one_passes_one_fails_with_counts_one_is_inconclusive(project: pytest.Pytester) -> None:
    result = run(project, "--robustest-report=claims.html", "--junitxml=junit.xml")
    result.assert_outcomes(passed=1, failed=2)
    text = result.stdout.str()
    assert "refuted: share that survives 4 pixel(s) >= 0.6" in text
    assert "0 of 40 images survive 4 pixel(s) of this attack at 150 queries: 95% interval [0.000, 0.088]" in text
    assert "worst image: lamp" in text
    assert "flipped to 1 by 4 pixel(s)" in text
    assert "see it: robustest report" in text
    assert "inconclusive: share that survives 3 pixel(s)" in text
    assert "robustest.verdict" in (project.path / "junit.xml").read_text()
    page = (project.path / "claims.html").read_text()
    assert "proven: median pixels to flip &gt;= 4" in page


def test_what_is_to_be_doubted_of_an_audit_is_said_once_with_the_claims(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_lamps="""
def test_copies(robustness, lamps):
    twice = lamps.take([*range(20), *range(20)])
    estimate = robustness.audit("lamp_model:lamp", twice, queries=150, images=40)
    assert estimate.survives(pixels=2) >= 0.6
    assert estimate.median_pixels >= 3
"""
    )
    result = run(project, "--robustest-report=claims.html")
    result.assert_outcomes(passed=1)
    told = "reason to doubt: 20 of 40 images are copies of others."
    assert result.stdout.str().count(told) == 1
    assert told in (project.path / "claims.html").read_text()


def test_the_same_on_two_workers_that_share_one_audit(project: pytest.Pytester) -> None:
    run(project, "-n", "2").assert_outcomes(passed=1, failed=2)
    runs = [path for path in (project.path / ".robustest" / "runs").iterdir() if path.is_dir()]
    assert len(runs) == 2  # 40 images once, 20 images once


def test_after_kill_minus_nine_in_the_middle_the_same_command_gives_the_same_outcome(project: pytest.Pytester) -> None:
    project.makepyfile(
        lamp_model=MODEL.format(threshold=3.5)
        .replace("    light =", "    time.sleep(0.006)\n    light =")
        .replace("import numpy as np", "import time\nimport numpy as np", 1)
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", "passes or fails"]
    running = subprocess.Popen(command, cwd=project.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ledgers = project.path / ".robustest" / "runs"
    for _ in range(600):
        if list(ledgers.glob("*/shards/*/ledger.sqlite")):
            break
        time.sleep(0.05)
    time.sleep(0.3)
    running.kill()
    running.wait()
    assert not list(ledgers.glob("*/result.json"))
    run(project, "-k", "passes or fails").assert_outcomes(passed=1, failed=1, deselected=1)


@pytest.mark.parametrize(("mode", "outcome"), [("xfail", {"xfailed": 1}), ("warn", {"passed": 1, "warnings": 1})])
def test_what_an_inconclusive_claim_does_is_a_choice(
    project: pytest.Pytester, mode: str, outcome: dict[str, int]
) -> None:
    run(project, "-k", "inconclusive", "-o", f"robustest_inconclusive={mode}").assert_outcomes(**outcome, deselected=2)


def test_a_threshold_that_cannot_be_shown_is_refused_before_any_query(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_lamps="""
        def test_too_few(robustness, lamps):
            def never(images):
                raise AssertionError("sent" + str(1 + 1))
            assert robustness.audit(never, lamps, images=20).survives(pixels=3) >= 0.98
        """
    )
    result = run(project)
    result.assert_outcomes(failed=1)
    assert "20 images cannot show" in result.stdout.str()
    assert "sent2" not in result.stdout.str()


def test_a_bare_number_cannot_slip_in(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_lamps="""
        import lamp_model, pytest
        def test_points(robustness, lamps):
            estimate = robustness.audit(lamp_model.lamp, lamps, queries=150)
            for misuse in (lambda q: q == 1.0, float, bool):
                with pytest.raises(TypeError, match="interval|threshold"):
                    misuse(estimate.survives(pixels=3))
            for nothing in (estimate, robustness.certify("m.onnx", lamps)):
                with pytest.raises(TypeError, match="neither true nor false"):
                    assert nothing
        """
    )
    run(project).assert_outcomes(passed=1)


CHECK = """
import lamp_model
def test_no_regression(robustness, lamps):
    robustness.check("lamps", lamp_model.lamp, lamps, queries=150)
"""


def test_a_baseline_is_written_only_when_asked_and_catches_a_weaker_model(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makepyfile(test_lamps=CHECK)
    first = run(project)
    first.assert_outcomes(failed=1)
    assert "--robustest-baseline=update" in first.stdout.str()
    path = project.path / "tests" / "robustness" / "lamps.json"
    assert not path.exists()

    monkeypatch.setenv("CI", "true")
    run(project, "--robustest-baseline=update").assert_outcomes(failed=1)
    assert not path.exists()
    monkeypatch.delenv("CI")

    run(project, "--robustest-baseline=update").assert_outcomes(passed=1)
    stored = json.loads(path.read_text())
    assert len(stored["images"]) == 40
    run(project).assert_outcomes(passed=1)

    project.makepyfile(lamp_model=MODEL.format(threshold=2.5))
    weaker = run(project, "--robustest-run-dir", "other-runs")
    weaker.assert_outcomes(failed=1)
    assert "stored adversarial images that still flip: 40 of 40" in weaker.stdout.str()
    assert "of 40 images 40 got worse and 0 better" in weaker.stdout.str()
    assert "4 -> 3" in weaker.stdout.str()

    project.makepyfile(lamp_model=MODEL.format(threshold=5.5))
    run(project, "--robustest-run-dir", "third-runs").assert_outcomes(passed=1)

    project.makepyfile(test_lamps=CHECK.replace("150", "160"))
    assert "made with other settings" in run(project).stdout.str()


def test_models_of_one_name_have_an_audit_each(project: pytest.Pytester) -> None:
    """Four pixels of light turn the first one's answer, eight the second's; both are functions called `lamp`."""
    project.makepyfile(
        test_two="""
        import numpy as np, pytest

        def made(threshold):
            def lamp(images):
                light = images.reshape(len(images), -1).sum(axis=1)
                return np.stack([np.full(len(images), threshold, np.float32), light], axis=1)
            return lamp

        @pytest.mark.parametrize("pixels", [4, 8])
        def test_median(robustness, lamps, pixels):
            assert robustness.audit(made(pixels - 0.5), lamps, queries=150).median_pixels >= pixels
            assert robustness.audit(made(pixels - 0.5), lamps, queries=150).median_pixels <= pixels
        """
    )
    result = project.runpytest_subprocess("test_two.py", "-p", "no:cacheprovider", "-p", "no:randomly")
    result.assert_outcomes(passed=2)


def test_the_marker_gives_defaults_and_a_misspelt_one_is_an_error(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_lamps="""
        import lamp_model, pytest
        @pytest.mark.robustness(queries=77, images=30)
        def test_marked(robustness, lamps):
            summary = robustness.audit(lamp_model.lamp, lamps).summary
            assert summary.settings.queries == 77
            assert summary.counts.images == 30
        def test_misspelt(robustness, lamps):
            robustness.audit(lamp_model.lamp, lamps, normm="l2")
        @pytest.mark.robustness(budget=2000)
        def test_misspelt_marker(robustness):
            pass
        """
    )
    result = run(project, "--strict-markers")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    assert "normm" in result.stdout.str()
    assert "unknown keyword 'budget'; it takes queries, images" in result.stdout.str()


def test_a_bad_ini_key_says_what_it_must_be(project: pytest.Pytester) -> None:
    result = run(project, "-o", "robustest_confidence=95")
    assert "robustest_confidence must be a number in (0, 1)" in result.stdout.str()


def test_a_session_without_robustness_tests_loads_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        def test_light():
            heavy = {"torch", "cv2", "numpy", "scipy", "onnxruntime", "robustest.testing"}
            assert not heavy & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:hypothesispytest").assert_outcomes(passed=1)


FLAT = np.ones((40, 5, 5, 1), np.uint8)  # each too dark by 3.5 pixels' worth of light: four pixels flip it


def by_hand(tmp_path: Path, *, confidence: float = 0.95, **marked: object) -> Robustness:
    """What the fixture gives, in a session with this confidence."""
    session = SessionSettings(runs=tmp_path / "runs", baselines=tmp_path / "kept", confidence=confidence)
    return Robustness(session, marked, lambda judged: False, lambda run, judged, interval: None)


def flat_lamp(images: NDArray[np.float32]) -> NDArray[np.float32]:
    light = images.reshape(len(images), -1).sum(axis=1)
    return np.stack([np.full(len(images), 3.5, np.float32), light], axis=1)


def test_every_quantity_is_judged_at_the_sessions_confidence(tmp_path: Path) -> None:
    labels = np.array([0] * 36 + [1] * 4)  # the model is wrong about the last four
    images = FLAT.copy()
    images[:, 0, 0, 0] = np.arange(40)
    ends = {}
    for confidence in (0.95, 0.999):
        estimate = by_hand(tmp_path, confidence=confidence).audit(flat_lamp, images, labels=labels, queries=40)
        for quantity in (estimate.clean_accuracy, estimate.survives(pixels=3), estimate.median_pixels):
            found = quantity.interval
            assert f"{100 * confidence:g}% interval" in found.evidence[0]
            ends.setdefault(quantity.name, []).append((found.low, found.high))
    # Clopper-Pearson of 36 of 40 at 95 %, and of 36 of 36: the lower end is (alpha / 2)^(1/36).
    assert ends["clean accuracy"][0] == pytest.approx((0.763, 0.972), abs=1e-3)
    assert ends["share that survives 3 pixel(s)"] == [
        (pytest.approx(0.025 ** (1 / 36)), 1.0),
        (pytest.approx(0.0005 ** (1 / 36)), 1.0),
    ]
    for narrow, wide in ends.values():
        assert wide[0] <= narrow[0]
        assert wide[1] >= narrow[1]
    assert ends["clean accuracy"][0] != ends["clean accuracy"][1]


@pytest.mark.parametrize(
    ("norm", "within", "median", "worst"),
    [
        ("l0", "3 pixel(s)", "median pixels to flip", "4 pixel(s)"),
        ("l0_dims", "3 channel(s)", "median channels to flip", "4 channel(s)"),
        ("l1", "l1 3", "median l1 distance to flip", "l1 4"),
        ("l2", "l2 3", "median l2 distance to flip", "l2 2"),
        ("linf", "linf 3", "median linf distance to flip", "linf 1"),
    ],
)
def test_claims_speak_of_their_norm(tmp_path: Path, norm: str, within: str, median: str, worst: str) -> None:
    """Four pixels of one image, from black to white: 4 in L1, the root of 4 in L2, 1 in Linf."""
    record = SimpleNamespace(
        flipped=True,
        distances=True,
        distance={"l0": 4.0, "l0_dims": 4.0, "l1": 4.0, "l2": 2.0, "linf": 1.0}.__getitem__,
        index=0,
        name="one",
        label=0,
        predicted=1,
        queries=9,
    )
    point = SimpleNamespace(survived=0, of=1, low=0.0, high=0.975)
    summary = SimpleNamespace(
        records=[record], folder=None, doubts=(), survival_at=lambda *_, **__: point, settings=AttackSettings(queries=9)
    )
    estimate = by_hand(tmp_path).audit(flat_lamp, FLAT[:1], labels=[0], norm=norm)
    estimate._summary = summary  # type: ignore[assignment]  # what claims read of one
    share = estimate.survives(pixels=3)
    assert share.name == f"share that survives {within}"
    assert share.interval.evidence[:2] == (
        f"0 of 1 images survive {within} of this attack at 9 queries: 95% interval [0.000, 0.975]",
        f"worst image: one (class 0), flipped to 1 by {worst} with 9 queries",
    )
    assert estimate.median_pixels.name == median


@pytest.mark.parametrize("norm", ["l0", "l0_dims", "l1", "l2", "linf"])
def test_certified_at_a_radius_needs_a_bound_beyond_it(norm: str) -> None:
    """A bound of 2 says that nothing nearer than 2 is misclassified: of what lies at 2, and of wrong images, nothing."""
    bounds = [2.0, 2.0, 3.0, 0.0, None]
    proofs = Certified(norm, lambda: bounds, len(bounds), 0.95, lambda *_: None, lambda judged: False)
    for radius, count in ((0.0, 3), (1.0, 3), (1.5, 3), (2.0, 1), (2.5, 1), (3.0, 0)):
        assert (
            proofs.share_at(radius)
            .interval.evidence[0]
            .startswith(f"{count} of 5 images certified at {norm} {radius:g}")
        )


@pytest.mark.parametrize(
    ("misuse", "words"),
    [
        (lambda e: e.survives(pixels=3) >= "0.5", "number, such as 3 or 0.6; got '0.5'"),
        (lambda e: e.survives(pixels=3) >= None, "got None"),
        (lambda e: e.survives(pixels="3") >= 0.5, "pixels must be a number"),
        (lambda e: e.survives(pixels=3) <= 60, r"in \[0, 1\]; got 60. Write 0.6"),
        (lambda e: e.median_pixels >= float("nan"), "got nan"),
        (lambda e: e.median_pixels >= True, "got True"),
    ],
)
def test_thresholds_that_make_no_claim_are_refused(
    tmp_path: Path, misuse: Callable[[Estimate], object], words: str
) -> None:
    estimate = by_hand(tmp_path).audit(flat_lamp, FLAT[:10], labels=[0] * 10, queries=40)
    with pytest.raises(InvalidSetting, match=words):
        misuse(estimate)
    assert not (tmp_path / "runs").exists()  # before anything was asked


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda r: r.audit(flat_lamp, FLAT, labels=[0] * 40, images="20"), "images must be a whole number >= 1"),
        (lambda r: r.certify("m.onnx", FLAT, labels=[0] * 40, norm="linff"), "norm must be one of l0.* got 'linff'"),
        (lambda r: r.certify("m.onnx", FLAT, labels=[0] * 40, seconds=0), "seconds must be > 0"),
        (lambda r: r.certify("m.onnx", FLAT, labels=[0] * 40).share_at(0.1) >= 40, r"in \[0, 1\]; got 40"),
        (lambda r: r.certify("m.onnx", FLAT, labels=[0] * 40).share_at(-0.1), "radius must be >= 0"),
        (
            lambda r: r.certify("m.onnx", FLAT, labels=[0] * 40).share_at(0.1) >= 0.98,
            r"certified share of >= 0\.98.*, even with all of them certified: 183 images with all of them certified could",
        ),
        (
            lambda r: r.audit("m.onnx", FLAT, labels=[0] * 40).clean_accuracy >= 0.98,
            r"clean accuracy of >= 0\.98.*, even with all right: 183 images with all right could",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(
    tmp_path: Path, ask: Callable[[Robustness], object], words: str
) -> None:
    with pytest.raises(InvalidSetting, match=words):
        ask(by_hand(tmp_path))


def test_baselines_from_before_there_was_the_setting_minimal_stay_good() -> None:
    said = {"attack": "game", "guide": "sift", "norm": "l0", "queries": 200, "seed": 7, "target": None, "tau": 1.0}
    text = json.dumps({"data": "d", "images": 9, "settings": said | {"values": "corners"}}, sort_keys=True)
    settings = AttackSettings(queries=200, seed=7)
    assert settings_digest(settings, 9, "d") == hashlib.sha256(text.encode()).hexdigest()
    assert settings_digest(replace(settings, minimal=True), 9, "d") != settings_digest(settings, 9, "d")


def test_a_baseline_with_an_image_that_got_worse_is_not_called_proven(tmp_path: Path) -> None:
    told: list[Judged] = []
    ours = Robustness(
        SessionSettings(runs=tmp_path, baselines=tmp_path), {}, bool, lambda run, judged, interval: told.append(judged)
    )
    for worse, p_value in ((0, 1.0), (2, 0.25), (8, 0.004)):
        found = Comparison(40, 40, 40, worse, 0, p_value, tuple(f"image {i}" for i in range(worse)))
        with nullcontext() if worse < 8 else pytest.raises(BaselineFailure, match="8 got worse"):
            ours._tell_baseline("signs", found)
    assert [judged.answer for judged in told] == [Answer.PROVEN, Answer.INCONCLUSIVE, Answer.REFUTED]
    assert not any("accept the change" in line for line in told[0].lines)


def test_images_are_drawn_by_their_own_hash() -> None:
    from robustest.images import ImageSet
    from robustest.testing.fixture import draw

    images = np.arange(100 * 4, dtype=np.uint16).astype(np.uint8).reshape(100, 2, 2, 1)
    images[:, 0, 0, 0] = np.arange(100)
    whole = ImageSet(images, np.zeros(100, np.int64), tuple(map(str, range(100))))
    some = draw(whole, 10, 3)
    assert some.names == draw(whole.take(np.arange(100)[::-1]), 10, 3).names[::-1]
    assert some.names != draw(whole, 10, 4).names
    kept = draw(whole.take([place for place in range(100) if str(place) not in some.names[:1]]), 10, 3)
    assert set(some.names[1:]) <= set(kept.names)
