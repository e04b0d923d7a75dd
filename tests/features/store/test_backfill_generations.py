"""A back-fill beside the generation that is read: who flips, who waits, what a crash leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis_servers import eventually
from store_tables import C, sequence, small_workspace, write

from features.schemas import TRAIN
from features.store.backfill import BACKFILL, STREAM, backfill
from features.store.base import HISTORY, ITEM, LeaseHeldError, LeaseLostError, NewBlob, Version
from features.store.config import StoreConfig
from features.store.leases import RedisLease
from features.store.redis_store import RedisStore

pytestmark = pytest.mark.integration


@pytest.fixture
def workspace(tmp_path):
    return small_workspace(tmp_path / "w")


def test_the_same_again_writes_nothing(workspace, store):
    first = backfill(workspace, store, StoreConfig())
    second = backfill(workspace, store, StoreConfig())
    assert (second.filled, second.generation, second.number) == (None, first.generation, first.number)
    assert second.lines() == [
        f"store: holds these inputs already; generation {first.number} ({first.generation}) is read by now"
    ]
    longer = backfill(workspace, store, StoreConfig(history_length=3))
    assert longer.generation != first.generation  # other entries of the same tables


def test_position_of_the_inputs_is_in_every_entry_and_in_the_freshness(workspace, store):
    report = backfill(workspace, store, StoreConfig(), position=2**40 + 5)
    wanted = [(HISTORY, "ann"), (HISTORY, "eve"), (ITEM, "i1")]
    held = store.read_blobs(wanted)
    assert {one.version for one in held} == {Version(report.number, 2**40 + 5)}
    assert [one.event_time for one in held] == [90, 7, 0]
    assert store.freshness().position == 2**40 + 5


def test_readers_see_the_old_generation_until_the_flip(workspace, store, monkeypatch):
    backfill(workspace, store, StoreConfig())
    write(workspace, "sequences", [sequence("ann", TRAIN, [[("i1", C, 1)]])])
    seen = []
    write_items = RedisStore.write_items

    def watched(self, facts, **options):
        write_items(self, facts, **options)
        seen.append(store.histories(["ann"], 10).item_ids.to_pylist())

    monkeypatch.setattr(RedisStore, "write_items", watched)
    report = backfill(workspace, store, StoreConfig())
    assert seen == [["i2", "i4", "i5", "i9"]]
    assert store.histories(["ann", "eve"], 10).offsets.tolist() == [0, 1, 1]  # eve is in the old tables only
    assert report.removed == 2 + 2 + 1  # two histories, two items, the freshness


def test_a_running_stream_flips_itself_when_it_has_caught_up(workspace, store):
    with store.writer_lease(STREAM, 30):
        report = backfill(workspace, store, StoreConfig(), flip_wait_s=0.0)
        assert not report.active
        assert report.lines()[-1].endswith("waits until the stream has caught up, 0 old entries removed")
        assert store.generations() == (1, report.number)
        assert store.histories(["ann"], 10).offsets.tolist() == [0, 0]
        again = backfill(workspace, store, StoreConfig(), flip_wait_s=0.0)
        assert (again.filled, again.number, again.active) == (None, report.number, False)
        assert store.flip(report.number)
    assert backfill(workspace, store, StoreConfig()).number == report.number
    assert store.histories(["ann"], 10).offsets.tolist() == [0, 4]


def test_the_back_fill_waits_for_the_stream(workspace, store):
    with store.writer_lease(STREAM, 30), ThreadPoolExecutor(1) as pool:
        filling = pool.submit(backfill, workspace, store, StoreConfig())
        eventually(lambda: store.generations()[1], "a generation waits")
        assert store.flip(store.generations()[1])
        assert filling.result(60).active


def test_what_waits_since_the_stream_was_killed_is_read_after_the_next_back_fill(workspace, store):
    with store.writer_lease(STREAM, 30):
        waiting = backfill(workspace, store, StoreConfig(), flip_wait_s=0.0)
    report = backfill(workspace, store, StoreConfig())
    assert (report.filled, report.number, report.active) == (None, waiting.number, True)


def test_one_back_fill_at_a_time(workspace, store):
    with store.writer_lease(BACKFILL, 30), pytest.raises(LeaseHeldError, match=r"lease:backfill is held by"):
        backfill(workspace, store, StoreConfig())


def test_a_back_fill_that_lost_its_lease_ends_and_the_next_one_tidies_up(workspace, store, monkeypatch):
    def lost(self) -> None:
        if store.client.exists(store.keys.blob(2, HISTORY, "ann")):
            raise LeaseLostError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(RedisLease, "check", lost)
        with pytest.raises(LeaseLostError):
            backfill(workspace, store, StoreConfig())
    assert store.generations() == (1, None)
    report = backfill(workspace, store, StoreConfig())
    assert (report.number, report.removed) == (3, 2)  # the histories of the generation that was not finished


@pytest.mark.parametrize("moment", ["before it is announced", "after the flip"])
def test_a_back_fill_that_lost_its_lease_leaves_alone_what_the_next_one_fills(workspace, store, monkeypatch, moment):
    def lost(self) -> None:
        filled = store.freshness(generation=2) is not None
        if store.generations()[0] == 2 if moment == "after the flip" else filled:
            raise LeaseLostError("lost")

    others = NewBlob(HISTORY, "ann", Version(3), 0, b"")
    store.write_blobs([others])
    with monkeypatch.context() as patch:
        patch.setattr(RedisLease, "check", lost)
        with pytest.raises(LeaseLostError):
            backfill(workspace, store, StoreConfig())
    assert store.generations() == ((2, None) if moment == "after the flip" else (1, None))
    assert store.read_blobs([(HISTORY, "ann")], generation=3) != [None]


KILLED = """
import os, signal, sys
from features.store import filling
from features.store.backfill import backfill
from features.store.config import StoreConfig
from features.store.redis_store import RedisStore
from features.workspace import Workspace
url, namespace, folder, writes = sys.argv[1:]
config, left = StoreConfig(url=url, namespace=namespace), int(writes)
replace = RedisStore.write_blobs
def killed(self, blobs):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, blobs)
RedisStore.write_blobs = killed
flip = RedisStore.flip
RedisStore.flip = lambda self, number: os.kill(os.getpid(), signal.SIGKILL)
filling.USERS_PER_WRITE = 1
backfill(Workspace(folder), RedisStore(url, config), config)
"""


@pytest.mark.parametrize(
    "writes",
    [
        pytest.param(0, id="first write", marks=pytest.mark.slow),
        pytest.param(1, id="second write"),
        pytest.param(2, id="third write", marks=pytest.mark.slow),
        pytest.param(3, id="the flip"),
    ],
)
def test_a_killed_back_fill_leaves_what_is_read_alone(workspace, tcp_redis_url, tmp_path, writes):
    config = StoreConfig(url=tcp_redis_url, namespace=f"killed-{tmp_path.name}-{writes}")
    with RedisStore(tcp_redis_url, config) as store:
        before = backfill(workspace, store, config)
        write(workspace, "sequences", [sequence(user, TRAIN, [[("i1", C, 1)]]) for user in ("ann", "eve")])
        command = [
            sys.executable,
            "-c",
            KILLED,
            tcp_redis_url,
            config.namespace,
            str(workspace.local_path()),
            str(writes),
        ]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert store.generations()[0] == before.number
        assert store.histories(["ann"], 10).offsets.tolist() == [0, 5]
        store.client.delete(store.keys.lease(BACKFILL), store.keys.lease(STREAM))  # as if their time were over
        after = backfill(workspace, store, config)
        assert after.active
        assert store.histories(["ann", "eve"], 10).offsets.tolist() == [0, 1, 2]
        left = [store.keys.generation_of(key) for key in store.client.scan_iter(f"{store.keys.prefix}:*")]
        assert {*left} == {None, after.number}
