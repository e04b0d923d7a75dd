"""Folding new events into tables that stand equals computing them anew, file by file."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_cases import DAY, START, event, random_events, write_file

from features.schemas import EVENTS, LOG_TABLES, RAW_TABLES
from features.schemas import ITEMS as ITEMS_SCHEMA
from features.workspace import Manifest, Workspace
from pipelines.batch.config import BatchConfig, PagesConfig, SplitConfig
from pipelines.batch.feature_jobs import build_user_and_item_features
from pipelines.batch.increment import CannotFoldError
from pipelines.batch.jobs import build_features, build_sequences, validate
from pipelines.batch.raw_inputs import RawInputs, stream_position
from pipelines.streaming.compaction import compact, write_log_file
from pipelines.streaming.log import Range, range_file, read_ranges, write_durably

CONFIG = BatchConfig(pages=PagesConfig(cap=3), split=SplitConfig(validation_days=1, test_days=1), shards=3)
STAGES = (validate, build_features, build_user_and_item_features, build_sequences)
TABLES = (
    "clean_events",
    "clean_items",
    "dead_letters",
    "pages",
    "item_statistics",
    "transitions",
    "page_features",
    "item_features",
    "user_states",
    "item_states",
    "sequences",
)
ITEMS = """item_id,title,category,brand,price
i0,Item zero,"[""Home"",""Kitchen""]",Acme,10
i1,Item one,"[""Home""]",Bolt,20
i2,Item two,,Acme,
i3,Item three,"[""Garden""]",,40
"""


def put(workspace: Workspace, name: str, rows: list[dict]) -> None:
    """Add one file of raw events."""
    path = workspace.local_path("tables", "events", f"{name}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS), path)


def run(workspace: Workspace, config: BatchConfig = CONFIG, stages=STAGES) -> list[str]:
    """Run all stages; return what they say about what they reused."""
    return [note for stage in stages for note in stage(workspace, config).notes]


def assert_equals_full_run(workspace: Workspace, config: BatchConfig = CONFIG, stages=STAGES, tables=TABLES) -> None:
    """Compute everything from nothing, in the same place, and compare manifests and rows."""
    found = {name: (workspace.table(name).manifest(), workspace.table(name).read()) for name in tables}
    for folder in workspace.local_path("tables").iterdir():
        if folder.name not in RAW_TABLES:
            shutil.rmtree(folder)
    assert any("this is the first time" in note for note in run(workspace, config, stages))
    for name, (manifest, rows) in found.items():
        wanted = workspace.table(name).manifest()
        assert rows.equals(workspace.table(name).read()), name
        assert (manifest.counts, manifest.notes) == (wanted.counts, wanted.notes), name
        assert manifest.fingerprint == wanted.fingerprint, name


def cut(rows: list[dict], rng: np.random.Generator, late: float) -> list[list[dict]]:
    """Deliver events day by day; some come some days late, some twice."""
    day = np.array([(row["timestamp"] - START) // DAY for row in rows])
    arrival = day + np.where(rng.random(len(rows)) < late, rng.integers(1, 4, len(rows)), 0)
    parts = [
        [row for row, at in zip(rows, arrival, strict=True) if at == number] for number in range(arrival.max() + 1)
    ]
    again = [rows[place] for place in rng.integers(0, len(rows), 4)]
    return [[*part, *(row for row in again if rng.random() < 0.5)] for part in parts]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("seed", "days"), [(1, 1), *(pytest.param(seed, 2, marks=pytest.mark.slow) for seed in (0, 1, 2, 3, 4))]
)
def test_days_one_by_one_equal_all_at_once(tmp_path, seed, days):
    rng = np.random.default_rng(seed)
    rows = random_events(seed, 300, users=6, items=7, days=9)
    rows.append(event("u1", "i1", "look", 0))  # refused
    parts = cut(rows, rng, late=0.1 if seed % 2 else 0.0)
    workspace = Workspace(tmp_path / "days")
    write_file(workspace, "items", "items.csv", ITEMS)
    first = len(parts) - days
    for number in range(first):
        put(workspace, f"{number:02}", parts[number])
    run(workspace)
    for number in range(first, len(parts)):
        put(workspace, f"{number:02}", parts[number])
        notes = run(workspace)
        assert not any(note.startswith("all ") for note in notes), notes
    assert_equals_full_run(workspace)


@pytest.mark.integration
@pytest.mark.slow
def test_one_changed_thing_means_a_full_run_that_says_why(tmp_path):
    """Every stage once more after each change; the tables are those of a run over everything."""
    rows = random_events(7, 120, users=4, items=4, days=6)
    workspace = Workspace(tmp_path)
    write_file(workspace, "items", "items.csv", ITEMS)
    put(workspace, "a", rows[::2])
    put(workspace, "b", rows[1::2][:-20])
    run(workspace)

    def first_notes(config: BatchConfig = CONFIG) -> list[str]:
        return [stage(workspace, config).notes[0] for stage in STAGES[:3]]

    put(workspace, "b", rows[1::2][:-10])
    validated, pages, features = first_notes()
    assert validated == "all rows were read: changed or gone: events/b.parquet"
    assert pages == "all pages were built: it is not known which events are new"
    assert features == "all values were computed: it is not known which events are new"

    write_file(workspace, "items", "items.csv", ITEMS.replace("Acme,10", "Acme,11"))
    put(workspace, "c", rows[1::2][-10:])
    validated, pages, features = first_notes()
    assert "read 10 new events" in validated
    assert "of events since" in pages
    assert features == "all values were computed: changed: price of items that have events"

    earlier = {**rows[0], "timestamp": rows[0]["timestamp"] - 1}
    put(workspace, "d", [earlier])
    assert first_notes()[0] == "all rows were read: 1 events take the place of older ones of their ids"

    put(workspace, "e", [event("u0", "i0", "click", 6 * DAY)])
    other = dataclasses.replace(CONFIG, pages=PagesConfig(cap=2))
    validated, pages, features = first_notes(other)
    assert "read 1 new events" in validated
    assert pages == "all pages were built: changed: settings"
    assert "1 new events" in features
    run(workspace, other)
    assert_equals_full_run(workspace, other)


def take_up(workspace: Workspace, last: int, day: str, **rows: list[dict]) -> None:
    """Let the stream commit a range of messages of one day."""
    files = []
    for name, found in rows.items():
        table = pa.Table.from_pylist([{**row, "stream_position": last} for row in found], schema=LOG_TABLES[name])
        files.append(write_log_file(workspace, f"{name}/date={day}", last - 9, last, table))
    taken = Range(first=last - 9, last=last, opened=0, watermark=0, done=True, files=tuple(files))
    write_durably(workspace, range_file(workspace, last), taken.to_json())


def test_only_added_events_can_be_folded(tmp_path):
    workspace = Workspace(tmp_path)
    write_file(workspace, "items", "items.csv", ITEMS)
    rows = [event("u1", "i1", "click", number * DAY, event_id=f"e{number}") for number in range(3)]
    put(workspace, "a", rows[:1])
    put(workspace, "b", rows[1:2])
    take_up(workspace, 10, "2024-03-03", event_log=rows[2:])
    known = RawInputs.of(workspace, CONFIG)
    before = Manifest(name="clean_events", schema_hash="", files=(), inputs=known.inputs)
    assert known.fresh(workspace, before) == {"events": []}
    assert known.changed(before) == []

    put(workspace, "c", rows[:1])
    take_up(workspace, 20, "2024-03-04", event_log=rows[:2])
    write_file(workspace, "items", "items.csv", ITEMS + "i4,Item four,,,\n")
    now = RawInputs.of(workspace, CONFIG)
    added, *logged = now.fresh(workspace, before)["events"]
    assert added.path.endswith("c.parquet")
    assert [(source.after, source.upto) for source in logged] == [(10, 20), (10, 20)]
    assert now.changed(before) == ["items"]

    def reason(config: BatchConfig = CONFIG) -> str:
        with pytest.raises(CannotFoldError) as raised:
            RawInputs.of(workspace, config).fresh(workspace, before)
        return str(raised.value)

    assert reason(dataclasses.replace(CONFIG, shards=4)) == "changed: settings"
    workspace.local_path("tables", "events", "b.parquet").unlink()
    assert reason() == "changed or gone: events/b.parquet"
    put(workspace, "b", rows[1:2])
    shutil.rmtree(workspace.local_path("stream"))
    take_up(workspace, 30, "2024-03-03", event_log=rows[:1])
    assert reason() == "the stream's log is not what it was"


@pytest.mark.integration
@pytest.mark.slow
def test_the_log_of_the_stream_is_read_up_to_its_position(tmp_path):
    def shown(item: str, page: str, place: int, at: int) -> dict:
        return event("u1", item, "impression", at, request_id=page, position=place, event_id=f"{page}-{item}")

    def served(page: str, items: list[str], at: int) -> dict:
        row = dict.fromkeys(LOG_TABLES["page_log"].names)
        row |= {"request_id": page, "user_id": "u1", "timestamp": START + at, "items": items, "arm": "B"}
        return {**row, "events": [], "event_times": []}

    def item(title: str) -> dict:
        return {**dict.fromkeys(ITEMS_SCHEMA.names), "item_id": "i0", "title": title}

    workspace = Workspace(tmp_path)
    write_file(workspace, "items", "items.csv", ITEMS)
    put(workspace, "a", [event("u1", f"i{number % 4}", "click", number * DAY) for number in range(5)])
    page = [shown("i1", "p", 0, 4 * DAY), shown("i0", "p", 1, 4 * DAY)]
    take_up(
        workspace,
        10,
        "2024-03-05",
        event_log=page,
        page_log=[served("p", ["i1", "i0"], 4 * DAY)],
        item_log=[item("old")],
    )
    run(workspace)
    take_up(workspace, 20, "2024-03-05", item_log=[item("newer"), item("newest")])
    after = [shown("i2", "q", 0, 5 * DAY), event("u1", "i0", "click", 5 * DAY, request_id="p", event_id="late")]
    take_up(workspace, 30, "2024-03-06", event_log=after, page_log=[served("q", ["i2"], 5 * DAY)])
    merged = compact(workspace, *read_ranges(workspace))
    write_durably(workspace, workspace.path("stream", "compacted.json"), merged.to_json())
    notes = run(workspace)
    assert "read 2 new events; 1 of 6 days were written anew" in notes
    assert stream_position(workspace.table("clean_events").manifest()) == 30
    items = {row["item_id"]: row["title"] for row in workspace.table("clean_items").read().to_pylist()}
    assert items["i0"] == "newest"
    pages = {row["request_id"]: row for row in workspace.table("pages").read().to_pylist()}
    assert (pages["p"]["arm"], pages["p"]["items"], pages["p"]["events"]) == (
        "B",
        ["i1", "i0"],
        ["impression", "click"],
    )
    assert (pages["q"]["arm"], pages["q"]["items"]) == ("B", ["i2"])
    counts = workspace.table("clean_items").manifest().counts
    assert counts == {"in": 7, "dropped.duplicate": 3, "out": 4}
    assert_equals_full_run(workspace)

    # the raw tables alone: as if nothing had been taken up
    run(workspace, dataclasses.replace(CONFIG, stream_log=False))
    assert stream_position(workspace.table("clean_events").manifest()) == 0
    assert workspace.table("clean_events").manifest().rows == 5
    assert {row["arm"] for row in workspace.table("pages").read().to_pylist()} == {None}
