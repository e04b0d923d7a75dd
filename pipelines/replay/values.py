"""What a formula says of the sums of a tally: values, what each bucket of users adds to them, and how weights spread.

Legend: `P` slots, `G` buckets with pages (clusters), `V` the two policies, `C` terms.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pipelines.replay.config import ITEM, USER
from pipelines.replay.estimators.interface import Formula
from pipelines.replay.estimators.terms import Measure, Term
from pipelines.replay.rounds import Floats
from pipelines.replay.tally import Tally

CHAMPION, CHALLENGER = 0, 1
_LARGEST: dict[tuple[Measure, bool], int] = {
    ("reward", True): 0,
    ("residual", True): 1,
    ("reward", False): 2,
    ("residual", False): 3,
}


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
    the sum of squares over users, however many share a bucket; its relative error is about `sqrt(2 / buckets)`.
    """
    if not formula.weights:
        return None
    buckets = len(tally.pages_G)
    weight_G = np.sum([sums.term(weight, policy) for weight in formula.weights], axis=0)
    total, squares = float(weight_G.sum()), float(np.square(weight_G).sum())
    users_squares = (squares - total * total / buckets) * buckets / (buckets - 1)
    return min(total * total / users_squares, float(tally.users.count())) if users_squares > 0 else 0.0


def bias_bound(formula: Formula, sums: Sums, largest_4: Floats) -> float:
    """Return the most that shrunk weights may shift the difference: lost weight times the largest thing weighed.

    Weights are 1 on average, so their shrunk mean tells how much was lost, for either policy: `sum_v (1 - mean w_v)`;
    weights that stay as they are lose nothing, whatever their mean is by chance.
    """
    bound = 0.0
    for term, weight in zip(formula.weighted, formula.weights, strict=True):
        if term.shrink is None:
            continue
        known = float(sums.known(weight).sum())
        means = [float(sums.term(weight, policy).sum()) / known for policy in (CHAMPION, CHALLENGER)]
        lost = sum(max(1.0 - mean, 0.0) for mean in means)
        bound += lost * float(largest_4[_LARGEST[term.measure, weight.of_pages]]) * known
    return bound / float(sums.units_G.sum())
