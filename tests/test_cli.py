"""The command line itself: help, unknown commands and flags, lazy modules, exit codes."""

import os
import subprocess
import sys

import pytest

from robustest import __version__, cli
from robustest.cli import COMMANDS, run
from robustest.errors import Interrupted, InvalidSetting, MissingExtra, NothingToTest


@pytest.mark.parametrize("typed", [["nonsense"], ["nonsense", "--help"], ["Audit"], ["audits"]])
def test_an_unknown_command_is_a_clear_error(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(typed) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"robustest: no command is called '{typed[0]}'.")
    assert "The commands are demo, audit, attack" in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_a_near_miss_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    run(["adit"])
    assert "Did you mean 'audit'?" in capsys.readouterr().err


def test_a_command_whose_module_is_missing_gives_no_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "gone", ("robustest.commands.gone:gone", "Not there."))
    assert run(["gone"]) == 2
    assert capsys.readouterr().err == (
        f"robustest: the command 'gone' is not part of this installation, version {__version__}.\n"
    )
    assert run(["--help"]) == 0  # and the others still work


@pytest.mark.parametrize("flag", [["--qeries", "3"], ["--queries", "x"], ["--norm", "l7"], ["--queries"]])
def test_a_bad_flag_is_misuse(flag: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["attack", "m.onnx", "i.png", *flag]) == 2
    told = capsys.readouterr()
    assert flag[0] in told.out + told.err
    assert "Traceback" not in told.err


def test_a_missing_argument_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["attack", "m.onnx"]) == 2
    told = capsys.readouterr()
    assert "IMAGE" in told.out + told.err


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    told = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in told] == []
    assert "130 interrupted" in told
    assert run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_each_of_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if cli._problem(name) is not None:
        pytest.skip(f"the command {name} is not in this tree")
    assert run([name, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    flags = [place for place, line in enumerate(lines) if line.startswith(("│ --", "│ *  "))]
    for place in flags:
        words = lines[place].strip("│ ").split("  ", 1)
        assert len(words) == 2, f"{name}: no help for {words[0]}"
        assert words[1].strip(), f"{name}: no help for {words[0]}"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidSetting("tau must be so"), 2, "robustest: tau must be so\n"),
        (NothingToTest("no image"), 5, "robustest: no image\n"),
        (Interrupted("stopped"), 130, "robustest: stopped\n"),
        (MissingExtra("torch", "torch", "this"), 4, "pip install 'robustest[torch]'"),
        (KeyboardInterrupt(), 130, "robustest: interrupted.\n"),  # nothing of it goes on
        (OSError(28, "No space left on device", "a.json"), 4, "No space left on device: a.json"),
        (BrokenPipeError(32, "Broken pipe"), 4, "robustest: Broken pipe\n"),
        (IndexError("nobody foresaw it"), 4, "robustest: failed by a fault of its own (IndexError, above)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_error_has_its_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("robustest.commands.saliency.read_picture", fail)
    assert run(["saliency", "a.png"]) == code
    assert message in capsys.readouterr().err


FEW = "print('the threshold was', 'refuted' if code else 'shown')"  # still in the buffer when the command is done
MANY = "[print('an image', flush=True) for _ in range(9)]"
TABLE = "import rich.console; rich.console.Console().print('a table')"  # rich ends the program by itself, with 1


@pytest.mark.parametrize("printing", [FEW, MANY, TABLE])
@pytest.mark.parametrize("code", [0, 1, 3])
@pytest.mark.parametrize("both", [False, True])
def test_output_that_nobody_reads_is_never_fine(printing: str, code: int, both: bool) -> None:
    """As after `| head`: a pipe whose reading end is closed, for standard error too or not."""
    reading, pipe = os.pipe()
    os.close(reading)
    kept = subprocess.run(
        [sys.executable, "-c", _ending(printing, code)],
        stdout=pipe,
        stderr=pipe if both else subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        env=_buffered(),
    )
    os.close(pipe)
    done = printing == FEW and code  # it ran to its end, and its code says more
    assert kept.returncode == (code if done else 4)
    if not both:
        assert kept.stderr == ("" if done else "robustest: Broken pipe\n")


def test_output_that_was_read_leaves_the_code_as_it_is() -> None:
    for code in (0, 1):
        words = [sys.executable, "-c", _ending(FEW, code)]
        kept = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=_buffered())
        assert (kept.returncode, kept.stderr) == (code, "")
        assert kept.stdout == f"the threshold was {'refuted' if code else 'shown'}\n"


@pytest.mark.parametrize(
    ("elsewhere", "code", "says"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        pytest.param(
            ">/dev/full",
            4,
            "robustest: No space left on device\n",
            marks=pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here"),
        ),
    ],
)
def test_output_that_was_closed_by_the_user_is_no_fault_and_a_full_disk_is_one(
    elsewhere: str, code: int, says: str
) -> None:
    words = ["sh", "-c", f'"$0" -c "$1" {elsewhere}', sys.executable, _ending(FEW, 0)]
    kept = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=_buffered())
    assert (kept.returncode, kept.stderr) == (code, says)


def test_another_end_of_the_program_is_not_taken_for_a_closed_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: object) -> None:
        raise SystemExit(7)

    monkeypatch.setattr("robustest.commands.saliency.read_picture", leave)
    with pytest.raises(SystemExit):
        run(["saliency", "a.png"])


def _buffered() -> dict[str, str]:
    """The environment without what makes Python write each line at once."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def _ending(printing: str, code: int) -> str:
    """A program that is the command line with a command that prints and ends with a code."""
    return (
        "import sys; from robustest import cli; from robustest.commands import saliency\n"
        f"def command(name, /):\n    code = {code}; {printing}; return code\n"
        "saliency.saliency = command; cli.main(['saliency', 'a.png'])"
    )


def test_help_loads_nothing_heavy() -> None:
    check = (
        "import sys; from robustest.cli import run; run(['--help']); "
        "print([m for m in ('torch', 'cv2', 'onnxruntime', 'scipy', 'jinja2') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "[]"
