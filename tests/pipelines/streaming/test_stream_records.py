"""Messages as checked rows: what passes, what does not and why; served pages and the impressions they are."""

from __future__ import annotations

import json
import re

import pytest

from features.schemas import EVENTS as EVENT_SCHEMA
from features.schemas import PAGES as PAGE_SCHEMA
from features.stream.base import EventStream
from features.stream.config import StreamConfig
from features.stream.records import DETAIL, EVENTS, ITEMS, PAGES, REJECTED, ROW, Message, StreamRecord
from pipelines.streaming import taking
from pipelines.streaming.log import Range
from pipelines.streaming.page_checks import implied_impressions
from pipelines.streaming.records import check_messages, check_times
from pipelines.streaming.taking import hand_over, read_piece, take

CLICK = {"user_id": "ann", "item_id": "tea", "event": "click", "timestamp": 1_700_000_000_000}
PAGE = {"request_id": "r1", "user_id": "ann", "timestamp": 1_700_000_000_000, "items": ["tea", "cup"]}


def check(table: str, *rows: dict):
    return check_messages(table, StreamRecord.of_rows(table, rows).rows)


def test_good_rows_have_the_tables_schema() -> None:
    context = {"page": "home", "device": "phone"}
    checked = check(EVENTS, CLICK, {**CLICK, "event_id": "e", "value": 1, "context": context})
    assert checked.rows.schema == EVENT_SCHEMA
    assert checked.dead.num_rows == 0
    assert checked.rows.column("event_id")[1].as_py() == "e"
    assert len(checked.rows.column("event_id")[0].as_py()) == 16
    assert dict(checked.rows.column("context")[1].as_py()) == context


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"event": "nod"}, "unknown_event", "event: expected one of impression, .*, got 'nod'"),
        ({"user_id": " "}, "null_id", "user_id: expected an id, got ' '"),
        ({"user_id": "a" * 513}, "bad_id", "user_id: expected an id of at most 512 bytes without control characters"),
        ({"item_id": "tea\x00"}, "bad_id", "item_id: expected an id of at most 512 bytes"),
        ({"request_id": "r\x7f"}, "bad_id", "request_id: expected an id of at most 512 bytes"),
        ({"value": 1.1e12}, "bad_value", "value: expected a finite number of at most 1e\\+12, got 11000"),
        ({"timestamp": -5}, "bad_timestamp", "timestamp: expected a time from 1970 to 2099"),
        ({"position": -1}, "bad_value", "position: expected a whole number >= 0, got -1"),
        ({"propensity": 1.5}, "bad_propensity", "propensity: expected a probability"),
    ],
)
def test_a_bad_row_says_why_and_spares_the_others(change, reason, detail) -> None:
    checked = check(EVENTS, CLICK, {**CLICK, **change}, {**CLICK, "item_id": "cup"})
    assert checked.rows.column("item_id").to_pylist() == ["tea", "cup"]
    (letter,) = checked.dead.to_pylist()
    assert (letter["table"], letter["reason"], letter["source"]) == (EVENTS, reason, "stream")
    assert re.match(detail, letter["detail"])


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"no row", "malformed", "expected a JSON object, got no JSON: Expecting value at character 1"),
        (b"[1]", "malformed", "expected a JSON object, got a JSON list"),
        (b'{"user_id": "a', "malformed", "got no JSON: Unterminated string starting at at character 13"),
        (b"[" * 100_000, "malformed", "nested too deeply"),
        (
            b'{"user_id": "a", "timestamp": ' + b"1" * 5000 + b"}",
            "malformed",
            "numbers of at most 4300 digits, got a longer one",
        ),
        (b'{"user_id": "a", "item_id": "b", "item": "b"}', "malformed", "item: expected one of the columns event_id,"),
        (b'{"user_id": "a", "item": "b"}', "null_id", "item_id: expected an id, got None"),
        (b'{"timestamp": "noon"}', "null_id", "user_id: expected an id, got None"),
        (b'{"user_id": {}}', "bad_id", "user_id: expected a text, got {}"),
        (
            b'{"user_id": "a", "item_id": "b", "timestamp": "noon", "value": {}}',
            "bad_timestamp",
            "timestamp: expected whole milliseconds since 1970, got 'noon'",
        ),
    ],
)
def test_a_line_that_is_no_row_is_kept_as_it_came(line: bytes, reason: str, detail: str) -> None:
    good = json.dumps(CLICK).encode()
    checked = check_messages(EVENTS, b"\n".join([good, line, good, b"", good]))
    assert checked.rows.num_rows == 3
    (letter,) = checked.dead.to_pylist()
    assert (letter["reason"], letter["row"]) == (reason, line.decode())
    assert detail in letter["detail"]


@pytest.mark.parametrize("text", [b"null", b"null\nnull", b"null\n%s", b" null %s"])
def test_a_null_in_front_does_not_end_the_process(text: bytes) -> None:
    good = json.dumps(CLICK).encode()
    checked = check_messages(EVENTS, text.replace(b"%s", good))
    assert checked.dead.num_rows > 0
    assert set(checked.dead.column("reason").to_pylist()) == {"malformed"}


@pytest.mark.parametrize(("table", "row"), [(EVENTS, CLICK), (PAGES, PAGE)])
def test_text_that_is_no_utf8_is_kept_and_spares_the_others(table: str, row: dict) -> None:
    good = json.dumps(row).encode()
    checked = check_messages(table, b"\n".join([good, good.replace(b'"ann"', b'"\xff"'), good]))
    assert checked.rows.column("user_id").to_pylist() == ["ann", "ann"]
    (letter,) = checked.dead.to_pylist()
    assert letter["reason"] == "malformed"
    assert '"\N{REPLACEMENT CHARACTER}"' in letter["row"]


def test_what_the_service_rejected_keeps_its_reason() -> None:
    row = json.dumps({**CLICK, "user_id": ""})
    told = json.dumps({REJECTED: "null_id", DETAIL: "user_id: expected an id", ROW: row}).encode()
    cut = json.dumps({"rejected": "negative_price", "detail": None, "row": "{}"}).encode()
    strange = [b'{"rejected": "who knows", "detail": null, "row": "{}"}', b'{"rejected": 7, "detail": null, "row": ""}']
    checked = check_messages(EVENTS, b"\n".join([json.dumps(CLICK).encode(), told, cut, *strange]))
    assert checked.rows.num_rows == 1
    letters = {letter["row"]: (letter["reason"], letter["detail"]) for letter in checked.dead.to_pylist()}
    assert letters[row] == ("null_id", "user_id: expected an id")
    assert letters["{}"] == ("negative_price", None)
    assert [letters[line.decode()][0] for line in strange] == ["null_id", "null_id"]


def test_maps_may_come_as_objects_too() -> None:
    line = json.dumps({**CLICK, "context": {"page": "home"}}).encode()
    assert dict(check_messages(EVENTS, line).rows.column("context")[0].as_py()) == {"page": "home"}


@pytest.mark.parametrize(("table", "column"), [(ITEMS, "category"), (PAGES, "items")])
def test_a_text_is_no_list_of_letters(table: str, column: str) -> None:
    row = {"item_id": "tea", "title": "Tea"} if table == ITEMS else PAGE
    line = json.dumps({**row, column: "tea"})
    checked = check_messages(table, line.encode())
    assert checked.rows.num_rows == 0
    assert [(letter["reason"], letter["row"]) for letter in checked.dead.to_pylist()] == [("malformed", line)]


def test_a_clock_that_was_ahead_makes_nothing_late_once_it_is_right() -> None:
    """The newest event is of a year ahead; the clock by now says when the events are."""
    opened, year = 1_700_000_000_000, 365 * 86_400_000
    taken = Range(first=1, last=1, opened=opened, watermark=opened + year)
    minute, hour = 60_000, 3_600_000
    ages = [0, 48 * hour - 10 * minute, 48 * hour - 10 * minute + 1, -10 * minute - 1]
    checked = check(EVENTS, *({**CLICK, "timestamp": opened - age} for age in ages))
    timed = check_times(EVENTS, checked.rows, taken, StreamConfig())
    assert timed.rows.column("timestamp").cast("int64").to_pylist() == [opened - age for age in ages[:2]]
    assert timed.dead.column("reason").to_pylist() == ["too_late", "in_the_future"]


def test_nothing_is_nothing() -> None:
    checked = check_messages(EVENTS, b"\n\n")
    assert (checked.rows.num_rows, checked.dead.num_rows) == (0, 0)


def test_rows_of_a_table_that_does_not_travel_are_kept() -> None:
    (letter,) = check_messages("users", b'{"user_id": "ann"}').dead.to_pylist()
    assert (letter["table"], letter["reason"], letter["row"]) == ("users", "malformed", '{"user_id": "ann"}')


def test_a_served_page_is_completed() -> None:
    checked = check(PAGES, {**PAGE, "scores": [1, 0.5], "candidates": ["tea", "cup", "pot"], "filters": "{}"})
    assert checked.rows.schema == PAGE_SCHEMA
    (row,) = checked.rows.to_pylist()
    assert row["events"] == ["impression", "impression"]
    assert [time.timestamp() for time in row["event_times"]] == [1_700_000_000.0] * 2
    assert (row["scores"], row["candidates"]) == ([1.0, 0.5], ["tea", "cup", "pot"])


@pytest.mark.parametrize(
    ("change", "reason", "column"),
    [
        ({"request_id": None}, "null_id", "request_id"),
        ({"user_id": " \u00a0"}, "null_id", "user_id"),
        ({"user_id": 5}, "bad_id", "user_id"),
        ({"items": ["tea", " "]}, "null_id", "items"),
        ({"timestamp": None}, "bad_timestamp", "timestamp"),
        ({"items": []}, "malformed", "items"),
        ({"items": ["tea", None]}, "null_id", "items"),
        ({"items": ["tea", "c\nup"]}, "bad_id", "items"),
        ({"items": ["tea", "tea"]}, "malformed", "items"),
        ({"request_id": "\u00e9" * 257}, "bad_id", "request_id"),
        ({"scores": [1.0]}, "malformed", "scores"),
        ({"propensities": [0.5, 0.0]}, "bad_propensity", "propensities"),
        ({"values": [None, -1.1e12]}, "bad_value", "values"),
        ({"events": ["click", "nod"]}, "unknown_event", "events"),
        ({"event_times": [1_700_000_000_000, 10**18]}, "bad_timestamp", "event_times"),
        ({"event_times": [1_700_000_000_000, None]}, "bad_timestamp", "event_times"),
    ],
)
def test_a_bad_page_says_why(change, reason, column) -> None:
    checked = check(PAGES, PAGE, {**PAGE, **change})
    assert checked.rows.num_rows == 1
    (letter,) = checked.dead.to_pylist()
    assert (letter["reason"], letter["detail"].split(":")[0]) == (reason, column)


def test_a_page_is_its_impressions() -> None:
    pages = check(
        PAGES, PAGE, {**PAGE, "request_id": "r2", "items": ["pot"], "propensities": [0.25], "policy": "p"}
    ).rows
    rows = implied_impressions(pages).select(["request_id", "item_id", "event", "position", "propensity", "policy"])
    assert [tuple(row.values()) for row in rows.to_pylist()] == [
        ("r1", "tea", "impression", 0, None, None),
        ("r1", "cup", "impression", 1, None, None),
        ("r2", "pot", "impression", 0, 0.25, "p"),
    ]


class Waiting:
    """Messages that wait, `read_after` as of a stream, and the largest number that was ever asked for at once."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages, self.most = messages, 0

    def read_after(self, position: int, limit: int, wait_s: float) -> list[Message]:
        self.most = max(self.most, limit)
        return [message for message in self.messages if message.position > position][:limit]


def waiting(sizes: list[int], text: bytes = b"{}") -> EventStream:
    records = [StreamRecord(EVENTS, b"\n".join([text] * size)) for size in sizes]
    return Waiting([Message(number, record) for number, record in enumerate(records, start=1)])  # type: ignore[return-value]


def test_a_range_holds_whole_messages_until_it_is_full() -> None:
    assert [message.position for message in take(waiting([3, 3, 3, 3]), 0, 7, 0)] == [1, 2, 3]
    assert [message.position for message in take(waiting([50, 1]), 0, 7, 0)] == [1]
    assert len(take(waiting([1] * 10_000), 5, 8_000, 0)) == 8_000
    assert take(waiting([]), 0, 7, 0) == []


def test_few_messages_are_asked_for_where_they_are_large(monkeypatch) -> None:
    """What is read at once is bounded, whatever waits: 32 MiB and one message of the largest size."""
    monkeypatch.setattr(taking, "RANGE_BYTES", 1000)
    stream = waiting([1] * 500, b"x" * 400)
    assert len(take(stream, 0, 10_000, 0)) == 3
    assert stream.most == taking.FIRST_READ


def test_messages_without_text_are_taken() -> None:
    assert len(take(waiting([1] * 100, b""), 0, 10_000, 0)) == 100


def test_pieces_cover_a_range_without_gaps_and_are_read_again_in_other_processes(monkeypatch) -> None:
    monkeypatch.setattr(taking, "PIECE_BYTES", 10)
    stream = waiting([1] * 12)
    messages = stream.read_after(0, 100, 0)
    assert hand_over("driver", messages) == [(1, 5), (6, 10), (11, 12)]
    assert read_piece("driver", (6, 10), stream) == messages[5:10]
    stream.read_range = lambda first, last: messages[first - 1 : last]
    assert read_piece("driver", (6, 10), stream) == messages[5:10]
    assert read_piece("another", (11, 12), stream) == messages[10:]
    taking.forget_pieces("driver")
    assert "driver" not in taking._handed_over
    assert ITEMS not in taking.joined(messages)
