"""What helps is done together: how a state of some ten edits or more is built, and in a large image becomes smaller.

One edit or swap at a time takes a question for every step. Where several edits of one question lower the margin by
themselves, most often they lower it together, too: a few further states tell. In small images that is so where nothing small
flips at first; else their states have few edits, whose effects interfere.

Knows nothing of classifiers or budgets.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robustest.attack.search_beliefs import Beliefs
from robustest.attack.search_moves import Ahead, Swaps, fresh_swaps, growing_edits
from robustest.attack.search_player import Player
from robustest.attack.search_states import Batch, Ints, State, with_each, without_each
from robustest.results import Edits, Margins

_SHARE = 0.3  # of the best state's edits that are taken away at once, at most; half of it after each failure
_BOLDER = 1.5  # by which that share grows after each success
_DESPAIR = 8  # starts without a smaller flip
_PATIENCE, _SMALL = 4, 12  # questions without progress; twice as many where a state has fewer edits than that
_TOGETHER = 3  # states of a question that are left for several edits or swaps at once
_LEAPS = (8, 16, 32)  # edits added at once to those that help, to see how near the end is
_POWER = 0.7  # of the number of edits, by which what several bring is divided

Asking = Generator[Edits, Margins, Margins]
Playing = Generator[Edits, Margins, None]
Floats = NDArray[np.float64]
Swapping = Generator[Edits, Margins, tuple[State, Floats]]


class Builder(Player, Protocol):
    """What this needs of the search that does it."""

    until: int
    clean: float

    def ask(self, batch: Batch) -> Asking:
        """Have states scored, and keep the smallest that flips."""

    def hopeless(self, size: int, margin: float, spent: int) -> bool:
        """True where a margin, `size` edits away, has fallen so little that no small set will be built."""


def grow(player: Builder, *, tallest: int, until: int, patience: float = np.inf) -> Generator[Edits, Margins, State]:
    """Build a state from nothing, all edits of a question that help at once, until it flips.

    Leaps ahead of it tell how near that is, until one of them flips: that is the best, then, for the time being.

    Args:
        tallest: edits that it stays below, as it stays below those of the best state.
        until: queries left at which it is over. patience: steps without progress after which it is given up.

    Returns:
        What was built, where nothing flipped; else no edit.
    """
    beliefs, tuning, best = player.beliefs, player.tuning, player.best
    state, margin, begun = State.empty(), player.clean, player.left
    height, lowest, leapt = 0, margin, False  # of the farthest leap; whether one flipped
    stalled = 0
    while player.left > until and len(state) + 1 < min(tallest, len(player.best or range(tallest))):
        if stalled >= patience or (not leapt and player.hopeless(height, lowest, begun - player.left)):
            break
        single = growing_edits(state, beliefs, optimism=tuning.optimism, count=tuning.batch - _TOGETHER, rng=player.rng)
        if not len(single):
            break
        margins = yield from player.ask(with_each(state, single, []))
        beliefs.learn(single.cells, single.colours, margin - margins, noise=tuning.context)
        if (margins < 0).any():
            break
        order, good = np.argsort(margins, kind="stable"), int((margins < margin).sum())
        counts = sorted({2, max(2, good // 2), good}) if good > 1 else []
        options = [state.plus(single.keep(order[:count])) for count in (1, *counts)]
        leaps = [] if leapt else _leaps(state.plus(single.keep(order[:good])), beliefs, optimism=tuning.optimism)
        values = margins[order[:1]]
        if leaps or counts:
            several = yield from player.ask(Batch.of([*options[1:], *leaps]))
            values = np.concatenate([values, several[: len(counts)]])
            if (values < 0).any():
                break
            if leaps:
                far = int(several.argmin())
                height, lowest = len([*options[1:], *leaps][far]), float(several[far])
                leapt = lowest < 0
        sizes = np.array([1, *counts])
        place = int(((margin - values) / sizes**_POWER).argmax())
        stalled = 0 if values[place] < margin else stalled + 1
        if values[place] < margin:
            state, margin = options[place], float(values[place])
    return state if player.best is best else State.empty()


def _leaps(state: State, beliefs: Beliefs, *, optimism: float) -> list[State]:
    """The state with several more edits, the best by a drawn upper bound."""
    ranked = State(*beliefs.top(beliefs.bounds(*beliefs.noise(optimism)), _LEAPS[-1], avoid=state.cells))
    return [state.plus(ranked.keep(np.arange(leap))) for leap in _LEAPS if leap <= len(ranked)]


def trim(player: Builder, *, least: int) -> Playing:
    """Take the least needed edits of the best state away, several at once, and swap others until it flips again.

    What each edit is needed for is measured anew only where nothing came of what was known of it.

    Args:
        least: edits of the best state at which this is over; it is, too, when nothing has come of it for long.
    """
    failed, share = 0, _SHARE
    need: Floats | None = None  # of each edit of the best state, and whether that was measured
    measured = False
    while player.best is not None and len(player.best) > least and player.left > player.stop and failed <= _DESPAIR:
        best, size, free = player.best, len(player.best), 0
        if need is None or (failed and not measured):
            margins = yield from player.ask(without_each(best))
            need, free, measured = margins - margins.min(), int((margins < 0).sum()), True
        order, gone = np.argsort(need, kind="stable"), max(1, round(size * share))
        if free != 1:
            wanted = {1, 2, 3, gone, 2 * gone, free // 2, free, 2 * free}
            counts = sorted(count for count in wanted if 1 <= count < size and count <= max(3, 2 * gone, 2 * free))
            found = yield from player.ask(Batch.of([best.without(order[:count]) for count in counts]))
        if player.best is not best:
            failed, need, measured = 0, carried(best, need, player.best), False
            continue
        place, margin = order[:gone], float(found[counts.index(gone)])
        if gone == 1 and failed > 1:
            place = order[[min(int(player.rng.integers(3)), size - 1)]]
            margin = float(margins[place[0]])
        kept = np.setdiff1d(np.arange(size), place)
        current, known = yield from _swap(player, best.keep(kept), margin, need[kept])
        if player.best is best:
            failed, share = failed + 1, share / 2
        else:
            failed, share = 0, min(_SHARE, share * _BOLDER)
            need, measured = carried(current, known, player.best), False


def carried(state: State, need: Floats, other: State) -> Floats:
    """What is known of a state's edits, for those of another; of edits that are not in the first, the median."""
    known, usual = dict(zip(state.cells.tolist(), need.tolist(), strict=True)), float(np.median(need))
    return np.array([known.get(cell, usual) for cell in other.cells.tolist()])


def _swap(player: Builder, current: State, margin: float, need: Floats) -> Swapping:
    """Swap edits of a state, all at once that lower the margin, until something smaller than the best flips.

    Returns:
        What it has come to, and what each of its edits is needed for.
    """
    beliefs, tuning, best = player.beliefs, player.tuning, player.best
    stalled, lowest = 0, margin
    patience = _PATIENCE * (2 if len(current) < _SMALL else 1)
    while player.left > player.stop and margin >= 0 and stalled < patience:
        softness = beliefs.scale / 2 * max(1, stalled / 4) + 1e-9
        swaps = fresh_swaps(
            Ahead(current, need, softness),
            beliefs,
            player.asked,
            optimism=tuning.optimism,
            count=2 * tuning.batch,
            most=min(tuning.batch - _TOGETHER, player.left - player.stop),
            rng=player.rng,
        )
        stalled += 1
        if swaps is None:
            continue
        margins = yield from player.ask(swaps.batch)
        if player.best is not best:
            break
        places, single = swaps.places, swaps.single
        drops = margin - margins + need[places]
        beliefs.learn(swaps.added.cells[single], swaps.added.colours[single], drops[single], noise=tuning.context)
        order = np.argsort(margins, kind="stable")
        tried, chosen, value = swaps.batch[int(order[0])], order[:1], float(margins[order[0]])
        several = compatible(current, swaps, order[: int((margins < margin).sum())])
        if len(several) > 1:
            counts = sorted({2, max(2, len(several) // 2), len(several)})
            states = [together(current, swaps, several[:count]) for count in counts]
            joint = yield from player.ask(Batch.of(states))
            if player.best is not best:
                break
            lower = int(joint.argmin())
            if joint[lower] < value:
                tried, chosen, value = states[lower], several[: counts[lower]], float(joint[lower])
        if value <= margin + tuning.warmth * beliefs.scale * player.rng.exponential():
            need = need.copy()
            need[places[chosen]] = np.maximum(drops[chosen], 0)
            current, margin = tried, value
        if margin < lowest:
            stalled, lowest = 0, margin
    return current, need


def compatible(state: State, swaps: Swaps, rows: Ints) -> Ints:
    """Of these rows of the swaps, in their order, those that can be made together: no edit left twice, no cell taken twice."""
    chosen: list[int] = []
    places: set[int] = set()
    cells = set(state.cells.tolist())
    for row in rows.tolist():
        place, cell = int(swaps.places[row]), int(swaps.added.cells[row])
        recoloured = cell == int(state.cells[place])
        if swaps.single[row] and place not in places and (recoloured or cell not in cells):
            chosen.append(row)
            places.add(place)
            cells.add(cell)
    return np.array(chosen, np.int64)


def together(state: State, swaps: Swaps, rows: Ints) -> State:
    """The state with these swaps made, which must be compatible."""
    cells, colours = state.cells.copy(), state.colours.copy()
    cells[swaps.places[rows]], colours[swaps.places[rows]] = swaps.added.cells[rows], swaps.added.colours[rows]
    return State(cells, colours)
