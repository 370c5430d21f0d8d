"""The conformance check: every game of ours passes, and each broken rule is named."""

import numpy as np
import pytest

from games.check import check_game
from games.game import Ending, Evaluation, GameError
from games.toys import GOES_ON, Nim, TicTacToe

from .positions import gather, random_tree


@pytest.mark.parametrize("game", [Nim((1, 2, 3)), TicTacToe(), gather(0)], ids=type)
def test_our_games_keep_the_rules(game, rng):
    check_game(game, game.evaluate, playouts=30, rng=rng)


def test_a_tree_keeps_them_but_for_the_order_of_moves(rng):
    tree = random_tree(0)
    check_game(tree, tree.evaluate, order_free=False, rng=rng)
    with pytest.raises(GameError, match="in any order"):
        check_game(tree, tree.evaluate, rng=rng)


def broken(**methods):
    return type("Broken", (TicTacToe,), methods)()


@pytest.mark.parametrize(("methods", "message"), [
    ({"moves": lambda self, state: []}, "must have a move"),
    ({"moves": lambda self, state: [0, 0]}, "must differ"),
    ({"chances": lambda self, state: np.ones(9 - len(state))}, "sum to 1"),
    ({"chances": lambda self, state: np.ones(1)}, "chances; got shape"),
    ({"bounds": lambda self, state: (1.0, 0.0)}, "bounds must be ordered"),
    ({"bounds": lambda self, state: (0.0, 0.1 * len(state))}, "its bounds must lie within"),
    ({"bounds": lambda self, state: (0.0, 0.4)}, "payoff .* must lie in"),
    ({"play": lambda self, state, move: state}, "must change it"),
    ({"player": lambda self, state: 1}, "must name a Player"),
    ({"evaluate": lambda self, state: GOES_ON}, "must have a move"),
])  # fmt: skip
def test_each_broken_rule_is_named(methods, message, rng):
    game = broken(**methods)
    with pytest.raises(GameError, match=message):
        check_game(game, game.evaluate, playouts=20, rng=rng)


def test_a_game_whose_state_depends_on_the_order_of_moves_is_found(rng):
    class Ordered(TicTacToe):
        def play(self, state, move):
            return state | {(move, len(state) % 2 == 1), (-1 - len(state), move == 0)}

    class Endless(Nim):
        def play(self, state, move):
            return (*state[0], 1), not state[1]

    game = Endless((1,))
    with pytest.raises(GameError, match="must end"):
        check_game(game, lambda state: Evaluation(), playouts=1, plies=50, order_free=False, rng=rng)


def test_endings_are_told_apart():
    assert len({ending.value for ending in Ending}) == 3
