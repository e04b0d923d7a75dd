from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from models.recommend.policy import NO_CHOICE, NO_GROUP, Policy, uniform_numbers

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
    choice_BP, propensity_BP = policy.draw(scores_BK, eligible_BK, np.random.default_rng(1).random((50, 3)))
    np.testing.assert_allclose(np.exp(policy.log_prob(scores_BK, eligible_BK, choice_BP)), propensity_BP)
    assert all(len(set(page)) == 3 for page in choice_BP.tolist())


@pytest.mark.parametrize("policy", POLICIES[:3])
def test_frequencies_of_ordered_pages_follow_the_propensities(policy):
    draws = 20_000
    scores_BK, eligible_BK = repeated(SCORES_K[:3], [True] * 3, draws)
    choice_BP, _ = policy.draw(scores_BK, eligible_BK, uniform_numbers(np.arange(draws, dtype=np.uint64), 2))
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
    choice_BP, propensity_BP = policy.draw(scores_BK, np.ones((1, 4), dtype=bool), np.full((1, 4), 0.9))
    assert choice_BP.tolist() == [[1, 2, 3, 0]]
    assert propensity_BP.tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_slots_without_eligible_candidates_stay_empty():
    policy = Policy(epsilon=0.1, temperature=1.0)
    eligible_BK = np.array([[False, True, False], [False, False, False]])
    choice_BP, propensity_BP = policy.draw(np.zeros((2, 3)), eligible_BK, np.full((2, 2), 0.5))
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
        POLICIES[0].draw(np.zeros((1, 2)), np.ones((1, 3), dtype=bool), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="expected finite numbers"):
        POLICIES[0].draw(np.array([[np.nan]]), np.ones((1, 1), dtype=bool), np.zeros((1, 1)))


def test_a_uniform_number_chooses_the_candidate_whose_share_it_falls_into():
    policy = Policy(epsilon=1.0, temperature=0.0)  # four shares of a quarter, then three of a third
    uniform_BP = np.array([[0.0, 0.0], [0.24, 0.34], [0.25, 0.99], [0.999, 0.5]])
    choice_BP, _ = policy.draw(*repeated(SCORES_K, [True] * 4, 4), uniform_BP)
    assert choice_BP.tolist() == [[0, 1], [0, 2], [1, 3], [3, 1]]


def test_uniform_numbers_fill_the_unit_interval_evenly_and_slots_know_nothing_of_each_other():
    uniform_BP = uniform_numbers(np.arange(20_000, dtype=np.uint64), 3)
    assert uniform_BP.min() >= 0
    assert uniform_BP.max() < 1
    for slot in range(3):
        assert scipy.stats.kstest(uniform_BP[:, slot], "uniform").pvalue > 0.001
    assert np.abs(np.corrcoef(uniform_BP.T) - np.eye(3)).max() < 0.03


def test_uniform_numbers_depend_on_seed_and_slot_only():
    seeds_B = np.array([7, 2**64 - 1, 7, 0], dtype=np.uint64)
    together_BP = uniform_numbers(seeds_B, 4)
    for row, seed in enumerate(seeds_B):
        assert uniform_numbers(np.array([seed]), 4)[0].tolist() == together_BP[row].tolist()
    assert together_BP[0].tolist() == together_BP[2].tolist() != together_BP[1].tolist()
    np.testing.assert_array_equal(uniform_numbers(seeds_B, 2), together_BP[:, :2])
    assert uniform_numbers(seeds_B[:0], 4).shape == (0, 4)


CAPPED = Policy(epsilon=0.2, temperature=0.5, caps=(("brand", 1), ("category", 2)))
GROUPS_KG = np.array([[7, 0], [7, 0], [NO_GROUP, 0], [NO_GROUP, NO_GROUP]])
"""Items 0 and 1 are of one brand, 0 to 2 of one category."""


def test_caps_mask_full_groups_at_each_draw():
    draws = 200
    scores_BK, eligible_BK = repeated(SCORES_K, [True] * 4, draws)
    groups_BKG = np.tile(GROUPS_KG, (draws, 1, 1))
    uniform_BP = np.random.default_rng(2).random((draws, 4))
    choice_BP, propensity_BP = CAPPED.draw(scores_BK, eligible_BK, uniform_BP, groups_BKG)
    # three places at most: one of 0 and 1, then 2 and 3
    assert {tuple(sorted(page)) for page in choice_BP.tolist()} == {(NO_CHOICE, 0, 2, 3), (NO_CHOICE, 1, 2, 3)}
    log_BP = CAPPED.log_prob(scores_BK, eligible_BK, choice_BP, groups_BKG)
    np.testing.assert_allclose(np.exp(log_BP), propensity_BP)


def test_all_ordered_pages_under_caps_together_have_probability_one():
    pages = [page for page in itertools.permutations(range(4), 3) if not {0, 1} <= set(page)]
    scores_BK, eligible_BK = repeated(SCORES_K, [True] * 4, len(pages))
    log_BP = CAPPED.log_prob(scores_BK, eligible_BK, np.array(pages), np.tile(GROUPS_KG, (len(pages), 1, 1)))
    assert np.exp(log_BP.sum(axis=1)).sum() == pytest.approx(1.0)


def test_the_chance_under_a_cap_is_worked_out_over_what_is_left():
    policy = Policy(epsilon=1.0, temperature=0.0, caps=(("brand", 1),))
    groups_BKG = np.array([[[7], [7], [NO_GROUP]]])
    choice_BP, propensity_BP = policy.draw(np.zeros((1, 3)), np.ones((1, 3), bool), np.zeros((1, 2)), groups_BKG)
    assert choice_BP.tolist() == [[0, 2]]
    assert propensity_BP.tolist() == [[1 / 3, 1.0]]
    assert policy.name == "epsilon=1,temperature=0,brand<=1"


def test_caps_need_groups():
    with pytest.raises(ValueError, match=r"groups: expected one per candidate and cap, shape \(1, 2, 2\), got None"):
        CAPPED.draw(np.zeros((1, 2)), np.ones((1, 2), bool), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="brand: expected at least 1 per page, got 0"):
        Policy(epsilon=0, temperature=0, caps=(("brand", 0),))
