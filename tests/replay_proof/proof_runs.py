"""Replicates of logs from the world of known values, and what is counted over them.

Legend: `N` replicates, `E` estimators.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from harmless_worlds import Outside, RareReward
from proof_world import LOGGING, SERVING, Answers, Model, People, Scene, Table
from scipy import optimize, stats

from pipelines.replay.checks import checks
from pipelines.replay.config import ReplayConfig
from pipelines.replay.diagnostics import Diagnostics
from pipelines.replay.estimates import Estimate, estimates_of
from pipelines.replay.estimators import primary, standard_estimators
from pipelines.replay.estimators.interface import Estimator
from pipelines.replay.planning import minimum_detectable_effect
from pipelines.replay.rounds import Floats, Rounds
from pipelines.replay.tally import Tally
from pipelines.replay.verdict import SHIP, Compared, Verdict, decide

WORLD_SEED = 0
SEEDS = tuple(range(1, 2001))
"""Of the replicates; the first so many where fewer are asked for."""
PILOT_SEEDS = tuple(range(900_001, 900_041))
"""Of logs that only tell how large a difference can be detected."""
PAGES = 20_000
OTHER = 0.7
"""How far challengers differ from the champion in what makes them neither better nor worse, in units of the score."""
BETTER = 0.3
"""How much better the challenger of the coverage is in what it knows of people."""
CONFIG = ReplayConfig()
QUICK = dataclasses.replace(CONFIG, resamples=100)
"""Where bootstrap intervals do not matter."""
COLUMNS = (
    "difference",
    "se",
    "low",
    "high",
    "bootstrap_low",
    "bootstrap_high",
    "always_valid_low",
    "always_valid_high",
)
World = Scene | RareReward | Outside
_COMPARED = Compared(
    challenger="b", champion="a", inputs="0" * 16, time=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
)


@cache
def people() -> People:
    """Return the persons of all scenes."""
    return People.of_marketplace(WORLD_SEED)


@cache
def _directions() -> tuple[Floats, Floats]:
    """Return changes of scores: towards what people really click, and towards nothing in particular."""
    chance = people().clicked_TK
    truth = np.log(chance / (1 - chance))
    truth -= truth.mean(axis=1, keepdims=True)
    return truth / truth.std(), np.random.default_rng(2).standard_normal(chance.shape)


def scene(better: float, other: float = OTHER, *, answers: Answers = "own_item", model: Model = "wrong") -> Scene:
    """Return a scene whose challenger's scores differ so much from the champion's."""
    logged, champion = _known_tables()
    return Scene(logged, champion, _challenger(better, other), answers=answers, model=model)


def scene_of(difference: float) -> Scene:
    """Return a scene whose challenger is another policy, better by just this, exactly."""
    rewards_TSP = people().rewards("own_item")
    wanted = champion_value() + difference
    found = optimize.brentq(
        lambda better: _challenger(better, OTHER).value(rewards_TSP) - wanted, -2.0, 2.0, xtol=1e-12
    )
    return scene(float(found))


def champion_value() -> float:
    """Return the champion's true mean reward of a page."""
    return _known_tables()[1].value(people().rewards("own_item"))


@cache
def _known_tables() -> tuple[Table, Table]:
    """Return who made the log, and the champion: the same scores, drawn from more greedily."""
    scores = people().scores_TK
    return (
        Table(people=people(), scores_TK=scores, policy=LOGGING),
        Table(people=people(), scores_TK=scores, policy=SERVING),
    )


def _challenger(better: float, other: float) -> Table:
    truth, anything = _directions()
    scores = people().scores_TK + better * truth + other * anything
    return Table(people=people(), scores_TK=scores, policy=SERVING)


def fitting(names: Sequence[str] | None) -> tuple[Estimator, ...]:
    """Return estimators for pages of the world by their names; None for all."""
    return tuple(one for one in standard_estimators(3) if names is None or one.name in names)


def estimated(rounds: Rounds, config: ReplayConfig, seed: int, names: Sequence[str] | None = None) -> list[Estimate]:
    """Return what some estimators say of a log."""
    chosen = fitting(names)
    tally = Tally.of(chosen, buckets=config.buckets, slots=3).add(rounds)
    return estimates_of(chosen, tally, config, seed)


def judged(rounds: Rounds, config: ReplayConfig, seed: int) -> Verdict:
    """Return the verdict on a log: all estimators, all gates."""
    tally = Tally.empty(config, 3).add(rounds)
    found = estimates_of(standard_estimators(3), tally, config, seed)
    users = tally.users.count()
    gates = checks(Diagnostics.empty(config, 3).add(rounds).report(), found, config, users=users)
    return decide(found, gates, config, compared=_COMPARED, users=users)


def ships(world: World, seed: int, pages: int = PAGES) -> bool:
    """Return whether the challenger is shipped on one log.

    All estimators and gates are asked only where the one that decides would ship; without it nothing is shipped.
    """
    rounds = world.draw(seed, pages)
    [deciding] = estimated(rounds, QUICK, seed, [primary(QUICK.estimator, 3)])
    return deciding.low > QUICK.margin and judged(rounds, QUICK, seed).verdict == SHIP


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replicates:
    """What estimators said of many logs.

    Attributes:
        names: Of the estimators.
        truth: The true difference.
        values_NE8: What `COLUMNS` name.
        bias_NE: Most bias that an estimator admits to, 0 where it promises none.
    """

    names: tuple[str, ...]
    truth: float
    values_NE8: Floats
    bias_NE: Floats

    @classmethod
    def of(
        cls,
        world: Scene,
        seeds: Sequence[int],
        pages: int = PAGES,
        names: Sequence[str] | None = None,
        config: ReplayConfig = CONFIG,
    ) -> Replicates:
        """Draw a log for each seed and ask the estimators."""
        found = [estimated(world.draw(seed, pages), config, seed, names) for seed in seeds]
        return cls(
            names=tuple(one.name for one in found[0]),
            truth=world.difference,
            values_NE8=np.array([[[getattr(one, name) for name in COLUMNS] for one in each] for each in found]),
            bias_NE=np.array([[one.bias_bound or 0.0 for one in each] for each in found]),
        )

    def error(self, name: str) -> Floats:
        """Return estimate - truth, `[N]`."""
        return np.asarray(self.values_NE8[:, self.names.index(name), 0] - self.truth)

    def se(self, name: str) -> Floats:
        """Return the reported standard errors, `[N]`."""
        return np.asarray(self.values_NE8[:, self.names.index(name), 1])

    def covered(self, name: str, kind: str = "") -> int:
        """Return how many intervals hold the truth; `kind` is that of `COLUMNS`: `bootstrap_`, `always_valid_`."""
        one, low = self.names.index(name), COLUMNS.index(f"{kind}low")
        bias_N = self.bias_NE[:, one]
        below_N = self.values_NE8[:, one, low] - bias_N <= self.truth
        return int((below_N & (self.truth <= self.values_NE8[:, one, low + 1] + bias_N)).sum())

    def __len__(self) -> int:
        return len(self.values_NE8)


def detectable(world: Scene, seeds: Sequence[int] = PILOT_SEEDS) -> float:
    """Return the minimum detectable effect that logs of this kind report, in the median."""
    name = primary(CONFIG.estimator, 3)
    found = [estimated(world.draw(seed, PAGES), QUICK, seed, [name])[0].se for seed in seeds]
    return minimum_detectable_effect(float(np.median(found)), CONFIG.confidence)


@cache
def powerful() -> Scene:
    """Return the scene whose challenger is better by the minimum detectable effect of its own logs."""
    world = scene_of(0.0)
    for _ in range(2):  # the standard error hardly depends on the difference: two rounds are enough
        world = scene_of(detectable(world))
    return world


def harmless() -> Iterator[tuple[str, World]]:
    """Yield worlds in which nothing should be shipped, with what the challenger is."""
    for share in (0.01, 0.003, 0.001):
        yield f"{share:.1%} worse than the champion", scene_of(-share * champion_value())
    yield "another policy, just as good", scene_of(0.0)
    yield "the champion itself", scene(0.0, 0.0)
    yield from rare_or_outside()


def rare_or_outside() -> Iterator[tuple[str, World]]:
    """Yield worlds of few rewards, and one where a part of the champion is unknown."""
    for share, rewards in ((0.9, 10), (0.9, 150), (0.98, 150)):
        yield f"just as good, {rewards} rewards, {share:.0%} of the log shows what it shows", RareReward(share, rewards)
    yield "just as good, 4 % of the champion outside the log", Outside(0.04)


def upper_bound(count: int, size: int, confidence: float = 0.95) -> float:
    """Return the exact upper bound of a rate (Clopper and Pearson).

    Example:
        >>> round(upper_bound(0, 2000), 4)
        0.0015
    """
    return 1.0 if count == size else float(stats.beta.ppf(confidence, count + 1, size - count))
