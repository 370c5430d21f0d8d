"""How fast searches come to the exact value of small pixel games: makes the tables of reports/game_values.md.

    python reports/game_values.py

The games: 5x5 black-and-white images, drawn by seed, that every change of one pixel makes less safe, under linear classifiers and under a
convolution with a ReLU; at most four pixels may be changed; player I picks a quarter or so of the image, player II a pixel in it. The margin is
2 to 3.2 times what one pixel takes on average. Games that one pixel wins, or nobody can win, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from games import (
    Evaluation,
    Kind,
    MctsSettings,
    SearchResult,
    Stopping,
    Watch,
    expectimax,
    mcts,
    puct,
    random_play,
    run,
    uct,
    uniform,
)
from robustest.attack.pixel_features import partition_features
from robustest.attack.pixel_game import Move, PixelGame, PixelRules, Turn

SIDE, RADIUS, GAMES = 5, 4.0, 12
QUERIES = (10, 30, 100, 300, 1000)

Margins = Callable[[NDArray[np.float32]], NDArray[np.float64]]


def drawn_margins(rng: np.random.Generator, convolution: bool) -> Margins:
    """Margins of a random linear classifier, or of a 2x2 convolution with a ReLU and a random read-out."""
    weights = rng.choice([-1.0, 1.0], SIDE * SIDE) * rng.uniform(0.5, 1.5, SIDE * SIDE)
    kernels, readout = rng.normal(size=(4, 4)), rng.normal(size=(4, (SIDE - 1) ** 2))

    def linear(images: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(images.reshape(len(images), -1) @ weights)

    def network(images: NDArray[np.float32]) -> NDArray[np.float64]:
        x = images[..., 0]
        windows = np.stack([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]], axis=-1)
        maps = np.maximum(windows @ kernels.T, 0.0).reshape(len(images), -1, 4)
        return np.asarray(np.einsum("npk,kp->n", maps, readout))

    return network if convolution else linear


def safest_image(raw: Margins, rng: np.random.Generator) -> tuple[NDArray[np.float32], float]:
    """A black-and-white image that every change of one pixel makes less safe, and the mean fall of the margin then."""
    flat = rng.integers(0, 2, SIDE * SIDE).astype(np.float32)
    while True:
        changed = np.abs(flat[None] - np.eye(SIDE * SIDE, dtype=np.float32))
        falls = float(raw(flat.reshape(1, SIDE, SIDE, 1))[0]) - raw(changed.reshape(-1, SIDE, SIDE, 1))
        if falls.min() >= 0:
            return flat.reshape(SIDE, SIDE, 1), float(falls.mean())
        flat = changed[int(falls.argmin())]


def small_games() -> Iterator[tuple[PixelGame, Callable[[Turn], Evaluation]]]:
    """The games, each with what answers for it."""
    kept, seed = 0, 0
    while kept < GAMES:
        rng = np.random.default_rng(seed)
        raw = drawn_margins(rng, convolution=seed % 2 == 1)
        image, fall = safest_image(raw, rng)
        clean = fall * rng.uniform(2.0, 3.2)
        shift = clean - float(raw(image[None])[0])
        seed += 1
        rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
        regions = rows // 2 * 2 + columns // 2
        features = partition_features(regions, rng.dirichlet(np.ones(SIDE * SIDE)).reshape(SIDE, SIDE))
        game = PixelGame(image, features, PixelRules(norm="l0", radius=RADIUS), clean_margin=clean)
        evaluate = partial(answer, game, raw, shift)
        value = run(expectimax(game, Kind.COOPERATOR), evaluate).value
        if 0 < value < 1:
            kept += 1
            yield game, evaluate


def answer(game: PixelGame, raw: Margins, shift: float, state: Turn) -> Evaluation:
    """What the classifier says of a state."""
    return game.judge(state, float(raw(game.edits([state]).apply(game.image))[0]) + shift)


Searcher = Callable[[PixelGame, Kind, Callable[[Turn], Evaluation], int], SearchResult[Turn, Move]]


def by_mcts(settings: Callable[[np.random.Generator], MctsSettings]) -> Searcher:
    """MCTS with given settings."""

    def search(
        game: PixelGame, kind: Kind, evaluate: Callable[[Turn], Evaluation], seed: int
    ) -> SearchResult[Turn, Move]:
        watch: Watch[Turn] = Watch(Stopping(queries=QUERIES[-1]))
        rng = np.random.default_rng(seed)
        return run(mcts(game, kind, settings(rng), watch, rng=rng), evaluate)

    return search


def by_random_play(
    game: PixelGame, kind: Kind, evaluate: Callable[[Turn], Evaluation], seed: int
) -> SearchResult[Turn, Move]:
    """Uniformly random plays, flat Monte Carlo; it may ask about every state it meets, once."""
    watch: Watch[Turn] = Watch(Stopping(queries=QUERIES[-1], iterations=3000))
    return run(random_play(game, kind, watch, batch=4, rng=np.random.default_rng(seed)), evaluate)


SEARCHES: dict[str, Searcher] = {
    "MCTS, estimates (PUCT)": by_mcts(
        lambda rng: MctsSettings(select=puct(c=0.3), first=20.0, widening=0.5, batch=4, playouts=False)
    ),
    "MCTS, playouts (UCT)": by_mcts(lambda rng: MctsSettings(select=uct(), batch=4)),
    "same tree, uniformly random moves": by_mcts(
        lambda rng: MctsSettings(select=uniform(rng), batch=4, playouts=False)
    ),
    "uniform random play": by_random_play,
}


def at(result: SearchResult[Turn, Move], queries: int) -> float:
    """The value the search gave after so many queries; 0, not forced, before its first answer."""
    return next((p.value for p in reversed(result.curve) if p.queries <= queries), 0.0)


def main() -> None:
    """Print one table a kind of game."""
    games = list(small_games())
    for kind in Kind:
        exact = [run(expectimax(game, kind), evaluate) for game, evaluate in games]
        forced = sum(result.value > 0 for result in exact)
        print(
            f"\n### {kind.value}\n\n{forced} of {len(games)} games can be forced; {np.mean([r.queries for r in exact]):.0f} queries solve one by looking at everything.\n"
        )
        print("| search | " + " | ".join(f"{q} queries" for q in QUERIES) + " | solved | queries to solve |")
        print("| --- |" + " ---: |" * (len(QUERIES) + 2), flush=True)
        for name, search in SEARCHES.items():
            results = [search(game, kind, evaluate, seed) for seed, (game, evaluate) in enumerate(games)]
            cells = []
            for queries in QUERIES:
                gaps = np.array([abs(at(r, queries) - e.value) for r, e in zip(results, exact, strict=True)])
                half = 2.2 * gaps.std(ddof=1) / math.sqrt(len(gaps))  # Student's t, 11 degrees of freedom, 95 %
                cells.append(f"{gaps.mean():.3f} ± {half:.3f}")
            solved = [r.queries for r in results if r.exact]
            spent = f"{np.mean(solved):.0f}" if solved else "-"
            print(f"| {name} | {' | '.join(cells)} | {len(solved)} of {len(games)} | {spent} |", flush=True)


if __name__ == "__main__":
    main()
