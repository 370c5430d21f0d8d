"""Writing an evidence bundle: everything a third party needs to check an audit, with a digest of every file.

Twice the same run gives the same bytes, but for `written.json`, the one file that holds the time of writing and is
therefore the one file that MANIFEST.json leaves out. Maps to standards, claims compliance with none.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from robustest.audit.files import storage
from robustest.audit.records import ImageRecord, to_json
from robustest.audit.summary import AuditSummary, load_summary, spec_json
from robustest.errors import EnvironmentFailure, InvalidSetting, RunConflict
from robustest.evidence import words
from robustest.evidence.argument import argument_of, as_svg, as_yaml
from robustest.report.html import report_page
from robustest.report.junit import junit_page
from robustest.report.markdown import markdown_page
from robustest.results import Verdict

MANIFEST = "MANIFEST.json"
WRITTEN = "written.json"
STATEMENT = "statement.intoto.json"
UNLISTED = (MANIFEST, WRITTEN, STATEMENT, MANIFEST + ".sig", STATEMENT + ".sig")
FORMAT = "robustest/evidence"


def write_bundle(run: Path, out: Path, *, draft: bool = False, key: Path | None = None) -> Path:
    """Bundle a finished run.

    Args:
        run: folder of a finished audit. out: the bundle's folder; must not exist.
        draft: write it even if it may not be called evidence, stamped on every page.
        key: private key for `ssh-keygen -Y sign`.

    Raises:
        RunConflict: `out` exists, or the run is not finished. InvalidSetting: not evidence, and `draft` not given.
    """
    if out.exists():
        raise RunConflict(f"bundle folder {str(out)!r} exists already. Give another, or remove it.")
    summary = load_summary(run)
    problems = reasons_against(summary)
    if problems and not draft:
        raise InvalidSetting(
            f"this run may not be called evidence: {'; '.join(problems)}. Mend that, or write a stamped draft with --draft."
        )
    with storage(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".bundle-", dir=out.parent))
    try:
        with storage(out.parent):
            _fill(work, run, summary, draft=draft, problems=problems)
            if key is not None:
                sign(work / MANIFEST, key)
                sign(work / STATEMENT, key)
            os.chmod(work, 0o755)
            os.replace(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def reasons_against(summary: AuditSummary) -> list[str]:
    """Why this run may not be called evidence, as sentences; none if it may."""
    problems = []
    if summary.counts.tested == 0:
        problems.append("no image was tested")
    if summary.counts.unknown:
        problems.append(f"{summary.counts.unknown} image(s) ended unknown")
    if git_state().get("dirty"):
        problems.append("the git tree has changes that are not committed")
    return problems


def git_state() -> dict[str, Any]:
    """Commit of the folder where the command runs, and whether tracked files differ from it; empty outside git."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if commit.returncode != 0:
        return {}
    return {"commit": commit.stdout.strip(), "dirty": bool(changes.stdout.strip())}


def _fill(folder: Path, run: Path, summary: AuditSummary, *, draft: bool, problems: list[str]) -> None:
    files: dict[str, bytes] = {
        "result.json": (run / "result.json").read_bytes(),
        "images.jsonl": _lines(summary),
        "adversarial.npz": _sparse(summary),
        "config.json": _json({"command": summary.command, "settings": asdict(summary.settings), "draft": draft}),
        "model.json": _json(
            {
                "source": summary.model.source,
                "sha256": summary.model.sha256,
                "classes": summary.model.classes,
                "spec": spec_json(summary.model.spec),
                "guessed": list(summary.model.guessed),
            }
        ),
        "dataset.json": _json(
            {
                **asdict(summary.data),
                "image_sha256": [record.sha256 for record in summary.records],
                "sampling": "all given",
            }
        ),
        "environment.json": _json(environment(summary)),
        "seeds.json": _json(
            {"seed": summary.settings.seed, "streams": "one an image, from the seed and the image's sha256"}
        ),
        "queries.json": _json(
            {"answered": summary.queries, "remembered": summary.remembered, "checks": summary.checks}
        ),
        "threat_model.json": _json(words.threat_model(summary)),
        "statistics.md": words.markdown("Statistics", words.statistics(summary), draft=draft),
        "limitations.md": words.markdown(
            "Limitations",
            [*words.limitations(summary), *(f"Draft because: {p}." for p in problems)],
            bullets=True,
            draft=draft,
        ),
        "replay.md": words.markdown("Replay", words.replay(summary), draft=draft),
        "report.html": _stamped(report_page(summary, images=summary.clean_images()), draft),
        "summary.md": (b"**DRAFT: not evidence.**\n\n" if draft else b"") + markdown_page(summary).encode(),
        "junit.xml": junit_page(summary),
    }
    pictures = run / "adversarial"
    for record in summary.records:
        if record.flipped:
            for suffix in (".png", ".npy"):
                picture = pictures / f"{record.index:06d}{suffix}"
                if picture.is_file():
                    files[f"adversarial/{picture.name}"] = picture.read_bytes()
    certificates = run / "certificates"
    if certificates.is_dir():
        for path in sorted(certificates.glob("*.json")):
            files[f"certificates/{path.name}"] = path.read_bytes()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    elements = argument_of(summary)
    files["argument/gsn.yaml"] = as_yaml(elements, digests)
    files["argument/gsn.svg"] = as_svg(elements)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    manifest = {
        "format": FORMAT,
        "version": 1,
        "draft": draft,
        "left_out": list(UNLISTED),
        "sha256": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
    }
    content = _json(manifest)
    (folder / MANIFEST).write_bytes(content)
    (folder / STATEMENT).write_bytes(
        _json(statement(summary, hashlib.sha256(content).hexdigest(), digests, draft=draft))
    )
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    (folder / WRITTEN).write_bytes(_json({"written": now}))


def statement(summary: AuditSummary, manifest: str, digests: dict[str, str], *, draft: bool) -> dict[str, Any]:
    """An in-toto Statement v1 about the model (or its name), predicate `test-result/v0.1`."""
    code = summary.exit_code
    word = "WARNED" if draft or code in (3, 5) else "FAILED" if code == 1 else "PASSED"
    names = [f"survives {j.requirement.distance:g} >= {j.requirement.share:g}" for j in summary.judgements] or [
        "audit completed"
    ]
    subject = [{"name": summary.data.source, "digest": {"sha256": summary.data.sha256}}]
    if summary.model.sha256 is not None:
        subject.insert(0, {"name": summary.model.source, "digest": {"sha256": summary.model.sha256}})
    kind = {"PASSED": "passedTests", "FAILED": "failedTests", "WARNED": "warnedTests"}[word]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {
            "result": word,
            "configuration": [
                {"name": "config.json", "digest": {"sha256": digests["config.json"]}},
                {"name": MANIFEST, "digest": {"sha256": manifest}},
            ],
            kind: names,
        },
    }


def environment(summary: AuditSummary) -> dict[str, Any]:
    """Python, platform, packages, processors, and the commit of the folder where the command runs."""
    packages = sorted(
        {f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions() if d.metadata["Name"]}
    )
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "processors": os.cpu_count(),
        "packages": packages,
        "versions_of_the_run": summary.versions,
        "git": git_state(),
    }


def sign(path: Path, key: Path) -> None:
    """Sign a file with `ssh-keygen -Y sign -n robustest`; the signature lies beside it as `<file>.sig`.

    Raises:
        EnvironmentFailure: ssh-keygen is missing or refuses the key.
    """
    try:
        done = subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-n", "robustest", "-f", str(key), str(path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise EnvironmentFailure(
            "signing needs ssh-keygen, which is not on the path. Install openssh-client."
        ) from error
    if done.returncode != 0:
        raise EnvironmentFailure(
            f"ssh-keygen could not sign with {str(key)!r}: {done.stderr.strip() or done.stdout.strip()}"
        )


def _lines(summary: AuditSummary) -> bytes:
    """Every image with its outcome and reason, one JSON object a line."""
    width = summary.data.shape[1]
    entries = []
    for record in summary.records:
        entry = to_json(record, width)
        entry["outcome"] = record.verdict.sentence
        entries.append(json.dumps(entry, sort_keys=True, ensure_ascii=False))
    return ("\n".join(entries) + "\n").encode()


def _sparse(summary: AuditSummary) -> bytes:
    """The adversarial images as changes, in compressed rows: index, offsets, pixels, values, label, predicted."""
    found: list[ImageRecord] = [r for r in summary.records if r.verdict is Verdict.FLIPPED and r.pixels is not None]
    channels = summary.data.shape[2]
    kind = np.uint8 if summary.data.eight_bit else np.float32
    arrays = {
        "index": np.array([r.index for r in found], np.int64),
        "offsets": np.cumsum([0, *(len(r.pixels) for r in found if r.pixels is not None)]).astype(np.int64),
        "pixels": np.concatenate([r.pixels for r in found if r.pixels is not None] or [np.zeros(0, np.int64)]),
        "values": np.concatenate([np.zeros((0, channels), kind), *(r.values for r in found if r.values is not None)]),
        "label": np.array([r.label for r in found], np.int64),
        "predicted": np.array([-1 if r.predicted is None else r.predicted for r in found], np.int64),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())
    return buffer.getvalue()


def _stamped(page: str | bytes, draft: bool) -> bytes:
    text = page.decode() if isinstance(page, bytes) else page
    if draft:
        stamp = '<p style="position:sticky;top:0;z-index:9;margin:0;padding:.5rem;background:#b3261e;color:#fff;text-align:center">DRAFT: not evidence</p>'
        head, mark, rest = text.partition("<body")
        opening, close, body = rest.partition(">")
        text = f"{head}{mark}{opening}{close}{stamp}{body}"
    return text.encode()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
