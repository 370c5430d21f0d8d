"""`robustest demo`, `report` and `doctor`: what they print and write."""

import json
import re
from pathlib import Path

import pytest

from robustest import __version__
from robustest.cli import run
from robustest.commands import doctor
from robustest.commands.doctor import examine, torchvision_problem
from robustest.demo import CLASS_NAMES, MODELS, demo_images


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo, without proofs, written once."""
    out = tmp_path_factory.mktemp("demo") / "out"
    assert run(["demo", "-o", str(out), "--images", "12", "--queries", "60", "--proofs", "0"]) == 0
    return out


def test_the_demo_writes_both_audits_and_a_page_about_both(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    for name in MODELS:
        content = json.loads((demo / name / "result.json").read_text())
        assert content["totals"]["images"] == 12
        assert content["settings"]["queries"] == 60
        assert f'href="{name}/report.html"' in page
        assert (demo / name / "report.html").is_file()
        assert (demo / name / "summary.md").is_file()


def test_the_demo_again_shows_the_same_without_asking_the_models(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in demo.rglob("*.html")}
    assert run(["demo", "-o", str(demo), "--images", "12", "--queries", "60", "--proofs", "0"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"plain +provable", told)
    assert "that both get right" in told
    assert {path: path.read_bytes() for path in demo.rglob("*.html")} == before


def test_the_demo_counts_what_is_in_the_results(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["demo", "-o", str(demo), "--images", "12", "--queries", "60", "--proofs", "0"])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("flipped"))
    for name in MODELS:
        totals = json.loads((demo / name / "result.json").read_text())["totals"]
        assert f"{totals['flipped']} of {totals['tested']}:" in line


def test_the_demo_checks_finds_beyond_the_budget_where_it_is_asked_to(tmp_path: Path) -> None:
    typed = ["demo", "-o", str(tmp_path), "--images", "4", "--queries", "60", "--proofs", "0"]
    assert run([*typed, "--minimal"]) == 0
    for name in MODELS:
        content = json.loads((tmp_path / name / "result.json").read_text())
        assert content["settings"]["minimal"]
        assert content["command"].endswith("--minimal")
        assert all(image["minimal"] for image in content["images"] if image["verdict"] == "flipped")
    assert run(typed) == 2  # the folder holds another audit


@pytest.mark.slow
def test_the_provable_model_is_proven_and_the_plain_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    typed = ["demo", "-o", str(tmp_path / "out"), "--images", "8", "--queries", "5", "--proofs", "5"]
    assert run(typed) == 0
    told = capsys.readouterr().out
    proven = re.search(r"proven: none +(\d) of (\d).* (\d) of (\d)", told)
    assert proven is not None
    plain, _, provable, of = map(int, proven.groups())
    # its training set's figure: 81.8 % of the test set within 0.02, and none of the plain model's
    assert plain == 0
    assert provable >= of - 1


def test_the_built_in_images_have_names_for_their_classes() -> None:
    images = demo_images()
    assert len(images) == 200
    assert images.class_names == CLASS_NAMES
    assert sorted(set(images.labels.tolist())) == list(range(10))


def test_report_writes_the_same_page_again(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = demo / "plain"
    page = (run_folder / "report.html").read_bytes()
    assert run(["report", str(run_folder), "-o", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_bytes() == page
    assert capsys.readouterr().out == f"{tmp_path / 'again.html'}\n"


@pytest.mark.parametrize(
    ("format", "file", "begins"),
    [("markdown", "summary.md", "# "), ("junit", "junit.xml", "<?xml"), ("html", "report.html", "<!doctype html>")],
)
def test_report_has_each_format(demo: Path, format: str, file: str, begins: str) -> None:
    assert run(["report", str(demo / "plain" / "result.json"), "--format", format]) == 0
    assert (demo / "plain" / file).read_text().startswith(begins)


def test_report_judges_requirements(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(demo / "plain"), "--format", "terminal", "--require", "0:0.1"]) == 0
    assert "shown" in capsys.readouterr().out
    assert run(["report", str(demo / "plain"), "--format", "terminal", "--require", "784:0.99"]) == 1
    assert "refuted" in capsys.readouterr().out


def test_a_result_that_was_changed_is_refused(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (demo / "plain" / "result.json").read_text()
    (tmp_path / "result.json").write_text(re.sub(r'"flipped": \d+', '"flipped": 0', text, count=1))
    assert run(["report", str(tmp_path)]) == 2
    assert "contradicts itself" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_report_without_the_run_folder_has_no_pictures(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text((demo / "plain" / "result.json").read_text())
    assert run(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "there are no pictures" in page
    assert 'class="pic"' not in page


def test_doctor_looks_at_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["robustest"] == __version__
    assert told["fine"] is True
    groups = {finding["group"] for finding in told["findings"]}
    assert groups == {"machine", "core", "extras", "compiled", "devices", "conflicts", "pytest", "demo", "disk"}
    extras = {finding["name"] for finding in told["findings"] if finding["group"] == "extras"}
    assert extras == {"fast", "torch", "bounds", "compare", "grpc", "dask", "ray", "pytest"}
    assert run(["doctor"]) == 0
    assert "numpy" in capsys.readouterr().out


def test_doctor_names_every_extra_and_dependency_of_the_distribution() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    core = {re.split(r"[<>=]", text)[0] for text in project["dependencies"]}
    assert set(doctor._CORE) == core
    extras = {
        name: {re.split(r"[<>=]", text)[0] for text in needs}
        for name, needs in project["optional-dependencies"].items()
    }
    assert {name: set(needs) for name, (needs, _) in doctor._EXTRAS.items()} == extras


def test_doctor_finds_two_packages_of_opencv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    versions = {"opencv-python": "4.12", "opencv-python-headless": "5.0"}
    monkeypatch.setattr(doctor, "version_of", versions.get)
    (finding,) = [f for f in examine(tmp_path) if f.name == "opencv"]
    assert finding.status == "warning"
    assert "opencv-python and opencv-python-headless" in finding.value
    assert "pip uninstall opencv-python opencv-python-headless" in finding.advice


def test_doctor_fails_where_a_core_part_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_CORE", ("no-such-part",))
    assert run(["doctor"]) == 4
    assert "pip install --force-reinstall no-such-part" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("kept", "status"), [(0, "absent"), (89, "absent"), (90, "ok"), (100, "ok")])
def test_doctor_says_whether_inner_loops_are_to_be_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: int, status: str
) -> None:
    monkeypatch.setattr("robustest.rehearsal.kept_loops", lambda: (kept, 100))
    (finding,) = [f for f in examine(tmp_path) if f.name == "inner loops"]
    assert (finding.status, finding.value) == (status, f"{kept} of 100 are compiled and kept on this machine")
    assert ("doctor --compile" in finding.advice) == (status == "absent")


def test_doctor_compiles_where_it_can_be_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("robustest.rehearsal.compile_loops", lambda: (99, 100))
    assert run(["doctor", "--compile", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["fine"] is True
    assert "99 of 100 inner loops are kept" in told.err
    monkeypatch.setattr("robustest.rehearsal.compile_loops", lambda: (0, 100))
    assert run(["doctor", "--compile"]) == 4
    assert "NUMBA_CACHE_DIR" in capsys.readouterr().err
    monkeypatch.setattr(doctor, "version_of", {}.get)
    assert run(["doctor", "--compile"]) == 2
    assert "pip install 'robustest[fast]'" in capsys.readouterr().err


def test_doctor_warns_of_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_LEAST_FREE", 1 << 80)
    finding = examine(tmp_path)[-1]
    assert (finding.name, finding.status) == (str(tmp_path), "warning")
    assert "MiB free" in finding.value


@pytest.mark.parametrize(
    ("torch", "vision", "requires", "says"),
    [
        (None, None, [], None),
        ("2.13.0", None, [], None),
        ("2.13.0", "0.28.0", ["numpy", "torch==2.13.0"], None),
        ("2.13.0+cpu", "0.28.0+cpu", ["torch==2.13.0"], None),
        (None, "0.28.0", [], "without torch"),
        ("2.12.0", "0.28.0", ["torch==2.13.0"], "wants torch 2.13.0, but torch 2.12.0"),
        ("2.12.0", "0.28.0", ["torch (==2.13.0)"], "wants torch 2.13.0"),
        ("2.13.0+cpu", "0.28.0", ["torch==2.13.0"], "a CUDA build beside torch 2.13.0+cpu"),
    ],
)
def test_doctor_knows_when_torchvision_will_not_import(
    torch: str | None, vision: str | None, requires: list[str], says: str | None
) -> None:
    problem = torchvision_problem(torch, vision, requires)
    assert problem is None if says is None else says in (problem or "")


def test_without_torch_the_demo_says_what_proofs_need(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("robustest.commands.demo._installed", lambda name: False)
    assert run(["demo", "-o", str(demo), "--images", "12", "--queries", "60"]) == 0
    told = capsys.readouterr().out
    assert "Proofs need torch: pip install 'robustest[bounds]'." in told
    assert "proven:" not in told
