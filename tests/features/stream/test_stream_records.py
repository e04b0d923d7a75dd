"""Records, positions and options of the event stream."""

from __future__ import annotations

import json

import pytest

from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from features.stream.records import StreamRecord


def test_rows_travel_as_json_lines() -> None:
    rows = [{"user_id": "ann", "timestamp": 1}, {"user_id": "böb", "timestamp": 2}]
    record = StreamRecord.of_rows("events", rows)
    assert [json.loads(line) for line in record.rows.decode().split("\n")] == rows


def test_a_text_cut_within_an_emoji_travels() -> None:
    assert StreamRecord.of_rows("items", [{"title": "cut \ud83d"}]).rows == b'{"title":"cut ?"}'


def test_only_some_tables_travel() -> None:
    with pytest.raises(ValueError, match="expected a table of events, pages, items, features, got 'users'"):
        StreamRecord.of_rows("users", [])


def test_all_mistakes_of_the_options_are_told_together() -> None:
    with pytest.raises(ValueError, match=r"source: .*'pulsar'.*folder: .*'/in'.*range_rows: .*got 0.*compact_ranges"):
        StreamConfig(source="pulsar", folder="/in", range_rows=0, compact_ranges=1)


def test_kafka_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"source=kafka: expected a Beam runner with the Kafka connector"):
        open_stream(StreamConfig(source="kafka"), "redis://nowhere", "n")
