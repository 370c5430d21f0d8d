"""The Open Inference Protocol over gRPC, on grpcio's generic calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from robustest.classifiers.served_http import proxy_for
from robustest.classifiers.served_protobuf import infer_request, metadata_request, read_answer, read_metadata
from robustest.classifiers.served_settings import Address, Secrets, ServerSettings
from robustest.classifiers.served_transport import (
    LARGEST_ANSWER,
    GarbledError,
    RefusedError,
    Signature,
    TransientError,
    request_id,
    short,
)
from robustest.errors import InvalidSetting, MissingExtra

_SERVICE = "/inference.GRPCInferenceService/"


class V2Grpc:
    """One channel to a server.

    Args:
        address: of the gRPC port, with the model. settings, secrets: of the server.

    Raises:
        MissingExtra: grpcio is not installed. InvalidSetting: the certificates cannot be read.
    """

    def __init__(self, address: Address, settings: ServerSettings, secrets: Secrets) -> None:
        try:
            import grpc
        except ImportError as error:
            raise MissingExtra("grpcio", "grpc", f"asking {address.source}") from error
        self._grpc = grpc
        self._address, self._timeout, self._secrets = address, settings.timeout, secrets
        self._metadata = tuple((name.lower(), value) for name, value in secrets.headers.items())
        proxy = proxy_for(address, settings)
        options: list[tuple[str, int | str]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", LARGEST_ANSWER),
            ("grpc.enable_http_proxy", int(proxy is not None)),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 5000),
        ]
        if proxy is not None:
            options.append(("grpc.http_proxy", proxy))
        if address.secure:
            roots = _certificates(settings.ca_file) if settings.ca_file else None
            self._channel = grpc.secure_channel(address.netloc, grpc.ssl_channel_credentials(roots), options=options)
        else:
            self._channel = grpc.insecure_channel(address.netloc, options=options)
        self._infer = self._channel.unary_unary(f"{_SERVICE}ModelInfer")
        self._about = self._channel.unary_unary(f"{_SERVICE}ModelMetadata")

    @property
    def name(self) -> str:
        """`grpc`."""
        return "grpc"

    def metadata(self) -> dict[str, Any]:
        """What the server says of the model."""
        return read_metadata(self._call(self._about, metadata_request(self._address.model, self._address.version)))

    def infer(self, batch: NDArray[Any], signature: Signature) -> NDArray[Any]:
        """The first output for a batch."""
        name = request_id()
        request = infer_request(self._address.model, self._address.version, name, batch, signature)
        answered, output = read_answer(self._call(self._infer, request), signature)
        if answered not in ("", name):
            raise TransientError("the answer is another request's")
        return output

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _call(self, method: Any, request: bytes) -> bytes:
        codes = self._grpc.StatusCode
        try:
            answer = method(request, timeout=self._timeout, metadata=self._metadata)
        except self._grpc.RpcError as error:
            code, said = error.code(), short(self._secrets.hide(error.details() or ""))
            what = f"{code.name}: {said}"
            received = code is codes.RESOURCE_EXHAUSTED and "larger than max" in said
            if received or code is codes.INVALID_ARGUMENT:
                raise RefusedError(what, 400, too_large=True) from None
            if code is codes.DEADLINE_EXCEEDED:
                raise TransientError(f"no answer within {self._timeout:g} s") from None
            if code in (codes.UNAVAILABLE, codes.RESOURCE_EXHAUSTED, codes.ABORTED, codes.CANCELLED):
                raise TransientError(what) from None
            raise RefusedError(what, 404 if code is codes.NOT_FOUND else 500) from None
        if not isinstance(answer, bytes):
            raise GarbledError("the answer is no message")
        return answer


def _certificates(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidSetting(f"[server] ca_file {path!r} cannot be read: {error.strerror}.") from None
