"""Random play against the odds of games that are known."""

import numpy as np
import pytest

from games.game import Kind
from games.playout import play_out, random_play
from games.search import Stop, Stopping, Watch, run
from games.toys import Gather, Nim, TicTacToe

from .positions import random_tree


def test_random_tic_tac_toe_is_won_737_of_1260_times(rng):
    plays = run(play_out(TicTacToe(), [frozenset()] * 3000, Watch(), rng=rng), TicTacToe().evaluate)
    payoffs = np.array([play.payoff for play in plays])
    for payoff, share in ((1.0, 737 / 1260), (0.0, 121 / 420), (0.5, 8 / 63)):
        assert (payoffs == payoff).mean() == pytest.approx(share, abs=5 * (share * (1 - share) / 3000) ** 0.5)


def test_plays_follow_the_games_chances_unless_they_are_flat(rng):
    tree = random_tree(3, branching=4, depth=1)
    for flat, expected in ((False, tree.odds), (True, np.full(4, 0.25))):
        plays = run(play_out(tree, [()] * 4000, Watch(), flat=flat, rng=rng), tree.evaluate)
        shares = np.bincount([play.state[0] for play in plays], minlength=4) / 4000
        assert shares == pytest.approx(expected, abs=5 * 0.5 / 4000**0.5)


def test_a_play_records_who_moved_and_ends_where_the_moves_lead(rng):
    game = Nim((2, 2))
    (play,) = run(play_out(game, [game.start()], Watch(), rng=rng), game.evaluate)
    state = game.start()
    for player, move in play.moves:
        assert game.player(state) is player
        state = game.play(state, move)
    assert state == play.state
    assert play.payoff == game.evaluate(state).payoff


def test_plays_cut_off_by_the_budget_pay_nothing_rather_than_zero(rng):
    tree = random_tree(0, branching=3, depth=5)
    watch = Watch(Stopping(queries=7))
    plays = run(play_out(tree, [()] * 5, watch, rng=rng), tree.evaluate)
    assert watch.queries <= 7
    assert any(play.payoff is None for play in plays)


@pytest.mark.parametrize(("kind", "value"), [
    (Kind.COOPERATOR, 1.0),
    (Kind.ADVERSARY, 1.0),  # the best first move
    (Kind.NATURE, 1.0),
    (Kind.COMPETITIVE, 0.0),  # the worst
])  # fmt: skip
def test_random_play_judges_by_the_best_play_where_all_want_it_and_by_first_moves_elsewhere(kind, value, rng):
    game = Gather((1.0, 1.0, 0.0, 0.0), goal=1.0, size=1)
    watch = Watch(Stopping(iterations=400))
    result = run(random_play(game, kind, watch, rng=rng), game.evaluate)
    assert result.stop is Stop.ITERATIONS
    assert result.value == value
    assert (result.lower, result.upper) == (0.0, 1.0)  # it proves nothing
    assert result.best is not None
    assert result.best.payoff == 1.0


def test_random_play_never_overspends(rng):
    tree = random_tree(0, branching=3, depth=5)
    watch = Watch(Stopping(queries=50))
    result = run(random_play(tree, Kind.NATURE, watch, rng=rng), tree.evaluate)
    assert (result.queries, result.stop) == (50, Stop.QUERIES)
