"""Versions, generations, leases and round trips, on every kind of Redis."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
import redis
from redis.connection import AbstractConnection
from redis_servers import eventually

from features.store.base import (
    FIRST_GENERATION,
    HISTORY,
    ITEM_STATE,
    SEEN,
    USER,
    Freshness,
    Held,
    ItemFacts,
    LeaseHeldError,
    LeaseLostError,
    NewBlob,
    Version,
)
from features.store.codec import attributes_payload
from features.store.config import StoreConfig
from features.store.reading import ReadPlan
from features.store.redis_store import RedisStore

pytestmark = pytest.mark.integration

FIRST = Version(FIRST_GENERATION)


def seen(entity: str, position: int, payload: bytes, generation: int = FIRST_GENERATION) -> NewBlob:
    return NewBlob(SEEN, entity, Version(generation, position), 70 + position % 10, payload)


def payload_of(store: RedisStore, entity: str) -> bytes | None:
    (held,) = store.read_blobs([(SEEN, entity)])
    return held and held.payload


def test_blobs_come_back_with_version_and_event_time(store):
    assert store.write_blobs([seen("ann", 3, b"x"), NewBlob(ITEM_STATE, "ann", FIRST, -5, b"")]) == 2
    found = store.read_blobs([(ITEM_STATE, "ann"), (SEEN, "bob"), (SEEN, "ann")])
    assert found == [Held(FIRST, -5, b""), None, Held(Version(1, 3), 73, b"x")]


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (4, 4, b"second"),
        (4, 5, b"second"),
        (5, 4, b"first"),
        (255, 256, b"second"),
        (256, 255, b"first"),
        (2**64 - 1, 2**63, b"first"),
        (2**63 - 1, 2**63, b"second"),
        (2**53 + 2, 2**53 + 1, b"first"),
    ],
)
def test_an_earlier_version_never_replaces_a_later_one(store, first, second, kept):
    assert store.write_blobs([seen("ann", first, b"first")]) == 1
    assert store.write_blobs([seen("ann", second, b"second")]) == (kept == b"second")
    assert payload_of(store, "ann") == kept


def test_order_within_one_call_counts(store):
    blobs = [seen("ann", 2, b"two"), seen("ann", 1, b"one"), seen("bob", 1, b"bob")]
    assert store.write_blobs(blobs) == 2
    assert (payload_of(store, "ann"), payload_of(store, "bob")) == (b"two", b"bob")


def test_a_damaged_blob_that_names_no_version_is_replaced(store):
    store.client.set(store.keys.blob(1, SEEN, "ann"), b"damage")
    assert payload_of(store, "ann") is None
    assert store.write_blobs([seen("ann", 0, b"new")]) == 1
    assert (payload_of(store, "ann"), store.corrupted) == (b"new", 1)


def test_what_has_expired_is_missing_and_is_not_folded_forward(store):
    store.write_blobs([seen("ann", 9, b"old")])
    store.write_attributes(["ann"], [{"plan": "gold"}])
    for view in (SEEN, USER):
        store.client.pexpire(store.keys.blob(1, view, "ann"), 1)
    time.sleep(0.01)
    assert store.read_blobs([(SEEN, "ann")]) == [None]
    assert store.users(["ann"], 5).attributes == [None]
    assert store.write_blobs([seen("ann", 1, b"anew")]) == 1  # the version went with the entry
    assert store.corrupted == 0


def test_writing_starts_the_time_to_live_again(store):
    store.write_blobs([seen("ann", 1, b"x")])
    key = store.keys.blob(1, SEEN, "ann")
    store.client.expire(key, 60)
    store.write_blobs([seen("ann", 2, b"x")])
    assert store.client.ttl(key) > 60


def test_odd_names_are_entities_like_others(store):
    names = ["", "a:b", "{", "}", "{}", "}{", "a}b", "*", "ü ß", "x" * 300]
    store.write_blobs([seen(name, 1, name.encode()) for name in names])
    assert [payload_of(store, name) for name in names] == [name.encode() for name in names]


def test_freshness_of_each_view_is_returned(store):
    store.write_blobs([NewBlob(USER, "ann", Version(1, 40), 1000, attributes_payload({}))])
    fresh = store.users(["bob", "ann"], 5).freshness
    assert (fresh[USER].event_times.tolist(), fresh[USER].positions.tolist()) == ([0, 1000], [0, 40])
    assert fresh[HISTORY].event_times.tolist() == [0, 0]


def test_a_generation_is_read_from_its_flip_on(store):
    with RedisStore(store.url, StoreConfig(namespace=store.namespace)) as reader:
        store.write_items([ItemFacts(item_id="i1", title="old")])
        assert reader.generations() == (1, None)
        number = store.new_generation()
        store.write_items([ItemFacts(item_id="i1", title="new")], version=Version(number))
        assert [facts.title for facts in reader.items(["i1"])] == ["old"]
        assert not store.flip(number)
        store.announce(number)
        assert reader.generations() == (1, number)
        assert [facts.title for facts in reader.items(["i1"])] == ["old"]
        assert store.flip(number)
        assert [facts.title for facts in reader.items(["i1"])] == ["new"]
        assert reader.generations() == (number, None)
        assert not store.flip(number)


def test_a_newer_announcement_takes_the_place_of_a_waiting_one(store):
    first, second = store.new_generation(), store.new_generation()
    assert 1 < first < second
    store.announce(first)
    store.announce(second)
    assert not store.flip(first)
    assert store.flip(second)
    assert store.new_generation() > second


def test_numbers_are_never_given_again_even_if_the_counter_is_lost(store):
    number = store.new_generation()
    store.announce(number)
    store.flip(number)
    store.client.delete(store.keys.last_generation)
    assert store.new_generation() == number + 1


def test_old_generations_are_removed_and_nothing_else(store, monkeypatch):
    monkeypatch.setattr("features.store.generations.REMOVED_AT_ONCE", 3)
    numbers = [store.new_generation() for _ in range(3)]
    for number in (1, *numbers):
        store.write_blobs(seen(f"u{user}", 1, b"x", number) for user in range(8))
        store.write_freshness(Freshness(generation="a", newest_event_time=None, users=8, items=0), generation=number)
    with RedisStore(store.url, StoreConfig(namespace=f"{store.namespace}-b")) as neighbour:
        neighbour.write_blobs([seen("u1", 1, b"x")])
        store.announce(numbers[0])
        store.flip(numbers[0])
        store.announce(numbers[2])
        with store.writer_lease("backfill", 30):
            assert store.remove_old_generations() == 2 * 9  # generation 1 and the one that nobody announced
            assert store.remove_old_generations() == 0
        assert payload_of(neighbour, "u1") == b"x"
    assert payload_of(store, "u7") == b"x"
    assert store.read_blobs([(SEEN, "u7")], generation=numbers[2]) != [None]
    assert store.read_blobs([(SEEN, "u7")], generation=numbers[1]) == [None]
    assert store.freshness(generation=numbers[2]) is not None


def test_progress_of_the_stream_is_part_of_the_freshness(store):
    said = Freshness(generation="ab", newest_event_time=500, users=1, items=2, position=7)
    store.write_freshness(said)
    assert store.progress(1) is None
    assert store.freshness() == said
    store.write_progress(1, 9, 400)
    assert store.freshness() == Freshness(generation="ab", newest_event_time=500, users=1, items=2, position=9)
    store.write_progress(1, 12, 600)
    assert (store.progress(1), store.freshness().newest_event_time) == (12, 600)


def test_one_writer_at_a_time(store):
    with store.writer_lease("stream", 30):
        with pytest.raises(
            LeaseHeldError,
            match=r"lease:stream is held by .*:\d+ \(host:process, started 20.* UTC\), .*; stop it, or wait 9",
        ):
            store.writer_lease("stream", 9)
        store.writer_lease("backfill", 30).release()
    lease = store.writer_lease("stream", 30)
    lease.check()
    lease.release()
    lease.release()
    with pytest.raises(LeaseLostError, match="ran out before it was renewed"):
        lease.check()


def test_a_lease_is_renewed_until_it_is_released(store):
    with store.writer_lease("stream", 0.4) as lease:
        time.sleep(0.9)
        lease.check()
        with pytest.raises(LeaseHeldError):
            store.writer_lease("stream", 1)


def test_a_waiting_writer_gets_the_lease_when_it_is_given_back(store):
    lease = store.writer_lease("stream", 30)
    threading.Timer(0.2, lease.release).start()
    with store.writer_lease("stream", 30, wait_s=20) as next_lease:
        next_lease.check()


def test_a_lease_that_another_took_is_lost_and_not_given_back(store):
    lease = store.writer_lease("stream", 0.3)
    store.client.set(store.keys.lease("stream"), "other:1:abc", px=60_000)

    def lost() -> bool:
        try:
            lease.check()
        except LeaseLostError:
            return True
        return False

    eventually(lost, "the holder notices")
    lease.release()
    assert store.client.get(store.keys.lease("stream")) == b"other:1:abc"


HOLDER = """
import sys, time
from features.store.connections import connect
from features.store.leases import RedisLease
RedisLease(connect(sys.argv[1], 2.0), sys.argv[2], 1.0)
print("held", flush=True)
time.sleep(600)
"""


def test_a_killed_writer_keeps_its_lease_no_longer_than_its_time(tcp_redis_url, tmp_path):
    with RedisStore(tcp_redis_url, StoreConfig(namespace=f"killed-{tmp_path.name}")) as store:
        command = [sys.executable, "-c", HOLDER, tcp_redis_url, store.keys.lease("stream")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
            assert holder.stdout.readline() == b"held\n"
            time.sleep(1.2)  # renewed meanwhile
            with pytest.raises(LeaseHeldError, match=rf"held by .*:{holder.pid} "):
                store.writer_lease("stream", 30)
            holder.kill()
        with store.writer_lease("stream", 30, wait_s=20) as lease:
            lease.check()


def sent(monkeypatch: pytest.MonkeyPatch, read) -> int:
    """How many times `read` sends something to a server."""
    requests = []
    send = AbstractConnection.send_packed_command

    def counted(self, command, *args, **options):
        requests.append(command)
        return send(self, command, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(AbstractConnection, "send_packed_command", counted)
        read()
    return len(requests)


def test_all_that_a_request_needs_is_one_round_trip(store, monkeypatch):
    plan = ReadPlan()
    users, items = plan.users([f"u{n}" for n in range(100)], 10), plan.items(["i1"])
    features = plan.item_features(["i1"])
    store.read(plan)
    servers = len(store.client.get_primaries()) if isinstance(store.client, redis.RedisCluster) else 1
    assert sent(monkeypatch, lambda: store.read(plan)) == servers
    assert (len(users.get()), items.get(), features.get()) == (100, [None], None)


def test_a_flip_costs_a_reader_one_repeated_read(store, monkeypatch):
    with RedisStore(store.url, StoreConfig(namespace=store.namespace)) as reader:
        reader.items(["i1"])
        number = store.new_generation()
        store.announce(number)
        store.flip(number)
        store.items(["i1"])
        once = sent(monkeypatch, lambda: store.items(["i1"]))
        assert sent(monkeypatch, lambda: reader.items(["i1"])) == 2 * once
