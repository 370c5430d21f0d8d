"""What the bound checker refuses, by name.

RobustestError
+-- UsageError (exit 2)
|   +-- UnsupportedLayer     the network holds something that no bound here covers
|   +-- UnsupportedNumerics  the network does not run in the arithmetic that the proofs are about
+-- EnvironmentFailure (exit 4)
    +-- GraphMismatch        the graph read from the model does not compute what the model computes
    +-- SoundnessViolation   a proven bound was refuted: a bug of this checker, never a result
"""

from robustest.errors import EnvironmentFailure, UsageError


class UnsupportedLayer(UsageError):
    """The network holds a layer that no bound here covers; it is named, never skipped."""


class UnsupportedNumerics(UsageError):
    """The model does not run in float32 or float64 with IEEE arithmetic, or its weights are not finite."""


class GraphMismatch(EnvironmentFailure):
    """The graph read from the model and the model itself disagree on the same images."""


class SoundnessViolation(EnvironmentFailure):
    """A proven bound and a re-scored witness contradict each other: the run ends and nothing is reported."""
