"""Single edits of the unchanged image, tried for many games in one call; `search_desks` says what is on a desk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustest.attack import addresses, search_kernels, search_turn_kernels
from robustest.attack import search_desks as desks
from robustest.attack.search_kernels import Doubles, Floats, Ints, Masks
from robustest.compiled import compiled


@compiled
def _marks_on(desk: Ints) -> Masks:
    """(V, cells) edits that were tried."""
    return addresses.mask_rows_at(desk[desks.MARKS], desk[desks.KINDS], desk[desks.WIDTH])


@compiled
def lay_out(
    desk: Ints,
    energy: Doubles,
    expected: Doubles,
    phase: NDArray[np.uint8],
    factor: Floats,
    margins: Doubles,
    log: Ints,
    ends: Ints,
) -> None:
    """Write down where lies what single edits need besides the rest: see `search_desks`, and `Beliefs.tuning`."""
    desk[desks.ENERGY], desk[desks.EXPECTED] = energy.ctypes.data, expected.ctypes.data
    desk[desks.PHASE], desk[desks.FACTOR], desk[desks.PHASES] = phase.ctypes.data, factor.ctypes.data, len(factor)
    desk[desks.MARGINS], desk[desks.LOG], desk[desks.ENDS] = margins.ctypes.data, log.ctypes.data, ends.ctypes.data


@compiled
def propose(games: Ints, boldness: float, never: np.float32) -> Ints:
    """Find what each game asks next: see `search_turn_kernels.best_singles`.

    Args:
        games: (G,) where their desks lie. boldness: deviations added to a mean.

    Returns:
        (2, G) how many edits were found, and `NEXT`.
    """
    told = np.empty((2, len(games)), np.int64)
    for game in range(len(games)):
        desk = addresses.ints_at(games[game], desks.FIELDS)
        most = desk[desks.BATCH]
        found, following = 0, desks.SWAP
        if 2 * (desk[desks.COUNT] + most) > desk[desks.ROOM]:
            following = desks.CROWDED
        else:
            found, desk[desks.START], cells, colours = search_turn_kernels.best_singles(
                *desks.drawing_on(desk, boldness),
                _marks_on(desk),
                most,
                never,
            )
            if found < 0:
                found, following = 0, desks.TIED
            elif found == 0:
                following = desks.OVER
            own_cells = addresses.ints_at(desk[desks.SWAPS], found)
            own_colours = addresses.ints_at(desk[desks.SHADES], found)
            own_cells[:], own_colours[:] = cells[:found], colours[:found]
        desk[desks.FOUND], desk[desks.NEXT] = found, following
        told[0, game], told[1, game] = found, following
    return told


@compiled
def heed(
    games: Ints,
    margins: Doubles,
    starts: Ints,
    scores: Doubles,
    noise: np.float32,
    seen: np.float32,
    floor: np.float32,
    region_prior: float,
    colour_prior: float,
) -> Ints:
    """Take in the answers to what each game asked, and learn of them.

    Args:
        games: (G,) where their desks lie. margins: (N,) answers, of each game those from `starts` (G,) on.
        scores: (N, K) or (0, 0), see `search_kernels.note`. noise, seen, floor: see `search_kernels.learn`.
        region_prior, colour_prior: see `search_turn_kernels.borrow`.

    Returns:
        (G,) `NEXT`.
    """
    told = np.empty(len(games), np.int64)
    for game in range(len(games)):
        desk = addresses.ints_at(games[game], desks.FIELDS)
        kinds, width, found, rivals = desk[desks.KINDS], desk[desks.WIDTH], desk[desks.FOUND], desk[desks.RIVALS]
        own = margins[starts[game] : starts[game] + found]
        clean = addresses.doubles_at(desk[desks.NUMBERS], 1)[0]
        cells, colours = addresses.ints_at(desk[desks.SWAPS], found), addresses.ints_at(desk[desks.SHADES], found)
        marks, keys = _marks_on(desk), addresses.ints_at(desk[desks.KEYS], found)
        flip, flat = -1, 0
        drops = np.empty(found)
        for row in range(found):
            marks[colours[row], cells[row]] = True
            keys[row] = search_kernels.edit_key(width, cells[row], colours[row])
            if own[row] < 0 and flip < 0:
                flip = row
            flat += abs(own[row] - clean) <= 1e-6 * abs(clean)
            drops[row] = clean - own[row]
        new = search_kernels.note(
            *desks.known_on(desk),
            keys,
            own,
            scores[starts[game] : starts[game] + found],
            desk[desks.LABEL],
            addresses.ints_at(desk[desks.CLASSES], rivals),
            addresses.double_rows_at(desk[desks.MARGINS] + 8 * rivals * desk[desks.TRIED], found, rivals),
        )
        log = addresses.int_rows_at(desk[desks.LOG] + 16 * desk[desks.TRIED], found, 2)
        for row in range(found):
            log[row, 0], log[row, 1] = cells[row], colours[row]
        desk[desks.TRIED] += found
        addresses.ints_at(desk[desks.ENDS] + 8 * desk[desks.TURNS], 1)[0] = desk[desks.TRIED]
        desk[desks.TURNS] += 1
        desk[desks.COUNT] += new
        desk[desks.LEFT] -= max(new, (found + 3) // 4)
        desk[desks.FLATS] += flat
        desk[desks.FLAT] = desk[desks.FLAT] + 1 if flat == found else 0
        if desk[desks.SEEKING]:
            desk[desks.FLIP] = flip
        tally = addresses.doubles_at(desk[desks.TALLY], 2)
        learning = desks.learning_on(desk, seen, floor)
        search_turn_kernels.learn(cells, colours, drops, noise, tally, learning)
        deviation = addresses.float_rows_at(desk[desks.DEVIATION], kinds, width)
        size = addresses.float_rows_at(desk[desks.SIZE], kinds, width)
        phases = desk[desks.PHASES]
        factor = addresses.float_rows_at(desk[desks.FACTOR], 1, phases)[0]
        search_turn_kernels.tune(
            cells,
            colours,
            drops,
            addresses.doubles_at(desk[desks.ENERGY], phases),
            addresses.doubles_at(desk[desks.EXPECTED], phases),
            addresses.bytes_at(desk[desks.PHASE], width),
            factor.copy(),
            factor,
            deviation,
            size,
            size,
        )
        search_turn_kernels.borrow(*desks.borrowing_on(desk), region_prior, colour_prior)
        going = desk[desks.LEFT] > desk[desks.STOP] and desk[desks.FLIP] < 0
        if 0 < desk[desks.TIRING] <= desk[desks.FLAT]:
            going = False
        desk[desks.NEXT] = desks.SWAP if going else desks.OVER
        told[game] = desk[desks.NEXT]
    return told
