"""Served pages on a real stream; and what happens to them while it does not answer."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest

from features.schemas import IMPRESSION
from features.store.config import StoreConfig
from features.stream.base import StreamUnavailableError
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from pipelines.streaming.records import check_messages
from serving.assembly import make_backend
from serving.config import ServeConfig
from serving.metrics import ServiceMetrics
from serving.page_log import PageLog
from serving.routes import build_api

NAMES = iter(range(10**6))


@pytest.fixture
def stream(store):
    with open_stream(StreamConfig(), store.url, f"pages{next(NAMES)}") as stream:
        yield stream


def pages_on(stream):
    lines = b"\n".join(message.record.rows for message in stream.read_after(0, 1000, 0))
    checked = check_messages("pages", lines)
    assert checked.dead.num_rows == 0
    return checked.rows


def count(metrics: ServiceMetrics, outcome: str) -> float:
    return metrics.logged_pages.labels(outcome)._value.get()


class Moody:
    """A stream that does not answer until it is told to."""

    def __init__(self, inner) -> None:
        self.inner, self.answers, self.asked = inner, threading.Event(), threading.Event()

    def append(self, records):
        answers = self.answers.is_set()
        self.asked.set()
        if not answers:
            raise StreamUnavailableError("gone")
        return self.inner.append(records)


def row(number: int) -> dict[str, object]:
    return {"request_id": f"r{number}", "user_id": "ann", "timestamp": 1_800_000_000_000, "items": ["i01", "i02"]}


def test_pages_wait_for_a_stream_that_does_not_answer_and_the_oldest_give_way(stream):
    metrics, moody = ServiceMetrics(), Moody(stream)
    log = PageLog(moody, metrics, most_waiting=5, retry_s=0.001)
    for number in range(8):
        log.add(row(number))
    assert moody.asked.wait(60)
    moody.answers.set()
    log.close(60)
    assert pages_on(stream)["request_id"].to_pylist() == [f"r{number}" for number in range(3, 8)]
    assert (count(metrics, "logged"), count(metrics, "dropped")) == (5, 3)


def test_what_the_stream_never_took_is_counted_at_the_end(stream):
    metrics, moody = ServiceMetrics(), Moody(stream)
    log = PageLog(moody, metrics, retry_s=3600)
    log.add(row(0))
    assert moody.asked.wait(60)
    log.close(60)
    assert (stream.backlog(0), count(metrics, "dropped")) == (0, 1)


def test_a_row_that_is_no_json_does_not_hold_up_the_others(stream):
    metrics = ServiceMetrics()
    log = PageLog(stream, metrics)
    log.add({**row(0), "scores": [float("nan")]})
    while not count(metrics, "dropped"):
        time.sleep(0.001)
    log.add(row(1))
    log.close(60)
    assert pages_on(stream)["request_id"].to_pylist() == ["r1"]


def test_a_served_page_is_on_the_stream_with_all_that_replay_needs(release_folder, store, release, workspace):
    name = f"pages{next(NAMES)}"
    store_config = StoreConfig(namespace=name)
    backend = make_backend(release_folder, store.url, store_config, StreamConfig(), ServeConfig(), arm="a")

    async def ask() -> list[dict]:
        transport = httpx.ASGITransport(build_api(backend))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            body = {"user_id": "u0", "page_size": 2, "filters": {"min_price": 2}, "context": {"device": "phone"}}
            first = (await client.post("/v1/recommend", json=body)).json()
            again = {"user_id": "u0", "cursor": first["next_cursor"]}
            second = (await client.post("/v1/recommend", json=again)).json()
            repeated = (await client.post("/v1/recommend", json=again)).json()
            assert second == repeated
            wrong = await client.post("/v1/recommend", json={"user_id": "eve", "cursor": first["next_cursor"]})
            assert (wrong.status_code, wrong.json()["error"]) == (400, "foreign_cursor")
            gone = await client.post("/v1/recommend", json={"user_id": "u0", "cursor": "x"})
            assert (gone.status_code, gone.json()["error"]) == (410, "cursor_expired")
            event = {"user_id": "u0", "item_id": "i10", "event": "click", "timestamp": "2026-01-01"}
            assert (await client.post("/v1/events", json=event)).status_code == 202
            return [first, second]

    answers = asyncio.run(ask())
    backend.close()
    with open_stream(StreamConfig(), store.url, name) as stream:
        messages = stream.read_after(0, 100, 0)
    checked = check_messages("pages", b"\n".join(one.record.rows for one in messages if one.record.table == "pages"))
    assert checked.dead.num_rows == 0
    assert sum(one.record.table == "events" for one in messages) == 1
    rows = {one["request_id"]: one for one in checked.rows.to_pylist()}
    assert len(rows) == 2
    for answer in answers:
        logged = rows[answer["request_id"]]
        assert logged["items"] == [item["item_id"] for item in answer["items"]]
        assert logged["sources"] == [item["source"] for item in answer["items"]]
        assert set(logged["items"]) <= set(logged["candidates"])
        assert len(logged["candidates"]) == len(logged["candidate_scores"])
        assert logged["propensities"] == [1.0, 1.0]
        assert (logged["arm"], logged["release"]) == ("a", release.manifest.release_id)
        assert logged["catalogue_version"] == release.manifest.catalogue
        assert (logged["epsilon"], logged["temperature"], logged["fallback"]) == (0.0, 0.0, answer["fallback"])
        assert dict(logged["context"]) == {"device": "phone"}
        assert '"min_price": 2.0' in logged["filters"]
        assert logged["events"] == [IMPRESSION] * 2
