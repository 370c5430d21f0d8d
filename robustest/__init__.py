"""robustest: how few pixels flip an image classifier, how sure are we, and what is proven?

Every name below is found on first use, so that importing the package loads neither torch nor OpenCV.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustest.attack.find import find_adversarial, find_adversarials
    from robustest.audit.run import run_audit
    from robustest.bounds.check import certify
    from robustest.classifiers.loading import load_classifier
    from robustest.classifiers.spec import InputSpec
    from robustest.errors import RobustestError
    from robustest.images import ImageSet, load_images
    from robustest.results import AttackResult, Edits, Verdict
    from robustest.saliency.mixture import saliency_of
    from robustest.settings import AttackSettings

__version__ = "0.1.0"

_HOMES = {
    "AttackResult": "robustest.results",
    "AttackSettings": "robustest.settings",
    "certify": "robustest.bounds.check",
    "Edits": "robustest.results",
    "find_adversarial": "robustest.attack.find",
    "find_adversarials": "robustest.attack.find",
    "ImageSet": "robustest.images",
    "InputSpec": "robustest.classifiers.spec",
    "load_classifier": "robustest.classifiers.loading",
    "load_images": "robustest.images",
    "RobustestError": "robustest.errors",
    "run_audit": "robustest.audit.run",
    "saliency_of": "robustest.saliency.mixture",
    "Verdict": "robustest.results",
}

__all__ = [
    "AttackResult",
    "AttackSettings",
    "certify",
    "Edits",
    "find_adversarial",
    "find_adversarials",
    "ImageSet",
    "InputSpec",
    "load_classifier",
    "load_images",
    "RobustestError",
    "run_audit",
    "saliency_of",
    "Verdict",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'robustest' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
