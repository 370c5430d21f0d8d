"""Compiled inner loops: where they are had, and when they are worth their loading.

An inner loop that matters exists twice: in numpy, which says what it does and runs anywhere, and compiled by numba (extra
`fast`), which gives the same bits sooner. Importing numba and reading compiled code from its cache takes most of a
second, compiling it the first time on a machine a minute. So a process begins with numpy and changes over when it has
scored so many images that a run of the same length again would pay for it, or at once where that many are to be expected;
since both give the same bits, a result does not depend on when that is. What is compiled is kept for other processes, each
loop by itself: the fewer are missing, the sooner it pays.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

_WORTH_LOADING = 20_000  # queries scored in this process that make it worth to read compiled code
_WORTH_COMPILING = 500_000  # and to compile all of it, where no process did before
_USUALLY_ASKED = 0.5  # of the queries allowed, at least: many images are done with sooner
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
}  # other threads run meanwhile; no fast-math: the bits are numpy's


class _Gate:
    """Whether compiled code is used in this process.

    asked: queries scored so far. threshold: how many of them are enough to look how much is to be compiled, and then to
    open the gate, None for never. open: it is.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.threshold: int | None = _WORTH_LOADING
        self.open = False


_gate = _Gate()
_loops: list[Callable[..., Any]] = []  # all that were marked, not yet handed to numba
_preparations: list[Callable[[], None]] = []  # that import what some of them use
_kernels: list[Any] = []  # numba's


def compiled(function: Function) -> Function:
    """Mark an inner loop at the top of a module, to be called by that name: once `fast()`, it is numba's."""
    if _gate.open:
        return cast("Function", _kernel_of(function))
    _loops.append(function)
    return function


def prepares(function: Callable[[], None]) -> Callable[[], None]:
    """Mark what must be done before a module's inner loops are compiled: to import what they use, which takes long."""
    if _gate.open:
        function()
    else:
        _preparations.append(function)
    return function


def fast() -> bool:
    """True if compiled inner loops are to be used now."""
    return _gate.open


def worked(queries: int) -> None:
    """Count queries scored in this process; opens the gate when they are enough."""
    _gate.asked += queries
    _open_after(_gate.asked)


def expect(queries: int) -> None:
    """Say that up to so many queries will be scored from now on; opens the gate where they are enough."""
    _open_after(_gate.asked + int(_USUALLY_ASKED * queries))


def _open_after(queries: int) -> None:
    """Open the gate if so many queries pay for that."""
    if _gate.open or _gate.threshold is None or queries < _gate.threshold:
        return
    if not installed():
        _gate.threshold = None
        return
    kept, count = kept_loops()
    _gate.threshold = _WORTH_LOADING + (_WORTH_COMPILING - _WORTH_LOADING) * (count - kept) // max(count, 1)
    _gate.open = queries >= _gate.threshold


def use(wanted: bool) -> bool:
    """Open or close the gate by hand, for good; returns whether it was open.

    Opening does nothing where numba is not installed.
    """
    before = _gate.open
    _gate.threshold = None
    _gate.open = wanted and installed()
    if _gate.open:
        _bind()
    return before


def installed() -> bool:
    """True if numba can be imported."""
    return importlib.util.find_spec("numba") is not None


def _bind() -> None:
    """Put numba's functions in the place of those that were marked; each is compiled, or read from cache, at its first call."""
    for prepare in _preparations:
        prepare()
    _preparations.clear()
    for function in _loops:
        setattr(sys.modules[function.__module__], function.__name__, _kernel_of(function))
    _loops.clear()


def _kernel_of(function: Callable[..., Any]) -> Any:
    import numba

    try:
        kernel = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no folder that a cache could be written to: every process compiles for itself
        kernel = numba.njit(**_OPTIONS)(function)
    _kernels.append(kernel)
    return kernel


def kept_loops() -> tuple[int, int]:
    """How many inner loops were compiled before on this machine and are kept, and how many there are; numba must be installed."""
    _bind()
    return sum(map(_is_kept, _kernels)), len(_kernels)


def _is_kept(kernel: Any) -> bool:
    """True if compiled code of it is kept; of an older version that stood elsewhere in its module it is not."""
    folder, code = kernel.stats.cache_path, kernel.py_func.__code__
    name = f"{Path(code.co_filename).stem}.{kernel.__name__}-{code.co_firstlineno}.*.nbc"
    return bool(folder) and any(Path(folder).glob(name))
