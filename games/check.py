"""Whether a game keeps the rules of a game: for the tests of whoever writes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from games.game import Evaluation, Game, GameError, M, Player, S


def check_game(
    game: Game[S, M],
    evaluate: Callable[[S], Evaluation],
    *,
    playouts: int = 50,
    plies: int = 10_000,
    order_free: bool = True,
    rng: np.random.Generator,
) -> None:
    """Play a game at random and check at every state what a search relies on.

    Args:
        evaluate: answers the question about a state.
        playouts: random plays. plies: moves after which a play counts as endless.
        order_free: also replay each play with its rounds, and with each player's moves, in another order, and
            check that it ends in an equal state wherever that order is legal.

    Raises:
        GameError: naming the state and what is wrong with it.
    """
    for _ in range(playouts):
        state = game.start()
        moves: list[tuple[Player, M]] = []
        answer = _check_state(game, state, evaluate)
        while answer.ending is None:
            if len(moves) >= plies:
                raise GameError(f"a play must end; this one goes on after {plies} moves, at {state!r}")
            options = game.moves(state)
            move = options[int(rng.integers(len(options)))]
            before = hash(state)
            child = game.play(state, move)
            _require(hash(state) == before, state, "play() must leave it as it was")
            _require(child == game.play(state, move), state, f"play({move!r}) must give equal states each time")
            _require(child != state, state, f"play({move!r}) must change it")
            (low, high), (child_low, child_high) = game.bounds(state), game.bounds(child)
            inside = low <= child_low <= child_high <= high
            _require(inside, child, f"its bounds must lie within [{low}, {high}], those of the state before")
            moves.append((game.player(state), move))
            state = child
            answer = _check_state(game, state, evaluate)
        if order_free:
            for shuffled in (_shuffle_rounds(moves, rng), _shuffle_players(moves, rng)):
                other = _replay(game, shuffled, evaluate)
                same = other is None or other == state
                _require(same, state, f"the moves {shuffled!r} must reach it in any order; they reach {other!r}")


def _require(holds: bool, state: object, what: str) -> None:
    if not holds:
        raise GameError(f"at {state!r}: {what}")


def _check_state(game: Game[S, M], state: S, evaluate: Callable[[S], Evaluation]) -> Evaluation:
    """Check one state by itself and return what is known of it."""
    known = game.known(state)
    answer = evaluate(state) if known is None else known
    low, high = game.bounds(state)
    _require(low <= high, state, f"bounds must be ordered; got [{low}, {high}]")
    if answer.ending is not None:
        _require(low <= answer.payoff <= high, state, f"payoff {answer.payoff} must lie in [{low}, {high}]")
        return answer
    moves, chances = game.moves(state), np.asarray(game.chances(state))
    _require(len(moves) > 0, state, "a play that goes on must have a move; without one it is EXHAUSTED")
    _require(len(set(moves)) == len(moves), state, "moves must differ from each other")
    _require(list(moves) == list(game.moves(state)), state, "moves must come in the same order each time")
    _require(chances.shape == (len(moves),), state, f"needs {len(moves)} chances; got shape {chances.shape}")
    proper = bool((chances >= 0).all()) and abs(float(chances.sum()) - 1) < 1e-9
    _require(proper, state, f"chances must be >= 0 and sum to 1; got {chances}")
    _require(isinstance(game.player(state), Player), state, "player() must name a Player")
    return answer


def _shuffle_players(moves: Sequence[tuple[Player, M]], rng: np.random.Generator) -> list[tuple[Player, M]]:
    """The same moves, each player's in another order, in the same places."""
    order = list(moves)
    for player in Player:
        places = [i for i, (who, _) in enumerate(moves) if who is player]
        for place, source in zip(places, rng.permutation(places), strict=True):
            order[place] = moves[source]
    return order


def _shuffle_rounds(moves: Sequence[tuple[Player, M]], rng: np.random.Generator) -> list[tuple[Player, M]]:
    """The same moves, in pairs of two, the pairs in another order."""
    rounds = [list(moves[i : i + 2]) for i in range(0, len(moves), 2)]
    last = [rounds.pop()] if len(moves) % 2 else []
    return [move for i in rng.permutation(len(rounds)) for move in rounds[i]] + [m for r in last for m in r]


def _replay(game: Game[S, M], moves: Sequence[tuple[Player, M]], evaluate: Callable[[S], Evaluation]) -> S | None:
    """Where the moves lead; None if one of them is not legal on the way."""
    state = game.start()
    for player, move in moves:
        known = game.known(state)
        answer = evaluate(state) if known is None else known
        if answer.ending is not None or game.player(state) is not player or move not in game.moves(state):
            return None
        state = game.play(state, move)
    return state
