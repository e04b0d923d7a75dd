"""The stream's log: ranges that are open, done, compacted; what readers see meanwhile."""

from __future__ import annotations

import pyarrow as pa
import pytest

from features.schemas import EVENT_LOG, LOG_TABLES, STREAM_POSITION, TIMESTAMP
from features.workspace import Workspace
from pipelines.streaming import ranges
from pipelines.streaming.compaction import compact, write_log_file
from pipelines.streaming.log import LogFile, committed_log, range_files
from pipelines.streaming.ranges import RangeLog
from pipelines.streaming.run import StreamReport

FOLDER = f"{EVENT_LOG}/date=2026-01-31"


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(tmp_path / "w")


def rows(*ids: str, position: int = 1) -> pa.Table:
    return pa.table(
        {
            "event_id": list(ids),
            "user_id": ["ann"] * len(ids),
            "item_id": ["tea"] * len(ids),
            "event": ["click"] * len(ids),
            "timestamp": pa.array([0] * len(ids), TIMESTAMP),
            STREAM_POSITION: [position] * len(ids),
        }
    )


def write(workspace: Workspace, first: int, *ids: str) -> LogFile:
    return write_log_file(workspace, FOLDER, first, first + 1, rows(*ids))


def take(log: RangeLog, workspace: Workspace, first: int, *ids: str) -> None:
    log.open(first, first + 1)
    log.finish([write(workspace, first, *ids)], {"events.logged": len(ids)}, newest=10 * first)


def ids(workspace: Workspace) -> list[str]:
    return committed_log(workspace).read(workspace, EVENT_LOG)["event_id"].to_pylist()


def test_without_a_stream_the_log_is_empty(workspace) -> None:
    snapshot = committed_log(workspace)
    assert (snapshot.position, snapshot.watermark, dict(snapshot.counts)) == (0, 0, {})
    assert snapshot.files == {table: [] for table in LOG_TABLES}


def test_rows_count_once_their_range_is_done(workspace) -> None:
    log = RangeLog(workspace)
    take(log, workspace, 1, "a")
    log.open(3, 4)
    file = write(workspace, 3, "b")
    assert ids(workspace) == ["a"]
    log.finish([file], {"events.logged": 1}, newest=5)
    snapshot = committed_log(workspace)
    assert ids(workspace) == ["a", "b"]
    assert (snapshot.position, snapshot.watermark, dict(snapshot.counts)) == (4, 10, {"events.logged": 2})


def test_an_open_range_is_found_again(workspace) -> None:
    log = RangeLog(workspace)
    take(log, workspace, 1, "a")
    opened = log.open(3, 4)
    again = RangeLog(workspace)
    assert again.open_range == opened
    assert (again.position, again.watermark) == (2, 10)


def test_compaction_keeps_rows_order_and_counts(workspace) -> None:
    log = RangeLog(workspace)
    for number, name in enumerate("abcdef"):
        take(log, workspace, 1 + 2 * number, name)
        before = committed_log(workspace)
        if number in (2, 4):
            log.replace(compact(workspace, log.compacted, log.done))
        assert before.read(workspace, EVENT_LOG)["event_id"].to_pylist() == list("abcdef"[: number + 1])
    assert ids(workspace) == list("abcdef")
    assert [len(log.done), len(range_files(workspace))] == [1, 1]
    assert len(committed_log(workspace).files[EVENT_LOG]) == 2
    assert dict(committed_log(workspace).counts) == {"events.logged": 6}
    assert RangeLog(workspace).position == 12
    assert log.compacted.first == 1


def test_replaced_files_stay_for_an_hour(workspace, monkeypatch) -> None:
    log, held = RangeLog(workspace), []
    for number, minutes in enumerate((0, 1, 3, 62)):
        monkeypatch.setattr(ranges.time, "monotonic", lambda now=60.0 * minutes: now)
        for name in "ab":
            first = log.position + 1
            take(log, workspace, first, f"{name}{number}")
        held.append(committed_log(workspace).files[EVENT_LOG])
        log.replace(compact(workspace, log.compacted, log.done))
    exists = [[workspace.filesystem.get_file_info(path).is_file for path in paths] for paths in held]
    # what the first two compactions replaced was replaced more than an hour ago
    assert [any(paths) for paths in exists[:2]] == [False, False]
    assert [all(paths) for paths in exists[2:]] == [True, True]


def test_replaced_files_may_go_at_once(workspace) -> None:
    log = RangeLog(workspace)
    for first in (1, 3):
        take(log, workspace, first, "a")
    held = [*committed_log(workspace).files[EVENT_LOG], workspace.path("stream", "log", FOLDER, ".writing-killed")]
    workspace.local_path("stream", "log", FOLDER, ".writing-killed").write_bytes(b"half a fi")
    log.replace(compact(workspace, log.compacted, log.done), at_once=True)
    assert not any(workspace.filesystem.get_file_info(path).is_file for path in held)
    assert ids(workspace) == ["a", "a"]


def test_large_files_are_left_alone(workspace) -> None:
    log = RangeLog(workspace)
    take(log, workspace, 1, *map(str, range(100)))
    log.replace(compact(workspace, log.compacted, log.done))
    for number in range(2):
        take(log, workspace, 3 + 2 * number, "x")
    log.replace(compact(workspace, log.compacted, log.done))
    assert sorted(file.rows for file in log.compacted.files) == [2, 100]


def test_a_compaction_that_was_interrupted_is_made_again(workspace) -> None:
    """Killed before and after the one step that makes it count."""
    log = RangeLog(workspace)
    for number, name in enumerate("abc"):
        take(log, workspace, 1 + 2 * number, name)
    compact(workspace, log.compacted, log.done)
    assert ids(workspace) == ["a", "b", "c"]
    leftover = workspace.filesystem.open_input_stream(range_files(workspace)[0]).read()
    log = RangeLog(workspace)
    log.replace(compact(workspace, log.compacted, log.done))
    workspace.write_bytes(leftover, "stream", "ranges", f"{2:020d}.json")
    assert ids(workspace) == ["a", "b", "c"]
    assert RangeLog(workspace).done == []


def test_a_damaged_range_is_named(workspace) -> None:
    take(RangeLog(workspace), workspace, 1, "a")
    workspace.write_bytes(b'{"first": 1', "stream", "ranges", f"{2:020d}.json")
    with pytest.raises(ValueError, match=r"ranges/0+2\.json: expected what `pagewise stream` wrote"):
        committed_log(workspace)


def test_a_report_names_the_tables_that_had_rows() -> None:
    counts = {"events.in": 1200, "events.logged": 1200, "events.duplicates": 0, "pages.in": 0}
    report = StreamReport(counts=counts, position=1, log="here", ranges=3)
    assert report.lines() == ["stream: 3 ranges, log in here", "events: in 1,200, logged 1,200"]
