"""Exact solvers against solved games, array reductions and counts from the literature."""

from functools import reduce
from itertools import product
from operator import xor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from games.exact import alpha_beta, expectimax
from games.game import Kind
from games.search import Stop, Stopping, Watch, run
from games.toys import Gather, Nim, RandomTree, TicTacToe

from .positions import gather, random_tree, tree_value

SOLVERS = [expectimax, alpha_beta]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("heaps", list(product(range(4), repeat=3)))
def test_nim_is_won_by_whom_bouton_says_in_both_hostile_games(solver, heaps):
    game, xor_wins = Nim(heaps), float(reduce(xor, heaps) != 0)
    assert run(solver(game, Kind.ADVERSARY), game.evaluate).value == xor_wins  # Bouton 1901
    # with both wishes turned round whoever takes the last object loses: the misere game
    misere_wins = xor_wins if max(heaps) > 1 else float(sum(heaps) % 2 == 0)
    assert run(solver(game, Kind.COMPETITIVE), game.evaluate).value == 1 - misere_wins


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("heaps", "value"), [
    ((1, 1), 0.0),  # II is left with the last object
    ((2,), 1.0),  # I takes both
    ((1, 2), 1.0),  # I takes one of the two: (1, 1) is left, and II must leave one
    ((1, 1, 2), 1.0),  # I takes two and leaves (1, 1)
    ((2, 2), 2 / 3),  # I leaves (1, 2): II takes 1 -> (2,) won; 2 -> (1,) won; 1 of 2 -> (1, 1) lost
])  # fmt: skip
def test_nim_against_chance(solver, heaps, value):
    assert run(solver(Nim(heaps), Kind.NATURE), Nim(heaps).evaluate).value == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("kind", "value"), [
    (Kind.ADVERSARY, 0.5),  # a draw
    (Kind.COMPETITIVE, 0.5),  # three in a row loses, and that too is a draw
    (Kind.COOPERATOR, 1.0),
    (Kind.NATURE, 191 / 192 + 0.5 / 192),  # the best first player wins 191 of 192 against chance, draws 1
])  # fmt: skip
def test_tic_tac_toe_is_solved(solver, kind, value):
    game = TicTacToe()
    assert run(solver(game, kind), game.evaluate).value == pytest.approx(value, abs=1e-12)


def test_tic_tac_toe_has_5478_positions_whatever_the_order_of_moves():
    assert run(expectimax(TicTacToe(), Kind.ADVERSARY), TicTacToe().evaluate).nodes == 5478


@pytest.mark.parametrize("items", [3, 6, 8])
def test_a_game_of_subsets_has_a_state_for_each_subset_not_for_each_order(items):
    game = Gather((0.0,) * items, goal=1.0, size=items)
    result = run(expectimax(game, Kind.ADVERSARY), game.evaluate)
    assert (result.nodes, result.queries, result.value) == (2**items, 2**items, 0.0)


@pytest.mark.parametrize("kind", Kind)
@given(seed=st.integers(0, 10_000), branching=st.integers(1, 4), depth=st.integers(1, 5))
def test_both_solvers_give_the_value_of_a_random_tree(kind, seed, branching, depth):
    tree = random_tree(seed, branching, depth)
    value = tree_value(tree, kind)
    for solver in SOLVERS:
        result = run(solver(tree, kind), tree.evaluate)
        assert result.value == pytest.approx(value, abs=1e-12)
        assert result.exact
        assert result.stop is Stop.SOLVED


@pytest.mark.parametrize(("branching", "depth"), [(2, 4), (3, 4), (3, 5), (4, 3)])
def test_alpha_beta_looks_at_as_few_plays_as_the_theory_says_when_the_best_comes_first(branching, depth):
    # payoffs so that move 0 is always best for whoever moves: worse for the mover by a digit at each move
    weights = np.array([(-1.0 if ply % 2 == 0 else 1.0) * branching ** -float(ply + 1) for ply in range(depth)])
    digits = np.stack(np.indices((branching,) * depth), axis=-1)
    tree = RandomTree(0.5 + 0.4 * digits @ weights, np.full(branching, 1 / branching))
    asked = []

    def evaluate(state):
        asked.append(state)
        return tree.evaluate(state)

    run(alpha_beta(tree, Kind.ADVERSARY), evaluate)
    leaves = sum(len(state) == depth for state in asked)
    assert leaves == branching ** ((depth + 1) // 2) + branching ** (depth // 2) - 1  # Knuth & Moore 1975
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("kind", [Kind.ADVERSARY, Kind.COMPETITIVE, Kind.NATURE])
def test_alpha_beta_never_looks_at_more_than_expectimax_and_mostly_at_less(kind):
    counts = []
    for seed in range(20):
        tree = random_tree(seed, 3, 5)
        counts.append([run(solver(tree, kind), tree.evaluate).nodes for solver in SOLVERS])
    full, pruned = np.array(counts).T
    assert (full == 364).all()  # 1 + 3 + ... + 243
    assert (pruned <= full).all()
    assert (pruned < full).mean() > 0.9
    assert pruned.mean() < (0.95 if kind is Kind.NATURE else 0.6) * 364


@pytest.mark.parametrize("kind", Kind)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 6), goal=st.floats(0.5, 4.0))
def test_pruning_by_the_rules_bounds_and_transpositions_changes_no_value(kind, seed, size, goal):
    game = gather(seed, items=6, size=size, goal=goal)
    full, pruned = (run(solver(game, kind), game.evaluate) for solver in SOLVERS)
    assert pruned.value == pytest.approx(full.value, abs=1e-12)
    assert pruned.nodes <= full.nodes


@given(seed=st.integers(0, 10_000))
def test_nature_lies_between_adversary_and_cooperator(seed):
    game = gather(seed)
    hostile, drawn, friendly = (
        run(expectimax(game, kind), game.evaluate).value for kind in (Kind.ADVERSARY, Kind.NATURE, Kind.COOPERATOR)
    )
    assert hostile <= drawn + 1e-12
    assert drawn <= friendly + 1e-12


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", Kind)
def test_the_principal_line_is_a_play_and_pays_the_value_where_nothing_is_drawn(solver, kind):
    tree = random_tree(5)
    result = run(solver(tree, kind), tree.evaluate)
    assert len(result.line) == 4
    if kind is not Kind.NATURE:
        assert tree.evaluate(result.line).payoff == result.value


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_exact_search_out_of_queries_says_so_and_proves_only_what_it_has(solver):
    tree = random_tree(1)
    watch = Watch(Stopping(queries=10))
    result = run(solver(tree, Kind.ADVERSARY, watch), tree.evaluate)
    assert (result.stop, result.queries, result.exact) == (Stop.QUERIES, 10, False)
    assert result.lower <= tree_value(tree, Kind.ADVERSARY) <= result.upper
