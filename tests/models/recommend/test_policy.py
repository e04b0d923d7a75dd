from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from models.recommend.policy import NO_CHOICE, Policy

SCORES_K = np.array([1.0, 0.5, 0.25, -1.0])
POLICIES = [
    Policy(epsilon=0.2, temperature=0.5),
    Policy(epsilon=0.0, temperature=1.0),
    Policy(epsilon=0.3, temperature=0.0),
    Policy(epsilon=1.0, temperature=0.0),
    Policy(epsilon=0.0, temperature=0.0),
]


def repeated(scores_K: np.ndarray, eligible_K: list[bool], times: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(scores_K, (times, 1)), np.tile(np.array(eligible_K), (times, 1))


def test_one_draw_is_the_stated_mixture():
    policy = Policy(epsilon=0.4, temperature=2.0)
    chance = policy.probabilities(np.array([[2.0, 0.0, 9.0]]), np.array([[True, True, False]]))
    soft = math.exp(2 / 2) / (math.exp(2 / 2) + math.exp(0))
    assert chance[0].tolist() == pytest.approx([0.6 * soft + 0.4 / 2, 0.6 * (1 - soft) + 0.4 / 2, 0.0])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_all_ordered_pages_together_have_probability_one(policy, slots):
    eligible_K = [True, True, False, True]
    pages = list(itertools.permutations([0, 1, 3], slots))
    scores_BK, eligible_BK = repeated(SCORES_K, eligible_K, len(pages))
    log_BP = policy.log_prob(scores_BK, eligible_BK, np.array(pages))
    assert np.exp(log_BP.sum(axis=1)).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_logged_propensities_are_what_log_prob_says(policy):
    scores_BK, eligible_BK = repeated(SCORES_K, [True] * 4, 50)
    choice_BP, propensity_BP = policy.draw(scores_BK, eligible_BK, 3, np.random.default_rng(1))
    np.testing.assert_allclose(np.exp(policy.log_prob(scores_BK, eligible_BK, choice_BP)), propensity_BP)
    assert all(len(set(page)) == 3 for page in choice_BP.tolist())


@pytest.mark.parametrize("policy", POLICIES[:3])
def test_frequencies_of_ordered_pages_follow_the_propensities(policy):
    draws = 20_000
    scores_BK, eligible_BK = repeated(SCORES_K[:3], [True] * 3, draws)
    choice_BP, _ = policy.draw(scores_BK, eligible_BK, 2, np.random.default_rng(7))
    pages = np.array(list(itertools.permutations(range(3), 2)))
    log_BP = policy.log_prob(*repeated(SCORES_K[:3], [True] * 3, len(pages)), pages)
    expected = draws * np.exp(log_BP.sum(axis=1))
    observed = np.array([(choice_BP == page).all(axis=1).sum() for page in pages])
    assert observed.sum() == draws
    chi_square = ((observed - expected) ** 2 / expected).sum()
    assert chi_square < 20.5  # the 99.9 % quantile with 5 degrees of freedom


def test_greedy_takes_the_best_with_certainty_and_the_first_of_equals():
    policy = Policy(epsilon=0.0, temperature=0.0)
    scores_BK = np.array([[0.1, 0.9, 0.9, 0.5]])
    choice_BP, propensity_BP = policy.draw(scores_BK, np.ones((1, 4), dtype=bool), 4, np.random.default_rng(0))
    assert choice_BP.tolist() == [[1, 2, 3, 0]]
    assert propensity_BP.tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_slots_without_eligible_candidates_stay_empty():
    policy = Policy(epsilon=0.1, temperature=1.0)
    eligible_BK = np.array([[False, True, False], [False, False, False]])
    choice_BP, propensity_BP = policy.draw(np.zeros((2, 3)), eligible_BK, 2, np.random.default_rng(0))
    assert choice_BP.tolist() == [[1, NO_CHOICE], [NO_CHOICE, NO_CHOICE]]
    assert propensity_BP.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert policy.log_prob(np.zeros((2, 3)), eligible_BK, choice_BP).sum() == 0.0


def test_a_page_the_policy_never_makes_has_log_probability_minus_infinity():
    greedy = Policy(epsilon=0.0, temperature=0.0)
    log_BP = greedy.log_prob(np.array([[1.0, 0.0]]), np.array([[True, True]]), np.array([[1, 0]]))
    assert log_BP.tolist() == [[-np.inf, 0.0]]


def test_extreme_scores_do_not_overflow():
    chance = Policy(epsilon=0.0, temperature=1e-3).probabilities(np.array([[1e6, -1e6]]), np.ones((1, 2), dtype=bool))
    assert chance.tolist() == [[1.0, 0.0]]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"epsilon: expected 0 to 1, got 1\.5; temperature: .* got -1"):
        Policy(epsilon=1.5, temperature=-1)
    with pytest.raises(ValueError, match=r"of one shape \[B, K\], got \(1, 2\) and \(1, 3\)"):
        POLICIES[0].draw(np.zeros((1, 2)), np.ones((1, 3), dtype=bool), 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="expected finite numbers"):
        POLICIES[0].draw(np.array([[np.nan]]), np.ones((1, 1), dtype=bool), 1, np.random.default_rng(0))
