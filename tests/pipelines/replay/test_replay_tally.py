"""The tally: what it refuses, how it travels, and how it counts users of any number."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from replay_worlds import random_rounds

from kernels.hashing import hash_integers
from pipelines.replay.config import ReplayConfig
from pipelines.replay.distinct import DistinctUsers, bucket_of
from pipelines.replay.estimators import Ips
from pipelines.replay.tally import Tally

CONFIG = ReplayConfig(buckets=128, resamples=100)


def test_bytes_hold_everything_and_only_buckets_with_pages() -> None:
    small, large = (Tally.empty(CONFIG, 3).add(random_rounds(0, pages, 3)) for pages in (2, 1000))
    for tally in (small, large):
        copy = pickle.loads(pickle.dumps(tally))
        for field in ("sums_VCG", "pages_G", "items_GP", "largest_4"):
            np.testing.assert_array_equal(getattr(copy, field), getattr(tally, field))
        assert (copy.slots, copy.terms, copy.users.count()) == (tally.slots, tally.terms, tally.users.count())
    assert len(small.to_bytes()) < len(large.to_bytes()) / 4


def test_memory_does_not_grow_with_pages() -> None:
    sizes = [Tally.empty(CONFIG, 2).add(random_rounds(1, pages, 2, users=50)).sums_VCG.nbytes for pages in (10, 5000)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("field", ["conditional_RP", "marginal_RP", "cluster_RP"])
@pytest.mark.parametrize("chance", [0.0, -0.1, 1.1, np.nan])
def test_impossible_logging_probabilities_are_refused(field: str, chance: float) -> None:
    rounds = random_rounds(2, 20, 3)
    chances_RP = getattr(rounds.logged, field).copy()
    chances_RP[7, 0] = chance
    broken = dataclasses.replace(rounds, logged=dataclasses.replace(rounds.logged, **{field: chances_RP}))
    with pytest.raises(ValueError, match=rf"logged.{field}: .* \(0, 1\], got {chance} at slot 0 of page 7 and 0 more"):
        Tally.empty(CONFIG, 3).add(broken)


def test_numbers_that_are_none_are_refused() -> None:
    rounds = random_rounds(3, 20, 3)
    rewards_RP = rounds.rewards_RP.copy()
    rewards_RP[3, 0] = np.nan
    with pytest.raises(ValueError, match=r"expected finite rewards, .* got a sum of reward with page weights"):
        Tally.empty(CONFIG, 3).add(dataclasses.replace(rounds, rewards_RP=rewards_RP))


def test_pages_and_tallies_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="slots: expected at least 1, got 0"):
        Tally.empty(CONFIG, 0)
    with pytest.raises(ValueError, match="pages: expected at most 2 slots, got 3"):
        Tally.empty(CONFIG, 2).add(random_rounds(4, 5, 3))
    with pytest.raises(ValueError, match="tallies: expected the same buckets and estimators"):
        Tally.empty(CONFIG, 2).merge(Tally.of([Ips()], buckets=128, slots=2))


def test_no_pages_add_nothing() -> None:
    tally = Tally.empty(CONFIG, 3).add(random_rounds(7, 5, 3).take(slice(0, 0)))
    assert (tally.pages_G.sum(), tally.users.count()) == (0, 0)


def test_shorter_pages_may_join_longer_ones() -> None:
    tally = Tally.empty(CONFIG, 4).add(random_rounds(5, 50, 2)).add(random_rounds(6, 50, 4))
    assert tally.pages_G.sum() == 100
    assert (tally.items_GP.sum(axis=0) > 0).all()


def test_few_users_are_counted_exactly_and_many_nearly() -> None:
    users = hash_integers(np.arange(200_000))
    exact, sampled = DistinctUsers(), DistinctUsers(capacity=4096)
    for part in np.split(np.concatenate([users, users[::3]])[: 4 * (len(users) // 4)], 4):
        exact.add(part)
        sampled.add(part)
    assert exact.count() == 200_000
    assert sampled.count() == pytest.approx(200_000, rel=0.08), "the standard error is about 1.9 %"
    assert sampled.per_bucket(16).sum() == sampled.count()
    assert len(sampled.users) <= 4096


def test_a_sample_of_users_depends_on_no_order_and_no_merges() -> None:
    users = hash_integers(np.arange(50_000))
    at_once, other = DistinctUsers(capacity=1000), DistinctUsers(capacity=1000)
    at_once.add(users)
    for part in np.array_split(users[::-1], 7):
        merged = DistinctUsers(capacity=1000)
        merged.add(part)
        merged.merge(other)
        other = merged
    assert other.level == at_once.level
    np.testing.assert_array_equal(other.users, at_once.users)


def test_buckets_are_even_and_hold_all_pages_of_a_user() -> None:
    buckets = bucket_of(np.arange(100_000, dtype=np.uint64), 100)
    counts = np.bincount(buckets, minlength=100)
    assert (counts > 850).all()
    assert (counts < 1150).all()
    np.testing.assert_array_equal(bucket_of(np.arange(5, dtype=np.uint64), 100), buckets[:5])
