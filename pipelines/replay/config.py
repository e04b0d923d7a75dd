"""Options of offline A/B replay; imports nothing heavy."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Mapping
from typing import Any, Literal

REWARDS = ("click", "cart", "purchase", "dislike", "value")
"""What may be rewarded: events (a purchase implies the click, as the strongest event of an item) and value paid."""
PAGE, ITEM, USER = "page", "item", "user"
"""Units that a reward is a mean over."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What is compared on which pages, and what evidence a verdict needs."""

    champion: str = "champion"
    """Policy A: `champion`, `challenger` or the id of a release; `popular`, `transitions`, `uniform`; `logged` for
    whoever made the logs; `table:FILE` for probabilities by position and item. While there is no champion, the alias
    stands for `logged`."""
    challenger: str = "challenger"
    """Policy B, named alike."""
    logs: str | None = None
    """Parquet files with logged pages; none for the workspace's table `pages`."""
    since: str | None = None
    """First day of the pages, `YYYY-MM-DD` UTC; none for the first one that no compared model was trained on."""
    until: str | None = None
    """Last day of the pages; none for the newest final page."""
    reward: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"click": 1.0})
    """Reward of an item shown: the sum of the weights of what happened to it: `click`, `cart`, `purchase`, `dislike`
    (each 1 if it came that far) and `value` (what was paid)."""
    unit: Literal["page", "item", "user"] = PAGE  # type: ignore[assignment]
    """What the reward is a mean over: pages, items shown, or users."""
    attribution_hours: float = 24.0
    """A page is final, and counts, when this much time has passed between it and the newest event."""
    candidates: Literal["logged", "own"] = "logged"
    """`logged`: a release orders the candidates that the logged page had (its own where the log names none). `own`: it
    brings its own candidates; what lies outside the logged ones cannot be judged, and much of it forbids a verdict."""
    estimator: str = "auto"
    """The estimator that decides; `auto` for `ips` on pages of one item and for `iips_dr` on longer ones;
    for `cascade_dr` on these where the log does not tell how a slot was filled whatever stands before it."""
    reward_model: Literal["boosted", "table", "none"] = "boosted"
    """What predicts rewards for DM and the doubly robust estimators, cross-fitted by user: gradient-boosted trees on
    scores, position and past rates, or smoothed rates by position and item."""
    folds: int = 5
    """Parts of the users; each part's rewards are predicted by a model of the others."""
    clusters: str = "category"
    """What MIPS takes items together by: `category`, or `sid1`, `sid2`: the first tokens of the semantic ID."""
    draws: int = 64
    """Pages drawn per logged page and policy, for the probability that a slot holds an item whatever stands before."""
    confidence: float = 0.95
    """Of all intervals."""
    resamples: int = 1000
    """Of the bootstrap by users."""
    buckets: int = 2048
    """Groups of users whose sums are kept: the memory of the whole, however many pages there are."""
    margin: float = 0.0
    """B ships if it is better by more than this, in units of the reward."""
    min_users: int = 200
    """Fewer users with a page forbid a verdict."""
    min_rewarded_users: int = 100
    """Fewer users with a reward other than 0 forbid a verdict."""
    min_effective_sample: float = 200.0
    """A smaller effective sample size, in users, forbids a verdict."""
    max_weight_share: float = 0.05
    """A user with a larger share of all weight forbids a verdict."""
    max_outside: float = 0.05
    """A larger share of a policy's probability on what the logs could not show forbids a verdict."""
    trust_estimated: bool = False
    """Decide although the log has no propensities, by its rates of showing: right only where what was shown did not
    depend on the user (a fixed list, a lottery). A log of a personalised policy then gives verdicts that are wrong."""
    slice_discovery_rate: float = 0.05
    """False discovery rate (Benjamini-Hochberg) at which differences of slices are called real."""

    def __post_init__(self) -> None:
        mistakes: list[str] = []
        unknown = sorted(set(self.reward) - set(REWARDS))
        if unknown or not any(self.reward.values()):
            mistakes.append(f"reward: expected weights, not all 0, of {', '.join(REWARDS)}; got {dict(self.reward)}")
        choices: tuple[tuple[str, Any], ...] = (
            ("unit", (PAGE, ITEM, USER)),
            ("candidates", ("logged", "own")),
            ("reward_model", ("boosted", "table", "none")),
        )
        for name, expected in choices:
            if getattr(self, name) not in expected:
                mistakes.append(f"{name}: expected one of {', '.join(expected)}, got {getattr(self, name)!r}")
        if not re.fullmatch(r"category|sid[1-9]", self.clusters):
            mistakes.append(f"clusters: expected category, sid1, sid2 and so on, got {self.clusters!r}")
        if (self.estimator, self.reward_model) == ("dm", "none"):
            mistakes.append("estimator: expected one that needs no reward model where reward_model is none, got 'dm'")
        for name in ("since", "until"):
            day = getattr(self, name)
            if day is not None and not _is_day(day):
                mistakes.append(f"{name}: expected a day YYYY-MM-DD, got {day!r}")
        leasts = {"folds": 2, "draws": 1, "resamples": 100, "buckets": 100, "min_users": 2, "min_rewarded_users": 0}
        for name, least in leasts.items():
            if getattr(self, name) < least:
                mistakes.append(f"{name}: expected at least {least}, got {getattr(self, name)}")
        for name in ("max_weight_share", "max_outside", "slice_discovery_rate", "confidence"):
            if not 0 < getattr(self, name) < 1:
                mistakes.append(f"{name}: expected more than 0 and less than 1, got {getattr(self, name)}")
        for name in ("attribution_hours", "margin", "min_effective_sample"):
            if not 0 <= getattr(self, name) < float("inf"):
                mistakes.append(f"{name}: expected a finite number >= 0, got {getattr(self, name)}")
        if mistakes:
            raise ValueError("replay: " + "; ".join(mistakes))


def _is_day(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
