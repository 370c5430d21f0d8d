"""The rooms keep their doors shut: who may import whom, what is loaded when, and which names are public."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import robustest

ROOT = Path(robustest.__file__).resolve().parents[1]
STANDARD = set(sys.stdlib_module_names)

# Each room may import from the rooms named beside it, and from the words everyone uses.
WORDS = {"compiled", "errors", "folders", "results", "images", "settings", "randomness"}
ROOMS = {
    "classifiers": set(),
    "saliency": {"classifiers"},
    "attack": {"classifiers", "saliency"},
    "bounds": {"classifiers", "saliency", "attack"},
    "baselines": {"classifiers", "saliency", "attack", "bounds", "audit"},
    "audit": {"classifiers", "saliency", "attack", "bounds"},
    "report": {"classifiers", "saliency", "attack", "bounds", "baselines", "audit", "demo"},
}
# Rooms where a torch model is wrapped, attacked with gradients or bounded.
TORCH = {
    "classifiers/torch_module.py",
    "classifiers/differentiable.py",
    "classifiers/onnx_module.py",
    "classifiers/onnx_operators.py",
}


def imports(path: Path, *, top: bool = False) -> set[str]:
    """Dotted names that a module imports; with `top`, only those that run when it is imported."""
    tree = ast.parse(path.read_text())
    nodes: list[ast.AST] = list(ast.walk(tree))
    if top:
        nodes = [inner for node in tree.body for inner in ([node] if not isinstance(node, ast.If) else [])]
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_games_import_numpy_and_the_standard_library_alone() -> None:
    for path in modules("games"):
        for name in imports(path):
            assert name.split(".")[0] in STANDARD | {"numpy", "games"}, f"{path.name} imports {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_the_left_of_it(room: str) -> None:
    for path in modules(f"robustest/{room}"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "games":
                # A page about a game names its kind of player II.
                assert room in {"attack", "bounds", "report"}, f"{path} imports {name}"
            if parts[0] != "robustest" or len(parts) == 1:
                continue
            allowed = WORDS | ROOMS[room] | {room, "__init__"}
            assert parts[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_torch_is_imported_only_where_a_torch_model_is_wrapped_attacked_or_bounded() -> None:
    for path in modules("robustest"):
        where = path.relative_to(ROOT / "robustest").as_posix()
        if where in TORCH or where.startswith(("bounds/", "baselines/", "saliency/whitebox", "commands/")):
            continue
        assert not {name.split(".")[0] for name in imports(path, top=True)} & {"torch", "torchattacks", "captum"}, where


def test_torchvision_is_never_imported() -> None:
    for path in modules("robustest"):
        assert "torchvision" not in {name.split(".")[0] for name in imports(path, top=True)}, path


def test_importing_the_package_loads_neither_torch_nor_opencv() -> None:
    heavy = "torch", "numba", "cv2", "scipy", "onnxruntime", "cloudpickle", "rich", "jinja2"
    code = f"import sys, robustest, robustest.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_an_alphabetical_list_and_each_can_be_had() -> None:
    assert sorted(robustest.__all__, key=str.lower) == robustest.__all__
    for name in robustest.__all__:
        assert getattr(robustest, name) is not None


def test_no_module_is_longer_than_four_hundred_lines() -> None:
    for path in [*modules("robustest"), *modules("games")]:
        assert len(path.read_text().splitlines()) <= 400, path
