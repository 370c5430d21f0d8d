"""Brackets: for one image and each norm, what is proved and what was found, from the cheapest method to the tightest.

The lower end is the largest radius that any sound method proved (global constants, interval Jacobian, CROWN,
optimised slopes, branch and bound), for the network as executed; norms lend each other what follows (`L1 >= L2 >=
Linf`). The upper end is the nearest misclassified image that was scored again. A lower end above an upper end ends
the run with an error: it would be a bug of the checker, not a result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustest.attack.find import find_adversarial
from robustest.bounds.centred import CentredBounds
from robustest.bounds.certificate import Certificate, ball_claim, sparse_claim
from robustest.bounds.clock import Clock
from robustest.bounds.crown import margin_bounds, margin_rows, propagate
from robustest.bounds.drift import ExecutionDrift
from robustest.bounds.ends import nearest_in, note, share
from robustest.bounds.graph import BoundGraph
from robustest.bounds.guarantee import Bound, Bracket, Guarantee, Scorer, Witness
from robustest.bounds.jacobian import exact_scores, gradient_intervals
from robustest.bounds.linf import LinfRaiser
from robustest.bounds.lipschitz import Lipschitz, eclipse_constant, least_rate, product_constant, rates_of
from robustest.bounds.radius import diameter, largest_radius
from robustest.bounds.region import Region
from robustest.bounds.rounding import OUTWARD, U32
from robustest.bounds.sign_radius import SignRadius
from robustest.bounds.slope_certificate import largest_written
from robustest.bounds.sparse_branch import sparse_distance
from robustest.bounds.witness import find_witness, nearest_of, pull_back, rescore
from robustest.classifiers.spec import InputSpec
from robustest.errors import InvalidImage
from robustest.images import as_unit
from robustest.settings import Norm

_COUNTS: tuple[Norm, ...] = ("l0", "l0_dims")
_MOST_NODES = 1_000_000
_QUERIES = 1000
"""Images that the game's search may score for an upper end in L0."""
_DEAREST: tuple[Norm, ...] = ("linf", "l2", "l1", "l0", "l0_dims")
"""In the order in which one bound costs more."""
_RAISING = 0.8
"""Share of the time that raises a Linf radius, for the radius; the rest is for slopes that are written into its certificate."""
_MANY = 20_000
"""Neurons beyond which radii are tried from small ones on, where a bound takes a fraction of the time."""
_WORTHLESS = 1e-3
"""Share of the upper end below which a global constant's radius is not worth its computation in such networks."""
_SMALL = 0.04
"""Share of the first radius that is tried instead in such networks."""
_GROWTH = 3.0
"""Most that the next radius is of the largest proved in such networks."""
_WIDER = 5.0
"""The radius tried first in L2 and L1 in such networks, of the one proved in Linf and L2."""
_NEAREST = 2.0**-17
"""Share of the upper end that is tried first in networks of signs, where nothing is proved yet."""
_FIRST: dict[Norm, float] = {"linf": 0.5, "l2": 0.5, "l1": 0.4}
"""Share of the upper end that is tried first as a radius, times the share that was proved in Linf."""


class Checker:
    """Bounds of one network; what does not depend on the image is computed once.

    Args:
        graph: the network, read and checked by `graph_of`.
        scorer: the classifier itself, which scores every witness.
        executed: prove for the network as executed; else for exact real arithmetic.
        spec: how the model file wants its images; certificates are made where it is known.
    """

    def __init__(
        self, graph: BoundGraph, scorer: Scorer, *, executed: bool = True, spec: InputSpec | None = None
    ) -> None:
        self.graph = graph
        self.spec = spec
        self.scorer = scorer
        self.executed = executed
        exec_proof = executed and graph.unit >= U32
        self.guarantee = Guarantee.PROOF_EXEC if exec_proof else Guarantee.PROOF_REAL
        self.centred = CentredBounds(graph, unit=None if executed else 0.0)
        self._constants: dict[str, list[Lipschitz]] = {}

    def constants(self, norm: Norm) -> list[Lipschitz]:
        """Global constants in a norm, computed on first use; none of a network that jumps."""
        if self.graph.jumps is not None:
            return []
        if norm not in self._constants:
            found: list[Lipschitz] = []
            if norm in ("l1", "linf"):
                found.append(product_constant(self.graph, norm))
            if norm == "l2":
                found.append(product_constant(self.graph, norm, self.drift.rates))
                better = eclipse_constant(self.graph)
                found.extend([better] if better is not None else [])
            self._constants[norm] = found
        return self._constants[norm]

    @cached_property
    def drift(self) -> ExecutionDrift:
        """What execution can change of margins near an image, in L2."""
        return ExecutionDrift(self.graph, rates_of(self.graph, "l2"))

    @cached_property
    def rounding(self) -> float:
        """What execution can change of any margin, on any image in [0, 1]."""
        if not self.executed:
            return 0.0
        with torch.no_grad():
            box = Region.box_of(torch.zeros(1, self.graph.n_inputs), torch.ones(1, self.graph.n_inputs))
            wide = propagate(self.graph, box, crown=False)
            classes = self.graph.n_classes
            if self.graph.n_neurons > _MANY:
                # Of single scores, of which a margin is two: there are far fewer.
                alone = gradient_intervals(self.graph, wide, torch.eye(classes, dtype=torch.float64)[None])[2]
                return 2 * float(alone.max()) * OUTWARD
            rows = margin_rows(classes, torch.arange(classes))[0].flatten(0, 1)
            return float(gradient_intervals(self.graph, wide, rows[None])[2].max()) * OUTWARD

    @cached_property
    def least_rate(self) -> float:
        """About how fast scores can change in L2 at least, by the layers' norms."""
        return least_rate(self.graph)

    def bracket(
        self,
        image: NDArray[np.float32],
        label: int,
        *,
        norms: Sequence[Norm] = ("l0", "l1", "l2", "linf"),
        seconds: float = 10.0,
        witnesses: Mapping[Norm, Sequence[NDArray[np.float32]]] | None = None,
        branch: bool = True,
    ) -> dict[Norm, Bracket]:
        """Brackets of one image.

        Args:
            image: (H, W, C) in [0, 1]. label: its true class; an image that is wrong already has distance 0.
            norms: which distances.
            seconds: CPU time for all norms together; a bound that is being computed is finished roughly.
            witnesses: misclassified images that others found, per norm; each is scored again.
            branch: whether to branch and bound; else what one relaxation of each region proves.
        """
        image = self._checked(image, label)
        own = int(np.asarray(self.scorer(image[None])).argmax())
        if own != label:
            found = Witness(image, 0.0, own, "the image itself")
            return {n: Bracket(n, None, found, "The image itself is misclassified.") for n in norms}
        begin = time.thread_time()
        ordered = sorted(norms, key=_DEAREST.index)
        balls = [n for n in ordered if n not in _COUNTS]
        # Attacks take a fixed number of steps, seldom their share; what they leave goes to the others.
        # Few pixels may move anywhere, and slopes take many bounds: large networks have no time for either.
        large = self.graph.n_neurons > _MANY
        sloped = "linf" in norms and self.graph.jumps is None
        rest = [n for n in norms if n in _COUNTS] + ["slopes"] * sloped
        weights = [2.0] * len(balls) + [0.4 if large else 2.0] * len(rest)
        clock = Clock(begin + seconds, [0.5] * len(norms) + weights)
        uppers = {n: self._upper(image, label, n, (witnesses or {}).get(n, ()), clock.next()) for n in norms}
        point = torch.from_numpy(image).reshape(1, -1).double()
        lowers: dict[Norm, Bound | None] = {}
        first = 0.8
        for norm in balls:
            above = uppers[norm]
            guess = first * _FIRST[norm]
            if large:
                smaller = max((b.value for b in lowers.values() if b is not None), default=0.0)
                guess = _WIDER * smaller / above.value if smaller and above is not None else guess * _SMALL
            end = clock.next()
            bound = self._radius(point, label, norm, above, guess, (end, clock.end))
            if self.graph.jumps is not None:
                bound = self._by_patterns(point, label, norm, above, bound, lowers, end)
            if norm == "linf" and above is not None and bound.value > 0:
                first = min(1.0, bound.value / above.value)
            lowers[norm] = bound
        for norm in norms:
            if norm in _COUNTS:
                lowers[norm], uppers[norm] = self._count(image, label, norm, uppers[norm], clock.next(), branch)
        if sloped:
            raiser = LinfRaiser(self.graph, self.scorer, self.executed, self._bound)
            improve = raiser.by_branching if branch else raiser.by_slopes
            end, plain = clock.next(), lowers["linf"]
            left = (1.0 if self.spec is None else _RAISING) * (end - time.thread_time())
            lowers["linf"], uppers["linf"] = improve(image, label, plain, uppers["linf"], left)
            lowers["linf"] = self._with_slopes(point, label, plain, lowers["linf"], end)
        share(lowers)
        uppers = {n: nearest_in(image, n, uppers) for n in norms}
        return {n: Bracket(n, lowers[n], uppers[n], note(lowers[n], uppers[n])) for n in norms}

    def _checked(self, image: NDArray[np.float32], label: int) -> NDArray[np.float32]:
        array = np.ascontiguousarray(image, dtype=np.float32)
        if array.shape != self.graph.input_shape or not (array.min() >= 0 and array.max() <= 1):
            raise InvalidImage(
                f"image must be {self.graph.input_shape} with values in [0, 1]; got shape {array.shape} with values in "
                f"[{array.min():g}, {array.max():g}]. Divide an 8-bit image by 255."
            )
        if not 0 <= label < self.graph.n_classes:
            raise InvalidImage(f"label must be in 0..{self.graph.n_classes - 1}; got {label}.")
        return array

    def _upper(
        self, image: NDArray[np.float32], label: int, norm: Norm, given: Sequence[NDArray[np.float32]], deadline: float
    ) -> Witness | None:
        found: Witness | None = None
        if len(given):
            stack = np.stack([np.asarray(g, dtype=np.float32) for g in given])
            found = pull_back(self.scorer, image, label, stack, norm, "given")
        if norm in ("l1", "l2", "linf"):
            found = nearest_of(
                found, find_witness(self.graph, self.scorer, image, label, norm, starts=given, deadline=deadline)
            )
        return found

    def margins(self, region: Region, label: int, *, deadline: float = math.inf) -> Tensor:
        """(B, K - 1) lower bounds of the margins over each region, by the cheap methods that suit its norm.

        Bounds centred on the image lead where a move reaches few neurons (L0, L1, L2); CROWN's lines in Linf. After the
        deadline (of this thread's CPU time) neurons keep the intervals that they have.
        """
        with torch.no_grad():
            crown = None
            if region.norm != "l1" or self.graph.n_neurons > _MANY:
                crown = margin_bounds(self.graph, region, label, executed=self.executed, deadline=deadline)
            if region.norm == "linf":
                assert crown is not None
                return crown.lower
            known = None
            if crown is not None:
                ends = crown.intervals
                known = {i: (ends.lower[i], ends.upper[i]) for i in range(len(self.graph.nodes))}
            state = self.centred.analyse(region, known, deadline=deadline)
            rows, _ = margin_rows(self.graph.n_classes, torch.tensor([label]))
            centred = self.centred.bound(state, rows[0]).value
            return centred if crown is None else torch.maximum(centred, crown.lower)

    def _bound(self, value: float, method: str, begin: float) -> Bound:
        seconds = time.thread_time() - begin
        return Bound(value, self.guarantee, method, self.graph.assumptions, seconds=seconds)

    def _radius(
        self, point: Tensor, label: int, norm: Norm, upper: Witness | None, first: float, until: tuple[float, float]
    ) -> Bound:
        """The radius that global constants and one relaxation of the region prove.

        `first` is the share of the upper end to try first; `until` the CPU times when to be done, and when at the latest.
        """
        begin = time.thread_time()
        channels = self.graph.input_shape[2]
        scores, error = exact_scores(self.graph, point)
        best = self._bound(0.0, "score gap", begin)
        top = upper.value if upper is not None else diameter(point.shape[1], norm)
        least = _WORTHLESS * top if self.graph.n_neurons > _MANY else 0.0
        hopeless = norm == "l2" and float(scores.max() - scores.min()) < least * self.least_rate
        for constant in () if hopeless else self.constants(norm):
            value = constant.radius(scores[0], label, float(error.max()))
            if value <= max(best.value, least):
                continue
            lost = self.rounding
            if self.executed and norm == "l2":
                lost = min(lost, float(self.drift.margins(point, label, value).max()))
            value = constant.radius(scores[0], label, float(error.max()) + lost / 2)
            if value > best.value:
                best = self._bound(value, constant.method, begin)
        if self.graph.jumps is not None and self.graph.n_neurons > _MANY:
            return best  # lines around so many signs prove nothing, and take long
        proved = False

        def gap(eps: float) -> float:
            nonlocal proved
            region = Region.ball(point, norm, eps, channels=channels)
            end = until[0] + 0.1 * (until[1] - until[0]) if proved else until[1]
            value = float(self.margins(region, label, deadline=end).min())
            proved = proved or value > 0
            return value

        gaps = scores[0, label] - scores[0]
        start = float(torch.cat([gaps[:label], gaps[label + 1 :]]).min())
        growth = _GROWTH if self.graph.n_neurons > _MANY else math.inf
        value = largest_radius(gap, top, start, first=first, growth=growth, deadline=until[0], latest=until[1])
        if value > best.value:
            best = self._bound(value, "CROWN" if norm == "linf" else "centred bounds and CROWN", begin)
            best = replace(best, certificate=self._certificate(point, label, ball_claim(norm, value), best.method))
        return best

    def _by_patterns(
        self,
        point: Tensor,
        label: int,
        norm: Norm,
        upper: Witness | None,
        best: Bound,
        others: Mapping[Norm, Bound | None],
        deadline: float,
    ) -> Bound:
        """The better of a bound and what patterns of signs prove; the others are in norms that are never larger."""
        begin, top = time.thread_time(), upper.value if upper is not None else diameter(point.shape[1], norm)
        start = max([best.value, _NEAREST * top, *(_WIDER * b.value for b in others.values() if b is not None)])
        search = SignRadius(self.graph, label, self.executed)
        channels = self.graph.input_shape[2]
        value = search.largest(lambda eps: Region.ball(point, norm, eps, channels=channels), start, top, deadline)
        if value <= best.value:
            return best
        made = self._certificate(point, label, ball_claim(norm, value), "sign patterns")
        return replace(self._bound(value, "sign patterns", begin), certificate=made)

    def _with_slopes(
        self, point: Tensor, label: int, plain: Bound | None, raised: Bound | None, deadline: float
    ) -> Bound | None:
        """A raised Linf radius with a certificate of the largest radius for which one was made; it says its own."""
        if plain is None or raised is None or raised is plain:
            return raised
        certificate = plain.certificate
        if self.spec is not None:
            found = largest_written(self.graph, point, label, plain.value, raised.value, deadline, self.executed)
            if found is not None:
                claim, how = ball_claim("linf", found[0]), "CROWN with optimised slopes"
                certificate = self._certificate(point, label, claim, how, slopes=found[1])
        return replace(raised, certificate=certificate)

    def _certificate(
        self,
        point: Tensor,
        label: int,
        claim: Mapping[str, Any],
        method: str,
        tree: Mapping[str, Any] | None = None,
        slopes: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """What a second program needs to check a claim; None where the model is not a file of known digest."""
        if self.spec is None or self.guarantee is not Guarantee.PROOF_EXEC:
            return None
        image = point.reshape(self.graph.input_shape).numpy().astype(np.float32)
        return Certificate(
            self.graph.digest,
            self.spec,
            image,
            label,
            None,
            claim,
            self.guarantee,
            method,
            self.graph.assumptions,
            tree,
            slopes,
        ).to_json()

    def _count(
        self, image: NDArray[np.float32], label: int, norm: Norm, upper: Witness | None, deadline: float, branch: bool
    ) -> tuple[Bound, Witness | None]:
        """How many pixels (or dimensions) must change, by branch and bound over groups of them.

        Before the proofs begin the game's search is asked: each pixel that its answer needs less is a proof less to make.
        """
        begin = time.thread_time()
        assert norm == "l0" or norm == "l0_dims"
        if self.graph.jumps is not None and self.graph.n_neurons > _MANY:
            branch, deadline = False, 0.0
        played = find_adversarial(self.scorer, image, label, queries=_QUERIES).image
        if played is not None:
            upper = nearest_of(upper, rescore(self.scorer, image, label, as_unit(played)[None], norm, "game search"))
        found = sparse_distance(
            self.centred,
            image,
            label,
            scorer=self.scorer,
            norm=norm,
            seconds=max(deadline - time.thread_time(), 0.0),
            given=None if upper is None else upper.image,
            record=self.spec is not None,
            nodes=_MOST_NODES if branch else 1,
        )
        if found.witness is not None:
            mine = rescore(self.scorer, image, label, found.witness[None], norm, "few-pixel search")
            upper = nearest_of(upper, mine)
        bound = self._bound(float(found.lower), "branch and bound over pixel groups", begin)
        last = next((a for a in reversed(found.answers) if a.tree is not None), None)
        if last is not None:
            point, claim = torch.from_numpy(image), sparse_claim(norm, int(found.lower) - 1)
            bound = replace(bound, certificate=self._certificate(point, label, claim, bound.method, last.tree))
        return bound, upper
