"""Every fold against arithmetic by hand; merging in any order; packed states."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
from feature_cases import CATALOGUE, DAY, HOUR, NOW, events_of, ids_of, random_log, text_hash, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st

from features.definitions import FEATURES, ITEM, USER, features_of, memories_of, state_layout
from features.events import BRAND, CATEGORY, ItemKeys, co_visits
from features.folds import Affinity, CountOf, HoursSince, LastItems, MedianPrice, Rate, Trend
from features.memories import Counts, Newest
from features.schemas import CART, CLICK, EVENT_CODE, IMPRESSION, LARGEST_NUMBER, POSITIVE_CODES, PURCHASE
from features.states import StaleStateError, pack_states, sorted_order, unpack_states
from models.inputs.items import item_columns

SHOWN, CLICKED, BOUGHT = EVENT_CODE[IMPRESSION], EVENT_CODE[CLICK], EVENT_CODE[PURCHASE]


def finish(fold, rows, *, entities=2, now=NOW):
    state = fold.add(fold.empty(), events_of(rows))
    return fold.finish(state, entities, np.full(entities, now))


def test_count_of_a_window():
    """Buckets of an hour: 23 h ago and exactly 24 h ago count, 25 h ago no more."""
    fold = CountOf(memory=Counts(codes=(SHOWN, CLICKED), keep_ms=DAY, bucket_ms=HOUR), code=CLICKED)
    rows = [(0, "pot", "click", NOW - 23 * HOUR), (0, "pan", "click", NOW - 24 * HOUR)]
    rows += [(0, "bed", "click", NOW - 25 * HOUR), (0, "pot", "impression", NOW - HOUR)]
    assert finish(fold, rows).tolist() == [2.0, 0.0]
    assert finish(fold, rows, now=NOW + 5 * DAY).tolist() == [0.0, 0.0]


def test_an_event_counts_while_its_bucket_does():
    """The bucket of 10:59 begins at 10:00, so at 11:30 the next day it has left the window of a day."""
    fold = CountOf(memory=Counts(codes=(CLICKED,), keep_ms=DAY, bucket_ms=HOUR), code=CLICKED)
    rows = [(0, "pot", "click", NOW + 11 * HOUR - 60_000)]
    assert finish(fold, rows, entities=1, now=NOW + DAY + 10 * HOUR).tolist() == [1.0]
    assert finish(fold, rows, entities=1, now=NOW + DAY + 11 * HOUR - HOUR // 2).tolist() == [0.0]


def test_rate_is_smoothed():
    """2 clicks of 5 impressions with 20 prior impressions at 0.05: (2 + 1) / (5 + 20)."""
    fold = Rate(
        memory=Counts(codes=(SHOWN, CLICKED), keep_ms=DAY, bucket_ms=DAY),
        hit=CLICKED,
        shown=SHOWN,
        prior=0.05,
        strength=20,
    )
    rows = [(0, "pot", "impression", NOW - HOUR)] * 5 + [(0, "pot", "click", NOW - HOUR)] * 2
    assert finish(fold, rows).tolist() == pytest.approx([3 / 25, 1 / 20])
    assert finish(fold, rows[5:]).tolist() == pytest.approx([3 / 22, 1 / 20]), "clicks without any impression"


def test_trend_compares_rates():
    """Today 3 events, 7 in the week: log((3 + 1) / (7 / 7 + 1))."""
    memory = Counts(codes=POSITIVE_CODES, keep_ms=7 * DAY, bucket_ms=DAY)
    fold = Trend(memory=memory, recent_ms=DAY, smoothing=1.0)
    rows = [(0, "pot", "click", NOW - HOUR)] * 3 + [(0, "pot", "cart", NOW - 5 * DAY)] * 4
    assert finish(fold, rows).tolist() == pytest.approx([math.log(4 / 2), 0.0])


def test_affinity_decays_and_is_shrunk():
    """A purchase now (4) and a click one half-life ago (1/2): Acme 4, Bolt 1/2, sum 4.5, shares of 5.5."""
    memory = Counts(codes=POSITIVE_CODES, keep_ms=60 * DAY, bucket_ms=DAY, key=BRAND)
    fold = Affinity(memory=memory, half_life_ms=14 * DAY, strengths={CLICKED: 1, BOUGHT: 4}, top=2)
    rows = [(0, "pot", "purchase", NOW), (0, "pan", "click", NOW - 14 * DAY), (0, "bed", "click", NOW)]
    column = finish(fold, [*rows, (0, "pan", "click", NOW - 61 * DAY)])
    assert weights_of(column, 0) == pytest.approx({text_hash("Acme"): 4 / 5.5, text_hash("Bolt"): 0.5 / 5.5})
    assert ids_of(column, 0) == [text_hash("Acme"), text_hash("Bolt")], "heaviest first"
    assert weights_of(column, 1) == {}


def test_affinity_keeps_the_heaviest_and_counts_every_prefix():
    """Two events in kitchens, one elsewhere: Home 3, Kitchen 2, Sleep 1, in sum 6."""
    memory = Counts(codes=POSITIVE_CODES, keep_ms=60 * DAY, bucket_ms=DAY, key=CATEGORY)
    fold = Affinity(memory=memory, half_life_ms=math.inf, strengths={CLICKED: 1}, top=2)
    rows = [(1, item, "click", NOW - 3 * DAY) for item in ("pot", "pan", "bed", "book", "unknown")]
    assert weights_of(finish(fold, rows), 1) == pytest.approx(
        {text_hash("Home"): 3 / 7, text_hash("Home/Kitchen"): 2 / 7}
    )


def test_keys_hash_as_the_columns_of_items():
    columns = item_columns(CATALOGUE).ids
    assert text_hash("Home/Kitchen") in columns["category"].hashes
    assert text_hash("Acme") in columns["brand"].hashes
    assert text_hash("pot") in columns["item_id"].hashes


def test_last_items_are_distinct_and_newest_first():
    fold = LastItems(memory=Newest(codes=(CLICKED,), keep_ms=DAY, length=2), code=CLICKED)
    rows = [(0, item, "click", NOW - age * HOUR) for item, age in (("pot", 1), ("pan", 2), ("pot", 3), ("bed", 4))]
    rows += [(1, "book", "click", NOW - 25 * HOUR), (1, "pan", "cart", NOW - HOUR)]
    column = finish(fold, rows)
    assert ids_of(column, 0) == [text_hash("pot"), text_hash("pan")]
    assert ids_of(column, 1) == [], "expired"


def test_last_items_of_one_moment_come_in_order_of_their_hashes():
    fold = LastItems(memory=Newest(codes=(CLICKED,), keep_ms=DAY, length=1), code=CLICKED)
    rows = [(0, "pot", "click", NOW - 1), (0, "pan", "click", NOW - 1)]
    assert ids_of(finish(fold, rows), 0) == ids_of(finish(fold, rows[::-1]), 0)


def test_hours_since():
    fold = HoursSince(memory=Newest(codes=POSITIVE_CODES, keep_ms=2 * DAY, length=1), codes=(CLICKED, BOUGHT))
    rows = [(0, "pot", "click", NOW - 3 * HOUR), (0, "pan", "purchase", NOW - HOUR // 2), (0, "pan", "cart", NOW - 1)]
    assert finish(fold, rows).tolist() == [0.5, 48.0], "48 h are remembered"
    assert finish(fold, rows, now=NOW + 9 * DAY).tolist() == [48.0, 48.0]


def test_median_price():
    """Prices 20, 30, 500, then without the 500; the book has none."""
    fold = MedianPrice(memory=Newest(codes=POSITIVE_CODES, keep_ms=DAY, length=5), codes=POSITIVE_CODES)
    rows = [(0, item, "click", NOW - 1) for item in ("pot", "pan", "bed", "book", "unknown")]
    assert finish(fold, rows)[0] == 30.0
    rows += [(1, "pot", "click", NOW - 1), (1, "pan", "cart", NOW - 2)]
    assert finish(fold, rows)[1] == 25.0
    assert np.isnan(finish(fold, rows[3:5]))[0]


def test_the_largest_prices_are_whole_numbers_of_64_bits():
    """Millionths of 10^12 are 10^18, of at most 9.2 x 10^18; folded, packed and folded on they stay what they are."""
    catalogue = CATALOGUE.set_column(
        CATALOGUE.schema.get_field_index("price"), "price", pa.array([LARGEST_NUMBER, LARGEST_NUMBER, 0.0, None])
    )
    memory = Newest(codes=POSITIVE_CODES, keep_ms=DAY, length=5)
    held, new = (
        dataclasses.replace(events_of([(0, item, "click", NOW + age)]), keys=ItemKeys.of_items(catalogue))
        for age, item in enumerate(("pot", "pan"))
    )
    blobs = pack_states([memory.add(memory.empty(), held)], 1, 7).to_pylist()
    state = memory.add(unpack_states(blobs, [memory.columns], 7)[0], new)
    assert state["price"].tolist() == [10**18, 10**18]
    fold = MedianPrice(memory=memory, codes=POSITIVE_CODES)
    assert fold.finish(state, 1, np.array([NOW + 1])).tolist() == [np.float32(1e12)]


def test_co_visits_by_hand():
    """A user's pot, pan, bed: neighbours and neighbours but one, both ways; a day later nothing is close."""
    rows = [(0, item, "click", NOW + age) for age, item in enumerate(("pot", "pan", "bed"))]
    rows += [(0, "book", "click", NOW + 2 * DAY), (1, "book", "click", NOW), (0, "book", "impression", NOW + 1)]
    events = events_of(rows)
    own, pairs = co_visits(events)
    found = {(rows[row][1], item, time - NOW) for row, item, time in zip(own, pairs.item, pairs.time, strict=True)}
    pot, pan, bed = (np.uint64(text_hash(name)).astype(np.int64) for name in ("pot", "pan", "bed"))
    assert found == {
        ("pot", pan, 1),
        ("pan", pot, 1),
        ("pan", bed, 2),
        ("bed", pan, 2),
        ("pot", bed, 2),
        ("bed", pot, 2),
    }


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(0, 60), parts=st.integers(1, 4))
def test_merged_parts_equal_the_whole(seed, size, parts):
    rng = np.random.default_rng(seed)
    events = random_log(rng, size, days=100)
    part = rng.integers(0, parts, size)
    for memory in memories_of(FEATURES):
        whole = memory.add(memory.empty(), events)
        states = [memory.add(memory.empty(), events.take(part == number)) for number in rng.permutation(parts)]
        left, right, added = memory.empty(), memory.empty(), memory.empty()
        for state in states:
            left = memory.merge(left, state)
        for state in states[::-1]:
            right = memory.merge(state, right)
        for number in range(parts):
            added = memory.add(added, events.take(part == number))
        for merged in (left, right, added):
            assert list(merged) == list(whole)
            for name, column in whole.items():
                np.testing.assert_array_equal(column, merged[name], err_msg=f"{memory}, {name}")


def test_packed_states_come_back():
    memories = memories_of(features_of(USER))
    events = random_log(np.random.default_rng(5), 300)
    states = [memory.add(memory.empty(), events) for memory in memories]
    blobs = pack_states(states, 4, state_layout()).to_pylist()
    found = unpack_states([blobs[2], None, blobs[0]], [memory.columns for memory in memories], state_layout())
    for state, unpacked in zip(states, found, strict=True):
        for row, entity in ((0, 2), (2, 0)):
            for name in list(state)[1:]:
                expected = state[name][state["entity"] == entity]
                np.testing.assert_array_equal(unpacked[name][unpacked["entity"] == row], expected)
        assert not (unpacked["entity"] == 1).any()
    assert len(blobs[3]) == 8 * (1 + len(memories)), "an entity without events"


def test_a_state_of_other_features_is_refused():
    memories = memories_of(features_of(USER))
    blobs = pack_states([memory.empty() for memory in memories], 1, 7).to_pylist()
    with pytest.raises(StaleStateError, match=f"expected layout {state_layout():016x}, got {7:016x}"):
        unpack_states(blobs, [memory.columns for memory in memories], state_layout())
    with pytest.raises(StaleStateError, match="expected whole words of 8 bytes, got 3"):
        unpack_states([b"abc"], [memory.columns for memory in memories], state_layout())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), bits=st.lists(st.integers(0, 63), min_size=1, max_size=5))
def test_sorted_order_sorts_columns_of_any_range(seed, bits):
    rng = np.random.default_rng(seed)
    columns = [
        rng.integers(-(2**b) if b else 0, 2**b, 50, dtype=np.int64)
        if b < 63
        else rng.integers(-(2**63), 2**63 - 1, 50, dtype=np.int64)
        for b in bits
    ]
    order = sorted_order(columns)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    assert [rows[place] for place in order] == sorted(rows)


def test_buckets_must_divide_the_window():
    with pytest.raises(ValueError, match=f"expected a divisor of keep_ms = {DAY}, got {7 * HOUR}"):
        Counts(codes=(CLICKED,), keep_ms=DAY, bucket_ms=7 * HOUR)
    with pytest.raises(ValueError, match="expected at least 1 item, got 0"):
        Newest(codes=(EVENT_CODE[CART],), keep_ms=DAY, length=0)


def test_all_required_features_are_listed():
    users, items = ({feature.name for feature in features_of(entity)} for entity in (USER, ITEM))
    assert {"last_clicks", "user_clicks_1h", "category_affinity", "brand_affinity", "median_price"} <= users
    assert {"item_clicks_7d", "item_ctr", "item_trend", "co_visited"} <= items
