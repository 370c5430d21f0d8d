"""Servers with a JSON interface of their own: a request template, and where in the answer the scores are.

`request` is JSON in which the text "{images}" stands for the batch as nested lists, or "{image}" for one image where the
server takes one a request: `{"instances": "{images}"}`. `answer` is a path of keys and positions, `*` for every entry of
a list: `predictions`, `outputs.0.data`, `results.*.scores`. The values are the input spec's.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.served_http import HttpClient
from robustest.classifiers.served_settings import Address, ServerSettings
from robustest.classifiers.served_transport import LARGEST_ANSWER, GarbledError, Signature, short
from robustest.classifiers.served_v2 import parsed
from robustest.errors import InvalidSetting

_BATCH, _ONE = "{images}", "{image}"


class Template:
    """Inference by a request template.

    Raises:
        InvalidSetting: no template, or one without a place for the images.
    """

    def __init__(self, client: HttpClient, address: Address, settings: ServerSettings) -> None:
        if not settings.request:
            raise InvalidSetting(
                f"{address.source} needs a request template. Add to the input spec's TOML file:\n"
                '[server]\nrequest = \'{"instances": "{images}"}\'\nanswer = "predictions"\nshape = "32x32x3"'
            )
        try:
            self._request = json.loads(settings.request)
        except (ValueError, RecursionError) as error:
            raise InvalidSetting(f'[server] request must be JSON with "{_BATCH}" as a text in it: {error}.') from None
        places = _count(self._request, _BATCH), _count(self._request, _ONE)
        if sum(places) != 1:
            raise InvalidSetting(
                f'[server] request must hold the text "{_BATCH}" (or "{_ONE}" for a server that takes one) exactly once; '
                f"it does {sum(places)} times."
            )
        self.single = places[1] == 1
        self._client, self._path = client, address.path
        self._steps = [step for step in (settings.answer or "").split(".") if step]

    @property
    def name(self) -> str:
        """`template`."""
        return "template"

    def infer(self, batch: NDArray[Any], signature: Signature) -> NDArray[Any]:
        """What lies at the answer's path, for a batch; for one image its axis of length 1 may be missing."""
        values = batch[0] if self.single else batch
        filled = _filled(self._request, _ONE if self.single else _BATCH, values.tolist())
        body = json.dumps(filled, allow_nan=False).encode()
        reply = self._client.exchange("POST", self._path, body, {"Content-Type": "application/json"}, LARGEST_ANSWER)
        found = _at(parsed(reply.body), self._steps, ".".join(self._steps))
        try:
            scores = np.asarray(found)
        except ValueError:
            scores = np.zeros(0, dtype=object)
        if scores.dtype.kind not in "fiu":
            raise GarbledError(f"what lies at {'.'.join(self._steps) or 'the top'} is no array of numbers")
        return scores[None] if self.single and scores.ndim < 2 else scores

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _count(value: Any, text: str) -> int:
    if isinstance(value, dict):
        return sum(_count(entry, text) for entry in value.values())
    if isinstance(value, list):
        return sum(_count(entry, text) for entry in value)
    return int(value == text)


def _filled(value: Any, text: str, images: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(entry, text, images) for key, entry in value.items()}
    if isinstance(value, list):
        return [_filled(entry, text, images) for entry in value]
    return images if value == text else value


def _at(value: Any, steps: list[str], path: str) -> Any:
    for place, step in enumerate(steps):
        if step == "*" and isinstance(value, list):
            return [_at(entry, steps[place + 1 :], path) for entry in value]
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 9 and int(step) < len(value):
            value = value[int(step)]
        else:
            there = short(", ".join(map(str, value))) if isinstance(value, dict) else f"a {type(value).__name__}"
            raise GarbledError(f"the answer has nothing at {path!r}: {step!r} is not in {there}")
    return value
