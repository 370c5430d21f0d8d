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
    swap_batch: int = 16
    optimism: float = 1.0
    moving: float = 0.6
    joining: float = 0.4
    thinning: float = 0.3
    double: float = 0.15
    patience: int = 12
    phases: bool = True
    restart: int = 30
    climb_above: int = 8
    climb_most: int = 64
    crowd: int = 6
    climb_near: float = 0.25
    fade: float = 1.0
    fresh: float = 1.0
    heat: float = 0.1
    swap_noise: float = 3.0
    screen_noise: float = 0.1
    refresh: float = 0.7


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
        self.turns = 0

    def run(self) -> Playing:
        """All of it, until the queries are spent or one pixel is enough."""
        if not self.beliefs.allowed.any():
            return
        yield from self._screen()
        yield from self._grow(once=True)
        if self.best is None or len(self.best) > self.tuning.climb_above:
            yield from self._climb()
        if self.best is None:
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
            beliefs.learn(cells, colours, self.clean - margins, noise=tuning.screen_noise)
            if tuning.phases: beliefs.tune(cells, colours, self.clean - margins)
            beliefs.borrow()

    def _grow(self, *, once: bool = False) -> Playing:
        """Try ever larger sets of the edits believed best until one flips; then, if none does, change the largest set."""
        beliefs = self.beliefs
        most = max(len(beliefs.cell_of_pixel) // 3, 1)
        blur = 0.0 if once else 0.3
        largest, lowest = State(np.zeros(0, np.int64), np.zeros(0, np.int64)), np.inf
        tries = 0
        while self.best is None and self.left > 0 and (tries < 1 or not once):
            tries += 1
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

    def _climb(self) -> Playing:
        """Build a state edit by edit, each chosen by what it brings to those before it, until it flips or is no smaller than the best."""
        beliefs, tuning = self.beliefs, self.tuning
        state, margin, stalled = State(np.zeros(0, np.int64), np.zeros(0, np.int64)), self.clean, 0
        most = min(tuning.climb_most, len(beliefs.cell_of_pixel) // 2)
        while self.left > 0 and len(state) + 1 < (most if self.best is None else len(self.best)):
            scores = beliefs.drawn(tuning.optimism)
            cells, colours = beliefs.top(scores, tuning.swap_batch, avoid=state.cells)
            if not len(cells):
                return
            if len(state):
                count = int(len(cells) * tuning.climb_near)
                near_cells, near_colours = self._near(scores, state.cells[self.rng.integers(len(state), size=count)])
                cells[len(cells) - len(near_cells) :] = near_cells
                colours[len(cells) - len(near_cells) :] = near_colours
            adding = len(cells) if len(state) < tuning.crowd else max(len(cells) * tuning.crowd // (2 * len(state)), 2)
            cells, colours = cells[-adding:], colours[-adding:]
            batch = Batch.of(
                [state.plus(State(cells[row : row + 1], colours[row : row + 1])) for row in range(len(cells))]
            )
            if adding < tuning.swap_batch:
                swapped = self._swaps(state, np.zeros(len(state)), stalled)[0]
                batch = batch.joined(swapped, tuning.swap_batch - adding)
            margins = yield from self._ask(batch)
            if (margins < 0).any():
                return
            beliefs.learn(cells, colours, margin - margins[:adding], noise=tuning.swap_noise)
            place = int(margins[:adding].argmin())
            if len(margins) > adding:
                other = adding + int(margins[adding:].argmin())
                if margin - margins[other] > max(margin - margins[place], 0) / 2:
                    place = other
            stalled = 0 if margins[place] < margin else stalled + 1
            if margins[place] <= margin or stalled % 3 == 0:
                state, margin = batch[place], float(margins[place])

    def _near(self, scores: NDArray[np.float32], anchors: Ints) -> tuple[Ints, Ints]:
        """Good edits next to the given cells, one each where there is one: (cells, colours)."""
        around = self.beliefs.neighbours(anchors)
        drawn = np.where(self.rng.random(around.shape, dtype=np.float32) < self.tuning.thinning, scores[:, around], -np.inf)
        best = drawn.max(axis=0)
        pick = best.argmax(axis=1)
        rows = np.flatnonzero(best[np.arange(len(anchors)), pick] > _WORST)
        return around[rows, pick[rows]], drawn[:, rows, pick[rows]].argmax(axis=0)

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
        while group >= 2 and self.left > 0 and len(self.best) > 24:
            state = self.best
            order = self.rng.permutation(len(state))
            parts = [order[start : start + group] for start in range(0, len(state), group)]
            yield from self._ask(Batch.of([state.keep(np.setdiff1d(order, part)) for part in parts]))
            group = group // 2 if self.best is state else min(group, len(self.best) // 2)
        while len(self.best) > 2 and self.left > 0:
            state = self.best
            margins = yield from self._ask(Batch.of(state.without_each()))
            order = np.argsort(margins, kind="stable")
            free = int((margins < 0).sum())
            if free < 2:
                return
            sizes = sorted({2, min(3, free), free // 2, free, min(2 * free, len(state) - 1)} - {0, 1})
            yield from self._ask(Batch.of([state.keep(order[size:]) for size in sizes if size < len(state)]))

    def _undercut(self, state: State) -> Playing:
        """Drop the edit least needed, then swap edits at that size until it flips."""
        margins = yield from self._ask(Batch.of(state.without_each()))
        place = int(margins.argmin())
        if self.turns:
            place = int(np.argsort(margins)[min(self.rng.integers(3), len(margins) - 1)])
        others = np.arange(len(state)) != place
        current, margin = state.keep(others), float(margins[place])
        need = (margins - margin)[others]  # how much each edit holds the margin down
        stalled, lowest = 0, margin
        if self.tuning.fresh < 1: self.beliefs.forget(self.tuning.fresh)
        if self.tuning.fade < 1: self.beliefs.mean[self.beliefs.allowed] *= self.tuning.fade
        while self.left > 0 and margin >= 0:
            batch, cells, colours, leaving = self._swaps(current, need, stalled)
            margins = yield from self._ask(batch)
            self.beliefs.learn(cells, colours, margin - margins + need[leaving], noise=self.tuning.swap_noise)
            place = int(margins.argmin())
            if margins[place] <= margin + (self.tuning.heat * self.beliefs.scale * self.rng.exponential() if self.tuning.heat else 0):
                need = need.copy()
                need[leaving[place]] = max(need[leaving[place]] + margin - margins[place], 0)
                current, margin = batch[place], float(margins[place])
            stalled += 1
            if margin < lowest:
                stalled, lowest = 0, margin
            if self.tuning.restart and stalled >= self.tuning.restart:
                yield from self._climb()
                self.turns += 1
                return
            if stalled % self.tuning.patience == self.tuning.patience - 1 and len(current) > 1:
                margins = yield from self._ask(Batch.of(current.without_each()))
                need = margins - margin
                self.beliefs.forget(self.tuning.refresh)
                self.beliefs.borrow()

    def _swaps(self, state: State, need: NDArray[np.float64], stalled: int) -> tuple[Batch, Ints, Ints, Ints]:
        """States that differ from `state` in one edit, some in two.

        Returns:
            batch: the B states. cells, colours: (B,) the edit brought in first. places: (B,) whose place it took.
        """
        beliefs, rng, tuning = self.beliefs, self.rng, self.tuning
        size, count = len(state), tuning.swap_batch
        scores = beliefs.drawn(tuning.optimism)
        cells, colours = beliefs.top(scores, count + count // 2, avoid=state.cells)
        count = min(count, len(cells))
        seconds = State(cells[count:], colours[count:])
        cells, colours = cells[:count], colours[:count]
        warmth = beliefs.scale / 2 * max(1, stalled / 4) + 1e-9
        weight = np.cumsum(np.exp((need.min() - need) / warmth))
        leaving = np.searchsorted(weight, rng.random(count) * weight[-1], side="right")
        kind = rng.random(count)
        anchors = rng.integers(size, size=count)
        moving = kind < tuning.moving
        leaving[moving] = anchors[moving]
        local = np.flatnonzero(kind < tuning.moving + tuning.joining)
        around = beliefs.neighbours(state.cells[anchors[local]])
        near = np.where(rng.random(around.shape, dtype=np.float32) < tuning.thinning, scores[:, around], -np.inf)
        best = near.max(axis=0)
        pick = best.argmax(axis=1)
        good = best[np.arange(len(local)), pick] > _WORST
        local, pick, around, near = local[good], pick[good], around[good], near[:, good]
        picked = np.arange(len(local))
        cells[local] = around[picked, pick]
        colours[local] = near[:, picked, pick].argmax(axis=0)
        rows = np.arange(count)
        new_cells, new_colours = state.cells[None].repeat(count, 0), state.colours[None].repeat(count, 0)
        new_cells[rows, leaving] = cells
        new_colours[rows, leaving] = colours
        if size > 2 and len(seconds):
            twice = np.flatnonzero(rng.random(count) < tuning.double)[: len(seconds)]
            seconds = seconds.keep(np.arange(len(twice)))
            fresh = seconds.cells != cells[twice]
            twice, seconds = twice[fresh], seconds.keep(fresh)
            place = (leaving[twice] + 1 + rng.integers(size - 1, size=len(twice))) % size
            new_cells[twice, place] = seconds.cells
            new_colours[twice, place] = seconds.colours
        return Batch.square(new_cells, new_colours), cells, colours, leaving


_WORST = -1e20
_SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384, 32768)
