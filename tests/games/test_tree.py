"""The tree: values and bounds backed up by hand-worked sums, states found again."""

import numpy as np
import pytest

from games.game import Evaluation, GameError, Kind
from games.toys import Gather, Nim, RandomTree
from games.tree import SHRINK, UNKNOWN, Tree


def two_children(kind, *, second=False):
    """A node with children of value 0.2 (3 tries) and 0.8 (1 try), its own estimate 0.4; of player II if `second`."""

    class Game(RandomTree):
        def player(self, state):
            return super().player((*state, 0) if second else state)

    game = Game(np.zeros((2, 2, 2)), np.array([0.75, 0.25]))
    tree = Tree(game, kind)
    tree.add((), Evaluation(estimate=0.4))
    tree.expand(0, np.random.default_rng(0))
    span = tree.span(0)
    for edge in range(span.start, span.stop):
        move = tree.moves[tree.edges.move[edge]][1]
        tree.edges.child[edge] = tree.add((move,), Evaluation(estimate=(0.2, 0.8)[move]))
        tree.edges.tries[edge] = (3, 1)[move]
    return tree


MEAN = (0.4 + 3 * 0.2 + 1 * 0.8) / 5
HIGH = (1 * 0.8 + SHRINK * MEAN) / (1 + SHRINK)
LOW = (3 * 0.2 + SHRINK * MEAN) / (3 + SHRINK)


@pytest.mark.parametrize(("kind", "second", "value"), [
    (Kind.COOPERATOR, False, HIGH), (Kind.COOPERATOR, True, HIGH),
    (Kind.ADVERSARY, False, HIGH), (Kind.ADVERSARY, True, LOW),
    (Kind.COMPETITIVE, False, LOW), (Kind.COMPETITIVE, True, HIGH),
    (Kind.NATURE, False, HIGH), (Kind.NATURE, True, 0.75 * 0.2 + 0.25 * 0.8),
])  # fmt: skip
def test_a_value_is_the_movers_best_child_shrunk_to_the_mean_or_the_mean_over_chance(kind, second, value):
    tree = two_children(kind, second=second)
    tree.refresh(0)
    assert tree.nodes.value[0] == pytest.approx(value)


@pytest.mark.parametrize(("kind", "second", "bounds"), [
    (Kind.COOPERATOR, False, (0.5, 0.9)), (Kind.ADVERSARY, True, (0.1, 0.6)),
    (Kind.COMPETITIVE, False, (0.1, 0.6)), (Kind.NATURE, True, (0.75 * 0.1 + 0.25 * 0.5, 0.75 * 0.6 + 0.25 * 0.9)),
])  # fmt: skip
def test_bounds_are_those_of_the_mover(kind, second, bounds):
    tree = two_children(kind, second=second)
    for move, (lower, upper) in enumerate([(0.1, 0.6), (0.5, 0.9)]):
        node = tree.find((move,))
        tree.nodes.lower[node], tree.nodes.upper[node] = lower, upper
    tree.refresh(0)
    assert (tree.nodes.lower[0], tree.nodes.upper[0]) == pytest.approx(bounds)


def test_an_untried_move_keeps_the_bounds_of_the_rules():
    tree = two_children(Kind.COOPERATOR)
    tree.nodes.lower[1:3] = tree.nodes.upper[1:3] = 0.3
    tree.edges.child[tree.span(0).start] = UNKNOWN
    tree.refresh(0)
    assert (tree.nodes.lower[0], tree.nodes.upper[0]) == (0.3, 1.0)


def test_equal_states_are_found_whatever_their_order_and_others_are_not():
    game = Gather((1.0, 1.0, 1.0), 2.0, 3)
    tree = Tree(game, Kind.COOPERATOR)
    node = tree.add(frozenset([0, 1]), Evaluation())
    assert tree.find(frozenset([1, 0])) == node
    assert tree.find(frozenset([0, 2])) == UNKNOWN


def test_edges_come_in_an_order_drawn_by_their_chances():
    firsts = []
    for seed in range(400):
        tree = Tree(RandomTree(np.zeros((3, 3)), np.array([0.6, 0.3, 0.1])), Kind.COOPERATOR)
        tree.add((), Evaluation())
        tree.expand(0, np.random.default_rng(seed))
        firsts.append(tree.moves[tree.edges.move[0]][1])
    shares = np.bincount(firsts, minlength=3) / 400
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=5 * 0.5 / 20)
    assert shares[0] > shares[1] > shares[2]


def test_a_state_that_goes_on_without_a_move_is_refused():
    tree = Tree(Nim((0,)), Kind.ADVERSARY)
    tree.add(((0,), False), Evaluation())
    with pytest.raises(GameError, match="EXHAUSTED"):
        tree.expand(0, np.random.default_rng(0))


def test_arrays_grow_and_keep_what_they_hold():
    tree = Tree(Gather((0.0,) * 12, 1.0, 12), Kind.ADVERSARY)
    for size in range(1000):
        tree.add(frozenset(i for i in range(12) if size >> i & 1), Evaluation(estimate=0.0001))
    assert tree.nodes.size == 1000
    assert (tree.nodes.value[:1000] <= 0.0001).all()
    assert tree.find(frozenset({0})) == 1
