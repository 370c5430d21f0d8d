"""What a game's value means: a search's payoffs as severities, and in words that claim no more than was shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from games.game import Kind, Outcome
from games.search import SearchResult, Stop
from robustest.attack.pixel_game import Move, Pick, PixelGame, PixelRules, Turn


@dataclass(frozen=True, slots=True)
class Step:
    """One turn of a play: player I picked `feature`, player II `pixel`, moved by `directions` (one a channel)."""

    feature: int
    pixel: int | None
    directions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """What was known after so many queries: severities, None where the play is not forced within the ball."""

    queries: int
    estimate: float | None
    least: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class KindResult:
    """The value of one kind of game on one image, as severities.

    severity: the value: exact where `exact`, else an estimate; None: cannot be forced within the radius.
    least, most: proven bounds on it; `least` None: proven that it cannot be forced; `most` None: not proven that it can.
    words: what may be said of it.
    """

    kind: Kind
    severity: float | None
    least: float | None
    most: float | None
    exact: bool
    words: str
    stop: Stop
    queries: int
    iterations: int
    nodes: int
    line: tuple[Step, ...]
    branch: tuple[Step, ...]
    curve: tuple[Progress, ...]


def told(game: PixelGame, result: SearchResult[Turn, Move], best: Outcome[Turn] | None) -> KindResult:
    """A search's result in severities and words.

    Whatever game found an adversarial image, cooperators can have it: `best` bounds their value.
    """
    line = _steps(game, result.line)
    if result.kind is Kind.COOPERATOR and best is not None and best.payoff > result.lower:
        result = replace(result, lower=best.payoff, value=max(best.payoff, result.value))
        line = _steps_to(game, best.state)
    least, most = game.severity_of(result.upper), game.severity_of(result.lower)
    estimate = game.severity_of(result.value)
    forced = result.value >= game.payoff(game.rules.radius) * (1 - 1e-9) or result.kind is Kind.NATURE
    severity = estimate if result.exact or forced else None
    curve = tuple(
        Progress(p.queries, game.severity_of(p.value), game.severity_of(p.upper), game.severity_of(p.lower))
        for p in result.curve
    )
    return KindResult(
        kind=result.kind,
        severity=severity,
        least=least,
        most=most,
        exact=result.exact,
        words=_words(game.rules, result, severity, least, most),
        stop=result.stop,
        queries=result.queries,
        iterations=result.iterations,
        nodes=result.nodes,
        line=line,
        branch=_steps(game, result.branch),
        curve=curve,
    )


def _words(
    rules: PixelRules,
    result: SearchResult[Turn, Move],
    severity: float | None,
    least: float | None,
    most: float | None,
) -> str:
    """What may be said of a value, and no more."""
    ball = f"within {rules.radius:g} ({rules.norm})"
    if result.exact:
        if severity is None:
            return f"cannot be forced {ball}: exact on this grid"
        return f"{severity:.4g}, exact on this grid"
    lower = f"at least {least:.4g} is proven" if least is not None else f"proven not to be forced {ball}"
    if most is not None and result.kind is Kind.COOPERATOR:
        return f"at most {most:.4g}: found and shown; {lower}"
    upper = f", at most {most:.4g}" if most is not None and most <= 10 * rules.radius else ""
    if severity is None:
        if result.kind is Kind.COOPERATOR:
            return f"nothing found {ball}; {lower}"
        return f"estimate: cannot be forced {ball}; {lower}"
    return f"estimate {severity:.4g}; {lower}{upper}"


def _steps(game: PixelGame, moves: Sequence[Move]) -> tuple[Step, ...]:
    """Moves in pairs: a feature, and the pixel picked in it."""
    steps = []
    for at in range(0, len(moves), 2):
        feature, pick = moves[at], moves[at + 1] if at + 1 < len(moves) else None
        assert not isinstance(feature, Pick)
        if isinstance(pick, Pick):
            steps.append(Step(feature, pick.pixel, game.instructions[pick.instruction]))
        else:
            steps.append(Step(feature, None))
    return tuple(steps)


def _steps_to(game: PixelGame, state: Turn) -> tuple[Step, ...]:
    """One order of turns that leads to a state: pixel by pixel, each in the likeliest feature that holds it."""
    signs: dict[int, list[int]] = {}
    for dimension, steps in sorted(state.changes):
        pixel, channel = divmod(dimension, game.channels)
        signs.setdefault(pixel, [0] * game.channels)[channel] = 1 if steps > 0 else -1
    order = np.argsort(-game.features.weights, kind="stable").tolist()
    turns = []
    for pixel, directions in signs.items():
        holding = (feature for feature in order if (game.features.pixels[feature] == pixel).any())
        turns.append(Step(next(holding), pixel, tuple(directions)))
    return tuple(turns)
