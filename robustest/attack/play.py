"""Play the pixel game on one image, with each kind of player II, and say what its values mean.

The searches of all kinds share what was asked, so an image is scored once. Values are severities: the distance of the
image at which the play ends. The cooperative value bounds the distance of the nearest adversarial image on the grid;
[cooperator, adversary] is the severity interval, with nature inside. A finite search proves bounds and estimates the rest.

Source: Wicker, Huang & Kwiatkowska, TACAS 2018, arXiv:1710.07859; Wu et al., TCS 2020, arXiv:1807.03571.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from games.game import Evaluation, Kind, Outcome, Player
from games.monte_carlo import MctsSettings, mcts
from games.search import SearchResult, Stopping, Watch
from games.select import puct
from robustest.attack.pixel_features import PixelFeatures, effect_features, partition_features, sift_features
from robustest.attack.pixel_game import Change, Move, Pick, PixelGame, PixelRules, Turn
from robustest.attack.play_values import KindResult, told
from robustest.attack.replay import replay
from robustest.attack.task import Task
from robustest.classifiers.batching import choose_batch
from robustest.classifiers.classifier import Classifier, check_fit, classes_of, margins_of
from robustest.classifiers.loading import load_classifier
from robustest.errors import InvalidSetting
from robustest.images import Pixels, as_unit, check_images, check_labels
from robustest.randomness import image_digest, stream
from robustest.results import AttackResult, Margins, SaliencyChange, Verdict
from robustest.saliency import Features, saliency_of
from robustest.saliency.regions import feature_regions
from robustest.settings import AttackSettings, Norm

KindName = Literal["cooperator", "adversary", "nature", "competitive"]
_ALL: tuple[KindName, ...] = ("cooperator", "nature", "adversary", "competitive")
_ROWS = 32
_MEASURED = 10  # times the queries of one kind that measuring effects may take
_PRIOR_TRIES = 4.0  # tries at which what was learned of a pixel counts half in the distribution after the search


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaySettings:
    """How the game is played on one image.

    kinds: of player II: `cooperator` (both want a small severity), `nature` (draws from the saliency distribution),
        `adversary` (wants a large severity); and `competitive`, another game, in which player I is hostile: how far the
        most robust feature must be changed.
    queries: images that may be scored for each kind, >= 1; what an earlier kind asked is remembered.
    seconds: for each kind, None for no limit; the only setting that makes a result depend on the machine.
    epsilon: stop a kind after ceil(1/epsilon) iterations without improvement; None to go on.
    seed: of every random stream, >= 0.
    norm: severity: l0 (pixels), l0_dims (channels of pixels), l1, l2, linf.
    radius: d, in the norm's units, > 0; a play beyond it has left the ball.
    tau: step of the grid in (0, 1]; 1 moves to a bound.
    change: `pixel` moves all channels of a pixel the same way, `corners` each either way, `dimension` one channel.
    once: a pixel is changed by one move alone; False lets it move on by tau.
    features: `sift` mixture, `partition` of the image by its keypoints, or `effect`: pixels in the order of their
        measured effect, which takes a query for each pixel and instruction.
    most: features used, >= 1.
    target: class to be reached, or None for any other than the label.
    """

    kinds: tuple[KindName, ...] = _ALL
    queries: int = 1000
    seconds: float | None = None
    epsilon: float | None = None
    seed: int = 0
    norm: Norm = "l0"
    radius: float = 5.0
    tau: float = 1.0
    change: Change = "pixel"
    once: bool = True
    features: Literal["sift", "partition", "effect"] = "sift"
    most: int = 16
    target: int | None = None

    def __post_init__(self) -> None:
        if not self.kinds or any(kind not in _ALL for kind in self.kinds):
            raise InvalidSetting(f"kinds must be some of {', '.join(_ALL)}; got {self.kinds!r}.")
        if self.features not in ("sift", "partition", "effect"):
            raise InvalidSetting(f"features must be sift, partition or effect; got {self.features!r}.")
        if self.queries < 1 or self.most < 1 or self.seed < 0:
            raise InvalidSetting(
                f"queries and most must be >= 1 and seed >= 0; got {self.queries}, {self.most} and {self.seed}."
            )
        if self.seconds is not None and not self.seconds > 0:
            raise InvalidSetting(f"seconds must be > 0; got {self.seconds}. Leave it out for no limit.")
        if self.epsilon is not None and not 0 < self.epsilon <= 1:
            raise InvalidSetting(f"epsilon must be in (0, 1]; got {self.epsilon}.")

    @property
    def rules(self) -> PixelRules:
        """The rules of the game."""
        return PixelRules(norm=self.norm, radius=self.radius, tau=self.tau, change=self.change, once=self.once)


@dataclass(frozen=True, slots=True)
class PlayResult:
    """The game on one image.

    image: (H, W, C) as given. label, predicted: its class, and the classifier's answer to it unchanged.
    games: one for each kind that was asked for; empty where the classifier was wrong from the start.
    attack: the best adversarial image of all games, re-scored; its verdict says if there is one.
    saliency: the distribution that moves were drawn from, and reweighted by what the searches learned.
    features: player I's; keypoints: what they were made of. queries: images scored in all; measuring: of those, for
    effect features. decision_only: only labels were given, so nothing but random plays judged a state.
    """

    image: Pixels
    label: int
    predicted: int
    settings: PlaySettings
    games: tuple[KindResult, ...]
    attack: AttackResult
    saliency: SaliencyChange
    features: PixelFeatures
    keypoints: Features
    queries: int
    measuring: int
    decision_only: bool


def play_image(classifier: Any, image: Pixels, label: int, settings: PlaySettings | None = None) -> PlayResult:
    """Play the pixel game on one image.

    Args:
        classifier: what `load_classifier` gives, or any callable on (N, H, W, C) float32 in [0, 1].
        image: (H, W, C) or (H, W), uint8 or floats in [0, 1].
        label: its class.

    Raises:
        InvalidSetting: the target is the label or no class, or effects are to be measured of a label-only classifier.
    """
    chosen = settings or PlaySettings()
    box = load_classifier(classifier)
    checked = check_images(np.asarray(image)[None], argument="image")
    check_labels([label], 1, box.info.classes)
    check_fit(box.info, cast("tuple[int, int, int]", checked.shape[1:]))
    classes = box.info.classes
    if chosen.target == label or (chosen.target is not None and classes is not None and chosen.target >= classes):
        raise InvalidSetting(f"target must be a class other than the label {label}; got {chosen.target}.")
    return _Player(box, checked[0], label, chosen).play()


class _Player:
    """One image in play: its scorer, and what its games share."""

    def __init__(self, classifier: Classifier, image: Pixels, label: int, settings: PlaySettings) -> None:
        self.classifier, self.given, self.label, self.settings = classifier, image, label, settings
        self.image = as_unit(image)
        self.eight_bit = image.dtype == np.uint8
        self.decision_only = classifier.info.output == "label"
        if self.decision_only and settings.features == "effect":
            raise InvalidSetting("features = effect needs scores; this classifier gives the label alone. Use sift.")
        batch = choose_batch(classifier, self.image[None], rows=_ROWS)
        shape = cast("tuple[int, int, int]", self.image.shape)
        self.canvas = classifier.canvas(shape, slots=1, rows=batch.rows, pad=batch.pad)
        self.canvas.place(0, self.image)
        self.queries = 0
        self.answers: dict[Turn, Evaluation] = {}

    def play(self) -> PlayResult:
        """All kinds of game, one after the other."""
        saliency = saliency_of(self.given)
        place = self._game(_whole(saliency.distribution), 1.0)
        scores = self._scores(place, [Turn(frozenset())])
        predicted = int(classes_of(scores, self.classifier.info.output)[0])
        clean = float(self._margins(scores)[0])
        measuring, features = 0, _whole(saliency.distribution)
        results: dict[Kind, SearchResult[Turn, Move]] = {}
        game = place
        if predicted == self.label:
            features, measuring = self._features(place, clean)
            game = self._game(features, clean)
            self.answers[Turn(frozenset())] = game.judge(Turn(frozenset()), clean)
            for name in self.settings.kinds:
                results[Kind(name)] = self._search(game, Kind(name))
        found = [result.best for result in results.values() if result.best is not None]
        best = max(found, key=lambda outcome: outcome.payoff, default=None)
        before = features.distribution(self.image.shape[0] * self.image.shape[1])
        after = _learned(before, list(results.values()))
        size = self.image.shape[:2]
        return PlayResult(
            image=self.given,
            label=self.label,
            predicted=predicted,
            settings=self.settings,
            games=tuple(told(game, result, best) for result in results.values()),
            attack=self._attack(game, predicted, best),
            saliency=SaliencyChange(before.reshape(size), after.reshape(size)),
            features=features,
            keypoints=saliency.features,
            queries=self.queries,
            measuring=measuring,
            decision_only=self.decision_only,
        )

    def _game(self, features: PixelFeatures, clean: float) -> PixelGame:
        return PixelGame(
            self.image,
            features,
            self.settings.rules,
            clean_margin=clean,
            eight_bit=self.eight_bit,
            decision_only=self.decision_only,
        )

    def _features(self, place: PixelGame, clean: float) -> tuple[PixelFeatures, int]:
        """The features the settings ask for, and the queries it took to make them."""
        saliency = saliency_of(self.given)
        height, width = saliency.distribution.shape
        if self.settings.features == "sift":
            return sift_features(saliency, most=self.settings.most), 0
        if self.settings.features == "partition":
            regions = feature_regions(saliency.features, height, width, most=self.settings.most)
            return partition_features(regions, saliency.distribution), 0
        picks = place.moves(Turn(frozenset(), 0))
        if len(picks) > _MEASURED * self.settings.queries:
            raise InvalidSetting(
                f"features = effect measures {len(picks)} single changes first, more than {_MEASURED} times the {self.settings.queries} "
                "queries a kind of game has. Use sift or partition, or raise queries."
            )
        margins = self._margins(self._scores(place, [place.play(Turn(frozenset(), 0), pick) for pick in picks]))
        effects = np.full(height * width, -np.inf)
        for pick, margin in zip(picks, margins.tolist(), strict=True):
            assert isinstance(pick, Pick)
            effects[pick.pixel] = max(effects[pick.pixel], clean - margin)
        effects = np.where(np.isfinite(effects), effects, effects[np.isfinite(effects)].min(initial=0.0))
        size = -(-height * width // self.settings.most)
        return effect_features(effects.reshape(height, width), size=size), len(picks)

    def _search(self, game: PixelGame, kind: Kind) -> SearchResult[Turn, Move]:
        """One kind of game: MCTS on the estimates of states, or on random plays where there are none."""
        chosen = self.settings
        stopping = Stopping(queries=chosen.queries, seconds=chosen.seconds, epsilon=chosen.epsilon)
        watch: Watch[Turn] = Watch(stopping, answers=self.answers)
        how = MctsSettings(select=puct(c=0.1), first=20.0, widening=0.5, batch=_ROWS // 2, playouts=self.decision_only)
        rng = stream(chosen.seed, image_digest(self.given), purpose=f"play {kind.value}")
        search = mcts(game, kind, how, watch, rng=rng)
        try:
            states = next(search)
            while True:
                margins = self._margins(self._scores(game, states))
                states = search.send(
                    [game.judge(state, margin) for state, margin in zip(states, margins.tolist(), strict=True)]
                )
        except StopIteration as end:
            return cast("SearchResult[Turn, Move]", end.value)

    def _scores(self, game: PixelGame, states: Sequence[Turn]) -> NDArray[np.float32]:
        self.queries += len(states)
        return self.canvas.score(np.zeros(len(states), np.int64), game.edits(states))

    def _margins(self, scores: NDArray[np.float32]) -> Margins:
        aim = -1 if self.settings.target is None else self.settings.target
        count = len(scores)
        return margins_of(scores, np.full(count, self.label), np.full(count, aim), self.classifier.info.output)

    def _attack(self, game: PixelGame, predicted: int, best: Outcome[Turn] | None) -> AttackResult:
        """The best adversarial image of all games, rendered and scored once more."""
        chosen = self.settings
        common = AttackResult(
            verdict=Verdict.SURVIVED,
            attack="play",
            norm=chosen.norm,
            label=self.label,
            target=chosen.target,
            seed=chosen.seed,
            budget=chosen.queries * len(chosen.kinds),
            predicted=predicted,
            queries=self.queries,
            decision_only=self.decision_only,
        )
        if predicted != self.label:
            reason = f"the classifier answers {predicted} for the unchanged image, not {self.label}"
            return replace(common, verdict=Verdict.EXCLUDED, reason=reason)
        if best is None:
            return common
        task = Task(
            image=self.image,
            eight_bit=self.eight_bit,
            label=self.label,
            target=chosen.target,
            decision_only=self.decision_only,
            clean_margin=game.clean_margin,
            settings=AttackSettings(queries=chosen.queries, seed=chosen.seed, norm=chosen.norm, target=chosen.target),
        )
        return replay(self.classifier, common, task, game.edits([best.state]), minimal=False)


def _whole(distribution: NDArray[np.float64]) -> PixelFeatures:
    """The image as one feature."""
    return partition_features(np.zeros(distribution.size, np.int64), distribution)


def _learned(before: NDArray[np.float64], results: Sequence[SearchResult[Turn, Move]]) -> NDArray[np.float64]:
    """The distribution reweighted by how well plays went that changed each pixel, sum 1.

    A pixel's weight is its mean payoff, shrunk to the mean of all, over that mean; a pixel never tried keeps its own.
    """
    tries, totals = np.zeros(len(before)), np.zeros(len(before))
    for result in results:
        if result.kind in (Kind.ADVERSARY, Kind.COMPETITIVE):
            continue  # a hostile player's pixels are tried for being bad
        for move in result.moves:
            if move.player is Player.SECOND and isinstance(move.move, Pick):
                tries[move.move.pixel] += move.tries
                totals[move.move.pixel] += move.tries * move.mean
    mean = totals.sum() / tries.sum() if tries.any() else 0.0
    if mean <= 0:
        return before
    after = before * (totals + _PRIOR_TRIES * mean) / (tries + _PRIOR_TRIES) / mean
    return np.asarray(after / after.sum())
