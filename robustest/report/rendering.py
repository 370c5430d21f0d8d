"""From a template of this package to a page: style and script inside, every text escaped, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from robustest import __version__


def render(template: str, **context: Any) -> str:
    """A page from a template of this package, with the style and the script inside."""
    script = _part("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            version=__version__,
            style=Markup(_part("style.css")),
            script=Markup(script),
            script_digest=digest,
            **context,
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("robustest.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _part(name: str) -> str:
    """A file of ours that goes into the page as it is; it holds no text from outside."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
