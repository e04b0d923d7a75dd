"""Items folded bucket by bucket: the values of folding them at once, with fewer writes of each state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest
from online_cases import CONFIG, HOUR, KEYS, START, Stream, check_parity, deliveries, random_rows

from features.online import item_buckets
from features.online.item_buckets import BUCKETS, bucket_of, fold_waiting, put_items
from features.online.items import ITEM_EVENT_ROWS
from features.store.base import ITEM_ROWS, ITEM_STATE, ITEM_TURN, NewBlob, Version

pytestmark = pytest.mark.integration
MANY_ITEMS = [f"thing {number}" for number in range(200)]


class CountingStore:
    """Counts the blobs written by view."""

    def __init__(self, store) -> None:
        self.store, self.written = store, Counter[str]()

    def __getattr__(self, name: str):
        return getattr(self.store, name)

    def write_blobs(self, blobs: Iterable[NewBlob]) -> int:
        blobs = list(blobs)
        self.written.update(blob.view for blob in blobs)
        return self.store.write_blobs(blobs)


def clicks(items: list[str], time: int) -> pa.Table:
    """One click on each item."""
    size = len(items)
    columns = [items, np.full(size, time), np.full(size, 1, np.int8), [None] * size, np.ones(size, np.int8)]
    rows = dict(zip(ITEM_EVENT_ROWS.names, columns, strict=True))
    return pa.table({name: pa.array(column) for name, column in rows.items()}).cast(ITEM_EVENT_ROWS)


def put(store, rows: pa.Table, version: Version) -> None:
    put_items(store, rows, lambda _: KEYS, version=version, midnight_ms=START)


def held_states(store, items: list[str], generation: int) -> dict[str, bytes]:
    held = store.read_blobs([(ITEM_STATE, item) for item in items], generation=generation)
    return {item: blob.payload for item, blob in zip(items, held, strict=True) if blob is not None}


@pytest.mark.parametrize(("seed", "chunks"), [(0, 7), (1, 50), (2, 25)])
def test_every_value_equals_batch(store, seed, chunks):
    rng = np.random.default_rng(seed)
    stream = Stream(store, store.new_generation(), CONFIG, in_turn=True)
    rows = random_rows(rng, 250, days=[5, 5, 60][seed])
    ranges = list(deliveries(rng, rows, chunks=chunks))
    for number, delivery in enumerate(ranges):
        stream.take(delivery)
        if number % 20 == 19 or delivery is ranges[-1]:
            stream.settle(stream.midnight_ms)
            check_parity(stream, delivery.so_far, rng)


def test_a_state_is_written_once_in_so_many_ranges_and_not_all_in_the_same(store):
    generation = store.new_generation()
    per_range = []
    for position in range(1, 2 * BUCKETS + 1):
        counting = CountingStore(store)
        put(counting, clicks(MANY_ITEMS, START + position * HOUR // 60), Version(generation, position))
        per_range.append(counting.written)
    states = [written[ITEM_STATE] for written in per_range]
    assert sum(states) == 2 * len(MANY_ITEMS)
    assert max(states) == np.bincount(bucket_of(pa.chunked_array([MANY_ITEMS]))).max() < len(MANY_ITEMS) // 6
    assert {(written[ITEM_ROWS], written[ITEM_TURN]) for written in per_range} == {(BUCKETS - 1, BUCKETS)}


def test_what_waits_is_folded_when_asked_some_buckets_at_a_time(store):
    waiting, at_once = store.new_generation(), store.new_generation()
    for position in range(1, 5):
        rows = clicks(MANY_ITEMS[position:], START + position)
        put(store, rows, Version(waiting, position))
        put(store, rows, Version(at_once, position))
        fold_waiting(store, lambda _: KEYS, version=Version(at_once, position), midnight_ms=START)
    options = {"version": Version(waiting, 4), "midnight_ms": START}
    calls = [fold_waiting(store, lambda _: KEYS, most=5, **options) for _ in range(4)]
    assert calls == [False, False, True, True]
    states = held_states(store, MANY_ITEMS, waiting)
    assert len(states) == len(MANY_ITEMS) - 1
    assert states == held_states(store, MANY_ITEMS, at_once)


def test_a_bucket_with_many_rows_has_its_turn_at_once(store, monkeypatch):
    monkeypatch.setattr(item_buckets, "MOST_ROWS", 10)
    generation = store.new_generation()
    item = MANY_ITEMS[bucket_of(pa.chunked_array([MANY_ITEMS])).tolist().index(0)]  # whose turn is the fifteenth range
    for position in range(1, 4):
        put(store, clicks([item] * 4, START + position), Version(generation, position))
        assert bool(held_states(store, [item], generation)) == (position == 3)


def test_a_range_that_is_put_again_counts_once(store):
    once, twice = store.new_generation(), store.new_generation()
    for position in range(1, BUCKETS + 3):
        rows = clicks(MANY_ITEMS, START + position)
        put(store, rows, Version(once, position))
        for _ in range(2):
            mixed = np.random.default_rng(position).permutation(len(rows))
            put(store, rows.take(pa.array(mixed)), Version(twice, position))
    for generation in (once, twice):
        version = Version(generation, BUCKETS + 2)
        assert fold_waiting(store, lambda _: KEYS, version=version, midnight_ms=START)
    assert held_states(store, MANY_ITEMS, once) == held_states(store, MANY_ITEMS, twice)


def test_who_comes_too_late_changes_nothing(store):
    """A process that has lost its lease puts a range that others have put, and gone beyond."""
    generation, undisturbed = store.new_generation(), store.new_generation()
    for position in range(1, BUCKETS + 6):
        for each in (generation, undisturbed):
            put(store, clicks(MANY_ITEMS, START + position), Version(each, position))
        if position > 3:
            put(store, clicks(MANY_ITEMS, START + 3), Version(generation, 3))
    for each in (generation, undisturbed):
        fold_waiting(store, lambda _: KEYS, version=Version(each, BUCKETS + 5), midnight_ms=START)
    assert held_states(store, MANY_ITEMS, generation) == held_states(store, MANY_ITEMS, undisturbed)
