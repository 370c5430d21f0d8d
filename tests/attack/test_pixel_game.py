"""The pixel game on images small enough to solve: closed forms, enumeration, and all solvers against each other."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from games.a_star import best_first
from games.check import check_game
from games.exact import alpha_beta, expectimax
from games.game import Ending, Kind
from games.search import run
from games.select import puct
from robustest.attack.pixel_game import Pick, PixelGame, PixelRules, Turn
from robustest.errors import InvalidSetting

from .tiny_games import TinyGame, convolution, features_of, linear, nearest_by_enumeration, searched, solve

HOWS = ["one", "singles", "quarters", "sift", "effect"]


@st.composite
def tiny_games(draw):
    """4x4 and 5x5 images under linear and tiny convolutional classifiers, any norm, any features."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    side, channels = draw(st.sampled_from([(4, 1), (5, 1), (4, 2)]))
    image = (rng.integers(0, 3, (side, side, channels)) / 2).astype(np.float32)
    if draw(st.booleans()):
        margins = linear(rng.normal(size=image.shape), 0.0)
    else:
        margins = convolution(rng.normal(size=(2, 2, 2)), rng.normal(size=2))
    at = float(margins(image[None])[0])
    shift = draw(st.floats(0.05, 1.5)) - at  # a margin of 0.05 to 1.5 on the clean image

    def shifted(images):
        return margins(images) + shift

    norm, radius, tau, once = draw(st.sampled_from([
        ("l0", 1, 1.0, True), ("l0", 2, 1.0, True), ("l0_dims", 2, 0.5, True), ("l1", 1.0, 0.5, True),
        ("l1", 0.5, 0.25, False), ("l2", 0.75, 1.0, True), ("l2", 0.75, 0.5, False),
    ]))  # fmt: skip
    change = "dimension" if channels > 1 else draw(st.sampled_from(["pixel", "corners", "dimension"]))
    rules = PixelRules(norm=norm, radius=radius, tau=tau, change=change, once=once)
    how = draw(st.sampled_from([h for h in HOWS if h != "sift" or channels == 1]))
    return TinyGame(image, features_of(image, how), rules, shifted)


def agree(game, seed, playouts):
    """Whether every solver, and MCTS run to the end, give the same value for all four kinds."""
    exact = {kind: solve(game, expectimax, kind) for kind in Kind}
    for kind in Kind:
        assert solve(game, alpha_beta, kind) == pytest.approx(exact[kind], abs=1e-12)
        result = searched(game, kind, seed, playouts=playouts, select=puct(), first=5.0, batch=16)
        assert result.exact
        assert result.value == pytest.approx(exact[kind], abs=1e-12)
    assert run(best_first(game), game.evaluate).value == exact[Kind.COOPERATOR]
    assert exact[Kind.ADVERSARY] <= exact[Kind.NATURE] + 1e-12
    assert exact[Kind.NATURE] <= exact[Kind.COOPERATOR] + 1e-12


@settings(max_examples=10, deadline=None)
@given(game=tiny_games(), seed=st.integers(0, 9), playouts=st.booleans())
def test_every_solver_and_mcts_give_the_same_value_for_all_four_kinds(game, seed, playouts):
    agree(game, seed, playouts)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(game=tiny_games(), seed=st.integers(0, 9), playouts=st.booleans())
def test_they_agree_on_hundreds_of_games(game, seed, playouts):
    agree(game, seed, playouts)


@settings(max_examples=20, deadline=None)
@given(game=tiny_games())
def test_the_cooperative_value_is_that_of_the_nearest_misclassified_grid_image(game):
    if game.rules.norm == "linf" or game.channels > 1:
        return
    assert solve(game, expectimax, Kind.COOPERATOR) == pytest.approx(nearest_by_enumeration(game), abs=1e-12)


@given(game=tiny_games())
def test_the_game_keeps_the_rules_of_a_game(game):
    check_game(game, game.evaluate, playouts=4, rng=np.random.default_rng(0))


# A linear classifier on an image of zeros and ones, with weights so that the one change a pixel has lowers the margin:
# by its gain. Then a play is an order of the pixels, and it ends once the gains add up to more than the margin.


def all_downhill(gains, margin, how, radius=99.0, **rules):
    gains = np.asarray(gains, np.float64).reshape(2, -1, 1)
    ones = np.arange(gains.size).reshape(gains.shape) % 2
    weights = np.where(ones == 1, gains, -gains)
    bias = margin - float((weights * ones).sum())
    rules = PixelRules(**{"norm": "l0", "radius": radius, **rules})
    image = ones.astype(np.float32)
    return TinyGame(image, features_of(image, how), rules, linear(weights, bias))


def needed(gains, margin):
    """How many of the gains, in this order, are more than the margin."""
    return next((i + 1 for i, total in enumerate(np.cumsum(gains)) if total > margin), None)


gains_and_margin = st.tuples(st.lists(st.integers(1, 40), min_size=6, max_size=6, unique=True), st.integers(1, 90)).map(
    lambda drawn: (drawn[0], drawn[1] + 0.5)
)


@settings(max_examples=15, deadline=None)
@given(drawn=gains_and_margin)
def test_who_picks_the_pixel_decides_whether_the_large_or_the_small_gains_are_spent(drawn):
    gains, margin = drawn
    few, many = needed(sorted(gains, reverse=True), margin), needed(sorted(gains), margin)
    best, worst = (0.0 if count is None else 1 / count for count in (few, many))
    # one feature: player II picks the pixel; singles: player I does
    for kind, one, singles in (
        (Kind.COOPERATOR, best, best),
        (Kind.ADVERSARY, worst, best),
        (Kind.COMPETITIVE, best, worst),
    ):
        for how, value in (("one", one), ("singles", singles)):
            game = all_downhill(gains, margin, how)
            assert solve(game, expectimax, kind) == solve(game, alpha_beta, kind) == value
            assert searched(game, kind).value == value


@settings(max_examples=15, deadline=None)
@given(drawn=gains_and_margin)
def test_nature_pays_the_mean_over_all_orders_of_the_pixels(drawn):
    gains, margin = drawn
    counts = [needed(order, margin) for order in permutations(gains)]
    mean = float(np.mean([0.0 if count is None else 1 / count for count in counts]))
    game = all_downhill(gains, margin, "one")
    assert solve(game, expectimax, Kind.NATURE) == pytest.approx(mean, abs=1e-12)
    assert searched(game, Kind.NATURE).value == pytest.approx(mean, abs=1e-12)


@given(drawn=gains_and_margin, radius=st.integers(1, 6))
def test_what_needs_more_than_the_radius_cannot_be_forced(drawn, radius):
    gains, margin = drawn
    few, many = needed(sorted(gains, reverse=True), margin), needed(sorted(gains), margin)
    game = all_downhill(gains, margin, "one", radius=radius)
    for kind, count in ((Kind.COOPERATOR, few), (Kind.ADVERSARY, many)):
        forced = count is not None and count <= radius
        value = solve(game, alpha_beta, kind)
        assert value == (1 / count if forced else 0.0)
        assert game.severity_of(value) == (pytest.approx(count) if forced else None)


@pytest.mark.parametrize(
    ("norm", "severity"), [("l0", 3.0), ("l0_dims", 3.0), ("l1", 3.0), ("l2", 3**0.5), ("linf", 1.0)]
)
def test_a_linear_classifier_needs_its_largest_gains_in_every_norm(norm, severity):
    game = all_downhill([9, 1, 7, 2, 8, 3], 23.5, "one", norm=norm)  # 9 + 8 + 7 is the first sum above
    for value in (
        solve(game, expectimax, Kind.COOPERATOR),
        run(best_first(game), game.evaluate).value,
        searched(game, Kind.COOPERATOR).value,
    ):
        assert game.severity_of(value) == pytest.approx(severity)


def test_steps_of_tau_reach_the_boundary_at_the_margin_over_the_gain_in_steps():
    # gains of 8 and 1 per unit; the margin of 5 needs 3 steps of 0.25 of the first: 6 > 5
    game = all_downhill([8, 1], 5.0, "one", norm="l1", tau=0.25, once=False)
    assert game.severity_of(solve(game, expectimax, Kind.COOPERATOR)) == pytest.approx(0.75)
    # L-infinity moves both: 2 steps of each is 4.5, 3 steps are 6.75 > 5
    game = all_downhill([8, 1], 4.4, "one", norm="linf", tau=0.25, once=False)
    assert game.severity_of(solve(game, expectimax, Kind.COOPERATOR)) == pytest.approx(0.5)


def test_a_proven_lipschitz_bound_finds_the_same_value_with_fewer_queries():
    gains, margin = [9, 1, 7, 2, 8, 3], 23.5
    game = all_downhill(gains, margin, "one", norm="l1")
    # no unit of L1 lowers the margin by more than 9
    bound = game.lipschitz_bound(9.0)
    loose = run(best_first(game), game.evaluate)
    tight = run(best_first(game, bound=bound), game.evaluate)
    assert tight.value == loose.value
    assert tight.queries < loose.queries


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), norm=st.sampled_from(["l0", "l1", "l2", "linf"]))
def test_the_lipschitz_bound_of_a_linear_classifier_changes_no_value(seed, norm):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(3, 3, 1))
    image = (rng.integers(0, 3, (3, 3, 1)) / 2).astype(np.float32)
    margins = linear(weights, 1.0 - float((weights * image).sum()))
    rules = PixelRules(norm=norm, radius={"l0": 3, "l1": 1.0, "l2": 0.9, "linf": 0.5}[norm], tau=0.5, once=norm == "l0")
    game = TinyGame(image, features_of(image, "quarters"), rules, margins)
    # the dual norms; one pixel, moved by at most 0.5, lowers the margin by half of the largest weight at most
    dual = {"l0": np.abs(weights).max() / 2, "l1": np.abs(weights).max(), "l2": np.sqrt((weights**2).sum()),
            "linf": np.abs(weights).sum()}[norm]  # fmt: skip
    bound = game.lipschitz_bound(float(dual))
    loose, tight = (run(best_first(game, bound=b), game.evaluate) for b in (None, bound))
    assert tight.value == loose.value == pytest.approx(nearest_by_enumeration(game) if norm != "linf" else loose.value)


# The rules one by one.


def game_on(image, **rules):
    image = np.asarray(image, np.float32)
    eight_bit = rules.pop("eight_bit", False)
    features = features_of(image, "one")
    return PixelGame(image, features, PixelRules(**rules), clean_margin=1.0, eight_bit=eight_bit)


def test_a_value_clipped_at_a_bound_is_the_bound_and_no_step_goes_beyond_it():
    game = game_on([[[0.3], [0.9]]], norm="l1", tau=0.4, once=False)
    assert [game.value(0, k) for k in (-1, 0, 1, 2)] == pytest.approx([0.0, 0.3, 0.7, 1.0])
    up = Pick(0, 0)
    state = game.start()
    for steps in (1, 2):
        state = game.play(game.play(state, 0), up)
        assert dict(state.changes) == {0: steps}
    assert up not in game.moves(game.play(state, 0))


def test_a_dimension_only_moves_away_from_its_first_value():
    game = game_on([[[0.5], [0.5]]], norm="l1", tau=0.2, once=False)
    state = game.play(Turn(frozenset(), 0), Pick(0, 1))
    assert dict(state.changes) == {0: -1}
    assert set(game.moves(Turn(state.changes, 0))) == {Pick(0, 1), Pick(1, 0), Pick(1, 1)}


def test_with_once_a_pixel_is_changed_once():
    game = game_on([[[0.5, 0.5], [0.5, 0.5]]], norm="l0", tau=0.2, change="dimension")
    state = game.play(Turn(frozenset(), 0), Pick(0, 0))
    assert {pick.pixel for pick in game.moves(Turn(state.changes, 0))} == {1}


@pytest.mark.parametrize(("change", "count"), [("pixel", 2), ("corners", 8), ("dimension", 6)])
def test_a_colour_pixel_has_as_many_instructions_as_its_changes_allow(change, count):
    game = game_on(np.full((1, 1, 3), 0.5), change=change)
    assert len(game.moves(Turn(frozenset(), 0))) == count
    assert (
        len(
            {
                game.edits([game.play(Turn(frozenset(), 0), m)]).values.tobytes()
                for m in game.moves(Turn(frozenset(), 0))
            }
        )
        == count
    )


def test_changes_that_do_nothing_are_no_moves():
    game = game_on([[[0.0], [1.0]]], change="pixel")
    assert set(game.moves(Turn(frozenset(), 0))) == {Pick(0, 0), Pick(1, 1)}


def test_severities_of_two_changed_dimensions_of_one_pixel_and_one_of_another():
    image = np.full((1, 2, 2), 0.5)
    changes = frozenset({(0, 1), (1, -1), (2, 2)})  # by 0.1, 0.1 and 0.2
    expected = {"l0": 2, "l0_dims": 3, "l1": 0.4, "l2": 0.06**0.5, "linf": 0.2}
    for norm, severity in expected.items():
        assert game_on(image, norm=norm, tau=0.1, once=False).severity(changes) == pytest.approx(severity)


def test_eight_bit_values_are_multiples_of_one_over_255():
    game = game_on(np.array([[[77], [255]]]) / 255, tau=0.1, norm="l2", eight_bit=True, once=False)
    values = np.array([game.value(0, k) for k in range(-10, 11)]) * 255
    assert values == pytest.approx(np.rint(values), abs=1e-9)
    assert game.value(0, 0) * 255 == pytest.approx(77)
    assert game.severity(frozenset({(0, 1)})) == pytest.approx(25 / 255)  # 77 + 25.5 is 102.5, rounded to even 102


def test_endings_are_told_apart():
    game = game_on([[[0.0], [0.0], [0.0]]], norm="l0", radius=2)
    one, two, three = (Turn(frozenset((at, 1) for at in range(n))) for n in (1, 2, 3))
    assert game.judge(one, -0.1).ending is Ending.GOAL
    assert game.judge(one, 0.1).ending is None
    assert game.judge(two, 0.1).ending is Ending.LEFT  # whatever comes next leaves the ball
    assert game.known(three).ending is Ending.LEFT
    assert game_on([[[0.0], [0.0]]], radius=9).judge(two, 0.1).ending is Ending.EXHAUSTED


def test_a_tie_is_not_misclassified():
    assert game_on([[[0.0], [0.0]]]).judge(Turn(frozenset({(0, 1)})), 0.0).ending is None


def test_the_estimate_carries_the_fall_of_the_margin_on_to_zero():
    game = game_on([[[0.0]] * 9], norm="l0", radius=9)
    state = Turn(frozenset({(0, 1), (1, 1)}))
    assert game.judge(state, 0.5).estimate == pytest.approx(1 / 4)  # half of it in 2 pixels: all of it in 4
    assert game.judge(state, 1.5).estimate == 0.0


def test_a_label_alone_gives_no_estimate():
    image = np.zeros((1, 2, 1), np.float32)
    game = PixelGame(image, features_of(image, "one"), PixelRules(), clean_margin=1.0, decision_only=True)
    assert game.judge(Turn(frozenset({(0, 1)})), 1.0).estimate is None


@pytest.mark.parametrize(("wrong", "message"), [
    ({"radius": 0}, "radius must be > 0"), ({"tau": 0.0}, "tau must be in"), ({"change": "all"}, "change must be"),
    ({"tau": 0.001, "eight_bit": True}, "tau must be at least 1/255"),
])  # fmt: skip
def test_rules_out_of_range_are_refused(wrong, message):
    with pytest.raises(InvalidSetting, match=message):
        game_on(np.zeros((1, 1, 1)), **wrong)
