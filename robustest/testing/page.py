"""One self-contained HTML page about all claims of a test session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment

from robustest.audit.files import writing

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Robustness claims</title>
<style>
:root { color-scheme: light dark; } body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
li { margin: 0 0 1.5rem; } .answer { font-weight: 700; } .proven { color: #18794e; } .refuted { color: #cd2b31; } .inconclusive { color: #ad5700; }
@media (prefers-color-scheme: dark) { .proven { color: #4cc38a; } .refuted { color: #ff9592; } .inconclusive { color: #ffca16; } }
code { overflow-wrap: anywhere; } ul { padding-left: 1.2rem; }
</style></head><body>
<h1>Robustness claims</h1>
{% if smoke %}<p class="answer inconclusive">Smoke test: query budgets were scaled.</p>{% endif %}
<p>{{ claims | length }} claims. An attack bounds robustness from above only: "survives" is about this attack at this budget.</p>
<ol>{% for claim in claims %}
<li><p><code>{{ claim[0] }}</code><br><span class="answer {{ claim[1].split(':')[0] }}">{{ claim[1] }}</span></p>
<ul>{% for line in claim[2:] %}<li>{{ line }}</li>{% endfor %}</ul></li>{% endfor %}
</ol></body></html>
"""


def write_page(path: Path, claims: Sequence[Sequence[str]], *, smoke: bool = False) -> None:
    """Write the page.

    Args:
        claims: for each, the test's id, the headline (`proven: ...`), then lines of evidence.
        smoke: budgets were scaled.
    """
    page = Environment(autoescape=True).from_string(_TEMPLATE).render(claims=claims, smoke=smoke)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as handle:
        handle.write(page.encode())
