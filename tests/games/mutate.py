"""Break the engine on purpose, one line at a time, and see which test notices.

    python tests/games/mutate.py

Copies `games` and its tests to a temporary folder, makes one change there, runs the suite until the first
failure and prints a row of a Markdown table. Exits with 1 if a change went unnoticed, or no longer fits the source.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutation:
    """One broken line: what breaks, in which module, which text is replaced by what."""

    name: str
    module: str
    old: str
    new: str


MUTATIONS = [
    Mutation("UCB: no exploration term", "select.py", "means + bonus, np.inf", "means, np.inf"),
    Mutation("UCB: logarithm forgotten", "select.py", "np.log(max(int(tries.sum()), 1))", "max(int(tries.sum()), 1)"),
    Mutation("PUCT: no exploration term", "select.py", "return means + bonus", "return means"),
    Mutation("sign: a backup takes the other side's best child", "tree.py",
             "self._best_mean(node, mover_sign(aim))", "self._best_mean(node, -mover_sign(aim))"),
    Mutation("sign: proven bounds backed up for the wrong side", "tree.py",
             "if aim == MAXIMISE else (lower.min()", "if aim != MAXIMISE else (lower.min()"),
    Mutation("sign: who minimises sees payoffs as they are", "monte_carlo.py",
             "scaled if mover_sign(aim) > 0 else 1 - scaled", "scaled"),
    Mutation("who moves: player II's wishes for player I", "game.py",
             "first if player is Player.FIRST else second", "second if player is Player.FIRST else first"),
    Mutation("who moves: the competitive game is the adversary's", "game.py",
             "Kind.COMPETITIVE: (Aim.MINIMISE, Aim.MAXIMISE)", "Kind.COMPETITIVE: (Aim.MAXIMISE, Aim.MINIMISE)"),
    Mutation("who moves: alpha-beta always maximises", "exact.py",
             "maximise = aim is Aim.MAXIMISE", "maximise = aim is not Aim.CHANCE"),
    Mutation("terminal: the tree takes every state as going on", "tree.py",
             "ended = evaluation.ending is not None", "ended = False"),
    Mutation("terminal: exact solvers play on after the end", "exact.py",
             "if answer.ending is not None:", "if answer.ending is not None and not self.game.moves(state):"),
    Mutation("terminal: playouts play on after the end", "playout.py",
             "answer.payoff if answer.ending is not None else None", "None"),
    Mutation("key: the tree forgets which states it has", "tree.py",
             "return self._index.get(state, UNKNOWN)", "return UNKNOWN"),
    Mutation("key: the order of moves is part of a state", "toys.py",
             "return state | {move}", "return tuple(state) + (move,)"),
    Mutation("key: states of the same size are one state", "tree.py",
             "self._index[state] = node", "self._index[state] = node\n"
             "        self._index = {s: n for s, n in self._index.items() if len(s) != len(state) or n == node}"),
    Mutation("key: alpha-beta keeps a cut's bound as exact", "exact.py",
             "self.bounds[state] = (min(low, high), max(low, high))",
             "self.bounds[state] = (low, low) if low >= beta else (high, high)"),
    Mutation("pruning: alpha-beta does not prune", "exact.py",
             "_Exact(game, kind, watch or Watch(), prune=True)", "_Exact(game, kind, watch or Watch(), prune=False)"),
    Mutation("chance: nature plays its likeliest move", "tree.py",
             "value = float(chance @ np.where(tried, nodes.value[child], guess))",
             "low = high = value = lower[np.argmax(chance)]"),
    Mutation("all-moves-as-first: borrowed means never fade", "select.py", "k / (3.0 * tries + k)", "k / (0.0 * tries + k)"),
    Mutation("budget: leaves are asked about without counting", "search.py",
             "watch.queries += len(new)", "watch.queries += 1"),
    Mutation("best: a play that left the region is a success", "search.py",
             "if evaluation.ending is Ending.GOAL and (", "if evaluation.ending is not None and ("),
]  # fmt: skip


def first_failure(mutation: Mutation) -> str | None:
    """The first test that notices, None if none does.

    Raises:
        ValueError: the text to be replaced is not in the module exactly once.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "games", copy / "games")
        shutil.copytree(ROOT / "tests" / "games", copy / "tests" / "games")
        for name in ("__init__.py", "conftest.py"):
            shutil.copy(ROOT / "tests" / name, copy / "tests")
        (copy / "pytest.ini").write_text("[pytest]\nmarkers = slow: slow\naddopts = -m 'not slow'\n")
        source = copy / "games" / mutation.module
        text = source.read_text()
        if text.count(mutation.old) != 1:
            raise ValueError(
                f"{mutation.old!r} must be in {mutation.module} once; it is {text.count(mutation.old)} times"
            )
        source.write_text(text.replace(mutation.old, mutation.new))
        command = [sys.executable, "-m", "pytest", "tests/games", "-x", "-q", "--no-header", "--tb=no"]
        plugins = ["-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        try:
            done = subprocess.run(
                [*command, *plugins],
                cwd=copy,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "the suite no longer ends"
        if done.returncode == 0:
            return None
        found = re.search(r"^(?:FAILED|ERROR) tests/games/(\S+?)(?:\[| -|$)", done.stdout, re.MULTILINE)
        return found.group(1) if found else done.stdout.strip().splitlines()[-1]


def main() -> int:
    """Print the table; 0 if every mutation was noticed."""
    sys.stdout.write("| broken | noticed first by |\n| --- | --- |\n")
    missed = 0
    for mutation in MUTATIONS:
        caught = first_failure(mutation)
        missed += caught is None
        sys.stdout.write(f"| {mutation.name} | {'**nothing**' if caught is None else f'`{caught}`'} |\n")
        sys.stdout.flush()
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
