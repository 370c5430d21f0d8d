"""The pixel game: player I picks a feature of the image, player II a pixel in it and how to change it.

A play ends when the image is misclassified, or when every move leaves the ball of the radius. A change is a
dimension moved by so many steps of tau, clipped when rendered; it only ever moves away from its first value
(and with `once` a pixel is changed by one move alone), so plays are finite and a state is the set of changes.
The payoff is the least severity any change has over the severity of the play; 0 where it left the ball.

Source: Wicker, Huang & Kwiatkowska, TACAS 2018, arXiv:1710.07859; Wu et al., TCS 2020, arXiv:1807.03571.
Departures: free alternation of + and - tau never ends, against the papers' claim, hence the rule above.
Knows nothing of classifiers: margins come in as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from games.game import Ending, Evaluation, Player
from robustest.attack.pixel_features import PixelFeatures
from robustest.errors import InvalidSetting
from robustest.results import Edits
from robustest.settings import Norm

Change = Literal["pixel", "corners", "dimension"]
Steps: TypeAlias = tuple[int, int]
"""One change: (dimension = pixel * C + channel, steps of tau away from its first value, not 0)."""

_SLACK = 1e-9  # of a radius, for sums of steps that are meant to reach it exactly


class Turn(NamedTuple):
    """A state: the changes made, and the feature player I has picked (-1 where it is to pick one)."""

    changes: frozenset[Steps]
    feature: int = -1


class Pick(NamedTuple):
    """A move of player II: a pixel (row * W + column) and a row of `PixelGame.instructions`."""

    pixel: int
    instruction: int


Move: TypeAlias = int | Pick


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRules:
    """How the pixel game is played.

    norm: severity, the distance from the unchanged image.
    radius: d, in the norm's units, > 0; a play that must go beyond it has left the ball.
    tau: step of the grid in (0, 1]; 1 moves to a bound.
    change: `pixel` moves all channels of a pixel the same way, `corners` each channel either way,
        `dimension` one channel.
    once: a pixel is changed by at most one move of a play; False lets its channels move on, away from
        their first values.
    """

    norm: Norm = "l0"
    radius: float = 10.0
    tau: float = 1.0
    change: Change = "pixel"
    once: bool = True

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise InvalidSetting(f"radius must be > 0, in units of the norm {self.norm}; got {self.radius!r}.")
        if not 0 < self.tau <= 1:
            raise InvalidSetting(f"tau must be in (0, 1]; got {self.tau!r}.")
        if self.change not in ("pixel", "corners", "dimension"):
            raise InvalidSetting(f"change must be pixel, corners or dimension; got {self.change!r}.")


class PixelGame:
    """The rules for one image, as `games` wants them.

    Args:
        image: (H, W, C) float32 in [0, 1]. eight_bit: grid values are rounded to multiples of 1/255.
        features: player I's moves. clean_margin: margin of the unchanged image, > 0.
        decision_only: margins are only +1 and -1, so that states are not estimated from them.
    """

    def __init__(
        self,
        image: NDArray[np.float32],
        features: PixelFeatures,
        rules: PixelRules,
        *,
        clean_margin: float,
        eight_bit: bool = False,
        decision_only: bool = False,
    ) -> None:
        self.image, self.features, self.rules = image, features, rules
        self.clean_margin, self.eight_bit, self.decision_only = clean_margin, eight_bit, decision_only
        self.channels = image.shape[2]
        if eight_bit and rules.tau * 255 < 1:
            raise InvalidSetting(f"tau must be at least 1/255 where the input is 8-bit; got {rules.tau!r}.")
        values = image.astype(np.float64).reshape(-1)
        self._values = np.round(values * 255) / 255 if eight_bit else values
        self.instructions = _instructions(rules.change, self.channels)
        self._step = self._least_step()
        self.least = 1.0 if rules.norm in ("l0", "l0_dims") else self._step
        self._lists = [self._moves_of(index) for index in range(len(features))]
        self._options: tuple[Turn, list[Pick], NDArray[np.float64]] | None = None

    # The rules, as games.Game has them.

    def start(self) -> Turn:
        """No change made, player I to pick."""
        return Turn(frozenset())

    def player(self, state: Turn) -> Player:
        """Player II moves once a feature is picked."""
        return Player.FIRST if state.feature < 0 else Player.SECOND

    def moves(self, state: Turn) -> Sequence[Move]:
        """The features in which something can still be changed; or the picks in the feature."""
        return self._open_features(state) if state.feature < 0 else self._picks(state)[0]

    def chances(self, state: Turn) -> NDArray[np.float64]:
        """The saliency distribution: of features, and of pixels in one, its instructions equally likely."""
        if state.feature >= 0:
            return self._picks(state)[1]
        weights = self.features.weights[self._open_features(state)]
        return np.asarray(weights / weights.sum())

    def play(self, state: Turn, move: Move) -> Turn:
        """The state with the feature picked, or with the change made."""
        if not isinstance(move, Pick):
            return Turn(state.changes, move)
        return Turn(frozenset({**dict(state.changes), **self._effect(dict(state.changes), move)}.items()))

    def bounds(self, state: Turn) -> tuple[float, float]:
        """A play is at least as severe as what it changed already, and one step more if it must go on."""
        severity = self.severity(state.changes)
        if state.feature >= 0 or not state.changes:
            severity = self._next(severity)
        return 0.0, self.payoff(severity)

    def known(self, state: Turn) -> Evaluation | None:
        """Outside of the ball the play is over; picking a feature changes no pixel."""
        if self.severity(state.changes) > self.rules.radius + _SLACK:
            return Evaluation(Ending.LEFT)
        return Evaluation() if state.feature >= 0 else None

    # What margins mean for a play.

    def judge(self, state: Turn, margin: float) -> Evaluation:
        """What the margin of a rendered state says of its play; < 0 is misclassified.

        The estimate carries the margin's fall on to 0 in a straight line; there is none for a decision-only
        classifier.
        """
        severity = self.severity(state.changes)
        if margin < 0:
            return Evaluation(Ending.GOAL, self.payoff(severity), score=margin)
        if self._next(severity) > self.rules.radius + _SLACK:
            return Evaluation(Ending.LEFT, score=margin)
        if not self._open_features(Turn(state.changes)):
            return Evaluation(Ending.EXHAUSTED, score=margin)
        upper = self.payoff(self._next(severity))
        if self.decision_only:
            return Evaluation(upper=upper, score=margin)
        fall = max(1.0 - margin / self.clean_margin, 0.0) if self.clean_margin > 0 else 0.0
        estimate = min(self.payoff(severity) * fall, upper) if state.changes else 0.0
        return Evaluation(estimate=estimate, upper=upper, score=margin)

    def severity(self, changes: frozenset[Steps]) -> float:
        """Distance of the image with these changes from the unchanged one, in the rules' norm."""
        norm = self.rules.norm
        if norm == "l0":
            return float(len({dimension // self.channels for dimension, _ in changes}))
        if norm == "l0_dims":
            return float(len(changes))
        gaps = [abs(self.value(*change) - self._values[change[0]]) for change in changes]
        if norm == "l1":
            return math.fsum(gaps)
        return math.sqrt(math.fsum(gap * gap for gap in gaps)) if norm == "l2" else max(gaps, default=0.0)

    def payoff(self, severity: float) -> float:
        """What a play that is misclassified at this severity pays, in (0, 1]; 0 beyond the ball."""
        if severity > self.rules.radius + _SLACK:
            return 0.0
        return min(self.least / severity, 1.0) if severity > 0 else 1.0

    def severity_of(self, payoff: float) -> float | None:
        """The severity that pays this, None for 0: the ball was left."""
        return self.least / payoff if payoff > 0 else None

    def lipschitz_bound(self, constant: float) -> Callable[[Turn, Evaluation], float]:
        """An admissible bound on payoffs for `games.a_star`, from a proven Lipschitz constant of the margin.

        From an image with margin m no image within m / constant is misclassified, and plays only move away from
        the unchanged image: so severities add up as the norm says.

        Args:
            constant: > 0, proven, in the rules' norm (for L0: the largest fall of the margin by one pixel, or
                dimension, anywhere in the grid). An estimate makes wrong values.
        """
        norm = self.rules.norm

        def bound(state: Turn, evaluation: Evaluation) -> float:
            severity, more = self.severity(state.changes), evaluation.score / constant
            if norm in ("l0", "l0_dims") and not self.rules.once:
                least = max(severity, more)  # a changed pixel may move on at no cost
            elif norm in ("l0", "l0_dims"):
                least = severity + math.ceil(more - _SLACK)
            elif norm == "l1":
                least = severity + more
            else:
                least = math.hypot(severity, more) if norm == "l2" else max(severity, more)
            return self.payoff(least * (1 - _SLACK))

        return bound

    # Images of states.

    def value(self, dimension: int, steps: int) -> float:
        """The value in [0, 1] of a dimension so many steps away from its first value."""
        value = min(max(float(self._values[dimension]) + steps * self.rules.tau, 0.0), 1.0)
        return round(value * 255) / 255 if self.eight_bit else value

    def edits(self, states: Sequence[Turn]) -> Edits:
        """The states as edits of the image."""
        return Edits.of([self._colours(state.changes) for state in states], self.channels)

    def _colours(self, changes: frozenset[Steps]) -> dict[int, NDArray[np.float64]]:
        colours: dict[int, NDArray[np.float64]] = {}
        for dimension, steps in sorted(changes):
            pixel, channel = divmod(dimension, self.channels)
            if pixel not in colours:
                colours[pixel] = self._values[pixel * self.channels : (pixel + 1) * self.channels].copy()
            colours[pixel][channel] = self.value(dimension, steps)
        return colours

    # Inside.

    def _next(self, severity: float) -> float:
        """A lower bound on the severity after one more change."""
        norm = self.rules.norm
        if norm in ("l0", "l0_dims"):
            return severity + 1 if self.rules.once else max(severity, 1.0)
        if norm == "l1":
            return severity + self._step
        return math.hypot(severity, self._step) if norm == "l2" else max(severity, self._step)

    def _least_step(self) -> float:
        """The smallest distance one step can move any dimension of this image."""
        least = 1.0
        for sign in (-1, 1):
            before = self._values
            for count in range(1, math.ceil(1 / self.rules.tau) + 1):
                after = np.clip(self._values + sign * count * self.rules.tau, 0.0, 1.0)
                after = np.round(after * 255) / 255 if self.eight_bit else after
                moved = np.abs(after - before)
                least = min(least, float(moved[moved > 0].min(initial=1.0)))
                before = after
        return least

    def _effect(self, changes: dict[int, int], pick: Pick) -> dict[int, int]:
        """The dimensions a pick moves, and to how many steps; empty if the rules forbid it."""
        first = pick.pixel * self.channels
        if self.rules.once and any(first + channel in changes for channel in range(self.channels)):
            return {}
        moved: dict[int, int] = {}
        for channel, sign in enumerate(self.instructions[pick.instruction]):
            now = changes.get(first + channel, 0)
            if sign == 0:
                continue
            if now * sign < 0:
                return {}
            if self.value(first + channel, now + sign) != self.value(first + channel, now):
                moved[first + channel] = now + sign
        return moved

    def _moves_of(self, feature: int) -> _Moves:
        """All picks in a feature that do something to the unchanged image."""
        rows = [
            (Pick(int(pixel), row), float(chance))
            for pixel, chance in zip(self.features.pixels[feature], self.features.chances[feature], strict=True)
            for row in range(len(self.instructions))
            if self._effect({}, Pick(int(pixel), row))
        ]
        return _Moves([pick for pick, _ in rows], np.array([chance for _, chance in rows]))

    def _picks(self, state: Turn) -> tuple[list[Pick], NDArray[np.float64]]:
        """The picks open in the picked feature, and their chances."""
        if self._options is None or self._options[0] != state:
            whole, changes = self._lists[state.feature], dict(state.changes)
            touched = {dimension // self.channels for dimension in changes}
            keep = [
                at for at, pick in enumerate(whole.picks) if pick.pixel not in touched or self._effect(changes, pick)
            ]
            chances = whole.chances[keep]
            self._options = (state, [whole.picks[at] for at in keep], chances / chances.sum())
        return self._options[1], self._options[2]

    def _open_features(self, state: Turn) -> list[int]:
        """The features in which something can still be changed."""
        changes = dict(state.changes)
        touched = {dimension // self.channels for dimension in changes}
        return [
            feature
            for feature, whole in enumerate(self._lists)
            if any(pick.pixel not in touched or self._effect(changes, pick) for pick in whole.picks)
        ]


class _Moves(NamedTuple):
    """The picks of one feature in the unchanged image, and their chances, not normalised."""

    picks: list[Pick]
    chances: NDArray[np.float64]


def _instructions(change: Change, channels: int) -> list[tuple[int, ...]]:
    """Each instruction as the direction of every channel: -1, 0 or 1."""
    if change == "pixel":
        return [(1,) * channels, (-1,) * channels]
    if change == "corners":
        return [tuple(2 * (row >> c & 1) - 1 for c in range(channels)) for row in reversed(range(2**channels))]
    return [tuple(sign * (c == channel) for c in range(channels)) for channel in range(channels) for sign in (1, -1)]
