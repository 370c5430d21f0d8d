"""The command line: names, help and exit codes; each command's work is a module of `robustest.commands`.

Nothing heavy is imported until a command runs. Exit codes: 0 fine, 1 a threshold was refuted, 2 misuse, 3 inconclusive,
4 the model or the environment failed (whoever reads the output, too), 5 nothing to test, 130 interrupted and resumable.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from robustest import __version__
from robustest.errors import RobustestError

# name: (where it is, one line of help), in the order in which a newcomer meets them
COMMANDS = {
    "demo": ("robustest.commands.demo:demo", "Audit two small built-in classifiers side by side."),
    "audit": ("robustest.commands.audit:audit", "Audit a model on a set of images: how few pixels flip it?"),
    "attack": ("robustest.commands.attack:attack", "Attack one image and show what flips it."),
    "saliency": ("robustest.commands.saliency:saliency", "Draw where the search looks first in an image."),
    "play": ("robustest.commands.play:play", "Show the game on one image, move by move."),
    "certify": ("robustest.commands.certify:certify", "Prove a distance within which no adversarial image lies."),
    "recheck": ("robustest.commands.certify:recheck", "Check a saved certificate by an independent path."),
    "compare": ("robustest.commands.compare:compare", "Run several attacks on the same images at the same budget."),
    "report": ("robustest.commands.report:report", "Write the report of a finished run again."),
    "plan": ("robustest.commands.shards:plan", "Plan an audit in shards, for many processes or machines."),
    "work": ("robustest.commands.shards:work", "Work on the shards of a planned audit until none is left."),
    "status": ("robustest.commands.shards:status", "Show how far a planned audit is."),
    "finish": ("robustest.commands.shards:finish", "Merge, seal and report a planned audit."),
    "evidence": ("robustest.commands.evidence:evidence", "Bundle a finished audit as evidence for a safety case."),
    "verify": ("robustest.commands.evidence:verify", "Verify an evidence bundle: digests, schema, replay."),
    "serve": ("robustest.commands.serve:serve", "Serve a model over the Open Inference Protocol, to try things."),
    "bench": ("robustest.commands.bench:bench", "Measure an audit's speed against the bare model's."),
    "doctor": ("robustest.commands.doctor:doctor", "Check this installation: versions, devices, extras, disk."),
}

_RESUMED = ("demo", "audit", "plan", "work", "finish")  # the same again goes on where it was stopped
_RESUMED_FROM_OUT = ("compare", "certify")  # so do these, where there is a folder of what was done

_ABOUT = """How few pixels flip an image classifier, how sure are we, and what is proven?

Exit codes: 0 fine, 1 a threshold was refuted, 2 misuse, 3 inconclusive, 4 the model or the environment failed, 5 nothing to test, 130 interrupted (run the same command again to resume)."""


def _app(chosen: str) -> Any:
    """All commands by their line; the chosen one by its own docstring, which imports its module."""
    from cyclopts import App

    app = App(
        name="robustest",
        version=__version__,
        help=_ABOUT,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
    )
    for name, (where, line) in COMMANDS.items():
        if name == chosen:
            app.command(where, name=name)
        else:
            app.command(where, name=name, help=line)
    return app


def _problem(chosen: str) -> str | None:
    """Why there is no such command here, or None."""
    if not chosen or chosen.startswith("-"):
        return None
    if chosen not in COMMANDS:
        near = difflib.get_close_matches(chosen, COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"no command is called {chosen!r}.{hint} The commands are {', '.join(COMMANDS)}."
    if importlib.util.find_spec(COMMANDS[chosen][0].partition(":")[0]) is None:
        return f"the command {chosen!r} is not part of this installation, version {__version__}."
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code; with 4 in place of 0 where not all that was printed could be delivered."""
    # Started without one (`>&-`), a stream is None, and the first file that is opened takes its number.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (open until the end)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    code = run(sys.argv[1:] if arguments is None else arguments)
    failure = _flush(sys.stdout)
    if failure is not None and code == 0:
        _complain(failure.strerror or str(failure))
        code = 4
    _flush(sys.stderr)
    sys.exit(code)


def _flush(stream: TextIO) -> OSError | None:
    """Deliver what a stream still holds; where that fails it goes nowhere, or Python would end with a code of its own.

    Returns:
        The failure, or None.
    """
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def _complain(sentence: str) -> None:
    """Print an error on standard error, where that is still open."""
    with contextlib.suppress(OSError):
        print(f"robustest: {sentence}", file=sys.stderr, flush=True)


def run(arguments: Sequence[str]) -> int:
    """Run one command; print its errors as one sentence on standard error.

    Returns:
        The exit code.
    """
    from cyclopts import CycloptsError, UnusedCliTokensError

    chosen = next(iter(arguments), "")
    problem = _problem(chosen)
    if problem is not None:
        _complain(problem)
        return 2
    app = _app(chosen)
    try:
        code = app(list(arguments), exit_on_error=False, print_error=True, result_action="return_value")
    except UnusedCliTokensError as error:
        if error.unused_tokens and all(map(_is_number, error.unused_tokens)):
            _complain("several numbers of one flag go with commas: --mean 0.485,0.456,0.406")
        return 2
    except CycloptsError:
        return 2
    except RobustestError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        goes_on = chosen in _RESUMED or (chosen in _RESUMED_FROM_OUT and {"-o", "--out"} & set(arguments))
        way = " Run the same command again to go on from here." if goes_on else ""
        _complain(f"interrupted.{way}")
        return 130
    except OSError as error:  # a broken pipe too: perhaps it was about to be said that a threshold was refuted
        _complain(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
        return 4
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        _complain("Broken pipe")  # rich exits with 1 then, which says that a threshold was refuted
        return 4
    except Exception as error:  # Python's own exit code for it is 1, which says that a threshold was refuted
        sys.excepthook(type(error), error, error.__traceback__)
        _complain(f"failed by a fault of its own ({type(error).__name__}, above); please report it.")
        return 4
    return code if isinstance(code, int) else 0
