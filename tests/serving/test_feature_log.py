"""What was read for a page, logged beside it: exactly that, for a share of the pages, and never in a page's way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client import Counter

from features.events import Events, ItemKeys
from features.schemas import EVENT_CODE, ITEMS
from features.store.base import FIRST_GENERATION, Freshness, Version
from features.store.config import StoreConfig
from features.store.feature_codec import features_schema, read_features_payloads
from features.store.redis_store import RedisStore
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from features.stream.records import FEATURES, PAGES
from features.values import items_without_events
from pipelines.batch.folding import user_states
from pipelines.streaming.records import check_messages
from serving.api import RecommendRequest
from serving.feature_log import FeatureLog
from serving.metrics import ServiceMetrics
from serving.page_log import PageLog
from serving.service import RecommendService
from serving.shares import in_share

NAMES = iter(range(10**6))
NOW = 1_900_000_000_000


STATE_OF_U0 = user_states(
    pa.array(["u0"]),
    Events(
        entity=np.zeros(2, np.int64),
        time=np.array([NOW - 7_200_000, NOW - 3_600_000]),
        code=np.array([EVENT_CODE["click"]] * 2, np.int8),
        item=np.array([1, 2]),
        keys=ItemKeys.of_items(pa.Table.from_pylist([], schema=ITEMS)),
    ),
)["state"].to_pylist()[0]


@pytest.fixture
def filled(store, release):
    """A store of its own with a state of one user and features of all items, their price trend is their number."""
    items = release.recommender.catalogue.item_ids.to_pylist()
    features = items_without_events(len(items))
    trends = np.arange(len(items), dtype=np.float32)
    columns = dataclasses.replace(features, numbers={**features.numbers, "item_trend": trends})
    with RedisStore(store.url, StoreConfig(namespace=f"read{next(NAMES)}")) as own:
        version = Version(FIRST_GENERATION, 7 << 16)
        own.write_states(["u0"], [STATE_OF_U0], event_times=[NOW - 3_600_000], version=version)
        own.write_item_features(items, columns, version=version)
        own.write_freshness(Freshness(generation="f", newest_event_time=None, users=1, items=len(items)))
        yield own


@pytest.fixture
def stream(filled):
    with open_stream(StreamConfig(), filled.url, filled.namespace) as stream:
        yield stream


@pytest.fixture
def serve(release, filled, stream):
    """Serve users with a share of features logged; return pages, rows of the stream by table, and the counter."""

    def serve(users: list[str], share: float, *, refreshed: bool = True):
        metrics = ServiceMetrics()
        log = PageLog(stream, metrics)
        ids = iter(f"r{number}" for number in range(10**6))
        service = RecommendService(
            release,
            filled,
            history_length=50,
            arm="a",
            page_log=log,
            feature_share=share,
            metrics=metrics,
            clock=lambda: NOW / 1000,
            id_factory=lambda: next(ids),
        )
        if refreshed:
            service.refresh_facts()
        answers = service.recommend([RecommendRequest(user_id=user) for user in users])
        for answer in answers:
            service.log(answer.row)
        log.close(60)
        messages = stream.read_after(0, 1000, 0)
        rows = {}
        for table in (PAGES, FEATURES):
            lines = b"\n".join(one.record.rows for one in messages if one.record.table == table)
            checked = check_messages(table, lines)
            assert checked.dead.num_rows == 0
            rows[table] = checked.rows.to_pylist()
        return [answer.page for answer in answers], rows, metrics.logged_features

    return serve


def count(counter: Counter, outcome: str) -> float:
    return counter.labels(outcome)._value.get()


def test_what_was_read_is_logged_with_its_version(serve) -> None:
    pages, rows, counter = serve(["u0", "nobody"], 1.0)
    known, stranger = rows[FEATURES]
    assert (known["state"], known["generation"], known["position"]) == (STATE_OF_U0, FIRST_GENERATION, 7 << 16)
    assert int(known["event_time"].timestamp() * 1000) == NOW - 3_600_000
    assert (known["user_id"], known["request_id"], known["items"]) == (
        "u0",
        pages[0].request_id,
        [item.item_id for item in pages[0].items],
    )
    assert int(known["timestamp"].timestamp() * 1000) == int(known["items_read"].timestamp() * 1000) == NOW
    assert (stranger["user_id"], stranger["state"], stranger["position"]) == ("nobody", None, None)
    assert count(counter, "logged") == 2


def test_features_of_items_are_those_that_the_service_has(serve, release) -> None:
    pages, rows, _ = serve(["u0"], 1.0)
    (row,) = rows[FEATURES]
    numbers = release.recommender.catalogue.numbers([item.item_id for item in pages[0].items])
    assert row["item_layout"] == features_schema()
    logged = read_features_payloads(row["item_features"])
    assert logged.numbers["item_trend"].tolist() == numbers.tolist()
    assert logged.numbers["item_ctr"].tolist() == [np.float32(0.05)] * 5


def test_before_items_were_read_there_is_nothing_to_log_of_them(serve) -> None:
    _, rows, _ = serve(["u0"], 1.0, refreshed=False)
    (row,) = rows[FEATURES]
    assert (row["item_features"], row["item_layout"], row["items_read"]) == (None, None, None)


def test_the_request_id_draws_which_pages_are_logged(serve) -> None:
    users = [f"u{number % 10}" for number in range(60)]
    pages, rows, _ = serve(users, 0.3)
    ids = [page.request_id for page in pages]
    drawn = [one for one, chosen in zip(ids, in_share(ids, 0.3, "features"), strict=True) if chosen]
    assert [row["request_id"] for row in rows[FEATURES]] == drawn
    assert 5 < len(drawn) < 35
    assert len(rows[PAGES]) == 60


def test_a_fault_in_the_log_fails_no_page(serve, monkeypatch) -> None:
    monkeypatch.setattr("serving.feature_log._of_user", lambda users, row: 1 / 0)
    pages, rows, counter = serve(["u0", "u1"], 1.0)
    assert [len(page.items) for page in pages] == [5, 5]
    assert (len(rows[PAGES]), len(rows[FEATURES])) == (2, 0)
    assert count(counter, "dropped") == 2


def test_nothing_is_drawn_of_no_share(serve) -> None:
    _, rows, _ = serve(["u0"], 0.0)
    assert (len(rows[PAGES]), rows[FEATURES]) == (1, [])


def test_an_empty_page_has_nothing_to_say(store, release) -> None:
    class Never:
        def add(self, row, table) -> None:
            raise AssertionError(row)

    users = store.users(["u0"], 5)
    FeatureLog(Never(), 1.0).add(["r"], users, [[]], NOW, release.recommender.catalogue, None)
