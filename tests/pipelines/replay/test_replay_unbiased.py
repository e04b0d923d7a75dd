"""A world small enough to list all its pages: expectations of estimators are exact sums, not simulations.

Three items fill two slots without replacement, so that a slot's chances depend on the slot before. `T` contexts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from replay_worlds import chances, rounds_of, target

from pipelines.replay.config import ReplayConfig
from pipelines.replay.estimates import estimates_of
from pipelines.replay.estimators import ClippedIps, standard_estimators
from pipelines.replay.estimators.interface import Formula
from pipelines.replay.estimators.terms import terms_of
from pipelines.replay.rounds import Floats, Rounds, Target
from pipelines.replay.tally import Tally

ITEMS, SLOTS, CONTEXTS = 3, 2, 2
CLUSTER = np.array([0, 0, 1])
PAGES = list(itertools.permutations(range(ITEMS), SLOTS))
Rewards = Callable[[int, tuple[int, ...]], list[float]]
"""Mean reward of each slot of a page in a context."""
TABLE = np.random.default_rng(3).uniform(0, 1, (CONTEXTS, SLOTS, ITEMS, ITEMS))
MODEL = np.random.default_rng(4).uniform(0, 1, (CONTEXTS, SLOTS, ITEMS))
"""A reward model that is wrong everywhere."""


def of_the_whole_page(context: int, page: tuple[int, ...]) -> list[float]:
    return [TABLE[context, 0, page[0], page[1]], TABLE[context, 1, page[0], page[1]]]


def of_items_above(context: int, page: tuple[int, ...]) -> list[float]:
    return [TABLE[context, 0, page[0], 0], TABLE[context, 1, page[0], page[1]]]


def of_the_own_item(context: int, page: tuple[int, ...]) -> list[float]:
    return [TABLE[context, 0, page[0], 0], TABLE[context, 1, page[1], 0]]


def of_the_own_cluster(context: int, page: tuple[int, ...]) -> list[float]:
    return [TABLE[context, slot, CLUSTER[page[slot]], 0] for slot in range(SLOTS)]


def of_the_model(context: int, page: tuple[int, ...]) -> list[float]:
    return [MODEL[context, slot, page[slot]] for slot in range(SLOTS)]


UNBIASED = {
    of_the_whole_page: ("ips", "dr"),
    of_items_above: ("ips", "dr", "rips", "cascade_dr"),
    of_the_own_item: ("ips", "dr", "rips", "cascade_dr", "iips", "iips_dr", "pi"),
    of_the_own_cluster: ("ips", "dr", "rips", "cascade_dr", "iips", "iips_dr", "pi", "mips"),
    of_the_model: ("ips", "dr", "rips", "cascade_dr", "iips", "iips_dr", "pi", "dm"),
}
CONSISTENT = {
    of_the_whole_page: ("snips", "sndr"),
    of_items_above: ("snips", "sndr", "snrips"),
    of_the_own_item: ("snips", "sndr", "snrips", "sniips", "iips_sndr"),
    of_the_own_cluster: ("snips", "sndr", "snrips", "sniips", "iips_sndr", "snmips"),
}


@pytest.mark.parametrize(
    ("rewards", "name"),
    [(rewards, name) for world in (UNBIASED, CONSISTENT) for rewards in world for name in world[rewards]],
)
def test_the_expectation_is_the_true_value_where_the_assumption_holds(rewards: Rewards, name: str) -> None:
    rounds, probability_R, truth = world(rewards)
    assert expectation(name, rounds, probability_R) == pytest.approx(truth, abs=1e-10)


@pytest.mark.parametrize(
    ("rewards", "name"),
    [
        (of_the_whole_page, "rips"),
        (of_the_whole_page, "cascade_dr"),
        (of_items_above, "iips"),
        (of_items_above, "iips_dr"),
        (of_items_above, "pi"),
        (of_the_own_item, "mips"),
        (of_the_own_item, "dm"),
    ],
)
def test_it_is_not_where_the_assumption_is_broken(rewards: Rewards, name: str) -> None:
    rounds, probability_R, truth = world(rewards)
    assert abs(expectation(name, rounds, probability_R) - truth) > 1e-3


def test_replay_by_rejection_needs_uniform_logs() -> None:
    for uniform, holds in ((True, True), (False, False)):
        rounds, probability_R, truth = world(of_the_whole_page, uniform=uniform)
        assert (abs(expectation("rejection", rounds, probability_R) - truth) < 1e-10) is holds


@pytest.mark.parametrize("name", ["clipped_ips", "clipped_dr", "switch_dr", "dros", "iips_clipped_dr", "iips_dros"])
def test_the_bias_of_shrinking_stays_within_its_bound(name: str) -> None:
    rounds, probability_R, truth = world(of_the_own_item)
    estimator = next(estimator for estimator in standard_estimators(SLOTS) if estimator.name == name)
    for parameter in estimator.grid:
        formula = estimator.formula(SLOTS, parameter)
        (weight,) = formula.weights
        lost = (1.0 if weight.of_pages else SLOTS) - probability_R @ terms_of(rounds, rounds.challenger, [weight])[0]
        largest = 2.0 if weight.of_pages else 1.0
        bias = abs(expected(formula, rounds, probability_R) - truth)
        assert bias <= lost * largest + 1e-12
    assert bias > 1e-6, "the last parameter shrinks weights of this world"


def expectation(name: str, rounds: Rounds, probability_R: Floats) -> float:
    estimator = next(estimator for estimator in standard_estimators(SLOTS) if estimator.name == name)
    return expected(estimator.formula(SLOTS), rounds, probability_R)


def expected(formula: Formula, rounds: Rounds, probability_R: Floats) -> float:
    """Return the mean over all pages; of a self-normalised estimator what it tends to: a ratio of means."""

    def mean(terms: tuple[object, ...]) -> Floats:
        return terms_of(rounds, rounds.challenger, terms) @ probability_R  # type: ignore[arg-type]

    weighted, weights = mean(formula.weighted), mean(formula.weights)
    return float(mean(formula.base).sum() + (weighted / (weights if formula.self_normalised else 1.0)).sum())


def world(rewards: Rewards, uniform: bool = False) -> tuple[Rounds, Floats, float]:
    """Return all contexts' pages, their probabilities under the log, and the challenger's true value.

    With uniform logs the challenger is deterministic and its draw is the page it shows; else both are random.
    """
    rng = np.random.default_rng(5)
    scores_TI = np.zeros((CONTEXTS, ITEMS)) if uniform else rng.normal(size=(CONTEXTS, ITEMS))
    policy_TI = rng.normal(size=(CONTEXTS, ITEMS)) * (1e6 if uniform else 1.5)
    listed = list(itertools.product(range(CONTEXTS), PAGES))
    logged_R, log = judged(scores_TI, listed)
    policy_R, policy = judged(policy_TI, listed)
    # a drawn page is logged independently of the policy's draw: the chance that they match is the policy's own
    drawn_RP = np.repeat((policy_R * CONTEXTS > 0.5)[:, None], SLOTS, axis=1)
    rewards_RP = np.array([rewards(context, page) for context, page in listed])
    predicted_RP = np.array([of_the_model(context, page) for context, page in listed])
    policy = dataclasses.replace(policy, drawn_RP=drawn_RP, pseudo_inverse_R=pseudo_inverse(logged_R, policy_R, listed))
    rounds = rounds_of(rewards_RP, log.chances, log, policy, predicted_RP)
    return rounds, logged_R, float(policy_R @ rewards_RP.sum(axis=1))


def judged(scores_TI: Floats, listed: list[tuple[int, tuple[int, ...]]]) -> tuple[Floats, Target]:
    """Return the probability of each context and page under a Plackett-Luce policy, and what it makes of them."""
    conditional_RP = np.array([slot_chances(scores_TI[context], page) for context, page in listed])
    page_R = conditional_RP.prod(axis=1)
    of = np.array([context for context, _ in listed])
    shown_RP = np.array([page for _, page in listed])
    held_TPI = np.zeros((CONTEXTS, SLOTS, ITEMS))
    for slot in range(SLOTS):
        np.add.at(held_TPI[:, slot], (of, shown_RP[:, slot]), page_R)
    clusters_TPI = held_TPI @ (CLUSTER[:, None] == CLUSTER)
    slots = np.arange(SLOTS)
    expected_RP = (held_TPI * MODEL).sum(axis=-1)[of]
    first_R, second_TI = expected_RP[:, 0], scores_TI
    next_R = [
        sum(
            slot_chances(second_TI[context], (page[0], item))[1] * MODEL[context, 1, item]
            for item in range(ITEMS)
            if item != page[0]
        )
        for context, page in listed
    ]
    judged_chances = chances(
        conditional_RP, held_TPI[of[:, None], slots, shown_RP], clusters_TPI[of[:, None], slots, shown_RP]
    )
    return page_R / CONTEXTS, target(judged_chances, expected_RP, np.stack([first_R, np.array(next_R)], axis=1))


def slot_chances(scores_I: Floats, page: tuple[int, ...]) -> list[float]:
    left, chosen = list(range(ITEMS)), []
    for item in page:
        weights = np.exp(scores_I[left] - scores_I[left].max())
        chosen.append(float(weights[left.index(item)] / weights.sum()))
        left.remove(item)
    return chosen


def pseudo_inverse(logged_R: Floats, policy_R: Floats, listed: list[tuple[int, tuple[int, ...]]]) -> Floats:
    """Return `policy' pinv(Gamma) page` of each page, over indicators of (slot, item)."""
    indicators_RD = np.zeros((len(listed), SLOTS * ITEMS))
    for row, (_, page) in enumerate(listed):
        for slot, item in enumerate(page):
            indicators_RD[row, slot * ITEMS + item] = 1.0
    weights_R = np.empty(len(listed))
    for context in range(CONTEXTS):
        rows = [row for row, (of, _) in enumerate(listed) if of == context]
        pages_D = indicators_RD[rows]
        gamma_DD = (pages_D * logged_R[rows, None] * CONTEXTS).T @ pages_D
        shown_D = policy_R[rows] * CONTEXTS @ pages_D
        weights_R[rows] = pages_D @ np.linalg.pinv(gamma_DD, rcond=1e-12) @ shown_D
    return weights_R


def test_weights_that_nothing_shrinks_cost_no_bias_whatever_their_mean_is_by_chance() -> None:
    rounds, _, _ = world(of_the_own_item)
    shrunk = (ClippedIps(clips=(math.inf,)), ClippedIps(clips=(0.5,)))
    tally = Tally.of(shrunk, buckets=100, slots=SLOTS).add(rounds)
    whole, clipped = estimates_of(shrunk, tally, ReplayConfig(resamples=100))
    assert whole.bias_bound == 0.0
    assert clipped.bias_bound is not None
    assert clipped.bias_bound > 0.0
