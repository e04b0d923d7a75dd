"""What was read for pages, on its way through the stream: logged by day, or a dead letter that says why."""

from __future__ import annotations

import base64

import pyarrow as pa
import pytest
import stream_world as world
from stream_world import HOUR, START

from features.schemas import FEATURE_LOG, FEATURES_READ, STREAM_DEAD_LETTERS, STREAM_POSITION
from features.stream.records import FEATURES, StreamRecord
from features.workspace import Workspace
from pipelines.streaming import compaction
from pipelines.streaming.log import NOTHING, Range
from pipelines.streaming.records import check_messages

BLOB = base64.b64encode(bytes(range(16))).decode()


def read(request: str, time: int = START, **more) -> dict[str, object]:
    return {
        "request_id": request,
        "user_id": "user0",
        "timestamp": time,
        "state": BLOB,
        "generation": 2,
        "position": 77 << 16,
        "event_time": time - HOUR,
        "items": ["item0", "item1"],
        "item_features": [BLOB, None],
        "item_layout": 5,
        "items_read": time - 2 * HOUR,
    } | more


@pytest.mark.integration
def test_what_was_read_is_logged_under_its_day(tmp_path, redis_url) -> None:
    rows = [read("r1"), read("r2", START + 24 * HOUR), read("too late", START - 60 * HOUR)]
    world.append(redis_url, "read", [StreamRecord.of_rows("pages", [world.page("p", "user0", ["item0"], START)])])
    world.take_up(tmp_path, redis_url, "read")
    world.append(redis_url, "read", [StreamRecord.of_rows(FEATURES, [row]) for row in rows])
    world.take_up(tmp_path, redis_url, "read")
    logged = world.logged(tmp_path)
    first, second = logged[FEATURE_LOG]
    assert (first["request_id"], second["request_id"]) == ("r1", "r2")
    assert (first["state"], first["item_features"]) == (bytes(range(16)), [bytes(range(16)), None])
    assert (first["generation"], first["position"]) == (2, 77 << 16)
    assert {path.parent.name for path in tmp_path.rglob("log/feature_log/*/*.parquet")} == {
        "date=2025-12-31",
        "date=2026-01-01",
    }
    (dead,) = logged[STREAM_DEAD_LETTERS]
    assert (dead["table"], dead["reason"]) == (FEATURES, "too_late")
    found = world.counts(tmp_path)
    assert (found["features.in"], found["features.logged"], found["features.dropped.too_late"]) == (3, 2, 1)


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"state": "no base64"}, "malformed", "state: expected Base64 of whole words of 8 bytes"),
        ({"state": base64.b64encode(b"seven b").decode()}, "malformed", "state: expected Base64 of whole words"),
        ({"position": None}, "malformed", "position: expected generation and position of the state"),
        ({"item_features": [BLOB]}, "malformed", "item_features: expected a value for each item"),
        ({"item_features": [BLOB, "?"]}, "malformed", "item_features: expected Base64"),
        ({"items": [], "item_features": None}, "malformed", "items: expected at least one item"),
        ({"user_id": ""}, "null_id", "user_id: expected an id"),
        ({"timestamp": None}, "bad_timestamp", "timestamp: expected a time"),
        ({"event_time": 10**18}, "bad_timestamp", "event_time: expected a time from 1970 to 2099"),
        ({"items_read": -1}, "bad_timestamp", "items_read: expected a time from 1970 to 2099"),
    ],
)
def test_a_row_that_is_none_is_a_dead_letter(change, reason, detail) -> None:
    record = StreamRecord.of_rows(FEATURES, [read("good"), read("bad", **change)])
    checked = check_messages(FEATURES, record.rows)
    assert checked.rows["request_id"].to_pylist() == ["good"]
    assert checked.rows.schema == FEATURES_READ
    assert checked.dead["reason"].to_pylist() == [reason]
    assert detail in checked.dead["detail"].to_pylist()[0]


@pytest.mark.parametrize(("large", "files"), [(2, [2, 2]), (3, [4])])
def test_wide_rows_are_not_merged_into_files_that_no_memory_holds(tmp_path, monkeypatch, large, files) -> None:
    monkeypatch.setattr(compaction, "LARGE_WIDE_ROWS", large)
    workspace = Workspace(tmp_path)
    rows = check_messages(FEATURES, StreamRecord.of_rows(FEATURES, [read("a"), read("b")]).rows).rows
    rows = rows.append_column(STREAM_POSITION, pa.array([1, 1]))
    written = [
        compaction.write_log_file(workspace, f"{FEATURE_LOG}/date=2025-12-31", first, first, rows) for first in (1, 2)
    ]
    done = [
        Range(first=file, last=file, opened=0, watermark=0, done=True, files=(written[file - 1],)) for file in (1, 2)
    ]
    assert [file.rows for file in compaction.compact(workspace, NOTHING, done).files] == files


def test_a_user_without_a_state_and_a_service_that_has_read_no_items_are_logged() -> None:
    nothing = dict.fromkeys(
        ("state", "generation", "position", "event_time", "item_features", "item_layout", "items_read")
    )
    record = StreamRecord.of_rows(FEATURES, [read("r", **nothing)])
    (row,) = check_messages(FEATURES, record.rows).rows.to_pylist()
    assert {name for name, value in row.items() if value is None} == set(nothing)
