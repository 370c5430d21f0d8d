"""The plan of an audit: what is to be done, written once, so that any process on any machine can do a part of it.

RUN/plan.json                what is attacked, how, in which shards
RUN/images/                  the images
RUN/shards/NNNN/             one shard: ledger.sqlite, lease.N while somebody works on it, done.json
RUN/deaths/                  how workers ended that did not end by themselves
RUN/result.json, timing.json, adversarial/, saliency.npz, report.html, summary.md      when it is finished
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustest import __version__
from robustest.audit.facts import DataFacts, ModelFacts
from robustest.audit.files import read_json, storage, write_json
from robustest.audit.images import set_digest, store_images
from robustest.audit.probe import Probe
from robustest.audit.summary import spec_json
from robustest.classifiers.classifier import Classifier
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidSetting, RunConflict
from robustest.images import ImageSet
from robustest.results import Scores
from robustest.settings import AttackSettings

PLAN = "plan.json"
RESULT = "result.json"
_FORMAT = "robustest/plan"
_VERSION = 1
_LARGEST_SHARD = 1000


@dataclass(frozen=True, slots=True)
class ModelReference:
    """How a process that works on the plan gets the classifier.

    name: what `load_classifier` takes, or None where it exists only in the process that planned.
    beside: a file's path relative to the run folder, tried where `name` is not there. trust: `sha256:...` or None.
    """

    name: str | None
    beside: str | None = None
    trust: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A planned audit.

    key: digest of all that decides the result; ledgers of another key are refused.
    shard: images a shard; shard s holds the images s * shard to (s + 1) * shard.
    rows: images a call, exactly that many where `model.batch` says so. probe: images asked when planned, with their scores.
    """

    key: str
    settings: AttackSettings
    reference: ModelReference
    model: ModelFacts
    data: DataFacts
    shard: int
    rows: int
    probe: tuple[int, ...]
    scores: Scores
    versions: dict[str, str]
    command: str

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.data.count // self.shard)

    def indices(self, shard: int) -> range:
        """The images of a shard."""
        return range(shard * self.shard, min((shard + 1) * self.shard, self.data.count))


def shard_folder(run: Path, shard: int) -> Path:
    """Where a shard's files are."""
    return run / "shards" / f"{shard:04d}"


def shard_size(count: int, shards: int | None) -> int:
    """Images a shard: `count / shards`, or for None at most 1000 and about sixteen shards."""
    if shards is None:
        return min(_LARGEST_SHARD, max(8, -(-count // 16)))
    if shards < 1:
        raise InvalidSetting(f"shards must be >= 1; got {shards}.")
    return -(-count // min(shards, count))


def versions_for(classifier: Classifier) -> dict[str, str]:
    """Versions of the software that an answer may depend on."""
    packages = ["numpy", "opencv-python-headless", "opencv-python"]
    packages += {"OnnxClassifier": ["onnxruntime"], "TorchClassifier": ["torch"]}.get(type(classifier).__name__, [])
    found = {"robustest": __version__}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def model_facts(classifier: Classifier, probe: Probe | None = None) -> ModelFacts:
    """The classifier as results name it."""
    info = classifier.info
    return ModelFacts(
        source=info.source,
        sha256=info.digest,
        spec=info.spec,
        guessed=info.guessed,
        classes=info.classes,
        batch=probe.batch.rows if probe and probe.batch.pad else None,
        largest_change=probe.largest_change if probe else 0.0,
    )


def data_facts(images: ImageSet) -> DataFacts:
    """The images as results name them."""
    height, width, channels = images.images.shape[1:]
    return DataFacts(
        source=images.source,
        count=len(images),
        sha256=set_digest(images),
        shape=(int(height), int(width), int(channels)),
        eight_bit=images.eight_bit,
        class_names=images.class_names,
    )


def _identity(settings: AttackSettings, model: ModelFacts, data: DataFacts) -> dict[str, Any]:
    """All that decides the result, by the words a user knows it by."""
    return {
        **asdict(settings),
        "model": model.sha256 or model.source,
        "input spec": spec_json(model.spec),
        "images": data.sha256,
        "robustest": __version__,
    }


def plan_key(settings: AttackSettings, model: ModelFacts, data: DataFacts) -> str:
    """Digest of all that decides the result."""
    return hashlib.sha256(json.dumps(_identity(settings, model, data), sort_keys=True).encode()).hexdigest()


def check_same(plan: Plan, settings: AttackSettings, model: ModelFacts, data: DataFacts, run: Path) -> None:
    """Check that a folder's plan is the audit that is asked for.

    Raises:
        RunConflict: it is another one, naming what differs.
    """
    if plan.key == plan_key(settings, model, data):
        return
    asked = _told_apart(settings, model, data)
    there = {**_told_apart(plan.settings, plan.model, plan.data), "robustest": plan.versions.get("robustest", "?")}
    differs = [name for name in asked if asked[name] != there.get(name)]
    what = "; ".join(f"{name} {_brief(there.get(name))} there, {_brief(asked[name])} here" for name in differs)
    raise RunConflict(
        f"the folder {str(run)!r} holds another audit: {what}. Choose another folder with -o, or remove it."
    )


def _told_apart(settings: AttackSettings, model: ModelFacts, data: DataFacts) -> dict[str, Any]:
    """What decides the result, each part of the input spec by itself and the images with their number."""
    whole = _identity(settings, model, data)
    spec = whole.pop("input spec")
    return {**whole, **spec, "images": f"{data.count} ({data.sha256[:12]}...)"}


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "..."


def make_plan(
    classifier: Classifier,
    images: ImageSet,
    settings: AttackSettings,
    probe: Probe,
    *,
    reference: ModelReference,
    shards: int | None = None,
    command: str = "",
) -> Plan:
    """Plan an audit of checked input."""
    model, data = model_facts(classifier, probe), data_facts(images)
    return Plan(
        key=plan_key(settings, model, data),
        settings=settings,
        reference=reference,
        model=model,
        data=data,
        shard=shard_size(len(images), shards),
        rows=probe.batch.rows,
        probe=probe.indices,
        scores=probe.scores,
        versions=versions_for(classifier),
        command=command,
    )


def refuse_foreign(run: Path) -> None:
    """Check that a folder may become a run folder.

    Raises:
        RunConflict: it is a file, or holds files and no plan.
    """
    if run.is_dir():
        others = sorted(
            entry.name
            for entry in run.iterdir()
            if entry.name not in ("images", "shards") and not entry.name.endswith(".tmp")
        )
        if others and not (run / PLAN).is_file():
            raise RunConflict(
                f"the folder {str(run)!r} is not empty ({others[0]!r}) and holds no audit. Choose another with -o."
            )
    elif run.exists():
        raise RunConflict(f"{str(run)!r} is a file; the results need a folder. Choose another with -o.")


def save_plan(run: Path, plan: Plan, images: ImageSet) -> Plan:
    """Write a plan with its images; the plan last, so that a folder with a plan is complete.

    Returns:
        The plan that is in force: another process may have written the same one first.
    """
    with storage(run):
        run.mkdir(parents=True, exist_ok=True)
        store_images(run, images, plan.data.sha256)
        (run / "shards").mkdir(exist_ok=True)
        written = write_json(run / PLAN, _to_json(plan), exclusive=True)
    if written:
        return plan
    there = load_plan(run)
    check_same(there, plan.settings, plan.model, plan.data, run)
    return there


def _to_json(plan: Plan) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "key": plan.key,
        "command": plan.command,
        "settings": asdict(plan.settings),
        "reference": asdict(plan.reference),
        "model": {**asdict(plan.model), "spec": spec_json(plan.model.spec)},
        "data": asdict(plan.data),
        "shard": plan.shard,
        "shards": plan.shards,
        "rows": plan.rows,
        "versions": plan.versions,
        "probe": {"indices": list(plan.probe), "scores": plan.scores.tolist()},
    }


def load_plan(run: Path) -> Plan:
    """Read the plan of a run folder.

    Raises:
        RunConflict: none there, damaged, or of another version.
    """
    path = run / PLAN
    if not path.is_file():
        raise RunConflict(f"{str(run)!r} holds no planned audit (no {PLAN}). Make one with `robustest plan`.")
    table = read_json(path)
    if not isinstance(table, dict) or (table.get("format"), table.get("version")) != (_FORMAT, _VERSION):
        raise RunConflict(f"{str(path)!r} is no plan of this version of robustest.")
    try:
        model, data = table["model"], table["data"]
        label_only = model["spec"]["output"] == "label"
        plan = Plan(
            key=table["key"],
            settings=AttackSettings(**table["settings"]),
            reference=ModelReference(**table["reference"]),
            model=ModelFacts(**{**model, "spec": InputSpec(**model["spec"]), "guessed": tuple(model["guessed"])}),
            data=DataFacts(**{**data, "shape": tuple(data["shape"]), "class_names": tuple(data["class_names"])}),
            shard=int(table["shard"]),
            rows=int(table["rows"]),
            probe=tuple(table["probe"]["indices"]),
            scores=np.array(table["probe"]["scores"], dtype=np.int64 if label_only else np.float32),
            versions=dict(table["versions"]),
            command=table["command"],
        )
        fits = plan.shard >= 1 and plan.rows >= 1 and all(0 <= i < plan.data.count for i in plan.probe)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RunConflict(f"{str(path)!r} is damaged: {type(error).__name__}: {error}. Plan the run again.") from error
    if not fits:
        raise RunConflict(
            f"{str(path)!r} is damaged: its shards or its probe do not fit its images. Plan the run again."
        )
    return plan
