"""MCTS against solved games: run to the end it proves their values, whatever its settings."""

from functools import reduce
from itertools import product
from operator import xor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from games.exact import expectimax
from games.game import Ending, GameError, Kind
from games.monte_carlo import MctsSettings, mcts
from games.search import Stop, Stopping, Watch, run
from games.select import puct, uct, uniform
from games.toys import Gather, Nim, TicTacToe

from .positions import gather, random_tree, search_to_the_end, tree_value

SELECTS = {"uct": uct(), "puct": puct(), "greedy": uct(c=0.0), "uniform": uniform(np.random.default_rng(0))}
any_settings = st.fixed_dictionaries({
    "seed": st.integers(0, 99),
    "select": st.sampled_from(list(SELECTS)).map(SELECTS.__getitem__),
    "first": st.sampled_from([0.0, 10.0]),
    "widening": st.sampled_from([None, 0.3, 0.7]),
    "batch": st.sampled_from([1, 3, 16]),
    "playouts": st.booleans(),
})  # fmt: skip


@pytest.mark.parametrize("kind", Kind)
@given(tree_seed=st.integers(0, 10_000), branching=st.integers(1, 4), depth=st.integers(1, 4), how=any_settings)
def test_run_to_the_end_it_proves_the_value_of_a_random_tree(kind, tree_seed, branching, depth, how):
    tree = random_tree(tree_seed, branching, depth)
    result = search_to_the_end(tree, kind, **how)
    assert result.stop is Stop.SOLVED
    assert result.exact
    assert result.value == pytest.approx(tree_value(tree, kind), abs=1e-12)


@pytest.mark.parametrize("kind", Kind)
@given(game_seed=st.integers(0, 10_000), size=st.integers(1, 5), goal=st.floats(0.5, 4.0), how=any_settings)
def test_run_to_the_end_it_agrees_with_expectimax_where_orders_meet(kind, game_seed, size, goal, how):
    game = gather(game_seed, items=6, size=size, goal=goal)
    result = search_to_the_end(game, kind, **how)
    assert result.exact
    assert result.value == pytest.approx(run(expectimax(game, kind), game.evaluate).value, abs=1e-12)


@pytest.mark.parametrize("heaps", list(product(range(3), repeat=3)))
def test_nim_is_won_by_whom_bouton_says(heaps):
    result = search_to_the_end(Nim(heaps), Kind.ADVERSARY)
    assert result.value == float(reduce(xor, heaps) != 0)


@pytest.mark.parametrize(("marks", "value"), [
    ([0, 3, 1, 4], 1.0),  # I completes its row
    ([0, 4, 8, 2], 1.0),  # I stops the diagonal at 6 and so makes two threats at once
    ([0, 4, 8, 1], 0.5),  # the right answer to two corners
    ([1, 4, 7, 0, 8, 6], 0.0),  # II threatens 2 and 3 at once
])  # fmt: skip
def test_positions_of_tic_tac_toe_are_solved(marks, value):
    class Position(TicTacToe):
        def start(self):
            return frozenset((cell, i % 2 == 1) for i, cell in enumerate(marks))

    result = search_to_the_end(Position(), Kind.ADVERSARY)
    assert (result.value, result.stop) == (value, Stop.SOLVED)


def test_a_position_of_tic_tac_toe_against_chance():
    class Position(TicTacToe):
        def start(self):
            return frozenset({(0, False), (4, True), (1, False), (2, True)})

    # I must stop 6; then it threatens 3, which II leaves open 4 times out of 5 or 3 out of 4: I wins or draws
    result = search_to_the_end(Position(), Kind.NATURE)
    assert result.value == pytest.approx(run(expectimax(Position(), Kind.NATURE), TicTacToe().evaluate).value)
    assert 0.75 < result.value < 1


def test_orders_of_the_same_moves_are_one_node():
    game = Gather((0.0,) * 7, goal=1.0, size=7)
    result = search_to_the_end(game, Kind.ADVERSARY, playouts=False)
    assert result.nodes <= 2**7  # against 13,700 orders
    assert result.queries <= 2**7


def test_no_state_is_asked_about_twice():
    asked = []
    game = gather(1, items=8, size=6)

    def evaluate(state):
        asked.append(state)
        return game.evaluate(state)

    settings = MctsSettings(batch=7, first=5.0)
    result = run(mcts(game, Kind.NATURE, settings, Watch(), rng=np.random.default_rng(0)), evaluate)
    assert len(asked) == len(set(asked)) == result.queries


@pytest.mark.parametrize("kind", Kind)
def test_exploration_spreads_the_tries_and_greed_does_not(kind):
    # all payoffs are 0.5 but for noise: with exploration no first move is left behind, without it most are
    tree = random_tree(2, branching=6, depth=6)
    shares = {}
    for c in (0.0, 2**0.5):
        watch = Watch(Stopping(iterations=600))
        settings = MctsSettings(select=uct(c=c), batch=1)
        result = run(mcts(tree, kind, settings, watch, rng=np.random.default_rng(0)), tree.evaluate)
        tries = [m.tries for m in result.moves if m.player.value == "player I"]
        shares[c] = min(tries) / sum(tries)
    assert shares[2**0.5] > 0.05
    assert shares[2**0.5] > shares[0.0]


def test_of_many_games_the_start_is_judged_about_right_long_before_it_is_solved():
    # 300 iterations of a game of 1,365 states whose payoffs are pure noise
    errors = {kind: [] for kind in Kind}
    for kind, seed in product(Kind, range(5)):
        tree = random_tree(seed, branching=4, depth=5)
        watch = Watch(Stopping(iterations=300))
        result = run(mcts(tree, kind, MctsSettings(), watch, rng=np.random.default_rng(seed)), tree.evaluate)
        assert not result.exact
        value = tree_value(tree, kind)
        assert result.lower - 1e-12 <= value <= result.upper + 1e-12
        errors[kind].append((abs(result.value - value), abs(0.5 - value)))
    for kind, most in ((Kind.COOPERATOR, 0.01), (Kind.NATURE, 0.15)):  # hostile players' noise takes longer
        found, middle = np.mean(errors[kind], axis=0)
        assert found < most
        assert found < middle / 2


@pytest.mark.parametrize("kind", [Kind.COOPERATOR, Kind.ADVERSARY, Kind.COMPETITIVE])
def test_the_principal_line_of_a_solved_game_pays_its_value(kind):
    tree = random_tree(7)
    result = search_to_the_end(tree, kind)
    assert tree.evaluate(result.line).payoff == result.value


@given(seed=st.integers(0, 10_000), how=any_settings)
def test_the_principal_line_of_cooperators_is_a_play_that_pays_the_value(seed, how):
    game = gather(seed)
    result = search_to_the_end(game, Kind.COOPERATOR, **how)
    if result.value > 0:
        assert game.evaluate(frozenset(result.line)).payoff == result.value


def test_the_best_play_is_kept_even_where_it_cannot_be_forced():
    game = Gather((1.0, 1.0, 0.0, 0.0, 0.0, 0.0), goal=2.0, size=2)
    result = search_to_the_end(game, Kind.ADVERSARY)
    assert result.value == 0.0
    assert result.best is not None
    assert (result.best.state, result.best.payoff, result.best.ending) == ({0, 1}, 0.5, Ending.GOAL)


def test_a_play_that_only_left_the_region_is_no_best_play():
    game = Gather((0.0,) * 4, goal=1.0, size=2)
    result = search_to_the_end(game, Kind.COOPERATOR)
    assert (result.value, result.best) == (0.0, None)


def test_all_moves_as_first_counts_each_move_once_a_play_wherever_it_was_made():
    game = Gather((1.0, 1.0, 1.0), goal=2.0, size=3)
    result = search_to_the_end(game, Kind.COOPERATOR, batch=1, playouts=False, first=1.0)
    total = sum(move.tries for move in result.moves)
    assert result.iterations <= total <= 3 * result.iterations
    assert all(0 <= move.mean <= 1 for move in result.moves)


@pytest.mark.parametrize("queries", [1, 2, 10, 57])
@pytest.mark.parametrize("playouts", [True, False])
def test_queries_are_never_overspent(queries, playouts):
    tree = random_tree(0, 4, 5)
    watch = Watch(Stopping(queries=queries))
    settings = MctsSettings(batch=16, playouts=playouts)
    result = run(mcts(tree, Kind.ADVERSARY, settings, watch, rng=np.random.default_rng(0)), tree.evaluate)
    assert (result.queries, result.stop) == (queries, Stop.QUERIES)


def test_it_stops_after_one_over_epsilon_iterations_without_improvement():
    game = Gather((0.0,) * 9, goal=1.0, size=9)  # nothing to be found, every estimate is 0
    watch = Watch(Stopping(epsilon=0.03))
    settings = MctsSettings(batch=1, playouts=False)
    result = run(mcts(game, Kind.ADVERSARY, settings, watch, rng=np.random.default_rng(0)), game.evaluate)
    assert result.stop is Stop.CONVERGED
    assert result.value == 0.0
    falls = [p.iterations for p, q in zip(result.curve[1:], result.curve, strict=False) if q.upper - p.upper > 0.03]
    assert result.iterations == max(falls, default=0) + 34  # ceil(1 / 0.03) after a bound last moved by more


def test_it_stops_when_the_seconds_are_over():
    ticks = iter(range(1000))
    watch = Watch(Stopping(seconds=20), clock=lambda: float(next(ticks)))
    tree = random_tree(0, 4, 6)
    result = run(mcts(tree, Kind.NATURE, MctsSettings(), watch, rng=np.random.default_rng(0)), tree.evaluate)
    assert result.stop is Stop.SECONDS


def test_the_best_so_far_is_at_hand_while_the_search_runs():
    game = Gather((1.0,) * 6, goal=3.0, size=6)
    watch = Watch()
    search = mcts(game, Kind.COOPERATOR, MctsSettings(batch=1), watch, rng=np.random.default_rng(0))
    states, seen = next(search), []
    while watch.best is None:
        states = search.send([game.evaluate(state) for state in states])
        seen.append(watch.queries)
    search.close()  # stopped from outside: what was found stays
    assert watch.best.payoff == 1 / 3
    assert seen == sorted(seen)


def test_the_curve_rises_in_queries_and_its_bounds_close_in():
    result = search_to_the_end(gather(4, items=8, size=5), Kind.NATURE)
    for name, direction in (("queries", 1), ("lower", 1), ("upper", -1)):
        values = [direction * getattr(point, name) for point in result.curve]
        assert values == sorted(values)
    assert result.curve[-1].lower == result.curve[-1].upper == result.value


@pytest.mark.parametrize("kind", Kind)
def test_the_same_seed_gives_the_same_search(kind):
    game = gather(0, items=8, size=5)
    assert search_to_the_end(game, kind, seed=3) == search_to_the_end(game, kind, seed=3)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"batch": 0}, "batch must be >= 1; got 0"),
    ({"first": -1.0}, "first must be >= 0; got -1"),
    ({"widening": 0.0}, r"widening must be in \(0, 1\]; got 0"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(GameError, match=message):
        MctsSettings(**wrong)


def test_a_payoff_outside_of_the_bounds_is_refused():
    class Wrong(TicTacToe):
        def bounds(self, state):
            return 0.0, 0.5

    with pytest.raises(GameError, match="must lie in its bounds"):
        search_to_the_end(Wrong(), Kind.ADVERSARY)
