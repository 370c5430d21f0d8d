"""States built edit by edit, for many games in one call; `search_desks` says what is on a desk."""

from __future__ import annotations

import numpy as np

from robustest.attack import addresses, search_kernels, search_turn_kernels
from robustest.attack import search_desks as desks
from robustest.attack.search_kernels import Doubles, Floats, Ints
from robustest.compiled import compiled


@compiled
def propose(games: Ints, optimism: float, leaps: Ints, next_to: float, limits: Floats) -> Ints:
    """Find what each game asks next: see `search_turn_kernels.climbs`.

    Args:
        games: (G,) where their desks lie. optimism: deviations added to a mean. leaps, next_to, limits: see `climbs`.

    Returns:
        (2, G) how many states were found, and `NEXT`.
    """
    told = np.empty((2, len(games)), np.int64)
    for game in range(len(games)):
        desk = addresses.ints_at(games[game], desks.FIELDS)
        most, size = desk[desks.BATCH], desk[desks.HEIGHT]
        states, following = 0, desks.SWAP
        if 2 * (desk[desks.COUNT] + most) > desk[desks.ROOM]:
            following = desks.CROWDED
        else:
            state = addresses.int_rows_at(desk[desks.STATE], 2, desk[desks.EDITS])
            found, desk[desks.START], ones, several, cells, colours, offsets, single, shades = (
                search_turn_kernels.climbs(
                    *desks.drawing_on(desk, optimism),
                    most,
                    leaps,
                    next_to,
                    addresses.ints_at(desk[desks.AROUND], desk[desks.NEARBY]),
                    limits,
                    state[0, :size],
                    state[1, :size],
                )
            )
            if found < 0:
                following = desks.TIED
            elif found == 0:
                following = desks.OVER
            else:
                states = ones + several
                addresses.ints_at(desk[desks.BOUNDS], states + 1)[:] = offsets
                addresses.ints_at(desk[desks.SWAPS], len(cells))[:] = cells
                addresses.ints_at(desk[desks.SHADES], len(cells))[:] = colours
                added = addresses.int_rows_at(desk[desks.ADDED], 2, 2 * most)
                added[0, :ones], added[1, :ones] = single, shades
                desk[desks.ONES] = ones
        desk[desks.FOUND], desk[desks.NEXT] = states, following
        told[0, game], told[1, game] = states, following
    return told


@compiled
def heed(
    games: Ints,
    margins: Doubles,
    starts: Ints,
    scores: Doubles,
    leaps: Ints,
    powers: Doubles,
    noise: np.float32,
    seen: np.float32,
    floor: np.float32,
    tiring: int,
) -> Ints:
    """Take in the answers to what each game asked, learn of them, and go on from the best of them.

    Args:
        games: (G,) where their desks lie. margins: (N,) answers, of each game those from `starts` (G,) on.
        scores: (N, K) or (0, 0), see `search_kernels.note`. leaps: edits added at once, in rising order.
        powers: (L + 1,) what a drop is divided by where one edit is added, and where those of each leap are.
        noise, seen, floor: see `search_kernels.learn`. tiring: turns in a row that change nothing, after which it is over.

    Returns:
        (G,) `NEXT`: `TIED` where a state flips that is smaller than the best, so that others may be too large from now on;
        `OVER` where it was given up.
    """
    told = np.empty(len(games), np.int64)
    for game in range(len(games)):
        desk = addresses.ints_at(games[game], desks.FIELDS)
        kinds, width, found, rivals = desk[desks.KINDS], desk[desks.WIDTH], desk[desks.FOUND], desk[desks.RIVALS]
        own = margins[starts[game] : starts[game] + found]
        offsets = addresses.ints_at(desk[desks.BOUNDS], found + 1)
        cells = addresses.ints_at(desk[desks.SWAPS], offsets[found])
        colours = addresses.ints_at(desk[desks.SHADES], offsets[found])
        rows = np.empty((found, rivals))
        new, desk[desks.FLIP] = search_kernels.heed(
            *desks.known_on(desk),
            width,
            cells,
            colours,
            offsets,
            addresses.mask_rows_at(desk[desks.MARKS], kinds, width),
            own,
            scores[starts[game] : starts[game] + found],
            desk[desks.LABEL],
            addresses.ints_at(desk[desks.CLASSES], rivals),
            rows,
        )
        if desk[desks.FLIP] >= 0 and offsets[desk[desks.FLIP] + 1] - offsets[desk[desks.FLIP]] >= desk[desks.BEST]:
            desk[desks.FLIP] = -1
        desk[desks.COUNT] += new
        desk[desks.LEFT] -= max(new, (found + 3) // 4)
        numbers = addresses.doubles_at(desk[desks.NUMBERS], 1)
        margin = numbers[0]
        weighed, flat = np.empty(found), 0
        for row in range(found):
            weighed[row] = own[row] if desk[desks.AIM] < 0 or own[row] < 0 else rows[row, desk[desks.AIM]]
            flat += abs(weighed[row] - margin) <= 1e-6 * abs(margin)
        desk[desks.FLAT] = desk[desks.FLAT] + 1 if flat == found else 0
        desk[desks.NEXT] = desks.OVER
        if desk[desks.FLAT] != tiring:
            ones = desk[desks.ONES]
            added = addresses.int_rows_at(desk[desks.ADDED], 2, 2 * desk[desks.BATCH])
            tally = addresses.doubles_at(desk[desks.TALLY], 2)
            drops = margin - weighed[:ones]
            search_turn_kernels.learn(
                added[0, :ones], added[1, :ones], drops, noise, tally, desks.learning_on(desk, seen, floor)
            )
            # Several edits at once are worth it where they bring more than their number's share.
            place, best = 0, -np.inf
            for row in range(found):
                leap = max(row - ones + 1, 0)
                worth = (margin - weighed[row]) / powers[leap]
                if (leap == 0 or leaps[leap - 1] <= 4) and worth > best:
                    place, best = row, worth
            if not weighed[place] < 0:
                desk[desks.STALLED] = 0 if weighed[place] < margin else desk[desks.STALLED] + 1
                if weighed[place] <= margin or desk[desks.STALLED] % 3 == 0:
                    size = desk[desks.HEIGHT] = offsets[place + 1] - offsets[place]
                    state = addresses.int_rows_at(desk[desks.STATE], 2, desk[desks.EDITS])
                    state[0, :size] = cells[offsets[place] : offsets[place + 1]]
                    state[1, :size] = colours[offsets[place] : offsets[place + 1]]
                    numbers[0] = weighed[place]
                going = desk[desks.LEFT] > desk[desks.STOP] and desk[desks.HEIGHT] + 1 < desk[desks.LIMIT]
                desk[desks.NEXT] = desks.SWAP if going and desk[desks.FLIP] < 0 else desks.TIED
        told[game] = desk[desks.NEXT]
    return told
