"""How often a verdict is wrong where rewards are few: a log of one item a page, simulated many at a time.

Legend: `E` logs, `R` pages, each of another user.
"""

from __future__ import annotations

import numpy as np
from harmless_worlds import RareReward

from pipelines.replay.config import ReplayConfig
from pipelines.replay.intervals import linearised_reach, standard_error
from pipelines.replay.rounds import Bools, Floats
from pipelines.replay.unseen_rewards import FEW, UNSEEN

AT_ONCE = 250


def false_ships(world: RareReward, logs: int, *, pages: int = 2000, seed: int = 0) -> tuple[float, float, float, float]:
    """Return how often a challenger that is just as good is shipped: by the interval alone, with `rewarded_users`,
    with `unseen_rewards`, and with both."""
    rng, least = np.random.default_rng([seed, round(1000 * world.share), round(world.rewards)]), ReplayConfig()
    ships = [_ships(world, rng, pages) for _ in range(-(-logs // AT_ONCE))]
    alone_E, seen_E, rewards_E = (np.concatenate(part)[:logs] for part in zip(*ships, strict=True))
    enough_E = rewards_E >= least.min_rewarded_users
    rates = (alone_E, alone_E & enough_E, seen_E, seen_E & enough_E)
    return tuple(float(shipped_E.mean()) for shipped_E in rates)  # type: ignore[return-value]


def _ships(world: RareReward, rng: np.random.Generator, pages: int) -> tuple[Bools, Bools, Floats]:
    """Return where the interval lies above 0, where it does with rewards that did not come, and the rewards."""
    often_ER = rng.random((AT_ONCE, pages)) < world.share
    rewards_ER = rng.random((AT_ONCE, pages)) < world.rewards / pages
    effect_ER = np.where(often_ER, 1 / world.share - 1, -1.0) * rewards_ER / pages
    difference_E = effect_ER.sum(axis=1)
    effect_ER -= difference_E[:, None] / pages
    below_E, _ = linearised_reach(effect_ER, standard_error(effect_ER), ReplayConfig().confidence)
    low_E = difference_E - below_E
    missing_E = np.where((rewards_ER & ~often_ER).sum(axis=1) < FEW, UNSEEN, 0)
    return low_E > 0, low_E - missing_E / pages > 0, rewards_ER.sum(axis=1)
