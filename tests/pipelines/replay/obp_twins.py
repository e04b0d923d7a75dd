"""Our estimators that Open Bandit Pipeline has, too."""

from __future__ import annotations

from pipelines.replay.config import ReplayConfig
from pipelines.replay.estimates import Estimate, estimates_of
from pipelines.replay.estimators import (
    CascadeDr,
    ClippedDr,
    ClippedIps,
    DirectMethod,
    DoublyRobust,
    Ips,
    SelfNormalisedDr,
    SelfNormalisedIps,
    ShrunkDr,
    SubGaussianIps,
    SwitchDr,
)
from pipelines.replay.estimators.interface import Estimator
from pipelines.replay.rounds import Rounds
from pipelines.replay.tally import Tally

MIPS = Ips(weights="cluster")
SLATES: tuple[Estimator, ...] = (
    Ips(),
    Ips(weights="position"),
    Ips(weights="prefix"),
    SelfNormalisedIps(),
    SelfNormalisedIps(weights="position"),
    SelfNormalisedIps(weights="prefix"),
    CascadeDr(),
)
"""Of pages of several items, in the order in which Open Bandit Pipeline's values are written down."""


def of_one_item(clip: float, limit: float) -> tuple[Estimator, ...]:
    """Return those of pages of one item, without clusters, in the order in which their values are written down.

    Args:
        clip: The only parameter of those that clip, switch or shrink.
        limit: Largest weight of the sub-Gaussian ones, 1 / lambda.
    """
    return (
        Ips(),
        ClippedIps(clips=(clip,)),
        SelfNormalisedIps(),
        DirectMethod(),
        DoublyRobust(),
        ClippedDr(clips=(clip,)),
        SelfNormalisedDr(),
        SwitchDr(clips=(clip,)),
        ShrunkDr(clips=(clip,)),
        SubGaussianIps(limits=(limit,)),
    )


def judged(estimator: Estimator, rounds: Rounds) -> Estimate:
    """Return what one estimator says of pages, each user in a bucket of their own as far as possible."""
    tally = Tally.of([estimator], buckets=4096, slots=rounds.there_RP.shape[1]).add(rounds)
    return estimates_of([estimator], tally, ReplayConfig(resamples=100))[0]


def name_of(value: object) -> str:
    """Return what a test's parameter is called."""
    return value.name if isinstance(value, Estimator) else ""
