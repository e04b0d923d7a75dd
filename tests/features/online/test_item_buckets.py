"""Items folded bucket by bucket: the values of folding them at once, with fewer writes of each state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest
from online_cases import CONFIG, HOUR, KEYS, START, Stream, check_parity, deliveries, random_rows
from redis.crc import key_slot

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
    assert {written[ITEM_TURN] for written in per_range} == {BUCKETS}
    # of fifteen buckets the rows of the range, and of the one that is folded the rows of fifteen ranges, emptied
    rows = {sum(written[view] for view in ITEM_ROWS) for written in per_range[BUCKETS:]}
    assert rows == {2 * (BUCKETS - 1)}


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


def waiting_rows(store, generation: int) -> int:
    """Bytes of rows that wait."""
    wanted = [(view, str(bucket)) for view in ITEM_ROWS for bucket in range(BUCKETS)]
    return sum(len(blob.payload) for blob in store.read_blobs(wanted, generation=generation) if blob is not None)


def test_what_is_folded_is_kept_no_longer(store):
    """It says what happened when, though not to whom."""
    generation = store.new_generation()
    put(store, clicks(MANY_ITEMS, START), Version(generation, 1))
    assert waiting_rows(store, generation) > 100 * len(MANY_ITEMS) // BUCKETS
    fold_waiting(store, lambda _: KEYS, version=Version(generation, 1), midnight_ms=START)
    assert waiting_rows(store, generation) == 0


class StandingStill:
    """A store whose reader stands still before it reads rows that wait, while others go on."""

    def __init__(self, store, others) -> None:
        self.store, self.others = store, [others]

    def __getattr__(self, name: str):
        return getattr(self.store, name)

    def read_blobs(self, wanted, **options):
        if wanted and wanted[0][0] in ITEM_ROWS and self.others:
            self.others.pop()()
        return self.store.read_blobs(wanted, **options)


def test_who_stood_still_amid_a_fold_folds_nothing_of_later_ranges(store):
    generation, undisturbed = store.new_generation(), store.new_generation()
    of_bucket = bucket_of(pa.chunked_array([MANY_ITEMS]))
    first, second, third = (MANY_ITEMS[place] for place in np.flatnonzero(of_bucket == 0)[:3])
    last = BUCKETS + 3

    def go_on(each: int) -> None:
        fold_waiting(store, lambda _: KEYS, version=Version(each, 3), midnight_ms=START)
        for position in range(4, last + 1):
            put(store, clicks([second if position <= BUCKETS else third], START + position), Version(each, position))

    for each in (generation, undisturbed):
        for position in range(1, 4):
            put(store, clicks([first], START + position), Version(each, position))
    zombie = StandingStill(store, lambda: go_on(generation))
    fold_waiting(zombie, lambda _: KEYS, version=Version(generation, 3), midnight_ms=START)
    go_on(undisturbed)
    for each in (generation, undisturbed):
        fold_waiting(store, lambda _: KEYS, version=Version(each, last), midnight_ms=START)
    states = held_states(store, MANY_ITEMS, generation)
    assert states == held_states(store, MANY_ITEMS, undisturbed)
    assert states.keys() == {first, second, third}


def test_a_turn_that_somebody_brings_back_makes_nothing_count_twice(store):
    generation, undisturbed = store.new_generation(), store.new_generation()
    turns = [(ITEM_TURN, str(bucket)) for bucket in range(BUCKETS)]
    for each in (generation, undisturbed):
        for position in range(1, 4):
            put(store, clicks(MANY_ITEMS, START + position), Version(each, position))
        held = store.read_blobs(turns, generation=each)
        rows = store.read_blobs([(ITEM_ROWS[2], bucket) for _, bucket in turns], generation=each)
        fold_waiting(store, lambda _: KEYS, version=Version(each, 3), midnight_ms=START)
        if each == generation:
            old = [NewBlob(*key, *blob) for key, blob in zip(turns, held, strict=True)]
            old += [NewBlob(ITEM_ROWS[2], key[1], *blob) for key, blob in zip(turns, rows, strict=True) if blob]
            assert store.write_blobs(old) > BUCKETS
        put(store, clicks(MANY_ITEMS, START + 4), Version(each, 4))
        fold_waiting(store, lambda _: KEYS, version=Version(each, 4), midnight_ms=START)
    assert held_states(store, MANY_ITEMS, generation) == held_states(store, MANY_ITEMS, undisturbed)


def test_what_waits_of_a_bucket_and_its_turn_are_written_at_once(store):
    """On a cluster a script writes keys of one slot: if one of the two were lost, so would be the other."""
    wanted = [(view, "3") for view in (ITEM_TURN, *ITEM_ROWS)]
    assert len({key_slot(key.encode()) for key in store.keys.blobs(1, wanted)}) == 1
