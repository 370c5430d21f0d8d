"""Every error that robustest raises on purpose, drawn as a tree.

    RobustestError
    +-- UsageError                exit 2: what was asked cannot be done as asked
    |   +-- InvalidImage          images, labels, folders of them
    |   +-- InvalidSpec           how a model wants its input, what it gives
    |   +-- InvalidSetting        a number or a name out of its range
    |   +-- UntrustedModel        loading the file could run code from it
    |   +-- RunConflict           the output folder holds something else
    +-- EnvironmentFailure        exit 4: the model, the machine or a server failed
    |   +-- ModelError            the classifier cannot be loaded or gives no usable scores
    |   +-- OutOfMemory           so many images at once do not fit in the memory
    |   +-- MissingExtra          an optional part is not installed
    |   +-- SwappedModelError     a served model is not the one that the run began with
    +-- NothingToTest             exit 5: no image is left to test
    +-- Interrupted               exit 130: stopped by the user, resumable

A message names the argument, its value, what it must be, and the way out.
"""


class RobustestError(Exception):
    """Base of all errors of robustest; `exit_code` is what the command line exits with."""

    exit_code = 4


class UsageError(RobustestError):
    """What was asked cannot be done as it was asked."""

    exit_code = 2


class InvalidImage(UsageError):
    """An image, a label or a collection of them is not what it must be."""


class InvalidSpec(UsageError):
    """The input spec is incomplete, contradictory or does not fit the model or the images."""


class InvalidSetting(UsageError):
    """A setting is out of its range or unknown."""


class UntrustedModel(UsageError):
    """Loading this file could run code from it; its digest was not given as trusted."""


class RunConflict(UsageError):
    """The output folder holds a different run, or a file is in the way."""


class EnvironmentFailure(RobustestError):
    """The model, the machine or a server failed."""


class ModelError(EnvironmentFailure):
    """The classifier cannot be loaded, or what it returns cannot be used as scores."""


class OutOfMemory(EnvironmentFailure, MemoryError):
    """The classifier cannot score so many images in one call for want of memory; fewer may do."""


class MissingExtra(EnvironmentFailure):
    """A part that is installed by an extra is not there."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed. pip install 'robustest[{extra}]'")


class SwappedModelError(EnvironmentFailure):
    """A served model is not the one that the run began with; the run is invalid."""


class NothingToTest(RobustestError):
    """No image is left to test."""

    exit_code = 5


class Interrupted(RobustestError):
    """Stopped by the user; the run can be resumed."""

    exit_code = 130
