"""The few-pixel search: one run finds ever smaller sets of pixels that flip the classifier.

It plays the cooperative game of the paper: player I's features share what is learned of the pixels in them, player II
picks pixels and colours. Since the order of moves does not matter, what is kept is not a tree of orders but one belief
for each move, fed by every state that held it ("all moves as first"). Single moves are screened by a drawn upper bound;
prefixes of the best grow until one flips; what is not needed is dropped; then, at one pixel fewer than the best, pixels are
swapped for others, near and far, until that flips too, over and over until the queries are spent.

Source: Wicker, Huang & Kwiatkowska, TACAS 2018, arXiv:1710.07859, for the game. Departures: values are margins, not
1/severity, which is flat until the first success; statistics are shared between orders of play.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.attack.search_beliefs import Beliefs
from robustest.attack.search_palette import Palette
from robustest.attack.search_states import Batch, Ints, State
from robustest.attack.task import Search, Task
from robustest.results import Edits, Margins
from robustest.saliency.features import detect_features
from robustest.saliency.regions import feature_regions, grid_regions, one_region

Asking = Generator[Edits, Margins, Margins]
Playing = Generator[Edits, Margins, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What was tuned on images that no check uses.

    screening: share of the queries for single edits. screening_batch, swap_batch: states a question.
    optimism: deviations added to a mean when an edit is chosen.
    moving, joining: share of swaps that move a pixel to its own neighbour, or next to another pixel of the state.
    double: share of swaps that exchange two pixels. patience: batches without progress before effects are measured anew.
    """

    screening: float = 0.2
    screening_batch: int = 16
    swap_batch: int = 8
    optimism: float = 1.0
    moving: float = 0.5
    joining: float = 0.3
    double: float = 0.15
    patience: int = 12


def game_search(task: Task, rng: np.random.Generator, tuning: Tuning | None = None) -> Search:
    """Play the pixel game on one image; see the module's docstring."""
    yield from _Play(task, rng, tuning or Tuning()).run()


def regions_of(task: Task) -> Ints:
    """(H*W,) player I's moves for one image, by the guide that was asked for."""
    height, width, _ = task.image.shape
    if task.settings.guide == "uniform":
        return one_region(height, width)
    if task.settings.guide == "grid":
        return grid_regions(height, width)
    return feature_regions(detect_features(task.image), height, width)


class _Play:
    """One image's search: what it believes, the best it found, and how many queries are left."""

    def __init__(self, task: Task, rng: np.random.Generator, tuning: Tuning) -> None:
        self.rng, self.tuning = rng, tuning
        self.palette = Palette(task.image, task.settings.values, task.settings.tau, eight_bit=task.eight_bit)
        self.beliefs = Beliefs(self.palette, task.image.shape[:2], regions_of(task), rng=rng)
        self.clean = task.clean_margin
        self.queries, self.left = task.queries, task.queries
        self.best: State | None = None

    def run(self) -> Playing:
        """All of it, until the queries are spent or one pixel is enough."""
        if not self.beliefs.allowed.any():
            return
        yield from self._screen()
        yield from self._grow()
        yield from self._shrink()
        while self.best is not None and len(self.best) > 1 and self.left > 0:
            yield from self._undercut(self.best)

    def _ask(self, batch: Batch) -> Asking:
        """Have states scored, and keep the smallest that flips."""
        pixels = self.beliefs.pixel_of_cell[batch.cells]
        margins = yield Edits(pixels, self.palette.colours[batch.colours, pixels], batch.offsets)
        self.left -= len(batch)
        flips = np.flatnonzero(margins < 0)
        if len(flips):
            sizes = np.diff(batch.offsets)[flips]
            index = int(flips[sizes.argmin()])
            if self.best is None or sizes.min() < len(self.best):
                self.best = batch[index]
        return margins

    def _screen(self) -> Playing:
        """Try single edits where the drawn upper bound is highest."""
        beliefs, tuning = self.beliefs, self.tuning
        stop = self.queries * (1 - tuning.screening)
        while self.left > stop and self.best is None:
            cells, colours = beliefs.top(beliefs.drawn(tuning.optimism), tuning.screening_batch)
            margins = yield from self._ask(Batch.square(cells[:, None], colours[:, None]))
            beliefs.learn(cells, colours, self.clean - margins)
            beliefs.borrow()

    def _grow(self) -> Playing:
        """Try ever larger sets of the edits believed best until one flips; then, if none does, change the largest set."""
        beliefs = self.beliefs
        most = max(len(beliefs.cell_of_pixel) // 3, 1)
        blur = 0.0
        largest, lowest = State(np.zeros(0, np.int64), np.zeros(0, np.int64)), np.inf
        while self.best is None and self.left > 0:
            scores = beliefs.mean + np.float32(blur * beliefs.scale) * beliefs.deviation * self.rng.standard_normal(
                beliefs.mean.shape, dtype=np.float32
            )
            order = State(*beliefs.top(scores, most))
            if blur > 0.6 and len(largest):
                order = self._renewed(largest, order)
            sizes = [size for size in _SIZES if size < len(order)] + [len(order)]
            tried = [order.keep(np.arange(size)) for size in sizes if size <= max(256, len(largest))]
            margins = yield from self._ask(Batch.of(tried))
            index = int(margins.argmin())
            if margins[index] <= lowest:
                largest, lowest = tried[index], float(margins[index])
            blur += 0.3

    def _renewed(self, state: State, order: State) -> State:
        """`state` with an eighth of its edits given up for the best of `order` not in it, and a few more."""
        kept = state.keep(self.rng.permutation(len(state))[max(1, len(state) // 8) :])
        fresh = order.keep(~np.isin(order.cells, kept.cells))
        return kept.plus(fresh)

    def _shrink(self) -> Playing:
        """Put back ever smaller groups of the best state's edits while it still flips."""
        if self.best is None:
            return
        group = len(self.best) // 2
        while group >= 2 and self.left > 0:
            state = self.best
            order = self.rng.permutation(len(state))
            parts = [order[start : start + group] for start in range(0, len(state), group)]
            yield from self._ask(Batch.of([state.keep(np.setdiff1d(order, part)) for part in parts]))
            group = group // 2 if self.best is state else min(group, len(self.best) // 2)

    def _undercut(self, state: State) -> Playing:
        """Drop the edit least needed, then swap edits at that size until it flips."""
        margins = yield from self._ask(Batch.of(state.without_each()))
        place = int(margins.argmin())
        others = np.arange(len(state)) != place
        current, margin = state.keep(others), float(margins[place])
        need = (margins - margin)[others]  # how much each edit holds the margin down
        stalled = 0
        while self.left > 0 and margin >= 0:
            cells, colours, leaving = self._swaps(current, need, stalled)
            batch = self._swapped(current, cells, colours, leaving)
            margins = yield from self._ask(batch)
            self.beliefs.learn(cells, colours, margin - margins + need[leaving], noise=0.1)
            place = int(margins.argmin())
            if margins[place] <= margin:
                need = need.copy()
                need[leaving[place]] = max(need[leaving[place]] + margin - margins[place], 0)
                stalled = 0 if margins[place] < margin else stalled + 1
                current, margin = batch[place], float(margins[place])
            else:
                stalled += 1
            if stalled % self.tuning.patience == self.tuning.patience - 1 and len(current) > 1:
                margins = yield from self._ask(Batch.of(current.without_each()))
                need = margins - margin
                self.beliefs.forget(0.7)
                self.beliefs.borrow()

    def _swaps(self, state: State, need: NDArray[np.float64], stalled: int) -> tuple[Ints, Ints, Ints]:
        """Edits to bring in, and the place in the state that each takes: (cells, colours, places)."""
        beliefs, rng, tuning = self.beliefs, self.rng, self.tuning
        scores = beliefs.drawn(tuning.optimism)
        cells, colours = beliefs.top(scores, tuning.swap_batch, avoid=state.cells)
        count = len(cells)
        warmth = beliefs.scale / 2 * max(1, stalled / 4) + 1e-9
        weight = np.exp(-(need - need.min()) / warmth)
        leaving = rng.choice(len(state), count, p=weight / weight.sum())
        kind = rng.random(count)
        moving = kind < tuning.moving
        leaving = np.where(moving, rng.integers(len(state), size=count), leaving)
        anchors = np.where(moving, leaving, rng.integers(len(state), size=count))
        local = np.flatnonzero(kind < tuning.moving + tuning.joining)
        if len(local):
            around = beliefs.neighbours(state.cells[anchors[local]])
            near = np.where(rng.random(around.shape) < 0.3, scores[:, around], -np.inf)
            flat = near.transpose(1, 0, 2).reshape(len(local), -1)
            pick = flat.argmax(axis=1)
            good = flat[np.arange(len(local)), pick] > -1e20
            rows = local[good]
            colours[rows], step = np.divmod(pick[good], around.shape[1])
            cells[rows] = around[good, step]
        return cells, colours, leaving

    def _swapped(self, state: State, cells: Ints, colours: Ints, leaving: Ints) -> Batch:
        """The states after those swaps, some of them with a second one."""
        rows = np.arange(len(cells))
        new_cells = np.tile(state.cells, (len(cells), 1))
        new_colours = np.tile(state.colours, (len(cells), 1))
        new_cells[rows, leaving] = cells
        new_colours[rows, leaving] = colours
        if len(state) > 2:
            twice = np.flatnonzero(self.rng.random(len(cells)) < self.tuning.double)
            for row in twice:
                place = int((leaving[row] + 1 + self.rng.integers(len(state) - 1)) % len(state))
                found = self.beliefs.top(self.beliefs.drawn(self.tuning.optimism), 1, avoid=new_cells[row])
                new_cells[row, place], new_colours[row, place] = found[0][0], found[1][0]
        return Batch.square(new_cells, new_colours)


_SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384, 32768)
