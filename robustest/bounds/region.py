"""Regions: the images that a statement is about, and the exact minimum of a linear form over them.

A region is a batch of B sets `{x' : ||x' - x||_p <= eps, lower <= x' <= upper}` of flattened images (pixel-major, the
channels of a pixel beside each other). For L0 the set is "in each group of pixels at most so many are moved".
The minimum of a linear form over (ball AND box) is exact for Linf, L1, L0 and, by weak duality, tight and never too
large for L2; it is returned less the float64 rounding that its computation can have suffered.

Source: L0 by the k best gains is exact over the convex hull too (compare arXiv:2511.10576); L1 and L2 in `budget.py`.
Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustest.bounds.budget import gained_in_l1, gained_in_l2, highest, most_in_l1, most_in_l2, price_in_l2
from robustest.bounds.rounding import U64, gamma
from robustest.errors import InvalidSetting
from robustest.settings import Norm

_BLOCK = 40_000
"""Coefficients of forms that are minimised at once in L1 and L2, in many passes: blocks that fit the cache are faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """B sets of images; n dimensions each, P pixels of `channels` dimensions.

    norm: of the ball; `linf` for a plain box.
    centre: (B, n) float64, the image in the middle.
    lower, upper: (B, n) float64, the box that holds the set; lower <= centre <= upper.
    eps: (B,) float64 radius; for L0 the sum of the budgets.
    channels: dimensions per pixel.
    group: L0 only: (B, U) int64, which group a unit (`l0`: pixel, `l0_dims`: dimension) is in; -1: may not move.
    budget: L0 only: (B, G) int64, how many units of each group may move.
    weight: L1 only: (B, n) >= 0, what a unit of each dimension's move counts; 1 where None.
    """

    norm: Norm
    centre: Tensor
    lower: Tensor
    upper: Tensor
    eps: Tensor
    channels: int = 1
    group: Tensor | None = None
    budget: Tensor | None = None
    weight: Tensor | None = None

    @property
    def batch(self) -> int:
        """B."""
        return self.centre.shape[0]

    @property
    def n_inputs(self) -> int:
        """n."""
        return self.centre.shape[1]

    @property
    def unit(self) -> int:
        """Dimensions that L0 counts as one."""
        return 1 if self.norm == "l0_dims" else self.channels

    @staticmethod
    def ball(
        x: Tensor,
        norm: Norm,
        eps: Tensor | float,
        *,
        lower: Tensor | float = 0.0,
        upper: Tensor | float = 1.0,
        mask: Tensor | None = None,
        channels: int = 1,
    ) -> Region:
        """The ball of radius `eps` around each image, cut by the box of legal values.

        Args:
            x: (B, ...) images in [lower, upper], flattened here.
            norm: `l0` counts pixels of `channels` dimensions, `l0_dims` counts dimensions.
            eps: radius, one or (B,), >= 0; for L0 a whole number.
            lower, upper: legal values, one or (n,) or (B, n).
            mask: (n,) or (B, n) bool, True where a dimension may move; all may by default.
            channels: dimensions per pixel.
        """
        centre = x.detach().reshape(x.shape[0], -1).to(torch.float64)
        radius = torch.as_tensor(eps, dtype=torch.float64).expand(centre.shape[0]).clone()
        if not bool((radius >= 0).all()):
            raise InvalidSetting(f"eps must be >= 0; got {radius.min().item()}.")
        low = torch.as_tensor(lower, dtype=torch.float64).expand_as(centre)
        high = torch.as_tensor(upper, dtype=torch.float64).expand_as(centre)
        if bool(((centre < low) | (centre > high)).any()):
            raise InvalidSetting(
                f"image must lie between lower and upper; got values in [{centre.min():g}, {centre.max():g}]. "
                "Divide an 8-bit image by 255."
            )
        if norm in ("l0", "l0_dims"):
            unit = 1 if norm == "l0_dims" else channels
            movable = torch.ones_like(centre, dtype=torch.bool) if mask is None else mask.expand_as(centre)
            pixels = movable.reshape(centre.shape[0], -1, unit).any(-1)
            return Region(
                norm=norm,
                centre=centre,
                lower=torch.where(movable, low, centre),
                upper=torch.where(movable, high, centre),
                eps=radius,
                channels=channels,
                group=torch.where(pixels, 0, -1),
                budget=radius.to(torch.int64)[:, None],
            )
        low = torch.maximum(low, torch.nextafter(centre - radius[:, None], torch.tensor(-torch.inf).double()))
        high = torch.minimum(high, torch.nextafter(centre + radius[:, None], torch.tensor(torch.inf).double()))
        if mask is not None:
            low, high = torch.where(mask, low, centre), torch.where(mask, high, centre)
        return Region(norm=norm, centre=centre, lower=low, upper=high, eps=radius, channels=channels)

    @staticmethod
    def box_of(lower: Tensor, upper: Tensor, *, channels: int = 1) -> Region:
        """Every image between `lower` and `upper`, (B, n) each; the centre is half-way."""
        low, high = (t.detach().reshape(t.shape[0], -1).to(torch.float64) for t in (lower, upper))
        if bool((low > high).any()):
            raise InvalidSetting("lower must not exceed upper anywhere.")
        centre = torch.minimum(torch.maximum((low + high) / 2, low), high)
        eps = (high - low).amax(1) / 2
        return Region(norm="linf", centre=centre, lower=low, upper=high, eps=eps, channels=channels)

    @staticmethod
    def sparse(
        x: Tensor,
        groups: Sequence[Sequence[tuple[Tensor, int]]],
        *,
        channels: int,
        norm: Norm = "l0",
        lower: Tensor | float = 0.0,
        upper: Tensor | float = 1.0,
    ) -> Region:
        """For each of B sets its disjoint groups of units, each with how many of it may move.

        Args:
            x: (B, n) images, or (1, n) for all.
            groups: B lists of (indices int64, budget); units in no group stay.
            channels: dimensions per pixel.
            norm: `l0` where the units are pixels, `l0_dims` where they are dimensions.
            lower, upper: values a moved dimension may take, one or (n,) or (B, n).
        """
        unit = 1 if norm == "l0_dims" else channels
        batch = len(groups)
        centre = x.detach().reshape(x.shape[0], -1).to(torch.float64)
        centre = centre.expand(batch, -1)
        group = torch.full((batch, centre.shape[1] // unit), -1, dtype=torch.int64)
        budget = torch.zeros(batch, max((len(g) for g in groups), default=1), dtype=torch.int64)
        for b, members in enumerate(groups):
            for g, (index, count) in enumerate(members):
                if count > 0:
                    group[b, index] = g
                budget[b, g] = count
        movable = (group >= 0).repeat_interleave(unit, 1)
        low = torch.as_tensor(lower, dtype=torch.float64).expand_as(centre)
        high = torch.as_tensor(upper, dtype=torch.float64).expand_as(centre)
        return Region(
            norm=norm,
            centre=centre,
            lower=torch.where(movable, torch.minimum(low, centre), centre),
            upper=torch.where(movable, torch.maximum(high, centre), centre),
            eps=budget.sum(1).to(torch.float64),
            channels=channels,
            group=group,
            budget=budget,
        )

    def below(self, form: Tensor, least: Tensor) -> Region:
        """For each of R forms the part of a box (a batch of one) where the form is at most 0, but for rounding a superset.

        Args:
            form: (R, n). least: (R,) at most the least value, constant included, of each form over the box, < 0.

        Returns:
            A batch of R sets. From the corner at which a form is least, its value rises by its coefficients' absolute
            values per unit of move: that is a weighted L1 ball around the corner.
        """
        corner = torch.where(form > 0, self.lower, self.upper)
        # What each coefficient times its room may round away comes on top.
        reach = form.abs() @ (self.upper - self.lower)[0]
        return replace(
            self,
            norm="l1",
            centre=corner,
            lower=self.lower.expand_as(corner),
            upper=self.upper.expand_as(corner),
            eps=-least + reach * gamma(4, U64),
            weight=form.abs(),
        )

    def box(self) -> tuple[Tensor, Tensor]:
        """(B, n) lower and upper ends of a box that holds the region."""
        return self.lower, self.upper

    def select(self, owner: Tensor) -> Region:
        """The sets of the batch named by `owner` (R,), as a batch of R."""
        return replace(
            self,
            centre=self.centre[owner],
            lower=self.lower[owner],
            upper=self.upper[owner],
            eps=self.eps[owner],
            group=None if self.group is None else self.group[owner],
            budget=None if self.budget is None else self.budget[owner],
            weight=None if self.weight is None else self.weight[owner],
        )

    def restrict(self, owner: Tensor, pixels: Tensor) -> Region:
        """What R forms that read few pixels each can see of the region; a superset of the true projection.

        Args:
            owner: (R,) which set each form is about.
            pixels: (R, W) indices of pixels, P for a place outside the image.
        """
        batch = self.batch
        places, depth = self.n_inputs // self.channels, self.channels

        def windows(values: Tensor) -> Tensor:
            blank = torch.zeros(batch, 1, depth, dtype=values.dtype)
            padded = torch.cat([values.reshape(batch, places, depth), blank], 1)
            return padded[owner[:, None], pixels].reshape(len(owner), -1)

        group = None
        if self.group is not None:
            per = self.group.shape[1] // places
            blank = torch.full((batch, 1, per), -1, dtype=torch.int64)
            padded = torch.cat([self.group.reshape(batch, places, per), blank], 1)
            group = padded[owner[:, None], pixels].reshape(len(owner), -1)
        return replace(
            self,
            centre=windows(self.centre),
            lower=windows(self.lower),
            upper=windows(self.upper),
            eps=self.eps[owner],
            group=group,
            budget=None if self.budget is None else self.budget[owner],
            weight=None if self.weight is None else windows(self.weight),
        )

    def min_linear(self, form: Tensor) -> Tensor:
        """Least value of each linear form over the region, never above the true least value.

        Args:
            form: (B, R, n) coefficients, float64.

        Returns:
            (B, R) float64; differentiable in `form`.
        """
        if self.norm in ("l1", "l2") and form.numel() > 2 * _BLOCK and form.shape[:2].numel() > 1:
            return self._min_in_blocks(form)
        slack = gamma(2 * self.n_inputs + 64, U64) * 2.0
        reach = torch.maximum(self.lower.abs(), self.upper.abs())
        size = form.abs()
        if self.norm == "linf":
            middle, half = (self.lower + self.upper) / 2, (self.upper - self.lower) / 2
            return _apply(form, middle) - _apply(size, half + slack * reach)
        value = _apply(form, self.centre) - _apply(size, slack * reach)
        down, up = self.lower - self.centre, self.upper - self.centre
        if self.norm in ("l0", "l0_dims"):
            return value + self.best_units(torch.minimum(form * down[:, None], form * up[:, None]))
        if self.norm == "l1":
            return value - most_in_l1(-form, down, up, self.eps, self.weight) * (1 + slack)
        return value - most_in_l2(-form, down, up, self.eps) * (1 + slack)

    def _min_in_blocks(self, form: Tensor) -> Tensor:
        """`min_linear` of parts of the batch, or of parts of the forms of its one set."""
        if self.batch == 1:
            parts = torch.split(form, max(1, _BLOCK // form.shape[2]), 1)
            return torch.cat([self.min_linear(part) for part in parts], 1)
        step = max(1, _BLOCK // form[0].numel())
        blocks = torch.split(torch.arange(self.batch), step)
        return torch.cat([self.select(block).min_linear(form[block]) for block in blocks])

    def best_units(self, gains: Tensor) -> Tensor:
        """(B, R) sum of the most negative gains that the budgets allow; gains (B, R, n), each <= 0."""
        assert self.group is not None
        assert self.budget is not None
        if self.unit > 1:
            gains = gains.reshape(*gains.shape[:2], -1, self.unit).sum(-1)
        groups = self.budget.shape[1]
        total = gains.new_zeros(gains.shape[:2])
        for g in range(groups):
            most = min(int(self.budget[:, g].max()), gains.shape[-1])
            if most == 0:
                continue
            # A unit in no group gains nothing: one group needs no mask.
            mine = gains if groups == 1 else gains.masked_fill((self.group != g)[:, None], 0.0)
            if most == 1:
                best = mine.amin(-1)
                total = total + best * (self.budget[:, g, None] > 0)
            else:
                best = -highest(-mine, most)[0]
                total = total + (best * (torch.arange(most) < self.budget[:, g, None, None])).sum(-1)
        return total

    def knapsack(self, rate: Tensor, room: Tensor, other: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, R) most that can be gained in L1; see `gained_in_l1`."""
        assert self.weight is None
        return gained_in_l1(rate, room, self.eps, other)

    def ball_and_box(self, size: Tensor, room: Tensor, other: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """(B, R) most that can be gained in L2; see `gained_in_l2`."""
        return gained_in_l2(size, room, self.eps, other)

    def most_gained(self, rise: Tensor, fall: Tensor) -> Tensor:
        """(B, R) most that moves of the ball can gain at rates `rise` upwards and `fall` downwards, (B, R, n) >= 0.

        For L1 and L2. Each dimension has the room that the box leaves it in that direction: none upwards from 1.
        """
        up, down = (self.upper - self.centre)[:, None], (self.centre - self.lower)[:, None]
        upwards = rise * up >= fall * down
        rate, room = torch.where(upwards, rise, fall), torch.where(upwards, up, down)
        other = torch.where(upwards, fall, rise), torch.where(upwards, down, up)
        return self.knapsack(rate, room, other) if self.norm == "l1" else self.ball_and_box(rate, room, other)

    def argmin_linear(self, form: Tensor) -> Tensor:
        """(B, R, n) a point of the region at which each form is (nearly) least: a candidate for an attack."""
        with torch.no_grad():
            down, up = (self.lower - self.centre)[:, None], (self.upper - self.centre)[:, None]
            best = torch.where(form > 0, down, up).expand_as(form)
            if self.norm == "linf":
                move = best
            elif self.norm in ("l0", "l0_dims"):
                move = best * self._chosen(best * form).repeat_interleave(self.unit, -1)
            else:
                size, room = form.abs(), best.abs()
                if self.norm == "l1":
                    order = size.argsort(-1, descending=True)
                    sorted_room = room.gather(-1, order)
                    before = sorted_room.cumsum(-1) - sorted_room
                    taken = torch.minimum(sorted_room, (self.eps[:, None, None] - before).clamp_min(0))
                    length = torch.zeros_like(room).scatter(-1, order, taken)
                else:
                    length = torch.minimum(size / (2 * price_in_l2(size, room, self.eps)), room)
                    norm = length.norm(dim=-1, keepdim=True).clamp_min(1e-300)
                    length = length * (self.eps[:, None, None] / norm).clamp_max(1.0)
                move = best.sign() * length
            return torch.minimum(torch.maximum(self.centre[:, None] + move, self.lower[:, None]), self.upper[:, None])

    def _chosen(self, gains: Tensor) -> Tensor:
        """(B, R, U) bool, the units whose gains the budgets allow."""
        assert self.group is not None
        assert self.budget is not None
        gains = gains.reshape(*gains.shape[:2], -1, self.unit).sum(-1)
        chosen = torch.zeros_like(gains, dtype=torch.bool)
        for g in range(self.budget.shape[1]):
            most = min(int(self.budget[:, g].max()), gains.shape[-1])
            if most == 0:
                continue
            mine = gains.masked_fill((self.group != g)[:, None], 0.0)
            value, index = mine.topk(most, -1, largest=False)
            allowed = (torch.arange(most) < self.budget[:, g, None, None]) & (value < 0)
            chosen |= torch.zeros_like(chosen).scatter(-1, index, allowed)
        return chosen


def _apply(form: Tensor, point: Tensor) -> Tensor:
    """(B, R) `form @ point` for (B, R, n) and (B, n)."""
    return (form @ point[:, :, None])[..., 0]
