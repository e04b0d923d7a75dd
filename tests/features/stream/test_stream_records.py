"""Records, positions and options of the event stream."""

from __future__ import annotations

import json
import sys

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


def test_kafka_without_its_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "features.stream.kafka", raising=False)
    with pytest.raises(ValueError, match=r"source=kafka: confluent_kafka is not installed; pip install -r infra/"):
        open_stream(StreamConfig(source="kafka", servers="h:9092"), "redis://nowhere", "n")


def test_kafka_needs_servers_and_nobody_else_does() -> None:
    with pytest.raises(ValueError, match="servers: expected some with source=kafka only, got None with 'kafka'"):
        StreamConfig(source="kafka")
    with pytest.raises(ValueError, match="servers: expected some with source=kafka only, got 'h:9092' with 'redis'"):
        StreamConfig(servers="h:9092")
