"""From tallied sums to estimates of both policies' values and of the difference challenger - champion.

Legend: `G` buckets with pages (clusters), `V` the two policies, `E` estimates, `S` resamples; `...` any leading shape.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from pipelines.replay import slope
from pipelines.replay.config import ITEM, USER, ReplayConfig
from pipelines.replay.estimators import standard_estimators
from pipelines.replay.estimators.interface import Estimator, Formula, Promise
from pipelines.replay.estimators.terms import Measure, Term
from pipelines.replay.intervals import (
    always_valid_factor,
    linearised_reach,
    resample_counts,
    standard_error,
    student_quantile,
    studentised_reach,
)
from pipelines.replay.rounds import Floats
from pipelines.replay.tally import Tally

CHAMPION, CHALLENGER = 0, 1


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
            the largest seen; None where no bound is promised. The intervals do not contain it.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums of the buckets that hold pages.

    Attributes:
        columns: Where a term lies in `terms_VCG`.
        terms_VCG: Terms per policy.
        pages_G: Logged pages.
        items_GP: Shown items by slot.
        units_G: What the reward is a mean over.
    """

    columns: dict[Term, int]
    terms_VCG: Floats
    pages_G: Floats
    items_GP: Floats
    units_G: Floats

    @classmethod
    def of(cls, tally: Tally, unit: str) -> Sums:
        """Return the sums of a tally that holds pages, for rewards per page, item or user."""
        present = np.flatnonzero(tally.pages_G)
        if not len(present):
            raise ValueError("estimates: expected logged pages, got a tally of none")
        units_G = {ITEM: tally.items_GP.sum(axis=1), USER: tally.users.per_bucket(len(tally.pages_G))}.get(
            unit, tally.pages_G
        )
        return cls(
            columns={term: column for column, term in enumerate(tally.terms)},
            terms_VCG=tally.sums_VCG[:, :, present],
            pages_G=tally.pages_G[present].astype(np.float64),
            items_GP=tally.items_GP[present].astype(np.float64),
            units_G=units_G[present].astype(np.float64),
        )

    def term(self, term: Term, policy: int) -> Floats:
        """Return a term's sums, `[G]`."""
        return self.terms_VCG[policy, self.columns[term]]

    def known(self, weight: Term) -> Floats:
        """Return what sums of weights are on average, `[G]`: pages, or items for weights of slots."""
        if weight.of_pages:
            return self.pages_G
        return np.asarray(self.items_GP.sum(axis=1) if weight.slot is None else self.items_GP[:, weight.slot])


def estimates(tally: Tally, config: ReplayConfig, seed: int = 0) -> list[Estimate]:
    """Return the estimates of all standard estimators.

    Estimators that choose a parameter do so by SLOPE on the difference. One that has nothing to go on is left out: PI
    where pages were judged without its weights, replay by rejection where no page was drawn again.

    Args:
        tally: Sums of at least one page.
        config: Its `unit`, `confidence` and `resamples` count.
        seed: Of the bootstrap.

    Raises:
        ValueError: The tally holds no page.
    """
    return estimates_of(standard_estimators(tally.slots), tally, config, seed)


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
    best = slope.chosen(differences_M, student_quantile(len(sums.pages_G), config.confidence) * errors_M)
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
    """Return both ends of the three intervals of a difference by the names that `Estimate` has for them."""
    influence_EG = influence_G[None]
    error_E = standard_error(influence_EG)
    sequence_E = error_E * math.sqrt(users) * always_valid_factor(users, confidence)
    reaches = {
        "": linearised_reach(influence_EG, error_E, confidence),
        "bootstrap_": studentised_reach(influence_EG, error_E, counts_SG, confidence),
        "always_valid_": (sequence_E, sequence_E),
    }
    lows = {f"{kind}low": difference - float(below_E[0]) for kind, (below_E, _) in reaches.items()}
    return lows | {f"{kind}high": difference + float(above_E[0]) for kind, (_, above_E) in reaches.items()}


def value(formula: Formula, sums: Sums, policy: int) -> float:
    """Return a policy's value by a formula; nan where all weights that it is normalised by are 0."""
    total = sum(float(sums.term(term, policy).sum()) for term in formula.base)
    for term, weight in zip(formula.weighted, formula.weights, strict=True):
        scale = _scale(weight, sums, policy) if formula.self_normalised else 1.0
        total += scale * float(sums.term(term, policy).sum())
    return total / float(sums.units_G.sum())


def influence(formula: Formula, sums: Sums, policy: int) -> Floats:
    """Return each cluster's first-order effect on a policy's value, `[G]`; their sum is 0.

    With `V = (B + N / D K) / U` it is `(b + N / D k + K / D (n - N / D d) - V u) / U` (the delta method), where small
    letters are the sums of the cluster; without a normaliser `(b + n - V u) / U`.
    """
    effect_G = -value(formula, sums, policy) * sums.units_G
    for term in formula.base:
        effect_G = effect_G + sums.term(term, policy)
    for term, weight in zip(formula.weighted, formula.weights, strict=True):
        weighted_G = sums.term(term, policy)
        if formula.self_normalised:
            weight_G, known_G = sums.term(weight, policy), sums.known(weight)
            ratio = float(weighted_G.sum()) / (float(weight_G.sum()) or math.nan) if known_G.any() else 0.0
            weighted_G = ratio * known_G + _scale(weight, sums, policy) * (weighted_G - ratio * weight_G)
        effect_G = effect_G + weighted_G
    return np.asarray(effect_G / sums.units_G.sum())


def _scale(weight: Term, sums: Sums, policy: int) -> float:
    """Return what makes a sum of weights its known mean: 1 where no page has the slot, nan if all weights are 0."""
    known, normaliser = float(sums.known(weight).sum()), float(sums.term(weight, policy).sum())
    return known / (normaliser or math.nan) if known else 1.0


def mean_weight(formula: Formula, sums: Sums, policy: int) -> float | None:
    """Return the mean of a policy's weights, None without weights."""
    if not formula.weights:
        return None
    total = sum(float(sums.term(weight, policy).sum()) for weight in formula.weights)
    return total / sum(float(sums.known(weight).sum()) for weight in formula.weights)


def effective_users(formula: Formula, sums: Sums, policy: int, tally: Tally) -> float | None:
    """Return Kish's effective number of users, `(sum W)^2 / sum W^2`, None without weights, 0 if all weights are 0.

    Users fall into buckets at random, so `buckets * variance of the buckets' sums` (empty ones count 0) is on average
    the sum of squares over users, however many share a bucket.
    """
    if not formula.weights:
        return None
    buckets = len(tally.pages_G)
    weight_G = np.sum([sums.term(weight, policy) for weight in formula.weights], axis=0)
    total, squares = float(weight_G.sum()), float(np.square(weight_G).sum())
    users_squares = (squares - total * total / buckets) * buckets / (buckets - 1)
    return min(total * total / users_squares, float(tally.users.count())) if users_squares > 0 else 0.0


_LARGEST: dict[tuple[Measure, bool], int] = {
    ("reward", True): 0,
    ("residual", True): 1,
    ("reward", False): 2,
    ("residual", False): 3,
}


def bias_bound(formula: Formula, sums: Sums, largest_4: Floats) -> float:
    """Return the most that shrunk weights may shift the difference: lost weight times the largest thing weighed.

    Weights are 1 on average, so their shrunk mean tells how much was lost, for either policy: `sum_v (1 - mean w_v)`.
    """
    bound = 0.0
    for term, weight in zip(formula.weighted, formula.weights, strict=True):
        known = float(sums.known(weight).sum())
        means = [float(sums.term(weight, policy).sum()) / known for policy in (CHAMPION, CHALLENGER)]
        lost = sum(max(1.0 - mean, 0.0) for mean in means)
        bound += lost * float(largest_4[_LARGEST[term.measure, weight.of_pages]]) * known
    return bound / float(sums.units_G.sum())
