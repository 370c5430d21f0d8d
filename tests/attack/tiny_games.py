"""Pixel games small enough to solve, on classifiers whose margins are written down here."""

from itertools import combinations, product

import numpy as np

from games.monte_carlo import MctsSettings, mcts
from games.search import Watch, run
from robustest.attack.pixel_features import effect_features, partition_features, sift_features
from robustest.attack.pixel_game import PixelGame
from robustest.saliency import saliency_of


def linear(weights, bias=0.0):
    """Margins w . x + b."""
    flat = np.asarray(weights, np.float64).reshape(-1)

    def margins(images):
        return images.reshape(len(images), -1).astype(np.float64) @ flat + bias

    return margins


def convolution(kernels, readout, bias=0.0):
    """Margins of a convolution, a ReLU and a linear read-out; kernels (K, 2, 2), readout (K,) on the sum over places."""

    def margins(images):
        x = images.astype(np.float64).sum(axis=3)
        shifted = np.stack([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]], axis=-1)
        maps = np.maximum(shifted @ np.asarray(kernels).reshape(len(kernels), 4).T, 0.0)
        return maps.sum(axis=(1, 2)) @ np.asarray(readout) + bias

    return margins


class TinyGame(PixelGame):
    """A pixel game that asks its own classifier."""

    def __init__(self, image, features, rules, margins, **more):
        self.margins = margins
        clean = float(margins(image[None])[0])
        super().__init__(image, features, rules, clean_margin=clean, **more)

    def evaluate(self, state):
        rendered = self.edits([state]).apply(self.image)
        return self.judge(state, float(self.margins(rendered)[0]))


def features_of(image, how):
    """Features of an image in one of the ways a user can choose."""
    height, width = image.shape[:2]
    places = np.arange(height * width)
    if how == "sift":
        return sift_features(saliency_of(image), most=3)
    if how == "one":
        return partition_features(np.zeros(height * width, np.int64), np.full((height, width), 1 / places.size))
    if how == "singles":
        return partition_features(places, np.full((height, width), 1 / places.size))
    if how == "quarters":
        rows, columns = np.divmod(places, width)
        regions = (rows >= height // 2) * 2 + (columns >= width // 2)
        return partition_features(regions, np.linspace(1, 2, height * width).reshape(height, width))
    return effect_features(np.linspace(-1, 1, height * width).reshape(height, width), size=7)


def solve(game, solver, kind):
    return run(solver(game, kind), game.evaluate).value


def searched(game, kind, seed=0, **settings):
    """MCTS run to the end."""
    search = mcts(game, kind, MctsSettings(**settings), Watch(), rng=np.random.default_rng(seed))
    return run(search, game.evaluate)


def nearest_by_enumeration(game: TinyGame) -> float:
    """The largest payoff of any misclassified grid image in the ball, by trying every one of them.

    Every dimension on its own grid, so only for changes of single dimensions; at most three of them.
    """
    image, rules = game.image, game.rules
    tau, best = rules.tau, 0.0
    flat = image.astype(np.float64).reshape(-1)
    options = []
    for at, x in enumerate(flat):
        most = 1 if rules.once else int(np.ceil(1 / tau))
        grid = {float(np.clip(x + k * tau, 0, 1)) for k in range(-most, most + 1)} - {float(x)}
        options.append([(at, value) for value in sorted(grid)])
    images = [[]]
    for count in (1, 2, 3):
        images += [
            chosen
            for places in combinations(range(len(flat)), count)
            for chosen in product(*(options[p] for p in places))
        ]
    for chosen in images[1:]:
        gaps = np.array([abs(value - flat[at]) for at, value in chosen])
        severity = {
            "l0": lambda g, c=chosen: float(len({at // image.shape[2] for at, _ in c})),
            "l0_dims": lambda g: float(len(g)),
            "l1": np.sum, "l2": lambda g: float(np.sqrt((g**2).sum())), "linf": np.max,
        }[rules.norm](gaps)  # fmt: skip
        if severity > rules.radius + 1e-9 or game.payoff(float(severity)) <= best:
            continue
        changed = flat.copy()
        changed[[at for at, _ in chosen]] = [value for _, value in chosen]
        if game.margins(changed.reshape(1, *image.shape).astype(np.float32))[0] < 0:
            best = game.payoff(float(severity))
    return best
