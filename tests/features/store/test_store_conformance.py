"""What every online store must do; runs on the embedded Redis, over TCP and TLS, behind a Sentinel and on a cluster."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.columns import Columns, IdColumn
from features.definitions import ITEM, USER, features_of, memories_of, state_layout
from features.folds import NUMBER, WEIGHTS
from features.schemas import CLICK, DISLIKE, EVENT_CODE, PURCHASE
from features.states import ENTITY, pack_states
from features.store.base import Freshness, Histories, ItemFacts, StoreUnavailableError
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.values import take_or_default
from features.workspace import Workspace
from kernels.jagged import offsets_from_lengths

pytestmark = pytest.mark.integration

C, P, D = EVENT_CODE[CLICK], EVENT_CODE[PURCHASE], EVENT_CODE[DISLIKE]


def histories(**rows: list[tuple[str, int, int]]) -> Histories:
    entries = [entry for row in rows.values() for entry in row]
    return Histories(
        user_ids=list(rows),
        offsets=np.cumsum([0, *map(len, rows.values())]),
        item_ids=pa.array([item for item, _, _ in entries], pa.string()),
        events=np.array([event for _, event, _ in entries], np.int8),
        times=np.array([moment for _, _, moment in entries], np.int64),
    )


def as_rows(found: Histories) -> dict[str, list[tuple[str, int, int]]]:
    entries = list(zip(found.item_ids.to_pylist(), found.events.tolist(), found.times.tolist(), strict=True))
    return {
        user: entries[first:last]
        for user, first, last in zip(found.user_ids, found.offsets[:-1], found.offsets[1:], strict=True)
    }


def test_histories_come_back_in_the_order_asked_for(store):
    ann = [("i7", P, 1000), ("ü-ß", D, 2000)]
    store.write_histories(histories(ann=ann, bob=[("i5", C, 1500)]))
    assert as_rows(store.histories(["bob", "ann"], 10)) == {"bob": [("i5", C, 1500)], "ann": ann}


def test_unknown_user_has_an_empty_history(store):
    store.write_histories(histories(ann=[("i7", C, 1000)]))
    found = store.histories(["nobody", "ann", "nobody2"], 10)
    assert found.offsets.tolist() == [0, 0, 1, 1]
    assert found.item_ids.to_pylist() == ["i7"]


def test_no_users_asked_for(store):
    assert len(store.histories([], 10)) == 0
    assert store.items([]) == []


def test_user_without_events_is_stored_as_empty(store):
    store.write_histories(histories(ann=[]))
    assert as_rows(store.histories(["ann"], 10)) == {"ann": []}


def test_limit_takes_the_newest(store):
    store.write_histories(histories(ann=[("é1", C, 1), ("i22", C, 2), ("i333", P, 3)]))
    assert as_rows(store.histories(["ann"], 2)) == {"ann": [("i22", C, 2), ("i333", P, 3)]}


def test_history_length_keeps_the_newest_at_writing(store):
    store.write_histories(histories(ann=[(f"i{n}", C, n) for n in range(7)], bob=[("x", C, 9)]))
    kept = as_rows(store.histories(["ann", "bob"], 100))
    assert kept == {"ann": [(f"i{n}", C, n) for n in (3, 4, 5, 6)], "bob": [("x", C, 9)]}


def test_some_entities_are_those_of_one_view(store):
    assert store.some_entities("history", 5) == []
    users = ["ann", "b:{o}b", "ü*"]
    store.write_histories(histories(**{user: [("i7", C, 1000)] for user in users}))
    store.write_items([ItemFacts(item_id="i7", title="Kite", brand=None)])
    assert sorted(store.some_entities("history", 5)) == sorted(users)
    assert set(store.some_entities("history", 2)) < set(users)


def test_writing_again_replaces(store):
    store.write_histories(histories(ann=[("i1", C, 1)]))
    store.write_histories(histories(ann=[("i2", C, 2)]))
    assert as_rows(store.histories(["ann"], 10)) == {"ann": [("i2", C, 2)]}


def test_slice_of_an_arrow_array_is_written_right(store):
    item_ids = pa.array(["zero", "one", "two", "three"]).slice(1, 2)
    sliced = Histories(
        user_ids=["ann"], offsets=np.array([0, 2]), item_ids=item_ids, events=np.ones(2, np.int8), times=np.arange(2)
    )
    store.write_histories(sliced)
    assert store.histories(["ann"], 10).item_ids.to_pylist() == ["one", "two"]


def test_items_come_back_whole(store):
    full = ItemFacts(
        item_id="i1", title="Ä title", brand="Acme", category=("a", "b"), price=2.5, available_from=9, available=False
    )
    bare = ItemFacts(item_id="i2", title="", brand=None)
    no_name = ItemFacts(item_id="i3", title="x", brand="")
    store.write_items([full, bare, no_name])
    assert store.items(["i2", "missing", "i1", "i3"]) == [bare, None, full, no_name]


def test_more_keys_than_one_round_trip_holds(store, monkeypatch):
    monkeypatch.setattr("features.store.blob_store.READ_CHUNK", 3)
    monkeypatch.setattr("features.store.blob_store.WRITE_CHUNK", 2)
    facts = [ItemFacts(item_id=f"i{n}", title=str(n)) for n in range(8)]
    store.write_items(facts)
    assert store.items([item.item_id for item in facts]) == facts


@pytest.mark.parametrize("damage", [b"", b"short", None], ids=["empty", "short", "one bit"])
def test_damaged_blob_is_missing_and_counted(store, damage):
    store.write_histories(histories(ann=[("i1", C, 1)], bob=[("i2", C, 2)]))
    store.write_items([ItemFacts(item_id="i1", title="t")])
    for key in (store.keys.blob(1, "history", "ann"), store.keys.blob(1, "item", "i1")):
        blob = store.client.get(key)
        store.client.set(key, damage if damage is not None else blob[:-1] + bytes([blob[-1] ^ 1]))
    assert as_rows(store.histories(["ann", "bob"], 10)) == {"ann": [], "bob": [("i2", C, 2)]}
    assert store.items(["i1"]) == [None]
    assert store.corrupted == 2


def test_blob_of_another_layout_is_missing_and_counted(store):
    store.write_items([ItemFacts(item_id="ann", title="t")])
    blob = store.client.get(store.keys.blob(1, "item", "ann"))
    store.client.set(store.keys.blob(1, "history", "ann"), blob)
    assert as_rows(store.histories(["ann"], 10)) == {"ann": []}
    assert store.corrupted == 1


def test_entries_expire(store):
    store.write_histories(histories(ann=[("i1", C, 1)]))
    assert 0 < store.client.ttl(store.keys.blob(1, "history", "ann")) <= StoreConfig().ttl_days * 86_400


def test_namespaces_are_apart(store):
    store.write_items([ItemFacts(item_id="i1", title="t")])
    with RedisStore(store.url, StoreConfig(namespace="another")) as other:
        assert other.items(["i1"]) == [None]


def item_columns(rows: int, seed: int = 0) -> Columns:
    """Random values of all item features."""
    rng = np.random.default_rng(seed)
    numbers, ids = {}, {}
    for feature in features_of(ITEM):
        if feature.kind == NUMBER:
            numbers[feature.name] = rng.normal(size=rows).astype(np.float32)
            continue
        lengths = rng.integers(0, 4, rows)
        ids[feature.name] = IdColumn(
            hashes=rng.integers(0, 2**64, lengths.sum(), dtype=np.uint64),
            offsets=offsets_from_lengths(lengths),
            weights=rng.random(lengths.sum()).astype(np.float32) if feature.kind == WEIGHTS else None,
        )
    return Columns(rows=rows, ids=ids, numbers=numbers)


def assert_equal_columns(found: Columns, expected: Columns) -> None:
    assert [*found.numbers, *found.ids] == [*expected.numbers, *expected.ids]
    for name, values in expected.numbers.items():
        np.testing.assert_array_equal(found.numbers[name], values)
    for name, column in expected.ids.items():
        for part in ("hashes", "offsets", "weights"):
            np.testing.assert_array_equal(getattr(found.ids[name], part), getattr(column, part))


def packed_states(users: int, layout: int | None = None) -> list[bytes]:
    """States of all user features: user n has n events in each memory."""
    states = []
    for memory in memories_of(features_of(USER)):
        rows = np.repeat(np.arange(users), np.arange(users))
        states.append({ENTITY: rows, **{name: np.arange(len(rows)) for name in memory.columns}})
    return pack_states(states, users, state_layout() if layout is None else layout).to_pylist()


def test_all_that_is_known_of_users_comes_together(store):
    states = packed_states(3)
    store.write_histories(histories(ann=[("i1", C, 1)], bob=[("i2", P, 2)]))
    store.write_states(["bob", "eve"], states[1:])
    store.write_attributes(["ann", "bob"], [{"plan": "gold", "name": "Ann Ä"}, {}])
    found = store.users(["bob", "eve", "nobody", "ann"], 10)
    assert as_rows(found.histories) == {"bob": [("i2", P, 2)], "eve": [], "nobody": [], "ann": [("i1", C, 1)]}
    assert found.states == [states[1], states[2], None, None]
    assert found.attributes == [{}, None, None, {"plan": "gold", "name": "Ann Ä"}]
    assert store.corrupted == 0


def test_item_features_are_read_as_written(store):
    columns = item_columns(3)
    assert store.item_features(["i0"]) is None
    store.write_item_features(["i0", "i1", "i2"], columns)
    assert_equal_columns(store.item_features(["i2", "i0"]), columns.take(np.array([2, 0])))
    found = store.item_features(["missing", "i1"])
    assert_equal_columns(found, take_or_default(columns, np.array([-1, 1]), features_of(ITEM)))


def test_damaged_users_and_item_features_are_missing_and_counted(store):
    store.write_states(["ann"], packed_states(1))
    store.write_attributes(["ann"], [{"plan": "gold"}])
    store.write_item_features(["i0", "i1"], item_columns(2))
    for view, entity in (("state", "ann"), ("user", "ann"), ("item_features", "i1")):
        key = store.keys.blob(1, view, entity)
        blob = store.client.get(key)
        store.client.set(key, blob[:-1] + bytes([blob[-1] ^ 1]))
    found = store.users(["ann"], 10)
    assert (found.states, found.attributes, store.corrupted) == ([None], [None], 2)
    expected = take_or_default(item_columns(2), np.array([0, -1]), features_of(ITEM))
    assert_equal_columns(store.item_features(["i0", "i1"]), expected)
    assert store.corrupted == 3


def test_states_of_other_features_are_missing_and_counted(store):
    store.write_states(["ann"], packed_states(1, layout=state_layout() ^ 1))
    assert store.users(["ann"], 10).states == [None]
    assert store.corrupted == 1


def test_freshness_is_what_was_said_last(store):
    assert store.freshness() is None
    said = Freshness(generation="ab", newest_event_time=5, users=1, items=2)
    store.write_freshness(said)
    assert store.freshness() == said


row = st.lists(st.tuples(st.text(max_size=5), st.sampled_from([C, P, D]), st.integers(-(2**62), 2**62)), max_size=6)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(row, max_size=5), limit=st.integers(1, 6))
def test_whatever_is_written_is_read(tcp_redis_url, rows, limit):
    named = {f"user{n}": entries for n, entries in enumerate(rows)}
    with RedisStore(tcp_redis_url, StoreConfig(namespace="property", history_length=5)) as store:
        store.write_histories(histories(**named))
        found = as_rows(store.histories(list(named), limit))
    assert found == {user: entries[-min(limit, 5) :] if entries else [] for user, entries in named.items()}


def test_unreachable_redis_says_where_and_what_to_do(tmp_path):
    config = StoreConfig(url="redis://:secret@127.0.0.1:1/0", timeout_s=0.5)
    with pytest.raises(StoreUnavailableError, match=r"redis://127\.0\.0\.1:1/0 does not answer.*leave store\.url out"):
        open_store(config, Workspace(tmp_path))


def test_histories_must_fit_their_offsets():
    with pytest.raises(ValueError, match=r"expected 2 offsets .* got 2 offsets up to 3 and 1, 1, 1, 1 entries"):
        Histories(
            user_ids=["a"],
            offsets=np.array([0, 3]),
            item_ids=pa.array(["x"]),
            events=np.zeros(1, np.int8),
            times=np.zeros(1, np.int64),
        )


def test_config_names_all_mistakes_at_once():
    found = r"url: .*'http://x'; namespace: .*'a:b'; ttl_days: .*got 0; history_length: .*-1; durability: .*'maybe'"
    with pytest.raises(ValueError, match=found):
        StoreConfig(url="http://x", namespace="a:b", ttl_days=0, history_length=-1, durability="maybe")


@pytest.mark.parametrize("name", ["", "{a}", "a*", "a[b]", "a?", "a\\b"])
def test_a_namespace_means_nothing_else_to_redis(name):
    with pytest.raises(ValueError, match="namespace: expected a name without colons, brackets, stars"):
        StoreConfig(namespace=name)
