"""Flags that `audit` and `plan` share: how each image is attacked, how the model wants its input, what is printed."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from robustest.audit.requirements import Answer, Requirement
from robustest.audit.statistics import planning_problem
from robustest.audit.summary import AuditSummary, header_json
from robustest.classifiers.classifier import Classifier
from robustest.classifiers.loading import load_classifier
from robustest.commands.shared import tell_guesses
from robustest.errors import Interrupted, InvalidSetting
from robustest.settings import AttackSettings, Guide, Norm, Values

ONE_WAY = Parameter(negative="", show_default=False)  # no --no-... beside a flag, no --empty-... beside a list
Format = Literal["human", "json", "github", "junit"]


def _flag(text: str) -> Any:
    return Parameter(help=text, negative="")


def _flags(text: str) -> Any:
    return Parameter(help=text, negative="", show_default=False)


def _parts(kind: Any, tokens: Sequence[Any]) -> tuple[str, ...]:
    """What is separated by commas, or comes with a flag each."""
    return tuple(part for token in tokens for part in token.value.split(","))


def _channels(text: str) -> Any:
    return Parameter(help=text, negative="", show_default=False, converter=_parts, allow_leading_hyphen=True)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AttackFlags:
    """How each image is attacked."""

    queries: Annotated[
        int, _flag("images the classifier may score for each image tested, the unchanged one included.")
    ] = 1000
    seed: Annotated[int, _flag("of every random stream; the same seed gives the same result.")] = 0
    target: Annotated[int | None, _flag("class to be reached; any other than the label if not given.")] = None
    norm: Annotated[
        Norm,
        _flag("distance that is made small: l0 counts pixels, l0_dims channels of pixels."),
    ] = "l0"
    values: Annotated[
        Values,
        _flag(
            "colours that game gives a pixel: corners (each channel at 0 or 1), free (each channel at 0, 1/2 or 1), or tau (each channel a step of tau up or down); baselines take corners, one-pixel and sparse-evo colours of their own."
        ),
    ] = "corners"
    tau: Annotated[
        float, _flag("step where values is tau, as a share of the range, in (0, 1]; 1 moves to a bound.")
    ] = 1.0
    guide: Annotated[
        Guide,
        _flag(
            "what guides the search: sift features (where no side is below 65 pixels, else the grid), a grid of regions, or uniform."
        ),
    ] = "sift"
    attack: Annotated[str, _flag("name of the search: game, or a baseline such as sparse-rs.")] = "game"
    minimal: Annotated[
        bool,
        _flags(
            "check finds for changes that can be put back even where no queries are left for that, with as many more as it takes."
        ),
    ] = False

    def settings(self) -> AttackSettings:
        """The same as checked settings."""
        return AttackSettings(**{field.name: getattr(self, field.name) for field in fields(self)})


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """How the model wants its input; what is not given comes from --input, a model.toml or manifest.json beside the
    model, or is guessed from an ONNX file's shapes and said."""

    input: Annotated[Path | None, _flag("TOML file with the input spec.")] = None
    layout: Annotated[Literal["NHWC", "NCHW"] | None, _flag("the model's own axes.")] = None
    channels: Annotated[Literal["RGB", "BGR", "gray"] | None, _flag("the model's own channel order.")] = None
    scale: Annotated[
        str | None,
        _flag("factor on values in 0..255: 1/255 for a model that takes [0, 1], 1 for one that takes 0..255."),
    ] = None
    mean: Annotated[
        tuple[str, ...], _channels("subtracted after the scale; one number, or one a channel: 0.485,0.456,0.406.")
    ] = ()
    std: Annotated[tuple[str, ...], _channels("divided by after the mean; one number, or one a channel.")] = ()
    output: Annotated[
        Literal["logits", "probabilities", "label"] | None, _flag("what comes out; label: only the class number.")
    ] = None
    trust_model: Annotated[
        str | None, _flag("sha256:<digest> of a model file that may run code when it is loaded (pickles and the like).")
    ] = None

    def load(
        self, model: str, *, device: str | None = None, threads: int | None = None, quiet: bool = False
    ) -> Classifier:
        """The classifier, with what these flags say in place of what lies beside it.

        Args:
            quiet: say nothing of warnings and guesses, in a process beside one that did.
        """
        given = {name: getattr(self, name) for name in ("layout", "channels", "scale", "mean", "std", "output")}
        told = {name: value for name, value in given.items() if value not in (None, ())}
        with warnings.catch_warnings(record=True) as caught:
            classifier = load_classifier(
                model, self.input, told=told, device=device, threads=threads, trust_model=self.trust_model
            )
        if not quiet:
            for warning in caught:
                print(f"robustest: {warning.message}", file=sys.stderr)
            tell_guesses(classifier)
        return classifier


AS_USUAL = AttackFlags()
AS_FOUND = ModelFlags()


def command_line(
    name: str, model: str, images: Path, settings: AttackSettings, limit: int | None, spec: ModelFlags = AS_FOUND
) -> str:
    """What to type to get a result again: the places of files as file names, and what differs from the defaults."""
    defaults = AttackSettings()
    words = ["robustest", name, _word(Path(model).name if Path(model).exists() else model), _word(images.name)]
    words += ["-o", "DIR"]
    if limit is not None:
        words += ["--images", str(limit)]
    for field in fields(AttackSettings):
        value = getattr(settings, field.name)
        if value != getattr(defaults, field.name):
            words += [f"--{field.name.replace('_', '-')}", *([] if value is True else [_word(str(value))])]
    for field in fields(ModelFlags):
        value = getattr(spec, field.name)
        if value not in (None, ()):
            told = value.name if isinstance(value, Path) else ",".join(value) if isinstance(value, tuple) else value
            words += [f"--{field.name.replace('_', '-')}", _word(told)]
    return " ".join(words)


def _word(text: str) -> str:
    import shlex

    return shlex.quote(text)


def requirements_of(texts: tuple[str, ...], images: int | None = None) -> tuple[Requirement, ...]:
    """The requirements, checked to be such that so many images could show them.

    Raises:
        InvalidSetting: one is malformed, or no outcome could show it.
    """
    required = tuple(Requirement.parse(text) for text in texts)
    for text, requirement in zip(texts, required, strict=True):
        if images is None or requirement.share >= 1:
            continue
        problem = planning_problem(requirement.share, images)
        if problem is not None:
            raise InvalidSetting(f"--require {text} cannot be shown: {problem} Test more images, or require less.")
    if any(requirement.share >= 1 for requirement in required):
        raise InvalidSetting("a required share must be below 1: no number of images can show that all survive.")
    return required


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM inside into `Interrupted` with a message."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(message) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def deliver(summary: AuditSummary, format: Format) -> int:
    """Write the reports beside the result and print the outcome in the format asked for.

    Returns:
        The exit code.
    """
    from robustest.report.html import write_report
    from robustest.report.markdown import markdown_page, write_markdown

    folder = summary.folder or Path()
    page = write_report(summary, folder / "report.html")
    write_markdown(summary, folder / "summary.md")
    if format == "json":
        header = header_json(summary)
        judged = [
            {"distance": j.requirement.distance, "share": j.requirement.share, "answer": j.answer.value}
            for j in summary.judgements
        ]
        print(json.dumps({**header, "requirements": judged, "exit_code": summary.exit_code}, indent=1))
    elif format == "junit":
        from robustest.report.junit import write_junit

        print(write_junit(summary, folder / "junit.xml"))
    elif format == "github":
        for judgement in summary.judgements:
            level = {Answer.SHOWN: "notice", Answer.REFUTED: "error", Answer.INCONCLUSIVE: "warning"}[judgement.answer]
            print(f"::{level} title=robustest::{_escaped(judgement.sentence)}")
        step = os.environ.get("GITHUB_STEP_SUMMARY")
        if step:
            with Path(step).open("a", encoding="utf-8") as handle:
                handle.write(markdown_page(summary))
        print(f"::notice title=robustest::result in {_escaped(str(folder))}")
    else:
        from robustest.report.terminal import print_summary

        print_summary(summary)
        print(f"\n{folder / 'result.json'}\n{page}")
    sys.stdout.flush()
    return summary.exit_code


def _escaped(text: str) -> str:
    """Text for a GitHub workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
