"""The few-pixel search: one run finds ever smaller sets of pixels that flip the classifier.

It plays the cooperative game of the paper: player I's features share what is learned of the pixels in them, player II
picks pixels and colours. Since the order of moves does not matter, what is kept is not a tree of orders but one belief
for each move, fed by every state that held it ("all moves as first"). Single moves are screened by a drawn upper bound;
a state is built move by move, with leaps ahead, until it flips; what is not needed is put back; then, at one pixel fewer
than the best, pixels are swapped for others, near and far, until that flips too, over and over until the queries are spent.

Source: Wicker, Huang & Kwiatkowska, TACAS 2018, arXiv:1710.07859, for the game. Departures: values are margins, not
1/severity, which is flat until the first success; statistics are shared between orders of play.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from robustest.attack.search_beliefs import Beliefs
from robustest.attack.search_blocks import floods, settle, spreads, thin
from robustest.attack.search_moves import Ahead, climbing_moves, swapping_moves
from robustest.attack.search_palette import Palette
from robustest.attack.search_states import Batch, Ints, State
from robustest.attack.task import Search, Task
from robustest.results import Edits, Margins, SaliencyChange
from robustest.saliency.features import Features, detect_features
from robustest.saliency.mixture import mixture
from robustest.saliency.regions import feature_regions, grid_regions, one_region

Asking = Generator[Edits, Margins, Margins]
Playing = Generator[Edits, Margins, None]

_SIZES = tuple(size << power for power in range(15) for size in (2, 3))  # 2, 3, 4, 6, 8, 12, ...
_LARGE = 64  # pixels along the shorter side, above which effects reach further and SIFT is trusted


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What was tuned, on images that no check uses.

    batch: states a question.
    screening: share of the queries for single edits; the tenth of it where only the label is given.
    optimism: deviations added to a mean when an edit is chosen.
    surprise: relative variance of what else moves the margin when a single edit of the clean image is scored.
    context: the same when the edit is made in a state with others, whose effects interfere.
    direct: size of a first success that is good enough to go on from.
    prefix: largest set that is tried before one is built with care. tallest: largest set that is built with care.
    patience: questions without progress before effects are measured anew. despair: before another state is built.
    thin: edits of a large image's best state above which it is changed by parts, not one by one.
    trust: questions of building before its progress is judged.
    warmth: how much worse a swap may be accepted, in units of the beliefs' scale.
    """

    batch: int = 16
    screening: float = 0.2
    optimism: float = 1.5
    surprise: float = 0.1
    context: float = 3.0
    direct: int = 8
    prefix: int = 256
    tallest: int = 64
    patience: int = 12
    despair: int = 30
    warmth: float = 0.1
    thin: int = 24
    trust: int = 6


def game_search(task: Task, rng: np.random.Generator, tuning: Tuning | None = None) -> Search:
    """Play the pixel game on one image; see the module's docstring."""
    play = _Play(task, rng, tuning or Tuning())
    task.notes.saliency = play.saliency
    yield from play.run()


def regions_of(task: Task, features: Features | None) -> Ints:
    """(H*W,) player I's moves for one image, by the guide that was asked for; `features` where that is SIFT.

    In a small image a feature's region is hardly larger than what a pixel's neighbours tell of it anyway, and borrowing
    from it was measured to cost pixels (28x28): there SIFT is not trusted, and the whole image is one region.
    """
    height, width, _ = task.image.shape
    if features is not None and min(height, width) <= _LARGE:
        return one_region(height, width)
    if features is not None:
        return feature_regions(features, height, width)
    return grid_regions(height, width) if task.settings.guide == "grid" else one_region(height, width)


class _Play:
    """One image's search: what it believes, the best it found, and how many queries are left."""

    def __init__(self, task: Task, rng: np.random.Generator, tuning: Tuning) -> None:
        self.rng, self.tuning = rng, tuning
        self.palette = Palette(task.image, task.settings.values, task.settings.tau, eight_bit=task.eight_bit)
        height, width, _ = task.image.shape
        self.shape = (height, width)
        self.features = detect_features(task.image) if task.settings.guide == "sift" else None
        far = min(height, width) > _LARGE
        self.beliefs = Beliefs(
            self.palette, self.shape, regions_of(task, self.features), rng=rng, reach=4.0 if far else 2.0, far=far
        )
        self.clean, self.label_only = task.clean_margin, task.decision_only
        self.large = far and not self.label_only
        self.queries, self.left = task.queries, task.queries
        # A state's key is the sum of its edits' keys: what is asked again is remembered by the driver and costs nothing.
        self.keys = rng.integers(2**63, size=self.beliefs.mean.shape)
        self.asked: set[int] = set()
        self.alone = np.zeros(self.beliefs.mean.shape, bool)  # edits whose effect on the clean image is known
        self.best: State | None = None
        self.restarts = 0
        self.dots = self.built = State.empty()
        self.singles_left = True  # until every single edit was tried

    def run(self) -> Playing:
        """All of it, until the queries are spent or one pixel is enough."""
        if not self.beliefs.allowed.any():
            return
        if self.large and self.left > 0:
            yield from self._spread()
        yield from self._screen()
        yield from self._leap()
        if not self.label_only and (self.best is None or len(self.best) > self.tuning.direct):
            yield from self._climb()
        if self.large and self._far():
            yield from settle(self, self.dots, self.built, until=self.left / 4)
        yield from self._force()
        if self.large:
            yield from thin(self, least=self.tuning.thin)
        yield from self._shrink()
        while self.best is not None and len(self.best) > 1 and self.left > 0:
            if len(self.best) == 2:  # one edit fewer is a single edit: what screening is for
                yield from self._singles(0)
                if not self.singles_left:
                    return
            else:
                yield from self._undercut(self.best)

    def saliency(self) -> SaliencyChange:
        """The distribution that the guide gives, and the same reweighted by what each pixel turned out to promise."""
        before = np.full(self.shape, 1 / (self.shape[0] * self.shape[1]))
        if self.features is not None:
            before = mixture(self.features, *self.shape).distribution
        after = before * (1 + self.beliefs.promise().reshape(self.shape))
        return SaliencyChange(before, after / after.sum())

    def ask(self, batch: Batch) -> Asking:
        """Have states scored, and keep the smallest that flips."""
        pixels = self.beliefs.pixel_of_cell[batch.cells]
        margins = yield Edits(pixels, self.palette.colours[batch.colours, pixels], batch.offsets)
        known = len(self.asked)
        self.asked.update(np.add.reduceat(self.keys[batch.colours, batch.cells], batch.offsets[:-1]).tolist())
        self.left -= max(len(self.asked) - known, -(-len(batch) // 4))  # a search that turns in a circle ends too
        sizes = np.diff(batch.offsets)
        single = batch.offsets[:-1][sizes == 1]
        self.alone[batch.colours[single], batch.cells[single]] = True
        flips = np.flatnonzero(margins < 0)
        if len(flips):
            sizes = sizes[flips]
            if self.best is None or sizes.min() < len(self.best):
                self.best = batch[int(flips[sizes.argmin()])]
        return margins

    def _far(self) -> bool:
        """True while nothing, or nothing but large sets of edits, is known to flip."""
        return self.best is None or len(self.best) > self.tuning.tallest

    def _spread(self) -> Playing:
        """Change many pixels to one colour, remember the most telling of the small ones, and find some flip at once."""
        states = spreads(self.beliefs, self.rng)
        if not states:
            return
        margins = yield from self.ask(Batch.of(states))
        few = [place for place, state in enumerate(states) if len(state) <= 2 * min(map(len, states))]
        self.dots = states[few[int(margins[few].argmin())]]
        if self.best is None and self.left > 0:
            strongest = states[int(margins.argmin())]
            yield from self.ask(Batch.of(floods(strongest, self.beliefs, self.rng)))

    def _hopeless(self, size: int, margin: float, spent: int) -> bool:
        """True where a large image's margin falls so slowly that no small set will come of building it edit by edit."""
        times = self.clean / max(self.clean - margin, 1e-9)  # how much higher it must be built
        # Where the few hundred best edits flip together, the best of them will do more than they did so far.
        hope = 2 if self.best is not None and len(self.best) <= self.tuning.prefix else 1
        high, long = times * size > hope * self.tuning.tallest, (times - 1) * spent > hope * self.left
        return self.large and self._far() and (high or long)

    def _screen(self) -> Playing:
        """Try single edits where the drawn upper bound is highest."""
        tuning = self.tuning
        share = tuning.screening / 10 if self.label_only else tuning.screening
        yield from self._singles(self.queries * (1 - share))

    def _singles(self, stop: float) -> Playing:
        """Go on with single edits until no more than `stop` queries are left, or the best is another, and small."""
        beliefs, tuning = self.beliefs, self.tuning
        best = self.best
        while self.left > stop and (self._far() or self.best is best):
            cells, colours = beliefs.top(beliefs.drawn(tuning.optimism, but=self.alone), tuning.batch)
            if not len(cells):
                self.singles_left = False
                return
            margins = yield from self.ask(Batch.square(cells[:, None], colours[:, None]))
            drops = self.clean - margins
            beliefs.learn(cells, colours, drops, noise=tuning.surprise)
            beliefs.tune(cells, colours, drops)
            beliefs.borrow()

    def _leap(self) -> Playing:
        """Try ever larger sets of the edits believed best, once."""
        if self._far() and self.left > 0:
            order = State(*self.beliefs.top(self.beliefs.mean.copy(), self.tuning.prefix))
            yield from self.ask(Batch.of(_prefixes(order)))

    def _climb(self) -> Playing:
        """Build a state edit by edit, each chosen by what it brings to those before it, until a leap ahead of it flips.

        Goes on until what it builds is no smaller than the best.
        """
        beliefs, tuning = self.beliefs, self.tuning
        state, margin, stalled, rounds = State.empty(), self.clean, 0, 0
        tallest = min(tuning.tallest, len(beliefs.cell_of_pixel) // 2)
        while self.left > 0 and len(state) + 1 < min(tallest, tallest if self.best is None else len(self.best)):
            if rounds >= tuning.trust and self._hopeless(len(state), margin, rounds * tuning.batch):
                self.built = state
                return
            rounds += 1
            moves = climbing_moves(state, beliefs, optimism=tuning.optimism, count=tuning.batch, rng=self.rng)
            if moves is None:
                return
            batch, added, sizes = moves
            margins = yield from self.ask(batch)
            singles = len(added)
            beliefs.learn(added.cells, added.colours, margin - margins[:singles], noise=tuning.context)
            # Several edits at once are worth it where they bring more than their number's share.
            worth = (margin - margins) / sizes**0.7
            place = int(worth[sizes <= 4].argmax())
            if margins[place] < 0:
                return
            stalled = 0 if margins[place] < margin else stalled + 1
            if margins[place] <= margin or stalled % 3 == 0:
                state, margin = batch[place], float(margins[place])

    def _force(self) -> Playing:
        """While nothing flips: try large sets of edits drawn ever more freely, and keep what lowered the margin most."""
        beliefs = self.beliefs
        most = max(len(beliefs.cell_of_pixel) // 3, 1)
        kept, lowest, freedom = State.empty(), np.inf, 0.3
        while self.best is None and self.left > 0:
            noise = self.rng.standard_normal(beliefs.mean.shape, dtype=np.float32)
            scores = beliefs.mean + np.float32(freedom * beliefs.scale) * beliefs.deviation * noise
            order = State(*beliefs.top(scores, most))
            if len(kept):
                kept = kept.keep(self.rng.permutation(len(kept))[len(kept) // 8 :])
                order = kept.plus(order.keep(~np.isin(order.cells, kept.cells)))
            tried = _prefixes(order)
            margins = yield from self.ask(Batch.of(tried))
            index = int(margins.argmin())
            if margins[index] <= lowest:
                kept, lowest = tried[index], float(margins[index])
            freedom += 0.3

    def _shrink(self) -> Playing:
        """Put back groups of the best state's edits, then all that are measured to be free, while it still flips."""
        group = len(self.best) // 2 if self.best is not None else 0
        while self.best is not None and group >= 2 and self.left > 0 and len(self.best) > 24:
            state = self.best
            order = self.rng.permutation(len(state))
            parts = [order[start : start + group] for start in range(0, len(state), group)]
            yield from self.ask(Batch.of([state.keep(np.setdiff1d(order, part)) for part in parts]))
            group = group // 2 if self.best is state else min(group, len(self.best) // 2)
        while self.best is not None and len(self.best) > 2 and self.left > 0:
            state = self.best
            margins = yield from self.ask(Batch.of(state.without_each()))
            order = np.argsort(margins, kind="stable")
            free = int((margins < 0).sum())
            if free < 2:
                return
            sizes = sorted({2, min(3, free), free // 2, free, min(2 * free, len(state) - 1)} - {0, 1, len(state)})
            yield from self.ask(Batch.of([state.keep(order[size:]) for size in sizes]))

    def _undercut(self, state: State) -> Playing:
        """Drop an edit little needed, then swap edits at that size until it flips."""
        beliefs, tuning = self.beliefs, self.tuning
        margins = yield from self.ask(Batch.of(state.without_each()))
        rank = min(int(self.rng.integers(3)), len(state) - 1) if self.restarts else 0
        place = int(np.argsort(margins, kind="stable")[rank])
        others = np.arange(len(state)) != place
        current, margin = state.keep(others), float(margins[place])
        need = (margins - margin)[others]  # how much each edit holds the margin down
        stalled, lowest = 0, margin
        while self.left > 0 and margin >= 0:
            softness = beliefs.scale / 2 * max(1, stalled / 4) + 1e-9
            ahead = Ahead(current, need, softness, self.alone if len(current) == 1 else None)
            batch, added, places = swapping_moves(
                ahead, beliefs, optimism=tuning.optimism, count=tuning.batch, rng=self.rng
            )
            if not len(batch):
                return
            margins = yield from self.ask(batch)
            drops = margin - margins + need[places]
            beliefs.learn(added.cells, added.colours, drops, noise=tuning.context)
            place = int(margins.argmin())
            if margins[place] <= margin + tuning.warmth * beliefs.scale * self.rng.exponential():
                need = need.copy()
                need[places[place]] = max(need[places[place]] + margin - margins[place], 0)
                current, margin = batch[place], float(margins[place])
            stalled += 1
            if margin < lowest:
                stalled, lowest = 0, margin
            if stalled >= tuning.despair:
                self.restarts += 1
                if not self.label_only:
                    yield from self._climb()
                return
            if stalled % tuning.patience == tuning.patience - 1 and len(current) > 1:
                margins = yield from self.ask(Batch.of(current.without_each()))
                need = margins - margin
                beliefs.forget(0.7)
                beliefs.borrow()


def _prefixes(order: State) -> list[State]:
    """The first 2, 3, 4, 6, 8, 12, ... edits of an order, and all of it."""
    sizes = [size for size in _SIZES if size < len(order)]
    return [order.keep(np.arange(size)) for size in [*sizes, len(order)]]
