"""From tallied sums to estimates of both policies' values and of the difference challenger - champion.

Legend: `G` buckets with pages (clusters), `V` the two policies, `M` parameters of a grid, `E` estimates, `S` resamples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from pipelines.replay import selection
from pipelines.replay.config import ReplayConfig
from pipelines.replay.estimators import standard_estimators
from pipelines.replay.estimators.doubly_robust import DirectMethod
from pipelines.replay.estimators.interface import Estimator, Promise
from pipelines.replay.intervals import (
    always_valid_factor,
    linearised_reach,
    resample_counts,
    standard_error,
    studentised_reach,
)
from pipelines.replay.rounds import Floats
from pipelines.replay.tally import Tally
from pipelines.replay.values import (
    CHALLENGER,
    CHAMPION,
    Sums,
    bias_bound,
    effective_users,
    influence,
    mean_weight,
    value,
)

KINDS_OF_INTERVALS = ("", "bootstrap_", "always_valid_")
"""What the ends of an estimate's intervals begin with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one estimator says of the difference challenger - champion, in reward per unit.

    Attributes:
        name: Of the estimator.
        value_a: The champion's value.
        value_b: The challenger's.
        difference: `value_b - value_a`.
        se: Cluster-robust standard error of the difference, by buckets of users.
        low, high: The interval that decides (`pipelines.replay.intervals.linearised_reach`).
        bootstrap_low, bootstrap_high: By the studentised bootstrap of buckets.
        always_valid_low, always_valid_high: Covers at all looks at once.
        promise: What it promises where the assumption holds.
        assumption: In words.
        bias_bound: Most that shrinking the weights may have cost, in the unit of the difference, if no reward exceeds
            the largest seen; None where no bound is promised. The intervals do not contain it (`widened`).
        parameter: Chosen shrinking parameter; None where there is none.
        path: Difference and standard error at every parameter of the grid, from the least bias to the most.
        mean_weight_a, mean_weight_b: 1 on average where probabilities are right and the log could show everything;
            None for estimators without weights.
        effective_users_a, effective_users_b: Kish's effective sample size of users, `(sum W)^2 / sum W^2` over the
            users' sums of weights; None for estimators without weights.
    """

    name: str
    value_a: float
    value_b: float
    difference: float
    se: float
    low: float
    high: float
    bootstrap_low: float
    bootstrap_high: float
    always_valid_low: float
    always_valid_high: float
    promise: Promise
    assumption: str
    bias_bound: float | None
    parameter: float | None
    path: tuple[tuple[float, float, float], ...]
    mean_weight_a: float | None
    mean_weight_b: float | None
    effective_users_a: float | None
    effective_users_b: float | None

    def widened(self) -> Estimate:
        """Return the same with `bias_bound` added at both ends of all intervals: what is shown and what decides."""
        bias = self.bias_bound or 0.0
        ends = {f"{kind}low": getattr(self, f"{kind}low") - bias for kind in KINDS_OF_INTERVALS}
        ends |= {f"{kind}high": getattr(self, f"{kind}high") + bias for kind in KINDS_OF_INTERVALS}
        return dataclasses.replace(self, **ends)


def estimates(tally: Tally, config: ReplayConfig, seed: int = 0) -> list[Estimate]:
    """Return the estimates of all standard estimators.

    Estimators that choose a parameter do so for the difference (`pipelines.replay.selection`). One that has nothing to
    go on is left out: PI where pages were judged without its weights, replay by rejection where no page was drawn
    again, DM without a reward model.

    Args:
        tally: Sums of at least one page.
        config: Its `unit`, `confidence` and `resamples` count.
        seed: Of the bootstrap.

    Raises:
        ValueError: The tally holds no page.
    """
    known = standard_estimators(tally.slots)
    if config.reward_model == "none":
        known = tuple(one for one in known if not isinstance(one, DirectMethod))
    return estimates_of(known, tally, config, seed)


def estimates_of(estimators: Sequence[Estimator], tally: Tally, config: ReplayConfig, seed: int = 0) -> list[Estimate]:
    """Return the estimates of these estimators, of whose terms the tally was made."""
    sums = Sums.of(tally, config.unit)
    counts_SG = resample_counts(len(sums.pages_G), config.resamples, seed)
    done = [_estimate(estimator, sums, tally, config, counts_SG) for estimator in estimators]
    return [estimate for estimate in done if math.isfinite(estimate.difference)]


def _estimate(estimator: Estimator, sums: Sums, tally: Tally, config: ReplayConfig, counts_SG: Floats) -> Estimate:
    parameters = estimator.grid or (None,)
    formulas = [estimator.formula(tally.slots, parameter) for parameter in parameters]
    values_VM = np.array([[value(formula, sums, policy) for formula in formulas] for policy in (CHAMPION, CHALLENGER)])
    influence_MG = np.stack(
        [influence(formula, sums, CHALLENGER) - influence(formula, sums, CHAMPION) for formula in formulas]
    )
    differences_M, errors_M = values_VM[CHALLENGER] - values_VM[CHAMPION], standard_error(influence_MG)
    best = selection.chosen(differences_M, errors_M)
    formula = formulas[best]
    return Estimate(
        name=estimator.name,
        value_a=float(values_VM[CHAMPION, best]),
        value_b=float(values_VM[CHALLENGER, best]),
        difference=float(differences_M[best]),
        se=float(errors_M[best]),
        **intervals_of(
            float(differences_M[best]), influence_MG[best], counts_SG, tally.users.count(), config.confidence
        ),
        promise=estimator.promise,
        assumption=estimator.assumption,
        bias_bound=bias_bound(formula, sums, tally.largest_4) if estimator.promise == "bounded" else None,
        parameter=parameters[best],
        path=tuple(zip(estimator.grid, differences_M.tolist(), errors_M.tolist(), strict=False)),
        mean_weight_a=mean_weight(formula, sums, CHAMPION),
        mean_weight_b=mean_weight(formula, sums, CHALLENGER),
        effective_users_a=effective_users(formula, sums, CHAMPION, tally),
        effective_users_b=effective_users(formula, sums, CHALLENGER, tally),
    )


def intervals_of(
    difference: float, influence_G: Floats, counts_SG: Floats, users: int, confidence: float
) -> dict[str, float]:
    """Return both ends of the three intervals of a difference by the names that `Estimate` has for them.

    The always-valid one holds the one of a single look: its sequence is symmetric, and knows nothing of skewness.
    """
    influence_EG = influence_G[None]
    error_E = standard_error(influence_EG)
    sequence_E = error_E * math.sqrt(users) * always_valid_factor(users, confidence)
    below_E, above_E = linearised_reach(influence_EG, error_E, confidence)
    reaches = {
        "": (below_E, above_E),
        "bootstrap_": studentised_reach(influence_EG, error_E, counts_SG, confidence),
        "always_valid_": (np.maximum(sequence_E, below_E), np.maximum(sequence_E, above_E)),
    }
    lows = {f"{kind}low": difference - float(below[0]) for kind, (below, _) in reaches.items()}
    return lows | {f"{kind}high": difference + float(above[0]) for kind, (_, above) in reaches.items()}
