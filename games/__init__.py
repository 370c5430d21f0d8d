"""Two-player game search: numpy and the standard library, and no idea what the game is about.

`games.game` has the words, `games.search` what searches share, `games.monte_carlo`, `games.exact`,
`games.a_star` and `games.playout` the searches, `games.toys` small games, `games.check` the
conformance check.
"""

from games.a_star import best_first, rules_bound
from games.check import check_game
from games.exact import alpha_beta, expectimax
from games.game import Aim, Ending, Evaluation, Game, GameError, Kind, Outcome, Player, ScoredGame
from games.monte_carlo import MctsSettings, mcts
from games.playout import random_play
from games.search import MoveStatistics, Point, Search, SearchResult, Stop, Stopping, Watch, run
from games.select import puct, uct, uniform

__all__ = [
    "Aim",
    "alpha_beta",
    "best_first",
    "check_game",
    "Ending",
    "Evaluation",
    "expectimax",
    "Game",
    "GameError",
    "Kind",
    "mcts",
    "MctsSettings",
    "MoveStatistics",
    "Outcome",
    "Player",
    "Point",
    "puct",
    "random_play",
    "rules_bound",
    "run",
    "ScoredGame",
    "Search",
    "SearchResult",
    "Stop",
    "Stopping",
    "uct",
    "uniform",
    "Watch",
]
