"""`robustest serve`: the small reference server."""

from __future__ import annotations

from pathlib import Path


def serve(
    model: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = "model",
    input: Path | None = None,
    trust_model: str | None = None,
    threads: int | None = None,
) -> int:
    """Serve a model over the Open Inference Protocol (HTTP, binary tensors and JSON), to try things.

    Args:
        model: ONNX file or module:callable.
        host: address to listen on; 0.0.0.0 lets other machines in, unencrypted and without a login.
        port: to listen on; 0 for any that is free.
        name: of the model in its URL.
        input: TOML file with the input spec.
        trust_model: sha256:<digest> of a model file that may run code when it is loaded (pickles and the like).
        threads: of an ONNX model's own arithmetic; all cores if not given.
    """
    from robustest.serving import InferenceServer, served_model

    server = InferenceServer(
        served_model(model, input, name=name, threads=threads, trust_model=trust_model), host, port
    )
    print(f"serving {model}; Ctrl-C stops it. Audit it with:\n  robustest audit {server.url} IMAGES", flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        print("stopped")
    return 0
