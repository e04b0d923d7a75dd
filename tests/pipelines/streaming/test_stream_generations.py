"""A store that lacks what the log holds: emptied, set back, or filled anew beside the one that is read."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import stream_world as world

from features.online.items import refresh_items
from features.store.base import ITEM_STATE, SEEN, Freshness, NewBlob, StoreUnavailableError, Version
from features.store.redis_store import RedisStore
from features.stream.config import StreamConfig
from features.workspace import Workspace
from pipelines.batch.arrow import DAY_MS
from pipelines.batch.config import PagesConfig
from pipelines.streaming import driver, generations
from pipelines.streaming.log import Range, committed_log
from pipelines.streaming.run import run_stream

pytestmark = pytest.mark.integration
MESSAGES = world.messages(facts_change=False)
"""Facts count as they were when a range was folded; a chunk folds several ranges at once."""


@pytest.fixture(scope="module")
def expected(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], bytes | None]:
    """What a store holds that never lacked anything."""
    world.append(redis_url, "expected", MESSAGES)
    world.take_up(tmp_path_factory.mktemp("expected"), redis_url, "expected")
    return told(redis_url, "expected")


def told(url: str, namespace: str) -> dict[tuple[str, str], bytes | None]:
    """What the store tells of users and items: item features as of the newest midnight, and of three days later."""
    now = world.held(url, namespace)
    with RedisStore(url, world.store_config(url, namespace)) as store:
        version = Version(store.generations()[0], 2**62)
        refresh_items(store, world.SHOP, version=version, midnight_ms=world.START // DAY_MS * DAY_MS + 4 * DAY_MS)
    later = {(f"later {view}", name): payload for (view, name), payload in world.held(url, namespace).items()}
    # the same may be held in several ways: which events came last, a pair that was made and taken back
    return {key: payload for key, payload in {**now, **later}.items() if not key[0].endswith((SEEN, ITEM_STATE))}


def take_one_range(folder: Path, url: str, namespace: str) -> None:
    stopping = threading.Event()
    config, store = StreamConfig(range_rows=25, interval_s=0.001), world.store_config(url, namespace)
    run_stream(
        Workspace(folder),
        config,
        store,
        PagesConfig(),
        stopping=stopping,
        progress=lambda *_: stopping.set(),
        lease_s=60,
    )


def store_keys(store: RedisStore) -> dict[bytes, bytes]:
    keys = list(store.client.scan_iter(match=f"{store.keys.prefix}:*"))
    return dict(zip(keys, store.client.mget(keys), strict=True)) if keys else {}


@pytest.mark.parametrize("chunk_ranges", [1, 1000])
def test_an_emptied_store_is_filled_from_the_log(chunk_ranges, tmp_path, redis_url, expected, monkeypatch) -> None:
    namespace = f"emptied{chunk_ranges}"
    monkeypatch.setattr(generations, "CHUNK_RANGES", chunk_ranges)
    world.append(redis_url, namespace, MESSAGES)
    world.take_up(tmp_path, redis_url, namespace)
    with RedisStore(redis_url, world.store_config(redis_url, namespace)) as store:
        store.client.delete(*store_keys(store))
        assert world.take_up(tmp_path, redis_url, namespace).ranges == 0
        assert store.progress(1) == committed_log(Workspace(tmp_path)).position
    assert told(redis_url, namespace) == expected


def test_a_store_that_lost_its_last_writes_gets_them_again(tmp_path, redis_url, expected) -> None:
    world.append(redis_url, "lost", MESSAGES)
    with RedisStore(redis_url, world.store_config(redis_url, "lost")) as store:
        take_one_range(tmp_path, redis_url, "lost")
        kept = store_keys(store)
        world.take_up(tmp_path, redis_url, "lost")
        store.client.delete(*store_keys(store))
        store.client.mset(kept)
        world.take_up(tmp_path, redis_url, "lost")
    assert told(redis_url, "lost") == expected


def test_a_new_generation_is_read_once_it_has_caught_up(tmp_path, redis_url, expected) -> None:
    """A back-fill that covers the first range, written while the stream went on; duplicates are still known after."""
    world.append(redis_url, "new", MESSAGES)
    wanted = [*world.held(redis_url, "expected")]
    with RedisStore(redis_url, world.store_config(redis_url, "new")) as store:
        take_one_range(tmp_path, redis_url, "new")
        covered, held = committed_log(Workspace(tmp_path)).position, store.read_blobs(wanted)
        take_one_range(tmp_path, redis_url, "new")
        number = store.new_generation()
        version = Version(number, covered)
        found = [(*key, blob) for key, blob in zip(wanted, held, strict=True) if blob is not None]
        store.write_blobs(NewBlob(view, name, version, blob.event_time, blob.payload) for view, name, blob in found)
        filled = Freshness(generation="f" * 16, newest_event_time=None, users=0, items=0, position=covered)
        store.write_freshness(filled, generation=number)
        store.announce(number)
        world.append(redis_url, "new", MESSAGES[5:12])
        world.take_up(tmp_path, redis_url, "new")
        assert store.generations() == (number, None)
    assert told(redis_url, "new") == expected
    assert (
        len({row["event_id"] for row in world.logged(tmp_path)["event_log"]}) == world.counts(tmp_path)["events.logged"]
    )


def test_the_generation_that_is_read_stays_fresh_while_another_one_catches_up(tmp_path, redis_url, monkeypatch) -> None:
    """One that waits gets a chunk per range, of the rows before and of those that come meanwhile."""
    monkeypatch.setattr(generations, "CHUNK_RANGES", 2)
    later = world.messages(seed=1, facts_change=False)
    for namespace in ("fresh", "fresh undisturbed"):
        world.append(redis_url, namespace, MESSAGES)
        world.take_up(tmp_path / namespace, redis_url, namespace, range_rows=10)
    seen: list[tuple[tuple[int, int | None], bool]] = []
    with RedisStore(redis_url, world.store_config(redis_url, "fresh")) as store:
        store.write_freshness(Freshness(generation="f" * 16, newest_event_time=None, users=0, items=0), generation=2)
        assert store.new_generation() == 2
        store.announce(2)

        def done(taken: Range, _: object) -> None:
            seen.append((store.generations(), store.progress(1) == taken.last))

        for namespace in ("fresh", "fresh undisturbed"):
            world.append(redis_url, namespace, later)
            progress = {"progress": done} if namespace == "fresh" else {}
            world.take_up(tmp_path / namespace, redis_url, namespace, range_rows=10, **progress)
        assert store.generations() == (2, None)
    assert seen[:3] == [((1, 2), True)] * 3
    assert told(redis_url, "fresh") == told(redis_url, "fresh undisturbed")


def test_a_store_that_is_set_back_right_before_the_end_folds_nothing_then(tmp_path, redis_url, expected) -> None:
    """What it lost, the next run folds from the log; nothing may say meanwhile that it has it."""
    world.append(redis_url, "set back at the end", MESSAGES)
    stopping, ranges, kept = threading.Event(), 0, dict[bytes, bytes]()
    with RedisStore(redis_url, world.store_config(redis_url, "set back at the end")) as store:

        def progress(*_: object) -> None:
            nonlocal ranges
            ranges += 1
            if ranges == 3:
                kept.update(store_keys(store))
            if ranges == 6:
                set_back(store, kept)
                stopping.set()

        config = StreamConfig(range_rows=10, interval_s=0.001)
        store_config = world.store_config(redis_url, "set back at the end")
        run_stream(
            Workspace(tmp_path), config, store_config, PagesConfig(), stopping=stopping, progress=progress, lease_s=60
        )
    assert ranges == 6
    world.take_up(tmp_path, redis_url, "set back at the end", range_rows=10)
    assert told(redis_url, "set back at the end") == expected


@pytest.mark.parametrize("survives", [0, 1, 2, 5])
def test_a_fold_at_the_end_that_is_cut_short_counts_nothing_twice(
    survives, tmp_path, redis_url, expected, monkeypatch
) -> None:
    namespace, half = f"cut short {survives}", len(MESSAGES) // 2
    world.append(redis_url, namespace, MESSAGES[:half])
    write, fold, left = RedisStore.write_blobs, driver.fold_waiting_items, list[int]()

    def folding(*arguments: Any) -> bool:
        left.append(survives)
        return fold(*arguments)

    def failing(self: RedisStore, blobs: Iterable[NewBlob]) -> int:
        if left:
            left[0] -= 1
            if left[0] < 0:
                raise StoreUnavailableError("cut short")
        return write(self, blobs)

    with monkeypatch.context() as patched:
        patched.setattr(driver, "fold_waiting_items", folding)
        patched.setattr(RedisStore, "write_blobs", failing)
        with pytest.raises(StoreUnavailableError, match="cut short"):
            world.take_up(tmp_path, redis_url, namespace, range_rows=10)
    world.append(redis_url, namespace, MESSAGES[half:])
    world.take_up(tmp_path, redis_url, namespace, range_rows=10)
    assert told(redis_url, namespace) == expected


def set_back(store: RedisStore, kept: dict[bytes, bytes]) -> None:
    """Let the store hold what it held once; the lease stays."""
    store.client.delete(*(key for key in store_keys(store) if b"lease" not in key))
    store.client.mset({key: value for key, value in kept.items() if b"lease" not in key})


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_store_may_be_set_back_to_any_write(seed, tmp_path, redis_url, expected, monkeypatch) -> None:
    """Also to the middle of one, after any range, with any number of shards; more messages come then."""
    rng, namespace = random.Random(seed), f"any write {seed}"
    some, copies, write = 2 * len(MESSAGES) // 3, 20, RedisStore.write_blobs
    moments = list[dict[bytes, bytes]]()
    with RedisStore(redis_url, world.store_config(redis_url, namespace)) as store:

        def remembering(self: RedisStore, blobs: Iterable[NewBlob]) -> int:
            written = list(blobs)
            moments.append(store_keys(store))
            part = rng.randrange(len(written)) if written else 0
            if part:
                write(self, written[:part])
                moments.append(store_keys(store))
            return write(self, written)

        world.append(redis_url, namespace, MESSAGES[:some])
        with monkeypatch.context() as patched:
            patched.setattr(RedisStore, "write_blobs", remembering)
            world.take_up(tmp_path / "before", redis_url, namespace, range_rows=10, shards=1)
        assert len(moments) > 2 * copies
        stream = store.client.dump(f"{namespace}:stream")
        for number, moment in enumerate(rng.sample(moments, copies)):
            folder = tmp_path / str(number)
            shutil.copytree(tmp_path / "before", folder)
            set_back(store, moment)
            store.client.restore(f"{namespace}:stream", 0, stream, replace=True)
            world.append(redis_url, namespace, MESSAGES[some:])
            world.take_up(folder, redis_url, namespace, range_rows=10, shards=1 + number % 3)
            assert told(redis_url, namespace) == expected
