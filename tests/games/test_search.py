"""What all searches share: stopping rules, the watch, and asking each state once."""

import pytest

from games.game import Ending, Evaluation, GameError
from games.search import Stop, Stopping, Watch, ask, run


@pytest.mark.parametrize("wrong", [
    {"queries": 0}, {"iterations": 0}, {"seconds": 0.0}, {"seconds": float("nan")}, {"epsilon": 0.0}, {"epsilon": 1.5},
])  # fmt: skip
def test_limits_out_of_range_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(GameError, match=f"{name} must be"):
        Stopping(**wrong)


def test_only_new_states_are_asked_about_and_once():
    batches = []

    def twice(watch):
        first = yield from ask([1, 2, 1], watch)
        second = yield from ask([2, 3], watch)
        third = yield from ask([1, 3], watch)
        return [answer.score for answer in first + second + third]

    def evaluate(state):
        batches.append(state)
        return Evaluation(score=10.0 * state)

    watch = Watch()
    assert run(twice(watch), evaluate) == [10, 20, 10, 20, 30, 10, 30]
    assert (batches, watch.queries) == ([1, 2, 3], 3)


def test_what_is_left_of_the_queries_counts_new_states_alone():
    watch = Watch(Stopping(queries=3), answers={0: Evaluation()})
    assert watch.affordable([0, 1, 1, 2, 0, 3, 0, 4, 5]) == 7
    watch.queries = 3
    assert watch.affordable([0, 0, 1]) == 2
    assert Watch().affordable([1, 2]) == 2


def test_the_best_is_the_largest_payoff_that_reached_the_goal():
    watch = Watch()
    watch.see("left", Evaluation(Ending.LEFT, 0.9))
    assert watch.best is None
    for state, payoff in (("a", 0.2), ("b", 0.5), ("c", 0.3)):
        watch.see(state, Evaluation(Ending.GOAL, payoff))
    assert (watch.best.state, watch.best.payoff) == ("b", 0.5)


def test_convergence_waits_for_bounds_best_and_value_alike():
    watch = Watch(Stopping(epsilon=0.25))
    steps = [(0.5, 0.0, 1.0), (0.6, 0.0, 1.0), (0.9, 0.0, 1.0), (0.9, 0.3, 1.0), (0.8, 0.3, 0.9)]
    reasons = []
    for iteration, (value, lower, upper) in zip((0, 3, 4, 7, 11), steps, strict=True):
        watch.iterations = iteration
        watch.note(value, lower, upper)
        reasons.append(watch.reason())
    # 0.6 is within epsilon of 0.5, 0.9 is not; then the lower bound rises; then nothing for four iterations
    assert reasons == [None, None, None, None, Stop.CONVERGED]
