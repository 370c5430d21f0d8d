"""Swaps of a state's edits, and what each edit does there, for many games in one call; `search_desks` says what is on a desk."""

from __future__ import annotations

import numpy as np

from robustest.attack import addresses, draws, search_kernels, search_swap_kernels, search_turn_kernels
from robustest.attack import search_desks as desks
from robustest.attack.search_kernels import Doubles, Floats, Ints, Masks
from robustest.compiled import compiled


@compiled
def swapping(games: Ints) -> Masks:
    """(G,) where the question is of swaps, not of what each edit does."""
    swaps = np.empty(len(games), np.bool_)
    for game in range(len(games)):
        swaps[game] = addresses.ints_at(games[game], desks.FIELDS)[desks.MODE] == desks.SWAPPING
    return swaps


@compiled
def reluctances(games: Ints) -> Doubles:
    """The logarithms of how likely each edit of each game's state is to leave it, one game after the other that swaps."""
    swaps = swapping(games)
    edits = 0
    for game in range(len(games)):
        if swaps[game]:
            edits += addresses.ints_at(games[game], desks.FIELDS)[desks.EDITS]
    out, first = np.empty(edits), 0
    for game in range(len(games)):
        desk = addresses.ints_at(games[game], desks.FIELDS)
        if not swaps[game]:
            continue
        last = first + desk[desks.EDITS]
        tally, need = (
            addresses.doubles_at(desk[desks.TALLY], 2),
            addresses.doubles_at(desk[desks.NEED], desk[desks.EDITS]),
        )
        search_turn_kernels.reluctance(need, tally, desk[desks.STALLED], out[first:last])
        first = last
    return out


@compiled
def propose(
    games: Ints, likely: Doubles, optimism: float, despair: int, shares: Doubles, limits: Floats, attempts: int
) -> Ints:
    """Find what each game asks next.

    Args:
        likely: how likely each edit of each state is to leave it, one game after the other that swaps.
        despair: turns without progress at most. optimism, shares, limits, attempts: see `propose_swaps`.

    Returns:
        (2, G) how many states were found, and `NEXT`.
    """
    told = np.empty((2, len(games)), np.int64)
    first = 0
    for game in range(len(games)):
        desk = addresses.ints_at(games[game], desks.FIELDS)
        if desk[desks.MODE] != desks.SWAPPING:
            told[0, game], told[1, game] = _leave_out_each(desk)
            continue
        size, kinds, width = desk[desks.EDITS], desk[desks.KINDS], desk[desks.WIDTH]
        desk[desks.EACH] = size
        weight = likely[first : first + size]
        first += size
        wanted = min(desk[desks.BATCH], desk[desks.LEFT] - desk[desks.STOP])
        found, following = 0, desks.SWAP
        if 2 * (desk[desks.COUNT] + wanted) > desk[desks.ROOM]:
            following = desks.CROWDED
        else:
            found, desk[desks.START] = search_swap_kernels.propose_swaps(
                *desks.drawing_on(desk, optimism),
                2 * desk[desks.BATCH],
                addresses.int_rows_at(desk[desks.STATE], 2, size),
                weight,
                addresses.ints_at(desk[desks.AROUND], desk[desks.NEARBY]),
                addresses.ints_at(desk[desks.STEPS], desk[desks.STRIDES]),
                desk[desks.ACROSS],
                addresses.mask_rows_at(desk[desks.ALLOWED], kinds, width),
                shares,
                limits,
                addresses.ints_at(desk[desks.TABLE], desk[desks.ROOM]),
                wanted,
                attempts,
                *_found_on(desk),
            )
            if found < 0:
                found, following = 0, desks.TIED
            else:
                desk[desks.STALLED] += 1
                if found == 0 and desk[desks.STALLED] >= despair:
                    following = desks.OVER
        desk[desks.FOUND], desk[desks.NEXT] = found, following
        told[0, game], told[1, game] = found, following
    return told


@compiled
def _leave_out_each(desk: Ints) -> tuple[int, int]:
    """Ask about the state without each of its edits: see `search_states.without_each`."""
    size = desk[desks.EDITS]
    found, following = size, desks.MEASURE
    if 2 * (desk[desks.COUNT] + size) > desk[desks.ROOM]:
        found, following = 0, desks.CROWDED
    else:
        state = addresses.int_rows_at(desk[desks.STATE], 2, size)
        cells = addresses.int_rows_at(desk[desks.SWAPS], size, size - 1)
        colours = addresses.int_rows_at(desk[desks.SHADES], size, size - 1)
        for row in range(size):
            for place in range(size - 1):
                other = place if place < row else place + 1
                cells[row, place], colours[row, place] = state[0, other], state[1, other]
        desk[desks.EACH] = size - 1
    desk[desks.FOUND], desk[desks.NEXT] = found, following
    return found, following


@compiled
def _found_on(desk: Ints) -> tuple[Ints, Ints, Ints, Ints, Masks, Ints]:
    """What `propose_swaps` writes to."""
    most, size = 2 * desk[desks.BATCH], desk[desks.EDITS]
    return (
        addresses.int_rows_at(desk[desks.SWAPS], most, size),
        addresses.int_rows_at(desk[desks.SHADES], most, size),
        addresses.int_rows_at(desk[desks.ADDED], 2, most),
        addresses.ints_at(desk[desks.PLACES], most),
        addresses.mask_rows_at(desk[desks.SINGLE], 1, most)[0],
        addresses.ints_at(desk[desks.KEYS], most),
    )


@compiled
def heed(
    games: Ints,
    margins: Doubles,
    starts: Ints,
    scores: Doubles,
    jumps: Doubles,
    warmth: float,
    noise: np.float32,
    seen: np.float32,
    floor: np.float32,
    despair: int,
    patience: int,
    growth: np.float32,
    region_prior: float,
    colour_prior: float,
) -> Ints:
    """Take in the answers to what each game asked, and go on from the best of them where it is good enough.

    Args:
        margins: (N,) answers, of each game those from `starts` (G,) on. scores: (N, K) or (0, 0), see `search_kernels.note`.
        jumps: (G,) draws, of games that swap. warmth, noise: see `heed_swaps`. seen, floor: see `search_kernels.learn`.
        despair: turns without progress at most. patience: after how many of them effects are measured anew.
        growth: of deviations then, see `Beliefs.forget`. region_prior, colour_prior: see `search_turn_kernels.borrow`.

    Returns:
        (G,) `NEXT`.
    """
    told = np.empty(len(games), np.int64)
    for game in range(len(games)):
        desk = addresses.ints_at(games[game], desks.FIELDS)
        size, found = desk[desks.EDITS], desk[desks.FOUND]
        first, last = starts[game], starts[game] + found
        if desk[desks.MODE] != desks.SWAPPING:
            _measure(desk, margins[first:last], scores[first:last])
            if desk[desks.MODE] == desks.MEASURING:
                _forget(desk, growth, region_prior, colour_prior)
            elif desk[desks.MODE] == desks.DROPPING:
                _drop(desk)
            desk[desks.MODE] = desks.SWAPPING
            if desk[desks.FLIP] >= 0:
                desk[desks.NEXT] = desks.FLIPPED
            else:
                desk[desks.NEXT] = desks.SWAP if _goes_on(desk, despair) else desks.OVER
            told[game] = desk[desks.NEXT]
            continue
        numbers = addresses.doubles_at(desk[desks.NUMBERS], 2)
        tally = addresses.doubles_at(desk[desks.TALLY], 2)
        new, desk[desks.FLIP], desk[desks.STALLED] = search_turn_kernels.heed_swaps(
            margins[first:last],
            scores[first:last],
            desk[desks.LABEL],
            addresses.ints_at(desk[desks.CLASSES], desk[desks.RIVALS]),
            desk[desks.AIM],
            warmth,
            jumps[game],
            desk[desks.STALLED],
            found,
            *_found_on(desk),
            addresses.int_rows_at(desk[desks.STATE], 2, size),
            addresses.doubles_at(desk[desks.NEED], size),
            numbers,
            *desks.known_on(desk),
            tally,
            noise,
            desks.learning_on(desk, seen, floor),
        )
        desk[desks.COUNT] += new
        desk[desks.LEFT] -= max(new, (found + 3) // 4)
        desk[desks.NEXT] = desks.SWAP if _goes_on(desk, despair) else desks.OVER
        if desk[desks.STALLED] % patience == patience - 1:
            if size <= 2 * desk[desks.BATCH]:
                desk[desks.NEXT], desk[desks.MODE] = desks.SWAP, desks.MEASURING
            else:
                desk[desks.NEXT] = desks.MEASURE  # more than there is room for here
        told[game] = desk[desks.NEXT]
    return told


@compiled
def _goes_on(desk: Ints, despair: int) -> bool:
    """True where swapping goes on."""
    margin = addresses.doubles_at(desk[desks.NUMBERS], 1)[0]
    return bool(desk[desks.LEFT] > desk[desks.STOP] and margin >= 0 and desk[desks.STALLED] < despair)


@compiled
def _measure(desk: Ints, margins: Doubles, scores: Doubles) -> None:
    """Take in how much each edit of the state holds the margin down; as `Asked.heed` and the search's `needs`."""
    size, kinds, width, rivals = desk[desks.EDITS], desk[desks.KINDS], desk[desks.WIDTH], desk[desks.RIVALS]
    need, keys = addresses.doubles_at(desk[desks.NEED], size), addresses.ints_at(desk[desks.KEYS], size)
    cells, colours = (
        addresses.int_rows_at(desk[desks.SWAPS], size, size - 1),
        addresses.int_rows_at(desk[desks.SHADES], size, size - 1),
    )
    aim, margin, flip = desk[desks.AIM], addresses.doubles_at(desk[desks.NUMBERS], 1)[0], -1
    for row in range(size):
        keys[row] = 0
        for place in range(size - 1):
            keys[row] += search_kernels.edit_key(width, cells[row, place], colours[row, place])
        if margins[row] < 0 and flip < 0:
            flip = row
    if size == 2:
        marks = addresses.mask_rows_at(desk[desks.MARKS], kinds, width)
        for row in range(size):
            marks[colours[row, 0], cells[row, 0]] = True
    told = np.empty((size if aim >= 0 else 0, rivals))
    new = search_kernels.note(
        *desks.known_on(desk),
        keys,
        margins,
        scores,
        desk[desks.LABEL],
        addresses.ints_at(desk[desks.CLASSES], rivals),
        told,
    )
    for row in range(size):
        need[row] = (told[row, aim] if aim >= 0 and not margins[row] < 0 else margins[row]) - margin
    desk[desks.COUNT] += new
    desk[desks.LEFT] -= max(new, (size + 3) // 4)
    desk[desks.FLIP] = flip


@compiled
def _forget(desk: Ints, growth: np.float32, region_prior: float, colour_prior: float) -> None:
    """`Beliefs.forget` and `Beliefs.borrow`."""
    kinds, width = desk[desks.KINDS], desk[desks.WIDTH]
    deviation = addresses.float_rows_at(desk[desks.DEVIATION], kinds, width)
    size = addresses.float_rows_at(desk[desks.SIZE], kinds, width)
    for kind in range(kinds):
        for cell in range(width):
            deviation[kind, cell] = min(deviation[kind, cell] * growth, size[kind, cell])
    search_turn_kernels.borrow(*desks.borrowing_on(desk), region_prior, colour_prior)


@compiled
def _drop(desk: Ints) -> None:
    """Leave out the edit that is needed least, or one of the few that are, and begin with the others."""
    size = desk[desks.EDITS]
    margins, numbers = addresses.doubles_at(desk[desks.NEED], size).copy(), addresses.doubles_at(desk[desks.NUMBERS], 2)
    words, rest = addresses.words_at(desk[desks.WORDS], 4), addresses.words_at(desk[desks.REST], 2)
    rank = min(draws.below(words, rest, desk[desks.AMONG]), size - 1)
    left = 0
    for place in range(size):  # the one that so many others come before: a stable order, as numpy's
        earlier = 0
        for other in range(size):
            earlier += margins[other] < margins[place] or (margins[other] == margins[place] and other < place)
        left = place if earlier == rank else left
    before = addresses.int_rows_at(desk[desks.STATE], 2, size).copy()
    desk[desks.EDITS] = size - 1
    state = addresses.int_rows_at(desk[desks.STATE], 2, size - 1)
    need = addresses.doubles_at(desk[desks.NEED], size - 1)
    for place in range(size - 1):
        other = place if place < left else place + 1
        state[0, place], state[1, place] = before[0, other], before[1, other]
        need[place] = margins[other] - margins[left]
    numbers[0] = numbers[1] = margins[left]
