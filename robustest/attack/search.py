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

import numpy as np

from robustest.attack import search_climb_turns as climbing
from robustest.attack import search_kernels, search_states
from robustest.attack import search_single_turns as screening
from robustest.attack import search_turns as swapping
from robustest.attack.search_asked import Asked
from robustest.attack.search_beliefs import Beliefs
from robustest.attack.search_blocks import FINEST, PARTS, settle, spread, thin
from robustest.attack.search_guide import LARGE, features_of, regions_of, reweighted
from robustest.attack.search_joint import grow, trim
from robustest.attack.search_moves import Ahead, climbing_moves, fresh_swaps
from robustest.attack.search_pace import FIRST_STAGE, no_change, stages, tells_nothing
from robustest.attack.search_palette import Palette
from robustest.attack.search_rivals import Rivals
from robustest.attack.search_states import Batch, State, pixels_and_values, prefixes, without_each
from robustest.attack.search_tuning import Tuning
from robustest.attack.task import Question, Search, Task
from robustest.compiled import fast
from robustest.results import Edits, Margins, SaliencyChange

Asking = Generator[Edits, Margins, Margins]
Playing = Generator[Question, Margins, None]
Growing = Generator[Question, Margins, tuple[State, float] | None]

_FLAT = 3  # questions in a row that told nothing, because the scores are saturated: another way must be found
_CHECKING = 5  # of so many queries one may go into checking the last find
_LEAST = 3  # edits needed least, one of which is left out to try with fewer
_NEAREST = -1  # no rival in particular: whichever is nearest


def game_search(task: Task, rng: np.random.Generator, tuning: Tuning | None = None) -> Search:
    """Play the pixel game on one image; see the module's docstring."""
    play = _Play(task, rng, tuning or Tuning())
    task.notes.saliency, task.notes.check = play.saliency, "cheap" if play.large else "pixels"
    yield from play.run()


class _Play:
    """One image's search: what it believes, the best it found, and how many queries are left."""

    def __init__(self, task: Task, rng: np.random.Generator, tuning: Tuning) -> None:
        self.rng, self.tuning = rng, tuning
        self.palette = Palette(task.image, task.settings.values, task.settings.tau, eight_bit=task.eight_bit)
        height, width, _ = task.image.shape
        far = min(height, width) > LARGE
        self.image, self.shape, self.sift = task.image, (height, width), task.settings.guide == "sift"
        self.features = features_of(task)
        self.beliefs = Beliefs(
            self.palette, self.shape, regions_of(task, self.features), rng=rng, reach=4.0 if far else 2.0, far=far
        )
        self.clean, self.label_only = task.clean_margin, task.decision_only
        self.large = far and not self.label_only
        self.boldness = tuning.caution if self.large else tuning.optimism
        self.attempts = 1 if self.large else tuning.attempts
        self.queries, self.left = task.queries, task.queries
        # The more queries, the larger a set can be that is built with care.
        widest = min(task.queries // tuning.building, tuning.prefix) if self.large else 0
        self.tallest = max(widest, tuning.tallest)
        self.alone = np.zeros(self.beliefs.mean.shape, bool)  # edits whose effect on the clean image is known
        self.flats = 0  # of these, those that changed nothing
        self.best: State | None = None
        self.dots = self.built = State.empty()
        self.until = 0  # queries left at which the stage is over
        self.notes, heard = task.notes, task.notes.scores
        self.rivals = Rivals(heard[0], task.label) if heard is not None and task.target is None else None
        # What is asked again is remembered by the driver and costs nothing.
        self.asked = Asked(self.beliefs.cells, self.rivals)
        self.aim = _NEAREST  # place among the rivals of the class that is aimed at
        self.views = {_NEAREST: self.beliefs}  # of each rival aimed at so far: what lowers the margin to it
        self.singles_left = True  # until every single edit was tried

    def run(self) -> Playing:
        """All of it, until the queries are spent or one pixel is enough."""
        if not self.beliefs.allowed.any():
            return
        if self.large and self.left > 0:
            self.dots = yield from spread(self)
        for spent in [self.queries] if self.large else stages(self.queries):
            self.until = self.queries - spent
            if self.best is None and spent > FIRST_STAGE and not (self.large or self.label_only):
                yield from spread(self)
            yield from self._stage(spent)
            if self.best is not None and len(self.best) == 1:
                return

    def _stage(self, spent: int) -> Playing:
        """Learn of single edits, find a state that flips, and make it smaller until that many queries are spent."""
        early = self.until > 0 and spent <= FIRST_STAGE  # what is found so early need not be small yet
        self._aim_at(_NEAREST)
        # In a large image the few first edits tell whether single edits are worth more.
        yield from self._screen(spent, most=self.tuning.glance if self.large else np.inf)
        yield from self._leap()
        by_parts = self.large or self._stepped()
        building = self.best is None or len(self.best) > self.tuning.direct
        if building and self.large:
            before = self.best
            self.built = yield from grow(self, tallest=self.tallest, until=self.until)
            by_parts = self.best is before or self._far()  # what was built with care needs all of its parts
        elif building and not (early or self.label_only or by_parts):
            if self.best is not None and len(self.best) > self.tuning.thin:  # far from small: several edits at a time
                until = max(self.stop, self.left // 2 if self._far() else 0)  # the rest is for making that one smaller
                yield from grow(self, tallest=self.tuning.tallest, until=until, patience=self.tuning.stalls)
            else:
                yield from self._climb()
        if self.large and (self.best is None or len(self.best) > len(self.dots) + len(self.built)):
            yield from settle(self, self.dots, self.built, until=self.left / 4)
        yield from self._force()
        if (by_parts or self._far()) and not (early or self.label_only):
            yield from thin(self, least=self.tuning.thin, finest=FINEST if self.large else PARTS)
        if by_parts or self._small() or not self.large:
            yield from self._shrink(max(self.until, self.left - self.tuning.haste) if early else self.until)
        if self.large and not self._far():
            if self._small():
                yield from self._screen(spent)
            yield from trim(self, least=self.tuning.trim)
        if not early:
            yield from self._undercut()

    def saliency(self) -> SaliencyChange:
        """The distribution that the guide gives, and the same reweighted by what each pixel turned out to promise."""
        promise = self.beliefs.promise().reshape(self.shape)
        return reweighted(self.image, self.features, promise, sift=self.sift)

    def ask(self, batch: Batch) -> Asking:
        """Have states scored, and keep the smallest that flips."""
        margins = yield self._edits_of(batch)
        self.rows, new, place = self.asked.heed(batch, self.alone, margins, self.notes.scores)
        self.left -= max(new, -(-len(batch) // 4))  # a search that turns in a circle ends too
        if place >= 0 and (self.best is None or len(batch[place]) < len(self.best)):
            self.best = batch[place]
        return margins

    def _edits_of(self, batch: Batch) -> Edits:
        gather = search_kernels.pixels_and_values if fast() else pixels_and_values
        table, colours = self.beliefs.pixel_of_cell, self.palette.colours
        return Edits(*gather(table, colours, batch.cells, batch.colours), batch.offsets)

    def _weigh(self, batch: Batch) -> Asking:
        """As `ask`, but the margins are those to the rival aimed at; still < 0 where an image flips to any class."""
        margins = yield from self.ask(batch)
        return margins if self.aim == _NEAREST else np.where(margins < 0, margins, self.rows[:, self.aim])

    def _aim_at(self, aim: int) -> None:
        """Turn to another rival, with all that single edits told of it."""
        self.aim = aim
        if aim not in self.views:
            assert self.rivals is not None
            view = self.views[aim] = self.views[_NEAREST].anew()
            heard = [(cells, colours, drops[:, aim]) for cells, colours, drops in self.rivals.singles]
            view.learn_in_turn(heard, noise=self.tuning.surprise)
        self.beliefs = self.views[aim]

    @property
    def stop(self) -> int:
        """Queries left at which no smaller state is looked for: what is found must be checked, in two rounds if need be."""
        check = 0 if self._far() or self.best is None else 2 * len(self.best) - 3
        return max(self.until, min(check, self.queries // _CHECKING))

    def _stepped(self) -> bool:
        """True where nothing small flips yet and many single edits change nothing: large states are made smaller then."""
        return not (self._small() or self.label_only) and self.flats > self.tuning.steps * int(self.alone.sum())

    def _small(self) -> bool:
        """True where so few edits flip that they are changed one by one."""
        return self.best is not None and len(self.best) <= self.tuning.thin

    def _far(self) -> bool:
        """True while nothing, or nothing but large sets of edits, is known to flip."""
        return self.best is None or len(self.best) > self.tallest

    def hopeless(self, size: int, margin: float, spent: int) -> bool:
        """True where a large image's margin, `size` edits away, has fallen so little that no small set will be built."""
        times = self.clean / max(self.clean - margin, 1e-9)  # how much more it takes
        # Where a few hundred edits flip together, the best of them will do more than they did so far.
        hope = 3 if self.best is not None and len(self.best) <= self.tuning.prefix else 1
        if not self.large or not self._far() or spent < hope * self.tuning.trust * self.tuning.batch:
            return False
        return times * size > hope * self.tallest or (times - 1) * spent > hope * self.left

    def _screen(self, spent: int, *, most: float = np.inf) -> Playing:
        """Try single edits where the drawn upper bound is highest: in all a share of what this stage's end will have spent.

        Args:
            most: no more than so many in all.
        """
        tuning = self.tuning
        share = tuning.screening / 10 if self.label_only else tuning.screening
        wanted = min(share * spent, most)
        yield from self._singles(max(self.left - (wanted - int(self.alone.sum())), self.until))

    def _singles(self, stop: float) -> Playing:
        """Go on with single edits until no more than `stop` queries are left, or the best is another, and small."""
        if swapping.together(self):
            yield from screening.turns(self, stop, tiring=_FLAT if self._far() and not self.large else None)
            return
        beliefs, tuning = self.beliefs, self.tuning
        best, flat = self.best, 0
        while self.left > stop and (self._far() or self.best is best):
            if flat == _FLAT and self._far() and not self.large:
                return
            cells, colours = beliefs.best(self.boldness, tuning.batch, but=self.alone)
            if not len(cells):
                self.singles_left = False
                return
            margins = yield from self.ask(Batch.square(cells[:, None], colours[:, None]))
            flat = flat + 1 if tells_nothing(margins, self.clean) else 0
            drops = self.clean - margins
            self.flats += int(no_change(margins, self.clean).sum())
            beliefs.learn(cells, colours, drops, noise=tuning.surprise)
            beliefs.tune(cells, colours, drops)
            beliefs.borrow()
            if self.rivals is not None:
                self.rivals.hear(cells, colours, self.rows)

    def _leap(self) -> Playing:
        """Try ever larger sets of the edits believed best, once."""
        most = self.tuning.prefix if self._far() or self.best is None else len(self.best) - 1
        if most > 1 and self.left > self.until:
            order = State(*self.beliefs.top(self.beliefs.mean.copy(), most))
            yield from self.ask(prefixes(order))

    def _climb(self) -> Growing:
        """Build a state edit by edit, each chosen by what it brings to those before it, until a leap ahead of it flips.

        Goes on until what it builds is no smaller than the best.

        Returns:
            What it built and its margin, where that has one edit fewer than the best; else None.
        """
        beliefs, tuning = self.beliefs, self.tuning
        state, stalled, rounds, flat = State.empty(), 0, 0, 0
        margin = self.clean if self.rivals is None or self.aim == _NEAREST else float(self.rivals.clean[self.aim])
        height, lowest = 0, margin  # of the farthest leap
        half = 0 if self.large or self.best is None or not self._far() else self.left // 2  # to make that one smaller
        tallest = min(tuning.tallest, len(beliefs.cell_of_pixel) // 2)
        if swapping.together(self) and not self.large:
            grown = yield from climbing.turns(self, margin, tallest=tallest, half=half, tiring=_FLAT)
            if grown is None:
                return None
            state, margin = grown
        while self.left > max(self.stop, half) and len(state) + 1 < min(tallest, len(self.best or range(tallest))):
            if self.hopeless(height, lowest, rounds * tuning.batch):
                return None
            rounds += 1
            moves = climbing_moves(state, beliefs, optimism=tuning.optimism, count=tuning.batch, rng=self.rng)
            if moves is None:
                return None
            batch, added, sizes = moves
            margins = yield from self._weigh(batch)
            flat = flat + 1 if tells_nothing(margins, margin) else 0
            if flat == _FLAT:
                return None
            farthest = int(margins.argmin())
            height, lowest = len(state) + int(sizes[farthest]), float(margins[farthest])
            singles = len(added)
            beliefs.learn(added.cells, added.colours, margin - margins[:singles], noise=tuning.context)
            # Several edits at once are worth it where they bring more than their number's share.
            worth = (margin - margins) / sizes**0.7
            place = int(worth[sizes <= 4].argmax())
            if margins[place] < 0:
                return None
            stalled = 0 if margins[place] < margin else stalled + 1
            if margins[place] <= margin or stalled % 3 == 0:
                state, margin = batch[place], float(margins[place])
        return (state, margin) if self.best is not None and len(state) == len(self.best) - 1 else None

    def _force(self) -> Playing:
        """While nothing flips: try large sets of edits drawn ever more freely, and keep what lowered the margin most."""
        beliefs = self.beliefs
        most = max(len(beliefs.cell_of_pixel) // 3, 1)
        kept, lowest, freedom = State.empty(), np.inf, 0.3
        while self.best is None and self.left > self.until:
            noise = self.rng.standard_normal(beliefs.mean.shape, dtype=np.float32)
            scores = beliefs.mean + np.float32(freedom * beliefs.scale) * beliefs.deviation * noise
            order = State(*beliefs.top(scores, most))
            if len(kept):
                kept = kept.keep(self.rng.permutation(len(kept))[len(kept) // 8 :])
                order = kept.plus(order.keep(~np.isin(order.cells, kept.cells)))
            tried = prefixes(order)
            margins = yield from self.ask(tried)
            index = int(margins.argmin())
            if margins[index] <= lowest:
                kept, lowest = tried[index], float(margins[index])
            freedom += 0.3

    def _shrink(self, until: int) -> Playing:
        """Put back groups of the best state's edits, then all measured to be free, until no more than `until` queries are left."""
        group = len(self.best) // 2 if self.best is not None else 0
        while self.best is not None and group >= 2 and self.left > until and len(self.best) > 24:
            state = self.best
            order = self.rng.permutation(len(state))
            yield from self.ask(search_states.without_parts(state, order, group))
            group = group // 2 if self.best is state else min(group, len(self.best) // 2)
        while self.best is not None and len(self.best) > 2 and self.left > until:
            state = self.best
            margins = yield from self.ask(without_each(state))
            order = np.argsort(margins, kind="stable")
            free = int((margins < 0).sum())
            if free < 2:
                return
            sizes = sorted({2, min(3, free), free // 2, free, min(2 * free, len(state) - 1)} - {0, 1, len(state)})
            yield from self.ask(search_states.stretches(state.keep(order), [(size, len(state)) for size in sizes]))

    def _undercut(self) -> Playing:
        """At one edit fewer than the best, look for a set that flips, from one start after another."""
        size, tries = 0, 0
        while self.best is not None and len(self.best) > 1 and self.left > self.stop:
            if len(self.best) == 2:  # one edit fewer is a single edit: what screening is for
                self._aim_at(_NEAREST)
                yield from self._singles(self.until)
                if not self.singles_left:
                    return
                continue
            tries = 0 if len(self.best) - 1 != size else tries + 1
            size = len(self.best) - 1
            if self.rivals is not None:
                ranked = self.rivals.ranked()
                self._aim_at(ranked[(tries // 2) % min(len(ranked), self.tuning.aims)] if tries % 2 else _NEAREST)
            grown = (yield from self._climb()) if tries % 2 and not self.label_only else None
            among = _LEAST if tries else 1
            if grown is not None:
                yield from self._swap(*grown)
            elif len(self.best) - 1 == size and swapping.droppable(self, self.best):
                yield from swapping.dropping(self, self.best, among)
            elif len(self.best) - 1 == size:
                state = self.best
                margins = yield from self._weigh(without_each(state))
                rank = min(int(self.rng.integers(among)), size)
                place = int(np.argsort(margins, kind="stable")[rank])
                others = np.arange(size + 1) != place
                margin = float(margins[place])
                yield from self._swap(state.keep(others), margin, (margins - margin)[others])

    def needs(self, state: State, margin: float) -> Asking:
        """How much each edit of a state holds the margin down."""
        if len(state) == 1:
            return np.zeros(1)
        return (yield from self._weigh(without_each(state))) - margin

    def _swap(self, current: State, margin: float, need: Margins | None = None) -> Playing:
        """Swap edits of a state until it flips, or nothing has come of it for long.

        Args:
            need: how much each of its edits holds the margin down; None to measure that first.
        """
        if swapping.ready(self, current):
            yield from swapping.turns(self, current, margin, need)
            return
        if need is None:
            need = yield from self.needs(current, margin)
        beliefs, tuning = self.beliefs, self.tuning
        stalled, lowest = 0, margin
        while self.left > self.stop and margin >= 0 and stalled < tuning.despair:
            softness = beliefs.scale / 2 * max(1, stalled / 4) + 1e-9
            ahead = Ahead(current, need, softness, self.alone if len(current) == 1 else None)
            swaps = fresh_swaps(
                ahead,
                beliefs,
                self.asked,
                optimism=tuning.optimism,
                count=2 * tuning.batch,
                most=min(tuning.batch, self.left - self.stop),
                attempts=self.attempts,
                rng=self.rng,
            )
            stalled += 1
            if swaps is None:
                continue
            margins = yield from self._weigh(swaps.batch)
            places, single = swaps.places, swaps.single
            drops = margin - margins + need[places]
            beliefs.learn(swaps.added.cells[single], swaps.added.colours[single], drops[single], noise=tuning.context)
            place = int(margins.argmin())
            if margins[place] <= margin + tuning.warmth * beliefs.scale * self.rng.exponential():
                need = need.copy()
                need[places[place]] = max(need[places[place]] + margin - margins[place], 0)
                current, margin = swaps.batch[place], float(margins[place])
            if margin < lowest:
                stalled, lowest = 0, margin
            if stalled % tuning.patience == tuning.patience - 1 and len(current) > 1:
                need = yield from self.needs(current, margin)
                beliefs.forget(swapping.FORGOTTEN)
                beliefs.borrow()
