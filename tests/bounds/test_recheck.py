"""Certificates: what was proved is confirmed by a second program, and what was tampered with is not."""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from robustest.bounds import recheck_bounds
from robustest.bounds.box_branch import decide_box
from robustest.bounds.centred import CentredBounds
from robustest.bounds.certificate import Certificate, ball_claim, box_claim, certificate_of, sparse_claim
from robustest.bounds.check import certify, checker_of
from robustest.bounds.decision import Decision
from robustest.bounds.errors import UnsupportedLayer
from robustest.bounds.grid_region import GridRegion
from robustest.bounds.guarantee import Guarantee
from robustest.bounds.reading import graph_of
from robustest.bounds.recheck import Finding, recheck
from robustest.bounds.recheck_bounds import Leaf, Slopes, least_margins
from robustest.bounds.recheck_layers import Layer, Model
from robustest.bounds.recheck_model import read_model
from robustest.bounds.region import Region
from robustest.bounds.slope_certificate import slopes_that_prove
from robustest.bounds.sparse_branch import decide_sparse
from robustest.classifiers.onnx_file import OnnxClassifier
from robustest.classifiers.spec import InputSpec
from robustest.commands.certify import _reporter
from robustest.demo import MODELS, demo_images
from robustest.errors import InvalidSetting
from robustest.images import as_unit
from robustest.results import rounded_down

from .onnx_nets import OnnxWriter, random_onnx
from .random_nets import NORMS, inside, points_of, random_region

SPECS = {1: InputSpec("NCHW", "gray", mean=(0.2,), std=(0.5,)), 3: InputSpec("NCHW", "BGR", mean=(0.1, 0.2, 0.3))}
SHAPES = [(4, 5, 1), (6, 5, 3), (7, 7, 1)]


class FalseProofError(AssertionError):
    """A point of a region violates a bound that was claimed for it."""


def table(spec: InputSpec) -> dict[str, Any]:
    return {key: getattr(spec, key) for key in ("layout", "channels", "scale", "mean", "std")}


def any_slopes(rng: np.random.Generator, model: Model, rows: int) -> Slopes:
    """Slopes of any size, as a forged certificate may propose them, some left out."""
    bends = [at for at, layer in enumerate(model.layers) if layer.leak is not None]

    def some(*shape: int) -> NDArray[np.float64]:
        return np.where(rng.random(shape) < 0.2, np.nan, rng.uniform(-0.5, 1.5, shape))

    between = {}
    for at in bends:
        before = [b for b in bends if b < at]
        sides = [{b: some(model.layers[b].size) for b in before} for _ in range(2)]
        between[model.layers[at].inputs[0]] = (sides[0], sides[1])
    return Slopes({b: some(rows, model.layers[b].size) for b in bends}, between)


def check_network(rng: np.random.Generator, folder: Path, count: int, *, maxima: bool = False) -> int:
    """Try the second program's bounds of one random network on random regions, at zero tolerance; returns how many."""
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    spec = SPECS[shape[2]]
    path = random_onnx(rng, (shape[2], shape[0], shape[1]), folder / "net.onnx", maxima=maxima)
    classifier, model = OnnxClassifier(path, spec), read_model(path, table(spec), shape)
    tried = 0
    for norm in NORMS:
        image = torch.from_numpy(rng.random((1, *shape)).astype(np.float32))
        image = torch.where(torch.from_numpy(rng.random((1, *shape)) < 0.3), image.round(), image)
        ball = random_region(rng, image * float(rng.integers(0, 3) > 0), norm)
        groups = ()
        if ball.group is not None and ball.budget is not None:
            groups = ((torch.where(ball.group[0] == 0)[0].numpy(), int(ball.budget[0, 0])),)
        leaf = Leaf(
            *(t[0].numpy() for t in (ball.centre, ball.lower, ball.upper)),
            norm=norm, eps=float(ball.eps[0]), unit=ball.unit, groups=groups,
        )  # fmt: skip
        rows = rng.integers(-1, 2, (3, 3)).astype(np.float64)
        claims, _ = least_margins(model, leaf, rows, any_slopes(rng, model, len(rows)))
        best = inside(ball, ball.argmin_linear(torch.from_numpy(rng.normal(size=(1, 5, ball.n_inputs)))).float())
        points = torch.cat([points_of(rng, ball, count), best], 1)[0]
        values = classifier(points.numpy().reshape(-1, *shape)).astype(np.float64) @ rows.T
        if (values < claims).any():
            raise FalseProofError(f"{norm}: {(claims - values).max():g} below its bound")
        tried += len(points)
    return tried


def test_no_point_of_a_region_violates_the_second_programs_bounds(tmp_path: Path) -> None:
    """10,000 triples of network, region and point, as onnxruntime computes them."""
    rng = np.random.default_rng(3)
    tried = 0
    while tried < 10_000:
        tried += check_network(rng, tmp_path, 60)


def test_no_point_violates_the_second_programs_bounds_of_pooled_networks(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    tried = 0
    while tried < 6_000:
        tried += check_network(rng, tmp_path, 60, maxima=True)


def test_a_maximum_taken_for_its_largest_at_the_base_is_caught(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    right = recheck_bounds._largest

    def wrong(centre: Any, radius: Any, taps: Any, z0: Any, low: Any, high: Any, chords: bool) -> Any:
        return right(centre, radius, taps, z0, z0, z0, chords)

    patch.setattr(recheck_bounds, "_largest", wrong)
    rng = np.random.default_rng(4)
    with pytest.raises(FalseProofError):
        deque((check_network(rng, tmp_path, 60, maxima=True) for _ in range(100)), maxlen=0)


def test_certificates_of_pooled_networks_fit_them_and_most_are_confirmed(tmp_path: Path) -> None:
    """Radii that optimised slopes raised have certificates, too; those of the ReLUs in a maximum mean nothing to others."""
    findings = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        net = OnnxWriter((1, 6, 6))
        net.conv(rng.normal(size=(4, 1, 3, 3)), rng.normal(size=4), stride=1, pad=1)
        net.add("Relu")
        net.add("MaxPool", shape=(4, 3, 3), kernel_shape=[2, 2], strides=[2, 2])
        net.add("Flatten", shape=(36,))
        net.dense(rng.normal(size=(3, 36)), rng.normal(size=3))
        path = net.save(tmp_path / f"net{seed}.onnx")
        classifier = OnnxClassifier(path, SPECS[1])
        image = rng.random((6, 6, 1)).astype(np.float32)
        label = int(classifier(image[None]).argmax())
        found = certify(classifier, image, label, norms=("linf",), seconds=1.0)["linf"].lower
        assert found is not None
        if found.certificate is not None:
            (tmp_path / "c.json").write_text(json.dumps(found.certificate))
            findings.append(recheck(tmp_path / "c.json", path).finding)
    assert Finding.BROKEN not in findings
    assert findings.count(Finding.CONFIRMED) >= len(findings) / 2 > 0


def test_a_ball_that_is_not_confirmed_comes_with_a_smaller_one_that_is(tmp_path: Path) -> None:
    """A claim beyond a misclassified image is false; what is confirmed in its place lies below that image's distance."""
    path, images = MODELS["provable"], demo_images()
    image, label = as_unit(images.images[:1])[0], int(images.labels[0])
    bracket = certify(OnnxClassifier(path), image, label, norms=("linf",), seconds=1.0)["linf"]
    assert bracket.lower is not None
    assert bracket.upper is not None
    assert bracket.lower.certificate is not None
    claim = {**bracket.lower.certificate["claim"], "radius": 2 * bracket.upper.value}
    (tmp_path / "c.json").write_text(json.dumps({**bracket.lower.certificate, "claim": claim}))
    assert "A radius" not in recheck(tmp_path / "c.json", path).reason
    verdict = recheck(tmp_path / "c.json", path, nearer=True)
    assert verdict.finding is Finding.NOT_CONFIRMED
    within = float(verdict.reason.split("A radius of ")[1].split()[0])
    assert 0 < within < bracket.upper.value
    claim["radius"] = within
    (tmp_path / "c.json").write_text(json.dumps({**bracket.lower.certificate, "claim": claim}))
    assert recheck(tmp_path / "c.json", path).confirmed


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 2 / 3, 0.0321671999, 123456.789, 9.999999e-7, 0.99999999])
def test_a_proven_distance_is_never_printed_as_more(value: float) -> None:
    assert value * (1 - 2e-5) <= float(rounded_down(value)) <= value


def no_gap(patch: pytest.MonkeyPatch) -> None:
    """CROWN's upper line through the base value."""
    right = recheck_bounds._relu
    patch.setattr(recheck_bounds, "_relu", lambda *args: (*right(*args)[:2], 0 * right(*args)[2]))


def no_radius(patch: pytest.MonkeyPatch) -> None:
    """Secants without their spread."""
    right = recheck_bounds._relu
    patch.setattr(recheck_bounds, "_relu", lambda *args: (right(*args)[0], 0 * right(*args)[1], right(*args)[2]))


def one_unit_fewer(patch: pytest.MonkeyPatch) -> None:
    """The k - 1 best pixels instead of the k best."""
    right = Leaf.most_lost
    patch.setattr(
        Leaf, "most_lost",
        lambda self, c, r: right(replace(self, groups=tuple((u, max(b - 1, 0)) for u, b in self.groups)), c, r),
    )  # fmt: skip


def short_ball(patch: pytest.MonkeyPatch) -> None:
    """L1 and L2 balls of half the radius."""
    right = Leaf.most_lost
    patch.setattr(Leaf, "most_lost", lambda self, c, r: right(replace(self, eps=self.eps / 2), c, r))


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


@pytest.mark.parametrize("mutant", [no_gap, no_radius, one_unit_fewer, short_ball])
def test_mutants_of_the_second_program_are_caught(
    mutant: Callable[[pytest.MonkeyPatch], None], patch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mutant(patch)
    rng = np.random.default_rng(1)

    def try_many() -> None:
        for _ in range(150):
            check_network(rng, tmp_path, 60)

    with pytest.raises(FalseProofError):
        try_many()


def proved(tmp_path: Path, units: int = 2) -> tuple[Path, Path, dict[str, Any], NDArray[np.float32]]:
    """A certificate that needed splits, its model, its content and its image."""
    rng = np.random.default_rng(0)
    for attempt in range(200):
        path = random_onnx(rng, (1, 7, 7), tmp_path / f"net{attempt}.onnx")
        classifier = OnnxClassifier(path, SPECS[1])
        graph = graph_of(classifier, image_shape=(7, 7, 1))
        image = rng.random((7, 7, 1)).astype(np.float32)
        label = int(classifier(image[None]).argmax())
        answer = decide_sparse(CentredBounds(graph), image, label, units, scorer=classifier, record=True, nodes=60)
        if answer.decision is Decision.PROVED and answer.nodes > 3:
            certificate = certificate_of(
                answer, sparse_claim("l0", units), model=graph.digest, spec=SPECS[1], image=image, label=label
            )
            certificate.save(tmp_path / "c.json")
            return tmp_path / "c.json", path, json.loads((tmp_path / "c.json").read_text()), image
    raise AssertionError("no network needed a split")


def test_a_few_pixel_proof_is_confirmed_and_its_tampered_copies_are_not(tmp_path: Path) -> None:
    file, model, content, _ = proved(tmp_path)
    verdict = recheck(file, model)
    assert verdict.finding is Finding.CONFIRMED
    assert verdict.confirmed
    assert verdict.lowest is not None
    assert verdict.lowest > 0
    assert "Confirmed" in verdict.sentence()

    def tampered(change: Callable[[dict[str, Any]], None]) -> Finding:
        copy = json.loads(json.dumps(content))
        change(copy)
        (tmp_path / "t.json").write_text(json.dumps(copy))
        return recheck(tmp_path / "t.json", model).finding

    assert tampered(lambda c: c["tree"]["children"].pop()) is Finding.BROKEN
    assert tampered(lambda c: c["tree"]["hot"].append(c["tree"]["cold"][0])) is Finding.BROKEN
    assert tampered(lambda c: c["tree"]["cold"].pop()) is Finding.BROKEN
    assert tampered(lambda c: c["tree"].update(split="guess")) is Finding.BROKEN
    assert tampered(lambda c: c["claim"].update(units=3)) is Finding.BROKEN
    assert tampered(lambda c: c["claim"].update(norm="l7")) is Finding.BROKEN
    assert tampered(lambda c: c["claim"].update(free=[0, 1, 99])) is Finding.BROKEN
    assert tampered(lambda c: c["model"].update(sha256="0" * 64)) is Finding.WRONG_MODEL
    # A tree that is one leaf, for far more pixels, is bounded anew and does not pass.
    assert tampered(lambda c: c.update(tree={"leaf": True}, claim={**c["claim"], "units": 49})) is Finding.NOT_CONFIRMED
    # Another label is wrong at the image itself.
    assert tampered(lambda c: c.update(label=(c["label"] + 1) % 3, tree={"leaf": True})) is Finding.NOT_CONFIRMED


def test_a_falsified_region_is_never_confirmed(tmp_path: Path) -> None:
    """Claims about regions that hold a known witness, as one leaf: the second program must refuse every one."""
    rng = np.random.default_rng(5)
    met = 0
    for attempt in range(60):
        path = random_onnx(rng, (1, 5, 5), tmp_path / f"net{attempt}.onnx")
        classifier = OnnxClassifier(path, SPECS[1])
        image = rng.random((5, 5, 1)).astype(np.float32)
        label = int(classifier(image[None]).argmax())
        others = rng.random((200, 5, 5, 1)).astype(np.float32)
        wrong = others[classifier(others).argmax(1) != label]
        if not len(wrong):
            continue
        near = wrong[np.abs(wrong - image).max((1, 2, 3)).argmin()]
        radius = float(np.abs(near.astype(np.float64) - image).max())
        digest = read_model(path, table(SPECS[1]), (5, 5, 1)).digest
        claim = Certificate(digest, SPECS[1], image, label, None, ball_claim("linf", radius), Guarantee.PROOF_EXEC, "-")
        claim.save(tmp_path / "c.json")
        assert not recheck(tmp_path / "c.json", path).confirmed
        met += 1
    assert met >= 10


def test_boxes_and_balls_are_confirmed_where_the_first_program_proves_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    confirmed = 0
    for attempt in range(15):
        path = random_onnx(rng, (3, 5, 4), tmp_path / f"net{attempt}.onnx")
        classifier = OnnxClassifier(path, SPECS[3])
        graph = graph_of(classifier, image_shape=(5, 4, 3))
        image = rng.random((5, 4, 3)).astype(np.float32)
        label = int(classifier(image[None]).argmax())
        mask = np.zeros((5, 4), bool)
        mask[2, 1] = True
        region = GridRegion.of_mask(image, mask)
        answer = decide_box(CentredBounds(graph), region, label, scorer=classifier, record=True, boxes=200)
        if answer.decision is not Decision.PROVED:
            continue
        given = {"model": graph.digest, "spec": SPECS[3], "image": image, "label": label}
        certificate_of(answer, box_claim(region), **given).save(tmp_path / "c.json")  # type: ignore[arg-type]
        confirmed += recheck(tmp_path / "c.json", path).confirmed
        for norm in ("linf", "l2", "l1"):
            claim = Certificate(
                graph.digest, SPECS[3], image, label, None, ball_claim(norm, 1e-5), Guarantee.PROOF_EXEC, "CROWN"
            )
            claim.save(tmp_path / "b.json")
            assert recheck(tmp_path / "b.json", path).confirmed
    assert confirmed >= 5


@pytest.mark.slow
def test_the_l2_radius_of_a_bracket_is_confirmed_by_the_second_program(tmp_path: Path) -> None:
    """Not a smaller one: what the first program proves, on a shipped network and an image with black areas."""
    images = demo_images()
    classifier = OnnxClassifier(MODELS["plain"], threads=1)
    checker = checker_of(classifier, image_shape=(28, 28, 1))
    unit = as_unit(images.images)
    right = np.flatnonzero(np.asarray(classifier(unit)).argmax(axis=1) == images.labels)
    at = int(right[1])
    found = checker.bracket(unit[at], int(images.labels[at]), norms=("l2",), seconds=1e9, branch=False)
    for norm, bracket in found.items():
        assert bracket.lower is not None
        certificate = bracket.lower.certificate
        assert certificate is not None
        assert certificate["claim"]["norm"] == norm
        (tmp_path / "c.json").write_text(json.dumps(certificate))
        assert recheck(tmp_path / "c.json", MODELS["plain"]).confirmed, norm


def saved(given: Certificate, folder: Path, radius: float, slopes: dict[str, Any] | None) -> Path:
    """A certificate of another Linf ball, as a file."""
    replace(given, claim=ball_claim("linf", radius), slopes=slopes).save(folder / "c.json")
    return folder / "c.json"


def test_written_slopes_are_confirmed_where_plain_lines_are_not_and_forged_ones_prove_nothing(tmp_path: Path) -> None:
    """Slopes prove more than the second program does alone; without them, or with a larger radius, it confirms nothing."""
    raised = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        path = random_onnx(rng, (1, 7, 7), tmp_path / f"net{seed}.onnx")
        classifier = OnnxClassifier(path, SPECS[1])
        graph = graph_of(classifier, image_shape=(7, 7, 1))
        image = rng.random((7, 7, 1)).astype(np.float32)
        label = int(classifier(image[None]).argmax())
        point = torch.from_numpy(image).reshape(1, -1)

        given = Certificate(
            graph.digest, SPECS[1], image, label, None, ball_claim("linf", 0.0), Guarantee.PROOF_EXEC, "-"
        )

        # The largest radius that slopes prove, by halving.
        low, high, best = 0.0, 0.5, None
        for _ in range(9):
            middle = (low + high) / 2
            found = slopes_that_prove(graph, Region.ball(point, "linf", middle), label, seconds=10)
            low, high, best = (middle, high, found) if found is not None else (low, middle, best)
        if best is None or not best["rivals"]:
            continue
        assert recheck(saved(given, tmp_path, low, best), path).confirmed
        raised += not recheck(saved(given, tmp_path, low, None), path).confirmed
        forged = json.loads(json.dumps(best))
        forged["margins"] = {k: "AAAA" for k in forged["margins"]}
        assert recheck(saved(given, tmp_path, low, forged), path).finding is Finding.BROKEN
        assert not recheck(saved(given, tmp_path, 4 * high, best), path).confirmed
    assert raised >= 1


def test_an_open_answer_makes_no_certificate(tmp_path: Path) -> None:
    path = random_onnx(np.random.default_rng(0), (1, 7, 7), tmp_path / "net.onnx")
    classifier = OnnxClassifier(path, SPECS[1])
    bounds = CentredBounds(graph_of(classifier, image_shape=(7, 7, 1)))
    image = np.full((7, 7, 1), 0.5, np.float32)
    label = int(classifier(image[None]).argmax())
    answer = decide_sparse(bounds, image, label, 1, scorer=classifier)
    with pytest.raises(InvalidSetting, match="record=True"):
        certificate_of(answer, sparse_claim("l0", 1), model="", spec=SPECS[1], image=image, label=label)


def test_what_is_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InvalidSetting, match="not a robustest certificate"):
        recheck(tmp_path / "c.json", tmp_path / "net.onnx")
    with pytest.raises(InvalidSetting, match="cannot be read"):
        recheck(tmp_path / "none.json", tmp_path / "net.onnx")


def test_another_file_is_told_from_the_proved_one_before_it_is_read(tmp_path: Path) -> None:
    file, _, _, _ = proved(tmp_path)
    (tmp_path / "other.onnx").write_bytes(b"no network at all")
    assert recheck(file, tmp_path / "other.onnx").finding is Finding.WRONG_MODEL


def test_a_layer_that_the_second_program_does_not_know_is_named(tmp_path: Path) -> None:
    net = OnnxWriter((1, 4, 4))
    net.add("Flatten", shape=(16,))
    net.add("Sigmoid")
    net.dense(np.ones((2, 16)), np.zeros(2))
    path = net.save(tmp_path / "net.onnx")
    with pytest.raises(UnsupportedLayer, match="Sigmoid"):
        read_model(path, table(SPECS[1]), (4, 4, 1))


def test_the_second_reading_computes_what_onnxruntime_computes(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    for _ in range(30):
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        spec = SPECS[shape[2]]
        path = random_onnx(rng, (shape[2], shape[0], shape[1]), tmp_path / "net.onnx")
        image = rng.random(shape).astype(np.float32)
        ours = read_model(path, table(spec), shape).values(image.astype(np.float64).ravel())[-1]
        assert np.allclose(ours, OnnxClassifier(path, spec)(image[None])[0], rtol=1e-4, atol=1e-4)


def test_progress_counts_the_neurons_that_a_box_leaves_undecided() -> None:
    """x - 0.5, 0.5 - x and x + 1 over [0, 1]: the first two may have either sign."""
    first = Layer((0,), 3, sparse.csr_matrix([[1.0], [-1.0], [1.0]]), np.array([-0.5, 0.5, 1.0]))
    layers = (
        Layer((), 1),
        first,
        Layer((1,), 3, leak=0.0),
        Layer((2,), 2, sparse.csr_matrix(np.ones((2, 3))), np.zeros(2)),
    )
    told: list[tuple[int, int, int]] = []
    leaf = Leaf(np.array([0.5]), np.zeros(1), np.ones(1), "linf")
    least_margins(Model(layers, ""), leaf, np.eye(2), tell=lambda *counts: told.append(counts))
    assert told == [(1, 0, 2)]


def test_a_recheck_shows_progress_on_a_terminal_alone() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown, hidden = Terminal(), io.StringIO()
    for stream in (shown, hidden):
        _reporter(stream, every=-1.0)(3, 200, 1500)
    assert "layer 3: 200 of 1,500 undecided neurons bounded" in shown.getvalue()
    assert hidden.getvalue() == ""
