"""How another process gets the classifier: by its name in the plan, or, where it has none, by pickling it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from robustest.audit.plan import ModelReference, Plan
from robustest.classifiers.classifier import Classifier
from robustest.classifiers.loading import load_classifier
from robustest.errors import InvalidSetting, RunConflict


def reference_to(classifier: Any, run: Path, trust_model: str | None = None) -> ModelReference:
    """What the plan says of where the classifier comes from.

    Args:
        classifier: what the user gave: a name, a path, or an object (an ONNX classifier knows its path, a served one its URL).
    """
    name = classifier if isinstance(classifier, (str, os.PathLike)) else getattr(classifier, "path", None)
    if name is None:
        return ModelReference(getattr(classifier, "reference", None))
    path = Path(name)
    if path.exists():
        return ModelReference(str(path.resolve()), os.path.relpath(path.resolve(), run.resolve()), trust_model)
    return ModelReference(str(name), None, trust_model)


def open_planned(
    run: Path, plan: Plan, *, model: str | None = None, device: str | None = None, threads: int | None = None
) -> Classifier:
    """Load the classifier that a plan names, and check that it is that one.

    Args:
        model: where it is on this machine, if not where the plan says.

    Raises:
        InvalidSetting: the plan names none. RunConflict: the file is another one.
    """
    reference = plan.reference
    name = model or reference.name
    if name is None:
        raise InvalidSetting(
            f"the model {plan.model.source!r} of this run exists only in the process that planned it, so no other can work "
            "on it. Plan with the path of an .onnx file, module:callable or a URL, or give --model."
        )
    if model is None and reference.beside is not None and not Path(name).exists():
        name = str(run / reference.beside)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the planner has been told
        classifier = load_classifier(name, plan.model.spec, device=device, threads=threads, trust_model=reference.trust)
    found = classifier.info.digest
    if plan.model.sha256 is not None and found != plan.model.sha256:
        raise RunConflict(
            f"model {name!r} is not the one this run was planned with: its sha256 is {str(found)[:16]}..., the plan's "
            f"{plan.model.sha256[:16]}... Give the planned file with --model."
        )
    return classifier
