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
    resample_counts,
    standard_error,
    student_quantile,
    studentised_bounds,
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
        low, high: The interval that decides, by Student's t.
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
        columns: Where a term lies in `terms_GVC`.
        terms_GVC: Terms per policy.
        pages_G: Logged pages.
        items_GP: Shown items by slot.
        units_G: What the reward is a mean over.
    """

    columns: dict[Term, int]
    terms_GVC: Floats
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
            terms_GVC=tally.sums_GVC[present],
            pages_G=tally.pages_G[present].astype(np.float64),
            items_GP=tally.items_GP[present].astype(np.float64),
            units_G=units_G[present].astype(np.float64),
        )

    def term(self, term: Term, policy: int) -> Floats:
        """Return a term's sums, `[G]`."""
        return self.terms_GVC[:, policy, self.columns[term]]

    def known(self, weight: Term) -> Floats:
        """Return what sums of weights are on average, `[G]`: pages, or items for weights of slots."""
        if weight.of_pages:
            return self.pages_G
        return np.asarray(self.items_GP.sum(axis=1) if weight.slot is None else self.items_GP[:, weight.slot])


def estimates(tally: Tally, config: ReplayConfig, seed: int = 0) -> list[Estimate]:
    """Return the estimates of all standard estimators.

    Estimators that choose a parameter do so by SLOPE on the difference. The pseudo-inverse estimator is left out
    where pages were judged without its weights.

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
    users = max(tally.users.count(), 1)
    done = [_estimate(estimator, sums, tally, config, counts_SG, users) for estimator in estimators]
    return [estimate for estimate in done if estimate is not None]


def _estimate(
    estimator: Estimator, sums: Sums, tally: Tally, config: ReplayConfig, counts_SG: Floats, users: int
) -> Estimate | None:
    parameters = estimator.grid or (None,)
    formulas = [estimator.formula(tally.slots, parameter) for parameter in parameters]
    values_MV = np.array([[value(formula, sums, policy) for policy in (CHAMPION, CHALLENGER)] for formula in formulas])
    influence_MG = np.stack(
        [influence(formula, sums, CHALLENGER) - influence(formula, sums, CHAMPION) for formula in formulas]
    )
    if np.isnan(values_MV).all():
        return None
    differences_M = values_MV[:, CHALLENGER] - values_MV[:, CHAMPION]
    errors_M = standard_error(influence_MG)
    quantile = student_quantile(len(sums.pages_G), config.confidence)
    best = slope.chosen(differences_M, quantile * errors_M)
    difference, error = float(differences_M[best]), float(errors_M[best])
    below, above = studentised_bounds(
        influence_MG[best : best + 1], errors_M[best : best + 1], counts_SG, config.confidence
    )
    sequence = error * math.sqrt(users) * always_valid_factor(users, config.confidence)
    reach = quantile * error if error else 0.0
    weights = formulas[best].weights
    return Estimate(
        name=estimator.name,
        value_a=float(values_MV[best, CHAMPION]),
        value_b=float(values_MV[best, CHALLENGER]),
        difference=difference,
        se=error,
        low=difference - reach,
        high=difference + reach,
        bootstrap_low=difference - float(below[0]),
        bootstrap_high=difference + float(above[0]),
        always_valid_low=difference - sequence,
        always_valid_high=difference + sequence,
        promise=estimator.promise,
        assumption=estimator.assumption,
        bias_bound=bias_bound(formulas[best], sums, tally.largest_4) if estimator.promise == "bounded" else None,
        parameter=parameters[best],
        path=tuple(zip(estimator.grid, differences_M.tolist(), errors_M.tolist(), strict=True))
        if estimator.grid
        else (),
        mean_weight_a=mean_weight(weights, sums, CHAMPION),
        mean_weight_b=mean_weight(weights, sums, CHALLENGER),
        effective_users_a=effective_users(weights, sums, CHAMPION, len(tally.pages_G), users),
        effective_users_b=effective_users(weights, sums, CHALLENGER, len(tally.pages_G), users),
    )


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


def mean_weight(weights: Sequence[Term], sums: Sums, policy: int) -> float | None:
    """Return the mean of a policy's weights, None without weights."""
    if not weights:
        return None
    total = sum(float(sums.term(weight, policy).sum()) for weight in weights)
    return total / sum(float(sums.known(weight).sum()) for weight in weights)


def effective_users(weights: Sequence[Term], sums: Sums, policy: int, buckets: int, users: int) -> float | None:
    """Return Kish's effective number of users, `(sum W)^2 / sum W^2`, None without weights, 0 if all weights are 0.

    Users fall into buckets at random, so `buckets * variance of the buckets' sums` (empty ones count 0) is on average
    the sum of squares over users, however many share a bucket.
    """
    if not weights:
        return None
    weight_G = np.sum([sums.term(weight, policy) for weight in weights], axis=0)
    total, squares = float(weight_G.sum()), float(np.square(weight_G).sum())
    users_squares = (squares - total * total / buckets) * buckets / (buckets - 1)
    return min(total * total / users_squares, float(users)) if users_squares > 0 else 0.0


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
