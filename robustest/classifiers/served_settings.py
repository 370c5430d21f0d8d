"""Where a served model is and how it is asked: the URL, the `[server]` table, and the headers' secrets.

A URL is `SCHEME://HOST[:PORT]/PATH`, its settings after `#`, which is never sent: `v2+http://host:8000/model#timeout=5`.
The same keys stand in a table `[server]` of the input spec's TOML file; the URL's win. A value that must stay secret is
named, never written: `token_env`, `token_file`, and headers given as `env:NAME` or `file:PATH`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from robustest.classifiers.spec import InputSpec, read_spec
from robustest.errors import InvalidSetting, InvalidSpec

SCHEMES = ("v2+http", "v2+https", "v2+grpc", "v2+grpcs", "http+json", "https+json")
Transport = Literal["binary", "grpc", "json"]
_PORTS = {"v2+http": 8000, "v2+https": 443, "v2+grpc": 8001, "v2+grpcs": 443, "http+json": 80, "https+json": 443}
_SECRET = re.compile(r"auth|token|secret|key|cookie|password|credential|sig", re.IGNORECASE)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server is asked.

    timeout: seconds for one request, connecting apart, > 0. patience: seconds for a question with all its retries.
    retries: how often a question is sent again, >= 0.
    concurrent: requests in flight at once, >= 1. rate: images a second at most, None for no limit.
    batch: images a request at most; None to measure.
    transport: `binary`, `grpc` or `json`; None to probe. grpc: HOST:PORT of the same server's gRPC, tried before JSON.
    prefix: path before `/v2`, where a gateway has one.
    input_name, output_name, datatype: where the server does not say. shape: (H, W, C), where it does not say.
    headers: name and `env:NAME`, `file:PATH` or plain text of each. token_env, token_file: where a bearer token is.
    ca_file: certificates to trust, PEM. proxy: URL; None for the environment's, `none` for none.
    request, answer: of a template server, see `served_template`.
    """

    timeout: float = 30.0
    patience: float = 120.0
    retries: int = 5
    concurrent: int = 4
    rate: float | None = None
    batch: int | None = None
    transport: Transport | None = None
    grpc: str | None = None
    prefix: str = ""
    input_name: str | None = None
    output_name: str | None = None
    datatype: str | None = None
    shape: tuple[int, int, int] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    token_env: str | None = None
    token_file: str | None = None
    ca_file: str | None = None
    proxy: str | None = None
    request: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        for name in ("timeout", "patience", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e6:
                raise InvalidSetting(f"[server] {name} must be > 0; got {value!r}.")
        for name, least in (("retries", 0), ("concurrent", 1), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value <= 10_000:
                raise InvalidSetting(f"[server] {name} must be {least} to 10000; got {value!r}.")
        if self.transport not in (None, "binary", "grpc", "json"):
            raise InvalidSetting(f"[server] transport must be binary, grpc or json; got {self.transport!r}.")
        if self.token_env and self.token_file:
            raise InvalidSetting("[server] give token_env or token_file, not both.")
        for name, source in self.headers:
            if not _HEADER.fullmatch(name):
                raise InvalidSetting(f"[server] headers: {name!r} is no header's name.")
            if _SECRET.search(name) and not source.startswith(("env:", "file:")):
                raise InvalidSetting(
                    f"[server] header {name} looks secret, and a plain value would be written into the run folder. Give "
                    "env:NAME or file:PATH in its place."
                )


_KINDS = {field.name: str(field.type) for field in fields(ServerSettings)}


@dataclass(frozen=True, slots=True)
class Address:
    """A served model's URL, taken apart.

    scheme: one of SCHEMES. host: name or IP, IPv6 without brackets. model, version: of v2. path: of http+json, with its query.
    """

    scheme: str
    host: str
    port: int
    model: str = ""
    version: str = ""
    path: str = ""

    @property
    def secure(self) -> bool:
        """True for TLS."""
        return self.scheme in ("v2+https", "v2+grpcs", "https+json")

    @property
    def netloc(self) -> str:
        """HOST:PORT, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def source(self) -> str:
        """What to call it in reports and errors: the URL without queries and settings."""
        path = (
            self.path.partition("?")[0] if self.path else f"/{self.model}" + (f"/{self.version}" * bool(self.version))
        )
        return f"{self.scheme}://{self.netloc}{path}"


def read_address(url: str, table: Mapping[str, Any] | None = None) -> tuple[Address, ServerSettings]:
    """A URL taken apart, and the settings of a `[server]` table with the URL's own over them.

    Raises:
        InvalidSetting: not a served model's URL, or bad settings. What could be secret is not repeated.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise InvalidSetting(f"the served model's URL cannot be read: {error}.") from None
    form = "It must be v2+http://HOST:PORT/MODEL[/VERSION], v2+grpc://..., or http+json://HOST:PORT/PATH"
    if parts.scheme not in SCHEMES or not host:
        raise InvalidSetting(f"{parts.scheme or 'this'}://{host} is no served model's URL. {form}.")
    if parts.username is not None or parts.password is not None:
        raise InvalidSetting(
            "a served model's URL must hold no user name or password: it is written into results. Name the secret with "
            "#token_env=NAME or a header env:NAME in the [server] table."
        )
    address = Address(parts.scheme, host, port or _PORTS[parts.scheme])
    if parts.scheme.endswith("+json"):
        for name, _ in parse_qsl(parts.query):
            if _SECRET.search(name):
                raise InvalidSetting(
                    f"the query {name!r} of a served model's URL looks secret, and the URL is written into results. Send it as a "
                    "header: env:NAME in the [server] table."
                )
        address = replace(address, path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
    else:
        names = [unquote(name) for name in parts.path.strip("/").split("/")]
        if parts.query or not 1 <= len(names) <= 2 or not all(names):
            raise InvalidSetting(f"{address.scheme}://{address.netloc} must be followed by a model's name. {form}.")
        address = replace(address, model=names[0], version=names[1] if len(names) == 2 else "")
    return address, _settings(table or {}, _own(parts.fragment))


def _own(fragment: str) -> dict[str, Any]:
    """The table of the settings that a URL carries."""
    table: dict[str, Any] = {}
    try:
        pairs = parse_qsl(fragment, keep_blank_values=True, strict_parsing=bool(fragment))
    except ValueError:
        raise InvalidSetting("settings in a served model's URL must be #name=value&name=value.") from None
    for name, value in pairs:
        if name.startswith("header."):
            table.setdefault("headers", {})[name.removeprefix("header.")] = value
        else:
            table[name] = value
    return table


def _settings(*tables: Mapping[str, Any]) -> ServerSettings:
    values: dict[str, Any] = {}
    for table in tables:
        for name, value in table.items():
            if name not in _KINDS:
                raise InvalidSetting(f"[server] {name!r} is unknown; the keys are {', '.join(_KINDS)}.")
            values[name] = _value(name, value)
    return ServerSettings(**values)


def _value(name: str, value: Any) -> Any:
    kind = _KINDS[name]
    try:
        if name == "shape":
            sides = value.lower().split("x") if isinstance(value, str) else value
            height, width, channels = (int(side) for side in sides)
            if min(height, width) < 1 or max(height, width) > 65536 or channels not in (1, 3):
                raise ValueError
            return height, width, channels
        if name == "headers":
            return tuple((str(key), _text(text)) for key, text in value.items())
        if kind.startswith("int"):
            return int(value) if isinstance(value, str) else _whole(value)
        if kind.startswith("float"):
            return float(_text(value) if isinstance(value, str) else _number(value))
        return _text(value)
    except (TypeError, ValueError, AttributeError, OverflowError):
        wanted = {"shape": "HEIGHTxWIDTHxCHANNELS", "headers": "a table of texts"}.get(name)
        wanted = wanted or ("a whole number" if kind.startswith("int") else "a number" if "float" in kind else "text")
        raise InvalidSetting(f"[server] {name} must be {wanted}.") from None


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or any(ord(sign) < 32 and sign not in "\n\t" for sign in value):
        raise TypeError
    return value


def with_settings(address: Address, settings: ServerSettings) -> str:
    """One URL with all settings in it: what another process needs to open the same model. It holds no secret."""
    default = ServerSettings()
    changed: list[tuple[str, str]] = []
    for name in _KINDS:
        value = getattr(settings, name)
        if value == getattr(default, name):
            continue
        if name == "headers":
            changed += [(f"header.{key}", text) for key, text in value]
        else:
            changed.append((name, "x".join(map(str, value)) if name == "shape" else str(value)))
    path = address.path or "/" + "/".join(quote(name, safe="") for name in (address.model, address.version) if name)
    return f"{address.scheme}://{address.netloc}{path}" + (f"#{urlencode(changed)}" if changed else "")


def read_served(path: str | Path) -> tuple[InputSpec | None, dict[str, Any]]:
    """The input spec of a TOML file, None where it says nothing of the input, and its table `[server]`.

    Raises:
        InvalidSpec: as `read_spec`, or `[server]` is no table.
    """
    spec = read_spec(path)
    table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    server = table.get("server", {})
    if not isinstance(server, dict):
        raise InvalidSpec(f"input spec {str(path)!r}: [server] must be a table.")
    return (spec if set(table) - {"server"} else None), server


class Secrets:
    """Headers with their values, and what of them must not be repeated. Never pickled, never shown."""

    def __init__(self, settings: ServerSettings) -> None:
        self.headers: dict[str, str] = {}
        self._hidden: set[str] = set()
        for name, source in settings.headers:
            self.headers[name] = self._resolved(source, f"header {name}")
        if settings.token_env or settings.token_file:
            where = f"env:{settings.token_env}" if settings.token_env else f"file:{settings.token_file}"
            self.headers["Authorization"] = f"Bearer {self._resolved(where, 'the token')}"

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self.headers)})"

    def __reduce__(self) -> Any:
        raise TypeError("secrets are not pickled")

    def hide(self, text: str) -> str:
        """The text with every secret blotted out: for errors that repeat what a server said."""
        for secret in sorted(self._hidden, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def _resolved(self, source: str, what: str) -> str:
        kind, _, name = source.partition(":")
        if kind == "env":
            if name not in os.environ:
                raise InvalidSetting(f"[server] {what}: the environment variable {name!r} is not set.")
            value = os.environ[name]
        elif kind == "file":
            try:
                value = Path(name).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not text"
                raise InvalidSetting(f"[server] {what}: the file {name!r} cannot be read: {reason}.") from None
        else:
            return source
        if not value or len(value) > 65536 or not value.isascii() or not value.isprintable():
            raise InvalidSetting(f"[server] {what}: {source!r} must hold one line of printable ASCII text.")
        self._hidden.add(value)
        return value
