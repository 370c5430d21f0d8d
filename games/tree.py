"""The tree of a search, in arrays: states are nodes, moves are edges, equal states are one node.

With transpositions the tree is a graph without cycles. Statistics live in growing numpy arrays,
one row a node or an edge; a node's edges are consecutive rows. Python objects are kept for what
has no numbers: states and moves.

Source: the value of a node with several parents is recomputed from its children's values on the way up, as
in Czech, Korus & Kersting, ICAPS 2021, arXiv:2012.11045; departure: not their mean, which is slow to forget
bad moves, but the mover's best child, shrunk towards the mean. Proven bounds are those of Cazenave &
Saffidine, Score Bounded Monte-Carlo Tree Search, CG 2010, here with chance.
"""

from __future__ import annotations

from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from games.game import CHANCE, MAXIMISE, Evaluation, Game, GameError, Kind, M, Player, S, mover_sign

UNKNOWN = -1
SHRINK = 2.0  # tries at which a mean counts half: few tries make lucky means


class Columns:
    """Arrays of one length that grow together; each is an attribute named as given.

    fields: name -> (dtype, value of a row never written).
    """

    def __init__(self, fields: dict[str, tuple[type, float]], capacity: int = 256) -> None:
        self.size = 0
        self._fields = fields
        for name, (dtype, fill) in fields.items():
            setattr(self, name, np.full(capacity, fill, dtype))

    def extend(self, count: int) -> int:
        """Add `count` rows; return the index of the first."""
        first, self.size = self.size, self.size + count
        for name, (dtype, fill) in self._fields.items():
            old = getattr(self, name)
            if self.size > len(old):
                grown: NDArray[Any] = np.full(max(2 * len(old), self.size), fill, dtype)
                grown[: len(old)] = old
                setattr(self, name, grown)
        return first


class Nodes(Columns):
    """One row a state.

    visits: how often a search went through; value: estimated payoff; own: the estimate it came with.
    lower, upper: proven bounds; floor, ceiling: those of the rules alone.
    aim: of the one who moves; ended: the play is over; first, count: its edges, first UNKNOWN before
    it was expanded.
    """

    visits: NDArray[np.int64]
    value: NDArray[np.float64]
    own: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    floor: NDArray[np.float64]
    ceiling: NDArray[np.float64]
    aim: NDArray[np.int64]
    ended: NDArray[np.bool_]
    first: NDArray[np.int64]
    count: NDArray[np.int64]

    def __init__(self) -> None:
        names = ("value", "own", "lower", "upper", "floor", "ceiling")
        super().__init__(
            {
                "visits": (int, 0),
                "aim": (int, 0),
                "ended": (bool, 0),
                "first": (int, UNKNOWN),
                "count": (int, 0),
            }
            | {name: (float, 0.0) for name in names}
        )


class Edges(Columns):
    """One row a move from a state.

    child: node it leads to, UNKNOWN until tried; tries: plays that took it; waiting: those of them
    whose answer is still out; chance: its probability, or prior; move: its row in `Tree.moves`.
    """

    child: NDArray[np.int64]
    tries: NDArray[np.int64]
    waiting: NDArray[np.int64]
    chance: NDArray[np.float64]
    move: NDArray[np.int64]

    def __init__(self) -> None:
        super().__init__(
            {
                "child": (int, UNKNOWN),
                "tries": (int, 0),
                "waiting": (int, 0),
                "chance": (float, 0.0),
                "move": (int, 0),
            }
        )


class MoveTable(Columns):
    """One row a move of one player, wherever it was made: the all-moves-as-first statistics.

    tries: plays that held it; total: the sum of their payoffs.
    """

    tries: NDArray[np.int64]
    total: NDArray[np.float64]

    def __init__(self) -> None:
        super().__init__({"tries": (int, 0), "total": (float, 0.0)})


class Tree(Generic[S, M]):
    """What a search knows of a game played as `kind`."""

    def __init__(self, game: Game[S, M], kind: Kind) -> None:
        self.game, self.kind = game, kind
        self.nodes, self.edges, self.table = Nodes(), Edges(), MoveTable()
        self.states: list[S] = []
        self.moves: list[tuple[Player, M]] = []
        self._index: dict[S, int] = {}
        self._move_index: dict[tuple[Player, M], int] = {}

    def find(self, state: S) -> int:
        """The node of `state`, UNKNOWN if it has none."""
        return self._index.get(state, UNKNOWN)

    def add(self, state: S, evaluation: Evaluation) -> int:
        """A new node for a state that has none.

        Raises:
            GameError: the payoff or the estimate lies outside of the game's bounds.
        """
        nodes, node = self.nodes, self.nodes.extend(1)
        lower, upper = self.game.bounds(state)
        ended = evaluation.ending is not None
        if ended:
            value = evaluation.payoff
            if not lower <= value <= upper:
                raise GameError(f"the payoff of {state!r} must lie in its bounds [{lower}, {upper}]; got {value}")
            lower = upper = value
        else:
            nodes.aim[node] = self.kind.aim(self.game.player(state))
            upper = max(min(upper, evaluation.upper), lower)
            guess = (lower + upper) / 2 if evaluation.estimate is None else evaluation.estimate
            value = min(max(guess, lower), upper)
        nodes.value[node] = nodes.own[node] = value
        nodes.lower[node] = nodes.floor[node] = lower
        nodes.upper[node] = nodes.ceiling[node] = upper
        nodes.ended[node] = ended
        self.states.append(state)
        self._index[state] = node
        return node

    def expand(self, node: int, rng: np.random.Generator) -> None:
        """Give a node its edges, in an order drawn by their chances (Gumbel's trick).

        The order breaks ties and says which moves are opened first where not all are: a fixed one
        would lean to one corner of an image.
        """
        state = self.states[node]
        moves, player = self.game.moves(state), self.game.player(state)
        chances = np.asarray(self.game.chances(state), np.float64)
        if not moves or chances.shape != (len(moves),):
            raise GameError(
                f"a play that goes on needs moves and as many chances; {state!r} has {len(moves)} moves "
                f"and chances of shape {chances.shape}. A play without a move is Ending.EXHAUSTED."
            )
        with np.errstate(divide="ignore"):
            order = np.argsort(-(np.log(chances) + rng.gumbel(size=len(moves))), kind="stable")
        edges, first = self.edges, self.edges.extend(len(moves))
        edges.chance[first : first + len(moves)] = chances[order]
        edges.move[first : first + len(moves)] = [self.move_row(player, moves[i]) for i in order]
        self.nodes.first[node], self.nodes.count[node] = first, len(moves)

    def span(self, node: int) -> slice:
        """The rows of a node's edges; empty before it was expanded."""
        first, count = int(self.nodes.first[node]), int(self.nodes.count[node])
        return slice(first, first + count) if first != UNKNOWN else slice(0, 0)

    def solved(self, node: int) -> bool:
        """Whether the payoff of a node is proven."""
        return bool(self.nodes.lower[node] == self.nodes.upper[node])

    def refresh(self, node: int) -> None:
        """Bring a node's value and bounds up to date with its children's."""
        nodes, span = self.nodes, self.span(node)
        if span.start == span.stop or self.solved(node):
            return
        child = self.edges.child[span]
        tried = child != UNKNOWN
        lower = np.where(tried, nodes.lower[child], nodes.floor[node])
        upper = np.where(tried, nodes.upper[child], nodes.ceiling[node])
        aim = int(nodes.aim[node])
        if aim == CHANCE:
            chance = self.edges.chance[span]
            low = chance @ lower
            high = low + chance @ (upper - lower)  # exactly `low` once every child is solved
            known = nodes.value[child[tried]]
            guess = (nodes.own[node] + known.sum()) / (1 + len(known))  # of moves that were not drawn yet
            value = float(chance @ np.where(tried, nodes.value[child], guess))
        else:
            low, high = (lower.max(), upper.max()) if aim == MAXIMISE else (lower.min(), upper.min())
            value = self._best_mean(node, mover_sign(aim))
        nodes.upper[node] = min(nodes.upper[node], high)
        nodes.lower[node] = min(max(nodes.lower[node], low), nodes.upper[node])
        nodes.value[node] = min(max(value, nodes.lower[node]), nodes.upper[node])

    def _best_mean(self, node: int, sign: float) -> float:
        """The mover's best child, each shrunk towards the mean of all by `SHRINK` tries."""
        span = self.span(node)
        child, tries = self.edges.child[span], self.edges.tries[span]
        tried = (child != UNKNOWN) & (tries > 0)
        child, tries = child[tried], tries[tried]
        if not len(child):
            return float(self.nodes.own[node])
        totals = tries * self.nodes.value[child]
        mean = (self.nodes.own[node] + totals.sum()) / (1 + tries.sum())
        return sign * float(np.max(sign * (totals + SHRINK * mean) / (tries + SHRINK)))

    def credit(self, rows: list[int], payoff: float) -> None:
        """Count a play that held the moves `rows` and paid, or is thought to pay, `payoff`."""
        held = np.unique(np.asarray(rows, np.int64))
        self.table.tries[held] += 1
        self.table.total[held] += payoff

    def move_row(self, player: Player, move: M) -> int:
        key = (player, move)
        row = self._move_index.get(key)
        if row is None:
            row = self._move_index[key] = self.table.extend(1)
            self.moves.append(key)
        return row
