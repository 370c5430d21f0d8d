"""Best-first search: the cooperative value, with fewer queries the tighter its bound."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from games.a_star import best_first, rules_bound
from games.exact import expectimax
from games.game import GameError, Kind
from games.search import Stop, Stopping, Watch, run
from games.toys import Gather, Nim, TicTacToe

from .positions import gather, random_tree, tree_value


def heaviest_first(game: Gather):
    """The bound of whoever knows the weights: no play is shorter than taking the heaviest items left."""

    def bound(state, evaluation):
        left = sorted((w for i, w in enumerate(game.weights) if i not in state), reverse=True)
        reached = np.cumsum(left) >= evaluation.score - 1e-12
        return 1 / (len(state) + 1 + int(np.argmax(reached))) if reached.any() else 0.0

    return bound


@given(seed=st.integers(0, 10_000), size=st.integers(1, 6), goal=st.floats(0.5, 4.0), batch=st.integers(1, 9))
def test_it_gives_the_cooperative_value_with_any_admissible_bound(seed, size, goal, batch):
    game = gather(seed, size=size, goal=goal)
    value = run(expectimax(game, Kind.COOPERATOR), game.evaluate).value
    for bound in (None, rules_bound(game), heaviest_first(game)):
        result = run(best_first(game, bound=bound, batch=batch), game.evaluate)
        assert (result.value, result.stop, result.exact) == (value, Stop.SOLVED, True)
        assert result.best is None or (result.best.payoff == value and len(result.line) == len(result.best.state))


@given(seed=st.integers(0, 10_000))
def test_it_gives_the_largest_payoff_of_a_random_tree(seed):
    tree = random_tree(seed)
    assert run(best_first(tree), tree.evaluate).value == tree_value(tree, Kind.COOPERATOR)


def test_it_finds_the_wins_of_solved_games():
    assert run(best_first(TicTacToe()), TicTacToe().evaluate).value == 1.0
    assert run(best_first(Nim((1, 1))), Nim((1, 1)).evaluate).value == 0.0


def test_a_tighter_bound_asks_less():
    # ten equal items, six needed: the rules alone must rule out every set of five
    game = Gather((1.0,) * 10, goal=6.0, size=8)
    loose, tight = (run(best_first(game, bound=b), game.evaluate) for b in (None, heaviest_first(game)))
    assert loose.value == tight.value == 1 / 6
    assert loose.queries >= 1 + 10 + 45 + 120 + 210 + 252  # every set of up to five
    assert tight.queries < loose.queries / 5


def test_the_bounds_close_in_on_the_value_from_both_sides():
    game = gather(3, items=9, size=5, goal=4.0)
    result = run(best_first(game), game.evaluate)
    lowers, uppers = ([getattr(p, side) for p in result.curve] for side in ("lower", "upper"))
    assert lowers == sorted(lowers)
    assert uppers == sorted(uppers, reverse=True)
    assert all(low <= result.value <= high for low, high in zip(lowers, uppers, strict=True))


def test_out_of_queries_it_keeps_the_proven_bracket():
    game = Gather((1.0,) * 8, goal=4.0, size=6)
    result = run(best_first(game, watch=Watch(Stopping(queries=20)), batch=7), game.evaluate)
    assert (result.stop, result.queries) == (Stop.QUERIES, 20)
    assert result.lower <= 1 / 4 <= result.upper
    assert not result.exact


def test_batch_below_one_is_refused():
    with pytest.raises(GameError, match="batch must be >= 1; got 0"):
        run(best_first(TicTacToe(), batch=0), TicTacToe().evaluate)
