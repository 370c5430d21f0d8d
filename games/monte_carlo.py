"""Monte-Carlo tree search over the states of a game, asking for many states at once.

Each iteration walks down from the start by a selection rule, adds the state it falls out of the
tree at, asks about it, and carries the answer back up. Several iterations share one question: moves
whose answer is still out count as lost for the mover, so that the next iteration looks elsewhere.
Proven bounds travel up as well; moves that cannot matter any more are not tried, and the search
stops by itself once the start is proven, with the value that exhaustive search would give.

Source: Wicker, Huang & Kwiatkowska, TACAS 2018, arXiv:1710.07859, section 5, with random playouts;
an estimate of the state (a margin) may take the place of playouts. Departures: no move is committed
to, the tree is kept from the start, and states reached by several orders are one node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from games.game import CHANCE, MAXIMISE, Game, GameError, Kind, M, S, mover_sign
from games.playout import play_out
from games.search import Asking, MoveStatistics, Search, SearchResult, Stop, Watch, ask, learn
from games.select import Select, blend, opened, uct
from games.tree import UNKNOWN, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class MctsSettings:
    """How the tree grows.

    select: which open move is tried, see `games.select`.
    first: tries at which a move's own mean counts as much as its all-moves-as-first mean; 0 is off.
    widening: exponent in (0, 1] of progressive widening; None opens all moves at once.
    batch: states asked about together, >= 1.
    playouts: judge a new state by one random play from it, asking about every state on the way;
        False judges it by its `Evaluation.estimate`.
    """

    select: Select = field(default_factory=uct)
    first: float = 0.0
    widening: float | None = None
    batch: int = 8
    playouts: bool = True

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise GameError(f"batch must be >= 1; got {self.batch}")
        if self.first < 0:
            raise GameError(f"first must be >= 0; got {self.first}. 0 turns all-moves-as-first off.")
        if self.widening is not None and not 0 < self.widening <= 1:
            raise GameError(f"widening must be in (0, 1]; got {self.widening}. None opens all moves.")


@dataclass(frozen=True, slots=True)
class _Path:
    """One walk down: the nodes passed and the edges taken."""

    nodes: list[int]
    edges: list[int]


def mcts(
    game: Game[S, M], kind: Kind, settings: MctsSettings, watch: Watch[S], *, rng: np.random.Generator
) -> Search[S, M]:
    """Search `game` as `kind` until it is solved or `watch.stopping` says stop.

    Args:
        watch: holds the stopping rules, and shows the best so far while the search runs.
    """
    return (yield from _Mcts(game, kind, settings, watch, rng).search())


class _Mcts(Generic[S, M]):
    def __init__(
        self, game: Game[S, M], kind: Kind, settings: MctsSettings, watch: Watch[S], rng: np.random.Generator
    ) -> None:
        self.game, self.kind, self.settings, self.watch, self.rng = game, kind, settings, watch, rng
        self.tree = Tree(game, kind)
        low, high = game.bounds(game.start())
        self.span = high - low
        self.seen = (np.inf, -np.inf)  # the range of the payoffs and estimates that came in so far
        self.waiting: dict[S, list[_Path]] = {}
        self.ways: dict[int, tuple[M, ...]] = {}  # from a node to the end of the play that proved its payoff

    def search(self) -> Search[S, M]:
        start = self.game.start()
        self.tree.add(start, (yield from learn(self.game, start, self.watch)))
        self.seen = (float(self.tree.nodes.value[0]),) * 2
        self._note()
        while True:
            if self.tree.solved(0):
                return self._result(Stop.SOLVED)
            reason = self.watch.reason()
            if reason is not None:
                return self._result(reason)
            self._collect()
            if self.waiting:
                yield from self._ask()
            self._note()

    def _collect(self) -> None:
        """Walk down until the question is full, nothing is left to walk to, or all is solved."""
        batch = self.settings.batch
        room = self.watch.room
        size = batch if room is None else min(batch, room)
        for _ in range(2 * batch):
            if len(self.waiting) >= size or self.tree.solved(0) or not self._walk():
                return

    def _walk(self) -> bool:
        """One walk from the start; False if every way on awaits an answer."""
        tree, nodes, edges = self.tree, self.tree.nodes, self.tree.edges
        path, node = _Path([0], []), 0
        alpha, beta = -np.inf, np.inf
        while True:
            if tree.nodes.first[node] == UNKNOWN:
                tree.expand(node, self.rng)
            aim = int(nodes.aim[node])
            if aim == CHANCE:
                alpha, beta = -np.inf, np.inf
            elif aim == MAXIMISE:
                alpha = max(alpha, float(nodes.lower[node]))
            else:
                beta = min(beta, float(nodes.upper[node]))
            edge = self._choose(node, aim, alpha, beta)
            if edge is None:
                if self._blocked(node):
                    return False
                self._back_up(path, None)
                return True
            path.edges.append(edge)
            child = int(edges.child[edge])
            if child == UNKNOWN:
                state = self.game.play(tree.states[node], tree.moves[edges.move[edge]][1])
                child = tree.find(state)
                known = self.game.known(state) if child == UNKNOWN else None
                if child == UNKNOWN and known is None:
                    self.waiting.setdefault(state, []).append(path)
                    edges.waiting[path.edges] += 1
                    return True
                if known is not None:
                    if known.ending is None and known.estimate is None:
                        known = replace(known, estimate=float(nodes.own[node]))
                    child = tree.add(state, known)
                    self.watch.see(state, known)
                edges.child[edge] = child
            path.nodes.append(child)
            if tree.solved(child):
                self._back_up(path, float(nodes.value[child]))
                return True
            node = child

    def _blocked(self, node: int) -> bool:
        """Whether a move of `node` awaits an answer."""
        return bool(self.tree.edges.waiting[self.tree.span(node)].any())

    def _choose(self, node: int, aim: int, alpha: float, beta: float) -> int | None:
        """The edge to walk; None if no move of `node` can be tried, or could matter."""
        tree, nodes, edges = self.tree, self.tree.nodes, self.tree.edges
        span = tree.span(node)
        child, waiting = edges.child[span], edges.waiting[span]
        tried = child != UNKNOWN
        lower = np.where(tried, nodes.lower[child], nodes.floor[node])
        upper = np.where(tried, nodes.upper[child], nodes.ceiling[node])
        free = (lower < upper) & (upper > alpha) & (lower < beta) & (tried | (waiting == 0))
        if aim == CHANCE:
            free &= edges.chance[span] > 0
        rows = np.flatnonzero(free)
        if not len(rows):
            return None
        if aim == CHANCE:
            chance = edges.chance[span][rows]
            return int(span.start) + int(rows[self.rng.choice(len(rows), p=chance / chance.sum())])
        visits = int(nodes.visits[node])
        rows = rows[: opened(visits, self.settings.widening, len(rows))]
        return int(span.start) + int(rows[np.argmax(self._scores(node, aim, rows + span.start))])

    def _scores(self, node: int, aim: int, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """The selection rule's score of each edge in `rows`."""
        tree, nodes, edges = self.tree, self.tree.nodes, self.tree.edges
        child, tries, waiting = edges.child[rows], edges.tries[rows], edges.waiting[rows]
        value = np.where(child != UNKNOWN, nodes.value[child], nodes.value[node])
        means = self._for_mover(aim, value)
        move = edges.move[rows]
        first_tries = tree.table.tries[move]
        first = self._for_mover(aim, tree.table.total[move] / np.maximum(first_tries, 1))
        means = blend(means, tries, first, first_tries, k=self.settings.first)
        seen = np.maximum(tries + waiting, 1)
        means = means * (1 - waiting / seen)
        return self.settings.select(tries + waiting, means, edges.chance[rows])

    def _for_mover(self, aim: int, payoff: NDArray[np.float64]) -> NDArray[np.float64]:
        """Payoffs scaled to [0, 1] of the range seen so far, 1 being the best for the one who moves."""
        low, high = self.seen
        scaled = np.clip((payoff - low) / max(high - low, 1e-300), 0.0, 1.0)
        return scaled if mover_sign(aim) > 0 else 1 - scaled

    def _ask(self) -> Asking[S, None]:
        """Ask about all waiting states, play on from them if so set, and carry the answers up."""
        states = list(self.waiting)
        answers = yield from ask(states, self.watch)
        going = [s for s, a in zip(states, answers, strict=True) if a.ending is None]
        played = {}
        if self.settings.playouts and going:
            plays = yield from play_out(self.game, going, self.watch, rng=self.rng)
            played = dict(zip(going, plays, strict=True))
        for state, answer in zip(states, answers, strict=True):
            node = self.tree.add(state, answer)
            held: list[int] = []
            paid = played[state].payoff if state in played else None
            if paid is not None:
                low, high = float(self.tree.nodes.lower[node]), float(self.tree.nodes.upper[node])
                payoff = min(max(paid, low), high)
                self.tree.nodes.value[node] = self.tree.nodes.own[node] = payoff
                if self.kind is Kind.COOPERATOR:  # what one play pays, players who all want it can have
                    self.tree.nodes.lower[node] = payoff
                    self.ways[node] = tuple(move for _, move in played[state].moves)
                held = [self.tree.move_row(player, move) for player, move in played[state].moves]
            for path in self.waiting[state]:
                self.tree.edges.waiting[path.edges] -= 1
                self.tree.edges.child[path.edges[-1]] = node
                path.nodes.append(node)
                self._back_up(path, float(self.tree.nodes.value[node]), held)
        self.waiting.clear()

    def _back_up(self, path: _Path, payoff: float | None, held: Sequence[int] = ()) -> None:
        """Carry a walk's result to the start; a payoff of None only brings the path up to date."""
        tree = self.tree
        if payoff is not None:
            self.watch.iterations += 1
            self.seen = min(self.seen[0], payoff), max(self.seen[1], payoff)
            tree.edges.tries[path.edges] += 1
            tree.nodes.visits[path.nodes] += 1
            tree.credit([*tree.edges.move[path.edges], *held], payoff)
        for node in reversed(path.nodes):
            tree.refresh(node)

    def _note(self) -> None:
        nodes = self.tree.nodes
        value, lower, upper = float(nodes.value[0]), float(nodes.lower[0]), float(nodes.upper[0])
        self.watch.note(value, lower, upper, span=self.span)

    def _result(self, stop: Stop) -> SearchResult[S, M]:
        tree, watch = self.tree, self.watch
        return SearchResult(
            kind=self.kind,
            value=float(tree.nodes.value[0]),
            lower=float(tree.nodes.lower[0]),
            upper=float(tree.nodes.upper[0]),
            stop=stop,
            best=watch.best,
            line=self._follow(self._best_edge, self.ways),
            branch=self._follow(lambda node, rows: int(rows[np.argmax(tree.edges.tries[rows])]), {}),
            queries=watch.queries,
            iterations=watch.iterations,
            nodes=tree.nodes.size,
            curve=tuple(watch.curve),
            moves=tuple(
                MoveStatistics(
                    *tree.moves[i], int(tree.table.tries[i]), float(tree.table.total[i] / tree.table.tries[i])
                )
                for i in np.flatnonzero(tree.table.tries[: tree.table.size])
            ),
        )

    def _best_edge(self, node: int, rows: NDArray[np.intp]) -> int:
        """The mover's best edge: by proven bound, then by value; the likeliest where chance moves."""
        tree, edges = self.tree, self.tree.edges
        aim = int(tree.nodes.aim[node])
        if aim == CHANCE:
            return int(rows[np.argmax(edges.chance[rows])])
        sign, child = mover_sign(aim), edges.child[rows]
        sure = tree.nodes.lower[child] if sign > 0 else -tree.nodes.upper[child]
        return int(rows[np.lexsort((sign * tree.nodes.value[child], sure))[-1]])

    def _follow(
        self, choose: Callable[[int, NDArray[np.intp]], int], ways: Mapping[int, tuple[M, ...]]
    ) -> tuple[M, ...]:
        """The moves from the start by `choose(node, its tried edges)`, then the way on from where the tree ends."""
        tree, node = self.tree, 0
        line: list[M] = []
        while True:
            span = tree.span(node)
            rows = span.start + np.flatnonzero(tree.edges.child[span] != UNKNOWN)
            if not len(rows) or (
                node in ways and tree.nodes.lower[tree.edges.child[rows]].max() < tree.nodes.lower[node]
            ):
                return (*line, *ways.get(node, ()))
            edge = choose(node, rows)
            line.append(tree.moves[tree.edges.move[edge]][1])
            node = int(tree.edges.child[edge])
