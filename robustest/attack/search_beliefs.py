"""What a few-pixel search believes of every (colour, pixel): the drop in margin it brings, and how sure that is.

Neighbouring pixels have similar effects and so have similar colours, so a scored edit also tells of those around it: an
approximate Kalman filter whose prior correlation falls with the distance on the grid and with the angle between the colour
changes. Beyond that reach a pixel borrows from its region (player I's feature).

Arrays are laid out (V, cells), cells being the image with a rim, so that a neighbour is an offset and the rim never wins.
Knows nothing of classifiers or budgets.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustest.attack import draws, search_desks, search_kernels, search_ranking, search_turn_kernels
from robustest.attack.normals import sizes_of_normals
from robustest.attack.search_grid import PERIOD, grid_of
from robustest.attack.search_palette import SEEN, Palette
from robustest.compiled import fast

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

REGION_PRIOR = 0.5  # tries of a region whose effects are as those of all: how slowly it is believed to differ
COLOUR_PRIOR = 2.0  # the same for a colour
NEVER = np.float32(-1e30)
FEW = 64  # cells wanted, up to which they are kept in order while looking for them
_NO_CELLS: Ints = np.zeros(0, np.int64)
_POOL = (
    1 << 15
)  # drawn once and read at random places: drawing for every pixel at every step would cost more than the model


def growth_of(share: float) -> np.float32:
    """By how much deviations grow where such a share of what is known is to last; see `Beliefs.forget`."""
    return np.float32(1 / np.sqrt(share))


class Beliefs:
    """Means and deviations of the effect of each single edit of one image.

    Args:
        palette: the colours. shape: (H, W). regions: (H*W,) region of each pixel.
        reach: e-folding length of the correlation, in pixels. far: learn of pixels up to four away, not two. colour_floor: correlation of unlike colours, relative to like ones.
        rng: draws.
    """

    def __init__(
        self,
        palette: Palette,
        shape: tuple[int, int],
        regions: Ints,
        *,
        rng: np.random.Generator,
        reach: float = 2.0,
        far: bool = False,
        colour_floor: float = 0.25,
    ) -> None:
        height, width = shape
        self.rng, self.shape = rng, shape
        self.words = draws.words(rng)
        self.grid = grid = grid_of(height, width, reach=reach, far=far)
        self.across, self.cells = grid.across, grid.cells
        self.cell_of_pixel, self.pixel_of_cell = grid.cell_of_pixel, grid.pixel_of_cell
        colours = self.colours = palette.count
        self.palette, gray = palette, palette.base.shape[1] == 1
        # Of each edit: what it changes, and the norm of its colour change; of a gray image, whether it gets lighter or darker.
        self.size: Floats = np.zeros((colours, self.cells), np.float32)
        self._norm: Floats = np.ones((colours, self.cells), np.float32)
        self._gray = np.zeros((colours if gray else 0, self.cells if gray else 0), np.int8)
        self.floor = np.float32(colour_floor)
        self.allowed: NDArray[np.bool_] = np.zeros((colours, self.cells), bool)
        self.mean: Floats = np.full((colours, self.cells), NEVER)
        self._region = np.zeros(self.cells, np.int32)
        if fast():
            self._regions = search_kernels.measure_changes(
                palette.colours,
                palette.base,
                SEEN,
                self.cell_of_pixel,
                np.ascontiguousarray(regions),
                self.size,
                self._norm,
                self._gray,
                self.allowed,
                self.mean,
                self._region,
            )
        else:
            self._measure_changes()
            self.allowed = self.size > 0
            self.mean[self.allowed] = 0
            self._region[self.cell_of_pixel] = regions
            self._regions = int(regions.max()) + 1
        self.deviation: Floats = self.size.copy()  # in units of `scale`, so that nothing need be known of the margins
        self._energy = np.full(PERIOD**2, 0.0)
        self._expected = np.full(PERIOD**2, 0.0)
        self._factor = np.ones(PERIOD**2, np.float32)
        self._told = np.zeros((colours, self._regions))
        self._heard = np.zeros((colours, self._regions))
        self.pool = sizes_of_normals(rng, self.words, _POOL + colours * self.cells)
        self.tally = np.zeros(2)  # the sum of what was not foreseen, squared and relative, and of how many edits
        self._places: tuple[tuple[NDArray[Any], ...], Ints] | None = None
        numbers = (
            len(self.pool),
            colours,
            self.cells,
            palette.base.shape[1],
            palette.colours.shape[1],
            len(palette.base),
        )
        around = (grid.across, len(grid.offsets), grid.middle, len(grid.around), len(grid.steps))
        self._sizes = np.array((*numbers, len(self._gray), self._regions, *around))

    def _measure_changes(self) -> None:
        """How much each edit changes its pixel's colour."""
        palette = self.palette
        for colour in range(self.colours):
            if len(self._gray):  # `_directions` of all edits, kept: one channel's mean square and norm are its own
                change = palette.change(colour)[:, 0]
                size = np.abs(change)
                norm = np.maximum(size, 1e-9)
                self._gray[colour, self.cell_of_pixel] = np.sign(change)
            else:
                squares = palette.squares(colour)
                size = np.sqrt(squares / np.float32(palette.base.shape[1]))
                norm = np.maximum(np.sqrt(squares), 1e-9)
            self.size[colour, self.cell_of_pixel], self._norm[colour, self.cell_of_pixel] = size, norm

    def anew(self) -> Beliefs:
        """The same image with nothing learned of its edits but which phases of the grid matter."""
        other = Beliefs.__new__(Beliefs)
        vars(other).update(vars(self))  # shares `size` until one of them is tuned
        other.mean, other.deviation = np.where(self.allowed, np.float32(0), NEVER), self.size.copy()
        other._told, other._heard = np.zeros(self._told.shape), np.zeros(self._heard.shape)
        other._energy, other._expected = self._energy.copy(), self._expected.copy()
        other.tally = np.zeros(2)
        other._places = None
        return other

    def places(self) -> tuple[tuple[NDArray[Any], ...], Ints]:
        """These arrays in the order of `search_desks`, from `WORDS` to `STEPS`, and where they lie; looked up where one is another."""
        if self._places is not None:
            return self._places
        assert self.words is not None
        grid, palette = self.grid, self.palette
        beliefs = (self.mean, self.deviation, self.size, self._norm, self._gray, self.tally, self._told, self._heard)
        image = (self._region, self.allowed, palette.colours, palette.base)
        around = (self.pixel_of_cell, grid.offsets, grid.near, grid.around, grid.steps)
        arrays = (*self.words, self.pool, *beliefs, *image, *around)
        self._places = arrays, search_desks.beliefs_at(*arrays)
        return self._places

    def sizes(self) -> Ints:
        """Their sizes, in the order of `search_desks`, from `POOLED` to `STRIDES`."""
        return self._sizes

    @property
    def scale(self) -> float:
        """Margins per unit of `deviation`: the root mean square of what was not foreseen."""
        surprise, count = self.tally.tolist()
        return math.sqrt(surprise / count) if surprise > 0 else 1.0

    def promise(self) -> NDArray[np.float64]:
        """(H*W,) how much each pixel is believed to lower the margin at its best colour, in units of `scale`, >= 0."""
        best = self.mean.max(axis=0)[self.cell_of_pixel]
        return np.asarray(np.maximum(best, 0) / np.float64(self.scale), np.float64)

    def neighbours(self, cells: Ints) -> Ints:
        """(N, K) cells around each cell, itself included; some may lie on the rim."""
        return cells[:, None] + self.grid.around

    def close(self, cells: Ints, others: Ints) -> NDArray[np.bool_]:
        """(N, M) True where one of N cells and one of M others are the same or touch."""
        rows, columns = np.divmod(cells, self.across)
        other_rows, other_columns = np.divmod(others, self.across)
        touching = np.abs(columns[:, None] - other_columns) <= 1
        return np.asarray((np.abs(rows[:, None] - other_rows) <= 1) & touching)

    def learn(self, cells: Ints, colours: Ints, drops: NDArray[np.float64], *, noise: float = 0.02) -> None:
        """Take in the drops in margin (N,) that N single edits brought.

        Args:
            noise: variance of what else moved the margin, relative to the edit's own prior variance.
        """
        if fast():
            flat = np.ascontiguousarray(drops)
            search_turn_kernels.learn(cells, colours, flat, np.float32(noise), self.tally, self.learning())
            return
        own = self.deviation[colours, cells].astype(np.float64)
        size = self.size[colours, cells]
        total = own**2 + noise * size**2 + 1e-9
        surprise = drops - self.mean[colours, cells]
        self.tally += (surprise**2 / total).sum(), len(drops)
        around = cells[:, None] + self.grid.offsets
        angles = self._cosines(around, cells, colours)
        correlation = self.grid.near * (self.floor + (1 - self.floor) * np.maximum(angles, 0))
        # What is known of an edit, or of the one beside it, is its own and not shared: the posterior correlation is lower.
        known = self.deviation[:, around] / np.maximum(self.size[:, around], np.float32(1e-9))
        correlation *= known * (own / np.maximum(size, 1e-9)).astype(np.float32)[:, None]
        itself = np.arange(len(cells))
        correlation[colours, itself, self.grid.middle] = 1
        places = (np.arange(self.colours)[:, None, None] * self.cells + around).ravel()
        weight = (own / total * surprise).astype(np.float32)
        explained = (own**2 / total).astype(np.float32)
        spread = self.deviation.reshape(-1)
        gain, shares = np.zeros(len(spread), np.float32), np.zeros(len(spread), np.float32)
        np.add.at(gain, places, (correlation * weight[:, None]).ravel() * spread[places])
        np.add.at(shares, places, (correlation**2 * explained[:, None]).ravel())
        # Several edits may tell of one place: together they explain no more than all of it.
        share = shares[places]
        mean = self.mean.reshape(-1)
        mean[places] = mean[places] + gain[places] / np.maximum(share, 1)
        spread[places] = spread[places] * np.sqrt(np.maximum(1 - share, 0.02))
        np.add.at(self._told, (colours, self._region[cells]), surprise * size)
        np.add.at(self._heard, (colours, self._region[cells]), size**2)

    def learn_in_turn(self, heard: list[tuple[Ints, Ints, NDArray[np.float64]]], *, noise: float) -> None:
        """Take in several batches of cells, colours and drops, one after the other, and `borrow` after each."""
        if fast() and heard:
            cells, colours, drops = (np.concatenate(parts) for parts in zip(*heard, strict=True))
            bounds = np.cumsum([0, *(len(part) for part, _, _ in heard)])
            taught = (bounds, cells, colours, drops, np.float32(noise), self.tally, self.learning())
            search_turn_kernels.learn_in_turn(*taught, REGION_PRIOR, COLOUR_PRIOR)
            return
        for cells, colours, drops in heard:
            self.learn(cells, colours, drops, noise=noise)
            self.borrow()

    def learning(self) -> tuple[Any, ...]:
        """What `search_kernels.learn` takes from `mean` on."""
        return (
            self.mean,
            self.deviation,
            self.size,
            self._norm,
            self._gray,
            self.palette.colours,
            self.palette.base,
            SEEN,
            self.pixel_of_cell,
            self.grid.offsets,
            self.grid.near,
            self.floor,
            self.grid.middle,
            self._told,
            self._heard,
            self._region,
        )

    def _cosines(self, around: Ints, cells: Ints, colours: Ints) -> Floats:
        """(V, N, K) cosine between N edits and those of K cells around each; added up channel by channel, in this order."""
        total = np.zeros((self.colours, *around.shape), np.float32)
        kinds = np.arange(self.colours)[:, None, None]
        for channel in range(self.palette.base.shape[1]):
            own = self._directions(colours, cells, channel)
            total += self._directions(kinds, around, channel) * own[:, None]
        return total

    def _directions(self, colours: Ints, cells: Ints, channel: int) -> Floats:
        """One channel of the unit vectors along which edits change their pixels' colours; 0 on the rim."""
        pixels = self.pixel_of_cell[cells]
        change = self.palette.changes(colours, pixels, channel)
        return np.where(pixels < 0, np.float32(0), change / self._norm[colours, cells])

    def borrow(self) -> None:
        """Spread what the regions have in common to pixels not yet known of, and start to listen anew."""
        told, heard = self._told, self._heard
        if fast():
            arrays = (self.mean, self.deviation, self.size, told, heard, self._region)
            search_turn_kernels.borrow(*arrays, REGION_PRIOR, COLOUR_PRIOR)
            return
        whole, weight = told.sum(axis=0), heard.sum(axis=0)
        by_colour = told.sum(axis=1) / (heard.sum(axis=1) + COLOUR_PRIOR)
        common = (told + REGION_PRIOR * (whole / (weight + REGION_PRIOR) + by_colour[:, None])) / (heard + REGION_PRIOR)
        unknown = np.square(self.deviation / np.maximum(self.size, 1e-9))
        self.mean += (unknown * self.size * common[:, self._region]).astype(np.float32)
        told[:] = 0

    def tuning(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8], Floats]:
        """What `tune` changes besides `deviation` and `size`, of which there is a copy of its own from here on."""
        self.size = self.size.copy()
        self._factor, self._places = self._factor.copy(), None
        return self._energy, self._expected, self.grid.phase, self._factor

    def tune(self, cells: Ints, colours: Ints, drops: NDArray[np.float64]) -> None:
        """Learn how much the pixels of each phase of the grid matter: a first layer with a stride looks at some more than at others.

        Args:
            cells, colours, drops: (N,) single edits of the clean image and what they brought.
        """
        if fast():
            factor, size = np.empty_like(self._factor), np.empty_like(self.size)
            search_turn_kernels.tune(
                cells,
                colours,
                drops,
                self._energy,
                self._expected,
                self.grid.phase,
                self._factor,
                factor,
                self.deviation,
                self.size,
                size,
            )
            self._factor, self.size, self._places = factor, size, None
            return
        phases = self.grid.phase[cells]
        size = np.square(self.size[colours, cells] / self._factor[phases])
        self._energy += np.bincount(phases, drops**2, PERIOD**2)
        self._expected += np.bincount(phases, size, PERIOD**2)
        mean = self._energy.sum() / self._expected.sum()
        some = 4 * (np.add.reduce(size) / np.float32(len(size)))  # as if four edits of every phase had been ordinary
        share = (self._energy + some * mean) / ((self._expected + some) * mean + 1e-30)
        factor = np.sqrt(np.minimum(np.maximum(share, 0.01), 4)).astype(np.float32)
        change = (factor / self._factor)[self.grid.phase]
        self.deviation *= change
        self.size = self.size * change
        self._factor, self._places = factor, None

    def forget(self, share: float) -> None:
        """Let deviations grow back towards their prior, because the state around has changed."""
        np.minimum(self.deviation * growth_of(share), self.size, out=self.deviation)

    def noise(self, optimism: float, *, start: int | None = None) -> tuple[Floats, np.float32]:
        """What drawn upper bounds are made with: (V * cells,) draws, |N(0, 1)|, and the factor of the deviations.

        Args:
            optimism: deviations added to the mean. start: place in `pool` where they begin, None to draw it.
        """
        first = int(self.rng.integers(_POOL)) if start is None else start
        return self.pool[first : first + self.mean.size], np.float32(optimism * self.scale)

    def bounds(self, noise: Floats, factor: np.float32, *, but: NDArray[np.bool_] | None = None) -> Floats:
        """(V, cells) a drawn upper bound of each edit's drop; drawn, so that ties fall everywhere and not in one corner.

        Args:
            noise, factor: see `noise`. but: (V, cells) edits that must not be chosen.
        """
        scores: Floats
        if fast():
            scores = search_kernels.drawn(self.mean, self.deviation, noise, factor)
        else:
            scores = self.mean + factor * self.deviation * noise.reshape(self.mean.shape)
        if but is not None:
            scores[but] = NEVER
        return scores

    def drawn(self, optimism: float, *, but: NDArray[np.bool_] | None = None) -> Floats:
        """`bounds` with new noise."""
        return self.bounds(*self.noise(optimism), but=but)

    def best(self, optimism: float, count: int, *, but: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """`top` of `drawn`."""
        if not fast() or self.words is None or not 0 < count <= FEW:
            return self.top(self.drawn(optimism, but=but), count)
        found, start, cells, colours = search_turn_kernels.best_singles(
            *self.words, self.pool, optimism, self.mean, self.deviation, self.tally, but, count, NEVER
        )
        if found == search_turn_kernels.TIES:
            return self.top(self.bounds(*self.noise(optimism, start=start), but=but), count)
        return cells[:found], colours[:found]

    def top(self, scores: Floats, count: int, *, avoid: Ints | None = None) -> tuple[Ints, Ints]:
        """The `count` best distinct cells by their best colour, best first: (cells, colours).

        Fewer where fewer may be changed. `scores` (V, cells) is overwritten at the cells to avoid.
        """
        if fast() and 0 < count <= FEW:
            found, cells, colours = search_ranking.top(scores, count, _NO_CELLS if avoid is None else avoid, NEVER)
            if found >= 0:  # equal scores are put in order by numpy alone
                return cells[:found], colours[:found]
        if avoid is not None:
            scores[:, avoid] = NEVER
        best = scores.max(axis=0)
        count = min(count, len(best) - 1)
        cells = np.argpartition(-best, count)[:count]
        cells = cells[np.argsort(-best[cells], kind="stable")]
        cells = cells[best[cells] > NEVER / 2]
        return cells, scores[:, cells].argmax(axis=0)
