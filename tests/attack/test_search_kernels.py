"""The search's compiled inner loops give the bits of the numpy code, state for state and draw for draw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustest import compiled
from robustest.attack import search_kernels, search_ranking, search_states
from robustest.attack.find import find_adversarials
from robustest.attack.search_asked import Asked
from robustest.attack.search_beliefs import Beliefs
from robustest.attack.search_moves import Ahead, climbing_moves, fresh_swaps
from robustest.attack.search_palette import Palette
from robustest.attack.search_states import Batch, State, with_each, without_each
from robustest.saliency.regions import grid_regions, one_region
from robustest.settings import AttackSettings
from tests.models import linear_scores

pytestmark = [
    pytest.mark.usefixtures("loops_as_before"),
    pytest.mark.skipif(not compiled.installed(), reason="numba (extra `fast`) is not installed"),
]

SHAPES = [(7, 9, 1), (12, 10, 3)]


def beliefs_of(seed: int, shape: tuple[int, int, int], far: bool) -> Beliefs:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, shape).astype(np.float32) / np.float32(255)
    image[0, :3] = 0  # where one corner of the colour cube is no change
    palette = Palette(image, "corners", 1.0, eight_bit=True)
    regions = grid_regions(*shape[:2]) if seed % 2 else one_region(*shape[:2])
    return Beliefs(palette, shape[:2], regions, rng=rng, far=far)


def some_edits(rng: np.random.Generator, beliefs: Beliefs, count: int) -> State:
    """Edits that are allowed, maybe several of one cell and next to each other."""
    colours, cells = np.nonzero(beliefs.allowed)
    chosen = (
        np.sort(rng.integers(len(cells), size=count)) if rng.random() < 0.5 else rng.integers(len(cells), size=count)
    )
    return State(cells[chosen].astype(np.int64), colours[chosen].astype(np.int64))


def lived(
    seed: int, shape: tuple[int, int, int], far: bool, *, fast: bool
) -> tuple[Beliefs, list[NDArray[np.generic]]]:
    """Beliefs that learned of many edits, and everything they said on the way."""
    compiled.use(fast)
    beliefs = beliefs_of(seed, shape, far)
    rng = np.random.default_rng(seed + 1)
    said: list[NDArray[np.generic]] = []
    for _ in range(6):
        edits = some_edits(rng, beliefs, int(rng.integers(1, 20)))
        drops = rng.standard_normal(len(edits))
        beliefs.learn(edits.cells, edits.colours, drops, noise=0.3)
        beliefs.tune(edits.cells, edits.colours, drops)
        beliefs.borrow()
        said += beliefs.best(1.0, int(rng.integers(1, 30)), but=rng.random(beliefs.mean.shape) < 0.3)
        scores = beliefs.drawn(1.5)
        said += [scores.copy(), *beliefs.top(scores, int(rng.integers(1, 30)), avoid=edits.cells[:2])]
    return beliefs, [*said, beliefs.mean, beliefs.deviation, beliefs.size, np.array([beliefs.scale])]


@given(seed=st.integers(0, 500), shape=st.sampled_from(SHAPES), far=st.booleans())
def test_beliefs_are_the_same_bits(seed: int, shape: tuple[int, int, int], far: bool) -> None:
    _, wanted = lived(seed, shape, far, fast=False)
    _, found = lived(seed, shape, far, fast=True)
    for one, other in zip(wanted, found, strict=True):
        assert one.tobytes() == other.tobytes()


@given(
    seed=st.integers(0, 500),
    shape=st.sampled_from(SHAPES),
    size=st.integers(1, 9),
    rule=st.booleans(),
    attempts=st.integers(1, 5),
)
def test_moves_and_draws_are_the_same(
    seed: int, shape: tuple[int, int, int], size: int, rule: bool, attempts: int
) -> None:
    moves = []
    for fast in (False, True):
        beliefs, _ = lived(seed, shape, False, fast=fast)
        rng = beliefs.rng
        edits = some_edits(rng, beliefs, size)
        _, first = np.unique(edits.cells, return_index=True)
        state = edits.keep(first)
        useless = np.zeros(beliefs.mean.shape, bool) if rule or len(state) == 1 else None
        ahead = Ahead(state, rng.random(len(state)), 0.5, useless)
        asked = Asked(beliefs.cells, None)
        swaps = fresh_swaps(ahead, beliefs, asked, optimism=1.5, count=20, most=16, attempts=attempts, rng=rng)
        assert swaps is not None
        asked.heed(swaps.batch, np.zeros(beliefs.mean.shape, bool), np.ones(len(swaps.batch)), None)
        again = fresh_swaps(ahead, beliefs, asked, optimism=1.5, count=20, most=16, attempts=attempts, rng=rng)
        assert again is None or len(asked.fresh(again.batch)) == len(again.batch)
        climbs = climbing_moves(state, beliefs, optimism=1.5, count=16, rng=rng)
        assert climbs is not None
        arrays = [swaps.batch.cells, swaps.batch.colours, swaps.added.cells, swaps.added.colours, swaps.places]
        arrays += [
            np.zeros(0) if again is None else again.batch.cells,
            swaps.single,
            climbs[0].cells,
            climbs[0].colours,
            climbs[0].offsets,
            climbs[1].cells,
            climbs[2],
        ]
        moves.append([array.tolist() for array in arrays] + [rng.random()])  # the next draw is the same, too
    assert moves[0] == moves[1]


def test_equal_scores_are_left_to_numpy() -> None:
    scores = np.array([[1, 5, 5, 2], [0, 0, 5, 1]], np.float32)
    never, none = np.float32(-1e30), np.zeros(0, np.int64)
    compiled.use(True)
    assert search_ranking.top(scores, 2, none, never)[0] == -1
    assert search_ranking.top(scores, 1, none, never)[0] == -1  # which of them is the one?
    found, cells, colours = search_ranking.top(scores, 2, np.array([2]), never)
    assert (found, cells[:found].tolist(), colours[:found].tolist()) == (2, [1, 3], [0, 0])


@given(seed=st.integers(0, 200), count=st.integers(1, 9))
def test_batches_as_arrays_are_the_same(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, count)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    cells, colours = rng.integers(0, 30, sizes.sum()), rng.integers(0, 4, sizes.sum())
    table = rng.random((4, 25, 3), dtype=np.float32)
    pixel_of_cell = rng.integers(0, 25, 30)
    compiled.use(True)
    assert (
        search_kernels.state_keys(30, cells, colours, offsets) == search_states.state_keys(30, cells, colours, offsets)
    ).all()
    gathered = search_kernels.pixels_and_values(pixel_of_cell, table, cells, colours)
    for one, other in zip(gathered, search_states.pixels_and_values(pixel_of_cell, table, cells, colours), strict=True):
        assert (one == other).all()
    margins = rng.integers(-2, 9, count).astype(np.float64)
    for fast in (False, True):
        compiled.use(fast)
        *_, flip = Asked(30, None).heed(Batch(cells, colours, offsets), np.zeros((4, 30), bool), margins, None)
        assert flip == min((place for place in range(count) if margins[place] < 0), key=lambda i: sizes[i], default=-1)


@given(seed=st.integers(0, 200), switch=st.integers(0, 6))
def test_states_asked_are_remembered_as_by_a_set(seed: int, switch: int) -> None:
    """In numpy from the beginning, and compiled from some question on."""
    rng = np.random.default_rng(seed)
    seen: set[frozenset[tuple[int, int]]] = set()
    single = np.zeros((3, 40), bool)
    compiled.use(False)
    asked, marks = Asked(40, None), np.zeros((3, 40), bool)
    for step in range(6):
        if step == switch:
            compiled.use(True)
        states = []
        for _ in range(int(rng.integers(1, 90))):
            cells = rng.permutation(40)[: int(rng.integers(1, 4))]
            states.append(State(cells, rng.integers(0, 3, len(cells))))
        sets = [frozenset(zip(state.cells.tolist(), state.colours.tolist(), strict=True)) for state in states]
        fresh = [place for place, one in enumerate(sets) if one not in seen and one not in sets[:place]]
        assert asked.fresh(Batch.of(states)).tolist() == fresh
        assert asked.heed(Batch.of(states), marks, np.ones(len(states)), None)[1] == len(fresh)
        seen |= set(sets)
        assert len(asked) == len(seen)
        for one in sets:
            if len(one) == 1:
                ((cell, colour),) = one
                single[colour, cell] = True
    assert np.array_equal(marks, single)


def test_states_with_one_edit_more_and_one_fewer() -> None:
    state = State(np.array([3, 5, 8]), np.array([0, 1, 0]))
    fewer = without_each(state)
    assert [fewer[place].cells.tolist() for place in range(3)] == [[5, 8], [3, 8], [3, 5]]
    more = with_each(state, State(np.array([1, 2]), np.array([1, 1])), [State(np.array([6, 7]), np.array([0, 0]))])
    assert [more[place].cells.tolist() for place in range(3)] == [[3, 5, 8, 1], [3, 5, 8, 2], [3, 5, 8, 6, 7]]
    assert more[2].colours.tolist() == [0, 1, 0, 0, 0]
    assert isinstance(more, Batch)


@pytest.mark.parametrize("values", ["corners", "tau"])
def test_whole_attacks_are_the_same(values: str) -> None:
    rng = np.random.default_rng(3)
    classifier = linear_scores(rng.standard_normal((8 * 8 * 3, 4)).astype(np.float32), np.zeros(4, np.float32))
    images = rng.integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    labels = np.argmax(classifier(images.astype(np.float32) / 255), axis=1)
    settings = AttackSettings(queries=250, values=values, tau=0.3)  # type: ignore[arg-type]
    outcomes = []
    for fast in (False, True):
        compiled.use(fast)
        found = find_adversarials(classifier, images, labels, settings=settings)
        outcomes.append([(r.verdict, r.queries, r.remembered, r.margin, r.curve, r.l2) for r in found])
    assert outcomes[0] == outcomes[1]
    assert sum(outcome[1] for outcome in outcomes[0]) > 500


@given(seed=st.integers(0, 10_000), width=st.integers(2, 1500), count=st.integers(1, 40), spread=st.floats(0, 20))
def test_the_best_are_those_that_sorting_finds(seed: int, width: int, count: int, spread: float) -> None:
    """Scores that are high together in one part of the image, as they are in play; a third of the cells is never chosen."""
    compiled.use(True)
    rng, never = np.random.default_rng(seed), np.float32(-1e30)
    hill = np.exp(-np.square((np.arange(width) - rng.integers(width)) / 50))
    scores = (rng.standard_normal((2, width)) + spread * hill).astype(np.float32)
    scores[:, rng.random(width) < 1 / 3] = never
    best = scores.max(axis=0)
    wanted = [cell for cell in np.argsort(-best, kind="stable")[:count].tolist() if best[cell] > never / 2]
    found, cells, colours, highest = search_ranking.ranked(scores.copy(), count, np.zeros(0, np.int64), never)
    assert cells[:found].tolist() == wanted
    assert colours[:found].tolist() == scores[:, wanted].argmax(axis=0).tolist()
    assert (highest == best).all()
