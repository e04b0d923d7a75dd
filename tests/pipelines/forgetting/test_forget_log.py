"""Rows of forgotten users are gone from the stream's log, also where the removal was cut short and repeated."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.schemas import LOG_TABLES
from features.workspace import Workspace, conform
from pipelines.forgetting import stream_log
from pipelines.forgetting.stream_log import forget_in_log
from pipelines.streaming import ranges
from pipelines.streaming.compaction import compact, write_log_file
from pipelines.streaming.log import committed_log
from pipelines.streaming.ranges import RangeLog

FOLDER = "event_log/date=1970-01-01"


def rows(users, position):
    count = len(users)
    columns = {
        "user_id": users,
        "item_id": [f"i{position}"] * count,
        "event": ["click"] * count,
        "timestamp": pa.array(range(count), pa.timestamp("ms", "UTC")),
        "stream_position": pa.array([position] * count, LOG_TABLES["event_log"].field("stream_position").type),
    }
    return conform(pa.table(columns), LOG_TABLES["event_log"], "event_log")


@pytest.fixture
def workspace(tmp_path):
    """Two ranges that were compacted, two behind them."""
    workspace = Workspace(tmp_path)
    log = RangeLog(workspace)
    for position, users in enumerate([["ann", "bob"], ["bob"], ["eve", "ann"], ["ann"]], start=1):
        log.open(position, position)
        file = write_log_file(workspace, FOLDER, position, position, rows(users, position))
        log.finish([file], {"events.in": len(users)}, position)
        if position == 2:
            log.replace(compact(workspace, log.compacted, log.done))
    return workspace


def users_in_log(workspace):
    return sorted(committed_log(workspace).read(workspace, "event_log").column("user_id").to_pylist())


def test_the_users_rows_go_and_all_others_stay(workspace):
    assert users_in_log(workspace) == ["ann", "ann", "ann", "bob", "bob", "eve"]
    assert forget_in_log(workspace, RangeLog(workspace), {"ann"}) == {"event_log": 3}
    assert users_in_log(workspace) == ["bob", "bob", "eve"]
    log = RangeLog(workspace)
    assert (log.position, log.open_range) == (4, None)
    assert forget_in_log(workspace, RangeLog(workspace), {"ann"}) == {}


def test_the_stream_goes_on_behind_it(workspace):
    forget_in_log(workspace, RangeLog(workspace), {"ann"})
    log = RangeLog(workspace)
    log.open(5, 6)
    log.finish([write_log_file(workspace, FOLDER, 5, 6, rows(["zoe"], 6))], {}, 9)
    assert users_in_log(workspace) == ["bob", "bob", "eve", "zoe"]


def test_what_was_cut_short_is_completed_when_it_is_repeated(workspace, monkeypatch):
    def crash(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stream_log.RangeLog, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            forget_in_log(workspace, RangeLog(workspace), {"ann"})
    forget_in_log(workspace, RangeLog(workspace), {"ann"})
    assert users_in_log(workspace) == ["bob", "bob", "eve"]
    assert sum(file.rows for file in RangeLog(workspace).compacted.files) == 3


def test_files_that_are_no_part_of_the_log_any_more_go_with_them(workspace, tmp_path):
    """Those of ranges that were compacted, which a run that was stopped before it removed them has left."""
    log = RangeLog(workspace)
    users = [path for path in tmp_path.rglob("*.parquet") if "ann" in pq.read_table(path)["user_id"].to_pylist()]
    assert len(users) == 4  # three that count, and the first range's own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "replaced_files", lambda *_: [])
        forget_in_log(workspace, log, {"ann"})
    assert forget_in_log(workspace, RangeLog(workspace), {"ann"}) == {}
    assert not [path for path in tmp_path.rglob("*.parquet") if "ann" in pq.read_table(path)["user_id"].to_pylist()]


def test_a_workspace_without_a_stream_has_nothing_to_forget(tmp_path):
    assert forget_in_log(Workspace(tmp_path), RangeLog(Workspace(tmp_path)), {"ann"}) == {}
