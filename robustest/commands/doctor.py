"""`robustest doctor`: what is installed here, what it unlocks, and what is likely to go wrong."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from robustest import __version__
from robustest.errors import EnvironmentFailure, InvalidSetting

Status = Literal["ok", "absent", "warning", "failure"]

_CORE = (
    "numpy",
    "scipy",
    "opencv-python-headless",
    "onnxruntime",
    "cloudpickle",
    "cyclopts",
    "rich",
    "jinja2",
    "fastjsonschema",
    "urllib3",
    "filelock",
)
_MODULES = {"opencv-python-headless": "cv2"}
_EXTRAS = {
    "torch": (("torch", "safetensors"), "torch modules as classifiers, on the CPU or CUDA"),
    "bounds": (("torch", "safetensors", "onnx"), "certificates: proven distances"),
    "compare": (("torch", "captum", "onnx"), "white-box attacks and saliency maps to compare with"),
    "fast": (("numba",), "compiled inner loops, for long runs on small models"),
    "grpc": (("grpcio",), "models served over gRPC"),
    "dask": (("distributed",), "shards placed on a Dask cluster"),
    "ray": (("ray",), "shards placed on a Ray cluster"),
    "pytest": (("pytest",), "robustness tests in a pytest suite"),
}
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_MOST_LOOPS = 0.9  # share of the inner loops that a run comes to; a few are needed in rare cases alone
_LEAST_FREE = 1 << 30  # bytes; an audit of 10,000 images with its ledger and pictures stays well below


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    group: what it belongs to. name: what was looked at. status: ok, absent (optional), warning or failure.
    value: what was found. advice: what to do about it, empty where nothing.
    """

    group: str
    name: str
    status: Status
    value: str
    advice: str = ""


def doctor(
    *,
    compile_loops: Annotated[bool, Parameter(name="--compile", negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Check this installation: versions, devices, what each extra unlocks, known conflicts, free disk space.

    Exits with 0, or with 4 if a part that every audit needs is missing or broken.

    Args:
        compile_loops: first compile the attack's inner loops (extra `fast`), which takes a minute once. They are kept, and
            later runs use them from 20,000 queries a process on; else only long runs compile them. Results are the same.
        as_json: print the findings as JSON.
    """
    if compile_loops:
        _compile()
    findings = examine(Path.cwd())
    broken = any(finding.status == "failure" for finding in findings)
    if as_json:
        print(
            json.dumps(
                {"robustest": __version__, "fine": not broken, "findings": [asdict(f) for f in findings]}, indent=1
            )
        )
    else:
        _print(findings)
    return 4 if broken else 0


def examine(folder: Path) -> list[Finding]:
    """All findings; `folder` is where runs would be written."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _machine,
        _core,
        _extras,
        _loops,
        _devices,
        _conflicts,
        _plugin,
        _demo,
    )
    found = [finding for check in checks for finding in check()]
    return [*found, _disk(folder)]


def _machine() -> Iterator[Finding]:
    yield Finding("machine", "robustest", "ok", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("machine", "python", "ok", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Finding("machine", "system", "ok", platform.platform())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("machine", "processors", "ok", f"{usable} usable of {os.cpu_count()}")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        if name in os.environ:
            yield Finding("machine", name, "ok", os.environ[name] or "(empty)")


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _core() -> Iterator[Finding]:
    for name in _CORE:
        try:
            importlib.import_module(_MODULES.get(name, name))
        except Exception as error:  # a broken binary can raise anything while it is imported
            advice = "Every audit needs it: pip install --force-reinstall " + name
            yield Finding("core", name, "failure", f"{type(error).__name__}: {error}", advice)
            continue
        yield Finding("core", name, "ok", version_of(name) or "installed, version unknown")


def _extras() -> Iterator[Finding]:
    for extra, (needed, unlocks) in _EXTRAS.items():
        versions = {name: version_of(name) for name in needed}
        lacking = [name for name, version in versions.items() if version is None]
        have = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        if lacking:
            advice = f"pip install 'robustest[{extra}]' if you want it"
            yield Finding("extras", extra, "absent", f"{unlocks}; lacks {', '.join(lacking)}", advice)
        else:
            yield Finding("extras", extra, "ok", f"{unlocks}; {have}")


def _loops() -> Iterator[Finding]:
    if version_of("numba") is None:
        return
    from robustest.rehearsal import kept_loops

    kept, count = kept_loops()
    told = f"{kept} of {count} are compiled and kept on this machine"
    if kept >= _MOST_LOOPS * count:
        yield Finding("compiled", "inner loops", "ok", told)
    else:
        advice = "robustest doctor --compile does it once, in a minute; without it only runs of 500,000 queries a process do."
        yield Finding("compiled", "inner loops", "absent", told, advice)


def _compile() -> None:
    """Compile inner loops, and say so."""
    if version_of("numba") is None:
        raise InvalidSetting("--compile needs numba, which is not installed: pip install 'robustest[fast]'")
    from robustest.rehearsal import compile_loops

    print("compiling inner loops, which takes a minute where none is kept ...", file=sys.stderr, flush=True)
    started = time.perf_counter()
    kept, count = compile_loops()
    print(f"{kept} of {count} inner loops are kept, after {time.perf_counter() - started:.0f} s", file=sys.stderr)
    if kept < _MOST_LOOPS * count:
        raise EnvironmentFailure(
            "compiled inner loops could not be kept: numba found no folder to write to. Set NUMBA_CACHE_DIR to one that "
            "every run can read."
        )


def _devices() -> Iterator[Finding]:
    try:
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
        yield Finding("devices", "onnxruntime", "ok", f"{providers}; ONNX files are scored by CPUExecutionProvider")
    except Exception as error:  # as above
        yield Finding("devices", "onnxruntime", "failure", f"{type(error).__name__}: {error}")
    if version_of("torch") is None:
        return
    try:
        import torch
    except Exception as error:  # as above
        advice = "Reinstall torch for this machine; audits of ONNX files work without it."
        yield Finding("devices", "torch", "warning", f"cannot be imported: {type(error).__name__}: {error}", advice)
        return
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Finding(
        "devices", "torch", "ok", f"{torch.__version__}, built for {built}, {torch.get_num_threads()} threads"
    )
    if torch.version.cuda and not torch.cuda.is_available():
        yield Finding("devices", "CUDA", "warning", "torch is built for CUDA but sees no device", "Check the driver.")
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield Finding("devices", f"cuda:{index}", "ok", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB")


def _conflicts() -> Iterator[Finding]:
    opencv = [name for name in _OPENCV if version_of(name)]
    if len(opencv) > 1:
        yield Finding(
            "conflicts",
            "opencv",
            "warning",
            f"{' and '.join(opencv)} are both installed and share the folder cv2; uninstalling one breaks the other",
            f"pip uninstall {' '.join(opencv)} and then pip install opencv-python-headless",
        )
    else:
        yield Finding("conflicts", "opencv", "ok", "one package" if opencv else "not installed by pip")
    problem = torchvision_problem(version_of("torch"), version_of("torchvision"), _requirements("torchvision"))
    if problem:
        yield Finding(
            "conflicts", "torchvision", "warning", problem, "robustest never imports it; your own model code may."
        )


def _requirements(distribution: str) -> list[str]:
    try:
        return metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return []


def torchvision_problem(torch: str | None, torchvision: str | None, requirements: list[str]) -> str | None:
    """Why the installed torchvision will not import beside the installed torch, or None.

    Args:
        torch, torchvision: versions, None where not installed. requirements: of torchvision, as its metadata has them.
    """
    if torchvision is None:
        return None
    if torch is None:
        return f"torchvision {torchvision} is installed without torch"
    wanted = next((m[1] for r in requirements if (m := re.match(r"torch\s*\(?==\s*([\w.]+)", r))), None)
    if wanted and wanted != torch.partition("+")[0]:
        return f"torchvision {torchvision} wants torch {wanted}, but torch {torch} is installed"
    if torch.endswith("+cpu") and not torchvision.endswith("+cpu"):
        return f"torchvision {torchvision} is a CUDA build beside torch {torch}; importing it fails"
    return None


def _plugin() -> Iterator[Finding]:
    if version_of("pytest") is None:
        return
    names = [entry.value for entry in metadata.entry_points(group="pytest11") if entry.name == "robustest"]
    if names and importlib.util.find_spec(names[0].partition(":")[0]) is not None:
        yield Finding("pytest", "plugin", "ok", f"{names[0]} is registered; the fixture is `robustness`")
    else:
        advice = "pip install robustest registers it; a bare checkout on the path does not."
        yield Finding("pytest", "plugin", "warning", "not registered", advice)


def _demo() -> Iterator[Finding]:
    from robustest.demo import IMAGES, MODELS

    missing = [path.name for path in (IMAGES, *MODELS.values()) if not path.is_file()]
    if missing:
        yield Finding("demo", "files", "failure", f"{', '.join(missing)} missing", "Install robustest anew.")
    else:
        yield Finding("demo", "files", "ok", "two models and 200 images")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        return Finding(
            "disk", str(folder), "warning", f"{free / 2**20:.0f} MiB free", "Free some, or give -o elsewhere."
        )
    return Finding("disk", str(folder), "ok", f"{free / 2**30:.1f} GiB free")


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {
        "ok": ("ok", "green"),
        "absent": ("-", "dim"),
        "warning": ("warning", "yellow"),
        "failure": ("FAILURE", "red"),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            table.add_row(Text(group, "bold"), "", "")
        word, style = marks[finding.status]
        told = Text(finding.value)
        if finding.advice and finding.status != "ok":
            told.append(f"\n{finding.advice}", "dim")
        table.add_row(Text(word, style), Text(finding.name), told)
    Console().print(table)
