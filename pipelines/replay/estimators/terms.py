"""What estimators sum over logged pages: a weight times something seen there.

Every estimator is a function of a few such sums, so one pass over the logs serves them all, and several share a sum.
Legend: `R` logged pages, `P` slots, `C` terms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipelines.replay.estimators.weights import PAGE_WEIGHTS, Shrink, Weights, weights_of
from pipelines.replay.rounds import Floats, Rounds, Target

Measure = Literal["reward", "residual", "expected", "expected_next", "one"]
"""What is weighed: the reward; the reward less its prediction; the reward that the model predicts for what the policy
would show; the same given the logged items before; 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """The sum over a page of `shrink(weight) * measure`: over its slots, or with page weights of its totals.

    `one` counts the page once with page weights, its shown items with weights of slots. With `slot` the others count
    nothing.
    """

    measure: Measure
    weights: Weights
    shrink: Shrink | None = None
    slot: int | None = None

    @property
    def of_pages(self) -> bool:
        """Whether a weight is that of a whole page."""
        return self.weights in PAGE_WEIGHTS


def terms_of(rounds: Rounds, target: Target, terms: Sequence[Term]) -> Floats:
    """Return each term of each page, `[C, R]`, for one policy."""
    sums_CR = np.empty((len(terms), len(rounds)))
    measures = {measure: _measured(rounds, target, measure) for measure in {term.measure for term in terms}}
    totals = {measure: measured_RP.sum(axis=1) for measure, measured_RP in measures.items()}
    totals["one"] = np.ones(len(rounds))
    weights = {kind: weights_of(rounds, target, kind) for kind in {term.weights for term in terms}}
    shrunk: dict[tuple[Weights, Shrink | None], Floats] = {}
    for column, term in enumerate(terms):
        key = (term.weights, term.shrink)
        if key not in shrunk:
            shrunk[key] = weights[term.weights] if term.shrink is None else term.shrink(weights[term.weights])
        if term.of_pages:
            sums_CR[column] = shrunk[key] * totals[term.measure]
        elif term.slot is not None:
            sums_CR[column] = _slot(shrunk[key], term.slot) * _slot(measures[term.measure], term.slot)
        else:
            sums_CR[column] = np.einsum("rp,rp->r", shrunk[key], measures[term.measure])
    return sums_CR


def _slot(array_RP: Floats, slot: int) -> Floats | float:
    return array_RP[:, slot] if slot < array_RP.shape[1] else 0.0


def _measured(rounds: Rounds, target: Target, measure: Measure) -> Floats:
    if measure == "one":
        return rounds.there_RP.astype(np.float64)
    measured_RP = {
        "reward": rounds.rewards_RP,
        "residual": rounds.rewards_RP - rounds.predicted_RP,
        "expected": target.expected_RP,
        "expected_next": target.expected_next_RP,
    }[measure]
    return np.where(rounds.there_RP, measured_RP, 0.0)
