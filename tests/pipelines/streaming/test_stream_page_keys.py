"""Duplicates of served pages: the same decision however often a range is taken up, bounded entries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from features.schemas import PAGES, TIMESTAMP
from features.store.base import SEEN_PAGES, Version
from features.store.config import StoreConfig
from features.store.embedded import EmbeddedRedis
from features.store.redis_store import RedisStore
from pipelines.streaming import page_keys
from pipelines.streaming.page_keys import fresh_pages

LATENESS = 100


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    with EmbeddedRedis(tmp_path_factory.mktemp("pages")) as running:
        yield running


@pytest.fixture
def store(server: EmbeddedRedis, request: pytest.FixtureRequest):
    with RedisStore(server.url, StoreConfig(namespace=request.node.name)) as opened:
        yield opened


def served(*rows: tuple[str, str, int]) -> pa.Table:
    users, requests, times = zip(*rows, strict=True)
    columns = {"user_id": users, "request_id": requests, "timestamp": pa.array(times).cast(TIMESTAMP)}
    columns |= {"items": [["tea"]] * len(rows), "events": [["impression"]] * len(rows)}
    columns["event_times"] = pa.array([[time] for time in times]).cast(pa.list_(TIMESTAMP))
    absent = {field.name: pa.nulls(len(rows), field.type) for field in PAGES if field.name not in columns}
    return pa.table({**columns, **absent}).select(PAGES.names).cast(PAGES)


def fresh(store: RedisStore, position: int, rows: Sequence[tuple[str, str, int]]) -> list[bool]:
    return fresh_pages(store, served(*rows), version=Version(1, position), lateness_ms=LATENESS).tolist()


def test_users_and_requests_are_told_apart(store: RedisStore) -> None:
    assert fresh(store, 1, [("ann", "r1", 10), ("bob", "r1", 10), ("ann", "r2", 11), ("ann", "r1", 12)]) == [
        True,
        True,
        True,
        False,
    ]
    assert fresh(store, 2, [("bob", "r2", 13), ("ann", "r2", 11), ("bob", "r1", 10)]) == [True, False, False]


def test_a_range_taken_up_again_decides_alike_where_its_newest_page_makes_others_old(store: RedisStore) -> None:
    assert fresh(store, 1, [("ann", "r1", 1000)]) == [True]
    again = [("ann", "r1", 1000), ("ann", "r2", 1000 + LATENESS + 1)]
    assert fresh(store, 2, again) == [False, True]
    assert fresh(store, 2, again) == [False, True]


def test_what_is_too_old_and_too_much_is_let_go(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_keys, "MOST_PAGES", 2)
    fresh(store, 1, [("ann", f"r{number}", 1000 + number) for number in range(5)])
    assert fresh(store, 2, [("ann", "r3", 1003), ("ann", "r9", 1009), ("ann", "r0", 1000)]) == [False, True, True]
    (held,) = store.read_blobs([(SEEN_PAGES, "ann")])
    assert held is not None
    assert held.event_time == 1009
    times = np.frombuffer(held.payload, "<i8").reshape(3, -1)[1]
    assert sorted(times.tolist()) == [1000, 1003, 1004, 1009]  # the two newest from before, and what came
