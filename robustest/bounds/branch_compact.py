"""A ReLU network seen from one box of images: affine forms in the image and in the few ReLUs that are not decided.

Inside a box most ReLUs always pass their input on or never do. What is left is small: the input of each undecided ReLU is
an affine form in the image and in the outputs of earlier undecided ReLUs, up to the rounding charged to it. Forms are
merged in float64; what that can have rounded away is charged as well, relative to the summed magnitudes of the terms.

Source: the bounds on these forms are those of CROWN (arXiv:1811.00866) on the same relaxation. Departure: decided ReLUs
are taken out beforehand, once for all the bounds of a box. Covers networks of affine layers, sums and plain ReLUs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from torch import Tensor

from robustest.bounds.graph import BoundGraph
from robustest.bounds.region import Region
from robustest.bounds.relax import relax
from robustest.bounds.rounding import OUTWARD, U64, gamma
from robustest.bounds.substitute import Intervals

_UP = 1.0 + 2.0**-50
_MOST_NUMBERS = 40_000_000
"""Most coefficients of one node's forms: 320 MB."""


@dataclass(frozen=True, slots=True)
class Affine:
    """Entries of a node: `rows . variables + constant`, up to +- noise, for the network as executed.

    The variables are the image, scaled so that each dimension spans [-1, 1], then the outputs of undecided ReLUs.

    rows: (size, V) float64; a variable behind the V-th has coefficient 0. constant, noise: (size,).
    magnitude: (size,) bound on the sum of the terms' absolute values, also of those that were merged into one.
    """

    rows: Tensor
    constant: Tensor
    noise: Tensor
    magnitude: Tensor

    def take(self, entries: Tensor) -> Affine:
        """The forms of some entries."""
        return Affine(self.rows[entries], self.constant[entries], self.noise[entries], self.magnitude[entries])

    def times(self, matrix: Tensor) -> Affine:
        """The forms of `matrix @ entries`."""
        size = matrix.abs()
        return Affine(matrix @ self.rows, matrix @ self.constant, size @ self.noise * OUTWARD, size @ self.magnitude)


@dataclass(frozen=True, slots=True)
class Undecided:
    """The ReLUs of one layer whose input may have either sign in the box.

    form: of their inputs. slope, shift: (U,) the line above each. high: (U,) upper ends of their inputs.
    """

    form: Affine
    slope: Tensor
    shift: Tensor
    high: Tensor


class CompactForm:
    """Walks a network from the image on; each activation is decided by the intervals that hold when it is reached."""

    def __init__(self, graph: BoundGraph, region: Region) -> None:
        """Start at the image of a `linf` region of one set."""
        self.graph = graph
        lower, upper = (end[0] for end in region.box())
        self.middle = (lower + upper) / 2
        self.half = torch.maximum(upper - self.middle, self.middle - lower) * _UP
        self.layers: list[Undecided] = []
        self.width = self.n_inputs = len(lower)
        self._waiting = [len(children) for children in graph.children]
        self._forms: dict[int, Affine] = {}
        self._terms = 2 * len(lower) + 64 * len(graph.nodes)

    @staticmethod
    def suits(graph: BoundGraph, region: Region) -> bool:
        """Whether a network and a region can be seen so: plain ReLUs, a box, and forms that are not too many."""
        relus = all(
            n.activation is None or (n.activation.kind == "relu" and not n.activation.slope) for n in graph.nodes
        )
        largest = max(node.size for node in graph.nodes)
        return relus and region.norm == "linf" and region.batch == 1 and largest * graph.n_inputs <= _MOST_NUMBERS

    @property
    def slack(self) -> float:
        """What merging the forms and carrying others through them can have rounded, relative to magnitudes."""
        return 2.0 * gamma(2 * (self._terms + self.width), U64)

    def points(self, signs: Tensor) -> Tensor:
        """(N, n) images at (N, n) values of the scaled image in [-1, 1]."""
        return self.middle + self.half * signs

    def least(self, forms: Affine) -> Tensor:
        """(P,) proved lower bounds of forms where no ReLU is undecided."""
        charge = forms.noise + self.slack * forms.magnitude
        return forms.constant - (forms.rows.abs().sum(1) + charge) * OUTWARD

    def step(self, index: int, intervals: Intervals) -> Affine:
        """The forms of the next node, which is `index`; intervals of the nodes before it decide what an activation does."""
        node = self.graph.nodes[index]
        parents = [self._forms[parent] for parent in node.parents]
        error = intervals.error[index]
        if node.kind == "input":
            zero = torch.zeros_like(self.half)
            form = Affine(torch.diag(self.half), self.middle, zero, self.middle.abs() + self.half)
        elif node.activation is not None:
            before = node.parents[0]
            form = self._activate(index, parents[0], intervals.lower[before][0], intervals.upper[before][0])
        elif node.op is not None:
            op, first = node.op, parents[0]
            self._terms += 2 * op.terms
            form = Affine(
                op.forward(first.rows.T.contiguous()).T,
                op.forward(first.constant[None])[0] + op.constant,
                op.forward(first.noise[None], absolute=True)[0] * OUTWARD,
                op.magnitude(first.magnitude[None])[0],
            )
        else:
            self._terms += 2 * len(parents)
            form = Affine(
                torch.stack([self.widen(p.rows) for p in parents]).sum(0),
                torch.stack([p.constant for p in parents]).sum(0),
                torch.stack([p.noise for p in parents]).sum(0) * OUTWARD,
                torch.stack([p.magnitude for p in parents]).sum(0),
            )
        if error is not None:
            form = Affine(form.rows, form.constant, (form.noise + error[0]) * OUTWARD, form.magnitude)
        self._forms[index] = form
        for parent in node.parents:
            self._waiting[parent] -= 1
            if self._waiting[parent] == 0:
                del self._forms[parent]
        return form

    def widen(self, rows: Tensor) -> Tensor:
        """Rows with a coefficient for every variable there is now."""
        return F.pad(rows, (0, self.width - rows.shape[1]))

    def _activate(self, index: int, before: Affine, low: Tensor, high: Tensor) -> Affine:
        activation = self.graph.nodes[index].activation
        assert activation is not None
        passed, open_ = low >= 0, ((low < 0) & (high > 0)).nonzero()[:, 0]
        lines = relax(activation, low, high)
        if len(open_):
            mine = before.take(open_)
            form = Affine(self.widen(mine.rows), mine.constant, mine.noise, mine.magnitude)
            self.layers.append(Undecided(form, lines.upper_slope[open_], lines.upper_shift[open_], high[open_]))
        first = self.width
        self.width += len(open_)
        rows = self.widen(before.rows * passed[:, None])
        rows[open_, first + torch.arange(len(open_))] = 1.0
        kept = [torch.where(passed, t, 0.0) for t in (before.constant, before.noise, before.magnitude)]
        kept[2][open_] = high[open_]
        return Affine(rows, *kept)
