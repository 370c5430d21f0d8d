"""Games for the tests, and the values of random trees by plain array reduction."""

import numpy as np

from games.game import Aim, Kind, Player
from games.monte_carlo import MctsSettings, mcts
from games.search import Watch, run
from games.toys import Gather, RandomTree


def tree_value(tree: RandomTree, kind: Kind) -> float:
    """The value of a random tree: reduce the payoffs from the last move to the first."""
    values = tree.payoffs
    for depth in reversed(range(tree.payoffs.ndim)):
        aim = kind.aim(Player.SECOND if depth % 2 else Player.FIRST)
        if aim is Aim.CHANCE:
            values = values @ tree.odds
        else:
            values = values.max(axis=-1) if aim is Aim.MAXIMISE else values.min(axis=-1)
    return float(values)


def random_tree(seed: int, branching: int = 3, depth: int = 4) -> RandomTree:
    return RandomTree.draw(branching, depth, rng=np.random.default_rng(seed))


def gather(seed: int, items: int = 7, size: int = 4, goal: float = 2.0) -> Gather:
    weights = np.random.default_rng(seed).normal(0.5, 1.0, items)
    return Gather(tuple(weights.tolist()), goal, size)


def search_to_the_end(game, kind, *, seed=0, **settings):
    """MCTS with nothing to stop it but the solution."""
    search = mcts(game, kind, MctsSettings(**settings), Watch(), rng=np.random.default_rng(seed))
    return run(search, game.evaluate)
