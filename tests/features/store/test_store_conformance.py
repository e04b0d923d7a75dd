"""What every online store must do; runs on the embedded Redis and on one over TCP."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from features.schemas import CLICK, DISLIKE, EVENT_CODE, PURCHASE
from features.store.base import Freshness, Histories, ItemFacts, StoreUnavailableError
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore, open_store
from features.workspace import Workspace

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
    store.write_histories(histories(ann=ann, bob=[("i5", C, 1500)]), generation=1)
    assert as_rows(store.histories(["bob", "ann"], 10)) == {"bob": [("i5", C, 1500)], "ann": ann}


def test_unknown_user_has_an_empty_history(store):
    store.write_histories(histories(ann=[("i7", C, 1000)]), generation=1)
    found = store.histories(["nobody", "ann", "nobody2"], 10)
    assert found.offsets.tolist() == [0, 0, 1, 1]
    assert found.item_ids.to_pylist() == ["i7"]


def test_no_users_asked_for(store):
    assert len(store.histories([], 10)) == 0
    assert store.items([]) == []


def test_user_without_events_is_stored_as_empty(store):
    store.write_histories(histories(ann=[]), generation=1)
    assert as_rows(store.histories(["ann"], 10)) == {"ann": []}


def test_limit_takes_the_newest(store):
    store.write_histories(histories(ann=[("é1", C, 1), ("i22", C, 2), ("i333", P, 3)]), generation=1)
    assert as_rows(store.histories(["ann"], 2)) == {"ann": [("i22", C, 2), ("i333", P, 3)]}


def test_history_length_keeps_the_newest_at_writing(store):
    store.write_histories(histories(ann=[(f"i{n}", C, n) for n in range(7)], bob=[("x", C, 9)]), generation=1)
    kept = as_rows(store.histories(["ann", "bob"], 100))
    assert kept == {"ann": [(f"i{n}", C, n) for n in (3, 4, 5, 6)], "bob": [("x", C, 9)]}


def test_writing_again_replaces(store):
    store.write_histories(histories(ann=[("i1", C, 1)]), generation=1)
    store.write_histories(histories(ann=[("i2", C, 2)]), generation=2)
    assert as_rows(store.histories(["ann"], 10)) == {"ann": [("i2", C, 2)]}


def test_slice_of_an_arrow_array_is_written_right(store):
    item_ids = pa.array(["zero", "one", "two", "three"]).slice(1, 2)
    sliced = Histories(
        user_ids=["ann"], offsets=np.array([0, 2]), item_ids=item_ids, events=np.ones(2, np.int8), times=np.arange(2)
    )
    store.write_histories(sliced, generation=1)
    assert store.histories(["ann"], 10).item_ids.to_pylist() == ["one", "two"]


def test_items_come_back_whole(store):
    full = ItemFacts(
        item_id="i1", title="Ä title", brand="Acme", category=("a", "b"), price=2.5, available_from=9, available=False
    )
    bare = ItemFacts(item_id="i2", title="", brand=None)
    no_name = ItemFacts(item_id="i3", title="x", brand="")
    store.write_items([full, bare, no_name], generation=1)
    assert store.items(["i2", "missing", "i1", "i3"]) == [bare, None, full, no_name]


def test_more_keys_than_one_round_trip_holds(store, monkeypatch):
    monkeypatch.setattr("features.store.redis_store.READ_CHUNK", 3)
    monkeypatch.setattr("features.store.redis_store.WRITE_CHUNK", 2)
    facts = [ItemFacts(item_id=f"i{n}", title=str(n)) for n in range(8)]
    store.write_items(facts, generation=1)
    assert store.items([item.item_id for item in facts]) == facts


@pytest.mark.parametrize("damage", [b"", b"short", None], ids=["empty", "short", "one bit"])
def test_damaged_blob_is_missing_and_counted(store, damage):
    store.write_histories(histories(ann=[("i1", C, 1)], bob=[("i2", C, 2)]), generation=1)
    store.write_items([ItemFacts(item_id="i1", title="t")], generation=1)
    with redis.Redis.from_url(store.url) as client:
        for key in [*client.scan_iter(f"{store.namespace}:*:ann"), *client.scan_iter(f"{store.namespace}:*:i1")]:
            blob = client.get(key)
            client.set(key, damage if damage is not None else blob[:-1] + bytes([blob[-1] ^ 1]))
    assert as_rows(store.histories(["ann", "bob"], 10)) == {"ann": [], "bob": [("i2", C, 2)]}
    assert store.items(["i1"]) == [None]
    assert store.corrupted == 2


def test_blob_of_another_layout_is_missing_and_counted(store):
    store.write_items([ItemFacts(item_id="ann", title="t")], generation=1)
    with redis.Redis.from_url(store.url) as client:
        for key in list(client.scan_iter(f"{store.namespace}:*:item:ann")):
            client.rename(key, key.replace(b":item:", b":history:"))
    assert as_rows(store.histories(["ann"], 10)) == {"ann": []}
    assert store.corrupted == 1


def test_entries_expire(store):
    store.write_histories(histories(ann=[("i1", C, 1)]), generation=1)
    with redis.Redis.from_url(store.url) as client:
        (key,) = client.scan_iter(f"{store.namespace}:*:history:ann")
        assert 0 < client.ttl(key) <= StoreConfig().ttl_days * 86_400


def test_namespaces_are_apart(store):
    store.write_items([ItemFacts(item_id="i1", title="t")], generation=1)
    with RedisStore(store.url, StoreConfig(namespace="another")) as other:
        assert other.items(["i1"]) == [None]


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
        store.write_histories(histories(**named), generation=1)
        found = as_rows(store.histories(list(named), limit))
    assert found == {user: entries[-min(limit, 5) :] if entries else [] for user, entries in named.items()}


def test_unreachable_redis_says_where_and_what_to_do(tmp_path):
    config = StoreConfig(url="redis://:secret@127.0.0.1:1/0", timeout_s=0.5)
    with pytest.raises(StoreUnavailableError, match=r"redis://127\.0\.0\.1:1/0 does not answer.*leave store\.url out"):
        open_store(config, Workspace(tmp_path))


def test_histories_must_fit_their_offsets():
    with pytest.raises(ValueError, match=r"expected 2 offsets .* got 2 offsets up to 3 and 1, 1, 1 entries"):
        Histories(
            user_ids=["a"],
            offsets=np.array([0, 3]),
            item_ids=pa.array(["x"]),
            events=np.zeros(1, np.int8),
            times=np.zeros(1, np.int64),
        )


def test_config_names_all_mistakes_at_once():
    with pytest.raises(
        ValueError, match=r"url: .*'http://x'; namespace: .*'a:b'; ttl_days: .*got 0; history_length: .*-1"
    ):
        StoreConfig(url="http://x", namespace="a:b", ttl_days=0, history_length=-1)
