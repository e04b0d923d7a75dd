"""How much evidence there is and how much is needed: smaller variance, smallest effect, sample size, fair split.

Legend: `N` users, `M` arms.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from pipelines.replay.intervals import always_valid_factor
from pipelines.replay.rounds import Floats

POWER = 0.8
"""Chance to see an effect of the minimum detectable size."""
_ROUNDS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cuped:
    """Outcomes less what a covariate from before the experiment explains of them (Deng et al. 2013, CUPED).

    Attributes:
        theta: `cov(outcome, covariate) / var(covariate)`, 0 for a constant covariate.
        mean: Of the covariate over all arms.
        variance_ratio: Variance left, `1 - correlation^2`.
    """

    theta: float
    mean: float
    variance_ratio: float

    @classmethod
    def of(cls, outcome_N: Floats, covariate_N: Floats) -> Cuped:
        """Fit it to the users of all arms together, at least 2.

        Example:
            >>> Cuped.of(np.array([1.0, 2.0, 3.0, 6.0]), np.array([0.0, 1.0, 0.0, 1.0])).theta
            2.0
        """
        covariance = np.cov(outcome_N, covariate_N)
        theta = float(covariance[0, 1] / covariance[1, 1]) if covariance[1, 1] > 0 else 0.0
        explained = theta * float(covariance[0, 1])
        ratio = 1 - explained / float(covariance[0, 0]) if covariance[0, 0] > 0 else 1.0
        return cls(theta=theta, mean=float(covariate_N.mean()), variance_ratio=ratio)

    def adjusted(self, outcome_N: Floats, covariate_N: Floats) -> Floats:
        """Return `outcome - theta (covariate - mean)`, `[N]`: the same mean over all arms, less variance."""
        return np.asarray(outcome_N - self.theta * (covariate_N - self.mean))


def interval_quantile(users: int, confidence: float, *, always_valid: bool) -> float:
    """Return how many standard errors an interval of many users reaches to either side of the difference.

    Args:
        users: So many.
        confidence: Two-sided.
        always_valid: Whether it is the interval that holds however often one looks.

    Example:
        >>> [round(interval_quantile(10_000, 0.95, always_valid=always), 4) for always in (False, True)]
        [1.96, 3.0354]
    """
    if always_valid:
        return math.sqrt(users) * always_valid_factor(users, confidence)
    return float(stats.norm.ppf((1 + confidence) / 2))


def minimum_detectable_effect(
    se: float, confidence: float, power: float = POWER, *, always_valid_users: int | None = None
) -> float:
    """Return the true difference whose interval lies above 0 with this chance: `(reach + z_power) se`.

    Args:
        se: Standard error of the difference.
        confidence: Of the interval, two-sided; of a fixed one, `reach` is `z_(1-alpha/2)`.
        power: The chance.
        always_valid_users: Users after whom the always-valid interval is asked; None for the fixed one.

    Example:
        >>> round(minimum_detectable_effect(1.0, 0.95), 4)
        2.8016
        >>> round(minimum_detectable_effect(1.0, 0.95, always_valid_users=10_000), 4)
        3.8771
    """
    quantile = interval_quantile(always_valid_users or 0, confidence, always_valid=always_valid_users is not None)
    return (quantile + float(stats.norm.ppf(power))) * se


def needed_users(
    users: int, se: float, effect: float, confidence: float, power: float = POWER, *, always_valid: bool = False
) -> int:
    """Return how many users make an effect detectable, when so many gave this standard error; more pages alike.

    Raises:
        ValueError: The effect is 0 or the standard error infinite: no number of users is enough, or none is known.
    """
    if not effect or not math.isfinite(se):
        raise ValueError(f"needed users: expected an effect other than 0 and a finite se, got {effect} and {se}")

    def enough(count: int) -> int:
        """Return how many are needed if the interval reaches as far as that of so many."""
        after = count if always_valid else None
        detectable = minimum_detectable_effect(se, confidence, power, always_valid_users=after)
        return math.ceil(users * (detectable / effect) ** 2)

    needed = enough(users)
    for _ in range(_ROUNDS if always_valid else 0):  # the reach in standard errors hardly depends on the users
        needed = enough(needed)
    return needed


def sample_ratio_p_value(counts_M: Sequence[int], shares_M: Sequence[float]) -> float:
    """Return the chance of counts of users at least so far from the intended shares (chi-square test).

    Below 0.001 the split is broken, and so is whatever is read from it (Fabijan et al. 2019, Diagnosing sample ratio
    mismatch).

    Args:
        counts_M: Users in each arm.
        shares_M: Intended shares > 0; their sum does not matter.

    Example:
        >>> round(sample_ratio_p_value([5100, 4900], [0.5, 0.5]), 4)
        0.0455
    """
    shares = np.asarray(shares_M, dtype=np.float64)
    if len(counts_M) != len(shares) or len(shares) < 2 or not (shares > 0).all() or sum(counts_M) < 1:
        raise ValueError(
            f"sample ratio: expected users of at least 2 arms and shares > 0, got {list(counts_M)} and {list(shares_M)}"
        )
    return float(stats.chisquare(counts_M, shares / shares.sum() * sum(counts_M)).pvalue)
