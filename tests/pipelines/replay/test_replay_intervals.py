"""Intervals, planning and the choice of a clip: published numbers, hand-size sums, and coverage of skewed ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.replay.estimates import intervals_of
from pipelines.replay.intervals import (
    always_valid_factor,
    linearised_reach,
    resample_counts,
    standard_error,
    student_quantile,
    studentised_reach,
)
from pipelines.replay.planning import Cuped, minimum_detectable_effect, needed_users, sample_ratio_p_value
from pipelines.replay.rounds import Floats
from pipelines.replay.selection import chosen


def test_the_standard_error_of_a_mean_is_the_textbooks() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    (error,) = standard_error((values - 4.0)[None] / 4)
    assert error == pytest.approx(math.sqrt((9 + 4 + 0 + 25) / 3 / 4))
    assert standard_error(np.zeros((1, 1)))[0] == math.inf
    assert student_quantile(4, 0.95) == pytest.approx(3.182446, abs=1e-6)
    assert student_quantile(1, 0.95) == math.inf


@pytest.mark.parametrize(
    ("users", "width"), [(100, 0.867526), (1000, 0.119005), (10_000, 0.030354), (100_000, 0.010294)]
)
def test_the_always_valid_interval_has_the_published_widths(users: int, width: float) -> None:
    assert always_valid_factor(users, 0.95) == pytest.approx(width, abs=5e-7)


def test_looking_20_times_is_harmless_to_the_always_valid_interval_only() -> None:
    rng = np.random.default_rng(0)
    sums = rng.normal(size=(2000, 20, 100)).sum(axis=2).cumsum(axis=1)
    users = np.arange(1, 21) * 100
    means = np.abs(sums / users)
    always = np.array([always_valid_factor(int(t), 0.95) for t in users])
    assert (means > 1.96 / np.sqrt(users)).any(axis=1).mean() > 0.2, "0.253 in the literature"
    assert (means > always).any(axis=1).mean() <= 0.03


def test_without_skewness_the_deciding_interval_is_students() -> None:
    influence_EG = np.array([[-1.0, 1.0] * 50])
    below, above = linearised_reach(influence_EG, np.array([2.0]), 0.95)
    assert below[0] == pytest.approx(2.0 * student_quantile(100, 0.95), rel=1e-5)
    assert above[0] == pytest.approx(below[0], rel=1e-5)


def test_skewness_makes_the_long_side_longer_and_mirrors() -> None:
    skewed_EG = np.array([[9.0] + [-0.1] * 90])
    one = [np.ones(1), 0.95]
    below, above = linearised_reach(skewed_EG, *one)  # type: ignore[arg-type]
    assert below[0] == student_quantile(91, 0.95)
    assert above[0] > 1.5 * below[0]
    mirrored = linearised_reach(-skewed_EG, *one)  # type: ignore[arg-type]
    assert (mirrored[0][0], mirrored[1][0]) == pytest.approx((above[0], below[0]))


def test_the_always_valid_interval_holds_the_one_of_a_single_look() -> None:
    """Its own reach, 3.04 standard errors after 10,000 users, is less than what skewness asks for."""
    skewed_G = np.array([9.0] + [-0.1] * 90)
    counts_SG = resample_counts(91, 50, seed=0)
    found = intervals_of(0.0, skewed_G, counts_SG, 10_000, 0.95)
    assert found["always_valid_high"] == found["high"]
    assert found["always_valid_low"] == pytest.approx(-3.0354 * standard_error(skewed_G[None])[0], rel=1e-4)


def test_intervals_of_skewed_sums_cover_as_often_as_they_say() -> None:
    """Clusters are sums of few large gains among many zeros: about 60 gains in all, skewness of the total 0.35."""
    rng = np.random.default_rng(1)
    replicates, clusters, rate = 2000, 400, 0.15
    gains = rng.gamma(1.0, size=(replicates, clusters)) * (rng.random((replicates, clusters)) < rate)
    means = gains.mean(axis=1)
    influence_EG = (gains - means[:, None]) / clusters
    errors = standard_error(influence_EG)
    counts = resample_counts(clusters, 500, seed=2)
    student = student_quantile(clusters, 0.95) * errors
    covered = {
        "student": coverage(means, (student, student), rate),
        "deciding": coverage(means, linearised_reach(influence_EG, errors, 0.95), rate),
        "bootstrap": coverage(means, studentised_reach(influence_EG, errors, counts, 0.95), rate),
    }
    assert covered["student"] < 0.94, covered
    assert 0.94 <= covered["deciding"] <= 0.97, covered
    assert 0.93 <= covered["bootstrap"] <= 0.97, covered


def coverage(means: Floats, reaches: tuple[Floats, Floats], truth: float) -> float:
    below, above = reaches
    return float(((means - below <= truth) & (truth <= means + above)).mean())


def test_resamples_draw_as_many_clusters_and_repeat_by_seed() -> None:
    counts = resample_counts(7, 50, seed=3)
    assert (counts.sum(axis=1) == 7).all()
    np.testing.assert_array_equal(counts, resample_counts(7, 50, seed=3))
    assert (counts != resample_counts(7, 50, seed=4)).any()


def test_weights_are_shrunk_while_that_takes_away_more_variance_than_it_moves_the_estimate() -> None:
    errors = np.array([1.0, 0.5, 0.1])
    assert chosen(np.array([0.0, 0.2, 0.9]), errors) == 1, "0.2^2 + 0.5^2 < 0.9^2 + 0.1^2 < 1"
    assert chosen(np.array([0.0, 0.2, 0.5]), errors) == 2, "0.5^2 + 0.1^2 < 0.2^2 + 0.5^2"
    assert chosen(np.array([0.0, 0.9, 1.0]), errors) == 0
    assert chosen(np.zeros(3), np.full(3, math.inf)) == 0


def test_cuped_leaves_the_variance_that_the_covariate_does_not_explain() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=100_000)
    outcome = 0.7 * before + math.sqrt(1 - 0.49) * rng.normal(size=100_000) + 3
    cuped = Cuped.of(outcome, before)
    assert cuped.theta == pytest.approx(0.7, abs=0.01)
    assert cuped.variance_ratio == pytest.approx(0.5102, abs=1e-4), "1 - 0.7^2, and the chance of this seed"
    adjusted = cuped.adjusted(outcome, before)
    assert adjusted.mean() == pytest.approx(outcome.mean(), abs=1e-12)
    assert adjusted.var() / outcome.var() == pytest.approx(cuped.variance_ratio, rel=1e-9)


def test_cuped_with_a_covariate_that_says_nothing_changes_nothing() -> None:
    outcome = np.array([1.0, 2.0, 4.0])
    cuped = Cuped.of(outcome, np.ones(3))
    assert (cuped.theta, cuped.variance_ratio) == (0.0, 1.0)
    np.testing.assert_array_equal(cuped.adjusted(outcome, np.ones(3)), outcome)


def test_a_detectable_effect_is_detected_at_its_power() -> None:
    effect = minimum_detectable_effect(0.5, 0.95)
    assert effect == pytest.approx(0.5 * (1.959964 + 0.841621), abs=1e-5)
    found = np.random.default_rng(0).normal(effect, 0.5, 20_000) - 1.959964 * 0.5 > 0
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_half_the_effect_needs_four_times_the_users() -> None:
    effect = minimum_detectable_effect(0.5, 0.95)
    assert needed_users(1000, 0.5, effect, 0.95) == 1000
    assert needed_users(1000, 0.5, -effect / 2, 0.95) == pytest.approx(4000, abs=1)
    with pytest.raises(ValueError, match=r"expected an effect other than 0 and a finite se, got 0.0 and 0.5"):
        needed_users(1000, 0.5, 0.0, 0.95)


def test_whoever_may_always_look_needs_more_users() -> None:
    """After 10,000 users the always-valid interval reaches 3.0354 standard errors, the fixed one 1.96."""
    effect = minimum_detectable_effect(0.5, 0.95, always_valid_users=10_000)
    assert effect == pytest.approx(0.5 * (3.0354 + 0.8416), abs=1e-4)
    assert needed_users(10_000, 0.5, effect, 0.95, always_valid=True) == pytest.approx(10_000, abs=1)
    few = needed_users(10_000, 0.5, 4 * effect, 0.95, always_valid=True)
    shrunk_se = 0.5 * np.sqrt(10_000 / few)
    assert minimum_detectable_effect(shrunk_se, 0.95, always_valid_users=few) == pytest.approx(4 * effect, rel=1e-3)


def test_the_sample_ratio_test_tells_a_broken_split() -> None:
    assert sample_ratio_p_value([500, 500], [1, 1]) == 1.0
    assert sample_ratio_p_value([5200, 4800], [0.5, 0.5]) == pytest.approx(6.334e-5, rel=1e-3)
    assert sample_ratio_p_value([900, 100], [9, 1]) == 1.0
    with pytest.raises(ValueError, match=r"at least 2 arms and shares > 0, got \[5\] and \[1.0\]"):
        sample_ratio_p_value([5], [1.0])
