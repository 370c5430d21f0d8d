"""Random play: from given states to the end, many plays side by side, and as a baseline of its own.

Source: Wicker, Huang & Kwiatkowska, TACAS 2018, arXiv:1710.07859, whose simulations draw moves from
the saliency distribution; here `Game.chances`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic

import numpy as np

from games.game import Aim, Evaluation, Game, Kind, M, Player, S
from games.search import Asking, MoveStatistics, Search, SearchResult, Stop, Watch, ask, learn


@dataclass(slots=True)
class Play(Generic[S, M]):
    """A play under way.

    state: where it is; moves: made since it began, with who made them.
    payoff: of its end; None while it goes on, and for good where the queries ran out.
    """

    state: S
    moves: list[tuple[Player, M]] = field(default_factory=list)
    payoff: float | None = None


def play_out(
    game: Game[S, M], starts: Sequence[S], watch: Watch[S], *, flat: bool = False, rng: np.random.Generator
) -> Asking[S, list[Play[S, M]]]:
    """Play one random play from each of `starts`, none of which has ended.

    Args:
        flat: draw every legal move equally likely, not by `game.chances`.

    Returns:
        The plays, in the order of `starts`; those cut off by the end of the queries pay None.
    """
    plays: list[Play[S, M]] = [Play(state) for state in starts]
    going = plays
    while going:
        open_plays = []
        for play in going:
            known = _step(game, play, flat=flat, rng=rng)
            if known is None:
                open_plays.append(play)
            elif known.ending is not None:
                play.payoff = known.payoff
                watch.see(play.state, known)
        going = open_plays[: watch.affordable([play.state for play in open_plays])]
        answers = yield from ask([play.state for play in going], watch)
        for play, answer in zip(going, answers, strict=True):
            play.payoff = answer.payoff if answer.ending is not None else None
        going = [play for play in going if play.payoff is None]
    return plays


def _step(game: Game[S, M], play: Play[S, M], *, flat: bool, rng: np.random.Generator) -> Evaluation | None:
    """Draw moves until the rules end the play, or a state comes that must be asked about (None)."""
    while True:
        moves = game.moves(play.state)
        index = rng.integers(len(moves)) if flat else rng.choice(len(moves), p=game.chances(play.state))
        move = moves[int(index)]
        play.moves.append((game.player(play.state), move))
        play.state = game.play(play.state, move)
        known = game.known(play.state)
        if known is None or known.ending is not None:
            return known


def random_play(
    game: Game[S, M], kind: Kind, watch: Watch[S], *, batch: int = 8, rng: np.random.Generator
) -> Search[S, M]:
    """Uniformly random plays, the baseline: flat Monte Carlo without a tree.

    Its estimate: the best payoff seen where both players want it; elsewhere the best mean, for the
    one who moves first, over the first moves. It proves nothing, and what it asked once costs it no query, so
    that on a small game only a limit on iterations or seconds, or an epsilon, is sure to stop it.
    """
    start = game.start()
    lower, upper = game.bounds(start)
    known = yield from learn(game, start, watch)
    if known.ending is not None:
        watch.note(known.payoff, known.payoff, known.payoff)
        return _result(kind, known.payoff, (known.payoff, known.payoff), Stop.SOLVED, watch, {})
    totals: dict[tuple[Player, M], list[float]] = {}
    aim = kind.aim(game.player(start))
    value = (lower + upper) / 2
    while True:
        reason = watch.reason()
        if reason is not None:
            return _result(kind, value, (lower, upper), reason, watch, totals)
        plays = yield from play_out(game, [start] * batch, watch, flat=True, rng=rng)
        for play in plays:
            if play.payoff is not None:
                watch.iterations += 1
                totals.setdefault(play.moves[0], []).append(play.payoff)
        if totals:
            value = _estimate(kind, aim, list(totals.values()))
        watch.note(value, lower, upper, span=upper - lower)


def _estimate(kind: Kind, aim: Aim, payoffs: list[list[float]]) -> float:
    if kind is Kind.COOPERATOR:
        return max(max(row) for row in payoffs)
    means = [float(np.mean(row)) for row in payoffs]
    if aim is Aim.CHANCE:
        return float(np.mean([payoff for row in payoffs for payoff in row]))
    return max(means) if aim is Aim.MAXIMISE else min(means)


def _result(
    kind: Kind,
    value: float,
    bounds: tuple[float, float],
    stop: Stop,
    watch: Watch[S],
    totals: dict[tuple[Player, M], list[float]],
) -> SearchResult[S, M]:
    moves = tuple(MoveStatistics(p, m, len(row), float(np.mean(row))) for (p, m), row in totals.items())
    branch = (max(moves, key=lambda move: move.tries).move,) if moves else ()
    return SearchResult(
        kind=kind, value=value, lower=bounds[0], upper=bounds[1], stop=stop, best=watch.best, line=(),
        branch=branch, queries=watch.queries, iterations=watch.iterations, nodes=1,
        curve=tuple(watch.curve), moves=moves,
    )  # fmt: skip
