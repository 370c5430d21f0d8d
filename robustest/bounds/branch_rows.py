"""Branch and bound for many affine forms of undecided ReLUs at once: each form has its own tree, all trees one batch.

A leaf fixes the signs of some ReLUs' inputs. Its bound takes for each ReLU that is left open the line above or a slope
below it, for each fixed one a multiplier >= 0 (beta-CROWN's dual); slopes and multipliers climb by Adam, with the
gradient read off the relaxation's own minimiser. The ReLU at which that minimiser breaks its relaxation most is cut
next. The search runs in float32; nothing that it says is believed: a leaf counts only by its float64 bound with all
rounding charged, and leaves whose float64 bound is not positive stay open.

Source: Wang et al. 2021 (beta-CROWN), arXiv:2103.06624. Departure: inner neurons are branched for, not only the margins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.bounds.branch_compact import Affine, CompactForm
from robustest.bounds.rounding import OUTWARD

_ROOT_STEPS, _STEPS, _LAST_STEPS = 40, 8, 200
_CHUNK = 256
_ROUND = 512
"""Leaves cut in one round, where there are as many."""
_MARGIN = 1e-4
"""What a float32 bound must exceed before float64 is asked."""
_GAP, _SETTLED = 1e-6, 1e-4
"""A form's bound is final when no ReLU of its worst leaf breaks its relaxation by more than the one, and many steps raise
that leaf's bound by less than the other; in units of the form's largest coefficient."""
_BETA1, _BETA2 = 0.8, 0.9
"""Adam's memory: short, for few steps."""
_PASSED, _SMALLEST = 0.3, 1e-3
"""How much of a later layer's coefficients counts for an earlier ReLU's unit of multiplier; the least unit."""
_MOST_NUMBERS = 300_000_000
"""Slopes of all leaves together; the tree grows no further."""


@dataclass(frozen=True, slots=True)
class Leaves:
    """N leaves. owner: (N,) which form. signs: (N, M) int8, 0 where open. theta: (N, M) slopes or scaled multipliers.

    bound: (N,) float32, not a proof. cut: (N,) the open ReLU to be cut next. gap: (N,) how far it breaks its relaxation;
    negative where no ReLU is open. sure: (N,) float64, what is proved of a leaf that it is a half of.
    """

    owner: Tensor
    signs: Tensor
    theta: Tensor
    bound: Tensor
    cut: Tensor
    gap: Tensor
    sure: Tensor

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, index: Tensor) -> Leaves:
        """Those at the places (L,) named, in that order."""
        return Leaves(*(getattr(self, name)[index] for name in self.__slots__))

    def without(self, index: Tensor) -> Leaves:
        """All but those at the places (L,) named."""
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[index] = False
        return self.take(kept.nonzero()[:, 0])

    def plus(self, other: Leaves) -> Leaves:
        """These and, behind them, others."""
        return Leaves(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in self.__slots__))


class _Stack:
    """The undecided layers and P forms of them to be bounded from below, in one floating type."""

    def __init__(self, compact: CompactForm, forms: Affine, dtype: torch.dtype) -> None:
        n, slack = compact.n_inputs, compact.slack
        self.n, self.dtype = n, dtype
        self.places = [n]
        for layer in compact.layers:
            self.places.append(self.places[-1] + len(layer.high))
        layers = compact.layers
        self.forms = [
            layer.form.rows[:, :place].to(dtype).contiguous() for layer, place in zip(layers, self.places, strict=False)
        ]
        self.constants = [layer.form.constant.to(dtype) for layer in layers]
        self.slopes = [layer.slope.to(dtype) for layer in layers]
        self.shifts = [layer.shift.to(dtype) for layer in layers]
        self.charges = [((y.form.noise + slack * y.form.magnitude) * OUTWARD).to(dtype) for y in layers]
        self.image = torch.cat([form[:, :n] for form in self.forms]).T.contiguous()
        self.rows = compact.widen(forms.rows).to(dtype)
        self.offset = (forms.constant - (forms.noise + slack * forms.magnitude) * OUTWARD).to(dtype)

    def lower(self, leaves: Leaves, scale: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(N,) lower bounds of each leaf's form, (N, n) coefficients of the image, per layer (N, U) of its ReLUs."""
        coefficients, bound = self.rows[leaves.owner], self.offset[leaves.owner]
        signs, theta, mine = leaves.signs, leaves.theta.to(self.dtype), scale[leaves.owner].to(self.dtype)
        seen: list[Tensor] = []
        for layer in range(len(self.forms) - 1, -1, -1):
            begin, end = self.places[layer], self.places[layer + 1]
            part = slice(begin - self.n, end - self.n)
            rows, sign, free = coefficients[:, begin:end], signs[:, part], theta[:, part]
            # A multiplier >= 0 of a fixed sign: what passes on may lose any slope, what is shut may gain any.
            fixed = free * mine[:, part]
            open_, below = sign == 0, rows < 0
            back = torch.where(
                open_,
                rows * torch.where(below, self.slopes[layer], free),
                torch.where(sign > 0, rows - fixed, fixed),
            )
            above = (torch.where(open_ & below, rows, 0.0) * self.shifts[layer]).sum(1)
            bound = bound + back @ self.constants[layer] + above - back.abs() @ self.charges[layer]
            coefficients = coefficients[:, :begin] + back @ self.forms[layer]
            seen.append(rows)
        return bound - coefficients.abs().sum(1) * OUTWARD, coefficients, seen[::-1]

    def climb(self, leaves: Leaves, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N,) bounds, (N, M) their gradient by theta, and (N, M) gaps between each ReLU and its relaxation."""
        bound, coefficients, seen = self.lower(leaves, scale)
        inputs = -coefficients.sign() @ self.image
        slope, gap = torch.empty_like(leaves.theta), torch.empty_like(leaves.theta)
        outputs = inputs.new_zeros(len(leaves), 0)
        for layer, rows in enumerate(seen):
            part = slice(self.places[layer] - self.n, self.places[layer + 1] - self.n)
            value = inputs[:, part] + self.constants[layer] + outputs @ self.forms[layer][:, self.n :].T
            sign, theta = leaves.signs[:, part], leaves.theta[:, part]
            open_, below = sign == 0, rows < 0
            line = torch.where(below, self.slopes[layer] * value + self.shifts[layer], theta * value)
            output = torch.where(open_, line, torch.where(sign > 0, value, 0.0))
            slope[:, part] = torch.where(
                open_,
                torch.where(below, 0.0, rows * value),
                torch.where(sign > 0, -value, value) * scale[leaves.owner, part],
            )
            gap[:, part] = torch.where(open_, rows * (value.clamp_min(0) - output), 0.0)
            outputs = torch.cat([outputs, output], 1)
        return bound, slope, gap


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """What a run came to: leaves left open, and what `look` found."""

    open: int
    found: NDArray[np.float32] | None = None


Look = Callable[[Tensor], NDArray[np.float32] | None]
"""(S, n) images at which leaves are bounded worst to what ends the search, or None."""


class RowBranch:
    """P affine forms over one box, to be bounded from below.

    lower: (P,) float64 proved bounds so far. proved: (P,) bool, the form is positive on the box.
    nodes: leaves bounded, of eight steps each.

    Args:
        compact: the undecided ReLUs before the forms; there must be some.
        forms: of P values (neurons or margins), each with its sign.
        deadline: of this thread's CPU time.
    """

    def __init__(self, compact: CompactForm, forms: Affine, *, deadline: float) -> None:
        self.compact = compact
        self.fast, self.exact = (_Stack(compact, forms, dtype) for dtype in (torch.float32, torch.float64))
        self.scale = self._scales()
        count, free = self.scale.shape
        self.nodes = 0
        nothing = torch.zeros(count)
        start = Leaves(
            torch.arange(count),
            torch.zeros(count, free, dtype=torch.int8),
            torch.full((count, free), 0.5),
            nothing - torch.inf,
            nothing.long(),
            nothing,
            nothing.double() - torch.inf,
        )
        self.roots = self._bound(start, steps=_ROOT_STEPS, rate=0.2, decay=0.93, deadline=deadline)
        self.lower = self._exact_bounds(self.roots)
        self.proved = self.lower > 0

    def points(self, leaves: Leaves | None = None) -> Tensor:
        """(N, n) images at which the relaxations of leaves (of the roots) are least."""
        with torch.no_grad():
            signs = -self.fast.lower(self.roots if leaves is None else leaves, self.scale)[1].sign()
        return self.compact.points(signs.double())

    def run(
        self, chosen: Tensor, *, decide: bool, deadline: float, most: int = 1_000_000_000, look: Look | None = None
    ) -> RowAnswer:
        """Cut leaves, each form's worst first, and raise `lower` by what is proved.

        Args:
            chosen: (R,) forms to work on.
            decide: stop at a form when it is positive (`proved` says so); else raise its bound as far as it goes.
            deadline: of this thread's CPU time. most: nodes to bound.
            look: asked now and then at the worst leaves' minimisers.
        """
        leaves, rest, turn = self.roots.take(chosen), self.roots.take(chosen[:0]), 0
        begin = self.nodes
        while True:
            if decide:
                leaves = self._unproved(leaves)
            if look is not None and len(leaves) and (turn in (0, 1, 3) or turn % 15 == 0):
                found = look(self.points(leaves.take(leaves.bound.argsort()[:8])))
                if found is not None:
                    return RowAnswer(len(leaves) + len(rest), found)
            turn += 1
            full = (len(leaves) + len(rest)) * self.scale.shape[1] > _MOST_NUMBERS
            if not len(leaves) or time.thread_time() > deadline or self.nodes - begin >= most or full:
                break
            picked, rank = self._worst(leaves)
            taken = leaves.take(picked)
            unit = self.scale[taken.owner].amax(1)
            over = taken.gap < 0 if decide else (rank == 0) & (taken.gap <= _GAP * unit)
            if bool(over.any()):
                # Nothing is left to cut in these leaves: better multipliers are all that could raise their bounds.
                place = over.nonzero()[:, 0]
                again = self._bound(taken.take(place), steps=_LAST_STEPS, rate=0.5, decay=0.97)
                leaves, gain = leaves.without(picked[place]), again.bound - taken.bound[place]
                if decide:
                    final = self._unproved(again)
                else:
                    settled = gain <= _SETTLED * unit[place]
                    final = again.take(settled.nonzero()[:, 0])
                    leaves = leaves.plus(again.take((~settled).nonzero()[:, 0]))
                stuck = torch.isin(leaves.owner, final.owner).nonzero()[:, 0]
                rest = rest.plus(final).plus(leaves.take(stuck))
                leaves = leaves.without(stuck)
                continue
            if not decide:
                taken = replace(taken, sure=self._exact_bounds(taken))
            children = self._bound(self._halves(taken), deadline=deadline)
            leaves = leaves.without(picked).plus(children)
        open_ = rest.plus(leaves)
        bounds = torch.full_like(self.lower, torch.inf)
        bounds.scatter_reduce_(0, open_.owner, self._exact_bounds(open_), "amin")
        if decide:
            bounds = bounds.clamp_max(0.0)
            done = torch.ones_like(self.proved)
            done[open_.owner] = False
            self.proved[chosen] |= done[chosen]
        self.lower[chosen] = torch.maximum(self.lower, bounds)[chosen]
        return RowAnswer(len(open_))

    def _scales(self) -> Tensor:
        """(P, M) a size of each ReLU's coefficient in each form: the unit of its multiplier."""
        fast = self.fast
        sizes = fast.rows[:, fast.n :].abs()
        for layer in range(len(fast.forms) - 1, 0, -1):
            begin, end = fast.places[layer] - fast.n, fast.places[layer + 1] - fast.n
            passed = sizes[:, begin:end] * fast.slopes[layer]
            sizes[:, :begin] += _PASSED * passed @ fast.forms[layer][:, fast.n :].abs()
        return sizes + _SMALLEST

    def _worst(self, leaves: Leaves) -> tuple[Tensor, Tensor]:
        """Places of each form's worst leaves, as many forms as there are sharing a round; and their ranks from 0."""
        order = leaves.bound.argsort()
        order = order[leaves.owner[order].argsort(stable=True)]
        owner = leaves.owner[order]
        rank = torch.arange(len(order)) - torch.searchsorted(owner, owner)
        forms = int((rank == 0).sum())
        taken = rank < max(4, _ROUND // forms)
        return order[taken], rank[taken]

    def _halves(self, taken: Leaves) -> Leaves:
        """Both halves of leaves, with their slopes; the cut ReLU's multiplier begins at 0."""
        index = torch.arange(len(taken)).repeat(2)
        both = taken.take(index)
        place = torch.arange(len(both))
        both.signs[place, both.cut] = torch.tensor([1, -1], dtype=torch.int8).repeat_interleave(len(taken))
        both.theta[place, both.cut] = 0.0
        return both

    def _unproved(self, leaves: Leaves) -> Leaves:
        """Leaves without those that float64 proves positive; the others stay, whatever float32 says."""
        good = (leaves.bound > _MARGIN).nonzero()[:, 0]
        if not len(good):
            return leaves
        exact = self._exact_bounds(leaves.take(good))
        leaves.bound[good] = exact.to(leaves.bound.dtype).clamp_max(_MARGIN)
        return leaves.without(good[exact > 0])

    def _exact_bounds(self, leaves: Leaves) -> Tensor:
        """(N,) proved bounds, in float64 with all rounding charged."""
        with torch.no_grad():
            found = [self.exact.lower(leaves.take(block), self.scale)[0] for block in _blocks(len(leaves))]
        exact = torch.cat([leaves.sure[:0], *found])
        # A sum that overflowed proves nothing.
        return torch.maximum(torch.where(exact.isnan(), -torch.inf, exact), leaves.sure)

    def _bound(
        self,
        leaves: Leaves,
        *,
        steps: int = _STEPS,
        rate: float = 0.25,
        decay: float = 0.75,
        deadline: float = float("inf"),
    ) -> Leaves:
        """Climb slopes and multipliers of leaves, and choose their next cuts. After the deadline: one step each."""
        # A bound of many steps counts as the nodes that its time would have bounded.
        self.nodes += len(leaves) * max(1, steps // _STEPS)
        found = []
        for block in _blocks(len(leaves)):
            late = time.thread_time() > deadline
            found.append(self._climb(leaves.take(block), 1 if late else steps, rate, decay))
        return Leaves(*(torch.cat([getattr(f, name) for f in found]) for name in Leaves.__slots__))

    def _climb(self, leaves: Leaves, steps: int, rate: float, decay: float) -> Leaves:
        open_ = leaves.signs == 0
        theta = leaves.theta
        best, best_theta = torch.full((len(leaves),), -torch.inf), theta
        best_gap = torch.zeros_like(theta)
        first, second = torch.zeros_like(theta), torch.zeros_like(theta)
        for step in range(steps):
            bound, slope, gap = self.fast.climb(replace(leaves, theta=theta), self.scale)
            better = bound > best
            best = torch.where(better, bound, best)
            best_theta = torch.where(better[:, None], theta, best_theta)
            best_gap = torch.where(better[:, None], gap, best_gap)
            first = _BETA1 * first + (1 - _BETA1) * slope
            second = _BETA2 * second + (1 - _BETA2) * slope.square()
            move = first / (1 - _BETA1 ** (step + 1)) / ((second / (1 - _BETA2 ** (step + 1))).sqrt() + 1e-9)
            theta = (theta + rate * decay**step * move).clamp_min(0.0)
            theta = torch.where(open_, theta.clamp_max(1.0), theta)
        scale = self.scale[leaves.owner]
        gap, cut = torch.where(open_, best_gap + 1e-9 * scale, -1.0).max(1)
        return Leaves(leaves.owner, leaves.signs, best_theta, torch.maximum(best, leaves.bound), cut, gap, leaves.sure)


def _blocks(count: int) -> list[Tensor]:
    return [torch.arange(begin, min(begin + _CHUNK, count)) for begin in range(0, count, _CHUNK)]
