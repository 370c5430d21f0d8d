"""Evidence bundles: the same bytes twice, and every kind of tampering is found and named."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from robustest.audit.run import run_audit
from robustest.audit.summary import load_summary
from robustest.classifiers import load_classifier
from robustest.cli import run
from robustest.errors import InvalidSetting, RunConflict
from robustest.evidence.bundle import MANIFEST, write_bundle
from robustest.evidence.verify import Verification, verify_bundle
from robustest.evidence.words import limitations
from robustest.images import ImageSet
from robustest.settings import AttackSettings
from tests.models import write_linear_onnx

SIDE = 5


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model (four lit pixels flip a dark image), another model, and a finished audit of the first."""
    folder = tmp_path_factory.mktemp("home")
    weights = np.stack([np.zeros(SIDE * SIDE), np.ones(SIDE * SIDE)], axis=1).astype(np.float32)
    for name, threshold in (("model", 3.5), ("other", 9.5)):
        write_linear_onnx(
            folder / f"{name}.onnx", weights, np.array([threshold, 0], np.float32), shape=("n", SIDE, SIDE, 1)
        )
    rng = np.random.default_rng(0)
    images = (rng.random((12, SIDE, SIDE, 1)) < 0.5).astype(np.uint8)
    images[11] = 255  # wrong from the start
    data = ImageSet(images, np.zeros(12, np.int64), tuple(f"<b>{i}</b>" for i in range(12)))
    run_audit(load_classifier(folder / "model.onnx"), data, settings=AttackSettings(queries=120), out=folder / "run")
    return folder


@pytest.fixture
def bundle(home: Path, tmp_path: Path) -> Path:
    return write_bundle(home / "run", tmp_path / "bundle", draft=True)


def check(bundle: Path, home: Path, model: str = "model", replay: int = 5) -> Verification:
    return verify_bundle(bundle, replay=replay, classifier=load_classifier(home / f"{model}.onnx"))


def test_an_untouched_bundle_holds_and_twice_gives_the_same_bytes(bundle: Path, home: Path, tmp_path: Path) -> None:
    found = check(bundle, home)
    assert found.problems == ()
    assert any("replayed 5 adversarial images: 5 are misclassified" in line for line in found.checked)
    again = write_bundle(home / "run", tmp_path / "again", draft=True)
    names = {p.relative_to(bundle) for p in bundle.rglob("*") if p.is_file()}
    assert names == {p.relative_to(again) for p in again.rglob("*") if p.is_file()}
    assert [n for n in names if (bundle / n).read_bytes() != (again / n).read_bytes()] in ([], [Path("written.json")])


def flip_a_bit(bundle: Path) -> str:
    path = sorted((bundle / "adversarial").iterdir())[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    return f"adversarial/{path.name}"


def edit_a_rate(bundle: Path) -> str:
    path = bundle / "result.json"
    path.write_text(path.read_text().replace('"flipped": 11', '"flipped": 10'))
    return "result.json"


def remove_an_image(bundle: Path) -> str:
    path = sorted((bundle / "adversarial").iterdir())[0]
    path.unlink()
    return f"adversarial/{path.name}"


def remove_a_file(bundle: Path) -> str:
    (bundle / "limitations.md").unlink()
    return "limitations.md"


def add_a_file(bundle: Path) -> str:
    (bundle / "extra.txt").write_text("hello")
    return "extra.txt"


def edit_the_manifest(bundle: Path) -> str:
    path = bundle / MANIFEST
    path.write_text(path.read_text().replace('"draft": true', '"draft": false'))
    return MANIFEST


def edit_the_statement(bundle: Path) -> str:
    path = bundle / "statement.intoto.json"
    path.write_text(path.read_text().replace("WARNED", "PASSED"))
    return path.name


def name_another_model(bundle: Path) -> str:
    path = bundle / "statement.intoto.json"
    statement = json.loads(path.read_text())
    statement["subject"][0]["digest"]["sha256"] = "00" * 32
    path.write_text(json.dumps(statement))
    return path.name


@pytest.mark.parametrize(
    "tamper",
    [
        flip_a_bit,
        edit_a_rate,
        remove_an_image,
        remove_a_file,
        add_a_file,
        edit_the_manifest,
        edit_the_statement,
        name_another_model,
    ],
)
def test_tampering_is_found_and_its_file_named(bundle: Path, home: Path, tamper: Callable[[Path], str]) -> None:
    name = tamper(bundle)
    found = check(bundle, home, replay=0)
    assert not found.holds
    assert any(problem.startswith(name) for problem in found.problems), found.problems


def test_another_model_is_found_by_digest_and_by_replay(bundle: Path, home: Path) -> None:
    found = check(bundle, home, model="other")
    assert any("model: other.onnx has sha256" in problem for problem in found.problems)
    assert any("it is not adversarial" in problem for problem in found.problems)


def test_a_forger_who_renews_all_digests_is_still_contradicted_by_totals_and_pixels(bundle: Path, home: Path) -> None:
    import hashlib

    edit_a_rate(bundle)
    picture = sorted((bundle / "adversarial").iterdir())[0]
    cv2.imwrite(str(picture), np.zeros((SIDE, SIDE), np.uint8))
    manifest = json.loads((bundle / MANIFEST).read_text())
    for name in manifest["sha256"]:
        manifest["sha256"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    problems = " ".join(check(bundle, home, replay=0).problems)
    assert "totals are not those of its images" in problems
    assert MANIFEST in problems


def test_a_link_out_of_the_bundle_is_not_followed(bundle: Path, home: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((bundle / "summary.md").read_bytes())
    (bundle / "summary.md").unlink()
    (bundle / "summary.md").symlink_to(secret)
    assert any("outside the bundle or is a link" in problem for problem in check(bundle, home, replay=0).problems)


def test_it_refuses_to_overwrite_and_to_replay_without_a_model(bundle: Path, home: Path, tmp_path: Path) -> None:
    with pytest.raises(RunConflict, match="exists already"):
        write_bundle(home / "run", bundle, draft=True)
    with pytest.raises(InvalidSetting, match="--model"):
        verify_bundle(bundle, replay=3)
    with pytest.raises(InvalidSetting, match="replay must be a number of images >= 0; got -1"):
        verify_bundle(bundle, replay=-1)
    with pytest.raises(InvalidSetting, match="MANIFEST"):
        verify_bundle(tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".bundle-")]


def test_a_model_that_may_run_code_when_loaded_is_replayed_where_its_digest_is_trusted(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(SIDE * SIDE, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(SIDE * SIDE), torch.ones(SIDE * SIDE)]))
        layer.bias.copy_(torch.tensor([3.5, 0]))
    file, data = tmp_path / "model.pt", tmp_path / "images.npz"
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), layer), file)
    np.savez(
        data,
        images=np.zeros((8, SIDE, SIDE, 1), np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None, None],
        labels=[0] * 8,
    )
    trust = ["--trust-model", "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()]
    words = ["audit", str(file), str(data), "-o", str(tmp_path / "run"), "--queries", "150", "--channels", "gray"]
    assert run([*words, *trust]) == 0
    assert run(["evidence", str(tmp_path / "run"), "-o", str(tmp_path / "bundle"), "--draft"]) == 0
    replay = ["verify", str(tmp_path / "bundle"), "--replay", "3", "--model", str(file)]
    assert run(replay) == 2
    capsys.readouterr()
    assert run([*replay, *trust]) == 0
    assert "replayed 3 adversarial images: 3 are misclassified" in capsys.readouterr().out
    with torch.no_grad():
        layer.bias += 1  # another model in a file of the same name
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), layer), file)
    other = ["--trust-model", "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()]
    assert run([*replay, *other]) != 0
    told = capsys.readouterr()
    assert "sha256" in told.out + told.err
    assert run([*words, *other]) == 2
    assert "holds another audit: model " in capsys.readouterr().err


def test_arrays_of_images_that_are_not_8_bit_are_compared_with_the_result(home: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((4, SIDE, SIDE, 1), dtype=np.float32) * np.float32(0.1)
    data = ImageSet(values, np.zeros(4, np.int64), tuple("abcd"))
    run_audit(load_classifier(home / "model.onnx"), data, settings=AttackSettings(queries=120), out=tmp_path / "run")
    bundle = write_bundle(tmp_path / "run", tmp_path / "bundle", draft=True)
    found = check(bundle, home)
    assert found.problems == ()
    assert "4 adversarial images hold the pixels that result.json lists" in found.checked
    changed = np.load(bundle / "adversarial" / "000001.npy")
    np.save(bundle / "adversarial" / "000001.npy", np.zeros_like(changed))
    (bundle / "adversarial" / "000002.npy").write_bytes(b"no array")
    (bundle / "adversarial" / "000003.npy").write_bytes(b"")
    told = "\n".join(check(bundle, home).problems)
    assert "adversarial/000001.npy: does not have the changed pixels of result.json" in told
    assert "adversarial/000002.npy: it cannot be read" in told
    assert "adversarial/000003.npy: it cannot be read" in told


def test_names_with_markup_stay_text_and_the_draft_is_stamped_on_every_page(bundle: Path) -> None:
    for page in ("report.html", "argument/gsn.svg"):
        assert "<b>0</b>" not in (bundle / page).read_text()
    for page in ("report.html", "summary.md", "statistics.md", "limitations.md", "replay.md"):
        assert "DRAFT" in (bundle / page).read_text()
    assert "1 image(s) that the model got wrong" in (bundle / "limitations.md").read_text()


def test_limitations_name_every_doubt_of_the_report(bundle: Path) -> None:
    summary = load_summary(bundle)
    assert "Doubt: Odd." in limitations(replace(summary, doubts=("Odd.",)))


def test_a_dirty_tree_is_not_evidence(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(work)]
    subprocess.run([*git, "init", "-q"], check=True)
    (work / "a").write_text("1")
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    monkeypatch.chdir(work)
    write_bundle(home / "run", tmp_path / "clean")
    (work / "a").write_text("2")
    with pytest.raises(InvalidSetting, match="not committed"):
        write_bundle(home / "run", tmp_path / "dirty")
    assert not (tmp_path / "dirty").exists()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen, which is not on the path")
def test_a_signature_names_its_signer_and_a_changed_manifest_breaks_it(home: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    signers = tmp_path / "signers"
    signers.write_text(f"auditor@example.org {key.with_suffix('.pub').read_text()}")
    bundle = write_bundle(home / "run", tmp_path / "signed", draft=True, key=key)
    found = verify_bundle(bundle, allowed_signers=signers, signer="auditor@example.org")
    assert found.problems == ()
    assert any("signed by auditor@example.org" in line for line in found.checked)
    assert not verify_bundle(bundle).holds  # a signature that is there and was not checked is a problem
    with pytest.raises(InvalidSetting, match="only together with --allowed-signers"):
        verify_bundle(bundle, signer="auditor@example.org")
    for edit, name in ((edit_the_statement, "statement.intoto.json"), (edit_the_manifest, MANIFEST)):
        edit(bundle)
        found = verify_bundle(bundle, allowed_signers=signers, signer="auditor@example.org")
        assert any(problem.startswith(f"{name}.sig: does not fit {name}") for problem in found.problems)
    (bundle / "statement.intoto.json.sig").unlink()
    assert any("statement.intoto.json.sig: is missing" in problem for problem in verify_bundle(bundle).problems)


def test_certificates_of_the_model_with_another_input_are_a_problem(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "run", tmp_path / "run")
    spec = {"layout": "NHWC", "channels": "gray", "scale": 1 / 255, "mean": [0.0], "std": [1.0]}
    (tmp_path / "run" / "certificates").mkdir()
    for name, mean in (("same", [0.0]), ("other", [0.5])):
        certificate = {"spec": {**spec, "mean": mean}}
        (tmp_path / "run" / "certificates" / f"{name}.json").write_text(json.dumps(certificate))
    found = verify_bundle(write_bundle(tmp_path / "run", tmp_path / "bundle", draft=True))
    assert found.problems == ("certificates/other.json: is about the model with another input spec than the audit's",)


def test_that_nothing_is_there_to_be_replayed_is_said(home: Path, tmp_path: Path) -> None:
    data = ImageSet(np.zeros((2, SIDE, SIDE, 1), np.uint8), np.zeros(2, np.int64), ("a", "b"))
    run_audit(load_classifier(home / "model.onnx"), data, settings=AttackSettings(queries=1), out=tmp_path / "run")
    bundle = write_bundle(tmp_path / "run", tmp_path / "bundle", draft=True)
    assert "no adversarial image to replay: none was found" in check(bundle, home).checked
