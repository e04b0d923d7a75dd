"""Served pages that a user's own system logged: what may be wrong with them, how they join pages, day by day."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_cases import DAY, HOUR, START, event, random_events, write_file
from test_increment import CONFIG, ITEMS, STAGES, assert_equals_full_run, cut, put, run

from features.schemas import SERVED_PAGES
from features.workspace import Workspace
from pipelines.batch.checks import Checked, check_rows
from pipelines.batch.jobs import validate
from pipelines.batch.pages_job import build_pages
from pipelines.batch.raw import read_batches
from pipelines.forgetting.given_files import forget_in_given_files
from pipelines.forgetting.tables import forget_in_tables

pytestmark = pytest.mark.integration

TO_PAGES = STAGES[:2]
GOOD = {"request_id": "r", "user_id": "u1", "timestamp": START, "items": ["i1", "i2"]}


def page(request: str, user: str, at: int, items: list[str], **more: Any) -> dict[str, Any]:
    """One served page, `at` milliseconds after `START`."""
    return {"request_id": request, "user_id": user, "timestamp": START + at, "items": items, **more}


def put_pages(workspace: Workspace, name: str, rows: list[dict[str, Any]]) -> None:
    """Add one file of raw served pages."""
    path = workspace.local_path("tables", "served_pages", f"{name}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SERVED_PAGES), path)


def check(workspace: Workspace, *rows: dict[str, Any]) -> Checked:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path = write_file(workspace, "served_pages", "pages.jsonl", lines)
    [batch] = read_batches(workspace.filesystem, path)
    return check_rows("served_pages", batch)


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"request_id": None}, "null_id", "request_id: expected an id, got None"),
        ({"user_id": " "}, "null_id", "user_id: expected an id, got ' '"),
        ({"timestamp": "noon"}, "bad_timestamp", "timestamp: expected a time from 1970 to 2099, got 'noon'"),
        ({"items": None}, "malformed", "items: expected distinct item ids, at least one, got None"),
        ({"items": []}, "malformed", "got '[]'"),
        ({"items": ["i1", "i1"]}, "malformed", """got '["i1", "i1"]'"""),
        ({"propensities": [0.5, 0.0]}, "bad_propensity", "propensities: expected probabilities in (0, 1], null where"),
        ({"propensities": [0.5, 1.5]}, "bad_propensity", "got '[0.5, 1.5]'"),
        ({"propensities": [0.5, "often"]}, "bad_propensity", "often"),
        ({"propensities": [0.5]}, "bad_value", "propensities: expected one value per item, got '[0.5]'"),
        ({"scores": [1, 2, 3]}, "bad_value", "scores: expected one value per item, got '[1, 2, 3]'"),
        ({"sources": ["popular"]}, "bad_value", "sources: expected one value per item"),
        ({"candidates": ["i1", "i2", "i1"]}, "bad_value", "candidates: expected distinct item ids"),
        ({"candidates": ["i1", "i3"]}, "bad_value", "candidates: expected every item of the page among them"),
        (
            {"candidates": ["i1", "i2", "i3"], "candidate_scores": [1, 2]},
            "bad_value",
            "candidate_scores: expected one value per candidate, got '[1, 2]'",
        ),
        (
            {"candidates": ["i1", "i2"], "candidate_scores": [1, float("inf")]},
            "bad_value",
            "candidate_scores: expected finite numbers, got '[1, Infinity]'",
        ),
        ({"epsilon": 1.5}, "bad_value", "epsilon: expected a share from 0 to 1, got '1.5'"),
        ({"temperature": -1}, "bad_value", "temperature: expected a finite number >= 0, got '-1'"),
        ({"context": "at home"}, "malformed", "context: expected names and values; in CSV"),
    ],
)
def test_a_bad_page_becomes_a_dead_letter(workspace, change, reason, detail):
    checked = check(workspace, GOOD, {**GOOD, **change}, GOOD)
    assert checked.rows.num_rows == 2
    [row] = checked.dead.to_pylist()
    assert (row["table"], row["reason"]) == ("served_pages", reason)
    assert detail in row["detail"]


def test_a_whole_page_passes_in_every_format(workspace):
    whole = {
        **GOOD,
        "propensities": [0.5, None],
        "scores": [2.5, 1],
        "candidates": ["i1", "i2", "i3"],
        "candidate_scores": [2.5, 1.0, 0.5],
        "epsilon": 0.1,
        "temperature": 1,
        "arm": "A",
        "context": {"page": "home"},
    }
    from_json = check(workspace, whole)
    assert from_json.dead.num_rows == 0
    names = list(whole)
    cells = [cell if isinstance(cell, str) else json.dumps(cell) for cell in whole.values()]
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    path = write_file(workspace, "served_pages", "pages.csv", f"{','.join(names)}\n{','.join(quoted)}\n")
    [batch] = read_batches(workspace.filesystem, path)
    from_csv = check_rows("served_pages", batch)
    typed = pa.Table.from_pylist([{**whole, "context": [("page", "home")]}], schema=SERVED_PAGES)
    assert from_csv.rows.equals(from_json.rows)
    assert from_json.rows.equals(typed)


def test_pages_join_events_and_those_without_any_exist_too(tmp_path):
    workspace = Workspace(tmp_path)
    write_file(workspace, "items", "items.csv", ITEMS)
    put(workspace, "a", [event("u1", "i1", "click", HOUR, request_id="r1", context=[("hour", "night")])])
    put_pages(
        workspace,
        "a",
        [
            page("r1", "u1", 0, ["i2", "i1"], propensities=[0.25, 0.5], policy="mine", arm="B"),
            page("r2", "u2", DAY, ["i3"], propensities=[1.0], context=[("hour", "noon")]),
            page("r2", "u2", DAY + 1, ["i0"]),
        ],
    )
    report = validate(workspace, CONFIG)
    assert {key: count for key, count in report.counts.items() if key.startswith("served_pages")} == {
        "served_pages.in": 3,
        "served_pages.dropped.duplicate": 1,
        "served_pages.out": 2,
    }
    build_pages(workspace, CONFIG, [])
    first, second = workspace.table("pages").read().to_pylist()
    assert (first["items"], first["events"], first["propensities"]) == (
        ["i2", "i1"],
        ["impression", "click"],
        [0.25, 0.5],
    )
    assert (first["policy"], first["arm"], first["context"]) == ("mine", "B", [("hour", "night")])
    assert [time.timestamp() * 1000 - START for time in first["event_times"]] == [0, HOUR]
    assert (second["request_id"], second["items"], second["events"]) == ("r2", ["i3"], ["impression"])
    assert (second["context"], second["timestamp"].timestamp() * 1000) == ([("hour", "noon")], START + DAY)


def random_pages(rows: list[dict[str, Any]], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Pages of some requests of these events and of others, of which there are no events."""
    known = sorted({(row["request_id"], row["user_id"]) for row in rows if row["request_id"]})
    asked = [pair for pair in known if rng.random() < 0.7] + [(f"q{number}", "u0") for number in range(6)]
    pages = []
    for request, user in asked:
        items = [f"i{number}" for number in rng.permutation(4)[: rng.integers(1, 4)]]
        at = int(rng.integers(9)) * DAY + int(rng.integers(20)) * HOUR
        pages.append(page(request, user, at, items, propensities=[0.5] * len(items)))
    return pages


@pytest.mark.parametrize(
    ("seed", "days"), [(1, 2), *(pytest.param(seed, 3, marks=pytest.mark.slow) for seed in (0, 1, 2, 3))]
)
def test_days_one_by_one_equal_all_at_once(tmp_path, seed, days):
    rng = np.random.default_rng(seed)
    rows = random_events(seed, 120, users=5, items=4, days=9)
    pages = random_pages(rows, rng)
    parts, page_parts = cut(rows, rng, late=0.1), cut(pages, rng, late=0.2)
    workspace = Workspace(tmp_path)
    write_file(workspace, "items", "items.csv", ITEMS)
    last = max(len(parts), len(page_parts))
    put(workspace, "00-first", [row for part in parts[: last - days] for row in part])
    put_pages(workspace, "00-first", [row for part in page_parts[: last - days] for row in part])
    run(workspace, stages=TO_PAGES)
    for number in range(last - days, last):
        if number < len(parts):
            put(workspace, f"{number:02}", parts[number])
        if number < len(page_parts):
            put_pages(workspace, f"{number:02}", page_parts[number])
        notes = run(workspace, stages=TO_PAGES)
        assert not any(note.startswith("all ") for note in notes), notes
    tables = ("clean_events", "clean_served_pages", "dead_letters", "pages", "item_statistics")
    assert_equals_full_run(workspace, stages=TO_PAGES, tables=tables)


def test_served_pages_alone_change_pages_and_nobody_is_remembered(tmp_path):
    workspace = Workspace(tmp_path)
    write_file(workspace, "items", "items.csv", ITEMS)
    put(workspace, "a", [event("u1", "i1", "click", number * DAY, request_id=f"r{number}") for number in range(4)])
    run(workspace, stages=TO_PAGES)
    put_pages(workspace, "a", [page("r1", "u1", DAY, ["i2", "i1"], arm="A")])
    validated, _, pages, _ = run(workspace, stages=TO_PAGES)
    assert validated == "read 0 new events; 0 of 4 days were written anew"
    assert pages == "all pages were built: it is not known which served pages are new"
    put_pages(workspace, "b", [page("r2", "u1", 2 * DAY, ["i3", "i1"], arm="B"), page("q", "u2", 3 * DAY, ["i0"])])
    validated, _, pages, _ = run(workspace, stages=TO_PAGES)
    assert validated == "read 0 new events and 2 new served pages; 0 of 4 days were written anew"
    assert pages == "2 pages were built, of events since 2024-03-03, of 4 days"
    found = {row["request_id"]: (row["arm"], row["items"]) for row in workspace.table("pages").read().to_pylist()}
    assert found["r1"] == ("A", ["i2", "i1"])
    assert found["r2"] == ("B", ["i3", "i1"])
    assert found["q"] == (None, ["i0"])

    assert {"clean_served_pages", "fresh_served_pages", "pages"} <= set(forget_in_tables(workspace, ["u2"]))
    assert list(forget_in_given_files(workspace, ["u2"]).values()) == [1]
    assert workspace.table("clean_served_pages").read(["user_id"])["user_id"].to_pylist() == ["u1", "u1"]
    run(workspace, stages=TO_PAGES)
    assert "q" not in workspace.table("pages").read(["request_id"])["request_id"].to_pylist()
