"""What every estimator must do: equal its slow twin, be 0 for equal policies, and not care how pages come."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from replay_reference import CLIP, REFERENCES
from replay_worlds import random_rounds, target

from kernels.hashing import hash_integers
from pipelines.replay.config import ReplayConfig
from pipelines.replay.estimates import Estimate, estimates, estimates_of
from pipelines.replay.estimators import (
    ClippedDr,
    ClippedIps,
    DoublyRobust,
    Ips,
    ShrunkDr,
    SubGaussianIps,
    SwitchDr,
    primary,
    self_normalised,
    standard_estimators,
)
from pipelines.replay.estimators.interface import Estimator
from pipelines.replay.rounds import Rounds
from pipelines.replay.tally import Tally
from pipelines.replay.values import CHALLENGER, CHAMPION, Sums, influence, value

CONFIG = ReplayConfig(buckets=100, resamples=100)
ALL = standard_estimators(3)
EACH = pytest.mark.parametrize("estimator", ALL, ids=lambda estimator: estimator.name)


def at_clip(estimator: Estimator) -> Estimator:
    """Return the estimator with the parameter of the slow twin alone."""
    field = {SubGaussianIps: "limits", ClippedIps: "clips", ClippedDr: "clips", SwitchDr: "clips", ShrunkDr: "clips"}
    name = field.get(type(estimator))
    return dataclasses.replace(estimator, **{name: (CLIP,)}) if name else estimator  # type: ignore[arg-type]


def estimate_of(estimator: Estimator, rounds: Rounds, config: ReplayConfig = CONFIG) -> Estimate:
    tally = Tally.of([estimator], buckets=config.buckets, slots=rounds.there_RP.shape[1]).add(rounds)
    return estimates_of([estimator], tally, config)[0]


def test_all_have_a_name_and_a_slow_twin_of_their_own() -> None:
    assert sorted(estimator.name for estimator in ALL) == sorted(REFERENCES)


@EACH
@pytest.mark.parametrize(("pages", "slots"), [(40, 1), (60, 3), (33, 7)])
def test_each_equals_its_slow_twin(estimator: Estimator, pages: int, slots: int) -> None:
    rounds = random_rounds(pages, pages, slots)
    estimate = estimate_of(at_clip(estimator), rounds)
    expected_a, expected_b = (
        REFERENCES[estimator.name](rounds, policy) for policy in (rounds.champion, rounds.challenger)
    )
    assert estimate.value_a == pytest.approx(expected_a, rel=1e-12, abs=1e-12)
    assert estimate.value_b == pytest.approx(expected_b, rel=1e-12, abs=1e-12)
    assert estimate.difference == pytest.approx(expected_b - expected_a, rel=1e-12, abs=1e-12)


@EACH
def test_a_policy_against_itself_has_difference_exactly_0(estimator: Estimator) -> None:
    rounds = random_rounds(1, 200, 3)
    estimate = estimate_of(estimator, dataclasses.replace(rounds, challenger=rounds.champion))
    bounds = (estimate.low, estimate.high, estimate.bootstrap_low, estimate.bootstrap_high)
    assert (estimate.difference, estimate.se, *bounds) == (0.0,) * 6
    assert estimate.always_valid_low == estimate.always_valid_high == 0.0


@EACH
def test_chunks_merges_and_order_change_nothing(estimator: Estimator) -> None:
    rounds = random_rounds(2, 500, 3, users=120)
    at_once = Tally.of([estimator], buckets=100, slots=3).add(rounds)
    shuffled = np.random.default_rng(0).permutation(500)
    first, second, third = (
        Tally.of([estimator], buckets=100, slots=3).add(rounds.take(rows)) for rows in np.split(shuffled, [7, 301])
    )
    merged = Tally.from_bytes(third.merge(pickle.loads(pickle.dumps(first))).to_bytes()).merge(second)
    np.testing.assert_allclose(merged.sums_VCG, at_once.sums_VCG, rtol=1e-12, atol=1e-11)
    for name in ("pages_G", "items_GP", "largest_4"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(at_once, name))
    assert merged.users.count() == at_once.users.count() == len(np.unique(rounds.users_R))
    (one,), (other,) = (estimates_of([estimator], tally, CONFIG) for tally in (at_once, merged))
    assert one.difference == pytest.approx(other.difference, rel=1e-10)
    assert one.se == pytest.approx(other.se, rel=1e-10)


@EACH
def test_other_names_of_users_change_no_value(estimator: Estimator) -> None:
    rounds = random_rounds(9, 300, 3, users=80)
    one, other = (
        estimate_of(at_clip(estimator), dataclasses.replace(rounds, users_R=users_R))
        for users_R in (rounds.users_R, hash_integers(rounds.users_R.view(np.int64)))
    )
    assert (one.value_a, one.value_b) == pytest.approx((other.value_a, other.value_b), rel=1e-11)


@EACH
def test_influence_is_the_derivative_with_respect_to_how_often_a_cluster_counts(estimator: Estimator) -> None:
    tally = Tally.of([estimator], buckets=100, slots=3).add(random_rounds(3, 400, 3))
    for unit in ("page", "item", "user"):
        sums = Sums.of(tally, unit)
        formula = estimator.formula(3, estimator.grid[-1] if estimator.grid else None)
        influence_G = influence(formula, sums, CHALLENGER)
        assert influence_G.sum() == pytest.approx(0.0, abs=1e-12)
        for cluster in (0, 17):
            more, less = (value(formula, counted(sums, cluster, 1 + step), CHALLENGER) for step in (1e-5, -1e-5))
            assert (more - less) / 2e-5 == pytest.approx(influence_G[cluster], rel=1e-5, abs=1e-9)


def counted(sums: Sums, cluster: int, times: float) -> Sums:
    """Return the sums as if a cluster had come so many times."""
    times_G = np.where(np.arange(len(sums.pages_G)) == cluster, times, 1.0)
    return dataclasses.replace(
        sums,
        terms_VCG=sums.terms_VCG * times_G,
        pages_G=sums.pages_G * times_G,
        items_GP=sums.items_GP * times_G[:, None],
        units_G=sums.units_G * times_G,
    )


@pytest.mark.parametrize("name", ["ips", "snips", "rips", "snrips", "iips", "sniips", "mips", "snmips"])
def test_the_logging_policy_as_target_has_the_logs_mean_reward(name: str) -> None:
    rounds = random_rounds(4, 300, 3)
    rounds = dataclasses.replace(rounds, champion=target(rounds.logged))
    estimator = next(estimator for estimator in ALL if estimator.name == name)
    for unit, units in (("page", 300), ("item", rounds.there_RP.sum()), ("user", len(np.unique(rounds.users_R)))):
        estimate = estimate_of(estimator, rounds, dataclasses.replace(CONFIG, unit=unit))
        assert estimate.value_a == pytest.approx(rounds.rewards_RP.sum() / units, rel=1e-12)
        assert estimate.mean_weight_a == pytest.approx(1.0, abs=1e-12)


def test_on_pages_of_one_item_the_weights_of_slots_are_those_of_pages() -> None:
    rounds = random_rounds(5, 200, 1)
    rounds = dataclasses.replace(
        rounds,
        logged=dataclasses.replace(rounds.logged, marginal_RP=rounds.logged.conditional_RP),
        challenger=target(
            dataclasses.replace(rounds.challenger.chances, marginal_RP=rounds.challenger.chances.conditional_RP)
        ),
    )
    values = {weights: estimate_of(Ips(weights=weights), rounds).value_b for weights in ("page", "prefix", "position")}
    assert len({round(value, 12) for value in values.values()}) == 1
    assert "iips" not in [estimator.name for estimator in standard_estimators(1)]


def test_estimators_without_anything_to_go_on_are_left_out() -> None:
    rounds = random_rounds(6, 100, 3)
    rounds = dataclasses.replace(
        rounds,
        challenger=dataclasses.replace(rounds.challenger, pseudo_inverse_R=None, drawn_RP=rounds.there_RP & False),
    )
    names = [estimate.name for estimate in estimates(Tally.empty(CONFIG, 3).add(rounds), CONFIG)]
    assert names == [estimator.name for estimator in ALL if estimator.name not in ("pi", "rejection")]


def test_standard_errors_are_those_of_the_difference_not_of_two_independent_values() -> None:
    rounds = random_rounds(7, 4000, 3)
    alike = dataclasses.replace(rounds, challenger=rounds.champion)
    tally = Tally.of([DoublyRobust()], buckets=100, slots=3).add(alike)
    sums = Sums.of(tally, "page")
    assert np.abs(influence(DoublyRobust().formula(3), sums, CHAMPION)).max() > 0
    assert estimate_of(DoublyRobust(), alike).se == 0.0


def test_a_user_of_all_pages_leaves_no_interval() -> None:
    rounds = dataclasses.replace(random_rounds(8, 50, 1), users_R=np.zeros(50, dtype=np.uint64))
    estimate = estimate_of(Ips(), rounds)
    assert (estimate.se, estimate.low, estimate.high) == (np.inf, -np.inf, np.inf)
    assert (estimate.bootstrap_low, estimate.always_valid_high) == (-np.inf, np.inf)


def test_no_pages_give_no_estimate() -> None:
    with pytest.raises(ValueError, match="expected logged pages, got a tally of none"):
        estimates(Tally.empty(CONFIG, 1), CONFIG)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ips(weights="none"), "Ips: weights: expected one of page, prefix, position, cluster, got 'none'"),
        (lambda: DoublyRobust(weights="prefix"), "DoublyRobust: weights: expected one of page, position, got 'prefix'"),
        (lambda: ClippedIps(clips=(1.0, 2.0)), r"ClippedIps: grid: expected descending .* got \(1.0, 2.0\)"),
        (lambda: SwitchDr(clips=()), r"SwitchDr: grid: .* at least one, got \(\)"),
        (lambda: ShrunkDr(clips=(1.0, 0.0)), r"ShrunkDr: grid: .*> 0"),
        (lambda: SubGaussianIps(limits=(1.0,)), "limits: expected more than 1, got 1.0"),
        (lambda: ClippedIps().formula(1), "clip: expected a parameter of the grid, got None"),
    ],
)
def test_nonsense_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_the_decider_is_chosen_by_the_length_of_pages_or_by_name() -> None:
    assert (primary("auto", 1), primary("auto", 10), primary("cascade_dr", 3)) == ("ips", "iips_dr", "cascade_dr")
    with pytest.raises(ValueError, match=r"estimator: expected auto or one of ips, .*, got 'rips'"):
        primary("rips", 1)


def test_every_estimator_that_promises_something_has_a_twin_of_the_same_weights_or_is_one() -> None:
    for slots in (1, 3):
        known = {one.name: one for one in standard_estimators(slots)}
        for name, one in known.items():
            parameter = one.grid[0] if one.grid else None
            formula, twin = one.formula(slots, parameter), self_normalised(name, slots)
            if one.promise == "none" or formula.self_normalised:
                assert twin is None, name
            else:
                normalised = known[str(twin)].formula(slots)
                assert normalised.self_normalised, name
                same = {term.weights for term in normalised.weighted} == {term.weights for term in formula.weighted}
                assert same or name == "pi", name
