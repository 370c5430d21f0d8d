"""A torch module as a classifier, on the CPU or a CUDA device; bases stay on the device and only edits travel.

Scores are float32 with TF32 off, whatever the process's own settings are: every claimed image must hold at that precision.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import numpy as np
import torch
from numpy.typing import NDArray

from robustest.classifiers.classifier import Canvas, ClassifierInfo, Images, check_scores
from robustest.classifiers.spec import InputSpec, model_values
from robustest.errors import InvalidSetting, ModelError, OutOfMemory
from robustest.results import Edits, Scores

# glibc's mallopt: memory that a layer frees is handed to the next one, not to the kernel, which would have to clear it
# again, page by page; that takes as long as a small network's arithmetic. Half a gigabyte may lie idle.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # names of its options
_KEPT, _MOST_OF_OLD = 1 << 29, 32 << 20  # bytes; before glibc 2.35 it takes no more than the second

_CHECKS, _COMPARED = 2, 32  # times that a smaller batch must give the same bits, and scores compared in all


class TorchClassifier:
    """Wraps a module in eval mode.

    Args:
        module: takes (N, C, H, W) or (N, H, W, C) float32 as `spec` says, returns (N, K) scores.
        spec: input spec; None means NCHW RGB in [0, 1] and logits.
        device: where to run; None for where the module's parameters are.
        source: what to call it in reports; its class's name if None. digest: of the file that it was loaded from, if any.

    Raises:
        InvalidSetting: the module is in training mode, or the device is not there.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        spec: InputSpec | None = None,
        *,
        device: str | None = None,
        source: str | None = None,
        digest: str | None = None,
    ) -> None:
        if module.training:
            raise InvalidSetting(
                f"module {type(module).__name__} is in training mode, where dropout and batch norm make scores random; call .eval() first."
            )
        parameter = next(module.parameters(), None)
        self._device = (
            torch.device(device) if device else parameter.device if parameter is not None else torch.device("cpu")
        )
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise InvalidSetting(f"device {device!r} was asked for, but torch sees no CUDA device. Use 'cpu'.")
        if self._device.type == "cpu":
            _keep_memory()
        self.module = module.to(self._device)
        self._spec = spec or InputSpec(layout="NCHW")
        self._info = ClassifierInfo(
            source=source or type(module).__name__,
            digest=digest,
            spec=self._spec,
            image_shape=(None, None, self._spec.channel_count),
            padded_batch=256 if self._device.type == "cuda" else 32,
            beside=self._device.type != "cpu",
        )

    @property
    def info(self) -> ClassifierInfo:
        """What is known without asking."""
        return self._info

    @property
    def device(self) -> torch.device:
        """Where the module runs."""
        return self._device

    def __call__(self, images: Images, /) -> Scores:
        """Score images (N, H, W, C) in [0, 1]."""
        return self._run(torch.from_numpy(self._spec.prepare(images)).to(self._device))

    def canvas(self, shape: tuple[int, int, int], *, slots: int, rows: int, pad: bool = False) -> Canvas:
        """A canvas on the module's device."""
        return _TorchCanvas(self, shape, slots=slots, rows=rows, pad=pad)

    def _run(self, batch: torch.Tensor) -> Scores:
        try:
            with torch.inference_mode(), full_precision(self._device):
                scores = self.module(batch)
        except torch.cuda.OutOfMemoryError as error:
            raise self._too_large(batch) from error
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if "allocate memory" in str(error):  # how torch says it on the CPU
                raise self._too_large(batch) from error
            raise ModelError(
                f"{self._info.source} failed on an input of shape {tuple(batch.shape)}: {' '.join(str(error).split())[:300]}"
            ) from error
        if not isinstance(scores, torch.Tensor):
            raise ModelError(f"{self._info.source} must return a tensor of scores; got {type(scores).__name__}.")
        return check_scores(scores.float().cpu().numpy(), len(batch), self._info.output, source=self._info.source)

    def _too_large(self, batch: torch.Tensor) -> OutOfMemory:
        return OutOfMemory(
            f"{self._info.source}: {len(batch)} images of shape {tuple(batch.shape[1:])} in one call do not fit in the memory of "
            f"{self._device}. Free some of it (other programs, fewer --workers), or use another device."
        )


def _keep_memory() -> None:
    """Have this process keep what is freed, where its allocator is glibc's."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            set_option = ctypes.CDLL(None).mallopt
            if set_option(_MMAP_THRESHOLD, _KEPT) or set_option(_MMAP_THRESHOLD, _MOST_OF_OLD):
                set_option(_TRIM_THRESHOLD, _KEPT)


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """No TF32 and no autocast inside; the process's settings are put back."""
    return _full_precision_on_cuda() if device.type == "cuda" else nullcontext()


@contextmanager
def _full_precision_on_cuda() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class _TorchCanvas:
    """Bases (slots, ...) in the model's layout on its device; with `pad`, batches are filled up
    there, so that the kernels chosen, and with them the last bits of a score, do not depend on how many are asked.

    On the CPU a few images go in a smaller batch, see `_Sizes`.
    """

    def __init__(
        self, owner: TorchClassifier, shape: tuple[int, int, int], *, slots: int, rows: int, pad: bool
    ) -> None:
        height, width, channels = shape
        self._owner, self._shape, self._rows, self._pad = owner, shape, rows, pad
        self._spec = owner.info.spec
        self._device = owner.device
        self._cuda = self._device.type == "cuda"
        self._sizes = _Sizes(range(0) if self._cuda else range(1, rows), rows)
        self._affine = self._spec.affine()
        self._first = self._spec.layout == "NCHW"
        inner = (channels, height * width) if self._first else (height * width, channels)
        self._bases = torch.zeros((slots, *inner), device=self._device)

    def place(self, slot: int, image: NDArray[np.float32]) -> None:
        prepared = self._spec.prepare(image[None])
        self._bases[slot] = torch.from_numpy(prepared.reshape(self._bases.shape[1:])).to(self._device)

    def score(self, slots: NDArray[np.int64], edits: Edits) -> Scores:
        if len(edits) <= self._rows:
            return self._score_part(slots, edits)
        starts = range(0, len(edits), self._rows)
        parts = [(start, min(start + self._rows, len(edits))) for start in starts]
        return np.concatenate([self._score_part(slots[start:stop], edits.part(start, stop)) for start, stop in parts])

    def _score_part(self, slots: NDArray[np.int64], edits: Edits) -> Scores:
        height, width, channels = self._shape
        count = len(edits)
        if self._pad:
            filled = self._sizes.of(count)
            if filled > count:
                slots = np.concatenate([slots, np.full(filled - count, slots[-1])])
        colours = model_values(edits.values, self._affine)
        if self._spec.channels == "BGR":
            colours = np.ascontiguousarray(colours[:, ::-1])
        images = self._bases.index_select(0, self._to_device(slots))
        rows, pixels, values = self._to_device(edits.rows), self._to_device(edits.pixels), self._to_device(colours)
        if self._first:
            images[rows, :, pixels] = values
            batch = images.view(len(slots), channels, height, width)
        else:
            images[rows, pixels] = values
            batch = images.view(len(slots), height, width, channels)
        scores = self._owner._run(batch)
        if self._pad and (smaller := self._sizes.to_check(count)) is not None:
            known = scores[:smaller]
            self._sizes.heard(smaller, np.array_equal(self._owner._run(batch[:smaller]), known), known.size)
        return scores[:count]

    def _to_device(self, array: NDArray[np.generic]) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._cuda:
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor


class _Sizes:
    """How many images go in a call when there are too few to fill one: batches of other sizes may give other bits.

    Which kernels add in which order depends on the sizes alone, not on what is added: a smaller batch that was seen to give
    the bits of a full one, twice and in enough scores, gives them for good. One is tried when filling up in its place has
    cost as much.

    Args:
        smaller: sizes to be tried, rising. full: images of a full batch.
    """

    def __init__(self, smaller: range, full: int) -> None:
        self._known = [full]  # rising
        self._tries = {size: 0 for size in smaller}
        self._lost = dict(self._tries)  # images scored for want of each
        self._compared = dict(self._tries)  # scores

    def of(self, count: int) -> int:
        """Images a call for so many, at most a full batch."""
        return next(size for size in self._known if size >= count)

    def to_check(self, count: int) -> int | None:
        """The smaller size to be tried now, with so many images asked about, or None."""
        size = next((size for size in self._tries if size >= count), None)
        filled = self.of(count)
        if size is None or size >= filled:
            return None
        self._lost[size] += filled - size
        return size if self._lost[size] >= size * (self._tries[size] + 1) else None

    def heard(self, size: int, same: bool, compared: int) -> None:
        """Take in whether a size gave the bits of what is known, in so many scores."""
        self._tries[size] += 1
        self._compared[size] += compared
        if not same:
            del self._tries[size]
        elif self._tries[size] >= _CHECKS and self._compared[size] >= _COMPARED:
            del self._tries[size]
            self._known = sorted([*self._known, size])
