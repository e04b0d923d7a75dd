"""Readers of features: pages, snapshots of items, states of users; the table of features and what follows from it."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from feature_cases import DAY, HOUR, NOW, assert_equal_columns, events_of, random_log

from features import definitions
from features.columns import Columns, IdColumn
from features.definitions import (
    FEATURES,
    ITEM,
    ITEM_FEATURES,
    PAGE_FEATURES,
    USER,
    Feature,
    feature_schemas,
    features_digest,
    features_of,
    memories_of,
    state_layout,
)
from features.folds import Affinity, CountOf, HoursSince, LastItems, MedianPrice
from features.memories import CO_VISITS, Counts, Newest
from features.point_in_time import Anchors, values_at
from features.schemas import CLICK, EVENT_CODE, POSITIVE_CODES, TIMESTAMP
from features.states import StaleStateError, pack_states
from features.values import ItemSnapshots, finish_users, from_table, page_columns, to_arrays
from features.workspace import MissingTableError, Workspace

CLICKED = EVENT_CODE[CLICK]
CLICKS = CountOf(memory=Counts(codes=(CLICKED,), keep_ms=DAY, bucket_ms=HOUR), code=CLICKED)
LAST = LastItems(memory=Newest(codes=(CLICKED,), keep_ms=DAY, length=3), code=CLICKED)
SHARE = Affinity(
    memory=Counts(codes=(CLICKED,), keep_ms=DAY, bucket_ms=DAY, key="brand"),
    half_life_ms=math.inf,
    strengths={CLICKED: 1},
    top=4,
)
PRICES = MedianPrice(memory=LAST.memory, codes=POSITIVE_CODES)
SMALL = (
    Feature(name="clicks", entity=USER, fold=CLICKS, default=-1.0),
    Feature(name="last", entity=USER, fold=LAST),
    Feature(name="brands", entity=USER, fold=SHARE, cross="brand"),
    Feature(name="price", entity=USER, fold=PRICES, cross="price"),
    Feature(name="item_clicks", entity=ITEM, fold=CLICKS, default=-2.0),
    Feature(name="item_brands", entity=ITEM, fold=SHARE),
)


def commit(workspace: Workspace, name: str, rows: pa.Table) -> None:
    table = workspace.table(name, SMALL)
    table.commit([table.write_part(rows, shard=0)])


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")


def some_columns() -> Columns:
    """Two rows, the second empty."""
    offsets = np.array([0, 2, 2])
    hashes = np.array([7, 2**64 - 1], np.uint64)
    return Columns(
        rows=2,
        ids={
            "last": IdColumn(hashes=hashes, offsets=offsets),
            "brands": IdColumn(hashes=hashes, offsets=offsets, weights=np.array([0.5, 0.25], np.float32)),
        },
        numbers={"clicks": np.array([3, -1], np.float32), "price": np.array([9.5, np.nan], np.float32)},
    )


def test_pages_in_the_order_asked_for(workspace):
    features = features_of(USER, SMALL)
    head = [pa.array(["a", "b"]), pa.array(["u", "u"]), pa.array([0, 1], TIMESTAMP)]
    rows = pa.table([*head, *to_arrays(some_columns(), features)], schema=feature_schemas(SMALL)[PAGE_FEATURES])
    commit(workspace, PAGE_FEATURES, rows)
    found = page_columns(workspace, ["b", "missing", "a", "a"], SMALL)
    assert found.numbers["clicks"].tolist() == [-1.0, -1.0, 3.0, 3.0]
    np.testing.assert_array_equal(found.numbers["price"], np.float32([np.nan, np.nan, 9.5, 9.5]))
    assert found.ids["last"].offsets.tolist() == [0, 0, 0, 2, 4]
    assert found.ids["last"].hashes.tolist() == [7, 2**64 - 1] * 2
    assert found.ids["brands"].weights.tolist() == [0.5, 0.25] * 2


def test_tables_hold_what_was_put_in():
    features = features_of(USER, SMALL)
    rows = pa.table(to_arrays(some_columns(), features), names=[feature.name for feature in features])
    assert_equal_columns(from_table(rows, features), some_columns())
    assert_equal_columns(from_table(pa.concat_tables([rows, rows]).slice(2), features), some_columns())


def test_snapshots_hold_until_the_next(workspace):
    """Item b has snapshots of days 10 and 12, item a one of day 11; c none."""
    features = features_of(ITEM, SMALL)
    values = Columns(
        rows=3,
        ids={
            "item_brands": IdColumn(
                hashes=np.zeros(0, np.uint64), offsets=np.zeros(4, np.int64), weights=np.zeros(0, np.float32)
            )
        },
        numbers={"item_clicks": np.array([12, 11, 10], np.float32)},
    )
    head = [pa.array(["b", "a", "b"]), pa.array([12 * DAY, 11 * DAY, 10 * DAY], TIMESTAMP)]
    commit(
        workspace,
        ITEM_FEATURES,
        pa.table([*head, *to_arrays(values, features)], schema=feature_schemas(SMALL)[ITEM_FEATURES]),
    )
    snapshots = ItemSnapshots.load(workspace, ["c", "b", "a", "d"], SMALL)
    cases = [(1, 10 * DAY - 1, -2), (1, 10 * DAY, 10), (1, 12 * DAY - 1, 10), (1, 99 * DAY, 12), (2, 10 * DAY, -2)]
    cases += [(2, 11 * DAY, 11), (0, 99 * DAY, -2), (3, 99 * DAY, -2), (-1, 99 * DAY, -2), (1, -5, -2)]
    items, times, expected = zip(*cases, strict=True)
    assert snapshots.at(np.array(items), np.array(times)).numbers["item_clicks"].tolist() == list(expected)
    assert snapshots.latest().numbers["item_clicks"].tolist() == [-2, 12, 11, -2]
    assert len(snapshots.latest().ids["item_brands"]) == 4


def test_no_item_has_a_snapshot(workspace):
    commit(workspace, ITEM_FEATURES, feature_schemas(SMALL)[ITEM_FEATURES].empty_table())
    snapshots = ItemSnapshots.load(workspace, ["a"], SMALL)
    assert snapshots.latest().numbers["item_clicks"].tolist() == [-2.0]


def test_states_finish_to_the_values_of_that_moment():
    events = random_log(np.random.default_rng(3), 200)
    features = features_of(USER)
    states = [memory.add(memory.empty(), events) for memory in memories_of(features)]
    blobs = pack_states(states, 3, state_layout()).to_pylist()
    anchors = Anchors(entity=np.arange(4), time=np.full(4, NOW))
    expected = values_at(features, {"events": events}, anchors)
    assert_equal_columns(finish_users([blobs[2], None, blobs[0]], np.full(3, NOW)), expected.take(np.array([2, 3, 0])))
    assert finish_users([], np.zeros(0, np.int64)).rows == 0


def test_a_state_of_other_features_is_refused():
    state = pack_states([memory.empty() for memory in memories_of(features_of(USER, SMALL))], 1, state_layout(SMALL))
    with pytest.raises(StaleStateError, match=f"got {state_layout(SMALL):016x}; the features changed"):
        finish_users(state.to_pylist(), np.array([NOW]))


def test_missing_tables_are_named(workspace):
    with pytest.raises(MissingTableError, match="page_features"):
        page_columns(workspace, ["a"])
    with pytest.raises(MissingTableError, match="item_features"):
        ItemSnapshots.load(workspace, ["a"])


def test_one_entry_is_enough(monkeypatch):
    """A feature added to the table is in schemas, states and values, without naming it anywhere else."""
    new = Feature(name="hours_since_any", entity=USER, fold=HoursSince(memory=LAST.memory, codes=(CLICKED,)))
    before = (state_layout(), features_digest())
    monkeypatch.setattr(definitions, "FEATURES", (*FEATURES, new))
    assert feature_schemas()[PAGE_FEATURES].field("hours_since_any").type == pa.float32()
    events = events_of([(0, "pot", "click", NOW - 6 * HOUR)])
    states = [memory.add(memory.empty(), events) for memory in memories_of(features_of(USER))]
    blobs = pack_states(states, 1, state_layout()).to_pylist()
    assert finish_users(blobs, np.array([NOW])).numbers["hours_since_any"].tolist() == [6.0]
    assert before[0] != state_layout()
    assert before[1] != features_digest()


def test_a_feature_that_shares_a_memory_leaves_states_readable():
    more = (
        *FEATURES,
        Feature(name="any_price", entity=USER, fold=MedianPrice(memory=FEATURES[1].fold.memory, codes=(CLICKED,))),
    )
    assert state_layout(more) == state_layout()


def test_nonsense_is_refused():
    with pytest.raises(
        ValueError, match="feature 'a b': name: expected an identifier, got 'a b'; entity: expected user"
    ):
        Feature(name="a b", entity="shop", fold=CLICKS)
    with pytest.raises(
        ValueError, match="cross: expected one of None, category, brand, item_id for weights of users, got 'price'"
    ):
        Feature(name="a", entity=USER, fold=SHARE, cross="price")
    with pytest.raises(ValueError, match="cross: expected one of None for number of items, got 'price'"):
        Feature(name="a", entity=ITEM, fold=PRICES, cross="price")
    pairs = CountOf(memory=Counts(codes=(CLICKED,), keep_ms=DAY, bucket_ms=HOUR, stream=CO_VISITS), code=CLICKED)
    with pytest.raises(ValueError, match="co-visits are events of items, got entity 'user'"):
        Feature(name="a", entity=USER, fold=pairs)
    wide = CountOf(memory=Counts(codes=(CLICKED,), keep_ms=6 * DAY, bucket_ms=2 * DAY), code=CLICKED)
    with pytest.raises(ValueError, match="expected buckets that divide a day"):
        Feature(name="a", entity=ITEM, fold=wide)
    with pytest.raises(ValueError, match="got more than one clicks"):
        features_of(USER, (*SMALL, SMALL[0]))


def test_every_feature_expires():
    assert all(feature.ttl_s * 1000 == feature.fold.memory.keep_ms > 0 for feature in FEATURES)
