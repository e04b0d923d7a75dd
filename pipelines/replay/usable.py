"""Which logged pages can be judged at all, and why the others cannot.

Legend: `R` logged pages, `P` slots of the longest of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from features.schemas import DUPLICATE
from pipelines.replay.config import ReplayConfig
from pipelines.replay.rounds import Bools, Floats, Rounds

MISSING_PROPENSITY = "missing_propensity"
ZERO_PROPENSITY = "zero_propensity"
PROPENSITY_ABOVE_1 = "propensity_above_1"
REWARD_OUT_OF_RANGE = "reward_out_of_range"
BAD_CHANCE = "bad_chance_of_policy"
BAD: Mapping[str, str] = {
    MISSING_PROPENSITY: "a shown item without the probability with which it was shown: log it for every item",
    ZERO_PROPENSITY: "a shown item that was shown with probability 0 or less: log the probability of what was shown",
    PROPENSITY_ABOVE_1: "a shown item that was shown with a probability above 1: log probabilities, not scores",
    REWARD_OUT_OF_RANGE: "a reward that the weights in `replay.reward` cannot add up to: see its events and values",
    BAD_CHANCE: "a compared policy that gives a probability outside 0 to 1 to a shown item: see its table",
    DUPLICATE: "a page that the log holds before: leave out repeated request ids",
}
"""Reasons why a page is no evidence, which also throw doubt on the others; what is wrong and what to do."""
_ROUNDING = 1e-6
"""Probabilities summed in float32 exceed 1 by less."""


def reward_range(config: ReplayConfig) -> tuple[float, float]:
    """Return the least and the largest reward that one shown item can have.

    Example:
        >>> reward_range(ReplayConfig(reward={"click": 1.0, "purchase": 4.0, "dislike": -2.0}))
        (-2.0, 5.0)
        >>> reward_range(ReplayConfig(reward={"value": 0.5}))
        (0.0, inf)
    """
    weights = {name: weight * (np.inf if name == "value" else 1.0) for name, weight in config.reward.items() if weight}
    low = sum(weight for weight in weights.values() if weight < 0)
    high = sum(weight for weight in weights.values() if weight > 0)
    return float(low), float(high)


def usable(rounds: Rounds, config: ReplayConfig) -> tuple[Rounds, dict[str, int]]:
    """Return the pages that can be judged, and how many others there are by reason, each under its first one.

    A page that the log holds twice does not show here, since pages have no id any more: whoever reads the log counts
    `DUPLICATE`.
    """
    found = {name: (mask_RP & rounds.there_RP).any(axis=1) for name, mask_RP in _bad_entries(rounds, config)}
    reasons: dict[str, int] = {}
    left_R = np.ones(len(rounds), dtype=np.bool_)
    for name, bad_R in found.items():
        if count := int((bad_R & left_R).sum()):
            reasons[name] = count
        left_R &= ~bad_R
    return (rounds if left_R.all() else rounds.take(left_R)), reasons


def _bad_entries(rounds: Rounds, config: ReplayConfig) -> list[tuple[str, Bools]]:
    low, high = reward_range(config)
    logged = [getattr(rounds.logged, name) for name in _CHANCES]
    targets = [getattr(policy.chances, name) for policy in (rounds.champion, rounds.challenger) for name in _CHANCES]
    return [
        (MISSING_PROPENSITY, np.any([np.isnan(chances) for chances in logged], axis=0)),
        (ZERO_PROPENSITY, np.any([chances <= 0 for chances in logged], axis=0)),
        (PROPENSITY_ABOVE_1, np.any([chances > 1 + _ROUNDING for chances in logged], axis=0)),
        (REWARD_OUT_OF_RANGE, ~_within(rounds.rewards_RP, low, high) | ~np.isfinite(rounds.rewards_RP)),
        (BAD_CHANCE, np.any([~_within(chances, 0.0, 1.0) for chances in targets], axis=0)),
    ]


def _within(values: Floats, low: float, high: float) -> Bools:
    return (values >= low - _ROUNDING) & (values <= high + _ROUNDING)


_CHANCES = ("conditional_RP", "marginal_RP", "cluster_RP")
