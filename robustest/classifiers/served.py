"""Models behind a server: the Open Inference Protocol over HTTP and gRPC, and JSON interfaces by a template.

The server's batch is measured; larger batches are split and several requests are in flight at once. What an image is
answered does not depend on that: where it would, a probe finds it and every request gets exactly as many images.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.canvas import HostCanvas
from robustest.classifiers.classifier import Canvas, ClassifierInfo, Images, as_rows, check_scores
from robustest.classifiers.served_asking import Asker, ServedCounts
from robustest.classifiers.served_grpc import V2Grpc
from robustest.classifiers.served_http import HttpClient
from robustest.classifiers.served_measure import Candidate, choose_transport, measure_batch
from robustest.classifiers.served_settings import Address, Secrets, ServerSettings, read_address, with_settings
from robustest.classifiers.served_template import Template
from robustest.classifiers.served_transport import INPUT_DTYPES, RefusedError, Signature, Transport
from robustest.classifiers.served_v2 import V2Http, as_input, extensions, metadata, model_path, signature_of
from robustest.classifiers.shapes import check_whole_numbers, guess_output, guess_spec, image_shape
from robustest.classifiers.spec import InputSpec
from robustest.errors import EnvironmentFailure, InvalidSetting, ModelError, SwappedModelError
from robustest.results import Scores

_MOST = 512  # images of one call
_PROBE = 4  # images asked while opening
_SWAPPED = 1e-5  # of the range of the scores: more than another kernel's rounding
_UNSIZED = 32  # pixels a side of noise for a model that takes any size


class SlowTransportWarning(UserWarning):
    """The server speaks JSON alone."""


class ServedClassifier:
    """A model behind a server.

    Args:
        address, settings: where it is and how it is asked. spec: how it wants its input; None to guess.
        told: fields of the spec that hold whatever else says.

    Raises:
        EnvironmentFailure: the server cannot be reached. ModelError: it has no such model, or gives no scores.
        InvalidSetting, InvalidSpec: the settings or the spec do not fit.
    """

    def __init__(
        self,
        address: Address,
        settings: ServerSettings,
        spec: InputSpec | None = None,
        told: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._address, self._settings = address, settings
        self._guess_output = spec is None and "output" not in told
        self._asker = Asker(settings, address.source)
        self._secrets = Secrets(settings)
        self._pool: ThreadPoolExecutor | None = None
        self._probe: tuple[Images, Scores, float] | None = None
        self._transport: Transport
        self._notes: tuple[str, ...] = ()
        self._signature, faster, slowest = self._found()
        self._spec, guessed = (replace(spec, **told), ()) if spec is not None else self._guessed(told)
        if self._signature.datatype not in INPUT_DTYPES:
            raise ModelError(
                f"{address.source} takes {self._signature.datatype}; an image classifier takes {', '.join(INPUT_DTYPES)}."
            )
        if self._signature.datatype == "UINT8":
            check_whole_numbers(self._spec, address.source)
        shape = image_shape(self._signature.shape, self._spec, address.source)
        if settings.shape is not None:
            shape = settings.shape
        self._info = ClassifierInfo(
            source=address.source,
            spec=self._spec,
            image_shape=shape,
            classes=None if self._spec.output == "label" else self._signature.classes,
            guessed=guessed,
            fixed_batch=self._signature.shape[0],
            steady=True,
        )
        self._choose(faster, slowest)
        self._batch = self._measured()
        self._info = replace(self._info, largest_batch=min(_MOST, self._batch * settings.concurrent))
        self._asker.opening = False

    @property
    def info(self) -> ClassifierInfo:
        """What is known without asking."""
        return self._info

    @property
    def reference(self) -> str:
        """The URL with all settings, secrets by name alone: with the spec, all that another process needs to open it."""
        return with_settings(self._address, self._settings)

    @property
    def transport(self) -> str:
        """`binary`, `grpc`, `json` or `template`."""
        return self._transport.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Why other transports were not taken, and how slow JSON is."""
        return self._notes

    @property
    def counts(self) -> ServedCounts:
        """Images sent, answered, retried and repeated so far, by this process."""
        return self._asker.counts

    @property
    def failures(self) -> int:
        """Requests so far that failed and were sent again, by this process."""
        return self._asker.failed

    def __call__(self, images: Images, /) -> Scores:
        """Score images (N, H, W, C) in [0, 1]."""
        return self._run(self._spec.prepare(images))

    def canvas(self, shape: tuple[int, int, int], *, slots: int, rows: int, pad: bool = False) -> Canvas:
        """A canvas in main memory. With `pad`, several requests of exactly `rows` images are drawn and sent at once."""
        if not pad:
            return HostCanvas(self._run, self._spec, shape, slots=slots, rows=rows)
        run = functools.partial(self._run, exactly=rows)
        return HostCanvas(run, self._spec, shape, slots=slots, rows=rows * self._settings.concurrent)

    def begin_run(self, images: Images) -> None:
        """Score a probe set (P, H, W, C), twice, so that `end_run` can tell whether the model is still the same."""
        before, again = self(images), self(images)
        self._probe = (images, before, _largest_gap(before, again))

    def end_run(self) -> ServedCounts:
        """Score the probe set of `begin_run` once more.

        Returns:
            The counts of the run.

        Raises:
            SwappedModelError: the scores are others than before, by more than the server's own noise: the run is invalid.
        """
        if self._probe is not None:
            images, before, noise = self._probe
            after = self(images)
            gap = _largest_gap(before, after) if after.shape == before.shape else float("inf")
            if gap > max(10 * noise, _SWAPPED * max(1.0, float(np.ptp(before)))):
                raise SwappedModelError(
                    f"{self._info.source} is not the model that it was when the run began: scores of the same {len(images)} "
                    f"images differ by up to {gap:g} (asked twice at the beginning: {noise:g}). The run is invalid. Make sure "
                    "that nobody deploys meanwhile, name a version in the URL, and start again in another folder."
                )
        return self.counts

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._transport.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_served, (self.reference, self._spec)

    def _found(self) -> tuple[Signature, list[Candidate], Transport | None]:
        """The model's signature, the transports to try in order, and the one that they are compared with."""
        address, settings, secrets, asker = self._address, self._settings, self._secrets, self._asker
        scheme = address.scheme
        if scheme.endswith("+json"):
            template = Template(HttpClient(address, settings, secrets), address, settings)
            if settings.shape is None:
                raise InvalidSetting(
                    f"{address.source} says nothing of its input: give [server] shape = HEIGHTxWIDTHxCHANNELS."
                )
            shape = (1 if template.single else None, None, None, None)
            return Signature("", None, "FP32", shape, None), [Candidate(template, advertised=True)], None
        if scheme.startswith("v2+grpc"):
            grpc = V2Grpc(address, settings, secrets)
            signature = signature_of(self._page(grpc.metadata), settings, source=address.source)
            return signature, [Candidate(grpc, advertised=True)], None
        client = HttpClient(address, settings, secrets)
        signature = signature_of(
            self._page(lambda: metadata(client, address, settings)), settings, source=address.source
        )
        named = asker.persistently(lambda: extensions(client, settings))
        path = model_path(address, settings)
        faster = [Candidate(V2Http(client, path, binary=True), advertised="binary_tensor_data" in named)]
        if settings.grpc is not None:
            port = _grpc_address(address, settings.grpc)
            faster.append(Candidate(V2Grpc(port, settings, secrets), advertised=True))
        elif settings.transport == "grpc":
            raise InvalidSetting(
                "[server] transport grpc needs grpc = HOST:PORT, or a URL that begins with v2+grpc://."
            )
        if settings.transport is not None:
            faster = [candidate for candidate in faster if candidate.transport.name == settings.transport]
        return signature, faster, V2Http(client, path, binary=False)

    def _page(self, question: Any) -> Any:
        try:
            return self._asker.persistently(question)
        except RefusedError as error:
            version = f" version {self._address.version!r}" if self._address.version else ""
            raise EnvironmentFailure(
                f"{self._address.source}: the server does not show a model {self._address.model!r}{version}: {error}. Check the "
                "name, the version, the token, and that the server speaks the Open Inference Protocol (v2)."
            ) from None

    def _guessed(self, told: Mapping[str, Any]) -> tuple[InputSpec, tuple[str, ...]]:
        shape = self._signature.shape
        if shape[1:] == (None, None, None) and self._settings.shape is not None:
            shape = (None, *self._settings.shape)
        sides = [-1 if side is None else side for side in shape]
        return guess_spec(sides, told, whole_numbers=self._signature.datatype == "UINT8")

    def _choose(self, faster: list[Candidate], slowest: Transport | None) -> None:
        """Take a transport, and from its answer the number of classes, and the kind of output where that was guessed."""
        count = self._info.fixed_batch or _PROBE
        chosen = choose_transport(self._asker, faster, slowest, self._noise(count), self._signature)
        self._transport = chosen.transport
        self._notes = chosen.notes
        guessed = self._info.guessed
        if self._guess_output:
            output, how = guess_output(as_rows(chosen.answer))
            self._spec = replace(self._spec, output=output)
            guessed = (*guessed, how)
        scores = check_scores(chosen.answer, count, self._spec.output, source=self._info.source)
        classes = scores.shape[1] if scores.ndim == 2 else None
        self._info = replace(self._info, spec=self._spec, classes=classes, guessed=guessed)
        self._signature = replace(self._signature, classes=classes or 1)

    def _noise(self, count: int) -> NDArray[Any]:
        height, width, channels = self._info.image_shape
        shape = (count, height or _UNSIZED, width or _UNSIZED, channels or self._spec.channel_count)
        noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32) / np.float32(255)
        return as_input(self._spec.prepare(noise), self._signature.datatype)

    def _measured(self) -> int:
        """Images a request."""
        if self._info.fixed_batch is not None:
            return self._info.fixed_batch
        if self._settings.batch is not None and self.transport not in ("json", "template"):
            return self._settings.batch
        transport, signature = self._transport, self._signature
        one = self._noise(1)

        def send(count: int) -> None:
            self._asker.ask(transport, np.repeat(one, count, axis=0), signature)

        size, rate = measure_batch(self._asker, send, one.nbytes)
        if self.transport == "json":
            self._notes = (*self._notes, f"transport JSON, the slowest: {rate:.0f} images/s measured")
            warnings.warn(
                f"{self._info.source} is asked in JSON, {rate:.0f} images/s measured with {size} a request. Binary tensors and "
                "gRPC were 3 to 200 times faster where both were measured. If it has a gRPC port, add grpc=HOST:PORT.",
                SlowTransportWarning,
                stacklevel=2,
            )
        return self._settings.batch or size

    def _run(self, batch: NDArray[np.float32], *, exactly: int | None = None) -> Scores:
        """Scores of a batch in the model's own layout, in requests of at most (or exactly) so many images."""
        fixed = self._info.fixed_batch or exactly
        size = fixed or min(self._batch, self._asker.largest or self._batch)
        count = len(batch)
        if fixed and count % fixed:
            batch = np.concatenate([batch, np.repeat(batch[-1:], -count % fixed, axis=0)])
        requests = max(1, -(-len(batch) // size))
        parts = np.array_split(as_input(batch, self._signature.datatype), requests)
        answers = [self._ask(parts[0])] if requests == 1 else list(self._threads().map(self._ask, parts))
        if len({answer.shape[1:] for answer in answers}) != 1:
            raise ModelError(f"{self._info.source} answers with different numbers of scores to parts of one batch.")
        return check_scores(np.concatenate(answers)[:count], count, self._info.output, source=self._info.source)

    def _ask(self, part: NDArray[Any]) -> NDArray[Any]:
        return self._asker.ask(self._transport, part, self._signature)

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._settings.concurrent, thread_name_prefix="robustest-served")
        return self._pool


def open_served(
    url: str,
    spec: InputSpec | None = None,
    server: Mapping[str, Any] | None = None,
    *,
    told: Mapping[str, Any] = MappingProxyType({}),
) -> ServedClassifier:
    """Open a model behind a server.

    Args:
        url: `v2+http://HOST:PORT/MODEL[/VERSION]`, `v2+grpc://...`, `http+json://HOST:PORT/PATH`, settings after `#`.
        spec: how the model wants its input; None to guess from what the server says.
        server: the `[server]` table of a TOML file; the URL's own settings win.
        told: fields of the spec that hold whatever else says.

    Raises:
        EnvironmentFailure, ModelError, InvalidSetting, InvalidSpec, MissingExtra: each says what to do.
    """
    address, settings = read_address(url, server)
    return ServedClassifier(address, settings, spec, told)


def _grpc_address(address: Address, text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidSetting(f"[server] grpc must be HOST:PORT; got {text!r}.")
    return replace(address, scheme="v2+grpcs" if address.secure else "v2+grpc", host=host.strip("[]"), port=int(port))


def _largest_gap(first: Scores, second: Scores) -> float:
    return float(np.abs(first.astype(np.float64) - second.astype(np.float64)).max(initial=0.0))
