"""Events over HTTP, onto a real stream; and what the pipeline makes of what was rejected."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.schemas import EVENTS
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from features.stream.records import DETAIL, REJECTED, ROW, StreamRecord
from pipelines.streaming.records import check_messages
from serving.api import ApiError
from serving.backend import Backend
from serving.config import ServeConfig
from serving.events import EventIntake
from serving.metrics import ServiceMetrics
from serving.routes import build_api

pytestmark = pytest.mark.integration

NOW = 1_800_000_000
GOOD = {"user_id": "ann", "item_id": "i01", "event": "click", "timestamp": NOW * 1000}
NAMES = iter(range(10**6))


@pytest.fixture
def stream(store):
    """An empty one."""
    with open_stream(StreamConfig(max_messages=50), store.url, f"events{next(NAMES)}") as stream:
        yield stream


@pytest.fixture
def intake(stream) -> EventIntake:
    return EventIntake(stream, ServiceMetrics(), future_minutes=10, clock=lambda: NOW)


@pytest.fixture
def post(service, intake):
    def post(body: object) -> httpx.Response:
        async def run() -> httpx.Response:
            api = build_api(Backend(service, ServeConfig(), intake=intake))
            transport = httpx.ASGITransport(api, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.post("/v1/events", json=body)

        return asyncio.run(run())

    return post


def rows_of(stream) -> list[dict]:
    """What the pipeline takes for events."""
    lines = b"\n".join(message.record.rows for message in stream.read_after(0, 100, 0))
    return check_messages("events", lines).rows.to_pylist()


def dead_of(stream) -> list[dict]:
    lines = b"\n".join(message.record.rows for message in stream.read_after(0, 100, 0))
    return check_messages("events", lines).dead.to_pylist()


def test_one_event_is_on_the_stream_when_the_answer_comes(post, stream):
    response = post({**GOOD, "context": {"device": "phone"}, "request_id": "r1", "position": 2})
    assert (response.status_code, response.json()["accepted"], response.json()["rejected"]) == (202, 1, 0)
    assert response.json()["verdicts"] == [{"accepted": True, "reason": None, "detail": None}]
    (row,) = rows_of(stream)
    assert (row["user_id"], row["event"], row["request_id"], row["position"]) == ("ann", "click", "r1", 2)
    assert row["timestamp"].timestamp() == NOW
    assert row["context"] == [("device", "phone")]


@pytest.mark.parametrize(
    ("name", "value", "reason", "detail"),
    [
        ("user_id", "ann\nbob", "bad_id", "user_id: expected an id of at most 512 bytes without control characters"),
        ("item_id", "i" * 513, "bad_id", "at most 512 characters"),
        ("item_id", "\u00e9" * 257, "bad_id", "at most 512 bytes"),
        ("event_id", "e" * 513, "bad_id", "at most 512 characters"),
        ("session_id", " ", "bad_id", "session_id: expected an id"),
        ("request_id", "\u00e9" * 257, "bad_id", "at most 512 bytes"),
        ("user_id", " \n", "null_id", "user_id: expected an id"),
        ("user_id", None, "null_id", "user_id"),
    ],
)
def test_ids_that_nobody_can_use(post, stream, name, value, reason, detail):
    response = post({**GOOD, name: value})
    (verdict,) = response.json()["verdicts"]
    assert (response.status_code, verdict["reason"]) == (422, reason)
    assert detail in verdict["detail"]
    assert rows_of(stream) == []
    (message,) = stream.read_after(0, 100, 0)
    line = json.loads(message.record.rows)
    assert (line[REJECTED], line[DETAIL], json.loads(line[ROW])[name]) == (reason, verdict["detail"], value)


@pytest.mark.parametrize(
    "change",
    [
        *({name: text} for name in ("user_id", "item_id") for text in (None, " ", "a\x7f", "a" * 513)),
        *({name: text} for name in ("event_id", "request_id", "session_id") for text in ("a\n", "\u00e9" * 257)),
        {"event": "nod"},
        {"timestamp": -5},
        {"event": "purchase", "value": -1},
        {"value": 1.1e12},
        {"value": -1.1e12},
        {"position": -1},
        {"propensity": 0},
        {"propensity": 1.5},
        {"context": 7},
        {"colour": "red"},
        *({name: value} for name in ("user_id", "item_id", "event_id", "request_id") for value in (5, {}, [], True)),
        *({name: " "} for name in ("event_id", "request_id", "session_id")),
        *({name: {}} for name in ("event", "timestamp", "propensity", "value", "position", "policy")),
        *({name: True} for name in ("propensity", "value", "position")),
        {"timestamp": "noon"},
        {"timestamp": "noon", "value": {}, "colour": "red"},
        {"timestamp": "noon", "user_id": None},
        {"policy": 7, "item_id": ""},
    ],
    ids=str,
)
def test_the_service_and_the_stream_give_one_reason(intake, stream, change):
    """What the service says of a row is what it would be filed under had somebody put it on the stream by hand."""
    row = {**GOOD, **change}
    (verdict,) = intake.take([row])
    (kept,) = dead_of(stream)
    (by_hand,) = check_messages("events", json.dumps(row).encode()).dead.to_pylist()
    assert verdict.reason == kept["reason"] == by_hand["reason"]


def test_many_events_get_a_verdict_each_and_the_bad_ones_become_dead_letters(post, stream):
    bad = {**GOOD, "event": "looked at"}
    response = post({"events": [GOOD, bad, {**GOOD, "item_id": "i02"}, 7]})
    assert (response.status_code, response.json()["accepted"], response.json()["rejected"]) == (202, 2, 2)
    verdicts = response.json()["verdicts"]
    assert [verdict["accepted"] for verdict in verdicts] == [True, False, True, False]
    assert verdicts[1]["reason"] == "unknown_event"
    assert verdicts[1]["detail"].endswith("got 'looked at'")
    assert [row["item_id"] for row in rows_of(stream)] == ["i01", "i02"]
    dead = dead_of(stream)
    assert [letter["reason"] for letter in dead] == ["unknown_event", "malformed"]
    assert json.loads(dead[0]["row"]) == bad


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"user_id": ""}, "null_id", "user_id: String should have at least 1 character"),
        ({"item_id": " "}, "null_id", "item_id: expected an id of at most 512 bytes"),
        ({"item_id": 7}, "bad_id", "item_id: Input should be a valid string, got 7$"),
        ({"timestamp": "yesterday"}, "bad_timestamp", "expected ISO 8601 text or milliseconds"),
        ({"timestamp": NOW}, "bad_timestamp", "expected a time from 1973 to 2099, in milliseconds"),
        ({"timestamp": True}, "bad_timestamp", "timestamp: "),
        ({"timestamp": (NOW + 601) * 1000}, "in_the_future", "at most 10 minutes ahead of the clock"),
        ({"propensity": 0}, "bad_propensity", "propensity: Input should be greater than 0"),
        ({"position": -1}, "bad_value", "position: "),
        ({"event": "purchase", "value": -3.0}, "negative_price", r"^value: expected a price >= 0, got -3\.0$"),
        ({"context": {"a": 1}}, "malformed", "context.a: Input should be a valid string"),
        ({"context": {f"k{entry}": "v" for entry in range(33)}}, "malformed", "context: .* at most 32 items"),
        ({"colour": "red"}, "malformed", "colour: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_told(intake, stream, change, reason, detail):
    (verdict,) = intake.take([{**GOOD, **change}])
    assert (verdict.accepted, verdict.reason) == (False, reason)
    assert re.search(detail, verdict.detail)
    assert rows_of(stream) == []
    assert len(dead_of(stream)) == 1


def test_times_may_be_text(intake, stream):
    texts = ["2027-01-15T08:00:00Z", "2027-01-15T09:00:00+01:00", "2027-01-15 08:00:00"]
    assert all(verdict.accepted for verdict in intake.take([{**GOOD, "timestamp": text} for text in texts]))
    assert {row["timestamp"].timestamp() for row in rows_of(stream)} == {NOW}


def test_422_where_none_is_acceptable_with_the_verdicts(post, stream):
    response = post({"events": [{**GOOD, "user_id": ""}, "x"]})
    assert (response.status_code, response.json()["error"]) == (422, "no_event_accepted")
    assert [verdict["accepted"] for verdict in response.json()["verdicts"]] == [False, False]
    assert len(dead_of(stream)) == 2


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"events": []}, "events: expected a list of 1 to 1000 events, got 0"),
        ({"events": [GOOD] * 1001}, "events: expected a list of 1 to 1000 events, got 1001"),
        ({"events": "x"}, "events: expected a list of 1 to 1000 events, got str"),
        ([GOOD], "body: Input should be a valid dictionary"),
    ],
)
def test_bodies_that_hold_no_events(post, stream, body, detail):
    response = post(body)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(detail)
    assert stream.backlog(0) == 0


def test_the_same_event_sent_twice_has_one_key(intake, stream):
    for _ in range(2):
        intake.take([GOOD])
    first, second = rows_of(stream)
    assert first["event_id"] == second["event_id"]


def test_a_stream_that_is_full_or_down_is_503_with_retry_after(intake, stream):
    stream.append([StreamRecord.of_rows("events", [GOOD])] * 50)
    with pytest.raises(ApiError, match="send all again later") as full:
        intake.take([GOOD])
    assert (full.value.status, full.value.error, full.value.headers) == (503, "stream_full", {"Retry-After": "5"})
    with open_stream(StreamConfig(), "redis://127.0.0.1:1", "gone", 0.1) as gone:
        refusing = EventIntake(gone, ServiceMetrics(), future_minutes=10, clock=lambda: NOW)
        for reason in (r"127\.0\.0\.1:1 does not answer", "the event stream does not answer; none was accepted"):
            with pytest.raises(ApiError, match=reason) as down:
                refusing.take([GOOD])
            assert (down.value.status, down.value.headers) == (503, {"Retry-After": "1"})


def test_without_a_stream_503(service):
    with pytest.raises(ApiError, match="started without an event stream"):
        asyncio.run(Backend(service, ServeConfig()).take_events([GOOD]))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(json_values | st.fixed_dictionaries({}, optional=dict.fromkeys(EVENTS.names, json_values)), max_size=4))
def test_whatever_is_sent_is_accepted_or_kept(intake, stream, rows):
    stream.trim(max((message.position for message in stream.read_after(0, 100, 0)), default=0))
    verdicts = intake.take([{**GOOD, **row} if isinstance(row, dict) else row for row in rows])
    accepted = sum(verdict.accepted for verdict in verdicts)
    assert (len(rows_of(stream)), len(dead_of(stream))) == (accepted, len(rows) - accepted)
