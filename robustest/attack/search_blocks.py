"""Large moves of the few-pixel search: many pixels at once, for images so large that single pixels hardly move the margin.

Dots of one colour spread over the image flip what no few pixels flip; the dots that are not needed are then put back, part by
part, and parts are exchanged for others at fewer pixels than the best. Parts are pieces of the image that hold equally many
of the state's pixels, so that a part's effect tells where the classifier looks.

Source of the idea of changing many pixels, and fewer as it goes on: Croce, Andriushchenko, Singh, Flammarion & Hein, AAAI
2022, arXiv:2006.12834, where the number of pixels is fixed and parts are single pixels. Knows nothing of classifiers or budgets.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robustest.attack.search_beliefs import Beliefs
from robustest.attack.search_states import Batch, Ints, State
from robustest.results import Edits, Margins

_SHARES = (1 / 256, 1 / 16)  # of the image's pixels that a first spread changes
_MOST_COLOURS = 8
PARTS, FINEST = 16, 64  # of a state; where it is as small as it gets with so few, twice as many, up to so many
_JOINT = (2, 3, 4, 6, 8, 11, 14, 18, 24, 32, 40, 48, 56)  # parts that are put back together
_SPARSER = (8, 4, 2)  # of so many edits one, anywhere, that is put back to make a state sparser
_SPARSE = 400  # edits down to which that is tried
_ANYWHERE = 0.3  # share of new edits that are put anywhere in the image
_RECOLOURED = 0.2  # share of new edits that are given any colour
_TURNS, _MANY_TURNS = 6, 60  # rounds of exchange: at fewer edits than the best, and to find a first flip
_LEAST_PARTS = 2  # of a state that is exchanged by parts: one of them stays where nothing takes the other's place
_DESPAIR = 4
_LATELY = 4  # turns whose progress tells how long it will take to flip
_WORTH = 2  # times fewer edits than the best must be what is still grown
_HOPE = 0.5  # share of the queries left, that it may take

Asking = Generator[Edits, Margins, Margins]
Playing = Generator[Edits, Margins, None]
Exchanging = Generator[Edits, Margins, tuple[State, NDArray[np.float64]]]


def spreads(beliefs: Beliefs, rng: np.random.Generator) -> list[State]:
    """Dots of one colour each, at random places: every colour (eight at most) at every share of the image."""
    pixels = len(beliefs.cell_of_pixel)
    colours = rng.permutation(beliefs.colours)[:_MOST_COLOURS]
    states: list[State] = []
    for colour in colours.tolist():
        cells = rng.permutation(beliefs.cell_of_pixel)[: int(pixels * _SHARES[-1])]
        cells = cells[beliefs.allowed[colour, cells]]
        whole = State(cells, np.full(len(cells), colour))
        states += [whole.keep(np.arange(int(len(cells) * share / _SHARES[-1]))) for share in _SHARES]
    return [state for state in states if len(state) > 1]


def floods(state: State, beliefs: Beliefs, rng: np.random.Generator) -> list[State]:
    """A spread of one colour grown to an eighth, a quarter, half and all of the image, in its own colour and in a mixture."""
    colour = int(state.colours[0])
    cells = rng.permutation(beliefs.cell_of_pixel)
    states = []
    for mixed in (False, True):
        colours = rng.integers(beliefs.colours, size=len(cells)) if mixed else np.full(len(cells), colour)
        allowed = beliefs.allowed[colours, cells]
        whole = State(cells[allowed], colours[allowed])
        states += [whole.keep(np.arange(len(whole) // part)) for part in (8, 4, 2, 1) if len(whole) >= part]
    return states


def parts_of(state: State, count: int, *, across: int, rng: np.random.Generator) -> list[Ints]:
    """`count` parts of a state, of the same number of edits up to one, each a piece of the image: cut in two, again and again."""
    rows, columns = np.divmod(state.cells, across)
    parts = [rng.permutation(len(state))]
    while len(parts) < count:
        largest = max(range(len(parts)), key=lambda index: len(parts[index]))
        part = parts.pop(largest)
        if len(part) < 2:
            parts.append(part)
            break
        angle = rng.random() * np.pi  # cuts at any slant, so that two cuttings of one state are different
        along = np.cos(angle) * rows[part] + np.sin(angle) * columns[part]
        part = part[np.argsort(along, kind="stable")]
        parts += [part[: len(part) // 2], part[len(part) // 2 :]]
    return parts


def companions(
    state: State, weight: NDArray[np.float64], count: int, beliefs: Beliefs, *, reach: int, rng: np.random.Generator
) -> State:
    """Edits to go with a state's: next to those that matter, in their colours, a few anywhere.

    Args:
        weight: (k,) how much each of the state's edits matters, >= 0. count: edits wanted.
        reach: pixels that a new edit may lie away from the one that it is put next to.

    Returns:
        At most `count` edits, of cells that the state does not hold.
    """
    height, width = beliefs.shape
    models = rng.choice(len(state), count, p=weight / weight.sum())
    rows, columns = np.divmod(beliefs.pixel_of_cell[state.cells[models]], width)
    rows = np.clip(rows + rng.integers(-reach, reach + 1, count), 0, height - 1)
    columns = np.clip(columns + rng.integers(-reach, reach + 1, count), 0, width - 1)
    anywhere = rng.random(count) < _ANYWHERE
    pixels = np.where(anywhere, rng.integers(width * height, size=count), rows * width + columns)
    cells = beliefs.cell_of_pixel[pixels]
    other = rng.random(count) < _RECOLOURED
    colours = np.where(other, rng.integers(beliefs.colours, size=count), state.colours[models])
    _, first = np.unique(cells, return_index=True)
    good = first[beliefs.allowed[colours[first], cells[first]] & ~np.isin(cells[first], state.cells)]
    return State(cells[good], colours[good])


def replacement(
    state: State, part: Ints, weight: NDArray[np.float64], beliefs: Beliefs, *, reach: int, rng: np.random.Generator
) -> State:
    """`companions` of the other edits of a state, at most as many as `part`, the places in it that are to be replaced."""
    chances = weight + 1e-9
    chances[part] = 1e-12
    return companions(state, chances, len(part), beliefs, reach=reach, rng=rng)


class Player(Protocol):
    """What the large moves need of the search that makes them."""

    beliefs: Beliefs
    rng: np.random.Generator
    best: State | None
    left: int

    @property
    def stop(self) -> int:
        """Queries left at which no smaller state is looked for."""

    def ask(self, batch: Batch) -> Asking:
        """Have states scored."""


def spread(player: Player) -> Generator[Edits, Margins, State]:
    """Change many pixels to one colour, to find some flip at once.

    Returns:
        The most telling of the small ones.
    """
    states = spreads(player.beliefs, player.rng)
    if not states:
        return State.empty()
    margins = yield from player.ask(Batch.of(states))
    few = [place for place, state in enumerate(states) if len(state) <= 2 * min(map(len, states))]
    if player.best is None and player.left > 0:
        strongest = states[int(margins.argmin())]
        yield from player.ask(Batch.of(floods(strongest, player.beliefs, player.rng)))
    return states[few[int(margins[few].argmin())]]


def thin(player: Player, *, least: int, finest: int = PARTS) -> Playing:
    """Put back what the best state does not need, and exchange parts at fewer pixels, until it has no more than `least`.

    Args:
        finest: parts that it may be cut into, where nothing comes of fewer. Where that is more than the fewest, dots
            anywhere in it are tried, too: it may flip though each of its parts is needed.
    """
    despair, count = 0, PARTS
    while player.best is not None and len(player.best) > least and player.left > player.stop and despair < _DESPAIR:
        state = player.best
        parts = parts_of(state, min(count, len(state) // 2), across=player.beliefs.across, rng=player.rng)
        shares = _SPARSER if PARTS == count < finest and len(state) > _SPARSE else ()
        sparser = [state.without(player.rng.permutation(len(state))[: len(state) // share]) for share in shares]
        asked = yield from player.ask(Batch.of([*(state.without(part) for part in parts), *sparser]))
        margins = asked[: len(parts)]
        order, free = np.argsort(margins, kind="stable"), int((margins < 0).sum())
        sizes = [size for size in _JOINT if size < len(parts) and size <= 2 * free + 2]
        fewer = [state.without(np.concatenate([parts[place] for place in order[:size]])) for size in sizes]
        yield from player.ask(Batch.of(fewer))
        if player.best is not state:
            despair = 0
            continue
        if 2 * count <= min(finest, len(state) // 2):
            count *= 2
            continue
        weight = np.zeros(len(state))
        for part, margin in zip(parts, margins, strict=True):
            weight[part] = max(margin - margins.min(), 0) / len(part)
        gone = order[: -(-len(parts) // (PARTS if despair else PARTS // 2))].tolist()
        kept = np.setdiff1d(np.arange(len(state)), np.concatenate([parts[place] for place in gone]))
        margin = float((yield from player.ask(Batch.of([state.keep(kept)])))[0])
        if player.best is state:
            yield from _exchange(player, state.keep(kept), margin, weight[kept], turns=_TURNS)
            despair = despair + 1 if player.best is state else 0
            count = count if despair else PARTS


def settle(player: Player, dots: State, built: State, *, until: float) -> Playing:
    """Exchange parts of a spread, and of what was built with care, until they flip; where that takes too long, try more.

    Args:
        dots: a spread. built: edits to begin with beside it; may be none.
        until: queries left at which that ends.
    """
    state, best = dots.keep(~np.isin(dots.cells, built.cells)).plus(built), player.best
    if player.left <= until or not len(state):
        return
    margin = float((yield from player.ask(Batch.of([state])))[0])
    if player.best is best:
        state, weight = yield from _exchange(player, state, margin, np.ones(len(state)), turns=_MANY_TURNS, until=until)
    if player.best is not best:
        return
    most = len(player.beliefs.cell_of_pixel) * _SHARES[-1] if best is None else len(best) / _WORTH
    larger = doubled(state, weight, most, player.beliefs, rng=player.rng)
    if larger:
        yield from player.ask(Batch.of(larger))


def doubled(
    state: State, weight: NDArray[np.float64], most: float, beliefs: Beliefs, *, rng: np.random.Generator
) -> list[State]:
    """A state with companions, twice as large, and twice that, and so on, up to `most` edits.

    Args:
        weight: (k,) how much each of the state's edits matters, >= 0.
    """
    reach, states = max(2, min(beliefs.shape) // 16), []
    while 2 * len(state) <= most:
        more = companions(state, weight + 1e-9, len(state), beliefs, reach=reach, rng=rng)
        if not len(more):
            break
        state, weight = state.plus(more), np.concatenate([weight, np.full(len(more), weight.mean())])
        states.append(state)
    return states


def _exchange(
    player: Player,
    current: State,
    margin: float,
    weight: NDArray[np.float64],
    *,
    turns: int,
    until: float | None = None,
) -> Exchanging:
    """Exchange parts of a state that does not flip, all that lower the margin at once, until it does.

    Args:
        until: queries left at which that ends; None where no smaller state is looked for any more.

    Returns:
        What it has come to, and how much each of its edits matters.
    """
    beliefs, rng = player.beliefs, player.rng
    best = player.best
    past: list[tuple[float, int]] = []  # margin and queries left at the beginning of each turn
    for turn in range(turns):
        past.append((margin, player.left))
        over = player.left <= (player.stop if until is None else until) or not in_reach(past[-1 - _LATELY :])
        if over or len(current) < 2 * _LEAST_PARTS:
            break
        reach = max(2, min(beliefs.shape) // (8 << min(turn // 2, 4)))
        parts = parts_of(current, min(PARTS, len(current) // 2), across=beliefs.across, rng=rng)
        news = [replacement(current, part, weight, beliefs, reach=reach, rng=rng) for part in parts]
        tried = [current.without(part).plus(new) for part, new in zip(parts, news, strict=True)]
        margins = yield from player.ask(Batch.of(tried))
        if player.best is not best:
            break
        order = np.argsort(margins, kind="stable")
        better = int((margins < margin).sum())
        if not better:
            continue
        counts = sorted({2, max(better // 2, 2), max(better, 2)})
        together: list[State] = []
        for count in counts:
            chosen = order[:count].tolist()
            state = current.without(np.concatenate([parts[place] for place in chosen]))
            for place in chosen:
                new = news[place]
                state = state.plus(new.keep(~np.isin(new.cells, state.cells)))
            together += [state] if len(state) else []
        joint = (yield from player.ask(Batch.of(together))) if together else np.empty(0)
        if player.best is not best:
            break
        for part, found in zip(parts, margins, strict=True):
            weight[part] = max(found - margin, 0) / len(part)
        options = [tried[order[0]], *together]
        lowest = int(np.argmin([margins[order[0]], *joint]))
        known = dict(zip(current.cells.tolist(), weight.tolist(), strict=True))
        current, margin = options[lowest], float([margins[order[0]], *joint][lowest])
        usual = float(weight.mean())
        weight = np.array([known.get(cell, usual) for cell in current.cells.tolist()])
    return current, weight


def in_reach(past: list[tuple[float, int]]) -> bool:
    """False where the margin, going on to fall as it did in these turns, takes too long to flip.

    Args:
        past: margin and queries left at the beginning of each of the last turns.
    """
    (before, more), (margin, left) = past[0], past[-1]
    return len(past) <= _LATELY or margin * (more - left) <= (before - margin) * left * _HOPE
