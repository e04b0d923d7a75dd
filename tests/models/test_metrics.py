from __future__ import annotations

import math

import numpy as np
import pytest

from models.metrics import (
    Interval,
    bootstrap_mean,
    bootstrap_means,
    coverage,
    hit_rate,
    hits,
    ndcg,
    novelty,
    paired_bootstrap,
    ranking_metrics,
    recall,
    reciprocal_rank,
)


def slow_metrics(ranked: list[int], relevant: set[int], k: int) -> dict[str, float]:
    """The definitions, one case at a time."""
    ranks = [rank for rank, item in enumerate(ranked[:k], start=1) if item in relevant]
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1))
    return {
        f"hr_at_{k}": float(bool(ranks)),
        f"recall_at_{k}": len(ranks) / len(relevant),
        f"ndcg_at_{k}": sum(1 / math.log2(rank + 1) for rank in ranks) / ideal,
        f"mrr_at_{k}": 1 / ranks[0] if ranks else 0.0,
    }


def test_metrics_of_one_page_by_hand():
    ranked = np.array([[9, 7, 8, 3]])  # hits on ranks 2 and 4 of 4; relevant: 3, 5, 7
    found = hits(ranked, np.array([3, 5, 7]), np.array([0, 3]))
    relevant = np.array([3])
    assert found.tolist() == [[False, True, False, True]]
    assert hit_rate(found, 1).tolist() == [0.0]
    assert hit_rate(found, 2).tolist() == [1.0]
    assert recall(found, relevant, 4).tolist() == [2 / 3]
    assert reciprocal_rank(found, 4).tolist() == [1 / 2]
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    assert ndcg(found, relevant, 4) == pytest.approx([gain / (1 + 1 / math.log2(3) + 1 / 2)])
    assert ndcg(found, relevant, 2) == pytest.approx([(1 / math.log2(3)) / (1 + 1 / math.log2(3))])


def test_perfect_page_has_ndcg_one_when_k_is_below_and_above_the_number_of_relevant_items():
    found = hits(np.array([[1, 2, 3, 4]]), np.array([1, 2]), np.array([0, 2]))
    assert ndcg(found, np.array([2]), 1).tolist() == [1.0]
    assert ndcg(found, np.array([2]), 4).tolist() == [1.0]


def test_an_empty_rank_is_never_a_hit():
    assert not hits(np.array([[-1, -1]]), np.array([0]), np.array([0, 1])).any()


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_slow_reference_on_random_shapes(seed: int):
    rng = np.random.default_rng(seed)
    cases, items, ranks = int(rng.integers(1, 40)), 30, int(rng.integers(1, 20))
    ranked = np.stack([rng.permutation(items)[:ranks] for _ in range(cases)])
    ranked[rng.random(ranked.shape) < 0.2] = -1
    relevant = [rng.permutation(items)[: rng.integers(1, 8)] for _ in range(cases)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in relevant])])
    ks = sorted({1, ranks // 2 + 1, ranks})
    fast = ranking_metrics(ranked, np.concatenate(relevant), offsets, ks)
    for case in range(cases):
        for k in ks:
            for key, value in slow_metrics(ranked[case].tolist(), set(relevant[case].tolist()), k).items():
                assert fast[key][case] == pytest.approx(value), key


def test_refuses_nonsense_with_its_values():
    one, offsets = np.array([5]), np.array([0, 1])
    with pytest.raises(ValueError, match="case 0 ranks item 7 twice"):
        hits(np.array([[7, 3, 7]]), one, offsets)
    with pytest.raises(ValueError, match="case 1 has no relevant item"):
        hits(np.array([[1], [2]]), one, np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="expected 3 offsets ending at 1, got 2 ending at 1"):
        hits(np.array([[1], [2]]), one, offsets)
    with pytest.raises(ValueError, match="got an item twice"):
        hits(np.array([[1]]), np.array([5, 5]), np.array([0, 2]))
    with pytest.raises(ValueError, match=r"numbers from 1 to 2 .* got \(1, 5\)"):
        ranking_metrics(np.array([[1, 2]]), one, offsets, ks=(1, 5))


def test_coverage_and_novelty_by_hand():
    ranked = np.array([[0, 1], [1, -1], [2, 0]])
    assert coverage(ranked, items=5, k=1) == 3 / 5
    assert coverage(ranked[:2], items=5, k=2) == 2 / 5
    popularity = np.array([3.0, 1.0, 0.0, 0.0])  # smoothed 4 2 1 1 of 8: 1, 2, 3, 3 bits
    assert novelty(ranked, popularity, k=2) == pytest.approx((1 + 2 + 2 + 3 + 1) / 5)
    assert math.isnan(novelty(np.array([[-1]]), popularity, k=1))


def test_bootstrap_of_two_users_has_the_known_exact_interval():
    # Resampled means are 0, 1/2, 1 with probability 1/4, 1/2, 1/4: the 2.5 % and 97.5 % points are 0 and 1.
    assert bootstrap_mean([0, 0, 1, 1], ["u", "u", "v", "v"], 2000, seed=3) == Interval(0.5, 0.0, 1.0)
    # The resampled mean of a constant is the constant.
    assert bootstrap_mean([2.0, 2.0, 2.0], [1, 2, 3], 50, seed=0) == Interval(2.0, 2.0, 2.0)


def test_bootstrap_weighs_users_by_their_cases():
    # One user with 3 zeros, one with 1 one: means are 0 (both first), 1/4 (one each), 1 (both second).
    interval = bootstrap_mean([0, 0, 0, 1], [7, 7, 7, 8], 2000, seed=1)
    assert interval == Interval(0.25, 0.0, 1.0)


def test_bootstrap_repeats_with_its_seed_and_in_company():
    rng = np.random.default_rng(0)
    values, users = rng.random(200), rng.integers(50, size=200)
    alone = bootstrap_mean(values, users, 200, seed=5)
    assert alone == bootstrap_mean(values, users, 200, seed=5)
    assert alone != bootstrap_mean(values, users, 200, seed=6)
    beside = bootstrap_means({"a": 1 - values, "b": values}, users, 200, seed=5)["b"]
    assert (beside.mean, beside.low, beside.high) == pytest.approx((alone.mean, alone.low, alone.high))


def test_intervals_cover_the_truth_at_their_rate_although_cases_of_a_user_are_alike():
    rng = np.random.default_rng(11)
    covered = {"clustered": 0, "independent": 0}
    users = np.repeat(np.arange(60), 5)
    repeats = 150
    for repeat in range(repeats):
        taste = rng.normal(size=60)  # the truth: mean 0, strong user effect
        values = taste[users] + 0.3 * rng.normal(size=300)
        for name, groups in (("clustered", users), ("independent", np.arange(300))):
            interval = bootstrap_mean(values, groups, 200, seed=repeat)
            covered[name] += interval.low <= 0.0 <= interval.high
    assert 0.88 <= covered["clustered"] / repeats <= 0.99
    assert covered["independent"] / repeats < 0.75  # what ignoring users would claim


def test_paired_interval_is_narrower_than_either():
    rng = np.random.default_rng(2)
    easy = rng.random(300)
    a, b = easy + 0.05, easy + 0.01 * rng.random(300)
    paired = paired_bootstrap(a, b, np.arange(300), 300, seed=0)
    assert paired.low > 0.04
    single = bootstrap_mean(a, np.arange(300), 300, seed=0)
    assert paired.high - paired.low < (single.high - single.low) / 10


def test_bootstrap_refuses_what_does_not_belong_together():
    with pytest.raises(ValueError, match="same cases, got 2 and 3"):
        paired_bootstrap([1, 2], [1, 2, 3], [0, 1], 10, seed=0)
    with pytest.raises(ValueError, match=r"'value': \(2,\)"):
        bootstrap_mean([1, 2], [0, 1, 2], 10, seed=0)
    with pytest.raises(ValueError, match="at least one case"):
        bootstrap_mean([], [], 10, seed=0)
