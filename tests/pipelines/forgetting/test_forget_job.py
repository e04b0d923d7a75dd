"""Forgetting a person: nothing is left in tables, files, log and store, whether a stream runs beside or not."""

import re
import shutil
import threading

import pyarrow as pa
import pytest

from features.schemas import EVENTS
from features.store.base import USER_VIEWS
from features.store.config import StoreConfig
from features.store.embedded import EmbeddedRedis
from features.store.redis_store import open_store
from features.stream.config import StreamConfig
from features.stream.opening import open_stream
from features.stream.records import StreamRecord
from features.workspace import Workspace, conform
from pagewise.main import main
from pipelines.batch.config import PagesConfig
from pipelines.forgetting.job import forget
from pipelines.jobs.lock import LockedError, exclusive
from pipelines.streaming.log import committed_log
from pipelines.streaming.run import run_stream

pytestmark = pytest.mark.integration

NOW = 1_767_225_600_000  # 2026-01-01
STORE, STREAM, PAGES = StoreConfig(), StreamConfig(interval_s=0.05), PagesConfig()


def click(user, item, number):
    return {
        "event_id": f"{user}-{number}",
        "user_id": user,
        "item_id": item,
        "event": "click",
        "timestamp": NOW + number,
    }


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Ann and Bob in the raw events, in the stream's log and in the store, and more of both waiting in the stream."""
    workspace = Workspace(tmp_path_factory.mktemp("filled"))
    rows = pa.table({"user_id": ["ann", "bob"], "item_id": ["i1", "i1"], "event": ["click"] * 2})
    rows = rows.append_column("timestamp", pa.array([NOW] * 2, pa.timestamp("ms", "UTC")))
    events = workspace.table("events")
    events.commit([events.write_part(conform(rows, EVENTS, "events"), shard=0, date="2026-01-01")])
    with EmbeddedRedis(workspace.local_path("store")) as server:
        send(server.url, [click("ann", "i2", 1), click("bob", "i2", 2)])
        take_up(workspace)
        send(server.url, [click("ann", "i3", 3), click("bob", "i3", 4)])
    return workspace


@pytest.fixture
def workspace(filled, tmp_path):
    """A copy of `filled` for one test, whose Redis runs."""
    shutil.copytree(filled.root, tmp_path, dirs_exist_ok=True)
    workspace = Workspace(tmp_path)
    with EmbeddedRedis(workspace.local_path("store")):
        yield workspace


def send(url, events):
    with open_stream(STREAM, url, STORE.namespace, 5.0) as stream:
        stream.append([StreamRecord.of_rows("events", events)])


def take_up(workspace):
    config = StreamConfig(interval_s=0.05, until_empty=True)
    return run_stream(workspace, config, STORE, PAGES, stopping=threading.Event())


def logged_users(workspace):
    return sorted(committed_log(workspace).read(workspace, "event_log").column("user_id").to_pylist())


def held(workspace, user):
    with open_store(STORE, workspace) as store:
        return [view for view in USER_VIEWS if store.read_blobs([(view, user)])[0] is not None]


def check_only_ann_is_gone(workspace):
    assert logged_users(workspace) == ["bob", "bob"]
    assert workspace.table("events").read().column("user_id").to_pylist() == ["bob"]
    assert held(workspace, "ann") == []
    assert {"history", "state"} <= set(held(workspace, "bob"))
    with open_store(STORE, workspace) as store:
        assert store.to_be_forgotten() == {}


def test_without_a_running_stream_what_waits_is_taken_up_first(workspace):
    said = []
    report = forget(workspace, ["ann"], STORE, STREAM, PAGES, said.append)
    check_only_ann_is_gone(workspace)
    assert (report.tables, report.log_rows, said) == ({"events": 1}, 1, [])
    assert report.blobs >= 2
    assert report.lines()[0].startswith("forgotten: 1 users; rows of tables: events 1; of the stream's log 1; ")


def test_a_running_stream_forgets_by_itself(workspace):
    stopping, ready = threading.Event(), threading.Event()
    stream = threading.Thread(
        target=run_stream,
        args=(workspace, STREAM, STORE, PAGES),
        kwargs={"stopping": stopping, "ready": lambda _: ready.set()},
    )
    stream.start()
    try:
        assert ready.wait(60)
        said = []
        forget(workspace, ["ann"], STORE, STREAM, PAGES, said.append)
    finally:
        stopping.set()
        stream.join()
    check_only_ann_is_gone(workspace)
    assert said == ["a stream is running: it forgets them once it has taken up what waits"]


def test_what_comes_in_afterwards_is_kept(workspace):
    forget(workspace, ["ann"], STORE, STREAM, PAGES, print)
    with EmbeddedRedis(workspace.local_path("store")) as server:
        send(server.url, [click("ann", "i9", 9)])
    take_up(workspace)
    assert logged_users(workspace) == ["ann", "bob", "bob"]
    assert "history" in held(workspace, "ann")


def test_while_a_daily_job_runs_nothing_is_removed(workspace):
    with exclusive(workspace.local_path("runs", "daily.lock")), pytest.raises(LockedError):
        forget(workspace, ["ann"], STORE, STREAM, PAGES, print)
    assert "ann" in workspace.table("events").read().column("user_id").to_pylist()


@pytest.mark.parametrize(("users", "blank"), [([], []), (["ann", ""], [""]), (["ann", " "], [" "])])
def test_nobody_is_no_person(tmp_path, users, blank):
    with pytest.raises(ValueError, match=rf"at least one id, none of them blank, got {re.escape(repr(blank))}"):
        forget(Workspace(tmp_path), users, STORE, STREAM, PAGES, print)


def test_who_was_never_accepted_is_forgotten_in_rejected_rows(workspace):
    """An id that breaks the rule is in no table, but in what was rejected for it."""
    long, said = "x" * 600, []
    with EmbeddedRedis(workspace.local_path("store")) as server:
        send(server.url, [click(long, "i2", 5)])
        take_up(workspace)
    before = rejected(workspace)
    assert sum(long in row for row in before) == 1
    forget(workspace, [long], STORE, STREAM, PAGES, said.append)
    assert said[0] == (
        "no stage accepts 1 of these ids (expected an id of at most 512 bytes without control characters each): "
        "only rejected rows may hold them"
    )
    assert rejected(workspace) == [row for row in before if long not in row]


def rejected(workspace):
    return committed_log(workspace).read(workspace, "stream_dead_letters").column("row").to_pylist()


def test_the_command_names_what_it_did_and_mistakes(workspace, tmp_path, capsys):
    assert main(["forget", "nobody", "--workspace", str(tmp_path)]) == 0
    assert "nothing is known of 1 users" in capsys.readouterr().out
    file = tmp_path / "ids.txt"
    file.write_text("ann\n\n  bob \n")
    assert main(["forget", f"@{file}", "--workspace", str(tmp_path)]) == 0
    assert "forgotten: 2 users" in capsys.readouterr().out
    assert main(["forget", "@nowhere", "--workspace", str(tmp_path)]) == 2
    assert "no file of ids at nowhere" in capsys.readouterr().err
