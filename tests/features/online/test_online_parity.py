"""What the stream writes against what batch finds, over all features, at random times, chunkings and delivery orders."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from feature_cases import assert_equal_columns
from online_cases import (
    CONFIG,
    DAY,
    Stream,
    batch_histories,
    batch_item_features,
    batch_pages,
    batch_pairs,
    batch_user_features,
    by_page,
    deliveries,
    random_rows,
    summed_pairs,
    times_of,
)

SEEDS = [(seed, [0.0, 0.4, 1.0][seed % 3], [5, 20, 80][seed % 3]) for seed in range(6)]


@pytest.mark.parametrize(("seed", "bursts", "days"), SEEDS)
def test_every_value_equals_batch(store, seed, bursts, days):
    _check(store, np.random.default_rng(seed), bursts, days)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_every_value_equals_batch_many_times(store, seed):
    rng = np.random.default_rng(seed)
    _check(store, rng, bursts=rng.random(), days=float(rng.integers(2, 90)))


def _check(store, rng, bursts: float, days: float) -> None:
    rows = random_rows(rng, 250, bursts=bursts, days=days)
    stream, pairs, count = Stream(store, store.new_generation()), [], 0
    for delivery in deliveries(rng, rows):
        folded = stream.take(delivery)
        so_far = delivery.so_far
        fresh = delivery.part.filter(pa.array(folded.fresh))
        pairs.append(folded.pairs)
        assert summed_pairs(pairs) == batch_pairs(so_far)
        count += fresh.num_rows
        assert count == so_far.num_rows
        users = sorted(set(so_far.column("user_id").to_pylist()))
        now = times_of(so_far).max() + rng.integers(1, [1000, 3 * DAY], (len(users), 2)).min(axis=1)
        assert_equal_columns(stream.user_features(users, now), batch_user_features(so_far, users, now))
        assert_equal_columns(stream.item_features(), batch_item_features(so_far, stream.midnight_ms))
        expected, pages = batch_histories(so_far, CONFIG), batch_pages(so_far, CONFIG)
        for user in users:
            assert by_page(stream.history(user), pages) == by_page(expected.get(user, []), pages)
