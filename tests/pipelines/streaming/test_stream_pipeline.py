"""A whole run of the streaming pipeline: where every row goes, and what is told of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import stream_world as world
from stream_world import HOUR, START, event, item, page

from features.schemas import EVENT_LOG, ITEM_LOG, PAGE_LOG, STREAM_DEAD_LETTERS
from features.store.redis_store import RedisStore
from features.stream.records import EVENTS, ITEMS, PAGES, StreamRecord
from features.workspace import Workspace
from pipelines.streaming.log import read_ranges

pytestmark = pytest.mark.integration


def records(*rows, table: str = EVENTS) -> list[StreamRecord]:
    return [StreamRecord.of_rows(table, [row]) for row in rows]


def test_every_row_is_logged_or_a_dead_letter_or_a_duplicate(tmp_path, redis_url) -> None:
    world.append(redis_url, "all", world.messages())
    report = world.take_up(tmp_path, redis_url, "all")
    found, rows = world.counts(tmp_path), world.logged(tmp_path)
    assert report.counts == {**dict.fromkeys(report.counts, 0), **found}
    for table, log in ((EVENTS, EVENT_LOG), (PAGES, PAGE_LOG), (ITEMS, ITEM_LOG)):
        went = dict(world.totals(found, table))
        assert went["in"] == went["out"] > 0
        assert len(rows[log]) == found[f"{table}.logged"]
    dropped = sum(count for name, count in found.items() if ".dropped." in name)
    assert len(rows[STREAM_DEAD_LETTERS]) == dropped
    assert {row["reason"] for row in rows[STREAM_DEAD_LETTERS]} == {"too_late", "unknown_event", "malformed"}
    assert len({row["event_id"] for row in rows[EVENT_LOG]}) == len(rows[EVENT_LOG])
    assert len({row["request_id"] for row in rows[PAGE_LOG]}) == len(rows[PAGE_LOG]) == 8


def test_an_impression_counts_once_whoever_tells_it(tmp_path, redis_url) -> None:
    shown = page("r1", "user0", ["item0", "item1"], START)
    seen = [event("user0", "item1", "impression", START + 5, request_id="r1") for _ in range(2)]
    world.append(redis_url, "once", [*records(shown, shown, table=PAGES), *records(*seen)])
    world.take_up(tmp_path, redis_url, "once")
    world.append(redis_url, "once", [*records(seen[0]), *records(shown, table=PAGES)])
    world.take_up(tmp_path, redis_url, "once")
    rows = world.logged(tmp_path)[EVENT_LOG]
    told = [(row["item_id"], row["event"], row["position"], row["propensity"]) for row in rows]
    assert sorted(told) == [("item0", "impression", 0, 1.0), ("item1", "impression", 1, 0.5)]
    assert world.counts(tmp_path) == {
        "events.in": 3,
        "events.implied": 2,
        "events.logged": 2,
        "events.duplicates": 3,
        "pages.in": 3,
        "pages.logged": 1,
        "pages.duplicates": 2,
    }


def test_a_click_is_in_the_history_that_the_service_reads(tmp_path, redis_url) -> None:
    world.append(
        redis_url, "click", records(event("ann", "item3", "click", START), event("ann", "item4", "cart", START + 1))
    )
    world.take_up(tmp_path, redis_url, "click")
    with RedisStore(redis_url, world.store_config(redis_url, "click")) as store:
        known = store.users(["ann"], 10)
    assert known.histories.item_ids.to_pylist() == ["item3", "item4"]
    assert known.states[0] is not None


def test_facts_of_a_new_item_are_there_when_its_events_are(tmp_path, redis_url) -> None:
    """Both in one range, the item last: its category must count for the user."""
    clicks = records(event("ann", "new", "click", START))
    world.append(redis_url, "facts", [*clicks, *records(item("old"), item("new", title="New"), table=ITEMS)])
    world.take_up(tmp_path / "a", redis_url, "facts")
    world.append(redis_url, "before", [*records(item("old"), item("new", title="New"), table=ITEMS), *clicks])
    world.take_up(tmp_path / "b", redis_url, "before")
    with RedisStore(redis_url, world.store_config(redis_url, "facts")) as store:
        (facts,) = store.items(["new"])
        state = store.users(["ann"], 1).states
    with RedisStore(redis_url, world.store_config(redis_url, "before")) as store:
        assert store.users(["ann"], 1).states == state
    assert facts is not None
    assert (facts.title, facts.category, facts.price) == ("New", ("Home", "w"), 3.5)


def test_late_and_future_rows_are_told_by_the_range_not_by_the_clock(tmp_path, redis_url) -> None:
    """48 hours before the newest event of earlier ranges are allowed, and 10 minutes ahead of the clock."""
    first = records(event("ann", "item0", "click", START))
    edge = [event("bob", "item0", "click", START - 48 * HOUR), event("bob", "item1", "click", START - 48 * HOUR - 1)]
    future = event("bob", "item2", "click", 4_000_000_000_000)
    world.append(redis_url, "late", first)
    world.take_up(tmp_path, redis_url, "late")
    world.append(redis_url, "late", [*records(*edge, future), *records(page("r", "bob", ["item0"], 5), table=PAGES)])
    world.take_up(tmp_path, redis_url, "late")
    letters = [(row["table"], row["reason"], row["detail"]) for row in world.logged(tmp_path)[STREAM_DEAD_LETTERS]]
    assert [letter[:2] for letter in letters] == [
        ("events", "in_the_future"),
        ("events", "too_late"),
        ("pages", "too_late"),
    ]
    assert letters[1][2].startswith(
        "timestamp: expected at most 48 hours before the newest event, got 2025-12-29 08:59:59.999"
    )
    assert [row["item_id"] for row in world.logged(tmp_path)[EVENT_LOG]] == ["item0", "item0"]


def test_a_day_of_events_is_a_folder_of_the_log(tmp_path, redis_url) -> None:
    world.append(
        redis_url, "days", records(event("ann", "a", "click", START), event("ann", "b", "click", START + 24 * HOUR))
    )
    world.take_up(tmp_path, redis_url, "days")
    folders = sorted(path.name for path in (tmp_path / "stream" / "log" / EVENT_LOG).iterdir())
    assert folders == ["date=2025-12-31", "date=2026-01-01"]


def test_shards_change_nothing(tmp_path, redis_url) -> None:
    """With one, a range is one step of Beam."""
    left = []
    for shards in (1, 2, 3):
        folder, namespace = tmp_path / str(shards), f"shards{shards}"
        world.append(redis_url, namespace, world.messages(seed=3))
        world.take_up(folder, redis_url, namespace, shards=shards)
        left.append((world.logged(folder), world.counts(folder), world.held(redis_url, namespace)))
    assert left[0] == left[1] == left[2]


def test_ranges_hold_about_as_many_rows_as_they_may(tmp_path, redis_url) -> None:
    """Memory is bounded by a range, whatever waits."""
    clicks = [event("ann", "item0", "click", START + number) for number in range(95)]
    world.append(redis_url, "many", records(*clicks))
    report = world.take_up(tmp_path, redis_url, "many", range_rows=30, compact_ranges=100)
    _, ranges = read_ranges(Workspace(tmp_path))
    sizes = [taken.counts["events.in"] for taken in ranges]
    assert (report.ranges, sizes) == (4, [30, 30, 30, 5])
    assert world.counts(tmp_path)["events.logged"] == 95


TAKEN_UP = """
import json, sys
from pathlib import Path
import psutil
sys.path.insert(0, sys.argv[1])
import stream_world as world

resident = []
note = lambda *_: resident.append(psutil.Process().memory_info().rss)
options = dict(range_rows=2000, compact_ranges=1000, progress=note)
report = world.take_up(Path(sys.argv[2]), sys.argv[3], "bounded", **options)
print(json.dumps([report.ranges, resident]))
"""


@pytest.mark.slow
def test_memory_stays_bounded_whatever_waits(tmp_path, redis_url) -> None:
    """120,000 events wait, 2,000 are taken up at once: the last 40 ranges need no more than the first 20 did.

    In a process of its own: what other tests have left behind would be counted. Without compactions, whose memory goes
    by the file that they write; and of many users, as what is known of one grows with his events of the last days.
    """
    for number in range(1200):
        clicks = [
            event(f"u{number % 400}-{place % 50}", f"i{place % 30}", "click", START + 100 * number + place)
            for place in range(100)
        ]
        world.append(redis_url, "bounded", [StreamRecord.of_rows(EVENTS, clicks)])
    arguments = [str(Path(__file__).parent), str(tmp_path), redis_url]
    done = subprocess.run([sys.executable, "-c", TAKEN_UP, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ranges, resident = json.loads(done.stdout.splitlines()[-1])
    assert ranges == 60
    assert max(resident[20:]) - max(resident[:20]) < 20 * 2**20
