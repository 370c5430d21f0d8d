"""The four kinds of game: what each player does with the payoff."""

import pytest

from games.game import Aim, Kind, Player, mover_sign

BIG, SMALL, DRAWN = Aim.MAXIMISE, Aim.MINIMISE, Aim.CHANCE


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        (Kind.COOPERATOR, BIG, BIG),
        (Kind.ADVERSARY, BIG, SMALL),
        (Kind.NATURE, BIG, DRAWN),
        (Kind.COMPETITIVE, SMALL, BIG),
    ],
)
def test_each_kind_of_game_is_what_its_players_want(kind, first, second):
    assert (kind.aim(Player.FIRST), kind.aim(Player.SECOND)) == (first, second)
    assert kind.meaning.endswith(".")


def test_only_who_minimises_sees_payoffs_with_the_sign_turned():
    assert [mover_sign(aim) for aim in (BIG, DRAWN, SMALL)] == [1.0, 1.0, -1.0]
