"""What arithmetic a torch module runs in, and which weights it holds: proofs are about IEEE float32 or float64."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from robustest.bounds.errors import UnsupportedNumerics


def arithmetic_of(module: nn.Module) -> torch.dtype:
    """The one floating type that a module computes in.

    Raises:
        UnsupportedNumerics: half precision, mixed types, training mode, weights that are not finite, or TF32.
    """
    kinds = {p.dtype for p in [*module.parameters(), *module.buffers()] if p.is_floating_point()}
    if not kinds <= {torch.float32} and not kinds <= {torch.float64}:
        raise UnsupportedNumerics(
            f"the module computes in {', '.join(sorted(str(k) for k in kinds))}; proofs are about float32 or float64. "
            "Convert it with .float()."
        )
    if any(not bool(torch.isfinite(p).all()) for p in module.parameters()):
        raise UnsupportedNumerics("the module holds weights that are not finite; nothing can be proved.")
    trained = [name for name, part in module.named_modules() if part.training and _depends_on_training(part)]
    if trained:
        raise UnsupportedNumerics(f"layer {trained[0]} is in training mode, where it is random. Call .eval() first.")
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise UnsupportedNumerics("autocast is on: layers would run in half precision. Switch it off.")
    on_cuda = any(p.is_cuda for p in module.parameters())
    if on_cuda and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32):
        raise UnsupportedNumerics(
            "TF32 is allowed on this GPU: products are rounded to 10 bits. Set torch.backends.cuda.matmul.allow_tf32 "
            "and torch.backends.cudnn.allow_tf32 to False."
        )
    return next(iter(kinds), torch.float32)


def _depends_on_training(part: nn.Module) -> bool:
    return isinstance(part, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)


def module_digest(module: nn.Module) -> str:
    """sha256 of the weights, by name."""
    digest = hashlib.sha256()
    for name, values in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
