"""The room itself: what `games` may import, and that its public names are an alphabetical list that resolves."""

import ast
import sys
from pathlib import Path

import games


def test_games_imports_numpy_and_the_standard_library_alone():
    for module in Path(games.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                assert top in ("games", "numpy") or top in sys.stdlib_module_names, f"{module.name} imports {name}"


def test_public_names_are_sorted_and_there():
    assert games.__all__ == sorted(games.__all__, key=str.lower)
    assert all(hasattr(games, name) for name in games.__all__)
