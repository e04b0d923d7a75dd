"""What the stream writes against what batch finds: all features, at random times, chunkings and delivery orders."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from online_cases import CONFIG, DAY, HOUR, Stream, batch_pairs, check_parity, deliveries, random_rows, summed_pairs

from features.definitions import FEATURES, ITEM, USER, Feature, features_of
from features.events import BRAND, CATEGORY, ITEM_ID
from features.folds import Affinity, HoursSince, LastItems, MedianPrice
from features.memories import CO_VISITS, Counts, Newest
from features.schemas import EVENT_CODE, POSITIVE_CODES, PURCHASE
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore

SEEDS = [(seed, [0.0, 0.4, 1.0][seed % 3], [5, 20, 80][seed % 3]) for seed in range(6)]


@pytest.mark.parametrize(("seed", "bursts", "days"), SEEDS)
def test_every_value_equals_batch(store, seed, bursts, days):
    _check(store, np.random.default_rng(seed), bursts, days)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_every_value_equals_batch_many_times(store, seed):
    rng = np.random.default_rng(seed)
    _check(store, rng, bursts=rng.random(), days=float(rng.integers(2, 90)))


def test_new_features_need_no_line_of_the_stream(store, monkeypatch):
    """Folds that no feature has yet: of items the newest, hours, prices and brands; of users an hour of categories."""
    newest = Newest(codes=POSITIVE_CODES, keep_ms=3 * DAY, length=2)
    strengths = {code: 1.0 + code for code in POSITIVE_CODES}

    def affinity(key: str, stream: str, **memory) -> Affinity:
        counts = Counts(codes=POSITIVE_CODES, key=key, stream=stream, **memory)
        return Affinity(memory=counts, half_life_ms=DAY, strengths=strengths, top=3)

    added = (
        Feature(name="last_buyers", entity=ITEM, fold=LastItems(memory=newest, code=EVENT_CODE[PURCHASE])),
        Feature(name="hours_idle", entity=ITEM, fold=HoursSince(memory=newest, codes=POSITIVE_CODES), default=72.0),
        Feature(name="own_price", entity=ITEM, fold=MedianPrice(memory=newest, codes=POSITIVE_CODES)),
        Feature(name="brands", entity=ITEM, fold=affinity(BRAND, CO_VISITS, keep_ms=5 * DAY, bucket_ms=HOUR)),
        Feature(name="now", entity=USER, fold=affinity(CATEGORY, "events", keep_ms=HOUR, bucket_ms=60_000)),
        Feature(name="items_now", entity=USER, fold=affinity(ITEM_ID, "events", keep_ms=HOUR, bucket_ms=HOUR)),
    )
    monkeypatch.setattr("features.definitions.FEATURES", (*FEATURES, *added))
    assert len(features_of(ITEM)) == len(features_of(ITEM, FEATURES)) + 4
    with RedisStore(store.url, StoreConfig(namespace="new-features")) as anew:
        _check(anew, np.random.default_rng(9), bursts=0.4, days=6)


def test_states_of_other_features_count_as_missing(store, monkeypatch):
    """Until the next back-fill, users and items begin anew."""
    rows = random_rows(np.random.default_rng(0), 100, days=3)
    first, second = deliveries(np.random.default_rng(0), rows, chunks=2)
    stream = Stream(store, store.new_generation(), CONFIG)
    stream.take(first)
    memory = Newest(codes=POSITIVE_CODES, keep_ms=3 * DAY, length=2)
    added = [
        Feature(name=f"{entity}_idle", entity=entity, fold=HoursSince(memory=memory, codes=POSITIVE_CODES))
        for entity in (USER, ITEM)
    ]
    monkeypatch.setattr("features.definitions.FEATURES", (*FEATURES, *added))
    with RedisStore(store.url, StoreConfig()) as anew:
        stream.store = anew
        stream.take(second)
        assert stream.item_features().numbers["item_idle"].min() < 72


def _check(store, rng: np.random.Generator, bursts: float, days: float) -> None:
    rows = random_rows(rng, 250, bursts=bursts, days=days)
    stream, pairs, count = Stream(store, store.new_generation(), CONFIG), [], 0
    for delivery in deliveries(rng, rows):
        folded = stream.take(delivery)
        pairs.append(folded.pairs)
        count += delivery.part.filter(pa.array(folded.fresh)).num_rows
        assert count == delivery.so_far.num_rows
        assert summed_pairs(pairs) == batch_pairs(delivery.so_far)
        check_parity(stream, delivery.so_far, rng)
