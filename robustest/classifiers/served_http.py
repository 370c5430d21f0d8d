"""HTTP with bounds: every exchange ends within its time, however slowly the server speaks, and takes bounded memory.

urllib3 renews its time-out at every byte, so a server that drips could hold a request for ever: a timer therefore shuts
the socket when the time of the whole exchange is over. Redirects are not followed: they could carry a token elsewhere.
"""

from __future__ import annotations

import email.utils
import math
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationValueError, ReadTimeoutError, SSLError

from robustest.classifiers.served_settings import Address, Secrets, ServerSettings
from robustest.classifiers.served_transport import GarbledError, RefusedError, TransientError, short
from robustest.errors import InvalidSetting

_CHUNK = 1 << 16
_CONNECT = 10.0  # seconds to connect
_current = threading.local()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its status, its headers, its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Deadline:
    """Shuts the connection that this thread uses when the time is over."""

    def __init__(self, seconds: float) -> None:
        self.connection: Any = None
        self.over = False
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        _current.deadline = self
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        _current.deadline = None
        self.connection = None

    def _expire(self) -> None:
        self.over = True
        sock = getattr(self.connection, "sock", None)
        if sock is not None:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of the plain socket: TLS would first say goodbye


def _watched() -> _Deadline | None:
    return getattr(_current, "deadline", None)


class _Plain(HTTPConnection):
    def connect(self) -> None:
        _register(self)
        super().connect()

    def request(self, *args: Any, **kwargs: Any) -> None:
        _register(self)
        super().request(*args, **kwargs)


class _Secure(HTTPSConnection):
    def connect(self) -> None:
        _register(self)
        super().connect()

    def request(self, *args: Any, **kwargs: Any) -> None:
        _register(self)
        super().request(*args, **kwargs)


def _register(connection: Any) -> None:
    deadline = _watched()
    if deadline is not None:
        deadline.connection = connection


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


class HttpClient:
    """A pool of connections to one server.

    Args:
        address, settings, secrets: of the server.

    Raises:
        InvalidSetting: the proxy's URL or the certificates cannot be used.
    """

    def __init__(self, address: Address, settings: ServerSettings, secrets: Secrets) -> None:
        self._root = f"{'https' if address.secure else 'http'}://{address.netloc}"
        self._timeout = settings.timeout
        self._secrets = secrets
        self._pool = _pool(address, settings)

    def get(self, path: str, limit: int) -> Reply:
        """Ask for a page; see `exchange`."""
        return self.exchange("GET", path, None, {}, limit)

    def exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], limit: int) -> Reply:
        """One request and its whole answer.

        Args:
            path: with its leading slash. limit: bytes that the answer may have.

        Raises:
            TransientError: no connection, no answer in time, 429, 502, 503 or 504. RefusedError: any other status but 200.
            GarbledError: the answer is too long, or compressed unasked.
        """
        sent = {"Accept-Encoding": "identity", "User-Agent": "robustest", **self._secrets.headers, **headers}
        with _Deadline(self._timeout) as deadline:
            try:
                reply = self._exchange(method, self._root + path, body, sent, limit)
            except SSLError as error:
                if deadline.over:
                    raise self._late() from None
                raise RefusedError(f"no TLS connection: {self._hidden(error)}", 0) from None
            except (HTTPError, OSError, ValueError, AttributeError) as error:
                # Shutting the socket while urllib3 reads can raise any of these, as can bytes that are no HTTP.
                if deadline.over or isinstance(error, ReadTimeoutError):
                    raise self._late() from None
                raise TransientError(f"the connection failed: {self._hidden(error)}") from None
        if deadline.over:  # the end that was read is the one that the timer made
            raise self._late()
        return self._checked(reply)

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def _late(self) -> TransientError:
        return TransientError(f"no whole answer within {self._timeout:g} s")

    def _hidden(self, error: Exception) -> str:
        reason = getattr(error, "reason", None)
        return short(
            self._secrets.hide(str(reason if isinstance(reason, Exception) else error) or type(error).__name__)
        )

    def _exchange(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], limit: int) -> Reply:
        response = self._pool.request(
            method,
            url,
            body=body,
            headers=headers,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
            timeout=urllib3.Timeout(connect=min(_CONNECT, self._timeout), read=self._timeout),
        )
        whole = False
        try:
            parts: list[bytes] = []
            size = 0
            while part := response.read1(_CHUNK):
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise GarbledError(f"the answer is longer than {limit} bytes, the most it may need")
            whole = True
            return Reply(response.status, response.headers, b"".join(parts))
        finally:
            if not whole:
                response.close()
            response.release_conn()

    def _checked(self, reply: Reply) -> Reply:
        status = reply.status
        if reply.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise GarbledError("the answer is compressed, which was not asked for")
        if status == 200:
            return reply
        said = short(self._secrets.hide(reply.body[:4096].decode("utf-8", "replace")))
        what = f"status {status}" + (f": {said}" if said else "")
        if status in (429, 502, 503, 504):
            raise TransientError(what, _retry_after(reply.headers.get("Retry-After")))
        if 300 <= status < 400:
            where = short(self._secrets.hide(reply.headers.get("Location", "").partition("?")[0])) or "nowhere"
            raise RefusedError(f"status {status}, a redirect to {where}, which is not followed", status)
        raise RefusedError(what, status, too_large=status in (400, 413))


def _retry_after(value: str | None) -> float | None:
    """Seconds, or a date, as RFC 9110 allows."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _pool(address: Address, settings: ServerSettings) -> urllib3.PoolManager:
    common: dict[str, Any] = {"num_pools": 2, "maxsize": settings.concurrent, "block": True}
    if address.secure:
        common["cert_reqs"] = "CERT_REQUIRED"
        common["ca_certs"] = settings.ca_file
        if settings.ca_file is not None:
            _check_certificates(settings.ca_file)
    proxy = proxy_for(address, settings)
    try:
        pool = _through(proxy, common) if proxy else urllib3.PoolManager(**common)
    except (HTTPError, LocationValueError, ValueError, AssertionError):
        raise InvalidSetting("[server] proxy must be http://HOST:PORT or https://HOST:PORT.") from None
    pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
    return pool


def _through(proxy: str, common: dict[str, Any]) -> urllib3.PoolManager:
    url = urllib3.util.parse_url(proxy)
    login = urllib3.make_headers(proxy_basic_auth=url.auth) if url.auth else None
    bare = url._replace(auth=None).url
    return urllib3.ProxyManager(bare, proxy_headers=login, **common)


def _check_certificates(path: str) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise InvalidSetting(f"[server] ca_file {path!r} cannot be used: it holds no certificates in PEM.") from None
    except OSError as error:
        raise InvalidSetting(f"[server] ca_file {path!r} cannot be used: {error.strerror}.") from None


def proxy_for(address: Address, settings: ServerSettings) -> str | None:
    """The proxy's URL: the setting, or the environment's except for this machine and hosts in `no_proxy`."""
    if settings.proxy is not None:
        return None if settings.proxy == "none" else settings.proxy
    if address.host == "localhost" or address.host.startswith("127.") or address.host == "::1":
        return None
    if urllib.request.proxy_bypass(address.host):
        return None
    return urllib.request.getproxies().get("https" if address.secure else "http")
