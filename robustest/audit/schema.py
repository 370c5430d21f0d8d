"""`result.json` against its JSON Schema, which lies beside this module (draft 7), when written and when read.

The schema is compiled once: an entry then takes some 10 microseconds, against 300 when it is interpreted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from robustest.errors import RunConflict


@cache
def result_schema() -> dict[str, Any]:
    """The schema of `result.json`."""
    text = files("robustest.audit").joinpath("result.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@cache
def _whole() -> Callable[[Any], Any]:
    return _compiled(result_schema())


@cache
def _entry() -> Callable[[Any], Any]:
    schema = result_schema()
    return _compiled({**schema["definitions"]["image"], "definitions": schema["definitions"]})


def _compiled(schema: dict[str, Any]) -> Callable[[Any], Any]:
    import fastjsonschema

    local = {
        key: value for key, value in schema.items() if key != "$id"
    }  # or references would be looked up at that address
    compiled: Callable[[Any], Any] = fastjsonschema.compile(local, use_default=False, detailed_exceptions=False)
    return compiled


def check_result(content: Any, where: str) -> None:
    """Check a whole result.

    Raises:
        RunConflict: it does not fit, naming the first place that does not.
    """
    _check(_whole(), content, where)


def check_entry(entry: Any, where: str) -> None:
    """Check one image's entry.

    Raises:
        RunConflict: it does not fit, naming the first place that does not.
    """
    _check(_entry(), entry, where)


def _check(compiled: Callable[[Any], Any], content: Any, where: str) -> None:
    import fastjsonschema

    try:
        compiled(content)
    except fastjsonschema.JsonSchemaValueException as error:
        raise RunConflict(
            f"{where} is not a result of robustest, version 1: {error.message[:300]}. It was written by another version, or changed."
        ) from error
