"""From what a user names to a classifier: an ONNX file, `module:callable`, a served model, a module, a function."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from robustest.classifiers.classifier import Classifier
from robustest.classifiers.spec import InputSpec, read_spec, spec_beside
from robustest.errors import InvalidSetting, MissingExtra, ModelError, UntrustedModel

_SERVED = ("v2+http://", "v2+https://", "v2+grpc://", "v2+grpcs://", "http+json://", "https+json://")
_CODE = {
    ".pt": "a pickled torch module runs code when loaded",
    ".pth": "a pickled torch module runs code when loaded",
    ".pkl": "a pickle runs code when loaded",
    ".pickle": "a pickle runs code when loaded",
    ".joblib": "a pickle runs code when loaded",
    ".pt2": "torch.export.load falls back to unpickling, which runs code",
    ".ts": "TorchScript is code",
    ".torchscript": "TorchScript is code",
    ".keras": "Keras files can hold code",
    ".h5": "Keras files can hold code",
}
# Operators of exported programs that differ while training, with the place of the argument that says so.
_TRAINING = {
    "aten.dropout.default": 2,
    "aten.feature_dropout.default": 2,
    "aten.alpha_dropout.default": 2,
    "aten.batch_norm.default": 5,
}


def load_classifier(
    path_or_callable: Any,
    spec: InputSpec | str | Path | None = None,
    *,
    told: Mapping[str, Any] = MappingProxyType({}),
    device: str | None = None,
    threads: int | None = None,
    trust_model: str | None = None,
) -> Classifier:
    """Make a classifier of what the user has.

    Args:
        path_or_callable: path of an ONNX file; `module:callable` (a torch module, a function on NHWC arrays in [0, 1],
            or a function without arguments that returns either); `v2+http://host:port/model` and the like; a torch
            module; any callable on arrays; or a classifier, which is returned as it is.
        spec: input spec, or the path of a TOML file with one (and with a table `[server]` where the model is served); None
            to look beside the model or to guess.
        told: fields of the input spec that hold whatever else says, such as `{"output": "label"}`; the rest is read or
            guessed as without them.
        device: for torch modules alone, such as `cuda:0`.
        threads: for ONNX files, of the model's own arithmetic.
        trust_model: `sha256:<digest>` of a file that may run code when loaded.

    Raises:
        ModelError, InvalidSpec, UntrustedModel, InvalidSetting, MissingExtra: each says what to do.
    """
    if isinstance(path_or_callable, (str, os.PathLike)):
        name, chosen = str(path_or_callable), spec
        if isinstance(chosen, (str, Path)):
            name, chosen = with_input(name, chosen)
        made = _named(name, chosen, told, device=device, threads=threads, trust_model=trust_model)
    else:
        chosen = read_spec(spec) if isinstance(spec, (str, Path)) else spec
        made = _wrapped(path_or_callable, chosen, told, device=device, source=None)
    if device not in (None, "cpu") and not hasattr(made, "device"):
        raise InvalidSetting(
            f"device must be left away, or 'cpu', for {made.info.source}; got {device!r}. Only torch modules run on a device of your choice: "
            "name one as module:callable."
        )
    return made


def with_input(name: str, path: str | Path) -> tuple[str, InputSpec | None]:
    """A model's name and its input spec from a TOML file. Of a served model, the file's table `[server]` becomes a part of
    the URL, and the spec is None where the file says nothing of the input.

    Raises:
        InvalidSpec, InvalidSetting: the file cannot be used.
    """
    if not name.startswith(_SERVED):
        return name, read_spec(path)
    from robustest.classifiers.served_settings import read_address, read_served, with_settings

    spec, server = read_served(path)
    return with_settings(*read_address(name, server)), spec


def _named(
    name: str,
    spec: InputSpec | None,
    told: Mapping[str, Any],
    *,
    device: str | None,
    threads: int | None,
    trust_model: str | None,
) -> Classifier:
    if name.startswith(_SERVED):
        from robustest.classifiers.served import open_served

        return open_served(name, spec, told=told)
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from robustest.classifiers.onnx_file import OnnxClassifier

        return OnnxClassifier(path, spec, told=told, threads=threads)
    if suffix in _CODE:
        value, digest = _load_trusted(path, trust_model)
        return _wrapped(value, spec or _beside(path), told, device=device, source=path.name, digest=digest)
    if ":" in name and not path.exists():
        return _wrapped(_imported(name), spec, told, device=device, source=name)
    if path.exists():
        raise InvalidSetting(
            f"MODEL {name!r} must be an .onnx file, module:callable, or a served model's URL; {suffix or 'this'} is not known. "
            "Export the model to ONNX, or write a function that scores images and name it as module:callable."
        )
    raise ModelError(
        f"MODEL {name!r} does not exist. Give the path of an .onnx file, module:callable, or v2+http://host:port/model."
    )


def _beside(path: Path) -> InputSpec | None:
    found = spec_beside(path)
    return found[0] if found else None


def _imported(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: the user's module lies where the command runs
    try:
        value: Any = importlib.import_module(module_name)
    except ImportError as error:
        way = f" Name the module, not its file: {module_name[:-3]}:{attribute}." if module_name.endswith(".py") else ""
        raise ModelError(f"MODEL {name!r}: module {module_name!r} cannot be imported: {error}.{way}") from error
    except (Exception, SystemExit) as error:  # whatever the user's module raises while it is imported
        raise ModelError(
            f"MODEL {name!r}: importing {module_name!r} failed: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise ModelError(f"MODEL {name!r}: {module_name!r} has no attribute {attribute!r}.")
        value = getattr(value, part)
    return _made(value, name)


def _made(value: Any, name: str) -> Any:
    """The value itself, or what it returns if it is a factory: a function that needs no argument."""
    if _is_module(value) or not callable(value):
        return value
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return value
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if needed or variadic:
        return value
    try:
        return value()
    except Exception as error:  # whatever the user's factory raises
        raise ModelError(f"MODEL {name!r}: the factory failed: {type(error).__name__}: {error}") from error


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _wrapped(
    value: Any,
    spec: InputSpec | None,
    told: Mapping[str, Any],
    *,
    device: str | None,
    source: str | None,
    digest: str | None = None,
) -> Classifier:
    if hasattr(value, "info") and hasattr(value, "canvas"):
        return cast("Classifier", value)
    if _is_module(value):
        from robustest.classifiers.torch_module import TorchClassifier

        make: Callable[[InputSpec | None], Classifier] = functools.partial(
            TorchClassifier, value, device=device, source=source, digest=digest
        )
    elif callable(value):
        from robustest.classifiers.callables import CallableClassifier

        make = functools.partial(CallableClassifier, value, source=source, digest=digest)
    else:
        raise InvalidSetting(f"a classifier must be a path or callable; got {type(value).__name__}.")
    made = make(spec)
    return make(replace(made.info.spec, **told)) if told else made


def _load_trusted(path: Path, trust_model: str | None) -> tuple[Any, str]:
    """What a file holds that may run code when loaded, and its digest, which must be the trusted one."""
    if not path.is_file():
        raise ModelError(f"MODEL {str(path)!r} does not exist.")
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if trust_model != f"sha256:{digest}":
        raise UntrustedModel(
            f"MODEL {path.name!r} is refused: {_CODE[path.suffix.lower()]}. Export it to ONNX, or use module:callable with "
            f"safetensors. If you trust this very file, give --trust-model sha256:{digest}"
        )
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "torch", f"loading {path.name}") from error
    suffix = path.suffix.lower()
    try:
        if suffix == ".pt2":
            return _exported(torch.export.load(path), path), digest
        if suffix in (".ts", ".torchscript"):
            return torch.jit.load(str(path)).eval(), digest  # type: ignore[no-untyped-call]
        loaded = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling can raise anything
        raise ModelError(f"MODEL {path.name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(loaded):
        raise ModelError(
            f"MODEL {path.name!r} holds a {type(loaded).__name__}, not a module. A state dict needs its network: write "
            "module:callable that builds it and loads these weights."
        )
    return (loaded.eval() if isinstance(loaded, torch.nn.Module) else loaded), digest


def _exported(program: Any, path: Path) -> Any:
    """The module of an exported program, marked as what it is: a trace of one mode, which .eval() cannot change.

    Raises:
        ModelError: it was traced in training mode.
    """
    module = program.module()
    for node in module.graph.nodes:
        name = str(node.target)
        if name in _TRAINING and len(node.args) > _TRAINING[name] and node.args[_TRAINING[name]] is True:
            raise ModelError(
                f"MODEL {path.name!r} was exported in training mode, where {name} makes scores random. Export it after .eval()."
            )
    for part in module.modules():
        part.training = False
    return module
