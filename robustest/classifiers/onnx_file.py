"""ONNX files through onnxruntime, on the CPU. No custom operators are registered, so no code runs from the file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.canvas import HostCanvas
from robustest.classifiers.classifier import Canvas, ClassifierInfo, Images, as_rows, check_scores
from robustest.classifiers.onnx_digest import model_digest
from robustest.classifiers.shapes import check_whole_numbers, guess_output, guess_spec, image_shape, whole
from robustest.classifiers.spec import InputSpec, Output, spec_beside
from robustest.errors import ModelError
from robustest.results import Scores

MAX_MODEL_BYTES = 2 << 30  # protobuf's own limit
_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
_UNSIZED = 32  # pixels a side of the images of noise where the file leaves it open


class OnnxClassifier:
    """One session of onnxruntime.

    Args:
        path: the file.
        spec: input spec; None to look beside the file, or else to guess from its shapes.
        told: fields of the spec that hold whatever else says.
        threads: of the model's own arithmetic; None for all cores.

    Raises:
        ModelError: the file cannot be loaded, or is no image classifier. InvalidSpec: the spec does not fit its shapes.
    """

    def __init__(
        self,
        path: str | Path,
        spec: InputSpec | None = None,
        *,
        told: Mapping[str, Any] = MappingProxyType({}),
        threads: int | None = None,
    ) -> None:
        self._path, self._threads = Path(path), threads
        if not self._path.is_file():
            raise ModelError(f"model {str(path)!r} does not exist. Give the path of an .onnx file.")
        if self._path.stat().st_size > MAX_MODEL_BYTES:
            raise ModelError(f"model {str(path)!r} is above {MAX_MODEL_BYTES} bytes, the limit of the format.")
        content = self._path.read_bytes()
        self._session = _session(content, self._path, threads)
        inputs, outputs = _ends(self._session, self._path)
        self._input = inputs[0]
        if len(inputs) != 1 or self._input.type not in _TYPES:
            raise ModelError(
                f"{self._path.name} must have one input of floats, or of whole numbers in 0..255 ({', '.join(_TYPES)}); it has "
                f"{', '.join(f'{i.name}: {i.type}' for i in inputs)}. Export it with such an input, or wrap it as module:callable."
            )
        self._dtype = _TYPES[self._input.type]
        self._whole = self._dtype not in (np.float16, np.float32, np.float64)
        shape = self._input.shape
        if len(shape) != 4:
            raise ModelError(
                f"{self._path.name} takes an input of {len(shape)} axes, {shape}; an image classifier takes 4 (N, H, W, C or N, C, H, W)."
            )
        found = spec_beside(self._path) if spec is None else None
        known = found[0] if found is not None else spec
        guessed: tuple[str, ...] = ()
        if known is None:
            self._spec, guessed = guess_spec(shape, told, whole_numbers=self._whole)
        else:
            self._spec = replace(known, **told)
        if self._whole:
            check_whole_numbers(self._spec, self._path.name)
        given: Output | None = self._spec.output if known is not None or "output" in told else None
        output, chosen = _chosen(outputs, given, self._path)
        self._output = output.name
        self._info = ClassifierInfo(
            source=self._path.name,
            spec=self._spec,
            digest=model_digest(self._path, content),
            image_shape=image_shape(shape, self._spec, self._path.name),
            classes=_classes(output),
            guessed=(*guessed, *chosen),
            fixed_batch=whole(shape[0]),
            steady=True,
            beside=(threads or len(os.sched_getaffinity(0))) > 1,
        )
        if given is None:
            self._info = self._with_guessed_output()
            self._spec = self._info.spec

    @property
    def info(self) -> ClassifierInfo:
        """What is known without asking."""
        return self._info

    @property
    def path(self) -> Path:
        """The model file."""
        return self._path

    def __call__(self, images: Images, /) -> Scores:
        """Score images (N, H, W, C) in [0, 1]."""
        return self._run(self._spec.prepare(images))

    def canvas(self, shape: tuple[int, int, int], *, slots: int, rows: int, pad: bool = False) -> Canvas:
        """A canvas whose buffer has the model's layout and values."""
        return HostCanvas(self._run, self._spec, shape, slots=slots, rows=rows, most=rows + rows // 2, pad=pad)

    def _with_guessed_output(self) -> ClassifierInfo:
        """Logits, probabilities or class numbers, by scoring four images of noise."""
        height, width, channels = (side or _UNSIZED for side in self._info.image_shape)
        noise = np.random.default_rng(0).random((4, height, width, channels), dtype=np.float32)
        try:
            answer = self._answer(self._spec.prepare(noise))
        except ModelError as error:
            if None not in self._info.image_shape:
                raise
            raise ModelError(
                f"{error} The file leaves the size of its images open, so it was asked about {width}x{height} ones to see what it gives. Say "
                "it: --output logits (or probabilities, label), or output = ... in a model.toml; or export it with its size."
            ) from error
        output, how = guess_output(as_rows(answer))
        return replace(self._info, spec=replace(self._spec, output=output), guessed=(*self._info.guessed, how))

    def _run(self, batch: NDArray[np.float32]) -> Scores:
        return check_scores(self._answer(batch), len(batch), self._info.output, source=self._path.name)

    def _answer(self, batch: NDArray[Any]) -> NDArray[Any]:
        """What the model gives for a batch as it wants it."""
        if self._whole:
            batch = np.rint(batch)
        batch = batch.astype(self._dtype, copy=False)
        fixed = self._info.fixed_batch
        if fixed is not None and len(batch) != fixed:
            return np.concatenate([self._answer(part) for part in _padded(batch, fixed)])[: len(batch)]
        try:
            return np.asarray(self._session.run([self._output], {self._input.name: batch})[0])
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            raise ModelError(f"{self._path.name} failed on an input of shape {batch.shape}: {_short(error)}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (str(self._path), self._spec, self._threads))


def _reopen(path: str, spec: InputSpec, threads: int | None) -> OnnxClassifier:
    return OnnxClassifier(path, spec, threads=threads)


def _padded(batch: NDArray[np.float32], fixed: int) -> list[NDArray[np.float32]]:
    missing = -len(batch) % fixed
    full = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
    return np.split(full, len(full) // fixed)


def _session(content: bytes, path: Path, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    try:
        # From the path, so that external data beside the file is found; onnxruntime refuses data outside the folder.
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own that share no base
        what = "is empty" if not content else "cannot be loaded as ONNX; it may be cut short, or not an ONNX file"
        raise ModelError(f"model {path.name} {what}: {_short(error)}") from error


def _ends(session: Any, path: Path) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs, at least one of each, with names that can be read."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    try:
        for end in (*inputs, *outputs):
            str((end.name, end.type, end.shape))
    except UnicodeDecodeError as error:
        raise ModelError(f"model {path.name} is damaged: the name of an input or output is no text.") from error
    if not inputs or not outputs:
        raise ModelError(
            f"model {path.name} has {len(inputs)} inputs and {len(outputs)} outputs; it must have one of each."
        )
    return inputs, outputs


def _classes(output: Any) -> int | None:
    """How many classes the shape of the scores says; one number an image is of two. Class numbers say nothing of it."""
    classes = whole(output.shape[1]) if _is_rows(output.shape) and "int" not in output.type else None
    return 2 if classes == 1 else classes


def _is_rows(shape: list[Any]) -> bool:
    """True for (N, K) and for (N, K, 1, 1)."""
    return len(shape) == 2 or (len(shape) > 2 and all(side == 1 for side in shape[2:]))


def _chosen(outputs: list[Any], kind: Output | None, path: Path) -> tuple[Any, tuple[str, ...]]:
    """The output that holds what is asked for, and a sentence where there was a choice: a row of scores an image, or
    whole numbers where class numbers are declared; the first if none, or more than one, looks like that."""

    def fits(output: Any) -> bool:
        whole_numbers = "int" in output.type
        if kind == "label":
            return whole_numbers
        return output.type.startswith("tensor(") and not whole_numbers and _is_rows(output.shape)

    fitting = [output for output in outputs if fits(output)]
    output = outputs[0] if not fitting or fits(outputs[0]) else fitting[0]
    if len(fitting) > 1:
        names = ", ".join(output.name for output in fitting)
        return output, (f"output {output.name!r} of {names}, the first",)
    return output, () if output is outputs[0] else (f"output {output.name!r}, the one of {len(outputs)} that fits",)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
