"""Any callable on arrays as a classifier: NHWC float32 in [0, 1] in, scores (N, K) or labels (N,) out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from robustest.classifiers.canvas import HostCanvas
from robustest.classifiers.classifier import Canvas, ClassifierInfo, Images, check_scores
from robustest.classifiers.spec import InputSpec
from robustest.errors import ModelError, OutOfMemory, RobustestError
from robustest.results import Scores


class CallableClassifier:
    """Wraps a function; its exceptions become a `ModelError` that names it.

    Args:
        function: takes (N, H, W, C) float32 in [0, 1].
        spec: only `output` is read; None means logits.
        source: what to call it in reports; its own name if None. digest: of the file that it was loaded from, if any.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        spec: InputSpec | None = None,
        *,
        source: str | None = None,
        digest: str | None = None,
    ) -> None:
        name = source or str(getattr(function, "__name__", type(function).__name__))
        self._function = function
        self._info = ClassifierInfo(source=name, spec=spec or InputSpec(), digest=digest)

    @property
    def info(self) -> ClassifierInfo:
        """What is known without asking."""
        return self._info

    def __call__(self, images: Images, /) -> Scores:
        """Score images (N, H, W, C) in [0, 1]; the function gets a copy that it may keep or change."""
        try:
            answer = self._function(np.array(images, dtype=np.float32, order="C"))
        except RobustestError:
            raise
        except (Exception, SystemExit) as error:
            # Whatever the user's own code raises is reported as the model's failure.
            if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:  # torch's is no MemoryError
                raise OutOfMemory(
                    f"{self._info.source}: {len(images)} images of shape {images.shape[1:]} in one call do not fit in the memory. Free some "
                    "of it (other programs, fewer --workers)."
                ) from error
            raise ModelError(
                f"{self._info.source} failed on a batch of shape {images.shape}: {type(error).__name__}: {error}"
            ) from error
        if hasattr(answer, "detach"):
            answer = answer.detach().cpu().numpy()
        return check_scores(answer, len(images), self._info.output, source=self._info.source)

    def canvas(self, shape: tuple[int, int, int], *, slots: int, rows: int, pad: bool = False) -> Canvas:
        """A canvas in main memory."""
        return HostCanvas(self, None, shape, slots=slots, rows=rows, pad=pad)
